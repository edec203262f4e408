"""Checkpoints on disk: a folder with a manifest, and the files that it names.

A checkpoint is written under another name, and renamed once all of it is on disk: what is found
under its own name is complete, however the writer died. Tensors lie in files of `torch.save` that
hold nothing but tensors, numbers, texts and containers of them, and are read without running code.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, Literal

import torch

from simcore.errors import InputError

__all__ = ["FORMAT", "VERSION", "Manifest", "commit", "latest", "prepare", "read", "write_part"]

FORMAT: Final = "gradlag-checkpoint"
VERSION: Final = 1
_MANIFEST: Final = "manifest.json"
_WRITING: Final = ".writing-"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint is of.

    `kind`: `drained` if nothing was in flight, else `carried`. `batches` are the mini-batches whose
    loss is known, counted from the beginning of the training; `passes` are those of the schedule,
    which began with `first_batch`. `tensors` are the shapes of the network's parameters and
    buffers, by name. `parts` are the names of its files. `unfinished` are (pass, loss) of
    mini-batches of which not all parts have passed.
    """

    kind: Literal["carried", "drained"]
    runtime: str
    schedule: str
    options: Mapping[str, Any]
    bounds: tuple[int, ...]
    seed: int
    batches: int
    passes: int
    first_batch: int
    optimizer: str
    tensors: Mapping[str, tuple[int, ...]]
    parts: tuple[str, ...] = ()
    unfinished: tuple[tuple[int, float], ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def require(self, asked: "Manifest") -> None:
        """Raise `InputError`, in one line, where this is not a checkpoint of what is asked for."""
        same = ["schedule", "options", "bounds", "seed", "optimizer", "tensors"]
        if self.kind == "carried":
            same += ["first_batch"]
        saved, wanted = _plain(self), _plain(asked)
        for document in (saved, wanted) if self.kind == "drained" else ():
            # Where nothing is in flight, the schedule may go on for as long as is wanted.
            document["options"].pop("batches", None)
        for name in same:
            if saved[name] == wanted[name]:
                continue
            found, expected, what = saved[name], wanted[name], f"{name} of the checkpoint"
            if isinstance(found, dict) and isinstance(expected, dict):
                keys = [k for k in {**found, **expected} if found.get(k) != expected.get(k)]
                what = f"{what} ({keys[0]})"
                found, expected = found.get(keys[0]), expected.get(keys[0])
            raise InputError(
                what,
                found,
                f"must be the {expected} of the training",
                "resume with what was saved, or start anew without it",
            )
        if self.kind == "carried" and _flights(self.runtime) != _flights(asked.runtime):
            rule = f"must be resumed where it was saved, not in {asked.runtime}"
            remedy = f"use the runtime {self.runtime}, or drain before checkpoints"
            raise InputError("runtime of the checkpoint", self.runtime, rule, remedy)


def _plain(manifest: Manifest) -> dict[str, Any]:
    """As it is after writing and reading: tuples are lists."""
    return dict(json.loads(json.dumps(asdict(manifest), default=str)))


def _flights(runtime: str) -> str:
    """Runtimes that hold messages in the same form."""
    return "one process" if runtime in ("threads", "replay") else runtime


def prepare(folder: Path, batches: int) -> Path:
    """An empty folder to write a checkpoint to; `commit` gives it its name.

    What a killed run left half written is removed. Raises `InputError` where nothing can be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_WRITING}*"):
            shutil.rmtree(left, ignore_errors=True)
        writing = folder / f"{_WRITING}{_name(batches)}"
        writing.mkdir()
    except OSError as error:
        rule = f"must be a folder that can be written to ({error.strerror})"
        raise InputError("checkpoints", str(folder), rule, "choose another folder") from error
    return writing


def write_part(writing: Path, name: str, state: Mapping[str, Any]) -> str:
    """Write a file of a checkpoint; returns its name."""
    with (writing / name).open("wb") as stream:
        torch.save(dict(state), stream)
        stream.flush()
        os.fsync(stream.fileno())
    return name


def commit(writing: Path, manifest: Manifest, keep: int) -> Path:
    """Write the manifest, give the checkpoint its name, and keep the newest `keep` of the folder.

    One of the same number of mini-batches is replaced.
    """
    document = {"format": FORMAT, "version": VERSION, **_plain(manifest)}
    with (writing / _MANIFEST).open("w") as stream:
        json.dump(document, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    final = writing.parent / writing.name.removeprefix(_WRITING)
    if final.exists():
        # A folder cannot be replaced in one step. Both are complete, whenever the process dies.
        old = writing.parent / f"{_WRITING}old-{final.name}"
        final.rename(old)
        writing.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        writing.rename(final)
    _sync(final.parent)
    for old in _complete(final.parent)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a folder; the folder itself, if it is one."""
    if (folder / _MANIFEST).is_file():
        return folder
    found = _complete(folder)
    return found[-1] if found else None


def read(checkpoint: Path) -> tuple[Manifest, list[dict[str, Any]]]:
    """A checkpoint's manifest and the contents of its files; tensors are mapped, not read.

    Raises `InputError` for what is no checkpoint, is of another version, or is damaged.
    """
    try:
        document = json.loads((checkpoint / _MANIFEST).read_text())
        if document.pop("format") != FORMAT:
            raise ValueError("another format")
        version = document.pop("version")
        if version != VERSION:
            rule = f"must be of version {VERSION}"
            raise InputError("version of the checkpoint", version, rule, "use the gradlag it is of")
        for name in ("bounds", "parts"):
            document[name] = tuple(document[name])
        document["unfinished"] = tuple((at, loss) for at, loss in document["unfinished"])
        manifest = Manifest(**document)
        parts = [
            torch.load(checkpoint / name, weights_only=True, mmap=True) for name in manifest.parts
        ]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        rule = f"must be a whole checkpoint ({reason})"
        raise InputError("checkpoint", str(checkpoint), rule, "choose another one") from error
    return manifest, parts


def _name(batches: int) -> str:
    return f"batch-{batches:010d}"


def _complete(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"batch-*/{_MANIFEST}"))


def _sync(folder: Path) -> None:
    """Make a renaming last, where the system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
