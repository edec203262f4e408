"""`gradlag simulate` with random durations, and with clusters whose workers are slow, pause or go.

The cluster files are TOML.
"""

from pathlib import Path

import pytest

from simcore.trace_file import load_trace
from tests.cli.conftest import Gradlag

CLUSTER = """\
schema = "gradlag.cluster/1"
placement = "private"
devices = [{ name = "device", cores = 1 }]
"""


def written(folder: Path, *lines: str) -> Path:
    path = folder / "cluster.toml"
    path.write_text(CLUSTER + "\n".join(lines), "utf-8")
    return path


def test_a_loss_is_told(gradlag: Gradlag, tmp_path: Path) -> None:
    cluster = written(tmp_path, "losses = [{ worker = 1, at_s = 2 }]")
    flags = "simulate", "fdg", "--modules", 3, "--batches", 20, "--cluster", cluster
    found = gradlag(*flags, "--json", "--out", "out").json
    assert found["lost"] == {"module 2": 2}
    assert found["waiting"] == {
        "module 1": "Receive(gradients[1])",
        "module 3": "Receive(activations[3])",
    }
    assert (found["speedup"], found["steady_batch_s"]) == (None, None)
    about = load_trace(tmp_path / "out" / "trace.jsonl").header.about
    assert about["lost"] == found["lost"]
    shown = gradlag(*flags).out
    assert "module 2 was lost" in shown
    assert "after 2 s" in shown
    assert "for ever, at Receive(gradients[1])" in shown
    assert "none, for a worker was lost" in shown


def test_without_a_loss_there_is_nothing_to_tell(gradlag: Gradlag, tmp_path: Path) -> None:
    cluster = written(tmp_path, "losses = [{ worker = 1, at_s = 1e6 }]")
    found = gradlag("simulate", "fdg", "--batches", 20, "--cluster", cluster, "--json").json
    assert "lost" not in found
    usual = gradlag("simulate", "fdg", "--batches", 20, "--json").json
    assert (found["makespan_s"], found["gaps"]) == (usual["makespan_s"], usual["gaps"])


def test_a_straggler_and_a_pause(gradlag: Gradlag, tmp_path: Path) -> None:
    """One worker, 3 s a batch as measured; twice that, and 5 s more."""
    lines = (
        "stragglers = [{ worker = 0, factor = 2 }]",
        "pauses = [{ worker = 0, at_s = 1, for_s = 5 }]",
    )
    cluster = written(tmp_path, *lines)
    found = gradlag("simulate", "bp", "--batches", 4, "--cluster", cluster, "--json").json
    assert found["makespan_s"] == 4 * 3 * 2 + 5


def test_a_fault_of_a_worker_that_there_is_not(gradlag: Gradlag, tmp_path: Path) -> None:
    cluster = written(tmp_path, "losses = [{ worker = 4, mean_s = 2 }]")
    gradlag("simulate", "fdg", "--cluster", cluster).refused("worker of a loss is 4", "0 to 3")


def test_a_variation_fixes_what_it_does_by_the_seed(gradlag: Gradlag) -> None:
    def run(*flags: object) -> object:
        return gradlag("simulate", "fdg", "--batches", 20, *flags, "--json").json["makespan_s"]

    assert run("--variation", "gamma:0.5") == run("--variation", "gamma:0.5", "--seed", 0)
    assert run("--variation", "gamma:0.5") != run("--variation", "gamma:0.5", "--seed", 1)
    assert run("--variation", "lognormal:0.5") == run("--jitter", "0.5")
    assert run("--variation", "load=exponential") == run()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--variation", "gama:1"], ("--variation is 'gama:1'", "lognormal:CV")),
        (["--variation", "send=gamma:1"], ("--variation is 'send'", "must be one of forward")),
        (["--variation", "gamma:1", "--jitter", "0.1"], ("must not be given with --jitter",)),
        (["--variation", "samples:none.toml"], ("file is 'none.toml'", "must be readable")),
    ],
)
def test_a_bad_variation(gradlag: Gradlag, flags: list[str], words: tuple[str, ...]) -> None:
    gradlag("simulate", "fdg", *flags).refused(*words)
