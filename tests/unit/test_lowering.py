"""Lowering: small programs of any number of batches, proved or refused."""

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.lowering import CLASSES, JUMP, LOOP, Lowering, Unliftable
from simcore.ops import (
    Backward,
    Channel,
    Forward,
    Item,
    Merge,
    Program,
    Receive,
    Send,
    Snapshot,
    Update,
    Worker,
)
from simcore.schedule import Schedule
from simcore.schedules import SCHEDULES, build
from simcore.steps import steps

# Whose local state is never the same again, or whose batches are not all alike.
GROWING = {"async-1f1b"}


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in GROWING])
def test_programs_do_not_grow_with_batches(name: str) -> None:
    sizes = {len(Lowering(build(name, batches=batches)).code) for batches in (200, 400, 10**7)}
    assert len(sizes) == 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fdg", {"modules": 3, "batches": 50}),
        ("fdg", {"modules": 30, "batches": 7}),
        ("adl", {"modules": 3, "batches": 50, "accumulation": 7}),
        ("1f1b", {"modules": 3, "batches": 4, "micro_batches": 50}),
        ("gpipe", {"modules": 3, "batches": 4, "micro_batches": 9}),
    ],
)
def test_what_is_unrolled_is_what_the_program_does(name: str, options: dict[str, Any]) -> None:
    schedule = build(name, **options)
    lowering = Lowering(schedule)
    for number, worker in enumerate(schedule.workers):
        assert unrolled(lowering, number) == list(driven(worker.program()))


def test_a_program_does_not_grow_with_what_a_counter_is_taken_modulo() -> None:
    """Where a loop ends before the next multiple but one, a modulo is a difference."""
    sizes = [
        len(Lowering(build("1f1b", modules=4, batches=9, micro_batches=m)).code)
        for m in (100, 5000)
    ]
    assert sizes[0] == sizes[1]


def test_rounds_that_do_nothing_cost_no_instructions() -> None:
    lowering = Lowering(build("fdg", modules=700, batches=20))  # 2(K-k) is far above the batches
    assert len(lowering.code) < 700 * 40


def unrolled(lowering: Lowering, worker: int) -> list[str]:
    """Classes of the operations of a program that never looks at an answer."""
    found, at, counts = [], lowering.entries[worker], dict[int, int]()
    while True:
        code, a, b, _, _ = lowering.code[at]
        if code < len(CLASSES):
            found.append(f"{CLASSES[code].__name__}")
            at += 1
        elif code == LOOP:
            counts[at] = counts.get(at, 0) + 1
            again = counts[at] < b
            counts[at] *= again
            at = a if again else at + 1
        else:
            return found


def driven(program: Program) -> Any:
    answer = None
    while True:
        try:
            operation = program.send(answer)
        except StopIteration:
            return
        yield type(operation).__name__
        answer = 0 if isinstance(operation, Receive) else None


TESTS: dict[str, Callable[[Any, int, int], bool]] = {
    "below": lambda step, a, _: step < a,
    "at least": lambda step, a, _: a <= step,
    "is": lambda step, a, _: step == a,
    "shifted is not": lambda step, a, b: step + a - b != 2 * a,
    "every": lambda step, a, b: (step + b) % a == 0,
    "every with rest": lambda step, a, b: (step - b) % a == b,
    "odd part": lambda step, a, _: bool(step % a % 2),
    "late in each": lambda step, a, b: step % a > b,
    "divided": lambda step, a, _: step // a == 1,
}
KINDS = (Backward, Update, Snapshot, Merge)
Asked = list[tuple[Callable[[Any, int, int], bool], int, int]]
tests = st.tuples(st.sampled_from(sorted(TESTS)), st.integers(1, 40), st.integers(0, 9))


def asking(batches: int, asked: Asked, late: bool, inner: int) -> Program:
    """A program that asks all this of its counter, or of that of the round before."""
    before: Any = 0
    for step in steps(batches):
        yield Forward(1, 0)
        for place in range(len(asked)):
            test, a, b = asked[place]
            if test(before if late else step, a, b):
                yield Backward(1, 0) if place == 0 else KINDS[place](1)
        for part in steps(inner):
            if part + 1 == inner or step == inner:
                yield Merge(1)
        before = step


@given(
    st.integers(1, 150), st.lists(tests, min_size=1, max_size=4), st.booleans(), st.integers(0, 8)
)
@settings(max_examples=150)
def test_what_is_asked_of_counters(
    batches: int, named: list[tuple[str, int, int]], late: bool, inner: int
) -> None:
    asked = [(TESTS[name], a, b) for name, a, b in named]
    schedule = one_worker(lambda *_: asking(batches, asked, late, inner), batches)
    expected = list(driven(asking(batches, asked, late, inner)))
    assert unrolled(Lowering(schedule), 0) == expected


def one_worker(program: Callable[[Channel, Channel], Program], batches: int = 10**9) -> Schedule:
    data = Channel("data", (Item("activation", 0),), source=True)
    own = Channel("own", (Item("gradient", 1),))
    worker = Worker("worker", lambda: program(data, own), (1,), (own,), (data, own))
    return Schedule(blocks=1, batches=batches, workers=(worker,))


def full(data: Channel, own: Channel) -> Program:
    """What each batch needs."""
    batch = yield Receive(data)
    yield Forward(1, batch)
    yield Send(own, batch)
    batch = yield Receive(own)
    yield Backward(1, batch)
    yield Update(1)


