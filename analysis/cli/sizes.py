"""The limit on memory, which is looked at before anything large is made."""

from collections.abc import Mapping
from typing import Annotated

from analysis.cli.options import flag

__all__ = ["MemoryLimit", "refuse_if_too_large"]

MemoryLimit = Annotated[
    str, flag("--memory-limit", "SIZE", "refuse what is estimated to need more, for its trace")
]


def refuse_if_too_large(schedule: str, given: Mapping[str, object], limit: str) -> None:
    """Raise `InputError` if the trace of a schedule is estimated to need more memory."""
    from simcore import estimate

    size = estimate.parse_bytes(limit, "--memory-limit")
    estimate.refuse_if_too_large(estimate.estimate(schedule, given), size)
