"""The question of a sweep: which configurations, and all else that determines the answers."""

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Final

from analysis.sweeps.axes import MOST
from simcore.cluster import Cluster
from simcore.errors import InputError
from simcore.options import Value
from simcore.registry import Entry
from simcore.schedules import find
from simcore.simulator import ENGINE
from simcore.workload import Workload

__all__ = [
    "NUMBERS",
    "Configuration",
    "Question",
    "Setting",
    "Sweep",
    "canonical",
    "configurations",
]

_OURS: Final = {"simcore", "executor", "analysis"}
_LIBRARIES: Final = {"site-packages", "dist-packages"}
# What a configuration has beside the options of its schedule, all exact numbers, with defaults.
NUMBERS: Final[Mapping[str, Fraction | None]] = {
    "forward_time": Fraction(1),
    "backward_ratio": Fraction(2),
    "update_time": Fraction(0),
    "link_latency": Fraction(0),
    "link_bandwidth": None,
    "jitter": Fraction(0),
    "seed": Fraction(0),
}
_OF_WORKLOAD: Final = ("forward_time", "backward_ratio", "update_time")
_OF_CLUSTER: Final = ("link_latency", "link_bandwidth")


@dataclass(frozen=True, slots=True)
class Configuration:
    """One simulation: a schedule, those of its options that were given, and numbers.

    `numbers` has those of `NUMBERS` that were given: times in seconds, bandwidth in bytes per
    second, all else dimensionless.
    """

    schedule: str
    options: Mapping[str, Value] = field(default_factory=dict)
    numbers: Mapping[str, Fraction] = field(default_factory=dict)

    def number(self, name: str) -> Fraction | None:
        """A number, or its default."""
        return self.numbers.get(name, NUMBERS[name])

    def values(self) -> dict[str, Value | Fraction]:
        """Options and numbers by name: what axes are made of."""
        return {**self.options, **self.numbers}


@dataclass(frozen=True, slots=True)
class Setting:
    """What all configurations of a sweep share.

    Without a workload, layers are even and have the configuration's times; without a cluster each
    worker has a device of its own. `cluster_file` names the cluster in errors.
    """

    workload: Workload | None = None
    cluster: Cluster | None = None
    workload_file: str | None = None
    cluster_file: str | None = None
    memory_limit_bytes: int = 4 * 2**30

    def document(self) -> dict[str, Any]:
        """What of it determines answers, as JSON values, without the names of files."""
        return {
            "workload": self.workload and asdict(self.workload),
            "cluster": self.cluster and asdict(self.cluster),
            "memory_limit_bytes": self.memory_limit_bytes,
        }


@dataclass(frozen=True, slots=True)
class Sweep:
    """A grid of configurations, or a list.

    `schedules` are names, each with options of its own. `axes` are the values of options and
    numbers; a schedule has those axes whose option it has. `listed` are further configurations.
    """

    schedules: Sequence[tuple[str, Mapping[str, Value]]] = ()
    axes: Mapping[str, Sequence[Value | Fraction]] = field(default_factory=dict)
    listed: Sequence[Configuration] = ()


def configurations(sweep: Sweep, setting: Setting) -> tuple[Configuration, ...]:
    """All configurations of a sweep, each once: schedule by schedule, the last axis fastest.

    Raises `InputError` for an axis that none of the schedules has, a number that a file gives
    already, none or more than a million configurations.
    """
    _refuse_axes(sweep, setting)
    count = len(sweep.listed)
    for name, own in sweep.schedules:
        axes = _axes_of(find(name), own, sweep.axes)
        count += prod(len(values) for values in axes.values())
    if not 1 <= count <= MOST:
        rule = f"must be from 1 to {MOST}"
        raise InputError("number of configurations", count, rule, "change the grid")
    found: dict[str, Configuration] = {}
    for each in (*_grid(sweep), *sweep.listed):
        found.setdefault(canonical(_document(each)), each)
    return tuple(found.values())


def _grid(sweep: Sweep) -> Iterator[Configuration]:
    for name, own in sweep.schedules:
        axes = _axes_of(find(name), own, sweep.axes)
        for values in product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            numbers = {k: v for k, v in chosen.items() if k in NUMBERS and isinstance(v, Fraction)}
            options: dict[str, Value] = {
                k: v for k, v in chosen.items() if not isinstance(v, Fraction)
            }
            yield Configuration(name, {**own, **options}, numbers)


