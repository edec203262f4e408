"""The weights of one block: versions that graphs can keep, and updates that respect them.

Under `stash` a graph keeps the very parameters that its forward pass used: an update that finds
the current parameters in use by a graph writes to copies of them, and publishes the copies.
Autograd's own check, which refuses a backward pass through parameters that were changed in place,
stays on. Under `mixed` and `replay` updates write in place and that check is evaded on purpose: the
optimiser works on aliases of the parameters, which have version counters of their own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from simcore.errors import InputError
from simcore.ledger import Update as Landed
from simcore.schedule import WeightRules

__all__ = ["AUXILIARY", "BlockWeights", "Leaves", "MakeOptimizer"]

_Landed = TypeVar("_Landed")
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
AUXILIARY: Final = "auxiliary."  # before the names of weights that learn with a block


@dataclass(eq=False, slots=True)
class Leaves:
    """One version of a block's parameters, and how many graphs were made with it and still live."""

    parameters: dict[str, nn.Parameter]
    graphs: int = 0


@dataclass(slots=True)
class _Copy:
    """A worker's own parameters of a block, with the optimiser that steps them."""

    parameters: list[nn.Parameter]
    optimizer: Optimizer


class BlockWeights:
    """The weights of a block that one worker (`exclusive`) or several update.

    Those of `head`, an auxiliary network, are stepped with them, under names of their own.
    `make_optimizer` is called once for each optimiser state there is to be: for the block, or for
    each worker that updates it (`momentum="worker"`). `lock` is the ledger's. Raises `InputError`
    for a fused optimiser under `stash`: it changes parameters without autograd noticing.
    """

    def __init__(
        self,
        module: nn.Module,
        rules: WeightRules,
        make_optimizer: MakeOptimizer,
        exclusive: bool,
        lock: AbstractContextManager[Any],
        head: nn.Module | None = None,
    ) -> None:
        self.rules, self.exclusive, self.make_optimizer = rules, exclusive, make_optimizer
        self.lock = lock
        learning = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if head is not None:
            learning |= {f"{AUXILIARY}{name}": p for name, p in head.named_parameters()}
        self.current = Leaves(learning)
        self.buffered = {0: self.current}
        self.writing = Lock()
        self._copies: dict[int, _Copy] = {}
        self._optimizers: dict[int, Optimizer] = {}
        if rules.policy == "stash":
            refuse_fused(make_optimizer(learning.values()))

    def at(self, version: int) -> Leaves:
        """The weights that a forward pass uses: the newest, or with a buffer those of a version."""
        return self.buffered[version] if self.rules.buffer else self.current

    def step(
        self,
        worker: int,
        gradients: Sequence[torch.Tensor],
        land: Callable[[], Landed],
        rate: float = 1.0,
    ) -> Landed:
        """Apply one gradient per parameter, as the rules say, and tell the ledger by `land`.

        `rate` is a factor on the optimiser's learning rate, dimensionless.
        """
        if self.rules.policy == "stash":
            return self._step_stashed(worker, gradients, land, rate)
        if self.rules.write == "assign":
            self._step_own_copy(worker, gradients, rate)
        else:
            copy = self._aliases(worker)
            _step(copy.optimizer, copy.parameters, gradients, rate)
        return land()

    def copied(self) -> list[torch.Tensor]:
        """Copies of the weights, as they are found now."""
        return [tensor.clone() for tensor in self._shared()]

    def add(self, changes: list[torch.Tensor], land: Callable[[], int]) -> int:
        """Add to the weights, one tensor per parameter, and tell the ledger by `land`."""
        if self.rules.policy != "stash":
            torch._foreach_add_(self._shared(), changes)
            return land()
        with self.writing:
            new = self._copy_of(self.current)
            torch._foreach_add_([p.data for p in new.parameters.values()], changes)
            with self.lock:
                return self._publish(new, land)

    def renew_copy(self, worker: int) -> None:
        """With `write=assign`: overwrite the worker's own copy with the shared weights."""
        copy = self._own_copy(worker)
        with torch.no_grad():
            for own, shared in zip(copy.parameters, self._shared(), strict=True):
                own.copy_(shared)

    def saved(self, number_of: Callable[[Leaves], int]) -> dict[str, Any]:
        """Optimiser states, own copies, and the buffer, whose versions have numbers."""
        return {
            "optimizers": {owner: each.state_dict() for owner, each in self._optimizers.items()},
            "copies": {
                owner: {
                    "optimizer": each.optimizer.state_dict(),
                    "parameters": [p.detach().clone() for p in each.parameters],
                }
                for owner, each in self._copies.items()
            },
            "buffered": {version: number_of(each) for version, each in self.buffered.items()},
        }

    def restore(self, saved: Mapping[str, Any], versions: Sequence[Leaves]) -> None:
        """Go on from what other weights of the same rules have `saved`.

        `versions` are by number; 0 is the newest, which has been written to `current` already.
        """
        if self.rules.buffer and saved["buffered"]:
            self.buffered = {at: versions[number] for at, number in saved["buffered"].items()}
        for owner, state in saved["optimizers"].items():
            self._optimizers[owner] = self.make_optimizer(self.current.parameters.values())
            self._optimizers[owner].load_state_dict(state)
        own = self.rules.write == "assign"
        for owner, state in saved["copies"].items():
            copy = self._own_copy(owner) if own else self._copy(owner, self._shared)
            if own:
                for parameter, value in zip(copy.parameters, state["parameters"], strict=True):
                    parameter.data.copy_(value)
            copy.optimizer.load_state_dict(state["optimizer"])

    def _step_stashed(
        self,
        worker: int,
        gradients: Sequence[torch.Tensor],
        land: Callable[[], Landed],
        rate: float,
    ) -> Landed:
        # Two workers that both copied, stepped and published would lose one of the two steps.
        with self.writing:
            old = self.current
            owner = self._owner(worker)
            if owner not in self._optimizers:
                self._optimizers[owner] = self.make_optimizer(old.parameters.values())
            new = old
            if old.graphs or not self.exclusive or self.rules.buffer:
                new = self._copy_of(old)
            _step(self._optimizers[owner], list(new.parameters.values()), gradients, rate)
            with self.lock:  # who reads the weights reads their version with them
                return self._publish(new, land)

    def _copy_of(self, old: Leaves) -> Leaves:
        """Copies of the parameters, with which the optimisers go on."""
        new = Leaves({name: nn.Parameter(p.detach().clone()) for name, p in old.parameters.items()})
        for optimizer in self._optimizers.values():
            _move(optimizer, old, new)
        return new

    def _publish(self, new: Leaves, land: Callable[[], _Landed]) -> _Landed:
        """Make these the newest weights; with a buffer, those before them are kept as well."""
        old, self.current = self.current, new
        landed = land()
        if self.rules.buffer:
            newest = max(self.buffered) + 1
            self.buffered = {newest - 1: old, newest: new}
        return landed

    def _step_own_copy(self, worker: int, gradients: Sequence[torch.Tensor], rate: float) -> None:
        copy = self._own_copy(worker)
        _step(copy.optimizer, copy.parameters, gradients, rate)
        for own, shared in zip(copy.parameters, self._shared(), strict=True):
            shared.copy_(own.detach())

    def _shared(self) -> list[torch.Tensor]:
        # `.data` shares the memory but not the version counter that autograd checks.
        return [parameter.data for parameter in self.current.parameters.values()]

    def _aliases(self, worker: int) -> _Copy:
        return self._copy(self._owner(worker), self._shared)

    def _owner(self, worker: int) -> int:
        return worker if self.rules.momentum == "worker" else -1

    def _own_copy(self, worker: int) -> _Copy:
        return self._copy(worker, lambda: [tensor.clone() for tensor in self._shared()])

    def _copy(self, owner: int, tensors: Callable[[], list[torch.Tensor]]) -> _Copy:
        with self.writing:
            if owner not in self._copies:
                parameters = [nn.Parameter(tensor) for tensor in tensors()]
                self._copies[owner] = _Copy(parameters, self.make_optimizer(parameters))
            return self._copies[owner]


def refuse_fused(optimizer: Optimizer) -> None:
    """Raise `InputError` for an optimiser with fused kernels."""
    if any(group.get("fused") for group in optimizer.param_groups):
        raise InputError(
            "optimiser",
            f"{type(optimizer).__name__}(fused=True)",
            "must not be fused under weights=stash, where autograd checks what was changed",
            "drop fused=True or use weights=mixed",
        )


def _step(
    optimizer: Optimizer,
    parameters: Sequence[nn.Parameter],
    gradients: Sequence[torch.Tensor],
    rate: float,
) -> None:
    for group in optimizer.param_groups:
        if rate != 1.0 or "initial_lr" in group:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * rate
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    for parameter in parameters:
        parameter.grad = None


def _move(optimizer: Optimizer, old: Leaves, new: Leaves) -> None:
    """Let the optimiser go on, with its state, on other parameters."""
    renamed = {id(parameter): new.parameters[name] for name, parameter in old.parameters.items()}
    for group in optimizer.param_groups:
        group["params"] = [renamed[id(parameter)] for parameter in group["params"]]
    for parameter in list(optimizer.state):
        optimizer.state[renamed[id(parameter)]] = optimizer.state.pop(parameter)
