"""What goes out: one JSON document or a readable text on stdout, everything else on stderr."""

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

from simcore.errors import InputError
from simcore.files import write_whole

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["Bar", "console", "folder", "json_text", "note", "print_json", "write_json"]

_PATIENCE_S: Final = 0.7  # what takes less gets no bar
_REFRESH_S: Final = 0.1


def console() -> "Console":
    """The console of stdout."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def json_text(document: Mapping[str, Any]) -> str:
    """A JSON document; what is not a finite number becomes null. Lists of numbers are one line."""
    text = json.dumps(_finite(document), indent=1, allow_nan=False, ensure_ascii=False)
    return re.sub(r"\[\n\s*([^\[\]{}]*?)\n\s*\]", _on_one_line, text) + "\n"


def _on_one_line(found: "re.Match[str]") -> str:
    return f"[{re.sub(chr(10) + ' *', ' ', found[1])}]"


def print_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document to stdout."""
    sys.stdout.write(json_text(document))


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_whole(path, json_text(document))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def note(text: str) -> None:
    """Tell the user something beside the result."""
    print(f"gradlag: {text}", file=sys.stderr)


def folder(out: str | None, names: Iterable[str], flag: str = "--out") -> Path | None:
    """The folder of `--out`, made if need be, and found to be writable before the work starts.

    `names` are those of the files that will be written there. Raises `InputError` if they cannot
    be.
    """
    if out is None:
        return None
    if not out:
        raise InputError(flag, out, "must be the name of a folder", "give one such as out")
    path = Path(out)
    probe = path / f".{uuid4().hex}.tmp"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, FileExistsError):
            reason = "it is a file"
        rule = f"must be a folder that can be written to ({reason})"
        raise InputError(flag, out, rule, "choose another folder") from None
    for name in names:
        if (path / name).is_dir():
            rule = "must be the name of a file, but a folder has it"
            raise InputError(flag, str(path / name), rule, "choose another folder")
    return path


class Bar:
    """Progress on stderr, with the seconds left, of what takes long; only on a terminal.

    Elsewhere, with `log`, each stage leaves a line.

    >>> with Bar("counting", total=3) as bar:
    ...     for _ in range(3):
    ...         bar.told(1)
    """

    def __init__(self, what: str, total: int | None = None, *, log: bool = False) -> None:
        self.what, self.total, self.log = what, total, log
        self._terminal = sys.stderr.isatty()
        self._since = self._drawn = monotonic()
        self._done = 0
        self._news, self._per_batch = "", 0
        self._shown: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown is not None:
            self._shown[0].stop()

    def __call__(self, count: int) -> None:
        """As `told`; so that a run can tell its news as well."""
        self.told(count)

    def news(self, loss: float | None, gap: float | None) -> None:
        """What is newest of a training is shown beside how fast it goes."""
        parts = [] if loss is None else [f"loss {loss:.3g}"]
        parts += [] if gap is None else [f"gap {gap:.3g}"]
        self._news = ", ".join(parts)

    def told(self, count: int) -> None:
        """So much more is done."""
        self._done += count
        now = monotonic()
        if self._terminal and now - self._drawn > _REFRESH_S:
            self._drawn = now
            if self._shown is not None or now - self._since > _PATIENCE_S:
                progress, task = self._show()
                progress.update(task, completed=self._done, news=self._latest(now))

    def _latest(self, now: float) -> str:
        if not self._per_batch:
            return self._news
        rate = self._done / self._per_batch / max(now - self._since, 1e-9)
        return ", ".join(filter(None, (f"{rate:.3g} batches/s", self._news)))

    def stage(self, what: str, total: int | None = None, per_batch: int = 0) -> None:
        """Something else begins; without a total nobody knows how much it is.

        With `per_batch`, so much of the total is one mini-batch of a training.
        """
        self.what, self.total, self._done = what, total, 0
        self._news, self._per_batch, self._since = "", per_batch, monotonic()
        if self._terminal:
            progress, task = self._show()
            progress.reset(task, description=what, total=total, news="")
        elif self.log:
            note(what)

    def _show(self) -> "tuple[Progress, TaskID]":
        if self._shown is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                Progress,
                TaskProgressColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[news]}"),
            )
            progress = Progress(
                *columns, console=Console(stderr=True), transient=True, redirect_stdout=False
            )
            progress.start()
            self._shown = progress, progress.add_task(self.what, total=self.total, news="")
        return self._shown
