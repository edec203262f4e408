"""All benchmarks, or those that are named, one after the other, each in a process of its own."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Final

__all__ = ["BENCHMARKS", "main"]

BENCHMARKS: Final = (
    "transport",
    "ideal",
    "one_f_one_b",
    "small_operations",
    "gap_distributions",
    "engines",
    "figures",
)


def main(words: Sequence[str]) -> int:
    """Names come first, and then what each of them is given; the exit status is the worst one."""
    names = [word for word in words if word in BENCHMARKS]
    given = [word for word in words if word not in BENCHMARKS]
    status = 0
    for name in names or BENCHMARKS:
        command = [sys.executable, "-m", f"tests.benchmarks.{name}", *given]
        sys.stdout.write(f"\n## {name}\n\n")
        sys.stdout.flush()
        status = max(status, subprocess.run(command, check=False).returncode)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
