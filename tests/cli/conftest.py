"""How tests run the command line: in this process where they can, in one of its own else."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from analysis.cli.main import execute

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-c", "from analysis.cli.main import main; main()")


@dataclass(frozen=True)
class Ran:
    """What a command line left."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document of stdout, of a command that succeeded."""
        assert self.status == 0, self.err
        return json.loads(self.out)

    def refused(self, *words: str) -> None:
        """Bad input: status 2, nothing on stdout, one line on stderr with all of the words."""
        assert (self.status, self.out) == (2, ""), self.err
        [line] = self.err.splitlines()
        assert line.startswith("gradlag: error: ")
        assert not [word for word in words if word not in line], line


Gradlag = Callable[..., Ran]


@pytest.fixture
def gradlag(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Gradlag:
    """Runs a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    # The allocator's settings would outlive the test.
    monkeypatch.setattr("executor.allocator.tune_allocator", lambda: True)

    def ran(*arguments: object) -> Ran:
        capfd.readouterr()
        status = execute([str(argument) for argument in arguments])
        return Ran(status, *capfd.readouterr())

    return ran


Running = subprocess.Popen[str]
Start = Callable[..., Running]


@pytest.fixture
def quick_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phases of no length instead of a second."""
    from executor import profile

    real = profile.profile

    def quickly(*arguments: Any, **options: Any) -> object:
        return real(*arguments, **{**options, "phase_s": 0.0})

    monkeypatch.setattr(profile, "profile", quickly)


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a command line as a process and session of its own, which hears Ctrl-C."""

    def started(*arguments: object, encoding: str = "utf-8", **options: Any) -> Running:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
            text=True,
            start_new_session=True,
            # A shell that started the tests in the background has made them deaf to it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **{**pipes, **options},
        )

    return started