def _axes_of(
    entry: Entry, own: Mapping[str, Value], axes: Mapping[str, Sequence[Value | Fraction]]
) -> dict[str, Sequence[Value | Fraction]]:
    """The axes of one schedule: an option that is its own stays as it is."""
    return {
        name: values
        for name, values in axes.items()
        if name in NUMBERS or (name in entry.defaults and name not in own)
    }


def _refuse_axes(sweep: Sweep, setting: Setting) -> None:
    entries = [find(name) for name, _ in sweep.schedules]
    for name, values in sweep.axes.items():
        flag = f"--{name.replace('_', '-')}"
        if name not in NUMBERS and not any(name in entry.defaults for entry in entries):
            rule = f"is not an option of {', '.join(entry.name for entry in entries)}"
            raise InputError(flag, ",".join(map(str, values)), rule, "leave it out")
    for file, given, names in (
        (setting.workload_file, setting.workload, _OF_WORKLOAD),
        (setting.cluster_file, setting.cluster, _OF_CLUSTER),
    ):
        used = {name for each in sweep.listed for name in each.numbers} | sweep.axes.keys()
        for name in names:
            if given is not None and name in used:
                what, rule = name.replace("_", "-"), "must not be given with a file that says it"
                raise InputError(f"--{what}", file or "given", rule, "leave one out")


def _document(configuration: Configuration) -> dict[str, Any]:
    return {
        "schedule": configuration.schedule,
        "options": dict(configuration.options),
        "numbers": dict(configuration.numbers),
    }


def canonical(value: Any) -> str:
    """JSON that is the same for the same value: sorted keys, no spaces, exact ratios."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that determines the answers of a sweep.

    `text` is canonical JSON and `study` its SHA-256. `keys` are those of the single
    configurations, each with all that determines its answer: equal keys have equal answers,
    whatever the question.
    """

    text: str
    study: str
    configurations: tuple[Configuration, ...]
    keys: tuple[str, ...]

    @classmethod
    def of(cls, asked: Sequence[Configuration], setting: Setting) -> "Question":
        """The question that asks for these configurations."""
        names = {each.schedule for each in asked}
        context = {**setting.document(), **_versions(sorted(names))}
        around = _digest(canonical(context))
        documents = [_document(each) for each in asked]
        keys = [_digest(around + canonical(each)) for each in documents]
        question = {"schema": "gradlag.question/1", "configurations": documents, **context}
        text = canonical(question)
        return cls(text, _digest(text), tuple(asked), tuple(keys))


def _versions(names: Sequence[str]) -> dict[str, Any]:
    """Which code answers: the engine, all of the simulator's source, and users' schedules."""
    root = Path(__file__).parents[2]
    files = [*sorted((root / "simcore").rglob("*.py")), root / "analysis" / "sweeps" / "answer.py"]
    source = hashlib.sha256()
    for file in files:
        source.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    own = {}
    for name in names:
        entry = find(name)
        if not entry.is_ours:
            own[name] = _digest_of_files(_files_of(entry.factory))
        elif name.endswith(".csv"):
            own[name] = _digest_of_files([Path(name)])
    return {"engine": ENGINE, "source": source.hexdigest(), "own_schedules": own}


def _files_of(factory: Callable[..., Any]) -> list[Path]:
    """The file of a user's schedule, and those beside and below it that have been imported."""
    file = Path(inspect.getfile(inspect.unwrap(factory))).resolve()
    module = factory.__module__.partition(".")[0]
    package = getattr(sys.modules.get(module), "__file__", None)
    folder = (Path(package).resolve() if package else file).parent
    found = {file}
    for name, each in list(sys.modules.items()):
        path = getattr(each, "__file__", None)
        if path and path.endswith(".py") and name.partition(".")[0] not in _OURS:
            beside = Path(path).resolve()
            if beside.is_relative_to(folder) and not _LIBRARIES & {
                *beside.relative_to(folder).parts
            }:
                found.add(beside)
    return sorted(found)


def _digest_of_files(files: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(file.name.encode() + b"\0" + file.read_bytes())
    return found.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
