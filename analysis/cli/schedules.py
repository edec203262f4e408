"""`gradlag schedules`: what there is to choose from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from analysis.cli.options import FLAGS, Json, Out, with_default
from analysis.cli.output import console, folder, note, print_json, write_json
from simcore.errors import InputError
from simcore.schedules import SCHEDULES, Entry, find
from simcore.schedules.elsewhere import installed

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["EXAMPLES", "NAME", "command"]

NAME: Final = "schedules"
EXAMPLES: Final = """\
gradlag schedules
gradlag schedules --json
"""
_FILE: Final = "schedules.json"
_TEXTS: Final = (
    "name",
    "title",
    "lockings_broken",
    "gap",
    "memory",
    "extra_parameters",
    "per_update",
    "source",
    "blocks_option",
)


def command(json: Json = False, out: Out = None) -> None:
    """List the training schedules: what each breaks, how stale its gradients are, its options.

    A schedule breaks the forward, backward or update locking if a module need not wait for the
    others before that phase. The gap of a gradient is the number of updates between the weights
    that it was computed with and those that it is applied to. Memory is what a module keeps beside
    its weights; extra parameters are those that only training needs; an update sees so many
    mini-batches. K is the number of modules, k a module, M the accumulation, R the replicas, F and
    B the numbers of forward and backward threads.
    """
    path = folder(out, [_FILE])
    entries = [*SCHEDULES.values(), *_of_packages()]
    document = {
        "schema": "gradlag.schedules/1",
        "schedules": [_document(entry) for entry in entries],
    }
    if path is not None:
        write_json(path / _FILE, document)
    if json:
        print_json(document)
    else:
        console().print(_table(entries), soft_wrap=False)


def _of_packages() -> list[Entry]:
    """The schedules of installed packages; one that cannot be loaded is a note, and no more."""
    found = []
    for name in installed():
        try:
            found.append(find(name))
        except InputError as error:
            note(str(error))
    return found


def _document(entry: Entry) -> dict[str, Any]:
    return {
        **{name: getattr(entry, name) for name in _TEXTS},
        "compositions": list(entry.compositions),
        "rows": list(entry.rows),
        "options": [
            {
                "name": name,
                "flag": FLAGS.get(name),
                "meaning": entry.option(name).meaning,
                "rule": entry.option(name).rule,
                "choices": list(entry.option(name).choices),
                "default": default,
            }
            for name, default in entry.defaults.items()
        ],
    }


def _table(entries: Sequence[Entry]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_lines=True)
    table.add_column("schedule", style="bold", no_wrap=True)
    table.add_column("what it is", ratio=3)
    table.add_column("options and defaults", ratio=2)
    for entry in entries:
        facts = {
            "breaks": entry.lockings_broken,
            "gap": entry.gap,
            "memory": entry.memory,
            "extra parameters": entry.extra_parameters,
            "mini-batches per update": entry.per_update,
            "source": entry.source,
        }
        about = [escape(entry.title)]
        about += [f"[dim]{name}:[/] {escape(text)}" for name, text in facts.items()]
        options = [escape(with_default(entry, name)) for name in entry.defaults]
        table.add_row(entry.name, "\n".join(about), "\n".join(options))
    return table
