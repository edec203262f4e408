"""The reference simulator against semantics and times worked out by hand.

Times are seconds; all workloads here give ticks that are easy to convert (`seconds_of`).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import partial
from typing import Any

import pytest

from simcore.cluster import Cluster, Device, Link
from simcore.costs import Costs
from simcore.durations import lognormal
from simcore.engine import simulate
from simcore.errors import DeadlockError, IllegalOperationError, InputError
from simcore.ops import (
    Backward,
    Channel,
    Forward,
    Item,
    Program,
    Receive,
    Select,
    Send,
    Update,
    Worker,
)
from simcore.randomness import uniform
from simcore.schedule import Schedule, WeightRules
from simcore.schedules import build
from simcore.trace import Trace
from simcore.validate import validate
from simcore.workload import Layer, Workload

Time = int | float | str | Fraction


class Job:
    """A computation of block k that needs no other worker, to make time pass.

    One pass is Forward, Backward, Update; what these make besides goes into a sink.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self.source = Channel(
            f"source[{k}]", (Item("activation", k - 1), Item("gradient", k)), source=True
        )
        below = (Item("gradient", k - 1),) if k > 1 else ()
        self.sink = Channel(f"sink[{k}]", (Item("activation", k), *below))

    def run(self) -> Program:
        batch = yield Receive(self.source)
        yield Forward(self.k, batch)
        yield Backward(self.k, batch)
        yield Send(self.sink, batch)
        yield Update(self.k)

    def worker(
        self, name: str, program: Callable[[], Program], *ends: tuple[Channel, ...]
    ) -> Worker:
        sends, receives = ends or ((), ())
        return Worker(name, program, (self.k,), (*sends, self.sink), (*receives, self.source))


def message(name: str, capacity: int | None = None) -> Channel:
    """A channel that carries nothing but batch numbers."""
    return Channel(name, (), capacity)


def schedule_of(*workers: Worker, batches: int = 1, blocks: int | None = None) -> Schedule:
    # No job is the last block, where the loss would be computed.
    blocks = blocks or 1 + max(block for worker in workers for block in worker.blocks)
    return Schedule(blocks, batches, workers, name="own")


def workload(*forward_s: Time, backward_s: Time = 0, update_s: Time = 0) -> Workload:
    """One layer per block: its forward time, and the same backward and update time for all."""
    layers = (
        Layer(f"layer{k}", Fraction(time), Fraction(backward_s), Fraction(update_s))
        for k, time in enumerate(forward_s, 1)
    )
    return Workload("by hand", tuple(layers))


def seconds_of(trace: Trace, *kinds: str) -> list[tuple[str, int, int, Any, Any]]:
    """Rows (kind, worker, batch, start, end) in exact seconds."""
    rows = []
    for kind in kinds:
        for row in trace.of_kind(kind):
            start, end = (int(row[name]) * trace.header.tick_s for name in ("start", "end"))
            rows.append((kind, int(row["worker"]), int(row["batch"]), start, end))
    return rows


def ends_of(trace: Trace, kind: str) -> dict[tuple[int, int], Time]:
    """Second at which (worker, batch) ended."""
    return {(worker, batch): end for _, worker, batch, _, end in seconds_of(trace, kind)}


def versions_of(trace: Trace, kind: str) -> list[tuple[int, int]]:
    return sorted((int(row["batch"]), int(row["version"])) for row in trace.of_kind(kind))


# An instant


@pytest.mark.parametrize(
    ("update_s", "read"),
    [
        # Backward 0 ends at 4, when forward 2 starts: an update of no duration lands before it.
        (0, [(0, 0), (1, 0), (2, 1), (3, 2)]),
        # Updates end at 5 and 8 (the second backward pass takes 5 to 7): forward 3 starts at 6.
        (1, [(0, 0), (1, 0), (2, 0), (3, 1)]),
        # The first update ends at 6: forward 3 starts in that instant and sees it.
        (2, [(0, 0), (1, 0), (2, 0), (3, 1)]),
    ],
)
def test_versions_are_read_after_all_that_lands_in_the_instant(
    update_s: int, read: list[tuple[int, int]]
) -> None:
    schedule = build("async-lu", layers=1, batches=4, backward_threads=1)
    trace = simulate(schedule, workload(2, backward_s=2, update_s=update_s))
    assert versions_of(trace, "forward") == read


