"""Clipping of the gradients of one block, before its optimiser takes its step.

Each block is clipped by itself: a norm over all blocks would make every update wait for the others,
which is the locking that asynchronous schedules break.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from simcore.errors import InputError

__all__ = ["KINDS", "Clip", "read_clip"]

KINDS: Final = ("norm", "value")


@dataclass(frozen=True, slots=True)
class Clip:
    """A limit on the gradients of a block: on their Euclidean norm, or on the size of each value.

    By the norm, all are multiplied by `limit / (norm + 1e-6)` where that is less than 1; by the
    value, each number is brought into -limit .. limit (`torch.nn.utils`). `limit` has the unit of
    the gradients. R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent
    neural networks" (2013), algorithm 1.

    Raises `InputError` for an unknown kind and for a limit that is not above 0.
    """

    kind: Literal["norm", "value"]
    limit: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            rule = f"must be {' or '.join(KINDS)}"
            raise InputError("clipping", self.kind, rule, "choose one of these")
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise InputError("limit of clipping", self.limit, "must be above 0", "give 1.0, say")

    def apply(self, gradients: list[torch.Tensor]) -> float:
        """Clip the gradients of a block, of any shapes. Returns their norm as it was before.

        What is clipped replaces the entries of the list; the tensors that were in it stay as they
        are. A norm that is not finite says so, and leaves gradients that are not finite either.
        """
        norm = get_total_norm(gradients)
        # Where nothing is to be clipped, nothing is copied.
        if gradients and not self._within(gradients, norm):
            # Autograd may hand out one tensor as the gradient of two parameters that are added, or
            # of a parameter and of the activation below: in place, it would be clipped twice.
            clipped = [gradient.detach().clone() for gradient in gradients]
            carriers = [gradient.detach() for gradient in clipped]
            for carrier, gradient in zip(carriers, clipped, strict=True):
                carrier.grad = gradient  # torch.nn.utils looks for gradients there
            if self.kind == "norm":
                clip_grads_with_norm_(carriers, self.limit, norm)
            else:
                clip_grad_value_(carriers, self.limit)
            gradients[:] = clipped
        return float(norm)

    def _within(self, gradients: list[torch.Tensor], norm: torch.Tensor) -> bool:
        if self.kind == "norm":
            return bool(self.limit / (norm + 1e-6) >= 1)
        # Several times as fast as the maximum norm.
        ranges = [torch.aminmax(gradient) for gradient in gradients if gradient.numel()]
        return all(bool((low >= -self.limit) & (high <= self.limit)) for low, high in ranges)


def read_clip(text: str) -> Clip:
    """The clipping that a text asks for: `norm:LIMIT` or `value:LIMIT`.

    Raises `InputError` for a text of another form.

    >>> read_clip("norm:1.0")
    Clip(kind='norm', limit=1.0)
    """
    kind, _, limit = text.partition(":")
    try:
        number = float(limit)
    except ValueError:
        number = math.nan
    if kind not in KINDS or not (math.isfinite(number) and number > 0):
        rule = "must be norm:LIMIT or value:LIMIT with a limit above 0"
        raise InputError("clipping", text, rule, "write norm:1.0, for instance")
    return Clip("norm" if kind == "norm" else "value", number)
