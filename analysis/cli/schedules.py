"""`gradlag schedules`: what there is to choose from."""

from typing import TYPE_CHECKING, Any, Final

from analysis.cli.options import FLAGS, Json, Out
from analysis.cli.output import console, folder, print_json, write_json
from simcore.options import OPTIONS
from simcore.schedules import SCHEDULES, Entry

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["EXAMPLES", "NAME", "command"]

NAME: Final = "schedules"
EXAMPLES: Final = """\
gradlag schedules
gradlag schedules --json
"""
_FILE: Final = "schedules.json"


def command(json: Json = False, out: Out = None) -> None:
    """List the training schedules: what each breaks, how stale its gradients are, its options.

    A schedule breaks the forward, backward or update locking if a module need not wait for the
    others before that phase. The gap of a gradient is the number of updates between the weights
    that it was computed with and those that it is applied to; K is the number of modules, k a
    module, M the accumulation, F and B the numbers of forward and backward threads.
    """
    path = folder(out, [_FILE])
    document = {
        "schema": "gradlag.schedules/1",
        "schedules": [_document(entry) for entry in SCHEDULES.values()],
    }
    if path is not None:
        write_json(path / _FILE, document)
    if json:
        print_json(document)
    else:
        console().print(_table(), soft_wrap=False)


def _document(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.title,
        "lockings_broken": entry.lockings_broken,
        "gap": entry.gap,
        "source": entry.source,
        "blocks_option": entry.blocks_option,
        "options": [
            {
                "name": name,
                "flag": FLAGS[name],
                "meaning": OPTIONS[name].meaning,
                "rule": OPTIONS[name].rule,
                "choices": list(OPTIONS[name].choices),
                "default": default,
            }
            for name, default in entry.defaults.items()
        ],
    }


def _table() -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_lines=True)
    table.add_column("schedule", style="bold", no_wrap=True)
    table.add_column("what it is", ratio=3)
    table.add_column("options and defaults", ratio=2)
    for entry in SCHEDULES.values():
        about = (
            f"{entry.title} ({entry.source})\n"
            f"[dim]breaks:[/] {entry.lockings_broken}\n"
            f"[dim]gap:[/] {escape(entry.gap)}"
        )
        options = "\n".join(
            f"{FLAGS[name]} {OPTIONS[name].absent if default is None else default}"
            for name, default in entry.defaults.items()
        )
        table.add_row(entry.name, about, options)
    return table
