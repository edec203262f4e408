"""The schedules, one file per family. Importing this package registers them all."""

from typing import Final

from simcore.registry import SCHEDULES, Entry
from simcore.schedules import (
    async_bp,
    async_fgd,
    backpropagation,
    bubbles,
    delayed,
    feedback,
    forward_gradient,
    local,
    locked,
    pipedream,
    shared,
    synchronous,
)
from simcore.schedules.catalogue import build, check_together, find, rebuild

# From the baselines to what they are compared with, family by family.
_ORDER: Final = (
    *("bp", "bp-mp", "ddp", "gpipe", "1f1b", "interleaved-1f1b", "zb-h1"),
    *("pipedream", "pipedream-2bw", "async-1f1b"),
    *("ddg", "fr", "fdg", "adl", "dsp", "dgl", "dni"),
    *("async-lu", "async-bu", "hogwild", "lapsgd", "lppsgd"),
    *("fgd", "fgd-mp", "fgd-dp", "fgd-pipeline", "asyncfgd", "asyncfgd-recursive"),
    *("fa", "dfa", "sdfa", "drtp"),
)
for _name in _ORDER:
    SCHEDULES[_name] = SCHEDULES.pop(_name)

__all__ = [
    "SCHEDULES",
    "Entry",
    "async_bp",
    "async_fgd",
    "backpropagation",
    "bubbles",
    "build",
    "check_together",
    "delayed",
    "feedback",
    "find",
    "forward_gradient",
    "local",
    "locked",
    "pipedream",
    "rebuild",
    "shared",
    "synchronous",
]