def test_completions_of_one_instant_happen_by_worker_number() -> None:
    """Two updates of one block that end together: the lower-numbered worker's lands first."""
    schedule = build("async-lu", layers=1, batches=2, forward_threads=2, backward_threads=2)
    trace = simulate(schedule, workload(1, backward_s=1, update_s=1))
    rows = [tuple(row) for row in trace.of_kind("update")[["worker", "end", "version"]].tolist()]
    assert rows == [(2, 3, 0), (3, 3, 1)]
    assert trace.gradients[["batch", "version_applied"]].tolist() == [(0, 0), (1, 1)]


def test_timed_operations_of_one_instant_start_together() -> None:
    """An update that takes time and a forward pass, both from t: the pass does not see it."""
    schedule = build("async-lu", layers=1, batches=3, backward_threads=1)
    trace = simulate(schedule, workload(1, backward_s=1, update_s=1))
    (update, *_) = seconds_of(trace, "update")
    assert update[3:] == (2, 3)
    assert ("forward", 0, 2, 2, 3) in seconds_of(trace, "forward")
    assert versions_of(trace, "forward")[2] == (2, 0)


def test_a_message_without_a_link_is_used_in_its_own_instant() -> None:
    schedule = build("fdg", modules=2, batches=1)
    trace = simulate(schedule, workload(3, 5, backward_s=7))
    assert seconds_of(trace, "forward", "backward") == [
        ("forward", 0, 0, 0, 3),
        ("forward", 1, 0, 3, 8),
        ("backward", 1, 0, 8, 15),
        ("backward", 0, 0, 15, 22),
    ]


def test_programs_without_any_duration_end_at_once() -> None:
    for name in ("bp", "fdg", "adl", "async-lu", "async-bu"):
        trace = simulate(build(name, batches=5), workload(0, 0, 0, 0))
        assert trace.end == 0
        assert len(trace.gradients) == 20


# Channels


def receiver_and_senders(
    capacity: int | None, starts_s: Iterable[int], receives_at_s: int
) -> tuple[Schedule, Workload]:
    """Senders that send their own number after some time, and a receiver that is busy at first."""
    jobs = [Job(k) for k in range(1, len(list(starts_s)) + 2)]
    pipe = message("pipe", capacity)

    def sender(job: Job) -> Program:
        yield from job.run()
        yield Send(pipe, job.k)

    def receiver() -> Program:
        yield from jobs[-1].run()
        while (yield Receive(pipe)) is not None:
            pass

    senders = [
        job.worker(f"sender {job.k}", partial(sender, job), (pipe,), ()) for job in jobs[:-1]
    ]
    last = jobs[-1].worker("receiver", receiver, (), (pipe,))
    return schedule_of(*senders, last), workload(*starts_s, receives_at_s, 0)


def received(trace: Trace, channel: str) -> list[tuple[int, Time]]:
    number = trace.header.channels.index(channel)
    rows = trace.of_kind("receive")
    rows = rows[rows["block"] == number]
    order = rows[rows["index"].argsort()]
    return [(int(r["batch"]), int(r["end"]) * trace.header.tick_s) for r in order]


def test_blocked_senders_go_first_come_first_served() -> None:
    """Sender 3 comes first and 1 last; the channel has one slot until the receiver looks at 9."""
    schedule, times = receiver_and_senders(1, (3, 2, 1), 9)
    trace = simulate(schedule, times)
    assert received(trace, "pipe") == [(3, 9), (2, 9), (1, 9)]
    sends = {batch: start for _, _, batch, start, _ in seconds_of(trace, "send") if batch}
    assert sends == {3: 1, 2: 9, 1: 9}


def test_senders_that_come_in_one_instant_go_by_number() -> None:
    schedule, times = receiver_and_senders(2, (1, 1, 1), 9)
    assert received(simulate(schedule, times), "pipe") == [(1, 9), (2, 9), (3, 9)]


def test_an_unbounded_channel_takes_everything_at_once() -> None:
    schedule, times = receiver_and_senders(None, (3, 2, 1), 9)
    sends = [row for row in seconds_of(simulate(schedule, times), "send") if row[2]]
    assert {batch: end for _, _, batch, _, end in sends} == {3: 1, 2: 2, 1: 3}


