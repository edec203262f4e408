"""What is asked of a sweep: schedules and axes from flags, or from a file."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from analysis.cli.costs import CostFlags, LinkFlags
from analysis.cli.options import FLAGS, parsed
from analysis.cli.values import MOST_SEED, option_value, whole
from analysis.sweeps.axes import axis_texts
from analysis.sweeps.question import NUMBERS, Configuration, Setting, Sweep
from simcore.border import non_negative, positive
from simcore.errors import InputError
from simcore.options import OPTIONS, Option, Value
from simcore.schedules import find

if TYPE_CHECKING:
    from simcore.cluster import Cluster
    from simcore.workload import Workload

__all__ = ["read_question"]

_MOST_JITTER: Final = 10
_POSITIVE: Final = ("forward_time", "link_bandwidth")


def read_question(
    schedules: Sequence[str],
    options: Mapping[str, str],
    costs: CostFlags,
    links: LinkFlags,
    others: Mapping[str, str | None],
    file: str | None,
    memory_limit_bytes: int,
) -> tuple[Sweep, Setting]:
    """The sweep that flags and the file describe, checked; a flag takes the place of the file's.

    `others` are the texts of --jitter and --seed. Raises `InputError` that names a flag, or a key
    of the file.
    """
    given: dict[str, str | None] = {
        **options,
        "forward_time": costs.forward_time,
        "backward_ratio": costs.backward_ratio,
        "update_time": costs.update_time,
        "link_latency": links.link_latency,
        "link_bandwidth": links.link_bandwidth,
        **others,
    }
    texts = {
        name: (_flag(name), axis_texts(text, _flag(name)))
        for name, text in given.items()
        if text is not None
    }
    names, listed = list(schedules), list[Configuration]()
    workload, cluster = costs.workload, links.cluster
    if file is not None:
        from analysis.sweeps.file import read_sweep_file

        content = read_sweep_file(file)
        names = names or list(content.schedules)
        workload, cluster = workload or content.workload, cluster or content.cluster
        for name, axis in content.axes.items():
            what = f"{file}: axes.{name}"
            values = axis_texts(axis, what) if isinstance(axis, str) else axis
            texts.setdefault(name, (what, values))
        listed = [
            _configuration(each, f"{file}: configurations[{number}]")
            for number, each in enumerate(content.configurations)
        ]
    if not names and not listed:
        raise InputError("SCHEDULE", "missing", "must be given", "name one, or give --file")
    chosen = [_with_own(name) for name in names]
    axes: dict[str, Sequence[Value | Fraction]] = {
        name: _values(name, what, values, [schedule for schedule, _ in chosen])
        for name, (what, values) in texts.items()
    }
    setting = Setting(_workload(workload), _cluster(cluster), workload, cluster, memory_limit_bytes)
    return Sweep(chosen, axes, listed), setting


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _with_own(text: str) -> tuple[str, dict[str, Value]]:
    name, given = parsed(text)
    entry = find(name)
    return name, {
        option: option_value(entry.option(option), each, FLAGS.get(option, option))
        for option, each in given.items()
    }


def _values(
    name: str, what: str, texts: Iterable[str], schedules: Sequence[str]
) -> list[Value | Fraction]:
    """The values of an axis, read by the rule of its option or number, each once."""
    read = dict.fromkeys(_value(name, what, text, schedules) for text in texts)
    return list(read)


def _value(name: str, what: str, text: str, schedules: Sequence[str]) -> Value | Fraction:
    if name in NUMBERS:
        return _number(name, what, text)
    return option_value(_option(name, what, text, schedules), text, what)


def _option(name: str, what: str, text: str, schedules: Sequence[str]) -> Option:
    entries = [find(schedule) for schedule in schedules]
    for entry in entries:
        if name in entry.defaults:
            return entry.option(name)
    if name in OPTIONS and name in FLAGS and what == FLAGS[name]:
        has = ", ".join(schedules)
        raise InputError(what, text, f"is not an option of {has}", "leave it out")
    known = [*dict.fromkeys(option for entry in entries for option in entry.defaults), *NUMBERS]
    rule = f"is not an option of {', '.join(schedules)}"
    raise InputError(what, text, rule, f"choose among {', '.join(known)}")


def _number(name: str, what: str, text: str) -> Fraction:
    if name == "seed":
        return Fraction(whole(text, what, least=0, most=MOST_SEED))
    value = positive(text, what) if name in _POSITIVE else non_negative(text, what)
    if name == "jitter" and value > _MOST_JITTER:
        rule = f"must be a number of at least 0 and at most {_MOST_JITTER}"
        raise InputError(what, text, rule, "give one such as 0.5")
    return value


def _configuration(given: Mapping[str, str], what: str) -> Configuration:
    name, own = _with_own(given["schedule"])
    options, numbers = dict(own), dict[str, Fraction]()
    for key, text in given.items():
        if key == "schedule":
            continue
        value = _value(key, f"{what}.{key}", text, [name])
        if isinstance(value, Fraction):
            numbers[key] = value
        else:
            options[key] = value
    return Configuration(name, options, numbers)


def _workload(path: str | None) -> "Workload | None":
    if path is None:
        return None
    from simcore.interop.workloads import load_workload_any

    return load_workload_any(path)


def _cluster(path: str | None) -> "Cluster | None":
    if path is None:
        return None
    from simcore.cluster import load_cluster

    return load_cluster(path)
