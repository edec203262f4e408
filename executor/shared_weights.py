"""Weights and running statistics in anonymous shared memory, which several processes update.

Nothing is locked: what two processes add at one time may be lost, as the lock-free methods have it.
"""

import mmap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

from executor.handles import Descriptor, memory_file
from simcore.errors import InputError
from simcore.schedule import Schedule

__all__ = ["SharedWeights", "shared_blocks", "tensors_of"]

_ALIGNMENT_BYTES: Final = 64  # a cache line, and more than any dtype needs


def shared_blocks(schedule: Schedule) -> dict[int, list[int]]:
    """The blocks that several workers have, by replica; in the order of the blocks."""
    workers = Counter((w.replica, block) for w in schedule.workers for block in set(w.blocks))
    found: dict[int, list[int]] = {}
    for (replica, block), count in sorted(workers.items()):
        if count > 1:
            found.setdefault(replica, []).append(block)
    return found


def tensors_of(block: nn.Module, head: nn.Module | None = None) -> list[torch.Tensor]:
    """What training changes in a block, and what it does not: parameters, then buffers.

    Those of its `head` come last. A tensor that is used twice is listed once.
    """
    parts = [block, *([] if head is None else [head])]
    listed = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    return list({id(tensor): tensor for tensor in listed}.values())


class SharedWeights:
    """The tensors of the blocks of one replica that several processes share.

    Made by `create` in the parent and handed to children as an argument of `Process`. `starts` are
    the offsets of the blocks, in bytes.
    """

    def __init__(self, memory: Descriptor, size_bytes: int, starts: Mapping[int, int]) -> None:
        self.starts = starts
        self._memory, self._size_bytes = memory, size_bytes
        # Page tables are filled now, so that the first passes cause no page faults.
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        self._bytes = torch.frombuffer(
            mmap.mmap(memory.number, size_bytes, flags), dtype=torch.uint8
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedWeights, (self._memory, self._size_bytes, self.starts)

    @classmethod
    def create(cls, name: str, blocks: Mapping[int, Sequence[torch.Tensor]]) -> "SharedWeights":
        """Take memory for the tensors of some blocks, and copy their values into it.

        The name shows in /proc/PID/maps. Raises `InputError` where there is not that much memory.
        """
        starts, end = {}, 0
        for block, tensors in blocks.items():
            starts[block] = end
            end += sum(_aligned(tensor) for tensor in tensors)
        size_bytes = max(end, _ALIGNMENT_BYTES)
        try:
            shared = cls(memory_file(name, size_bytes), size_bytes, starts)
        except OSError as error:
            rule = f"the system must be able to give it ({error.strerror})"
            remedy = "use a smaller network or the runtime threads"
            what = f"size in bytes of the shared weights '{name}'"
            raise InputError(what, size_bytes, rule, remedy) from error
        for block, tensors in blocks.items():
            for view, tensor in zip(shared.views(block, tensors), tensors, strict=True):
                view.copy_(tensor.detach())
        return shared

    def views(self, block: int, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The shared tensors of a block, with dtypes, shapes and memory formats as given."""
        found, start = [], self.starts[block]
        for tensor in like:
            flat = self._bytes[start : start + tensor.nbytes].view(tensor.dtype)
            # The strides that a copy has: those of the tensor, where it is dense.
            strides = torch.empty_like(tensor, device="meta").stride()
            found.append(flat.as_strided(tensor.shape, strides))
            start += _aligned(tensor)
        return found

    def adopt(self, block: int, tensors: Sequence[torch.Tensor]) -> None:
        """Let a block's tensors be the shared ones.

        Only before their first use: to rebind `.data` under a graph is neither old nor new weights.
        """
        for tensor, view in zip(tensors, self.views(block, tensors), strict=True):
            tensor.data = view

    def state(self, model: nn.Module, blocks: Sequence[nn.Module]) -> dict[str, torch.Tensor]:
        """Copies of what is found now, named as in the whole `model`, of which `blocks` are all."""
        current: dict[int, torch.Tensor] = {}
        for block in self.starts:
            own = tensors_of(blocks[block - 1])
            current |= {id(t): view for t, view in zip(own, self.views(block, own), strict=True)}
        named = model.state_dict(keep_vars=True).items()
        return {name: current[id(t)].clone() for name, t in named if id(t) in current}


def _aligned(tensor: torch.Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