def test_waiting_receivers_go_first_come_first_served() -> None:
    """The second worker waits since 1, the first since 2: that order they are served in."""
    jobs, pipe = [Job(1), Job(2), Job(3)], message("pipe")

    def receiver(job: Job) -> Program:
        yield from job.run()
        yield Receive(pipe)

    def sender() -> Program:
        yield from jobs[2].run()
        yield Send(pipe, 7)
        yield Send(pipe, 8)

    schedule = schedule_of(
        jobs[0].worker("late", lambda: receiver(jobs[0]), (), (pipe,)),
        jobs[1].worker("early", lambda: receiver(jobs[1]), (), (pipe,)),
        jobs[2].worker("sender", sender, (pipe,), ()),
    )
    trace = simulate(schedule, workload(2, 1, 5, 0))
    rows = [row for row in seconds_of(trace, "receive") if row[2] >= 7]
    assert rows == [("receive", 0, 8, 5, 5), ("receive", 1, 7, 5, 5)]


@pytest.mark.parametrize(
    ("busy_s", "sent_s", "latency_s", "answers"),
    [
        (9, (1, 2), 0, ["first", "second", None]),  # both are there: the first listed
        (9, (2, 1), 0, ["first", "second", None]),
        (0, (2, 1), 0, ["second", "first", None]),  # none is there: whichever comes
        (0, (3, 3), 1, ["first", "second", None]),  # both are delivered in one instant
        (0, (3, 3), 0, ["second", "first", None]),  # one sender runs, and only then the other
    ],
)
def test_select_takes_the_first_listed_of_what_is_there(
    busy_s: int, sent_s: tuple[int, int], latency_s: int, answers: list[str | None]
) -> None:
    jobs = [Job(1), Job(2), Job(3)]
    channels = (message("first"), message("second"))
    taken: list[Any] = []

    def sender(job: Job, channel: Channel) -> Program:
        yield from job.run()
        yield Send(channel, 0)

    def receiver() -> Program:
        yield from jobs[2].run()
        while (answer := (yield Select(channels))) is not None:
            taken.append(answer[0].name)
        taken.append(None)

    schedule = schedule_of(
        jobs[2].worker("receiver", receiver, (), channels),
        # The sender to the second channel is the first by number.
        jobs[1].worker("b", lambda: sender(jobs[1], channels[1]), (channels[1],), ()),
        jobs[0].worker("a", lambda: sender(jobs[0], channels[0]), (channels[0],), ()),
    )
    simulate(schedule, workload(*sent_s, busy_s, 0), Cluster.private(latency_s))
    assert taken == answers


def test_a_select_may_take_from_a_source() -> None:
    job = Job(1)
    other = message("other")
    taken: list[Any] = []

    def worker() -> Program:
        while (answer := (yield Select((other, job.source)))) is not None:
            taken.append((answer[0].name, answer[1]))
            batch = answer[1]
            yield Forward(1, batch)
            yield Backward(1, batch)
            yield Send(job.sink, batch)
            yield Update(1)

    schedule = schedule_of(job.worker("worker", worker, (), (other,)), batches=3)
    simulate(schedule, workload(1, 0))
    assert taken == [("source[1]", 0), ("source[1]", 1), ("source[1]", 2)]


def test_a_select_may_name_a_channel_twice() -> None:
    job, pipe = Job(1), message("pipe")
    answers: list[Any] = []

    def sender() -> Program:
        yield from job.run()
        yield Send(pipe, 5)

    def receiver() -> Program:
        answers.append((yield Select((pipe, pipe))))
        answers.append((yield Select((pipe, pipe))))

    schedule = schedule_of(
        job.worker("sender", sender, (pipe,), ()), Worker("receiver", receiver, (), (), (pipe,))
    )
    simulate(schedule, workload(1, 0))
    assert answers == [(pipe, 5), None]


def test_closed_channels_give_none_at_once_and_leave_no_row() -> None:
    job, pipe, unsent = Job(1), message("pipe"), message("nobody sends to it")
    answers: list[Any] = []

    def sender() -> Program:
        yield from job.run()
        yield Send(pipe, 5)

    def receiver() -> Program:
        answers.append((yield Receive(unsent)))
        for _ in range(3):
            answers.append((yield Receive(pipe)))
        answers.append((yield Select((unsent, pipe))))

    schedule = schedule_of(
        job.worker("sender", sender, (pipe,), ()),
        Worker("receiver", receiver, (), (), (unsent, pipe)),
    )
    trace = simulate(schedule, workload(4, 0))
    assert answers == [None, 5, None, None, None]
    [row] = trace.spans[trace.spans["worker"] == 1].tolist()
    assert row == (4, 4, 1, 1, 4, trace.header.channels.index("pipe"), 5, -1)


