"""What a computation makes must be finite, so that the worker that broke it is the one named.

Otherwise only the loss would tell, in the last worker, and what had been sent would have spread.
A sum is the cheapest reduction, and takes in every value: what is not finite stays so. It may
overflow where all values are finite, so values are looked at one by one before a run is ended.
"""

from collections.abc import Iterable
from typing import Any, Final

import torch

from executor.tree import flat
from simcore.errors import RunError
from simcore.ops import ItemKind

__all__ = ["CHECKED", "check_gradients", "check_item"]

# What is computed and goes to others; all else stays with the worker that made it.
CHECKED: Final[frozenset[ItemKind]] = frozenset(
    {"activation", "gradient", "derivative", "scalar", "error"}
)
_REMEDY: Final = "use a smaller learning rate, or check_finite=False if the layers mean it"


def check_item(kind: ItemKind, block: int, batch: int, payload: Any) -> None:
    """Raise `RunError` if a payload of `executor.tensors` has values that are not finite."""
    value = payload[0] if kind == "activation" else payload  # labels are the data's own
    if value is not None and not _finite(flat(value)):
        raise _error(f"the {kind} of block {block} of batch {batch}")


def check_gradients(block: int, batch: int, gradients: Iterable[torch.Tensor]) -> None:
    """The same for the gradients of a block's weights; `batch` is the newest in them."""
    if not _finite(gradients):
        raise _error(f"the gradient of the weights of block {block} of batch {batch}")


def _finite(tensors: Iterable[torch.Tensor]) -> bool:
    for tensor in tensors:
        if not tensor.is_floating_point():
            continue
        total = float(tensor.detach().sum())
        if total - total != 0 and not bool(tensor.isfinite().all()):
            return False
    return True


def _error(what: str) -> RunError:
    return RunError(f"{what} is not finite: training diverged; {_REMEDY}")
