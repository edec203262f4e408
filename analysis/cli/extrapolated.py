"""`gradlag simulate` for more batches than a trace can hold: what repeats is counted, not run."""

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from analysis.cli.options import FLAGS
from analysis.cli.output import Bar, console, note
from analysis.cli.sizes import refuse_if_too_large
from analysis.cli.views import print_facts, print_gaps, seconds, size, workers
from simcore.errors import InputError
from simcore.schedules import build, check_together, find

if TYPE_CHECKING:
    from simcore.cluster import Cluster
    from simcore.engines import Engine
    from simcore.schedule import Schedule
    from simcore.workload import Workload

__all__ = ["extrapolated", "found_simulated", "is_for_batches", "show_long", "small"]

_BATCHES: Final = 100
_MOST_BATCHES: Final = 10**100  # figures of more may not be floats
_BOTTLENECK_EVENTS: Final = 30_000  # a recording of so many takes a fraction of a second


def is_for_batches(schedule: str, given: Mapping[str, object], limit: str) -> bool:
    """Whether the trace of a schedule is estimated to need more memory than the limit, and that
    because of its many batches.
    """
    few = {**given, "batches": _few({**find(schedule).defaults, **given})}
    return _is_too_large(schedule, given, limit) and not _is_too_large(schedule, few, limit)


def _is_too_large(schedule: str, given: Mapping[str, object], limit: str) -> bool:
    try:
        refuse_if_too_large(schedule, given, limit)
    except InputError as error:
        if error.what != "estimated memory":
            raise
        return True
    return False


def _few(given: Mapping[str, object]) -> int:
    """Batches of the schedule that stands for the long one."""
    batches, replicas = given.get("batches", _BATCHES), given.get("replicas", 1)
    assert isinstance(batches, int)
    assert isinstance(replicas, int)
    return min(batches, max(_BATCHES, replicas))


def small(schedule: str, given: Mapping[str, object]) -> "Schedule":
    """The schedule with few batches, to be made longer; checks that its options go together."""
    check_together(schedule, FLAGS, given)
    few = _few({**find(schedule).defaults, **given})
    return build(schedule, flags=FLAGS, **{**given, "batches": few})


def extrapolated(
    built: "Schedule",
    blocks: "Workload",
    where: "Cluster",
    batches: int,
    engine: "Engine",
    seed: int,
) -> dict[str, Any]:
    """The document of a run of so many batches, without making its trace.

    Raises `InputError` where its workers are lost or pause, or it has too many modules or batches.
    """
    if batches > _MOST_BATCHES:
        given = f"{Decimal(batches):.3g}"
        raise InputError("--batches", given, "must be at most 10^100", "give fewer")

    from simcore.long_summary import summarize_long
    from simcore.steady import long_run

    with Bar(f"extrapolating {built.name}", log=False) as bar:
        found = long_run(built, blocks, where, batches, engine=engine, progress=bar.stage)
        bar.stage("looking for what bounds it")
        document = summarize_long(found, built, blocks, where, seed)
    if found.how == "estimated":
        note(f"estimated, not simulated: {found.ground}")
    return document


def found_simulated(
    built: "Schedule", blocks: "Workload", where: "Cluster", random: bool
) -> dict[str, Any]:
    """How the figures of a simulation were found, and what bounds it, as JSON values.

    The bottleneck of a large schedule takes longer to find than a simulation, and is left out; so
    it is for random times, for they have none.
    """
    from simcore.long_summary import found_values

    most = 0 if random else _BOTTLENECK_EVENTS
    ground = "the whole run was simulated"
    found = found_values("simulated", ground, None, built, blocks, where, most)
    if random:
        found["bottleneck"]["text"] = "durations are random"
    return found


def show_long(summary: Mapping[str, Any]) -> None:
    """The document of a long run, in short, to read."""
    screen = console()
    shown = find(summary["schedule"]).shown(summary["options"])
    options = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())
    print_facts(screen, summary["schedule"], f"({options})", list(_facts(summary)))
    if summary["gaps"] is not None:
        print_gaps(screen, summary["gaps"])


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("makespan", seconds(summary["makespan_s"])),
        ("backpropagation alone", seconds(summary["sequential_s"])),
    ]
    if summary["speedup"] is not None:
        facts.append(("speedup", f"{summary['speedup']:.2f}x"))
    if summary["steady_batch_s"] is not None:
        facts.append(("steady state", f"{seconds(summary['steady_batch_s'])} per batch"))
    if summary["utilization"] is not None:
        share = f"{summary['utilization']:.1%} of {workers(summary['workers'])}"
        facts.append(("utilization", share))
    if summary["peak_in_flight"] is not None:
        peaks = ", ".join(map(str, summary["peak_in_flight"][:8]))
        more = ", ..." if len(summary["peak_in_flight"]) > 8 else ""
        facts.append(("most batches in flight", f"{peaks}{more} (blocks 1, 2, ...)"))
    if summary["memory"] is not None:
        worst = max(summary["memory"], key=lambda worker: worker["peak_bytes"])
        facts.append(("most memory", f"{size(worst['peak_bytes'])} in {worst['worker']}"))
    facts.append(("how found", f"{summary['how']}: {summary['ground']}"))
    if summary["bottleneck"]["cycle"]:
        facts.append(("bottleneck", summary["bottleneck"]["text"]))
    return facts