def test_a_channel_stays_open_while_messages_are_on_their_way() -> None:
    job, pipe = Job(1), message("pipe")
    answers: list[Any] = []

    def sender() -> Program:
        yield from job.run()
        yield Send(pipe, 5)

    def receiver() -> Program:
        answers.append((yield Receive(pipe)))
        answers.append((yield Receive(pipe)))

    schedule = schedule_of(
        job.worker("sender", sender, (pipe,), ()), Worker("receiver", receiver, (), (), (pipe,))
    )
    simulate(schedule, workload(1, 0), Cluster.private(latency_s=10))
    assert answers == [5, None]


# Links


def pipe_of(messages: int) -> tuple[Schedule, Channel]:
    """A worker that makes activations of block 1, one a second, and one that receives them."""
    source = Channel("source", (Item("activation", 0), Item("gradient", 1)), source=True)
    pipe = Channel("pipe", (Item("activation", 1),))
    sink = Channel("sink", (Item("activation", 1),))

    def sender() -> Program:
        while (batch := (yield Receive(source))) is not None:
            yield Forward(1, batch)
            yield Backward(1, batch)
            yield Send(pipe, batch)
            yield Update(1)

    def receiver() -> Program:
        while (batch := (yield Receive(pipe))) is not None:
            yield Send(sink, batch)

    schedule = schedule_of(
        Worker("sender", sender, (1,), (pipe,), (source,)),
        Worker("receiver", receiver, (), (sink,), (pipe,)),
        batches=messages,
        blocks=2,
    )
    return schedule, pipe


def sized_workload(activation_bytes: int) -> Workload:
    layer = Layer("layer", Fraction(1), Fraction(0), activation_bytes=activation_bytes)
    return Workload("sized", (layer, layer))


@pytest.mark.parametrize(
    ("link", "sends", "receives"),
    [
        (Link(), [(1, 1), (2, 2), (3, 3)], [(1, 1), (2, 2), (3, 3)]),
        (Link(latency_s=Fraction(5)), [(1, 1), (2, 2), (3, 3)], [(6, 6), (7, 7), (8, 8)]),
        # 10 bytes at 4 bytes/s hold the wire for 2.5 s: it is free at 3.5, 6, 8.5.
        (
            Link(bytes_per_s=Fraction(4)),
            [(1, 1), (2, 2), (3, 3)],
            [(3.5, 3.5), (6, 6), (8.5, 8.5)],
        ),
        # The wire is serial, the way behind it is not.
        (
            Link(Fraction(5), Fraction(4)),
            [(1, 1), (2, 2), (3, 3)],
            [(8.5, 8.5), (11, 11), (13.5, 13.5)],
        ),
        # Work of both ends: sends at 1-1.5, 2.5-3, 4-4.5, receipts from 1.5, 3, 4.5, 0.25 each.
        (
            Link(send_s=Fraction(1, 2), receive_s=Fraction(1, 4)),
            [(1, 1.5), (2.5, 3), (4, 4.5)],
            [(1.5, 1.75), (3, 3.25), (4.5, 4.75)],
        ),
        # A receiver that is slower than its messages takes them one after the other.
        (
            Link(Fraction(1), None, Fraction(0), Fraction(3)),
            [(1, 1), (2, 2), (3, 3)],
            [(2, 5), (5, 8), (8, 11)],
        ),
    ],
)
def test_links(
    link: Link, sends: list[tuple[Time, Time]], receives: list[tuple[Time, Time]]
) -> None:
    schedule, pipe = pipe_of(3)
    cluster = Cluster((Device("device"),), "private", links={pipe.name: link})
    trace = simulate(schedule, sized_workload(10), cluster)
    found = seconds_of(trace, "send", "receive")
    assert [row[3:] for row in found if row[:2] == ("send", 0)] == sends
    assert [row[3:] for row in found if row[:2] == ("receive", 1)] == receives


