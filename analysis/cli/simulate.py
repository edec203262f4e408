"""`gradlag simulate`: what a schedule will do, predicted."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from analysis.cli.costs import CostFlags, Costs, LinkFlags, refuse_unfit
from analysis.cli.extrapolated import (
    extrapolated,
    found_simulated,
    is_for_batches,
    show_long,
    small,
)
from analysis.cli.options import (
    COMMON,
    FLAGS,
    Json,
    Out,
    Schedule,
    Seed,
    flag,
    read_options,
    with_flags,
)
from analysis.cli.output import Bar, console, folder, note, print_json, write_json
from analysis.cli.sizes import MemoryLimit, refuse_if_too_large
from analysis.cli.values import MOST_SEED, number, one_of, whole
from simcore.errors import InputError
from simcore.schedules import build, find

if TYPE_CHECKING:
    from simcore.cluster import Cluster
    from simcore.durations import Variations
    from simcore.engines import Engine
    from simcore.schedule import Schedule as Built
    from simcore.trace import Trace
    from simcore.workload import Workload

__all__ = ["EXAMPLES", "NAME", "command"]

Slack = Annotated[
    bool,
    typer.Option(
        "--slack",
        help="how much latency each link hides, too; simulates many times, without random times",
        rich_help_panel=COMMON,
    ),
]

NAME: Final = "simulate"
EXAMPLES: Final = """\
# Eight batches through four modules, drawn as a timetable
gradlag simulate fdg --batches 8
# Backward takes 2.5 times as long as forward: three threads keep up
gradlag simulate async-lu --backward-ratio 2.5 --backward-threads 3 --layers 12
# A slow network between modules; plots, traces and figures go to a folder
gradlag simulate adl --accumulation 4 --link-latency 0.05 --out out/adl
# Everything as JSON, for a script
gradlag simulate adl --modules 8 --jitter 0.2 --seed 1 --json > adl.json
"""
_FILES: Final[tuple[str, ...]] = (
    "trace.jsonl",
    "trace.perfetto.json",
    "timeline.png",
    "gaps.png",
    "occupancy.png",
    "memory.png",
    "summary.json",
    "schedule.csv",
)
_MOST_JITTER: Final = 10.0
_ENGINES: Final = ("compiled", "simpy")


@with_flags
def command(
    schedule: Schedule,
    options: dict[str, str],
    cost_flags: CostFlags,
    link_flags: LinkFlags,
    jitter: Annotated[
        str, flag("--jitter", "CV", "coefficient of variation of lognormal compute times", "Costs")
    ] = "0",
    variation: Annotated[
        str | None,
        flag(
            "--variation",
            "DISTRIBUTION",
            "of factors on compute times: lognormal:CV, gamma:CV, exponential, samples:FILE, "
            "scipy.stats.NAME:SHAPE...; KIND=DISTRIBUTION for one kind of operation",
            "Costs",
        ),
    ] = None,
    runs: Annotated[
        str,
        flag("--runs", "N", "as many with seeds from --seed on, and quantiles over all", "Costs"),
    ] = "1",
    engine: Annotated[
        str, flag("--engine", "|".join(_ENGINES), "the simulator; simpy is the reference")
    ] = "compiled",
    memory_limit: MemoryLimit = "4GiB",
    seed: Seed = "0",
    slack: Slack = False,
    json: Json = False,
    out: Out = None,
) -> None:
    """Predict what a schedule will do: its time, speedup, utilization, staleness and memory.

    Without a workload file the network is even layers whose times --forward-time and the like
    give for the whole network; without a cluster file each worker has a device of its own. Numbers
    are exact: 0.1 is one tenth, and 1/3 may be written so.
    """
    entry = find(schedule)
    costs = cost_flags.read()
    given = costs.fitted(entry, read_options(schedule, options))
    where = link_flags.read()
    cv = number(jitter, "--jitter", most=_MOST_JITTER)
    varied = _variation(variation, jitter) if variation is not None else None
    random_times = bool(cv) or (varied is not None and varied.random)
    chosen = cast("Engine", one_of(engine, "--engine", _ENGINES))
    seed_number = whole(seed, "--seed", least=0, most=MOST_SEED)
    count = whole(runs, "--runs")
    if count > 1 and not random_times and not where.faults:
        remedy = "give --jitter or --variation, or leave --runs out"
        raise InputError("--runs", runs, "needs something that is random", remedy)
    if is_for_batches(schedule, given, memory_limit) and not (random_times or where.faults):
        _long(schedule, given, costs, where, link_flags, slack, chosen, seed_number, json, out)
        return
    refuse_if_too_large(schedule, given, memory_limit)

    from simcore.engines import simulate
    from simcore.summary import summarize

    built = build(schedule, flags=FLAGS, **given)
    for remark in entry.remarks:
        note(remark)
    refuse_unfit(where, built, link_flags.cluster)
    if link_flags.link_bandwidth is not None and costs.file is None:
        note("--link-bandwidth changes nothing: layers have a size only in a workload file")
    path = folder(out, _FILES)
    blocks = costs.blocks(built.blocks)
    with Bar(f"simulating {schedule}", built.blocks * built.batches) as bar:
        trace = simulate(
            built,
            blocks,
            where,
            engine=chosen,
            jitter=cv,
            variation=varied,
            seed=seed_number,
            progress=bar.told,
            told=note,
            compiling=lambda: bar.stage("compiling the simulator, once on a machine"),
        )
    found = found_simulated(built, blocks, where, random_times)
    summary = summarize(trace, blocks, built, where, trace.header.about["engine"]) | found
    if slack:
        summary["slack"] = _slack(built, blocks, where, chosen)
    if count > 1:
        summary["replicas"] = _replicas(trace, built, blocks, where, chosen, (cv, varied), count)
    if path is not None:
        _write(path, built, blocks, trace, summary)
    if json:
        print_json(summary)
    else:
        _show(trace, summary)


def _long(
    schedule: str,
    given: dict[str, object],
    costs: Costs,
    where: "Cluster",
    link_flags: LinkFlags,
    slack: bool,
    engine: "Engine",
    seed: int,
    json: bool,
    out: str | None,
) -> None:
    """More batches than a trace can hold."""
    built = small(schedule, given)
    for remark in find(schedule).remarks:
        note(remark)
    refuse_unfit(where, built, link_flags.cluster)
    path = folder(out, ("summary.json",))
    blocks = costs.blocks(built.blocks)
    batches = int(str({**built.options, **given}["batches"]))
    summary = extrapolated(built, blocks, where, batches, engine, seed)
    if slack:
        summary["slack"] = _slack(built, blocks, where, engine)
    if path is not None:
        write_json(path / "summary.json", summary)
        note(f"wrote summary.json to {path}; there is no trace of so many batches")
    if json:
        print_json(summary)
    else:
        show_long(summary)


def _slack(
    built: "Built", blocks: "Workload", where: "Cluster", engine: "Engine"
) -> dict[str, Any]:
    from simcore.slack import slack_values

    with Bar("finding slacks", log=True) as bar:
        bar.stage("simulating with many latencies, without random times")
        return slack_values(built, blocks, where, engine)


def _replicas(
    trace: "Trace",
    built: "Built",
    blocks: "Workload",
    where: "Cluster",
    engine: "Engine",
    random: "tuple[float, Variations | None]",
    runs: int,
) -> dict[str, Any]:
    from simcore.monte_carlo import monte_carlo, replica_values

    with Bar(f"simulating {runs} times", runs) as bar:
        found = monte_carlo(
            built,
            blocks,
            where,
            runs=runs,
            engine=engine,
            jitter=random[0],
            variation=random[1],
            seed=trace.header.seed,
            first=trace,
            progress=bar.told,
        )
    return replica_values(found)


def _variation(text: str, jitter: str) -> "Variations":
    from simcore.durations import read_variations

    if jitter != "0":
        rule = "must not be given with --jitter"
        raise InputError("--variation", text, rule, "write lognormal:CV for --jitter CV")
    return read_variations(text, "--variation")


def _write(
    path: Path, built: "Built", blocks: "Workload", trace: "Trace", summary: dict[str, Any]
) -> None:
    from analysis.plots import draw_gap_histograms, draw_timelines, save_png
    from analysis.plots_memory import draw_memory, draw_occupancy
    from simcore.interop.tables import dump_csv
    from simcore.perfetto import dump_perfetto
    from simcore.trace_file import dump_trace

    label = f"{trace.header.schedule}, simulated"
    with Bar("writing") as bar:
        bar.stage(f"writing {path}")
        dump_trace(trace, path / "trace.jsonl")
        dump_perfetto(path / "trace.perfetto.json", trace)
        save_png(draw_timelines([(label, trace)]), path / "timeline.png")
        save_png(draw_gap_histograms([(label, trace)]), path / "gaps.png")
        save_png(draw_occupancy(trace), path / "occupancy.png")
        memory = draw_memory(trace, built, blocks)
        if memory is not None:
            save_png(memory, path / "memory.png")
        write_json(path / "summary.json", summary)
        left_out = set() if memory is not None else {"memory.png"}
        try:
            dump_csv(built, path / "schedule.csv")
        except InputError as error:
            left_out.add("schedule.csv")
            note(f"no schedule.csv, a table of torch.distributed.pipelining: {error}")
    written = ", ".join(name for name in _FILES if name not in left_out)
    note(f"wrote {written} to {path}")


def _show(trace: "Trace", summary: dict[str, Any]) -> None:
    from analysis.cli.simulation_view import print_simulation

    print_simulation(console(), summary, trace)
