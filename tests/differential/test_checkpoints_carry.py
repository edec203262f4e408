"""A run that was saved with all that is in flight goes on as if it had never been stopped."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from faulty_layers import network, training
from test_methods import PLAIN, Case, shown, versions

from executor.checkpoint import STOPPED, Checkpoints, resumed
from executor.checkpoint_items import obstacle_to_carry
from executor.processes import run_processes
from executor.replay import run_replay
from executor.segments import Part, joined
from executor.threads import run_threads
from executor.training import RunResult, Training, optimizer
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.invariants import check_trace, operations_of
from simcore.schedules import build
from simcore.trace import Trace
from simcore.validate import validate
from simcore.workload import Workload

BATCHES = 8
VARIANTS: list[Case] = [
    ("pipedream", {"modules": 4}),
    ("zb-h1", {"modules": 2, "replicas": 2}),
    ("adl", {"modules": 3, "accumulation": 3}),
    ("fdg", {"modules": 3, "recompute": True}),
    ("asyncfgd", {"modules": 2, "tangents": 2, "keep": "seed"}),
]
CARRIED = [
    case
    for case in [*PLAIN, *VARIANTS]
    for schedule in [build(case[0], batches=BATCHES, **case[1])]
    if obstacle_to_carry(schedule) is None and validate(schedule, orders=0).conclusive
]
IN_THREADS = ("zb-h1", "pipedream-2bw", "ddg", "fr", "dni", "ddp", "asyncfgd-recursive", "dfa")


class Slow(nn.Module):
    """Passes its input on, so slowly that a run can be stopped on its way."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds * self.training)
        return inputs


def asked_of(case: Case, batches: int = BATCHES, pause_s: float = 0.0) -> Training:
    """With batch normalisation, dropout, and momentum or Adam."""
    name, options = case
    blocks = build(name, batches=batches, **options).blocks
    extra = nn.BatchNorm1d(6), nn.Dropout(0.3), Slow(pause_s)
    model = network(4, *extra, inputs=2 if "time_steps" in options else 4)
    # Batch normalisation is a layer of its own.
    asked = training(name, (*range(blocks), 5), model, batches=batches, **options)
    return replace(asked, make_optimizer=optimizer("adam", 0.01)) if len(name) % 2 else asked


def simulated(asked: Training) -> Trace:
    schedule = asked.make_schedule()
    return simulate(schedule, Workload.even(schedule.blocks, 1, 2, 1))


def run(asked: Training, runtime: str, checkpoints: Checkpoints | None = None) -> RunResult:
    if runtime == "threads":
        return run_threads(asked, checkpoints=checkpoints)
    if runtime == "processes":
        return run_processes(asked, checkpoints=checkpoints)
    return run_replay(asked, simulated(asked), checkpoints=checkpoints)


def parts_of(asked: Training, runtime: str, folder: Path, stops: list[int]) -> list[RunResult]:
    """The run, stopped at some mini-batches and resumed each time."""
    found, going = [], asked
    for stop in stops:
        found.append(run(going, runtime, Checkpoints(folder, stop_after=stop)))
        assert found[-1].failure == STOPPED
        going = resumed(asked, folder)
    return [*found, run(going, runtime)]


def same_states(one: RunResult, other: RunResult) -> None:
    assert one.state is not None
    assert other.state is not None
    assert one.state.keys() == other.state.keys()
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


def same_run(asked: Training, parts: list[RunResult], whole: RunResult) -> None:
    together = joined([Part(part, 0) for part in parts])
    same_states(together, whole)
    assert [row[:2] for row in together.losses] == [row[:2] for row in whole.losses]
    assert operations_of(together.trace) == operations_of(whole.trace)
    assert versions(together.trace) == versions(whole.trace)
    check_trace(asked.make_schedule(), together.trace)


@pytest.mark.parametrize("case", CARRIED, ids=shown)
def test_replay_goes_on_to_the_bit(case: Case, tmp_path: Path) -> None:
    asked = asked_of(case)
    same_run(asked, parts_of(asked, "replay", tmp_path, [2, 5]), run(asked, "replay"))


@pytest.mark.parametrize(
    "case", [case for case in CARRIED if case in VARIANTS or case[0] in IN_THREADS], ids=shown
)
def test_threads_go_on_to_the_bit(case: Case, tmp_path: Path) -> None:
    asked = asked_of(case)
    same_run(asked, parts_of(asked, "threads", tmp_path, [3]), run(asked, "replay"))


