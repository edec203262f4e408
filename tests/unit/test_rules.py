import re
from collections.abc import Callable
from typing import get_args

import pytest

from simcore import ops
from simcore.errors import IllegalOperationError
from simcore.grid import LETTERS
from simcore.ops import (
    KINDS,
    Arrive,
    Backward,
    BackwardInput,
    BackwardStop,
    BackwardThrough,
    BackwardWeight,
    Channel,
    Estimate,
    Evaluate,
    Feedback,
    Forward,
    ForwardError,
    Group,
    Item,
    Join,
    Load,
    Merge,
    Operation,
    Play,
    Project,
    Receive,
    Refine,
    Replay,
    Select,
    Send,
    Snapshot,
    Synthesize,
    Tangent,
    TangentStep,
    Update,
    Worker,
    kind_of,
)
from simcore.rules import RULES, Holdings, check_declared, consumed, made, needed, shown
from simcore.trace import KIND

DATA = Channel("data", (Item("activation", 0),), source=True)
LOSSES = Channel("losses", (Item("graph", 1), Item("gradient", 1)))


def operations() -> set[type]:
    """Every class of an operation that a program may yield."""
    kinds = get_args(Operation)
    return {
        each for each in vars(ops).values() if isinstance(each, type) and issubclass(each, kinds)
    }


def test_the_table_has_every_operation_and_no_other() -> None:
    assert RULES.keys() == operations()
    assert all(rule.meaning for rule in RULES.values())
    assert {kind_of(operation) for operation in RULES if operation is not Select} == {
        kind_of(kind) for kind in KINDS
    }


def test_what_is_not_timed_has_no_letter_of_a_computation() -> None:
    timed = {kind_of(kind) for kind, rule in RULES.items() if rule.timed}
    assert timed == {kind for kind, code in KIND.items() if code in LETTERS}
    assert len(set(LETTERS.values())) == len(LETTERS)
    untimed = [kind for kind in KINDS if kind_of(kind) not in timed]
    assert untimed == [Send, Receive, Arrive, Join]


def test_what_computations_take_and_make() -> None:
    assert consumed(Forward(2, 7), blocks=3) == (Item("activation", 1),)
    assert made(Forward(2, 7), blocks=3) == (Item("graph", 2), Item("activation", 2))
    assert made(Forward(3, 7), blocks=3) == (Item("graph", 3), Item("gradient", 3))
    assert made(Evaluate(3, 7), blocks=3) == ()
    assert made(Play(3, 7), blocks=3) == (Item("input", 3), Item("gradient", 3))
    assert consumed(Replay(3, 7), blocks=3) == (Item("input", 3),)
    assert consumed(Backward(2, 7), blocks=3) == (Item("graph", 2), Item("gradient", 2))
    assert made(Backward(2, 7), blocks=3) == (Item("gradient", 1),)
    assert made(Backward(1, 7), blocks=3) == ()
    assert made(Backward(1, 7), blocks=1) == ()
    assert consumed(Tangent(1, 7), blocks=3) == (Item("activation", 0),)
    assert consumed(Tangent(3, 7), blocks=3) == (Item("activation", 2), Item("derivative", 2))
    assert made(Tangent(3, 7), blocks=3) == (Item("tangent", 3), Item("scalar", 3))
    assert needed(Project(1, 7), blocks=3) == (Item("scalar", 3),)
    assert needed(Feedback(1, 7), blocks=3) == (Item("error", 3), Item("graph", 1))
    assert made(Load(7), blocks=3) == (Item("activation", 0),)


FLOWS: list[tuple[list[type], list[type]]] = [
    ([Forward], [Backward]),
    ([Play], [Replay, Backward]),
    ([Forward], [BackwardInput, BackwardWeight]),
    ([Tangent], [Project]),
    ([TangentStep], [Project]),
    ([ForwardError], [Backward]),
]


@pytest.mark.parametrize(("up", "down"), FLOWS, ids=str)
def test_a_batch_goes_up_and_down_and_leaves_nothing(up: list[type], down: list[type]) -> None:
    blocks = 3
    holdings = Holdings("worker", blocks)
    holdings.give((Item("activation", 0),), 7, Receive(DATA))
    for block in range(1, blocks + 1):
        for kind in up:
            holdings.compute(kind(block, 7))
    for block in range(blocks, 0, -1):
        for kind in down:
            holdings.compute(kind(block, 7))
        holdings.compute(Update(block))
    holdings.end()


@pytest.mark.parametrize("guess", [Estimate, Synthesize, Feedback])
def test_a_module_that_guesses_gradients_depends_on_nobody(guess: type) -> None:
    holdings = Holdings("module", blocks=2)
    holdings.give((Item("activation", 0),), 7, Receive(DATA))
    holdings.compute(Forward(1, 7))
    if guess is Feedback:
        with pytest.raises(IllegalOperationError, match="holds no error of block 2"):
            holdings.compute(Feedback(1, 7))
        holdings.give((Item("error", 2),), 7, Receive(DATA))
    holdings.compute(guess(1, 7))
    holdings.take((Item("activation", 1),), 7, Send(LOSSES, 7))
    holdings.compute(BackwardStop(1, 7))
    holdings.compute(Update(1))
    if guess is Synthesize:
        holdings.give((Item("gradient", 1),), 7, Receive(DATA))
        holdings.compute(Refine(1, 7))
    holdings.end()