def test_a_worker_talks_to_itself_for_nothing() -> None:
    """fdg with one module sends the gradient of the loss to itself; the data has no link."""
    slow = Cluster.private(latency_s=100, bytes_per_s=1)
    layer = Layer("layer", Fraction(1), Fraction(1), activation_bytes=50)
    trace = simulate(build("fdg", modules=1, batches=4), Workload("one", (layer,)), slow)
    assert trace.end * trace.header.tick_s == 8


def test_only_activations_and_gradients_weigh() -> None:
    """Graphs are handed over in place; data weighs `input_bytes`."""
    schedule = build("async-lu", layers=2, batches=1, backward_threads=1)
    layers = tuple(
        Layer(f"layer{k}", Fraction(1), Fraction(1), activation_bytes=10**k, saved_bytes=10**6)
        for k in (1, 2)
    )
    cluster = Cluster.private(bytes_per_s=1)
    costs = Costs.of(schedule, Workload("sized", layers, input_bytes=7), cluster)
    by_name = dict(zip((c.name for c in schedule.channels), costs.delays, strict=True))
    assert by_name["losses"].transmit == 100  # the loss gradient, as large as the last output
    assert by_name["data"].transmit == 0


# Devices


def busy(device: Device | list[Device], placement: Any, durations: Iterable[Time]) -> list[Time]:
    """When jobs end that all start at 0, one per worker."""
    jobs = [Job(k) for k, _ in enumerate(durations, 1)]
    schedule = schedule_of(*(job.worker(f"worker {job.k}", job.run) for job in jobs))
    devices = tuple(device) if isinstance(device, list) else (device,)
    trace = simulate(schedule, workload(*durations, 0), Cluster(devices, placement))
    return [end for _, end in sorted(ends_of(trace, "forward").items())]


@pytest.mark.parametrize(
    ("device", "durations", "ends"),
    [
        # Half speed each until the first is done, with half of the second left.
        (Device("one core"), (2, 4), [4, 6]),
        (Device("one core"), (1, 2, 3), [3, 5, 6]),
        (Device("two cores", cores=2), (2, 4), [2, 4]),
        # Three on two cores: speed 2/3 until 3 s, then full speed.
        (Device("two cores", cores=2), (2, 4, 4), [3, 5, 5]),
        # Measured speeds 1 and 2/3 alone and in pairs: both run at 2/3 until 3 s.
        (Device("listed", speeds=(Fraction(1), Fraction(2, 3))), (2, 4), [3, 5]),
        # Beyond the list the total stays 4/3: three run at 4/9.
        (Device("listed", speeds=(Fraction(1), Fraction(2, 3))), (4, 4, 8), [9, 9, 13]),
        (Device("slow when alone", speeds=(Fraction(1, 2),)), (3,), [6]),
    ],
)
def test_processor_sharing(device: Device, durations: tuple[Time, ...], ends: list[Time]) -> None:
    assert busy(device, "shared", durations) == ends


def test_a_completion_between_two_ticks_is_rounded_up() -> None:
    """1 tick of work each at speed 2/3 is done after 1.5 ticks: at tick 2, and so is the run."""
    device = Device("listed", speeds=(Fraction(1), Fraction(2, 3)))
    assert busy(device, "shared", (1, 1)) == [2, 2]
    # What remains is not rounded: 2 - 2 * 2/3 ticks are left at tick 2, and done at 2 + 2/3.
    assert busy(device, "shared", (1, 2)) == [2, 3]


def test_an_operation_that_starts_later_slows_the_one_that_runs() -> None:
    """Worker 1 runs alone until 1, has 2 of 3 s left, shares at half speed and ends at 5."""
    device = Device("one core")
    jobs, go = [Job(1), Job(2), Job(3)], message("go")

    def late() -> Program:
        yield Receive(go)
        yield from jobs[1].run()

    def herald() -> Program:
        yield from jobs[2].run()
        yield Send(go, 0)

    schedule = schedule_of(
        jobs[0].worker("first", jobs[0].run),
        jobs[1].worker("late", late, (), (go,)),
        jobs[2].worker("herald", herald, (go,), ()),
    )
    trace = simulate(schedule, workload(3, 4, 1, 0), Cluster((device, device), (0, 0, 1)))
    assert ends_of(trace, "forward") == {(0, 0): 5, (1, 0): 7, (2, 0): 1}


