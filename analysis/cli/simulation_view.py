"""What a simulation found, to read: a few facts, the F:B law, gaps, workers, a timetable."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from analysis.cli.views import (
    digits,
    print_facts,
    print_gaps,
    print_table,
    print_timetable,
    seconds,
    size,
    workers,
)

if TYPE_CHECKING:
    from rich.console import Console

    from simcore.trace import Trace

__all__ = ["print_simulation"]

_MOST_VALUES: Final = 6  # of a list, one for each block
_MOST_WORKERS: Final = 24
_BUSY: Final = ("computing", "sending", "receiving", "reducing")
_ENDS: Final = ("early", "done")


def print_simulation(screen: "Console", summary: Mapping[str, Any], trace: "Trace") -> None:
    """The document of `gradlag simulate`, in short."""
    options = ", ".join(f"{name} {value}" for name, value in _shown_options(summary).items())
    print_facts(screen, summary["schedule"], f"({options})", _facts(summary))
    if summary["law"] is not None:
        _print_law(screen, summary["law"])
    print_gaps(screen, summary["gaps"], beside=_beside_gaps(summary))
    if "replicas" in summary:
        _print_replicas(screen, summary["replicas"])
    _print_workers(screen, summary)
    print_timetable(screen, trace)


def _shown_options(summary: Mapping[str, Any]) -> dict[str, object]:
    from simcore.schedules import find

    shown = find(summary["schedule"]).shown(summary["options"])
    return {name.replace("_", " "): value for name, value in shown.items()}


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("makespan", seconds(summary["makespan_s"])),
        ("backpropagation alone", seconds(summary["sequential_s"])),
        ("speedup", _speedup(summary)),
        ("steady state", _steady(summary)),
        ("utilization", f"{summary['utilization']:.1%} of {workers(summary['workers'])}"),
        ("most batches in flight", _listed(summary["peak_in_flight"], str)),
    ]
    if len(summary["peak_in_flight"]) > 1:
        facts[-1] = (facts[-1][0], f"{facts[-1][1]} (blocks 1, 2, ...)")
    if summary["batches_per_update"] != 1:
        facts.append(("an update sees", _samples(summary)))
    if summary["memory"] is not None:
        facts.append(_worst_memory(summary["memory"]))
    queues = [link for link in summary["traffic"] if (link["most_messages"] or 0) > 1]
    if queues:
        longest = max(queues, key=lambda link: link["most_messages"])
        mean = digits(longest["mean_messages"])
        found = f"at most {longest['most_messages']} messages, {mean} on average"
        facts.append(("longest queue", f"{longest['link']}: {found}"))
    if summary["growth_per_batch"] is not None:
        growth = f"{summary['growth_per_batch']:.3g} of each batch taken stays in the queue"
        facts.append(("growth without bound", growth))
    if any(summary["lost_updates"]):
        facts.append(("lost updates", f"{sum(summary['lost_updates'])} were overwritten"))
    if summary["bottleneck"]["cycle"]:
        facts.append(("bottleneck", summary["bottleneck"]["text"]))
    facts += _ties(summary)
    if "slack" in summary:
        facts += _slack(summary["slack"])
    for name, moment_s in summary.get("lost", {}).items():
        facts.append((f"{name} was lost", f"after {seconds(moment_s)}"))
    for name, operation in summary.get("waiting", {}).items():
        facts.append((f"{name} waits", f"for ever, at {operation}"))
    return facts


def _speedup(summary: Mapping[str, Any]) -> str:
    if summary["speedup"] is None or summary["equal_speedup"] == summary["speedup"]:
        return _times(summary["speedup"])
    equal = _times(summary["equal_speedup"])
    return f"{_times(summary['speedup'])}, {equal} over backpropagation that updates as rarely"


def _samples(summary: Mapping[str, Any]) -> str:
    batches, samples = summary["batches_per_update"], summary["samples_per_update"]
    return f"{batches} batches" + ("" if samples is None else f", {samples} samples")


def _steady(summary: Mapping[str, Any]) -> str:
    if "lost" in summary:
        return "none, for a worker was lost"
    if summary["steady_batch_s"] is None:
        more = "batches in flight grow" if summary["growth_per_batch"] else "give more --batches"
        return f"none was reached ({more})"
    batch = seconds(summary["steady_batch_s"])
    return f"{batch} per batch, speedup {_times(summary['steady_speedup'])}"


def _times(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}x"


def _listed(values: Sequence[Any], shown: Callable[[Any], str]) -> str:
    """The first values of a list with one for each block.

    >>> _listed([1, 2, 3, 4, 5, 6, 7, 8], str)
    '1, 2, 3, 4, 5, ..., 8'
    """
    if len(values) <= _MOST_VALUES:
        return ", ".join(map(shown, values))
    return ", ".join([*map(shown, values[: _MOST_VALUES - 1]), "...", shown(values[-1])])


def _worst_memory(memory: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The worker that needs the most, and for what, the largest first."""
    worst = max(memory, key=lambda worker: worker["peak_bytes"])
    parts = {
        key.removesuffix("_bytes"): value
        for key, value in worst.items()
        if key.endswith("_bytes") and key != "peak_bytes" and value
    }
    largest = sorted(parts, key=lambda name: -parts[name])
    of_what = ", ".join(f"{name} {size(parts[name])}" for name in largest)
    return "most memory", f"{size(worst['peak_bytes'])} in {worst['worker']}: {of_what}"


