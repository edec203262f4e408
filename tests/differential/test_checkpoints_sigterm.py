"""SIGTERM and SIGKILL, really sent: the run goes on from what was saved."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_checkpoints_carry import asked_of, run

from executor.checkpoint import STOPPED, Checkpoints, ending_on_sigterm, resumed
from executor.checkpoint_files import latest, read
from executor.training import Training

STATUS = 143  # 128 + SIGTERM, as a shell has it


def long_training(batches: int = 10**4) -> Training:
    return asked_of(("fdg", {"modules": 2}), batches, pause_s=0.005)


def main() -> None:
    """Train for ever, as far as a test is concerned."""
    folder, runtime, every = sys.argv[1:]
    checkpoints = Checkpoints(folder, every=int(every), keep=2)
    with ending_on_sigterm(checkpoints):
        result = run(long_training(), runtime, checkpoints)
    raise SystemExit(STATUS if result.failure == STOPPED else 0)


def started(folder: Path, runtime: str, every: int) -> "subprocess.Popen[bytes]":
    root = Path(__file__).parents[2]
    command = [sys.executable, __file__, str(folder), runtime, str(every)]
    return subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})


@pytest.mark.parametrize("runtime", ["threads", "processes"])
def test_sigterm_saves_and_ends(runtime: str, tmp_path: Path) -> None:
    with started(tmp_path, runtime, 50) as process:
        while latest(tmp_path) is None and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == STATUS
    found = latest(tmp_path)
    assert found is not None
    manifest, _ = read(found)
    assert manifest.kind == "carried"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    stopping = Checkpoints(tmp_path / "more", stop_after=manifest.batches + 3)
    result = run(resumed(long_training(), tmp_path), runtime, stopping)
    assert result.losses[0][0] == manifest.batches


def test_a_kill_while_it_saves_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    with started(tmp_path, "threads", 3) as process:
        while latest(tmp_path) is None or not list(tmp_path.glob(".writing-*")):
            assert process.poll() is None
        process.kill()
    found = latest(tmp_path)
    assert found is not None
    manifest, _ = read(found)
    stopping = Checkpoints(tmp_path, stop_after=manifest.batches + 3)
    result = run(resumed(long_training(), tmp_path), "threads", stopping)
    assert result.losses[0][0] == manifest.batches
    assert not list(tmp_path.glob(".writing-*"))


if __name__ == "__main__":
    main()
