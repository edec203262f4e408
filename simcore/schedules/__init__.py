"""The schedules, one file per family. Importing this package registers them all."""

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