def test_scalars_and_errors_are_copied_when_they_are_sent() -> None:
    scalars = Channel("scalars", (Item("scalar", 1),))
    holdings = Holdings("last", blocks=1)
    holdings.give((Item("activation", 0),), 7, Receive(DATA))
    holdings.compute(Tangent(1, 7))
    for _ in range(2):
        holdings.take(scalars.carries, 7, Send(scalars, 7))
    holdings.compute(Project(1, 7))
    holdings.compute(Update(1))
    holdings.end()


def test_an_update_may_live_on_the_gradients_of_others() -> None:
    holdings = Holdings("replica", blocks=1)
    with pytest.raises(IllegalOperationError, match="no gradient of this block"):
        holdings.compute(Update(1))
    holdings.join(1, others=False)
    with pytest.raises(IllegalOperationError, match="no gradient of this block"):
        holdings.compute(Update(1))
    holdings.join(1, others=True)
    holdings.compute(Update(1))
    with pytest.raises(IllegalOperationError, match="no gradient of this block"):
        holdings.compute(Update(1))


def test_snapshots_are_merged_one_by_one() -> None:
    holdings = Holdings("averager", blocks=1)
    with pytest.raises(IllegalOperationError, match="there is no snapshot"):
        holdings.compute(Merge(1))
    holdings.compute(Snapshot(1))
    with pytest.raises(IllegalOperationError, match="the last snapshot has not been merged"):
        holdings.compute(Snapshot(1))
    with pytest.raises(IllegalOperationError, match="ended with a snapshot of block 1"):
        holdings.end()
    assert holdings.arrive(Join(Group("replicas", (1,)), 1))
    holdings.join(1, others=True)
    holdings.compute(Merge(1))
    holdings.end()
    holdings.compute(Snapshot(1))
    with pytest.raises(IllegalOperationError, match="no round has averaged the snapshot"):
        holdings.compute(Merge(1))


def test_a_gradient_goes_through_a_block_that_stays() -> None:
    holdings = Holdings("worker", blocks=2)
    holdings.give((Item("activation", 0),), 0, Receive(DATA))
    for step in (Forward(1, 0), Forward(2, 0), BackwardThrough(2, 0), BackwardStop(1, 0)):
        holdings.compute(step)
    with pytest.raises(IllegalOperationError, match="no gradient of this block"):
        holdings.compute(Update(2))
    holdings.compute(Update(1))
    holdings.end()


def test_gradients_in_a_round_are_not_touched_before_it_is_joined() -> None:
    group = Group("replicas", (1,))
    holdings = Holdings("replica", blocks=1)
    holdings.give((Item("activation", 0),), 7, Receive(DATA))
    holdings.compute(Forward(1, 7))
    assert not holdings.arrive(Arrive(group, 1))  # there is nothing yet to contribute
    holdings.compute(Backward(1, 7))
    assert holdings.arrive(Arrive(group, 1))
    with pytest.raises(IllegalOperationError, match="in a round that has not been joined"):
        holdings.compute(Update(1))
    with pytest.raises(IllegalOperationError, match="the last round of this block has not been"):
        holdings.arrive(Arrive(group, 1))
    holdings.join(1, others=True)
    holdings.compute(Update(1))
    holdings.end()


def test_what_one_block_makes_the_next_one_takes() -> None:
    blocks = 4
    for block in range(1, blocks):
        above = set(consumed(Forward(block + 1, 0), blocks))
        assert above <= set(made(Forward(block, 0), blocks))
        wanted = set(consumed(Backward(block, 0), blocks))
        assert wanted <= {*made(Forward(block, 0), blocks), *made(Backward(block + 1, 0), blocks)}
    assert set(consumed(Backward(blocks, 0), blocks)) == set(made(Forward(blocks, 0), blocks))


def test_a_legal_step_leaves_nothing() -> None:
    holdings = Holdings("worker", blocks=2)
    for batch in (0, 1):
        holdings.give((Item("activation", 0),), batch, Receive(DATA))
        for step in (Forward(1, batch), Forward(2, batch), Backward(2, batch), Backward(1, batch)):
            holdings.compute(step)
    assert holdings.pending == {2: [0, 1], 1: [0, 1]}
    holdings.compute(Update(1))
    holdings.compute(Update(2))
    assert not holdings.pending
    assert not holdings.items
    holdings.end()


def backward_before_forward(holdings: Holdings) -> None:
    holdings.compute(Backward(1, 0))


def backward_without_gradient(holdings: Holdings) -> None:
    holdings.give((Item("activation", 0),), 0, Receive(DATA))
    holdings.compute(Forward(1, 0))
    holdings.compute(Backward(1, 0))


def forward_without_input(holdings: Holdings) -> None:
    holdings.compute(Forward(2, 5))


