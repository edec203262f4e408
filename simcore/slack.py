"""How much latency a schedule hides, by simulation.

The *slack* of a link is the latency at which throughput first falls, the other links as given. "All
lockings broken" is not "latency-tolerant": FDG over even modules has no slack at all. What latency
takes, a wider window of batches in flight gives back, at the price of staleness.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, Final

from simcore.cluster import Cluster
from simcore.engines import Engine, simulate
from simcore.errors import InputError
from simcore.schedule import Schedule
from simcore.schedules import rebuild
from simcore.validate import validate
from simcore.window import finish_times, mean_interval, take_times
from simcore.workload import Workload

__all__ = ["Slack", "cluster_slack", "link_slacks", "pace_s", "slack_values", "smallest_in_flight"]

# A slack is looked for up to so many times the time of a batch, and, where it is not exact, to so
# small a part of that time.
_FARTHEST: Final = 16
_TOLERANCE: Final = Fraction(1, 1024)
_MOST_SECANTS: Final = 32
_MOST_IN_FLIGHT: Final = 64


@dataclass(frozen=True, slots=True)
class Slack:
    """The largest latency that a link hides, `slack_s`; `channel` is None for all links together.

    It is exact, or at most `tolerance_s` too small. None: throughput falls at no latency up to
    `searched_s`.
    """

    channel: str | None
    slack_s: Fraction | None
    tolerance_s: Fraction
    searched_s: Fraction


def pace_s(
    schedule: Schedule, blocks: Workload, cluster: Cluster, engine: Engine = "compiled"
) -> Fraction | None:
    """Seconds from one finished mini-batch to the next, exact in a periodic regime.

    The programs are run for as many batches as the schedule has, and at least for as many as
    pipelines take to come to their pace. None if they do not finish two before the data run out.
    """
    batches = max(int(str(schedule.options["batches"])), 60 + 20 * schedule.blocks)
    longer = rebuild(schedule, batches=batches)
    trace = simulate(longer, blocks, cluster, engine=engine)
    finished = finish_times(trace)
    interval = mean_interval(finished[finished <= take_times(trace)[-1]])
    return None if interval is None else interval * trace.header.tick_s * longer.micro_batches


def link_slacks(
    schedule: Schedule, blocks: Workload, cluster: Cluster, engine: Engine = "compiled"
) -> tuple[Slack, ...]:
    """The slack of each link between workers, the others as the cluster gives them."""

    def slack(channel: str) -> Slack:
        link = cluster.link_of(channel)

        def with_latency(latency_s: Fraction) -> Cluster:
            slower = replace(link, latency_s=latency_s)
            return replace(cluster, links={**cluster.links, channel: slower})

        return _slack(channel, schedule, blocks, with_latency, engine)

    return tuple(
        slack(channel.name)
        for channel in schedule.channels
        if not channel.source and not schedule.is_local(channel) and schedule.receivers[channel]
    )


def cluster_slack(
    schedule: Schedule, blocks: Workload, cluster: Cluster, engine: Engine = "compiled"
) -> Slack:
    """The largest latency that all links together hide, if it is the same for all."""
    return _slack(None, schedule, blocks, partial(_with_latency, cluster), engine)


def smallest_in_flight(
    schedule: Schedule, blocks: Workload, cluster: Cluster, engine: Engine = "compiled"
) -> int | None:
    """The smallest `in_flight` with which the cluster's latencies cost no throughput.

    The pace to win back is that of the schedule as it is on links without latency. None if no
    window of up to 64 batches does it.

    Raises:
        InputError: the schedule has no `in_flight`.
    """
    if "in_flight" not in schedule.options:
        rule = "has no option in_flight"
        raise InputError("schedule", schedule.name, rule, "choose one with a window of its own")
    wanted = pace_s(schedule, blocks, _with_latency(cluster, Fraction(0)), engine)

    def keeps_pace(in_flight: int) -> bool:
        pace = pace_s(rebuild(schedule, in_flight=in_flight), blocks, cluster, engine)
        return pace is not None and wanted is not None and pace <= wanted

    # Each in turn: programs that choose may be slower with a wider window.
    return next(filter(keeps_pace, range(1, _MOST_IN_FLIGHT + 1)), None)


def slack_values(
    schedule: Schedule, blocks: Workload, cluster: Cluster, engine: Engine = "compiled"
) -> dict[str, Any]:
    """Slacks as JSON values: of every link, of all together, and the window that wins it back.

    `in_flight` is null for schedules without such a window. Simulates many times.
    """
    windowed = "in_flight" in schedule.options
    given = schedule, blocks, cluster, engine
    slacks = [*link_slacks(*given), cluster_slack(*given)]
    return {
        "links": [_values(slack) for slack in slacks[:-1]],
        "all_links": _values(slacks[-1]),
        "in_flight": smallest_in_flight(*given) if windowed else None,
    }


def _values(slack: Slack) -> dict[str, Any]:
    return {
        "channel": slack.channel,
        "slack_s": None if slack.slack_s is None else float(slack.slack_s),
        "tolerance_s": float(slack.tolerance_s),
        "searched_s": float(slack.searched_s),
    }


def _with_latency(cluster: Cluster, latency_s: Fraction) -> Cluster:
    return replace(
        cluster,
        link=replace(cluster.link, latency_s=latency_s),
        links={name: replace(link, latency_s=latency_s) for name, link in cluster.links.items()},
    )


def _slack(
    channel: str | None,
    schedule: Schedule,
    blocks: Workload,
    with_latency: Callable[[Fraction], Cluster],
    engine: Engine,
) -> Slack:
    """Where the pace, which rises with the latency, leaves the one without latency.

    If no program depends on timing, all starts are maxima of sums of durations, and the pace is a
    convex, piecewise linear function of the latency. Then secants through two points beyond the
    slack come down to it from above, and the one through two points of the first rising piece meets
    it exactly. Otherwise, or should that not come to an end, the interval is halved.
    """

    best = pace_s(schedule, blocks, with_latency(Fraction(0)), engine)
    if not best:
        return Slack(channel, None, Fraction(0), Fraction(0))

    def lost(latency_s: Fraction) -> Fraction:
        pace = pace_s(schedule, blocks, with_latency(latency_s), engine) or best
        return pace - best

    farthest = _FARTHEST * best
    latency, loss = farthest, lost(farthest)
    if not loss:
        return Slack(channel, None, Fraction(0), farthest)
    if validate(schedule, orders=0).conclusive:
        farther, loss_farther = 2 * farthest, lost(2 * farthest)
        for _ in range(_MOST_SECANTS):
            if loss_farther <= loss:
                break
            met = latency - loss * (farther - latency) / (loss_farther - loss)
            farther, loss_farther, latency = latency, loss, max(Fraction(0), met)
            if not (loss := lost(latency)):
                return Slack(channel, latency, Fraction(0), farthest)
    return _halved(channel, lost, farthest, best * _TOLERANCE)


def _halved(
    channel: str | None,
    lost: Callable[[Fraction], Fraction],
    farthest: Fraction,
    tolerance: Fraction,
) -> Slack:
    low, high = Fraction(0), farthest
    while high - low > tolerance:
        middle = (low + high) / 2
        low, high = (low, middle) if lost(middle) else (middle, high)
    return Slack(channel, low, high - low, farthest)
