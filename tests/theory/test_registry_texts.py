"""What the table of schedules says of each, against what the simulator measures.

Its formulas are read as they stand there, with the letters of docs/reference/notation.md.
"""

import re
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np
import pytest

from simcore.engine import simulate
from simcore.registry import Entry
from simcore.schedule import Schedule
from simcore.schedules import SCHEDULES, build
from simcore.staleness import gap_summaries, steady_gap_summaries
from simcore.trace import Trace
from simcore.workload import Layer, Workload
from tests.theory.test_memory_laws import peaks

Times = tuple[int, int, int]  # forward, backward, update

every_entry = pytest.mark.parametrize("entry", SCHEDULES.values(), ids=SCHEDULES)

BATCHES = 36
SIZES = {"modules": 4, "layers": 4, "accumulation": 3, "time_steps": 2, "micro_batches": 4}

# Even modules; a short first one, which may run ahead of those above it; a short last one.
TIMES: tuple[list[Times], ...] = (
    [(1, 2, 1)] * 4,
    [(1, 1, 1), (2, 9, 1), (2, 9, 1), (2, 9, 1)],
    [(3, 3, 1), (3, 3, 1), (3, 3, 1), (1, 1, 1)],
)


def built(entry: Entry, **others: Any) -> Schedule:
    sizes = {"batches": BATCHES, **SIZES, **others}
    return build(entry.name, **{n: size for n, size in sizes.items() if n in entry.defaults})


def run(schedule: Schedule, times: list[Times]) -> Trace:
    modules = [times[block % len(times)] for block in range(schedule.blocks)]
    second = Fraction(1)
    layers = tuple(Layer("", second * f, second * b, second * u, auxiliary_s=second)
                   for f, b, u in modules)  # fmt: skip
    return simulate(schedule, Workload("", layers))


def value(formula: str, **letters: int | Fraction) -> Fraction:
    """The value of a formula as people write it: 2(K-k), (V-1)K, V m, Ms, beta (L-l+1)."""
    python = formula.replace("Ms", "M*s").replace("V m", "V*m").replace("beta (", "beta*(")
    python = re.sub(r"(?<=\d)(?=\()|(?<=\))(?=[A-Z])", "*", python)
    known = {"max": max, "min": min, "ceil": ceil, "floor": floor}
    exact = {letter: Fraction(number) for letter, number in letters.items()}
    return Fraction(eval(python, {"__builtins__": {}}, {**known, **exact}))


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("max(1, 2(K-k)) + 3", 5),
        ("(V-1)K / 2", 3),
        ("floor((Ms + j) / M)", 2),
        ("beta (K-3) / 4", 2),
    ],
)
def test_formulas_are_read_as_they_are_meant(formula: str, expected: float) -> None:
    assert value(formula, K=6, k=5, V=2, m=3, M=4, s=2, j=1, beta=Fraction(8, 3)) == expected


# Lockings, of mini-batches and within one replica or process. Forward: module 1 starts batch t + 1
# before the last has finished batch t. Backward: two modules go backward at the same time, or a
# lower one before an upper one with the same pass. Update: module 1 is updated while a batch is on
# its way up. What times can show is what they show here; what they never show is locked.


def spans(trace: Trace, *kinds: str) -> dict[tuple[int, int], tuple[int, int]]:
    rows = np.concatenate([trace.of_kind(kind) for kind in kinds])
    return {(int(r["block"]), int(r["batch"])): (int(r["start"]), int(r["end"])) for r in rows}


def mini_batches(trace: Trace, block: int) -> list[tuple[int, int]]:
    """From the first start to the last end of each mini-batch's forward passes of a block."""
    parts = trace.header.micro_batches
    passes = spans(trace, "forward", "tangent", "evaluate")
    own = [passes[block, batch] for batch in range(trace.header.batches)]
    groups = [own[at : at + parts] for at in range(0, len(own), parts)]
    return [(min(s for s, _ in group), max(e for _, e in group)) for group in groups]


