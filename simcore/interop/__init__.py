"""Files of other tools, read and written: schedules as tables, profiles as workloads."""
