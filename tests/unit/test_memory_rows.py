"""Rows of measured memory are folded into what each worker held after each operation."""

from array import array
from fractions import Fraction

import numpy as np
import torch

from executor.held_tensors import Tally
from executor.memory_rows import BESIDES, HELD, held_by, memory_table
from executor.resident import cuda_peaks, peak_resident_bytes, reset_resident_peak
from simcore.engine import simulate
from simcore.holdings import CATEGORIES
from simcore.schedules import build
from simcore.workload import Workload

MIB = 2**20


def at(name: str) -> int:
    return HELD.index(name)


def test_categories_come_first() -> None:
    assert (*CATEGORIES, *BESIDES) == HELD


def test_rows_hold_until_they_change() -> None:
    trace = simulate(build("fdg", modules=2, batches=3), Workload.even(2, Fraction(1)))
    rows = array("q")
    for row in (
        (107, 0, 2, at("activations"), 1, 0, 0, 0),
        (100, 0, -1, at("activations"), 1, 0, 40, 1),
        (105, 0, 1, at("activations"), 1, 0, 90, 2),
        (105, 0, 1, at("inputs"), 1, 0, 5, 1),
        (103, 1, 0, at("messages"), 0, 0, 8, 1),
    ):
        rows.extend(row)
    memory = memory_table(rows, start=100)
    assert memory["time"].tolist() == [0, 5, 5, 7, 3]
    first, second = held_by(memory, trace)
    operations = np.count_nonzero(trace.spans["worker"] == 0)
    assert first.bytes.shape == first.count.shape == (operations + 1, len(HELD))
    assert first.bytes[:5, at("activations")].tolist() == [40, 40, 90, 0, 0]
    assert first.count[:5, at("activations")].tolist() == [1, 1, 2, 0, 0]
    assert (first.bytes[2:, at("inputs")] == 5).all()
    assert (second.bytes[1:, at("messages")] == 8).all()
    assert first.ticks[0] == trace.start
    ends = np.sort(trace.spans["end"][trace.spans["worker"] == 0])
    assert (first.ticks[1:] == ends).all()


def test_weights_count_at_the_lowest_worker_that_updates_them() -> None:
    """Of Async LU, only backward threads update; forward threads use the weights as well."""
    schedule = build("async-lu", layers=2, backward_threads=2, batches=4)
    trace = simulate(schedule, Workload.even(2))
    rows = array("q")
    for worker in range(3):
        rows.extend((0, worker, -1, at("weights"), 1, 1, 60, 1))
        rows.extend((0, worker, -1, at("copies"), 1, 0, 7, 1))
    found = held_by(memory_table(rows, 0), trace)
    assert [int(each.bytes[-1, at("weights")]) for each in found] == [0, 60, 0]
    assert [int(each.bytes[-1, at("copies")]) for each in found] == [7, 7, 7]


def test_nothing_is_counted_twice() -> None:
    whole, other = torch.zeros(10), torch.zeros(3)
    found = Tally()
    found.add("in_hand", 1, [whole[:4], whole[:4], other], count=1)
    found.add("graph_inputs", 1, [whole[4:], other])
    assert found.sums == {(at("in_hand"), 1, 0): 4 * 4 + 12, (at("graph_inputs"), 1, 0): 6 * 4}
    assert found.counts[at("in_hand"), 1, 0] == 1
    storage = whole.untyped_storage()
    found = Tally()
    found.add_storages("activations", 2, [(storage.data_ptr(), storage.nbytes())] * 2, count=1)
    found.add("in_hand", 2, [whole, whole[2:], other])
    assert found.sums[at("activations"), 2, 0] == 40
    assert found.sums[at("in_hand"), 2, 0] == 12
    found.known([other])
    found.add("lingering", 2, [other])
    assert found.sums[at("lingering"), 2, 0] == 0


def test_resident_peak_follows_what_is_allocated() -> None:
    """64 MiB that are written to must show; other threads of the process come on top."""
    reset = reset_resident_peak()
    before = peak_resident_bytes()
    block = torch.ones(64 * MIB // 4)
    assert peak_resident_bytes() >= before + (60 * MIB if reset else 0)
    assert block.sum() == block.numel()
    assert cuda_peaks([torch.device("cpu")]) == {}
