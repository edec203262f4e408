"""`gradlag sweep`: one question asked of every configuration of a grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from analysis.cli.costs import CostFlags, LinkFlags
from analysis.cli.options import Json, Out, flag, with_flags
from analysis.cli.output import Bar, console, folder, note, print_json
from analysis.cli.sizes import MemoryLimit
from analysis.cli.values import one_of, whole
from simcore.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.sweeps.question import Question, Setting
    from analysis.sweeps.store import Found, Store
    from analysis.sweeps.work import Backend, Workers

__all__ = ["EXAMPLES", "NAME", "command"]

NAME: Final = "sweep"
EXAMPLES: Final = """\
# Sixteen numbers of modules, nine ratios; again, it goes on where it was stopped
gradlag sweep fdg --modules 1:16 --backward-ratio 1:3:0.25 --batches 50
# Lines over the modules, a colour for each M; plots and tables go to a folder
gradlag sweep adl --modules 1:4 --accumulation 1,2 --over modules --out out/adl
# Everything as JSON, for a script
gradlag sweep fdg pipedream --modules 2:4 --json > sweep.json
"""
_PANEL: Final = "Work"
_PICTURES: Final = "Pictures"
_BACKENDS: Final = ("loky", "dask", "ray")
_FILES: Final = ("sweep.csv", "sweep.parquet", "speedup.png", "gap.png", "memory.png")
_STORE: Final = "out/sweep.sqlite"


@dataclass(frozen=True, slots=True)
class WorkFlags:
    """What is asked, where answers are kept, and who works."""

    file: Annotated[
        str | None, flag("--file", "FILE", "schedules, axes, single configurations (TOML)", _PANEL)
    ] = None
    store: Annotated[
        str, flag("--store", "FILE", "where answers are kept as they come (SQLite)", _PANEL)
    ] = _STORE
    jobs: Annotated[
        str | None,
        flag("--jobs", "N", "processes (default: as many as pay, at most one a core)", _PANEL),
    ] = None
    backend: Annotated[
        str, flag("--backend", "|".join(_BACKENDS), "this machine (loky), or a cluster", _PANEL)
    ] = _BACKENDS[0]
    scheduler: Annotated[
        str | None,
        flag("--scheduler", "ADDRESS", "of a cluster; without it one is started here", _PANEL),
    ] = None

    def workers(self) -> "Workers":
        """Who works. Raises `InputError` for flags that do not go together."""
        from analysis.sweeps.work import Workers

        backend = one_of(self.backend, "--backend", _BACKENDS)
        jobs = None if self.jobs is None else whole(self.jobs, "--jobs")
        if self.scheduler is not None and backend == _BACKENDS[0]:
            remedy = "give --backend dask or ray as well"
            raise InputError("--scheduler", self.scheduler, "needs a cluster", remedy)
        workers = Workers(jobs, cast("Backend", backend), self.scheduler)
        workers.check()
        return workers


@dataclass(frozen=True, slots=True)
class PictureFlags:
    """What pictures show."""

    over: Annotated[
        str | None,
        flag("--over", "AXIS[,AXIS]", "a heat map over two axes, lines over one", _PICTURES),
    ] = None
    colour: Annotated[
        str | None, flag("--colour", "AXIS", "a line for each value of it", _PICTURES)
    ] = None
    where: Annotated[
        str | None,
        flag("--where", "AXIS=VALUE,...", "of other axes (default: their first value)", _PICTURES),
    ] = None

    def read(self) -> "Pictures":
        """What they show. Raises `InputError` for flags that do not go together."""
        over = () if self.over is None else tuple(map(_name, self.over.split(",")))
        if not all(over) or len(over) > 2:
            rule = "must be one axis or two"
            raise InputError("--over", str(self.over), rule, "give one such as modules")
        if self.colour is not None and len(over) != 1:
            rule = "needs one axis to draw lines over"
            raise InputError("--colour", self.colour, rule, "give --over AXIS as well")
        fixed: dict[str, str] = {}
        for part in () if self.where is None else self.where.split(","):
            name, equals, value = part.partition("=")
            if not equals or not name.strip() or not value.strip():
                rule = "must be AXIS=VALUE, or several with commas"
                raise InputError("--where", str(self.where), rule, "give one such as modules=4")
            fixed[_name(name)] = value.strip()
        if self.colour is not None:
            over = (*over, _name(self.colour))
        first = "--over" if over else "--where" if fixed else None
        return Pictures(over, self.colour is not None, fixed, first)


@dataclass(frozen=True, slots=True)
class Pictures:
    """The axes of the pictures, whether they are lines in any case, and values of other axes.

    `asked` is a flag that asks for pictures, if one was given.
    """

    over: tuple[str, ...]
    lines: bool
    where: Mapping[str, str]
    asked: str | None

    def check(self, question: "Question") -> None:
        """Raise `InputError` for axes and values that the configurations do not have."""
        from analysis.sweeps.view import unanswered, view

        view(unanswered(question.configurations), self.over, self.where)

    def draw(self, rows: "Sequence[Found]") -> "Mapping[str, Figure]":
        """The pictures of what was found, by the names of their files."""
        from analysis.sweeps.plots import draw_heat_maps, draw_lines
        from analysis.sweeps.view import drawn_measures, view

        drawn = view(rows, self.over, self.where)
        draw = draw_lines if self.lines or len(drawn.over) < 2 else draw_heat_maps
        return {
            f"{name}.png": draw(drawn, measure) for name, measure in drawn_measures(rows).items()
        }


def _name(axis: str) -> str:
    return axis.strip().replace("-", "_")


@with_flags
def command(
    schedules: Annotated[
        list[str],
        typer.Argument(
            metavar="[SCHEDULE[:OPTION=VALUE,...]...]",
            help="Schedules; each has the axes whose options it has, but for its own options.",
            default_factory=list,
        ),
    ],
    options: dict[str, str],
    cost_flags: CostFlags,
    link_flags: LinkFlags,
    work_flags: WorkFlags,
    picture_flags: PictureFlags,
    jitter: Annotated[
        str | None,
        flag("--jitter", "CV", "coefficient of variation of lognormal compute times", "Costs"),
    ] = None,
    memory_limit: MemoryLimit = "4GiB",
    seed: Annotated[str | None, flag("--seed", "N", "seed of all random numbers")] = None,
    json: Json = False,
    out: Out = None,
) -> None:
    """Simulate every configuration of a grid, in parallel; keep each answer as soon as it is there.

    Every option of a schedule and every cost may be one value, a list or a range with both ends:
    1,2,4,8 or 1:16 or 1:3:0.25. What a schedule refuses is recorded with its reason. The same
    command goes on where it was stopped, by Ctrl-C or by anything else; another question is
    another study in the same file.
    """
    from analysis.cli.sweep_input import read_question
    from analysis.sweeps.question import Question, configurations
    from analysis.sweeps.store import Store
    from simcore.estimate import parse_bytes

    workers, pictures = work_flags.workers(), picture_flags.read()
    others, limit = {"jitter": jitter, "seed": seed}, parse_bytes(memory_limit, "--memory-limit")
    asked, setting = read_question(
        schedules, options, cost_flags, link_flags, others, work_flags.file, limit
    )
    question = Question.of(configurations(asked, setting), setting)
    if pictures.asked and out is None:
        rule, remedy = "needs a folder for the pictures", "give --out DIR as well"
        raise InputError(pictures.asked, "given", rule, remedy)
    if out is not None:
        pictures.check(question)
    path = folder(out, _FILES)
    with Store.open(work_flags.store) as store:
        taken_over = store.begin(question)
        count = len(question.configurations)
        before = count - len(store.missing(question)) - taken_over
        if before:
            note(f"going on: {before} of {count} answers are in {store.path}")
        _work(question, setting, store, workers)
        found = store.found(question.study)
    document = _document(question, work_flags.store, taken_over, found)
    if path is not None:
        _write(path, found, pictures)
    if json:
        print_json(document)
    else:
        from analysis.cli.sweep_view import print_sweep

        print_sweep(console(), document, found)


def _work(question: "Question", setting: "Setting", store: "Store", workers: "Workers") -> None:
    from analysis.sweeps.work import sweep, weight
    from simcore.simulator import ENGINE

    missing = store.missing(question)
    if missing and ENGINE == "simpy":
        note("simulated by SimPy instead of the compiled engine: numba is not installed")
    total = sum(weight(question.configurations[number]) for number in missing)
    try:
        with Bar(f"sweeping, {len(missing)} configurations", total) as bar:
            sweep(question, setting, store, workers, progress=bar.told)
    except KeyboardInterrupt:
        count = len(question.configurations)
        done = count - len(store.missing(question))
        note(f"{done} of {count} answers are in {store.path}: the same command goes on")
        raise


def _document(
    question: "Question", store: str, taken_over: int, found: "Sequence[Found]"
) -> dict[str, Any]:
    states = [row.answer.state for row in found]
    return {
        "schema": "gradlag.sweep-result/1",
        "study": question.study,
        "store": store,
        "configurations": len(question.configurations),
        **{state: states.count(state) for state in ("done", "refused", "failed")},
        "from_other_studies": taken_over,
        "answers": [
            {
                "schedule": row.schedule,
                "options": row.options,
                "numbers": row.numbers,
                "state": row.answer.state,
                "reason": row.answer.reason,
                **row.answer.values,
                "block_gaps": list(row.answer.block_gaps),
            }
            for row in found
        ],
    }


def _write(path: Path, found: "Sequence[Found]", pictures: Pictures) -> None:
    from analysis.plots import save_png
    from analysis.sweeps.export import write_csv, write_parquet

    written = ["sweep.csv"]
    with Bar("writing") as bar:
        bar.stage(f"writing {path}")
        write_csv(found, path / "sweep.csv")
        if write_parquet(found, path / "sweep.parquet"):
            written.append("sweep.parquet")
        else:
            note("no sweep.parquet: pip install 'gradlag[parquet]'")
        for name, figure in pictures.draw(found).items():
            save_png(figure, path / name)
            written.append(name)
    note(f"wrote {', '.join(written)} to {path}")
