"""What holds of pauses, losses and stragglers, whatever the schedule and its costs."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.faults import Loss, Pause, Straggler
from simcore.invariants import check_trace, operations_of
from simcore.schedule import Schedule
from simcore.schedules import build, find
from simcore.testing import Simulation, simulations, times
from simcore.trace import Trace
from simcore.workload import Workload

# Each of their workers has one fixed order of operations, so that times are maxima of sums.
IN_FIXED_ORDER = ("bp", "fdg", "adl")
ADAPTIVE = ("async-lu", "async-bu")
lengths = times().filter(bool)


@st.composite
def schedules(draw: st.DrawFn, *names: str) -> Schedule:
    """Schedules of all sizes; what one gets depends on nobody but who sends it."""
    name = draw(st.sampled_from(names))
    sizes = {find(name).blocks_option: draw(st.integers(1, 4)), "batches": draw(st.integers(1, 9))}
    if name in ADAPTIVE:
        sizes["forward_threads"] = draw(st.integers(1, 2))
        sizes["backward_threads"] = draw(st.integers(1, 3))
    return build(name, **sizes)


@st.composite
def pauses(draw: st.DrawFn, workers: int) -> tuple[Pause, ...]:
    some = st.builds(Pause, st.integers(0, workers - 1), lengths, times().map(lambda s: 3 * s))
    return tuple(draw(st.lists(some, min_size=1, max_size=3)))


def end_s(trace: Trace) -> Fraction:
    return trace.end * trace.header.tick_s


def rerun(simulation: Simulation, change: Callable[[Cluster], Cluster]) -> Trace:
    return replace(simulation, cluster=change(simulation.cluster)).run()


@given(simulations(schedules(*IN_FIXED_ORDER), placed=False, random=False), st.data())
def test_pauses_delay_a_fixed_order_by_no_more_than_they_last(
    simulation: Simulation, data: st.DataObject
) -> None:
    found = data.draw(pauses(len(simulation.schedule.workers)))
    usual, paused = simulation.run(), rerun(simulation, lambda c: replace(c, pauses=found))
    assert end_s(usual) <= end_s(paused) <= end_s(usual) + sum(pause.for_s for pause in found)
    assert operations_of(paused) == operations_of(usual)


def test_a_pause_of_one_who_shares_a_queue_can_cost_more_than_it_lasts() -> None:
    # One batch, a second each way. While the first backward thread pauses for a second, the loss
    # comes and goes to the other, which is ten times slower: the end is at 1 + 10 instead of 2.
    schedule = build("async-lu", layers=1, batches=1)
    slow = replace(Cluster.private(), stragglers=(Straggler(2, Fraction(10)),))
    paused = replace(slow, pauses=(Pause(1, Fraction(1), at_s=Fraction(1, 2)),))
    ends = [end_s(simulate(schedule, Workload.even(1, 1, 1), each)) for each in (slow, paused)]
    assert ends == [2, 11]


@given(simulations(schedules(*IN_FIXED_ORDER, *ADAPTIVE)), st.data())
def test_a_paused_run_is_a_whole_run(simulation: Simulation, data: st.DataObject) -> None:
    found = data.draw(pauses(len(simulation.schedule.workers)))
    check_trace(simulation.schedule, rerun(simulation, lambda c: replace(c, pauses=found)))


def depend_on(schedule: Schedule, lost: int) -> set[int]:
    """The workers that receive what it sends, what those send, and so on."""
    found, new = {lost}, {lost}
    while new:
        sent = {channel for worker in new for channel in schedule.workers[worker].sends}
        new = {receiver for channel in sent for receiver in schedule.receivers[channel]} - found
        found |= new
    return found - {lost}


@given(simulations(schedules(*IN_FIXED_ORDER, *ADAPTIVE)), st.data())
def test_a_loss_starves_those_that_depend_on_it(
    simulation: Simulation, data: st.DataObject
) -> None:
    """All of them if it is lost at once; later only those, but for whoever needs nothing more."""
    schedule = simulation.schedule
    lost = data.draw(st.integers(0, len(schedule.workers) - 1))
    moment = data.draw(times())
    trace = rerun(simulation, lambda c: replace(c, losses=(Loss(lost, at_s=moment),)))
    names = {schedule.workers[worker].name for worker in depend_on(schedule, lost)}
    waiting = trace.header.about.get("waiting", {}).keys()
    assert waiting <= names
    if not moment:
        assert waiting == names
        assert not (trace.spans["worker"] == lost).any()
    if "lost" not in trace.header.about:
        assert operations_of(trace) == operations_of(simulation.run())


@given(
    st.integers(1, 4),
    st.sampled_from([Fraction(1), Fraction(3, 2), Fraction(7, 3), Fraction(4)]),
    st.data(),
)
def test_a_straggler_sets_the_pace_of_fdg(
    modules: int, factor: Fraction, data: st.DataObject
) -> None:
    """Even modules: once the pipeline is full, a batch takes the straggler's forward + backward."""
    slow = data.draw(st.integers(0, modules - 1))
    cluster = replace(Cluster.private(), stragglers=(Straggler(slow, factor),))
    workload = Workload.even(modules, modules, 2)
    trace = simulate(build("fdg", modules=modules, batches=30), workload, cluster)
    rows = trace.of_kind("backward")
    for worker in range(modules):
        ends = rows["end"][rows["worker"] == worker][15:25] * trace.header.tick_s
        assert set(ends[1:] - ends[:-1]) == {3 * factor}


@given(simulations(losses=True))
def test_what_a_loss_leaves_is_sound(simulation: Simulation) -> None:
    trace = simulation.run()
    check_trace(simulation.schedule, trace, partial="lost" in trace.header.about)