def passed(data: Channel, own: Channel) -> Any:
    """A batch without its update; returns whether there was one."""
    batch = yield Receive(data)
    if batch is None:
        return False
    yield Forward(1, batch)
    yield Send(own, batch)
    batch = yield Receive(own)
    yield Backward(1, batch)
    return True


def test_a_counter_in_an_object_is_refused() -> None:
    class Hidden:
        rounds = 0

    hidden = Hidden()

    def program(data: Channel, own: Channel) -> Program:
        for _ in steps(10**9):
            hidden.rounds += 1
            yield from full(data, own)

    with pytest.raises(Unliftable, match="rounds"):
        Lowering(one_worker(program))


def test_a_counter_in_a_closure_is_refused() -> None:
    rounds = 0

    def program(data: Channel, own: Channel) -> Program:
        nonlocal rounds
        for _ in steps(10**9):
            rounds = 1 - rounds
            yield from full(data, own)

    with pytest.raises(Unliftable, match="rounds"):
        Lowering(one_worker(program))


def test_hidden_iterators_are_refused() -> None:
    def program(data: Channel, own: Channel) -> Program:
        for _, _ in zip(steps(10**9), count(), strict=False):
            yield from full(data, own)

    with pytest.raises(Unliftable, match="hidden"):
        Lowering(one_worker(program))


def test_inspected_batches_are_refused() -> None:
    def program(data: Channel, own: Channel) -> Program:
        for _ in steps(10**9):
            batch = yield Receive(data)
            if batch % 2:
                yield Forward(1, batch)

    with pytest.raises(Unliftable, match="inspects a batch"):
        Lowering(one_worker(program))


def test_a_queue_that_others_may_share_is_refused() -> None:
    turns = deque([True, False, False])

    def program(data: Channel, own: Channel) -> Program:
        for _ in steps(3 * 10**8):
            turns.rotate(1)
            yield from full(data, own)
            if turns[0]:
                yield from full(data, own)

    with pytest.raises(Unliftable, match="shares"):
        Lowering(one_worker(program))


def test_a_queue_of_its_own_is_followed() -> None:
    def program(data: Channel, own: Channel) -> Program:
        waiting: deque[int] = deque()
        for step in steps(10**6 + 3):
            if step < 10**6:
                batch = yield Receive(data)
                yield Forward(1, batch)
                yield Send(own, batch)
                waiting.append(batch)
            if step >= 3:
                yield Receive(own)
                yield Backward(1, waiting.popleft())
                yield Update(1)

    assert len(Lowering(one_worker(program, 10**6)).code) < 100


@pytest.mark.usefixtures("few")
def test_a_list_behind_a_method_is_seen() -> None:
    def program(data: Channel, own: Channel) -> Program:
        note = [0].append
        for _ in steps(10**9):
            note(0)
            yield from full(data, own)

    with pytest.raises(Unliftable, match="nothing repeats"):
        Lowering(one_worker(program))


def test_what_waits_for_an_inner_program_is_part_of_the_state() -> None:
    def program(data: Channel, own: Channel) -> Program:
        even = False
        while True:
            if not (yield from passed(data, own)):
                return
            if even:
                yield Update(1)
            even = not even

    lowering = Lowering(one_worker(program))
    codes = [code for code, *_ in lowering.code]
    done = [CLASSES[code] for code in codes[: codes.index(JUMP)] if code < len(CLASSES)]
    assert done.count(Forward) == 2
    assert done.count(Update) == 1


def test_a_method_of_a_list_that_others_may_share_is_refused() -> None:
    note = [0].append

    def program(data: Channel, own: Channel) -> Program:
        for _ in steps(10**9):
            note(0)
            yield from full(data, own)

    with pytest.raises(Unliftable, match="shares"):
        Lowering(one_worker(program))


def test_iterators_of_other_places_are_other_states() -> None:
    def program(data: Channel, own: Channel) -> Program:
        turns, others = iter([True, False, False, True]), enumerate([5, 5, 5, 7])
        for _ in steps(4):
            yield from full(data, own)
            if next(turns) and next(others)[1] == 5:
                yield from full(data, own)

    schedule = one_worker(program, 6)
    [worker] = schedule.workers
    assert unrolled(Lowering(schedule), 0) == list(driven(worker.program()))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are given up after fewer instructions: this takes seconds else."""
    monkeypatch.setattr("simcore.lowering._MOST_INSTRUCTIONS", 5000)


@pytest.mark.usefixtures("few")
def test_a_program_that_never_repeats_is_refused() -> None:
    def program(data: Channel, own: Channel) -> Program:
        rounds = [0]
        for _ in steps(10**9):
            rounds[0] += 1
            yield from full(data, own)

    with pytest.raises(Unliftable, match="nothing repeats"):
        Lowering(one_worker(program))


def test_what_was_refused_once_is_of_no_use_any_more() -> None:
    def program(data: Channel, own: Channel) -> Program:
        for step in steps(50):
            batch = yield Receive(data)
            if batch is not None or step == 40:
                yield from full(data, own)

    lowering = Lowering(one_worker(program))
    body = next(a for code, a, *_ in lowering.code if code == LOOP)
    with pytest.raises(Unliftable, match="within a counted loop"):
        lowering.explore(body, None)
    assert "within a counted loop" in lowering.refused