def test_devices_do_not_disturb_each_other() -> None:
    devices = [Device("a"), Device("b", cores=2)]
    assert busy(devices, (0, 0, 1, 1), (2, 2, 2, 3)) == [4, 4, 2, 3]


def test_a_placement_must_list_every_worker() -> None:
    with pytest.raises(InputError, match=r"^placement is '1 devices long': must list the device"):
        busy(Device("a"), (0,), (1, 1))


def test_a_workload_must_fit_the_schedule() -> None:
    line = "number of layers in the workload is 3: must equal the 2 blocks of the schedule"
    with pytest.raises(InputError, match=f"^{line}"):
        simulate(build("fdg", modules=2), workload(1, 1, 1))


# Random durations


def durations_of(trace: Trace) -> dict[int, list[int]]:
    """Ticks of each worker's computations, in its order."""
    found: dict[int, list[int]] = {}
    rows = trace.spans[trace.spans["kind"] < 3]
    for row in rows[rows["index"].argsort(kind="stable")]:
        found.setdefault(int(row["worker"]), []).append(int(row["end"] - row["start"]))
    return found


def test_the_nth_duration_of_a_worker_depends_on_nothing_else() -> None:
    schedule = build("fdg", modules=3, batches=6)
    times = workload(1, 1, 1, backward_s=1, update_s=1)
    fast = simulate(schedule, times, jitter=0.5, seed=3)
    slow = simulate(schedule, times, Cluster.private(latency_s=7), jitter=0.5, seed=3)
    assert fast.end != slow.end
    assert durations_of(fast) == durations_of(slow)
    ticks, factor = round(1 / fast.header.tick_s), lognormal(0.5)
    assert durations_of(fast) == {
        worker: [round(ticks * factor.quantile(uniform(3, worker, n))) for n in range(1, 19)]
        for worker in range(3)
    }


@pytest.mark.parametrize("name", ["fdg", "async-lu"])
def test_a_seed_fixes_everything(name: str) -> None:
    def run(seed: int, jitter: float = 0.3) -> Trace:
        schedule = build(name, batches=8)
        return simulate(schedule, workload(1, 1, 1, 1, backward_s=2), jitter=jitter, seed=seed)

    assert (run(1).spans == run(1).spans).all()
    assert (run(1).gradients == run(1).gradients).all()
    assert run(1).end != run(2).end
    assert run(1, jitter=0).end == run(2, jitter=0).end
    assert run(5).header.seed == 5


def test_what_takes_no_time_takes_none_at_random_either() -> None:
    trace = simulate(build("fdg", modules=2, batches=5), workload(1, 1), jitter=0.9, seed=1)
    updates = trace.of_kind("update")
    assert (updates["start"] == updates["end"]).all()


def test_uniform_numbers_are_even_and_differ_in_every_argument() -> None:
    numbers = [uniform(s, w, n) for s in range(10) for w in range(10) for n in range(100)]
    assert len(set(numbers)) == len(numbers)
    counts = [0] * 10
    for number in numbers:
        assert 0 < number < 1
        counts[int(10 * number)] += 1
    # Binomial(10,000, 1/10) has standard deviation 30.
    assert all(abs(count - 1000) < 120 for count in counts)
    assert uniform(-1, 0, 0) == uniform(2**64 - 1, 0, 0) != uniform(0, 0, 0)


# Errors

Run = Callable[[Schedule, Workload], object]


def by_engine(schedule: Schedule, times: Workload) -> object:
    return simulate(schedule, times)


def by_validator(schedule: Schedule, times: Workload) -> object:
    return validate(schedule)


by_both = pytest.mark.parametrize("run", [by_engine, by_validator])


@by_both
def test_a_deadlock_is_shown_as_a_grid(run: Run) -> None:
    """Each of the two works once, then waits for the other; the third has ended."""
    jobs, to, fro = [Job(1), Job(2), Job(3)], message("to"), message("fro")

    def worker(job: Job, receives: Channel, sends: Channel) -> Program:
        yield from job.run()
        yield Receive(receives)
        yield Send(sends, 0)

    schedule = schedule_of(
        jobs[0].worker("ping", lambda: worker(jobs[0], fro, to), (to,), (fro,)),
        jobs[1].worker("pong", lambda: worker(jobs[1], to, fro), (fro,), (to,)),
        jobs[2].worker("bystander", jobs[2].run),
    )
    with pytest.raises(DeadlockError) as caught:
        run(schedule, workload(1, 2, 3, 0))
    first, *grid = str(caught.value).splitlines()
    assert first == "deadlock in own: ping, pong wait for what nobody will send"
    assert "\n".join(grid) == caught.value.grid
    assert grid == [
        "ping       Receive source[1]:0  F1:0  B1:0  Send sink[1]:0  U1  waits at Receive(fro)",
        "pong       Receive source[2]:0  F2:0  B2:0  Send sink[2]:0  U2  waits at Receive(to)",
        "bystander  Receive source[3]:0  F3:0  B3:0  Send sink[3]:0  U3  ended",
    ]


