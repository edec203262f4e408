"""What workers really hold is what the simulator says: counts exactly, bytes up to what is stated.

Counts of graphs, kept inputs, versions, directions and pending gradients are compared after every
operation of every worker. Bytes of graphs are equal but in the last block, which keeps its output
and the loss besides what autograd saves.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from faulty_layers import network, training
from memory_runs import column, counts, sides

from analysis.memory_comparison import REASONS, MemoryRow, compare_memory
from analysis.plots_memory import draw_measured_memory
from analysis.plots_style import png_bytes
from executor.memory_rows import HELD, Held, held_by
from executor.memory_sizes import sizes_of
from executor.processes import run_processes
from executor.threads import run_threads
from executor.training import Training
from simcore.engine import simulate
from simcore.holdings import CATEGORIES, holdings_of
from simcore.levels import peaks
from simcore.messages import messages_of
from simcore.passes import NEVER
from simcore.schedule import Schedule
from simcore.schedules import build
from simcore.trace import KIND, Trace
from simcore.workload import Workload

Case = tuple[str, dict[str, Any]]
BATCHES, SAMPLES, HIDDEN, CLASSES, FLOAT = 8, 8, 6, 3, 4
LAYERS = 4
CASES: list[Case] = [
    ("bp", {"modules": 1}),
    ("bp-mp", {"modules": 3}),
    ("fdg", {"modules": 3}),
    ("fdg", {"modules": 3, "recompute": True}),
    ("adl", {"modules": 3, "accumulation": 2}),
    ("ddg", {"modules": 3}),
    ("fr", {"modules": 3}),
    ("dsp", {"modules": 3}),
    ("gpipe", {"modules": 2, "micro_batches": 4}),
    ("gpipe", {"modules": 2, "micro_batches": 4, "recompute": True}),
    ("1f1b", {"modules": 3, "micro_batches": 4}),
    ("zb-h1", {"modules": 3, "micro_batches": 4}),
    ("pipedream", {"modules": 3}),
    ("pipedream-2bw", {"modules": 3, "micro_batches": 4}),
    ("asyncfgd", {"modules": 3}),
    ("asyncfgd", {"modules": 3, "keep": "seed", "tangents": 2}),
    ("ddp", {"replicas": 2}),
    ("dgl", {"modules": 2}),
    ("dni", {"modules": 2}),
    ("fa", {"modules": 2}),
]
COUNTED = ("weights", "gradients", "activations", "inputs", "copies", "tangents", "auxiliary")


def training_of(case: Case, **changes: Any) -> Training:
    name, options = case
    blocks = build(name, batches=BATCHES, **options).blocks
    made = training(name, (*range(blocks), LAYERS), network(LAYERS), batches=BATCHES, **options)
    return replace(made, measure_memory=True, **changes)


def shown(case: Case) -> str:
    return "-".join([case[0], *(name for name in case[1] if name != "modules")])


@pytest.mark.parametrize("case", CASES, ids=shown)
def test_counts_after_each_operation_are_those_that_are_predicted(case: Case) -> None:
    asked = training_of(case)
    schedule, sizes = asked.make_schedule(), sizes_of(asked)
    result = run_threads(asked)
    found = sides(result, schedule, sizes)
    for number, (_, predicted, measured) in enumerate(found):
        assert len(measured.ticks) == np.count_nonzero(result.trace.spans["worker"] == number) + 1
        for category in COUNTED:
            if category == "copies" and schedule.weights.buffer:
                # The buffer keeps a version, be there anyone left to read it or not.
                assert (counts(measured, category) >= counts(predicted, category)).all()
                assert counts(measured, category).max() == counts(predicted, category).max()
            else:
                assert (counts(measured, category) == counts(predicted, category)).all(), category
        check_bytes(number, schedule, predicted, measured)
    if schedule.weights.feedback == "weights":
        check_peaks_of_the_simulation(schedule, sizes, found)


def check_bytes(number: int, schedule: Schedule, predicted: Held, measured: Held) -> None:
    worker = schedule.workers[number]
    for category in ("weights", "inputs", "tangents", "copies", "gradients"):
        if category in ("gradients", "copies") and schedule.weights.feedback == "local":
            assert (column(measured, category) >= column(predicted, category)).all()
        elif category != "copies" or not schedule.weights.buffer:
            assert (column(measured, category) == column(predicted, category)).all(), category
    # From its first update on, an optimiser has its states.
    states, kept = column(predicted, "optimizer"), column(measured, "optimizer")
    assert not kept[0]
    assert kept[-1] >= states[-1]
    if schedule.weights.feedback == "weights":
        assert kept[-1] == states[-1]
    more = column(measured, "activations") - column(predicted, "activations")
    graphs = counts(measured, "activations")
    part = SAMPLES // schedule.micro_batches
    if schedule.split_backward:
        # The halves need the outputs of all children: of tanh's layers, too.
        layers = 1 if number + 1 < schedule.blocks else LAYERS - schedule.blocks
        more = more - graphs * layers * part * HIDDEN * FLOAT
    if schedule.blocks not in worker.blocks:
        assert (more == 0).all()
        return
    # The last block's output, and the loss. What autograd saves of a loss is one number in each
    # graph, where a part of a mini-batch is predicted to have its part of it.
    last = graphs / len(worker.blocks)  # a worker with several blocks has a graph of each
    output = part * CLASSES * FLOAT
    if len(worker.blocks) == 1:
        assert (more >= last * (output + FLOAT)).all()
        assert (more <= last * (output + 2 * FLOAT)).all()
    else:
        assert more.max() == output + FLOAT


def check_peaks_of_the_simulation(
    schedule: Schedule, sizes: Workload, found: list[tuple[str, Held, Held]]
) -> None:
    """A simulation, in which all passes take a second, predicts the same peaks."""
    holdings = holdings_of(simulate(schedule, sizes), schedule, sizes)
    for category in ("activations", "inputs", "copies", "tangents"):
        own = holdings[holdings["category"] == CATEGORIES.index(category)]
        one = np.ones(len(own), np.int64)
        most = peaks(own["worker"], own["start"], own["end"], one, len(found))
        assert [int(counts(each, category).max()) for _, _, each in found] == most.tolist()


@pytest.mark.parametrize("module", [1, 2, 3])
def test_published_counts_of_fdg_are_measured(module: int) -> None:
    """FDG: module k keeps max(1, 2(K-k)) graphs, and one old version of weights less."""
    asked = training_of(("fdg", {"modules": 3}))
    result = run_threads(asked)
    assert result.memory is not None
    held = held_by(result.memory, result.trace)[module - 1]
    delay = 2 * (3 - module)
    assert counts(held, "activations").max() == max(1, delay)
    assert counts(held, "copies").max() == max(0, delay - 1)


def sent_before(trace: Trace, channels: list[int], column: str, time: int) -> int:
    sends = trace.spans[trace.spans["kind"] == KIND["send"]]
    mine = np.isin(sends["block"], channels)
    return int(np.count_nonzero(mine & (sends[column] <= time)))


def test_messages_are_those_that_the_trace_says() -> None:
    """A message enters the queue while it is sent, so that a count lies between two of sends."""
    asked = training_of(("fdg", {"modules": 3}))
    schedule = asked.make_schedule()
    result = run_threads(asked)
    assert result.memory is not None
    rows = result.memory[result.memory["category"] == HELD.index("messages")]
    trace, checked = result.trace, 0
    for row in rows:
        worker = int(row["worker"])
        channels = [
            number
            for number, channel in enumerate(schedule.channels)
            if worker in schedule.receivers[channel] and not channel.source
        ]
        own = trace.spans[trace.spans["worker"] == worker]
        own = own[np.argsort(own["index"])]
        done = own[: int(row["index"]) + 1]
        received = np.count_nonzero(
            (done["kind"] == KIND["receive"]) & np.isin(done["block"], channels)
        )
        # The look ends before the worker's next operation begins.
        later = own[int(row["index"]) + 1 :]
        until = int(later["start"][0]) if len(later) else NEVER
        least = sent_before(trace, channels, "end", int(row["time"])) - received
        most = sent_before(trace, channels, "start", until) - received
        assert least <= row["count"] <= most
        checked += 1
    assert checked > BATCHES
    assert len(messages_of(trace).until) == sent_before(
        trace, [*range(len(schedule.channels))], "start", NEVER
    )


def test_measuring_changes_nothing_that_is_computed() -> None:
    asked = training_of(("fdg", {"modules": 3}))
    measured, plain = run_threads(asked), run_threads(replace(asked, measure_memory=False))
    assert plain.memory is None
    assert "memory" not in plain.trace.header.about
    assert measured.state is not None
    assert plain.state is not None
    assert all(torch.equal(measured.state[name], plain.state[name]) for name in plain.state)
    assert [row[:2] for row in measured.losses] == [row[:2] for row in plain.losses]
    assert set(measured.trace.header.about["memory"]) == {"process"}


def test_processes_hold_the_same_and_rings_besides() -> None:
    asked = training_of(("fdg", {"modules": 2}))
    schedule, sizes = asked.make_schedule(), sizes_of(asked)
    result = run_processes(asked)
    for number, (_, predicted, measured) in enumerate(sides(result, schedule, sizes)):
        for category in COUNTED:
            assert (counts(measured, category) == counts(predicted, category)).all(), category
        check_bytes(number, schedule, predicted, measured)
        # A ring's memory is taken from the start, for as many messages as can ever wait.
        rings = column(measured, "messages")
        assert (rings == rings[0]).all()
        assert rings[0] >= column(predicted, "messages").max()
        assert counts(measured, "messages")[0] >= counts(predicted, "messages").max()
        # Each graph of the upper module keeps its copy of what it received.
        if number:
            assert column(measured, "graph_inputs").max() >= SAMPLES * HIDDEN * FLOAT
    about = result.trace.header.about["memory"]
    assert set(about) == set(result.trace.header.workers)
    for each in about.values():
        assert 2**24 < each["resident_bytes"] < 2**36
        assert each["since"] in ("measuring", "the process began")


def test_every_difference_has_a_reason() -> None:
    asked = training_of(("dgl", {"modules": 2}))
    schedule, sizes = asked.make_schedule(), sizes_of(asked)
    result = run_threads(asked)
    assert result.memory is not None
    rows = compare_memory(result.memory, result.trace, schedule, sizes)
    assert {row.worker for row in rows} == set(result.trace.header.workers)
    for row in rows:
        same = (row.predicted_bytes, row.predicted_count) == (
            row.measured_bytes,
            row.measured_count,
        )
        if row.category not in ("total", "all"):
            assert row.why == ("" if same else REASONS[row.category])
            assert same or row.why
    by_place = {(row.worker, row.category): row for row in rows}
    head: MemoryRow = by_place["module 1", "auxiliary"]
    assert head.predicted_bytes == head.measured_bytes > 0
    # The head's weights are stepped with the block's: so are their gradients.
    more = by_place["module 1", "gradients"]
    assert more.measured_bytes == more.predicted_bytes + head.measured_bytes
    assert set(REASONS) == set(HELD)


def test_the_plot_shows_both_sides() -> None:
    asked = training_of(("adl", {"modules": 2}))
    schedule, sizes = asked.make_schedule(), sizes_of(asked)
    result = run_threads(asked)
    assert result.memory is not None
    figure = draw_measured_memory(result.memory, result.trace, schedule, sizes)
    assert [axes.get_ylabel() for axes in figure.axes] == ["module 1", "module 2"]
    for axes, (_, predicted, measured) in zip(
        figure.axes, sides(result, schedule, sizes), strict=True
    ):
        (line,) = axes.get_lines()
        drawn = np.asarray(line.get_ydata(), float)
        assert drawn == pytest.approx(predicted.bytes.sum(1) / drawn_unit(figure))
        tops = [each.get_paths()[0].vertices[:, 1].max() for each in axes.collections]
        assert max(tops) == pytest.approx(measured.bytes.sum(1).max() / drawn_unit(figure))
    assert png_bytes(figure)


def drawn_unit(figure: Any) -> int:
    title = figure.axes[0].get_title(loc="left")
    return {"bytes": 1, "KiB": 2**10, "MiB": 2**20}[title.rpartition(" ")[2]]


def test_all_that_is_predicted_is_measured() -> None:
    assert HELD[: len(CATEGORIES)] == CATEGORIES
