"""Files that are written whole or not at all."""

import os
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from simcore.errors import InputError

__all__ = ["write_whole"]


def write_whole(path: str | os.PathLike[str], content: str | bytes | Iterable[str]) -> None:
    """Replace the file by this content (text as UTF-8) in one step, making parent folders.

    Texts that come one by one are written one by one.

    Who reads at the same time, or after a crash, finds the old content or the new one.

    Raises:
        InputError: the folder cannot be made or written to; an old file is then left as it was.
    """
    target = Path(path)
    # Only a rename within one file system is atomic, hence the same folder.
    temporary = target.parent / f".{uuid4().hex}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as stream:
                if isinstance(content, bytes):
                    stream.write(content)
                else:
                    for text in [content] if isinstance(content, str) else content:
                        stream.write(text.encode())
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = "its folder is a file" if isinstance(error, FileExistsError) else error.strerror
        rule = f"must be writable ({reason})"
        raise InputError("file", os.fspath(path), rule, "choose another path") from error