def broken(trace: Trace) -> set[str]:
    blocks, parts = trace.header.blocks, trace.header.micro_batches
    below, above = mini_batches(trace, 1), mini_batches(trace, blocks)
    back = spans(trace, "backward", "backward_input")
    ways = [(start, end) for (start, _), (_, end) in zip(below, above, strict=True)]
    updates = trace.of_kind("update")
    learnt = updates["start"][updates["block"] == 1]
    found = set()
    if any(after[0] < end for after, (_, end) in zip(below[1:], ways, strict=False)):
        found.add("forward")
    if any(
        upper == block + 1 and (start < last if other == batch else start < last and first < end)
        for (block, batch), (start, end) in back.items()
        for (upper, other), (first, last) in back.items()
        if other == batch or other // parts != batch // parts
    ):
        found.add("backward")
    if any(((learnt > start) & (learnt < end)).any() for start, end in ways):
        found.add("update")
    return found


def lockings(entry: Entry, **others: Any) -> set[str]:
    """What is broken in any of the cases, in a single process of a single replica."""
    schedule = built(entry, batches=12, processes=1, replicas=1, **others)
    return set().union(*(broken(run(schedule, times)) for times in TIMES))


@every_entry
def test_lockings_that_are_broken(entry: Entry) -> None:
    said, *conditions = entry.lockings_broken.split(";")
    assert lockings(entry) == set(re.findall("forward|backward|update", said.split("(")[0]))
    if conditions == [" forward if F > 1"]:
        assert lockings(entry, forward_threads=2) - lockings(entry) == {"forward"}
    else:
        assert conditions in ([], [" processes wait for nothing"])


# Gaps in steady state, for a text that is a formula.


def letters_of(schedule: Schedule, k: int) -> dict[str, int | Fraction]:
    blocks = schedule.blocks
    return {"K": blocks, "k": k, "L": blocks, "l": k, "M": SIZES["accumulation"],
            "n": SIZES["time_steps"], "m": schedule.micro_batches, "V": 2}  # fmt: skip


@every_entry
@pytest.mark.parametrize("times", TIMES, ids=["even", "short first", "short last"])
def test_gaps(entry: Entry, times: list[Times]) -> None:
    if entry.gap.startswith("by the times"):
        return
    schedule = built(entry)
    trace = run(schedule, times)
    formula = re.split(r";| from the replay|, mean", entry.gap)[0]
    for summary in steady_gap_summaries(trace) or gap_summaries(trace):
        letters = letters_of(schedule, summary.block)
        window = range(SIZES["accumulation"])
        gaps = [value(formula, s=100, j=j, **letters) for j in window]
        assert set(summary.histogram) == set(gaps)
        assert summary.mean == float(sum(gaps) / len(gaps))
        if mean := re.search(", mean (.*)", entry.gap):
            assert summary.mean == float(value(mean[1], **letters))


@pytest.mark.parametrize(
    "name", [n for n in SCHEDULES if "from the first pass" in SCHEDULES[n].gap]
)
def test_gaps_from_the_first_pass(name: str) -> None:
    schedule = built(SCHEDULES[name])
    rows = run(schedule, TIMES[0]).gradients
    (formula,) = re.findall("; (.*) from the first pass", SCHEDULES[name].gap)
    for k in range(1, schedule.blocks + 1):
        late = rows[(rows["block"] == k) & (rows["batch"] >= 2 * schedule.blocks)]
        expected = value(formula, **letters_of(schedule, k))
        assert (late["version_applied"] - late["version_first"] == expected).all()


@pytest.mark.parametrize("name", ["async-lu", "async-bu"])
@pytest.mark.parametrize("beta", [Fraction(1, 2), Fraction(3, 2), Fraction(2)])
def test_gaps_of_async_bp(name: str, beta: Fraction) -> None:
    schedule = built(SCHEDULES[name])
    trace = simulate(schedule, Workload.even(schedule.blocks, 1, beta))
    _, formula = SCHEDULES[name].gap.split("U = 0: ")
    summaries = steady_gap_summaries(trace)
    assert summaries is not None
    for summary in summaries:
        expected = value(formula, beta=beta, **letters_of(schedule, summary.block))
        assert set(summary.histogram) == {expected}


