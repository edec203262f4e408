"""How far two trained states of one network are apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from simcore.errors import InputError

__all__ = ["Difference", "state_difference"]


@dataclass(frozen=True, slots=True)
class Difference:
    """`differing` of `values` numbers are not the same to the last bit.

    `largest` is the largest difference over the largest absolute value of its tensor, and
    `relative` the norm of all differences over that of all values; both dimensionless.
    """

    values: int
    differing: int
    largest: float
    relative: float
    note: str


def state_difference(
    weights: Path, state: Mapping[str, torch.Tensor], *, lock_free: bool
) -> Difference:
    """The difference of a state from that which a run has left in a file.

    `lock_free` says whether workers of the run wrote what others read without locks.
    Raises `InputError` for a file that is none, or of another network.
    """
    try:
        known = torch.load(weights, weights_only=True)
        shapes = {name: tensor.shape for name, tensor in known.items()}
    except Exception as error:
        rule = f"must be the weights of a run ({type(error).__name__})"
        raise InputError("weights", weights, rule, "move it away, to go without") from error
    if shapes != {name: tensor.shape for name, tensor in state.items()}:
        rule = "must be of the network of the trace"
        raise InputError("weights", weights, rule, "move it away, to go without")
    values = differing = 0
    largest, apart, size = 0.0, 0.0, 0.0
    for name, tensor in state.items():
        one, other = known[name].double(), tensor.double()
        gap = (one - other).abs()
        values += one.numel()
        differing += int((one != other).sum())
        if one.numel():
            largest = max(largest, float(gap.max() / one.abs().max().clamp_min(1e-300)))
        apart += float((gap**2).sum())
        size += float((one**2).sum())
    relative = (apart / size) ** 0.5 if size else 0.0
    note = "the same as those of the run, to the last bit"
    if differing:
        note = (
            f"{differing / values:.1%} of {values} differ from those of the run, by "
            f"{relative:.2g} in the norm"
        )
        note += ": the effect of torn or lost writes" if lock_free else ""
    return Difference(values, differing, largest, relative, note)
