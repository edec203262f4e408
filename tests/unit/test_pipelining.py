"""Tables of torch.distributed.pipelining: read with their defects, run, and written."""

import warnings
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from simcore.engine import simulate
from simcore.errors import DeadlockError, InputError
from simcore.interop.pipelining import schedule_of_csv, schedule_of_table
from simcore.interop.table import load_table
from simcore.interop.tables import Variant, csv_of_schedule, dump_csv
from simcore.invariants import check_trace
from simcore.metrics import makespan_s
from simcore.ops import (
    Backward,
    Channel,
    Forward,
    Item,
    Play,
    Program,
    Receive,
    Replay,
    Send,
    Update,
    Worker,
)
from simcore.schedule import Schedule
from simcore.schedules import SCHEDULES, build, find
from simcore.schedules.chain import data_channel
from simcore.validate import validate
from simcore.workload import Workload

ONE_BACK = "0F0,0F1,,0B0,0F2,0B1,,0B2\n,1F0,1B0,1F1,1B1,1F2,1B2\n"  # 1F1B, idle cells and all


def written(folder: Path, text: str) -> Path:
    path = folder / "schedule.csv"
    path.write_text(text)
    return path


def read(folder: Path, text: str, batches: int = 1) -> Schedule:
    """The schedule of a table that has nothing odd about it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return schedule_of_csv(written(folder, text), batches)


def passes(schedule: Schedule) -> list[list[tuple[str, int, int]]]:
    """What each worker computes, in its order."""
    return [
        [done for done in worker if done[0] not in ("send", "receive")]
        for worker in validate(schedule).operations
    ]


def test_a_rank_does_what_its_row_says_and_updates_after_it(tmp_path: Path) -> None:
    schedule = read(tmp_path, "0F0,0F1,0B1,0B0\n1F0,1F1,1B1,1B0\n", batches=2)
    assert (schedule.batches, schedule.micro_batches, schedule.blocks) == (4, 2, 2)
    for block, done in enumerate(passes(schedule), 1):
        assert done == [
            (kind, block, batch)
            for first in (0, 2)
            for kind, batch in (
                *(("forward", first), ("forward", first + 1)),
                *(("backward", first + 1), ("backward", first), ("update", -1)),
            )
        ]


@pytest.mark.parametrize("batches", [1, 3])
def test_a_one_forward_one_backward_table_takes_its_closed_form(
    tmp_path: Path, batches: int
) -> None:
    # (m + K - 1)(forward + backward) of a stage and micro-batch, then the update: m = 3, K = 2.
    workload = Workload.even(2, forward_s=6, backward_ratio=2, update_s=1)
    schedule = read(tmp_path, ONE_BACK, batches)
    trace = simulate(schedule, workload)
    check_trace(schedule, trace)
    assert makespan_s(trace) == batches * ((3 + 2 - 1) * (1 + 2) + Fraction(1, 2))
    assert not (trace.gradients["version_applied"] - trace.gradients["version_forward"]).any()


def test_backward_passes_split_in_two(tmp_path: Path) -> None:
    # Of a stage and micro-batch: F takes 1, I 1, W 1. The weights' part fills what would be idle.
    table = "0F0,0F1,0I0,0W0,0I1,0W1\n1F0,1I0,1F1,1I1,1W0,1W1\n"
    schedule = read(tmp_path, table)
    kinds = [done[0] for done in passes(schedule)[1]]
    assert kinds == [
        *("forward", "backward_input", "forward", "backward_input"),
        *("backward_weight", "backward_weight", "update"),
    ]
    assert makespan_s(simulate(schedule, Workload.even(2, forward_s=4, backward_ratio=2))) == 7


def test_listed_messages_leave_where_the_table_says(tmp_path: Path) -> None:
    held_back = "0F0,0F1,0SEND_F1,0SEND_F0,0RECV_B0,0B0,0RECV_B1,0B1\n"
    held_back += "1RECV_F1,1RECV_F0,1F0,1B0,1SEND_B0,1F1,1B1,1SEND_B1\n"
    sent = [done for done in validate(read(tmp_path, held_back)).operations[0] if done[0] == "send"]
    assert [batch for _, _, batch in sent] == [1, 0]
    # Rank 1 waits for both passes of rank 0; else it would start one pass earlier.
    workload = Workload.even(2, forward_s=4, backward_ratio=1)
    at_once = "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"
    assert makespan_s(simulate(read(tmp_path, held_back), workload)) == 7
    assert makespan_s(simulate(read(tmp_path, at_once), workload)) == 6


def test_stages_of_one_rank_need_no_messages(tmp_path: Path) -> None:
    around = "0F0,0SEND_F0,3RECV_F0,3F0,3B0,3SEND_B0,0RECV_B0,0B0\n"
    around += "1RECV_F0,1F0,1SEND_F0,2RECV_F0,2F0,2SEND_F0,2RECV_B0,2B0,2SEND_B0,1B0,1SEND_B0\n"
    schedule = read(tmp_path, around)
    names = [channel.name for channel in schedule.channels]
    assert sorted(names) == [
        "activations[2]",
        "activations[4]",
        "data",
        "gradients[1]",
        "gradients[3]",
    ]
    assert makespan_s(simulate(schedule, Workload.even(4, forward_s=4))) == 12


@pytest.mark.parametrize(
    ("table", "remark", "same_as"),
    [
        (
            "0F0,0F1,0B0,0F2,0B1,0B2\n1F1,1B0,1F2,1B1,1F3,1B2\n",
            "stage 1 goes forward with micro-batches 1..3 and backward with 0..2, as torch's",
            ONE_BACK,
        ),
        ("0F0,None,0B0\n", "cells that say None are read as idle", "0F0,0B0\n"),
        (
            "0UNSHARD,0F0,0B0,0REDUCE_GRAD,0RESHARD\n",
            r"data parallelism \(UNSHARD, RESHARD, REDUCE_GRAD\) is left out",
            "0F0,0B0\n",
        ),
        (
            "0F0,(0F1;0B0)OVERLAP_F_B,0B1\n",
            "overlapped actions .OVERLAP_F_B. are simulated one after another",
            "0F0,0F1,0B0,0B1\n",
        ),
    ],
)
def test_known_defects_are_put_right_with_a_warning(
    tmp_path: Path, table: str, remark: str, same_as: str
) -> None:
    with pytest.warns(UserWarning, match=remark) as caught:
        mended = schedule_of_csv(written(tmp_path, table))
    assert len(caught) == 1
    assert passes(mended) == passes(read(tmp_path, same_as))


def test_messages_leave_when_all_that_overlaps_is_done(tmp_path: Path) -> None:
    overlapped = "0F0,0F1,0B0,0B1\n1F0,(1F1;1B0)OVERLAP_F_B,1B1\n"
    listed = "0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1SEND_B0,1B1,1SEND_B1\n"
    rows = [load_table(written(tmp_path, table)).rows for table in (overlapped, listed)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("0F0,0X0\n", "rank 0 is '0X0': must be stage, action and micro-batch"),
        ("0F0,0F\n", "rank 0 is '0F': must be stage, action and micro-batch"),
        ("0F0,0B0\n0F1,0B1\n", "stage 0 is 'in row 1': must be in one row"),
        ("0F0,0B0\n2F0,2B0\n", "stage 1 is 'missing': must be in a row"),
        ("\n", "stage 0 is 'missing': must be in a row"),
        ("0F0,0F1\n", "must have backward passes"),
        ("0F0,0B0,0B0\n", "is '0B0': must be there once"),
        ("0B0,0F0\n", "is '0B0': must come after 0F0"),
        ("0F0,0W0,0I0\n", "is '0W0': must come after 0I0"),
        ("0F0,0I0\n", "stage 0, micro-batch 0 is 'F, I': must have F and B, or F, I and W"),
        ("0F0,0F1,0B0\n", "stage 0, micro-batch 1 is 'F': must have F and B"),
        ("0F0,0B0,0F2,0B2\n", "stage 0, micro-batch 1 is 'missing': must have F and B"),
        ("0F0,0B0\n1F0,1SEND_B0,1B0\n", "is '1SEND_B0': must come after 1B0 or 1I0"),
    ],
)
def test_what_cannot_be_run_is_named(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_table(written(tmp_path, table))


def test_a_table_that_waits_for_itself_shows_the_deadlock(tmp_path: Path) -> None:
    schedule = read(tmp_path, "0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n")
    with pytest.raises(DeadlockError, match=r"rank 0, rank 1 wait"):
        simulate(schedule, Workload.even(2))


def test_a_table_needs_at_least_one_mini_batch(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batches is 0"):
        schedule_of_csv(written(tmp_path, ONE_BACK), batches=0)


@pytest.mark.parametrize("variant", ["compute_only", "compute_comms"])
def test_what_was_read_is_written_and_read_again(tmp_path: Path, variant: Variant) -> None:
    schedule = read(tmp_path, ONE_BACK, batches=3)
    text = csv_of_schedule(schedule, variant)
    if variant == "compute_only":
        assert text.split() == ONE_BACK.split()
    assert csv_of_schedule(read(tmp_path, text, batches=3), variant) == text


def has_table(name: str) -> bool:
    try:
        return bool(csv_of_schedule(build(name, batches=2)))
    except InputError:
        return False


VARIANTS = st.sampled_from(["compute_only", "compute_comms"])
STATIC = st.sampled_from([name for name in SCHEDULES if has_table(name)])


@settings(max_examples=60)
@given(STATIC, st.integers(1, 4), st.integers(1, 10), VARIANTS)
def test_a_static_schedule_and_its_table_say_the_same(
    name: str, blocks: int, batches: int, variant: Variant
) -> None:
    try:
        schedule = build(name, **{find(name).blocks_option: blocks, "batches": batches})
    except InputError:  # not every schedule takes any number of blocks or batches
        reject()
    text = csv_of_schedule(schedule, variant)
    with TemporaryDirectory() as folder:
        table = load_table(written(Path(folder), text))
        again = schedule_of_table(table, schedule.batches // table.batches)
        table_again = load_table(written(Path(folder), csv_of_schedule(again, variant)))
    assert not table.remarks
    assert table_again == table
    updated = [[done for done in row if done[0] != "update"] for row in passes(again)]
    assert updated == [[done for done in row if done[0] != "update"] for row in passes(schedule)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("async-lu", "table of async-lu is 'adaptive': must have workers whose order is fixed"),
        ("ddp", "table of ddp is 'shared': must have one worker for each block, and block 1 has"),
    ],
)
def test_schedules_without_a_table_say_why(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        csv_of_schedule(build(name))


def test_work_that_no_table_knows_is_named() -> None:
    def program() -> Program:
        batch = yield Receive(data)
        yield Play(1, batch)
        yield Replay(1, batch)
        yield Backward(1, batch)
        yield Update(1)

    data = data_channel()
    worker = Worker("alone", program, (1,), receives=(data,))
    schedule = Schedule(1, 1, (worker,), name="recomputing")
    with pytest.raises(InputError, match="is 'doing replay': must do no more than passes and"):
        csv_of_schedule(schedule)


def test_messages_that_no_table_knows_are_named() -> None:
    data = data_channel()
    ways = [Channel(name, (Item("activation", 1),)) for name in ("to the relay", "from the relay")]
    back = Channel("back", (Item("gradient", 1),))

    def first() -> Program:
        batch = yield Receive(data)
        yield Forward(1, batch)
        yield Send(ways[0], batch)
        yield Receive(back)
        yield Backward(1, batch)
        yield Update(1)

    def relay() -> Program:
        batch = yield Receive(ways[0])
        yield Send(ways[1], batch)

    def last() -> Program:
        batch = yield Receive(ways[1])
        yield Forward(2, batch)
        yield Backward(2, batch)
        yield Send(back, batch)
        yield Update(2)

    workers = (
        Worker("first", first, (1,), (ways[0],), (data, back)),
        Worker("relay", relay, (), (ways[1],), (ways[0],)),
        Worker("last", last, (2,), (back,), (ways[1],)),
    )
    with pytest.raises(InputError, match="is 'sending by to the relay': must have messages betwee"):
        csv_of_schedule(Schedule(2, 1, workers, name="relayed"))


def test_a_dumped_table_is_what_torch_reads(tmp_path: Path) -> None:
    dump_csv(build("bp", modules=2, batches=3), tmp_path / "bp.csv")
    assert (tmp_path / "bp.csv").read_bytes() == b"0F0,1F0,1B0,0B0\r\n"