# Memory, where each worker has a module of its own, or its chunks: the parts of the text that count
# something. Directions of a mini-batch are as large as the weights, whatever its passes.

COUNTED = {
    "graph": "activations",
    "input": "inputs",
    "directions": "tangents",
    "versions": "copies",
}


def parts_of(text: str) -> list[str]:
    """The text, cut at commas and semicolons that are not within parentheses."""
    depths = np.cumsum([{"(": 1, ")": -1}.get(letter, 0) for letter in text])
    pairs = zip(text, depths, strict=True)
    return "".join(";" if c in ",;" and not depth else c for c, depth in pairs).split("; ")


def counts_of(text: str, last: bool) -> dict[str, str]:
    """What a text says of how many of each a module keeps, the last of all or another one."""
    found = {}
    for part in parts_of(text.replace(" graphs and versions", " graphs and as many versions")):
        if counted := re.match(r"(?:at most )?(.+?) (graph|input|versions)s?\b(.*)", part):
            count, what, rest = counted.groups()
            found[what] = "0" if "none if k = K" in rest and last else count
            if "and as many versions" in rest:
                found["versions"] = count
        elif counted := re.match(r"(directions) of (.+) (?:mini-)?batch", part):
            found[counted[1]] = counted[2]
    return {what: count for what, count in found.items() if count != "no"}


@every_entry
def test_memory(entry: Entry) -> None:
    schedule = built(entry, batches=16, micro_batches=8)
    if len(schedule.workers) != SIZES["modules"]:
        return
    modules = len(schedule.workers)
    for times in TIMES:
        kept = {what: peaks(schedule, times * (schedule.blocks // modules), category)
                for what, category in COUNTED.items()}  # fmt: skip
        for k in range(1, modules + 1):
            letters = {**letters_of(schedule, k), "K": modules}
            said = counts_of(entry.memory, last=k == modules)
            for what, formula in said.items():
                found = kept[what][k - 1] + (what == "versions")  # copies, and the current one
                expected = value(formula, **letters)
                assert (
                    found <= expected if entry.memory.startswith("at most") else found == expected
                )


# Samples of an update, and extra parameters.


@every_entry
def test_mini_batches_of_an_update(entry: Entry) -> None:
    schedule = built(entry, replicas=2)
    letters = {"M": SIZES["accumulation"], "R": 2}
    said = value(entry.per_update, **letters)
    if "replicas" in entry.defaults and "replicas" in entry.compositions:
        said *= 2  # around any schedule
    assert said == schedule.batches_per_update
    if "averaging" in entry.defaults:
        return  # replicas whose updates are their own
    rows = run(schedule, TIMES[0]).of_kind("update")
    of_one = (rows["block"] == 1) & (rows["version"] >= 0)
    updates = Fraction(int(of_one.sum()), len(set(schedule.replicas)))
    assert ceil(BATCHES / said) <= updates <= ceil(BATCHES / said) + 1


@every_entry
def test_extra_parameters(entry: Entry) -> None:
    assert (entry.extra_parameters != "none") == (built(entry).weights.feedback != "weights")


@every_entry
def test_texts_are_of_one_style(entry: Entry) -> None:
    texts = (entry.title, entry.source, entry.lockings_broken, entry.gap, entry.memory,
             entry.extra_parameters, entry.per_update)  # fmt: skip
    for text in texts:
        assert text == text.strip()
        assert not text.endswith(".")
        assert "docstring" not in text
        assert "  " not in text
    assert re.search(r"\d|baseline|PipeDream|Async BP|AsyncFGD|FDG|ADL", entry.source)
