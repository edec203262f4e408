"""What is put around programs, operation by operation, and what is refused."""

from collections import Counter
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcore.compositions import compose
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.invariants import check_trace
from simcore.ops import (
    Arrive,
    Backward,
    BackwardInput,
    BackwardWeight,
    Channel,
    Forward,
    Group,
    Item,
    Join,
    Play,
    Program,
    Receive,
    Replay,
    Select,
    Send,
    Update,
    Worker,
)
from simcore.replication import renamed, replicated
from simcore.schedule import Schedule
from simcore.schedules import SCHEDULES, build
from simcore.validate import Verdict, validate
from simcore.workload import Workload

DATA = Channel("data", (Item("activation", 0),), source=True)


def did(schedule: Schedule, worker: str, *without: str) -> list[str]:
    """What a worker does, in words: the kind, block or channel, and batch of each operation."""
    verdict: Verdict = validate(schedule)
    number = [each.name for each in schedule.workers].index(worker)
    words = []
    for kind, block, batch in verdict.operations[number]:
        if kind in ("send", "receive"):
            where = schedule.channels[block].name
        else:
            where = schedule.groups[block].name if kind in ("arrive", "join") else f"{block}"
        words.append(f"{kind} {where} {batch}")
    return [each for each in words if each.split()[0] not in without]


# Replicas


def test_an_all_reduce_starts_behind_the_last_gradient_and_is_joined_before_the_update() -> None:
    schedule = build("ddp", modules=2, batches=2)
    group = "replicas of worker"
    assert did(schedule, "worker, replica 1") == [
        "receive data, replica 1 0",
        *("forward 1 0", "forward 2 0"),
        *("backward 2 0", f"arrive {group} 2", "backward 1 0", f"arrive {group} 1"),
        *(f"join {group} 1", "update 1 -1", f"join {group} 2", "update 2 -1"),
    ]


def test_accumulated_gradients_are_reduced_once() -> None:
    schedule = build("adl", modules=1, batches=6, accumulation=2, replicas=2)
    found = did(schedule, "module 1, replica 2", "receive", "send", "forward")
    group = "replicas of module 1"
    assert found == [
        *("backward 1 1", "backward 1 3", f"arrive {group} 1", f"join {group} 1", "update 1 -1"),
        *("backward 1 5", f"arrive {group} 1", f"join {group} 1", "update 1 -1"),
    ]


def module(program: Any, blocks: tuple[int, ...] = (1,), **ends: Any) -> Worker:
    return Worker("module", program, blocks, (), (DATA,), **ends)


def own(batches: int, program: Any, **ends: Any) -> Schedule:
    """A schedule of one worker over one block, which splits its backward passes if it wants to."""
    worker = module(partial(program, batches), **ends)
    return Schedule(1, batches, (worker,), split_backward=True, name="own")


def test_the_gradient_of_the_weights_is_what_is_reduced() -> None:
    def program(batches: int) -> Program:
        for _ in range(batches):
            batch = yield Receive(DATA)
            yield Forward(1, batch)
            yield BackwardInput(1, batch)
            yield BackwardWeight(1, batch)
            yield Update(1)

    schedule = replicated(partial(own, program=program), {"batches": 2}, 2)
    kinds = [each.split()[0] for each in did(schedule, "module, replica 1")]
    assert kinds[2:] == ["backward_input", "backward_weight", "arrive", "join", "update"]


def test_a_gradient_from_before_a_message_is_reduced_when_it_is_joined() -> None:
    """A program cannot be asked what follows a message that it waits for."""
    clock = Group("clock")

    def program(batches: int) -> Program:
        for _ in range(batches):
            batch = yield Receive(DATA)
            yield Forward(1, batch)
            yield Backward(1, batch)
            assert (yield Join(clock)) is False
            yield Update(1)

    schedule = replicated(partial(own, program=program, joins=(clock,)), {"batches": 4}, 2)
    assert [group.name for group in schedule.groups] == [
        "clock, replica 1",
        "replicas of module",
        "clock, replica 2",
    ]
    kinds = did(schedule, "module, replica 2", "receive", "forward")
    assert kinds == [
        *("backward 1 1", "join clock, replica 2 0", "join replicas of module 1", "update 1 -1"),
        *("backward 1 3", "join clock, replica 2 0", "join replicas of module 1", "update 1 -1"),
    ]