def forward_twice(holdings: Holdings) -> None:
    holdings.give((Item("activation", 0),), 0, Receive(DATA))
    holdings.compute(Forward(1, 0))
    holdings.compute(Forward(1, 0))


def forward_of_a_kept_graph(holdings: Holdings) -> None:
    for _ in range(2):
        holdings.give((Item("activation", 0),), 0, Receive(DATA))
        holdings.compute(Forward(1, 0))


def update_of_nothing(holdings: Holdings) -> None:
    holdings.compute(Update(2))


def send_what_is_not_held(holdings: Holdings) -> None:
    holdings.take(LOSSES.carries, 3, Send(LOSSES, 3))


def receive_what_is_held(holdings: Holdings) -> None:
    holdings.give(DATA.carries, 3, Receive(DATA))
    holdings.give(DATA.carries, 3, Select((LOSSES, DATA)))


def end_with_items(holdings: Holdings) -> None:
    holdings.give(DATA.carries, 3, Receive(DATA))
    holdings.end()


def end_with_gradients(holdings: Holdings) -> None:
    for batch in (4, 5):
        holdings.give((Item("activation", 1),), batch, Receive(DATA))
        holdings.compute(Forward(2, batch))
        holdings.compute(Backward(2, batch))
    holdings.end()


@pytest.mark.parametrize(
    ("act", "line"),
    [
        (
            forward_without_input,
            "worker 7 may not do Forward(2, 5): holds no activation of block 1 for batch 5",
        ),
        (
            forward_twice,
            "worker 7 may not do Forward(1, 0): holds no activation of block 0 for batch 0",
        ),
        (
            forward_of_a_kept_graph,
            "worker 7 may not do Forward(1, 0): already holds the graph of block 1 for batch 0",
        ),
        (
            backward_before_forward,
            "worker 7 may not do Backward(1, 0): holds no graph of block 1 for batch 0",
        ),
        (
            backward_without_gradient,
            "worker 7 may not do Backward(1, 0): holds no gradient of block 1 for batch 0",
        ),
        (
            update_of_nothing,
            "worker 7 may not do Update(2): no gradient of this block has been computed since",
        ),
        (
            send_what_is_not_held,
            "worker 7 may not do Send(losses, 3): holds no graph of block 1 for batch 3",
        ),
        (
            receive_what_is_held,
            "worker 7 may not do Select(losses, data): "
            "already holds the activation of block 0 for batch 3",
        ),
        (end_with_items, "worker 7 ended holding the activation of block 0 for batch 3, unused"),
        (
            end_with_gradients,
            "worker 7 ended with unapplied gradients of block 2, batches [4, 5]",
        ),
    ],
)
def test_each_broken_rule_has_its_line(act: Callable[[Holdings], None], line: str) -> None:
    with pytest.raises(IllegalOperationError, match=re.escape(line) + "$"):
        act(Holdings("worker 7", blocks=2))


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (Forward(2, 0), "Forward(2, 0): it must declare what it computes with"),
        (Backward(3, 1), "Backward(3, 1): it must declare what it computes with"),
        (Update(2), "Update(2): it must declare what it computes with"),
        (Send(DATA, 4), "Send(data, 4): it must declare what it sends to"),
        (Receive(LOSSES), "Receive(losses): it must declare what it receives from"),
        (Select((DATA, LOSSES)), "Select(data, losses): it must declare what it receives from"),
        (Select(()), "Select(): it must declare what it receives from"),
    ],
)
def test_workers_use_what_they_declare(operation: Operation, reason: str) -> None:
    worker = Worker("the worker", lambda: iter(()), (1,), (LOSSES,), (DATA,))  # type: ignore[arg-type,return-value]
    with pytest.raises(IllegalOperationError, match=f"^the worker may not do {re.escape(reason)}$"):
        check_declared(worker, operation)


@pytest.mark.parametrize("yielded", [None, 3, Forward, (Forward(1, 0),)])
def test_only_operations_may_be_yielded(yielded: object) -> None:
    worker = Worker("the worker", lambda: iter(()), (1,), (LOSSES,), (DATA,))  # type: ignore[arg-type,return-value]
    line = f"the worker may not do {yielded!r}: it is no operation"
    with pytest.raises(IllegalOperationError, match=re.escape(line)):
        check_declared(worker, yielded)  # type: ignore[arg-type]


def test_what_is_declared_may_be_used() -> None:
    worker = Worker("the worker", lambda: iter(()), (1,), (LOSSES,), (DATA,))  # type: ignore[arg-type,return-value]
    for operation in (
        Forward(1, 0),
        Backward(1, 0),
        Update(1),
        Send(LOSSES, 0),
        Receive(DATA),
        Select((DATA, DATA)),
    ):
        check_declared(worker, operation)


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (Forward(2, 5), "Forward(2, 5)"),
        (Backward(1, 0), "Backward(1, 0)"),
        (Update(3), "Update(3)"),
        (Send(LOSSES, 5), "Send(losses, 5)"),
        (Receive(LOSSES), "Receive(losses)"),
        (Select((LOSSES, DATA)), "Select(losses, data)"),
    ],
)
def test_shown(operation: Operation, text: str) -> None:
    assert shown(operation) == text
