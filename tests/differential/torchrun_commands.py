"""Starting torchrun in tests, and what it leaves behind."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from executor.training import RunResult

__all__ = [
    "Case",
    "command",
    "environment",
    "error_of",
    "launch",
    "ranks_of",
    "results",
    "results_of",
    "start",
]

HERE = Path(__file__).parent
SCRIPT = HERE / "torchrun_script.py"
Case = dict[str, Any]


def environment() -> dict[str, str]:
    """The tests' own, with the project on the path."""
    found = {name: value for name, value in os.environ.items() if name != "GRADLAG_TRACEBACK"}
    return found | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}


def command(workers: int, *rest: str) -> list[str]:
    """A command line of torchrun for one machine."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, "--nproc-per-node", str(workers), *rest]


def start(folder: Path, workers: int, cases: list[Case]) -> "subprocess.Popen[str]":
    """Start the script with these trainings."""
    return launch(command(workers, str(SCRIPT), str(folder), json.dumps(cases)))


def launch(arguments: list[str], **options: Any) -> "subprocess.Popen[str]":
    """Start a process whose output is caught."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        arguments, env=environment(), text=True, stdout=pipe, stderr=pipe, **options
    )


def results(folder: Path, workers: int, cases: list[Case]) -> tuple[list[RunResult], int]:
    """What the script found on rank 0, and how many gradients it was told of."""
    process = start(folder, workers, cases)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert not out
    return results_of(folder)


def results_of(folder: Path) -> tuple[list[RunResult], int]:
    """What the script has left."""
    found: tuple[list[RunResult], int] = pickle.loads((folder / "results0.pickle").read_bytes())
    return found


def error_of(folder: Path, rank: int) -> tuple[str, str, RunResult]:
    """A rank's error: its text, the worker's traceback, the partial result."""
    found: tuple[str, str, RunResult] = pickle.loads((folder / f"error{rank}.pickle").read_bytes())
    return found


def ranks_of(folder: Path) -> dict[int, int]:
    """The processes of ranks that still run for a folder, by number."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (path / "cmdline").read_bytes().split(b"\0")
            values = dict(
                entry.split(b"=", 1)
                for entry in (path / "environ").read_bytes().split(b"\0")
                if b"=" in entry
            )
            dead = (path / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if str(folder).encode() in arguments and b"RANK" in values and not dead:
            found[int(values[b"RANK"])] = int(path.name)
    return found