def test_whoever_has_a_batch_less_takes_part_in_the_last_update() -> None:
    schedule = build("ddp", modules=2, batches=3)
    group = "replicas of worker"
    found = did(schedule, "worker, replica 2", "receive", "forward", "backward")
    last = [
        *(f"join {group} 1", "update 1 -1", f"arrive {group} 1"),
        *(f"join {group} 2", "update 2 -1", f"arrive {group} 2"),
        *(f"join {group} 1", "update 1 -1", f"join {group} 2", "update 2 -1"),
    ]
    assert found == [f"arrive {group} 2", f"arrive {group} 1", *last]


@pytest.mark.parametrize("batches", [4, 5, 6, 7])
def test_but_not_in_one_that_does_not_come(batches: int) -> None:
    """Windows of two gradients: a batch more makes another update, or a fuller last window."""
    schedule = build("adl", modules=2, batches=batches, accumulation=2, replicas=2)
    updates = [
        Counter(each for each in did(schedule, f"module {k}, replica {r}") if "update" in each)
        for k in (1, 2)
        for r in (1, 2)
    ]
    assert updates[0] == updates[1]
    assert updates[2] == updates[3]


def test_replicas_in_lockstep_do_not_wait_for_a_clock_that_waits_for_them() -> None:
    """One of three has two batches: its modules' clock goes on while the others' come to an end."""
    schedule = build("fdg", modules=3, batches=4, replicas=3, lockstep=True)
    assert validate(schedule).conclusive


def test_batches_go_to_replicas_in_turn_and_parts_stay_together() -> None:
    schedule = build("gpipe", modules=1, batches=3, micro_batches=2, replicas=2)
    assert schedule.batches == 6
    data = [channel for channel in schedule.channels if channel.source]
    assert [channel.held(schedule.batches) for channel in data] == [[0, 1, 4, 5], [2, 3]]


@pytest.mark.parametrize("name", ["ddp", "fdg", "lapsgd", "fgd-dp"])
def test_no_replica_may_be_without_a_batch(name: str) -> None:
    line = "must be at most the number of batches; give fewer replicas or more batches"
    with pytest.raises(InputError, match=f"replicas is 4: {line}$"):
        build(name, batches=3, replicas=4)
    assert build(name, batches=4, replicas=4).batches == 4


def test_refusals_name_the_flag_that_was_given() -> None:
    entry, flags = SCHEDULES["fdg"], {"replicas": "--replicas"}
    with pytest.raises(InputError, match=r"^--replicas is 2: must be at most"):
        compose(entry.factory, {**entry.defaults, "batches": 1, "replicas": 2}, flags)


def test_mixed_weights_are_read_again_by_a_replay() -> None:
    """Checkpointed Async BP goes backward with the weights of the replay, which are less stale."""
    plain = build("async-bu", layers=2, batches=20)
    again = build("async-bu", layers=2, batches=20, recompute=True)
    assert (plain.weights.policy, again.weights.policy) == ("mixed", "replay")
    assert [item.kind for item in again.channels[1].carries] == ["input", "input", "gradient"]
    workload = Workload.even(2, backward_ratio=3)
    gaps = []
    for schedule in (plain, again):
        rows = simulate(schedule, workload).gradients
        gaps.append(int((rows["version_applied"] - rows["version_forward"]).sum()))
        check_trace(schedule, simulate(schedule, workload))
    assert gaps[1] < gaps[0]
    fixed = build("fdg", modules=2, batches=5, recompute=True)
    assert fixed.weights.policy == "stash"


def test_a_graph_that_a_guess_needed_is_not_made_twice() -> None:
    schedule = build("dgl", modules=1, batches=1, recompute=True)
    kinds = [type(operation) for operation in played(schedule)]
    assert kinds.index(Replay) == kinds.index(Play) + 1
    assert kinds.count(Replay) == 1


# Other names


