"""Sweeps: one question asked of many configurations, whose answers survive whatever happens."""