@by_both
def test_a_full_channel_that_nobody_reads_is_a_deadlock(run: Run) -> None:
    job, pipe, back = Job(1), message("pipe", capacity=2), message("back")

    def sender() -> Program:
        for batch in range(3):
            yield Send(pipe, batch)
        yield Send(back, 0)

    def receiver() -> Program:
        yield from job.run()
        yield Receive(back)
        yield Receive(pipe)

    schedule = schedule_of(
        Worker("sender", sender, (), (pipe, back), ()),
        job.worker("receiver", receiver, (), (pipe, back)),
    )
    with pytest.raises(DeadlockError) as caught:
        run(schedule, workload(1, 0))
    first, _ = caught.value.grid.splitlines()
    assert re.split(" {2,}", first) == [
        "sender",
        "Send pipe:0",
        "Send pipe:1",
        "waits at Send(pipe, 2)",
    ]


@by_both
def test_a_select_that_nobody_serves_is_a_deadlock(run: Run) -> None:
    job, a, b = Job(1), message("a"), message("b")

    def worker() -> Program:
        yield from job.run()
        yield Select((a, b))

    schedule = schedule_of(job.worker("worker", worker, (a, b), (a, b)))
    with pytest.raises(DeadlockError, match=r"waits at Select\(a, b\)$"):
        run(schedule, workload(1, 0))


@by_both
def test_the_grid_shows_the_last_steps_of_long_runs(run: Run) -> None:
    job, never = Job(1), message("never")

    def worker() -> Program:
        for _ in range(10):
            yield from job.run()
        yield Receive(never)

    schedule = schedule_of(job.worker("worker", worker, (never,), (never,)), batches=10)
    with pytest.raises(DeadlockError) as caught:
        run(schedule, workload(1, 0))
    assert re.split(" {2,}", caught.value.grid) == [
        "worker",
        "...",
        *("B1:8", "Send sink[1]:8", "U1"),
        *("Receive source[1]:9", "F1:9", "B1:9", "Send sink[1]:9", "U1"),
        "waits at Receive(never)",
    ]


SOURCE = Job(1).source
SPARE = Channel("spare", SOURCE.carries, source=True)
PIPE = Channel("pipe", (Item("activation", 1),))


def forwards_twice() -> Program:
    batch = yield Receive(SOURCE)
    yield Forward(1, batch)
    yield Forward(1, batch)


def goes_backward_first() -> Program:
    batch = yield Receive(SOURCE)
    yield Backward(1, batch)


def goes_backward_twice() -> Program:
    batch = yield Receive(SOURCE)
    yield Forward(1, batch)
    yield Backward(1, batch)
    yield Backward(1, batch)


def updates_without_gradient() -> Program:
    batch = yield Receive(SOURCE)
    yield Forward(1, batch)
    yield Update(1)


def updates_twice() -> Program:
    batch = yield Receive(SOURCE)
    yield Forward(1, batch)
    yield Backward(1, batch)
    yield Update(1)
    yield Update(1)


def sends_before_forward() -> Program:
    batch = yield Receive(SOURCE)
    yield Send(PIPE, batch)


def sends_another_batch() -> Program:
    batch = yield Receive(SOURCE)
    yield Forward(1, batch)
    yield Send(PIPE, batch + 1)


def receives_twice() -> Program:
    yield Receive(SOURCE)
    yield Receive(SPARE)


def selects_what_it_holds() -> Program:
    yield Receive(SOURCE)
    yield Select((PIPE, SPARE))


def ends_with_an_input() -> Program:
    yield Receive(SOURCE)


def ends_without_update() -> Program:
    batch = yield Receive(SOURCE)
    yield Forward(1, batch)
    yield Send(PIPE, batch)
    yield Backward(1, batch)