def test_programs_find_their_own_channels_in_the_answers() -> None:
    first, second, sink = (Channel(name, ()) for name in ("first", "second", "sink"))
    other = {channel: Channel(f"other {channel.name}", ()) for channel in (first, second)}
    clock, own_clock = Group("clock"), Group("own clock")
    answers = []

    def program() -> Program:
        answers.append((yield Select((second, sink))))
        answers.append((yield Select((second, sink))))
        answers.append((yield Select((second, sink))))
        answers.append((yield Receive(first)))
        answers.append((yield Join(clock, 2)))
        yield Send(second, 5)
        yield Arrive(clock)

    running = renamed(program, other, {clock: own_clock})
    assert next(running) == Select((other[second], sink))
    assert running.send((other[second], 7)) == Select((other[second], sink))
    assert running.send((sink, 8)) == Select((other[second], sink))
    assert running.send(None) == Receive(other[first])
    assert running.send(9) == Join(own_clock, 2)
    assert running.send(True) == Send(other[second], 5)
    assert next(running) == Arrive(own_clock)
    assert next(running, None) is None
    assert answers == [(second, 7), (sink, 8), None, 9, True]


# Loaders and recomputing


def test_a_loader_loads_and_passes_on() -> None:
    schedule = build("bp", modules=1, batches=2, loaders=1, prefetch=3)
    assert did(schedule, "loader 1") == [
        *("receive stored data 0", "load 0 0", "send loaded data 0"),
        *("receive stored data 1", "load 0 1", "send loaded data 1"),
    ]
    assert [channel.capacity for channel in schedule.channels] == [3, None]
    assert did(schedule, "worker", "forward", "backward", "update") == [
        "receive loaded data 0",
        "receive loaded data 1",
    ]


def test_a_forward_pass_is_run_again_before_its_backward_pass() -> None:
    schedule = build("bp", modules=2, batches=1, recompute=True)
    assert did(schedule, "worker")[1:7] == [
        *("forward 1 0", "forward 2 0", "replay 2 0", "backward 2 0", "replay 1 0", "backward 1 0")
    ]
    kinds = [type(each).__name__ for each in played(schedule)]
    assert kinds == ["Receive", "Play", "Play", "Replay", "Backward", "Replay", "Backward"]


def played(schedule: Schedule) -> list[Any]:
    """The operations until the first update, with the batch 0."""
    running, answer, found = schedule.workers[0].program(), None, []
    while not isinstance(operation := running.send(answer), Update):
        found.append(operation)
        answer = 0 if isinstance(operation, Receive) else None
    return found


AROUND = {"recompute", "replicas", "loaders"}
ALL = [name for name, entry in SCHEDULES.items() if {*entry.compositions} >= AROUND]


@pytest.mark.parametrize("name", ALL)
@given(
    replicas=st.integers(1, 3),
    loaders=st.integers(0, 2),
    recompute=st.booleans(),
    norm=st.booleans(),
)
def test_everything_goes_together(
    name: str, replicas: int, loaders: int, recompute: bool, norm: bool
) -> None:
    """And no operation of the schedule is lost, whatever is around it."""
    options: dict[str, Any] = {"batches": 5, SCHEDULES[name].blocks_option: 2}
    if "weights" in SCHEDULES[name].defaults:
        options["weights"] = "stash"
    around: dict[str, Any] = {"replicas": replicas, "loaders": loaders, "recompute": recompute}
    if "global_norm" in SCHEDULES[name].compositions:
        around["global_norm"] = norm
    plain, wrapped = validate(build(name, **options)), validate(build(name, **options, **around))
    one, other = (counted(verdict) for verdict in (plain, wrapped))
    for kind in ("forward", "backward", "backward_input", "backward_weight"):
        assert other[kind] == one[kind]
    again = one["backward"] + one["backward_input"]
    if name in ("dfa", "sdfa"):
        again -= 5  # the last module's graph is needed at once, for the error
    assert other["replay"] == (again if recompute else 0)
    assert other["join"] == (other["update"] if replicas > 1 else 0)
    assert bool(other["load"]) == bool(loaders)


def counted(verdict: Verdict) -> Counter[str]:
    """How often each kind of operation is done; barriers apart."""
    done = (operation for worker in verdict.operations for operation in worker)
    return Counter(kind for kind, _, block in done if kind != "join" or block)
