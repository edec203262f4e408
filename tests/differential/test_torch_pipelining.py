"""Tables of PyTorch's own schedules, and PyTorch's own reader of ours."""

import csv
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from simcore.engine import simulate
from simcore.interop.pipelining import schedule_of_csv
from simcore.interop.table import load_table
from simcore.interop.tables import Variant, dump_csv
from simcore.invariants import check_trace
from simcore.metrics import makespan_s
from simcore.schedules import build
from simcore.workload import Workload

distributed = pytest.importorskip("torch.distributed")
pipelining = pytest.importorskip("torch.distributed.pipelining")
schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")

RANKS, MICRO_BATCHES = 2, 6
VARIANTS: tuple[Variant, ...] = ("compute_only", "compute_comms")


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    """PyTorch makes stages only in a process group; this one never sends anything."""
    distributed.init_process_group("fake", rank=0, world_size=RANKS, store=fake.FakeStore())
    yield
    distributed.destroy_process_group()


def stages(*numbers: int, of: int) -> list[Any]:
    device = torch.device("cpu")
    return [pipelining.PipelineStage(nn.Linear(1, 1), each, of, device) for each in numbers]


def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return outputs.sum()


def read(path: Path, batches: int = 1) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return schedule_of_csv(path, batches)


SINGLE = ("ScheduleGPipe", "Schedule1F1B")
MULTIPLE = {
    "ScheduleInterleaved1F1B": (0, 2),
    "ScheduleLoopedBFS": (0, 2),
    "ScheduleInterleavedZeroBubble": (0, 2),
    "ScheduleZBVZeroBubble": (0, 3),
    "ScheduleDualPipeV": (0, 3),
}


def single_table(folder: Path, name: str, ranks: int, micro_batches: int) -> Path:
    """PyTorch has the tables of these schedules, but no function that writes them."""
    schedule = getattr(schedules, name)(*stages(0, of=ranks), micro_batches, loss_fn=loss)
    path = folder / f"{name}.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(schedule._get_pipeline_order().values())
    return path


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("micro_batches", [4, 7])
def test_tables_of_one_stage_a_rank_take_their_closed_form(
    tmp_path: Path, name: str, ranks: int, micro_batches: int
) -> None:
    # (m + K - 1)(forward + backward) of a stage and micro-batch, although the last rank of a 1F1B
    # table is off by one.
    path = single_table(tmp_path, name, ranks, micro_batches)
    schedule = read(path, batches=2)
    trace = simulate(schedule, Workload.even(ranks, forward_s=ranks * micro_batches))
    check_trace(schedule, trace)
    assert makespan_s(trace) == 2 * (micro_batches + ranks - 1) * 3
    off_by_one = [remark for remark in load_table(path).remarks if "as torch's 1F1B" in remark]
    assert bool(off_by_one) == (name == "Schedule1F1B")


@pytest.mark.parametrize("name", MULTIPLE)
def test_tables_of_several_stages_a_rank_run_alike_in_both_variants(
    tmp_path: Path, name: str
) -> None:
    schedule = getattr(schedules, name)(stages(*MULTIPLE[name], of=4), MICRO_BATCHES, loss_fn=loss)
    schedule._prepare_schedule_with_comms(schedule.pipeline_order)
    blocks = Workload.even(4, forward_s=12, update_s=1)
    spans = []
    for variant in VARIANTS:
        path = tmp_path / f"{variant}.csv"
        schedule._dump_csv(path, variant)
        simulated = read(path, batches=2)
        trace = simulate(simulated, blocks)
        check_trace(simulated, trace)
        spans.append(makespan_s(trace))
        ours = tmp_path / "ours.csv"
        dump_csv(simulated, ours)
        assert computed(ours) == computed(path)
    assert spans[0] == spans[1]
    busy = blocks.sequential_s(2) / RANKS
    assert busy < spans[0] < Fraction(3, 2) * busy


def computed(path: Path) -> list[list[str]]:
    """What each rank of a table computes, in its order."""
    return [
        [str(action) for action in row if not action.what.startswith("SEND")]
        for row in load_table(path).rows
    ]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["fdg", "adl"])
def test_pytorch_reads_and_runs_what_we_write(tmp_path: Path, name: str, variant: Variant) -> None:
    ours = build(name, modules=RANKS, batches=MICRO_BATCHES)
    path = tmp_path / "table.csv"
    dump_csv(ours, path, variant)
    runtime = schedules._PipelineScheduleRuntime(stages(0, of=RANKS), MICRO_BATCHES, loss_fn=loss)
    runtime._load_csv(path, variant)
    if variant == "compute_comms":
        assert runtime._simulate()  # raises if our messages do not fit; theirs it does not know
    assert [
        [str(action) for action in row if action.is_compute_op]
        for row in runtime.pipeline_order_with_comms.values()
    ] == computed(path)
