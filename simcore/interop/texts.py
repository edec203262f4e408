"""Texts of other tools' files, gzipped or not."""

import gzip
import os
from pathlib import Path

from simcore.errors import InputError

__all__ = ["read_text"]


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file, unpacked if it is gzipped.

    Raises:
        InputError: the file cannot be read or is no text.
    """
    try:
        content = Path(path).read_bytes()
        return (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        rule = f"must be a readable text ({reason})"
        raise InputError("file", os.fspath(path), rule, "check the path") from error