@pytest.mark.parametrize("runtime", ["threads", "replay"])
def test_checkpoints_on_the_way_change_nothing(runtime: str, tmp_path: Path) -> None:
    asked = asked_of(("fdg", {"modules": 3}), 12)
    checkpoints = Checkpoints(tmp_path, every=2, keep=2)
    result = run(asked, runtime, checkpoints)
    same_run(asked, [result], run(asked, "replay"))
    assert len(checkpoints.written) >= 4
    assert len(list(tmp_path.iterdir())) == 2


def test_threads_go_on_from_a_replay(tmp_path: Path) -> None:
    asked = asked_of(("pipedream", {"modules": 3}))
    first = run(asked, "replay", Checkpoints(tmp_path, stop_after=4))
    rest = run_threads(resumed(asked, tmp_path))
    same_run(asked, [first, rest], run(asked, "replay"))


@pytest.mark.parametrize("case", [("fdg", {"modules": 2}), ("ddp", {"replicas": 2})], ids=shown)
def test_processes_go_on_to_the_bit(case: Case, tmp_path: Path) -> None:
    # Long enough that the process that watches can stop it on the way.
    parts = parts_of(asked_of(case, 300, pause_s=0.005), "processes", tmp_path, [10])
    assert 10 <= len(parts[0].losses) < 300
    asked = asked_of(case, 300)
    same_run(asked, parts, run(asked, "replay"))


def test_another_process_goes_on(tmp_path: Path) -> None:
    case: Case = ("adl", {"modules": 3, "accumulation": 3})
    asked = asked_of(case)
    run(asked, "replay", Checkpoints(tmp_path, stop_after=3))
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + (
        "import torch\n"
        "from executor.checkpoint import resumed\n"
        "from test_checkpoints_carry import asked_of, run\n"
        f"result = run(resumed(asked_of({case!r}), {str(tmp_path)!r}), 'replay')\n"
        f"torch.save(result.state, {str(tmp_path / 'state.pt')!r})\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=100)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    whole = run(asked, "replay").state
    assert whole is not None
    assert all(torch.equal(whole[name], state[name]) for name in whole)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 7}, "seed of the checkpoint is 0: must be the 7"),
        ({"make_optimizer": optimizer("sgd")}, "optimizer of the checkpoint"),
        ({"bounds": (0, 2, 5)}, "bounds of the checkpoint"),
        ({"model": network(4, nn.LayerNorm(6), nn.Dropout(0.3))}, "tensors of the checkpoint (2."),
    ],
    ids=["seed", "optimizer", "bounds", "network"],
)
def test_another_training_is_refused(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    asked = asked_of(("fdg", {"modules": 2}))
    run(asked, "threads", Checkpoints(tmp_path, stop_after=3))
    changed = replace(resumed(asked, tmp_path), **change)
    with pytest.raises(InputError) as caught:
        run_threads(changed)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_schedule_is_refused(tmp_path: Path) -> None:
    asked = asked_of(("fdg", {"modules": 2}))
    run(asked, "threads", Checkpoints(tmp_path, stop_after=3))
    for other in (asked_of(("dgl", {"modules": 2})), asked_of(("fdg", {"modules": 2}), 9)):
        going = replace(other, start=resumed(asked, tmp_path).start)
        going = replace(going, make_optimizer=asked.make_optimizer)
        with pytest.raises(InputError, match="of the checkpoint"):
            run_threads(going)


def test_what_is_in_flight_stays_in_its_kind_of_runtime(tmp_path: Path) -> None:
    asked = asked_of(("fdg", {"modules": 2}))
    run(asked, "threads", Checkpoints(tmp_path, stop_after=3))
    with pytest.raises(InputError, match="runtime of the checkpoint"):
        run_processes(resumed(asked, tmp_path))


@pytest.mark.parametrize("name", ["async-lu", "hogwild", "async-1f1b"])
def test_overwritten_weights_cannot_be_carried(name: str, tmp_path: Path) -> None:
    asked = asked_of((name, {}), 4)
    with pytest.raises(InputError, match=r"cannot be saved in flight.*drain"):
        run_threads(asked, checkpoints=Checkpoints(tmp_path, every=2))
    assert not list(tmp_path.iterdir())
