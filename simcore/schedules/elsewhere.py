"""Schedules that do not come along: a user's function, those of installed packages, tables.

* `FILE.py:FUNCTION` is a function from options to a `Schedule`, decorated with `register` or not;
* the name of an entry point of group `gradlag.schedules` is such a function of a package;
* `FILE.csv` is a table of `torch.distributed.pipelining`.

A name is looked up again in each process, so that what refers to a schedule by it can be pickled.
"""

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial, wraps
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from simcore.errors import GradlagError, InputError, RunError
from simcore.ops import Program
from simcore.registry import SCHEDULES, Entry
from simcore.schedule import Schedule

__all__ = ["GROUP", "OWN", "elsewhere", "installed"]

GROUP: Final = "gradlag.schedules"
OWN: Final = re.compile(r".+\.py:[^:]*")
_TABLE: Final = ".csv"
_SHOWN: Final = 160  # characters of an exception that an error line repeats


def elsewhere(name: str) -> Entry | None:
    """The entry of a schedule that is not registered; None if there is none of the name.

    Raises `InputError` for a file, a function or a package that makes none.
    """
    if name.endswith(_TABLE):
        return _table(name)
    if name.endswith(".py"):
        raise InputError("schedule", name, "must be FILE.py:FUNCTION", "add the function")
    if OWN.fullmatch(name):
        path, _, function = name.rpartition(":")
        return _adopted(name, str(Path(path).resolve()), function)
    point = installed().get(name)
    return None if point is None else _of_package(point)


def installed() -> dict[str, EntryPoint]:
    """The entry points of installed packages, by name; none of them is loaded.

    One that has the name of a registered schedule is passed over.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    return {name: point for name, point in found.items() if name not in SCHEDULES}


@cache
def _adopted(name: str, path: str, function: str) -> Entry:
    if not Path(path).is_file():
        raise InputError(
            "schedule", name, f"must be in a file, and {path} is none", "check the path"
        )
    try:
        module = _loaded(path)
    except Exception as error:
        rule = f"must be in a Python file that can be run ({_one_line(error)})"
        raise InputError("schedule", name, rule, "correct the file") from error
    found = getattr(module, function, None)
    if not inspect.isfunction(found):
        there = [each for each, value in vars(module).items() if _is_own(value, module)]
        has = f"the file has {', '.join(there)}" if there else "the file has no function"
        raise InputError("schedule", name, "must be FILE.py:FUNCTION", has)
    return _entry(name, found)


def _is_own(value: object, module: ModuleType) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__


@cache
def _loaded(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"schedules of {path}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses of the file look for it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


@cache
def _of_package(point: EntryPoint) -> Entry:
    try:
        found = point.load()
    except Exception as error:
        rule = f"must be found at its entry point {point.value} ({_one_line(error)})"
        raise InputError("schedule", point.name, rule, "mend or remove the package") from error
    if not inspect.isfunction(found):
        rule = f"must be a function at its entry point {point.value}"
        raise InputError("schedule", point.name, rule, "mend or remove the package")
    return _entry(point.name, found)


def _entry(name: str, function: Callable[..., Schedule]) -> Entry:
    """The entry of a function: the one that `register` made, or one that says little."""
    registered = next((each for each in SCHEDULES.values() if each.factory is function), None)
    factory = _guarded(name, function)
    if registered is not None:
        _check_defaults(name, registered)
        return replace(registered, name=name, factory=factory)
    defaults = {p.name: p.default for p in inspect.signature(function).parameters.values()}
    blocks_option = next((each for each in ("modules", "layers") if each in defaults), None)
    entry = Entry(
        name=name,
        factory=factory,
        title=(inspect.getdoc(function) or function.__name__).partition("\n")[0].rstrip("."),
        source="your own",
        lockings_broken="unknown",
        gap="unknown",
        memory="unknown",
        extra_parameters="unknown",
        per_update="unknown",
        blocks_option=blocks_option,
        compositions=(),
        rows=(8, 4),
        defaults=defaults,
    )
    _check_defaults(name, entry)
    if blocks_option is None:
        entry = replace(entry, fixed_blocks=factory(**{**defaults, "batches": 1}).blocks)
    return entry


def _check_defaults(name: str, entry: Entry) -> None:
    if "batches" not in entry.defaults:
        rule = "must have the parameter batches"
        raise InputError("schedule", name, rule, "write batches: int = 100")
    for option, default in entry.defaults.items():
        if default is inspect.Parameter.empty:
            rule = f"must have a default for its parameter {option}"
            raise InputError("schedule", name, rule, "give it one")
        entry.option(option).read(f"default of {option} of {name}", default)


def _guarded(name: str, function: Callable[..., Schedule]) -> Callable[..., Schedule]:
    """The function, whose mistakes are the user's and not gradlag's."""

    @wraps(function)
    def factory(**options: Any) -> Schedule:
        try:
            made = function(**options)
        except GradlagError:
            raise
        except Exception as error:
            rule = f"must make a schedule ({_one_line(error)}{_at(error)})"
            raise InputError("schedule", name, rule, "correct the function") from error
        if not isinstance(made, Schedule):
            rule = f"must make a schedule, not a {type(made).__name__}"
            raise InputError("schedule", name, rule, "return a Schedule")
        workers = (
            replace(worker, program=partial(_told, worker.name, worker.program))
            for worker in made.workers
        )
        return replace(made, workers=tuple(workers))

    return factory


def _told(worker: str, program: Callable[[], Program]) -> Program:
    """The program; what it raises is told as its mistake."""
    try:
        yield from program()
    except GradlagError:
        raise
    except Exception as error:
        raise RunError(f"the program of {worker} failed: {_one_line(error)}{_at(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:_SHOWN]


def _at(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f", line {last.lineno} of {Path(last.filename).name}"


def _table(name: str) -> Entry:
    from simcore.interop.pipelining import schedule_of_table
    from simcore.interop.table import load_table

    table = load_table(name)
    # Each action is at most two rows, and each micro-batch one of the gradients' table.
    rows = 2 * sum(map(len, table.rows)) // table.stages + table.batches

    def factory(batches: int = 100) -> Schedule:
        return schedule_of_table(table, batches, name)

    return Entry(
        name=name,
        factory=factory,
        title="table of torch.distributed.pipelining",
        source=name,
        lockings_broken="unknown",
        gap="0",
        memory="as the table says",
        extra_parameters="none",
        per_update="1",
        blocks_option=None,
        compositions=(),
        rows=(rows, 1),
        defaults={"batches": 100},
        fixed_blocks=table.stages,
        remarks=table.remarks,
    )
