"""What `--help` prints: usage, what it is for, examples that run, and the options in groups."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

from analysis.cli.options import FLAGS, SCHEDULE, meaning
from simcore.schedules import SCHEDULES

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Command", "Group"]

_WIDTH = 100
_FIRST_COLUMN = 30


class Command(TyperCommand):
    """A command whose help leads with examples; they are the lines of its epilogue.

    If a schedule has been typed too, its options are all that is shown of those of schedules.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what was typed, and remember it for the help."""
        ctx.meta[__name__] = list(args)
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        console, explained = _console(), _explained(ctx.meta.get(__name__, []))
        arguments = [p for p in self.params if p.param_type_name == "argument"]
        names = "".join(f" {p.metavar}" for p in arguments)
        _print_head(console, f"{ctx.command_path}{names} [OPTIONS]", self.help, self.epilog)
        _print_group(console, "Arguments", [(str(p.metavar), _meaning(p)) for p in arguments])
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.params:
            if param not in arguments and "--help" not in param.opts:
                name = f"{', '.join(param.opts)} {param.metavar or ''}".rstrip()
                group = getattr(param, "rich_help_panel", None) or "Options"
                text = explained(param) if group == SCHEDULE else _meaning(param)
                if text:
                    groups.setdefault(group, []).append((name, text))
        for group, rows in sorted(groups.items(), key=lambda found: found[0] == "Common"):
            _print_group(console, group, rows)


def _explained(typed: list[str]) -> Callable[[Any], str]:
    """What is said of a flag of schedules; nothing if the typed schedule has no such option."""
    entry = next((SCHEDULES[word] for word in typed if word in SCHEDULES), None)

    def text(param: Any) -> str:
        if entry is None or param.name not in FLAGS:
            return _meaning(param)
        return meaning(param.name, entry) if param.name in entry.defaults else ""

    return text


class Group(TyperGroup):
    """The list of commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        console = _console()
        _print_head(console, f"{ctx.command_path} COMMAND [OPTIONS]", self.help, self.epilog)
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        lines = [(name, _first_sentence(each.help if each else "")) for name, each in commands]
        _print_group(console, "Commands", lines)
        console.print(f"[dim]{ctx.command_path} COMMAND --help says more.[/]")


def _console() -> "Console":
    from rich.console import Console

    console = Console(highlight=False)
    console.width = min(console.width, _WIDTH)
    return console


def _print_head(console: "Console", usage: str, help: str | None, examples: str | None) -> None:
    from rich.markup import escape

    console.print(f"[bold]Usage:[/] {escape(usage)}\n")
    for paragraph in (help or "").split("\n\n"):
        console.print(escape(" ".join(paragraph.split())) + "\n")
    if examples:
        console.print("[bold]Examples[/]")
        for line in examples.splitlines():
            comment = line.startswith("#")
            text = f"  [dim]{escape(line)}[/]" if comment else f"  [cyan]{escape(line)}[/]"
            console.print(text, soft_wrap=True)
        console.print()


def _print_group(console: "Console", name: str, rows: list[tuple[str, str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        return
    console.print(f"[bold]{escape(name)}[/]")
    width = 10 if name == "Commands" else _FIRST_COLUMN
    for first, second in rows:
        if len(first) > width:  # a long list of choices stands above its meaning
            console.print(f"  [cyan]{escape(first)}[/]", soft_wrap=True)
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(width=2 + width)
        row.add_column()
        row.add_row("" if len(first) > width else f"  [cyan]{escape(first)}[/]", escape(second))
        console.print(row)
    console.print()


def _meaning(param: Any) -> str:
    help: str = param.help or ""
    shown = param.default is not None and not isinstance(param.default, bool) and not param.required
    return f"{help} (default {param.default})" if shown else help


def _first_sentence(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split()).rstrip(".")