def computes_with_a_strange_block() -> Program:
    batch = yield Receive(SOURCE)
    yield Forward(2, batch)


def sends_to_a_strange_channel() -> Program:
    yield Send(SPARE, 0)


def receives_from_a_strange_channel() -> Program:
    yield Receive(message("strange"))


def selects_a_strange_channel() -> Program:
    yield Select((SOURCE, message("strange")))


def selects_nothing() -> Program:
    yield Select(())


def yields_a_class() -> Program:
    yield Forward  # type: ignore[misc]


ILLEGAL: Mapping[Callable[[], Program], str] = {
    forwards_twice: "may not do Forward(1, 0): holds no activation of block 0 for batch 0",
    goes_backward_first: "may not do Backward(1, 0): holds no graph of block 1 for batch 0",
    goes_backward_twice: "may not do Backward(1, 0): holds no graph of block 1 for batch 0",
    updates_without_gradient: (
        "may not do Update(1): no gradient of this block has been computed since"
    ),
    updates_twice: "may not do Update(1): no gradient of this block has been computed since",
    sends_before_forward: "may not do Send(pipe, 0): holds no activation of block 1 for batch 0",
    sends_another_batch: "may not do Send(pipe, 1): holds no activation of block 1 for batch 1",
    receives_twice: (
        "may not do Receive(spare): already holds the activation of block 0 for batch 0"
    ),
    selects_what_it_holds: (
        "may not do Select(pipe, spare): already holds the activation of block 0 for batch 0"
    ),
    ends_with_an_input: "ended holding the activation of block 0 for batch 0, unused",
    ends_without_update: "ended with unapplied gradients of block 1, batches [0]",
    computes_with_a_strange_block: (
        "may not do Forward(2, 0): it must declare what it computes with"
    ),
    sends_to_a_strange_channel: "may not do Send(spare, 0): it must declare what it sends to",
    receives_from_a_strange_channel: (
        "may not do Receive(strange): it must declare what it receives from"
    ),
    selects_a_strange_channel: (
        "may not do Select(source[1], strange): it must declare what it receives from"
    ),
    selects_nothing: "may not do Select(): it must declare what it receives from",
    yields_a_class: f"may not do {Forward!r}: it is no operation of simcore.ops",
}


@by_both
@pytest.mark.parametrize("program", ILLEGAL, ids=lambda program: program.__name__)
def test_illegal_programs(run: Run, program: Callable[[], Program]) -> None:
    worker = Worker("the worker", program, (1,), (PIPE,), (SOURCE, SPARE, PIPE))
    line = f"the worker {ILLEGAL[program]}"
    # The validator shows below what the workers did.
    with pytest.raises(IllegalOperationError, match=rf"^{re.escape(line)}(\n|$)"):
        run(schedule_of(worker), workload(1, 0))


def test_progress_counts_gradients() -> None:
    told: list[int] = []
    schedule = build("adl", modules=2, batches=7, accumulation=3)
    simulate(schedule, workload(1, 1), progress=told.append)
    assert sum(told) == 14
    assert max(told) == 3


def test_the_header_says_what_the_trace_is_of() -> None:
    schedule = build("fdg", modules=2, batches=3)
    header = simulate(schedule, workload("1/3", "1/4"), jitter=0.0, seed=9).header
    assert (header.origin, header.schedule, header.options) == (
        "simulated",
        "fdg",
        schedule.options,
    )
    assert (header.blocks, header.batches, header.seed) == (2, 3, 9)
    assert header.workers == ("module 1", "module 2")
    assert header.channels == ("data", "gradients[1]", "activations[2]", "gradients[2]")
    assert header.tick_s == Fraction(1, 12)
    assert header.about == {"engine": "simpy", "jitter": 0.0}


def test_weight_rules_reach_the_trace() -> None:
    """Two backward threads that assign: the second overwrites the first, and the trace says so."""
    options: dict[str, Any] = {"layers": 1, "batches": 2, "forward_threads": 2}
    schedule = build("async-lu", write="assign", **options)
    assert schedule.weights == WeightRules("mixed", "assign")
    trace = simulate(schedule, workload(1, backward_s=1))
    columns = ["version_applied", "version_base"]
    assert trace.gradients[columns].tolist() == [(0, 0), (1, 0)]
