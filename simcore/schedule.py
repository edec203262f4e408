"""A schedule: worker programs, their channels, and how weights are read and written."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from simcore.errors import InputError
from simcore.ops import Channel, Worker

__all__ = ["Policy", "Schedule", "WeightRules"]

Policy = Literal["stash", "mixed"]


@dataclass(frozen=True, slots=True)
class WeightRules:
    """How weights are read and written. Programs never mention these; ledger and tensors do.

    * `policy`: which weights a backward pass uses. `stash`: those of its forward pass, as the
      papers' equations say. `mixed`: activations of the forward pass with the weights found when
      the backward pass runs, as code does that updates in place.
    * `write`: an update adds its step to the shared weights (`add`), or steps from the worker's own
      copy and writes the result over the shared weights, and with it over what others have added
      since the copy was made (`assign`).
    * `refresh`, for `assign`: when a worker renews its copy of a block. `layer`: when its backward
      pass of that block starts. `pass`: all blocks, when its backward pass starts at the last one.
    * `momentum`: whose optimiser state an update uses, the worker's own (`worker`) or one of the
      block (`shared`). They differ only where several workers update a block.
    * `reduce`: what is done to several pending gradients, their `mean` or their `sum`.
    * `shrink`: factor on the gradient that a module receives from the next one, dimensionless.
    """

    policy: Policy = "stash"
    write: Literal["add", "assign"] = "add"
    refresh: Literal["layer", "pass"] = "layer"
    momentum: Literal["worker", "shared"] = "worker"
    reduce: Literal["mean", "sum"] = "mean"
    shrink: float = 1.0


@dataclass(frozen=True, eq=False)
class Schedule:
    """Programs of all workers for a number of batches over a number of blocks.

    A block is a run of consecutive layers with one version counter; block 1 is next to the data.
    `options` are the factory's arguments, so `build(name, **options)` makes it again, in another
    process too.
    """

    name: str
    options: Mapping[str, object]
    blocks: int
    batches: int
    workers: tuple[Worker, ...]
    weights: WeightRules = field(default_factory=WeightRules)

    def __post_init__(self) -> None:
        names = Counter(channel.name for channel in self.channels)
        for name, count in names.items():
            if count > 1:
                raise InputError("channel", name, "must be one channel", "name each one apart")
        for worker in self.workers:
            for block in worker.blocks:
                if not 1 <= block <= self.blocks:
                    rule = f"must be within 1..{self.blocks}"
                    raise InputError(f"block of {worker.name}", block, rule, "correct the worker")
        for channel in self.channels:
            if channel.source and self.senders[channel]:
                raise InputError(
                    "channel", channel.name, "is a source and has no senders", "drop the sender"
                )

    @cached_property
    def channels(self) -> tuple[Channel, ...]:
        """Every channel that a worker names, in the order of the workers."""
        found: dict[Channel, None] = {}
        for worker in self.workers:
            for channel in (*worker.receives, *worker.sends):
                found[channel] = None
        return tuple(found)

    @cached_property
    def senders(self) -> Mapping[Channel, tuple[int, ...]]:
        """The numbers of the workers that may send to each channel."""
        return self._workers_by_channel(lambda worker: worker.sends)

    @cached_property
    def receivers(self) -> Mapping[Channel, tuple[int, ...]]:
        """The numbers of the workers that may receive from each channel."""
        return self._workers_by_channel(lambda worker: worker.receives)

    def _workers_by_channel(
        self, used: Callable[[Worker], tuple[Channel, ...]]
    ) -> Mapping[Channel, tuple[int, ...]]:
        found: dict[Channel, list[int]] = {channel: [] for channel in self.channels}
        for number, worker in enumerate(self.workers):
            for channel in used(worker):
                found[channel].append(number)
        return {channel: tuple(numbers) for channel, numbers in found.items()}

    def is_local(self, channel: Channel) -> bool:
        """Whether a worker only talks to itself through the channel: no link, no transport."""
        return len(ends := {*self.senders[channel], *self.receivers[channel]}) == 1 and (
            not channel.source and bool(ends)
        )
