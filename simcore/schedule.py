"""A schedule: worker programs, their channels, and how weights are read and written."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from simcore.errors import InputError
from simcore.ops import Channel, Group, Worker

__all__ = ["Policy", "Schedule", "WeightRules", "Window"]

Policy = Literal["stash", "mixed"]
Window = int | tuple[int, ...]  # one number for all modules, or one for each


@dataclass(frozen=True, slots=True)
class WeightRules:
    """How weights are read and written. Programs never mention these; ledger and tensors do.

    * `policy`: which weights a backward pass uses. `stash`: those of its forward pass, as the
      papers' equations say. `mixed`: activations of the forward pass with the weights found when
      the backward pass runs, as code does that updates in place. `replay`: the forward pass is run
      again on its kept input, with the weights found then.
    * `write`: an update adds its step to the shared weights (`add`), or steps from the worker's own
      copy and writes the result over the shared weights, and with it over what others have added
      since the copy was made (`assign`).
    * `refresh`, for `assign`: when a worker renews its copy of a block. `layer`: when its backward
      pass of that block starts. `pass`: all blocks, when its backward pass starts at the last one.
    * `momentum`: whose optimiser state an update uses, the worker's own (`worker`) or one of the
      block (`shared`). They differ only where several workers update a block.
    * `reduce`: what is done to several pending gradients, their `mean` or their `sum`.
    * `shrink`: factor on the gradient that a module receives from the next one, dimensionless.
    * `buffer`: 0, or the number m of passes after which a forward pass changes over to newer
      weights: the n-th pass of a block (from 0) reads version max(0, n // m - 1), as PipeDream-2BW.
    * `feedback`: what gradients go down through. `weights`: those of the block. `random`: fixed
      random ones (feedback alignment). `error`, `sign`: a fixed random projection of the error, or
      of its sign. `target`: one of the targets. `local`: a loss or a model of the module's own.
    * `tangents`: random directions of a forward gradient, whose mean is taken.
    * `directions`: what they are drawn from. `keep`: whether the direction is kept until it is
      used, or the `seed` that it is drawn from again.
    * `alpha`: scale of the directions of all layers but the classifier's, dimensionless.
    """

    policy: Policy | Literal["replay"] = "stash"
    write: Literal["add", "assign"] = "add"
    refresh: Literal["layer", "pass"] = "layer"
    momentum: Literal["worker", "shared"] = "worker"
    reduce: Literal["mean", "sum"] = "mean"
    shrink: float = 1.0
    buffer: int = 0
    feedback: Literal["weights", "random", "error", "sign", "target", "local"] = "weights"
    tangents: int = 1
    directions: Literal["gaussian", "rademacher"] = "gaussian"
    keep: Literal["tangent", "seed"] = "tangent"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if self.write == "assign" and self.policy == "stash":
            rule = "writes in place and cannot keep old weights"
            raise InputError("write", "assign", rule, "use weights=mixed")
        if self.write == "assign" and self.momentum == "shared":
            rule = "cannot step each worker's own copy"
            raise InputError("momentum", "shared", rule, "use momentum=worker")


@dataclass(frozen=True, eq=False)
class Schedule:
    """Programs of all workers for a number of batches over a number of blocks.

    A block is a run of consecutive layers with one version counter; block 1 is next to the data.
    `batches` counts what passes through the network one by one: mini-batches, or, where each of
    them is split into `micro_batches`, these. `batches_per_update` is how many mini-batches an
    update sees in steady state, those of all replicas together. Only with `split_backward` may a
    program use `BackwardInput` and `BackwardWeight`, whose times need a finer tick.
    `options` are the factory's arguments, so `build(name, **options)` makes it again, in another
    process too.
    """

    blocks: int
    batches: int
    workers: tuple[Worker, ...]
    weights: WeightRules = field(default_factory=WeightRules)
    micro_batches: int = 1
    batches_per_update: int = 1
    split_backward: bool = False
    name: str = "own"
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.workers:
            raise InputError("number of workers", 0, "must be at least 1", "add a worker")
        if self.blocks < 1:
            rule = "must be at least 1"
            raise InputError("number of blocks", self.blocks, rule, "give 1 or more")
        uniquely = ("worker", self.workers), ("channel", self.channels), ("group", self.groups)
        for what, named in uniquely:
            for name, count in Counter(each.name for each in named).items():
                if count > 1:
                    raise InputError(what, name, f"must be one {what}", "name each one apart")
        for worker in self.workers:
            for block in worker.blocks:
                if not 1 <= block <= self.blocks:
                    rule = f"must be within 1..{self.blocks}"
                    raise InputError(f"block of {worker.name}", block, rule, "correct the worker")
        for group in self.groups:
            for block in group.blocks:
                if not 1 <= block <= self.blocks:
                    rule = f"must be within 1..{self.blocks}"
                    raise InputError(f"block of {group.name}", block, rule, "correct the group")
        for channel in self.channels:
            if channel.capacity is not None and channel.capacity < 1:
                what, rule = f"capacity of {channel.name}", "must be at least 1, or None"
                raise InputError(what, channel.capacity, rule, "give 1 or more")
            if channel.source and self.senders[channel]:
                raise InputError(
                    "channel", channel.name, "is a source and has no senders", "drop the sender"
                )

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Every group that a worker is a member of, in the order of the workers."""
        return tuple({group: None for worker in self.workers for group in worker.joins})

    @cached_property
    def replicas(self) -> tuple[int, ...]:
        """The replica of each worker; replicas have a copy of the weights each."""
        return tuple(worker.replica for worker in self.workers)

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
