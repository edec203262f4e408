"""The one clock of a run: all threads and processes of a machine read the same."""

import time

__all__ = ["now_ns"]

now_ns = time.monotonic_ns
