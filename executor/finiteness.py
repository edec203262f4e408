"""What a computation makes must be finite, so that the worker that broke it is the one named.

Otherwise only the loss would tell, in the last worker, and what had been sent would have spread.
A sum is the cheapest reduction, and takes in every value: what is not finite stays so. It may
overflow where all values are finite, so values are looked at one by one before a run is ended.

Of large gradients of weights, the first row and the first column are looked at. Such a gradient is
a product of inputs and gradients of outputs: a value of these that is not finite fills a row or a
column. What has gone wrong in another way shows in the worker's next pass, as zero times infinity
is not finite either. Reading all of it would cost a few percent of the training of a network of
large matrices.
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
_LARGE: Final = 2**14
_REMEDY: Final = "use a smaller learning rate, or check_finite=False if the layers mean it"


def check_item(kind: ItemKind, block: int, batch: int, payload: Any) -> None:
    """Raise `RunError` if a payload of `executor.tensors` has values that are not finite."""
    value = payload[0] if kind == "activation" else payload  # labels are the data's own
    if value is not None and not _finite(flat(value)):
        raise _error(f"the {kind} of block {block} of batch {batch}")


def check_gradients(block: int, batch: int, gradients: Iterable[torch.Tensor]) -> None:
    """The same for the gradients of a block's weights; `batch` is the newest in them."""
    if not _finite(edge for gradient in gradients for edge in _edges(gradient)):
        raise _error(f"the gradient of the weights of block {block} of batch {batch}")


def _edges(gradient: torch.Tensor) -> Iterable[torch.Tensor]:
    """All of it, or its first row and column if it is large."""
    if gradient.dim() < 2 or gradient.numel() < _LARGE or gradient.is_sparse:
        return (gradient,)
    return gradient[0], gradient[:, 0]


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