def _ties(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    if summary["tie_sensitive"] is None:
        return [("ties", "not examined")]
    if not summary["tie_sensitive"]:
        return []
    widest = max(summary["tie_range"], key=lambda each: each["mean"][1] - each["mean"][0])
    low, high = (f"{mean:.2f}" for mean in widest["mean"])
    moved = f"the mean of block {widest['block']} from {low} to {high}"
    if low == high:
        moved = f"those of block {widest['block']} between {widest['min']} and {widest['max']}"
    batches = summary["tie_examined"]["batches"]
    why = "some gaps depend on the order of events at the same moment"
    return [("ties", f"{why}: {moved}, over {batches} batches")]


def _slack(slack: Mapping[str, Any]) -> list[tuple[str, str]]:
    def hidden(found: Mapping[str, Any]) -> str:
        return "any" if found["slack_s"] is None else seconds(found["slack_s"])

    facts = [("latency hidden", f"{hidden(slack['all_links'])}, if all links have it")]
    limited = [link for link in slack["links"] if link["slack_s"] is not None]
    if limited:
        least = min(limited, key=lambda link: link["slack_s"])
        facts.append(("least on one link", f"{hidden(least)}, {least['channel']}"))
    if slack["in_flight"] is not None:
        facts.append(("window without loss", f"--in-flight {slack['in_flight']}"))
    return facts


def _print_law(screen: "Console", law: Mapping[str, Any]) -> None:
    """What the F:B law says of Async BP, beside what the run shows."""
    measured = law["measured"]
    shown: dict[str, tuple[str, Callable[[Any], str]]] = {
        "batch_s": ("time of a batch", seconds),
        "growth_per_batch": ("growth per batch", digits),
        "queue_length": ("queue length", digits),
        "batches_in_flight": ("batches in flight", lambda values: _listed(values, digits)),
        "mean_gap": ("mean gap", lambda values: _listed(values, digits)),
    }
    if not law["growth_per_batch"]:
        del shown["growth_per_batch"]
    rows = [
        (
            name,
            "grows" if law[key] is None else show(law[key]),
            "-" if measured[key] is None else show(measured[key]),
        )
        for key, (name, show) in shown.items()
    ]
    print_table(screen, ("F:B law", "law", "measured, steady"), rows)
    needed = law["backward_threads_needed"]
    threads = f"{needed['for_pace']} keep pace, with {needed['for_no_wait']} no batch waits"
    screen.print(f"  backward threads: {threads}")


def _print_replicas(screen: "Console", replicas: Mapping[str, Any]) -> None:
    """Quantiles over all runs; those of gaps only where they differ between runs."""
    shown: dict[str, tuple[Mapping[str, float | None], Callable[[Any], str]]] = {
        "makespan": (replicas["makespan_s"], seconds),
        "batches per second": (replicas["batches_per_s"], digits),
        "speedup": (replicas["speedup"], lambda value: f"{value:.2f}x"),
    }
    for gaps in replicas["gaps"]:
        for key, heading in (("mean", "mean gap"), ("max", "largest gap")):
            if len({*gaps[key].values()}) > 1:
                shown[f"{heading}, block {gaps['block']}"] = gaps[key], digits
    rows = [
        (name, *("-" if value is None else show(value) for value in values.values()))
        for name, (values, show) in shown.items()
    ]
    heads = [f"{percent} %" for percent in replicas["makespan_s"]]
    print_table(screen, (f"{replicas['runs']} runs", *heads), rows)
    if len(rows) == 3:
        screen.print("  gaps are the same in all runs")


def _beside_gaps(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """More columns of the table of gaps, those that say anything."""
    blocks, found = len(summary["gaps"]), {}
    waits = {each["block"]: each["mean"] for each in summary["time_staleness_s"]}
    if any(waits.values()):
        found["until update"] = ["-" if each is None else seconds(each) for each in waits.values()]
    laws = {law["block"]: law for law in summary["sojourn"] or () if not law["replica"]}
    if any(abs(law["excess"]) >= 0.005 for law in laws.values()):
        for heading, key in (("floor", "floor"), ("excess", "excess")):
            values = (laws.get(block) for block in range(1, blocks + 1))
            found[heading] = ["-" if law is None else digits(law[key]) for law in values]
    return found


def _print_workers(screen: "Console", summary: Mapping[str, Any]) -> None:
    """What share of the makespan each worker spends on what; columns of zeros are left out."""
    makespan_s = summary["makespan_s"] or 1.0
    columns = {
        "busy": _BUSY,
        "starved": ("starved",),
        "blocked": ("blocked",),
        "waiting": ("waiting",),
        "other": ("other",),
        "start, end": _ENDS,
    }
    shares = {
        name: [sum(worker[f"{state}_s"] for state in states) / makespan_s for worker in shown]
        for name, states in columns.items()
        for shown in [summary["occupancy"][:_MOST_WORKERS]]
    }
    kept = [name for name in columns if name == "busy" or any(shares[name])]
    rows = [
        (worker["worker"], *(f"{shares[name][row]:.1%}" for name in kept))
        for row, worker in enumerate(summary["occupancy"][:_MOST_WORKERS])
    ]
    print_table(screen, ("worker", *kept), rows)
    if more := len(summary["occupancy"]) - len(rows):
        screen.print(f"  ... and {more} more workers; --json has them all")
