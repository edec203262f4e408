"""One loader for every file that says what the layers of a network cost."""

import os

from simcore.errors import InputError
from simcore.interop.pipedream import load_pipedream
from simcore.interop.profiles import load_profile
from simcore.interop.texts import read_text
from simcore.workload import Workload, load_workload

__all__ = ["load_workload_any"]

_SEEN = 4096  # characters at the start of a file by which its format is told


def load_workload_any(path: str | os.PathLike[str]) -> Workload:
    """Read a workload from a file of one of these formats, told by its content:

    - a workload file, as `gradlag profile` writes it;
    - a `graph.txt` of PipeDream's profiler (`simcore.interop.pipedream`);
    - a Chrome trace, such as torch.profiler exports, gzipped or not (`simcore.interop.profiles`).

    Raises:
        InputError: the file is none of them, or has a problem, which is named.
    """
    if os.fspath(path).endswith(".toml"):
        return load_workload(path)
    text = read_text(path)
    start = text[:_SEEN].lstrip()
    if start.startswith("["):
        return load_profile(path)
    if start.startswith("{"):
        return load_profile(path) if '"traceEvents"' in text else load_workload(path)
    if " -- " in start:
        return load_pipedream(path)
    rule = "must be a workload file, a graph.txt of PipeDream or a Chrome trace"
    raise InputError("file", os.fspath(path), rule, "write one with `gradlag profile`")
