"""The tensors of one worker: what it holds of each batch, and the gradients that are pending.

They are kept under the items of `simcore.rules`. Of a block with one output tensor, or several in
a tuple (see `executor.tree`), the items are:

* `activation`: (output, labels). `sample`: the number of the pass.
* `gradient`: a tensor for each floating-point tensor of the output; None for that of the loss.
* `derivative`: for each direction a tensor for each floating-point tensor of the output.
* `scalar`: (directions,), the derivatives of the loss. `error`: (samples, classes).
* all others never leave the process: see `Graph`, `Kept` and the actions that make them.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from executor.finiteness import check_gradients
from executor.learning import Learning
from executor.slicing import Passes
from executor.streams import Place, working
from executor.tree import Value, detached, flat, refilled
from executor.weights import BlockWeights, Leaves
from simcore.errors import IllegalOperationError, RunError
from simcore.ledger import Ledger
from simcore.ledger import Update as Landed
from simcore.ops import COPIED, Item, ItemKind
from simcore.schedule import WeightRules

__all__ = [
    "Done",
    "Extras",
    "Graph",
    "Kept",
    "Loss",
    "Settings",
    "WorkerTensors",
    "skeleton",
    "untouched",
]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# Layers that draw from torch's global state: one at a time, so that each can have its own seed.
_DRAWING: Final = Lock()
_TRAVELLING: Final = ("activation", "gradient", "derivative", "scalar", "error")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the actions of all workers read.

    With `check_finite` what is not finite ends the run. `first_batch` is the mini-batch of the
    training with which the schedule begins.
    """

    rules: WeightRules
    blocks: int
    loss: Loss
    passes: Passes
    micro_batches: int = 1
    batches_per_update: int = 1
    split_backward: bool = False
    seed: int = 0
    learning: Learning = Learning()
    check_finite: bool = True
    first_batch: int = 0


@dataclass(slots=True)
class Extras:
    """What a block learns with besides its weights, where the schedule needs it.

    `head` classifies the block's output; its parameters are stepped with those of the block.
    `synthesizer` guesses gradients, and learns by `optimizer`. `matrix` (classes, outputs) projects
    errors or targets.
    """

    head: nn.Module | None = None
    synthesizer: nn.Module | None = None
    optimizer: torch.optim.Optimizer | None = None
    matrix: torch.Tensor | None = None

    def to(self, device: torch.device) -> None:
        """Bring it to a device; parameters stay the objects that they are."""
        for module in (self.head, self.synthesizer):
            if module is not None:
                module.to(device)
        if self.matrix is not None:
            self.matrix = self.matrix.to(device)


@dataclass(slots=True)
class Graph:
    """What a forward pass keeps: its input, its output (or the loss), and the weights it used.

    `inner` are the outputs of the block's children, where backward passes come in two halves, and
    `features` is the output of the last block before the loss.
    """

    inputs: Value
    output: Value
    leaves: Leaves
    labels: torch.Tensor
    features: Value
    inner: list[Value] = field(default_factory=list)
    estimated: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Kept:
    """The input of a forward pass that will be run again, with the weights if it must use them."""

    inputs: Value
    labels: torch.Tensor
    leaves: Leaves | None


@dataclass(frozen=True, slots=True)
class Done:
    """What a computation reports: the version for the trace, what landed, the loss."""

    version: int = -1
    landed: Landed | None = None
    loss: float | None = None


def skeleton(block: nn.Module) -> nn.Module:
    """A copy of a block's structure for one worker; parameters and buffers are shared.

    Workers bind versions of parameters to their own copy, so that no other worker's forward pass
    sees the binding. Running statistics are one set of tensors, whoever updates them.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in block.parameters()}
    shared |= {id(tensor): tensor for tensor in block.buffers()}
    return copy.deepcopy(block, shared)


class WorkerTensors:
    """The tensors of one worker: its blocks, what it holds, and its pending gradients.

    `modules` are the worker's own skeletons, `weights` the blocks' weights and `extras` what comes
    with them, all by block and on the device of `place` (None: on the CPU).
    """

    def __init__(
        self,
        worker: int,
        ledger: Ledger,
        modules: Mapping[int, nn.Module],
        weights: Mapping[int, BlockWeights],
        settings: Settings,
        extras: Mapping[int, Extras] | None = None,
        replica: int = 0,
        place: Place | None = None,
    ) -> None:
        self.place = place
        self.worker, self.ledger, self.rules = worker, ledger, settings.rules
        self.modules, self.weights, self.settings = modules, weights, settings
        self.extras = extras or {block: Extras() for block in modules}
        self.replica, self.blocks = replica, settings.blocks
        self.held: dict[tuple[ItemKind, int, int], Any] = {}
        self.pending: dict[int, list[torch.Tensor]] = {}
        self.averaged: dict[int, list[torch.Tensor]] = {}
        self.snapshots: dict[int, list[torch.Tensor]] = {}
        self.means: dict[int, list[torch.Tensor]] = {}
        self.newest: dict[int, int] = {}
        self.directions: dict[int, tuple[int, Any]] = {}
        self.states: dict[int, Any] = {}
        self.drawing: set[int] = set()
        self._bound: dict[int, Leaves] = {}
        self._names = {block: _names(module) for block, module in modules.items()}

    def take(self, items: Sequence[Item], batch: int, *, send: bool = False) -> list[Any]:
        """Take out what is held of a batch, in the order of the items; copy it, where sent."""
        try:
            return [
                self.held[kind, block, batch]
                if send and kind in COPIED
                else self.held.pop((kind, block, batch))
                for kind, block in items
            ]
        except KeyError as missing:
            raise IllegalOperationError(f"worker {self.worker} does not hold {missing}") from None

    def give(self, items: Sequence[Item], batch: int, payloads: Sequence[Any]) -> None:
        """Hold these of a batch, on the worker's device."""
        for (kind, block), payload in zip(items, payloads, strict=True):
            self.held[kind, block, batch] = self.brought(kind, payload)

    def brought(self, kind: ItemKind, payload: Any) -> Any:
        """A payload on the worker's device, if it is of tensors that travel."""
        if self.place is None or kind not in _TRAVELLING:
            return payload
        with working(self.place):
            return self.place.bring(payload)

    def drop_copied(self, batch: int) -> None:
        """Forget what came for all blocks of a batch, when none of them waits for it any more."""
        copied = [key for key in self.held if key[0] in COPIED and key[2] == batch]
        waiting = {"graph", "tangent", "input", "weight_graph"}
        if copied and not any(key[0] in waiting and key[2] == batch for key in self.held):
            for key in copied:
                del self.held[key]

    def run(self, block: int, batch: int, inputs: Value, inner: list[Value] | None = None) -> Value:
        """Put inputs through a block's own module with the weights that are bound to it."""
        with self.surrounded(block, batch):
            if inner is None:
                output: Value = self.modules[block](inputs)
                return output
            value = inputs
            for child in self.modules[block].children():
                value = child(value)
                inner.append(value)
            return value

    def loss_of(self, output: Value, labels: torch.Tensor, batch: int) -> torch.Tensor:
        """The loss of a pass, (); weighted by its share of the mini-batch."""
        assert isinstance(output, torch.Tensor)
        with self.precision():
            loss = self.settings.loss(output, labels)
        weight = self.settings.passes.weight(batch)
        return loss if weight == 1.0 else loss * weight

    def checked(self, loss: torch.Tensor, batch: int) -> float:
        """The loss as a number. Raises `RunError` for one that is none."""
        value = float(loss.item())
        if not value - value == 0:  # infinite or not a number
            raise RunError(
                f"the loss of batch {batch} is {value}: training diverged; "
                "use a smaller learning rate"
            )
        return value

    def bind(self, block: int, leaves: Leaves) -> None:
        """Let the worker's own module of a block compute with these weights."""
        if self._bound.get(block) is leaves:
            return
        for first, names in self._names[block].items():
            if first not in leaves.parameters:
                continue
            for name in names:
                path, _, last = name.rpartition(".")
                submodule = self.modules[block].get_submodule(path)
                setattr(submodule, last, leaves.parameters[first])
        self._bound[block] = leaves

    def add_pending(self, block: int, batch: int, gradients: list[torch.Tensor]) -> None:
        """Add a pass's gradients to what waits for the next update of the block."""
        if block in self.pending:
            torch._foreach_add_(self.pending[block], gradients)
        else:
            self.pending[block] = gradients
        self.newest[block] = max(batch, self.newest.get(block, 0))

    def reduced(self, block: int) -> list[torch.Tensor]:
        """The pending gradients of a block, as one: their mean or their sum, checked."""
        count = self.ledger.pending(self.worker, block)
        gradients = self.pending.pop(block)
        if self.rules.reduce == "mean" and count > 1:
            torch._foreach_div_(gradients, count)
        if self.settings.check_finite:
            check_gradients(block, self.newest.get(block, 0), gradients)
        return gradients

    @property
    def device(self) -> torch.device:
        """Where the worker computes."""
        return torch.device("cpu") if self.place is None else self.place.device

    def precision(self) -> Any:
        """Autocasting, if wanted; it is the thread's own."""
        wanted = self.settings.learning.precision(self.worker)
        return nullcontext() if wanted is None else torch.autocast(self.device.type, wanted)

    def received(self, value: Value) -> Value:
        """An input as the worker computes with it: one that does not autocast widens it."""
        if self.settings.learning.precision(self.worker) is not None:
            return detached(value)
        return refilled(value, (_widened(tensor.detach()) for tensor in flat(value)))

    @contextmanager
    def surrounded(self, block: int, batch: int) -> Iterator[None]:
        """What every pass through a block runs in: its precision, and its own random draws."""
        with ExitStack() as stack:
            stack.enter_context(self.precision())
            if block in self.drawing:
                stack.enter_context(_DRAWING)
                stack.enter_context(torch.random.fork_rng(self.random_devices))
                first = self.settings.first_batch * self.settings.micro_batches
                torch.manual_seed(self.seed_of(block, first + batch))
            yield

    @property
    def random_devices(self) -> list[torch.device]:
        """The devices besides the CPU whose random state the worker's draws change."""
        return [] if self.place is None else self.place.random_devices

    def seed_of(self, block: int, number: int) -> int:
        """A seed of 63 bits for what a block draws for a pass or a mini-batch."""
        key = (self.replica, block, number)
        words = np.random.SeedSequence(self.settings.seed % 2**64, spawn_key=key)
        return int(words.generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Run a worker's own module without a trace in its buffers: the pass does not count."""
    own = [
        (part, name, buffer)
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    for part, name, buffer in own:
        setattr(part, name, buffer.clone())
    try:
        yield
    finally:
        for part, name, buffer in own:
            setattr(part, name, buffer)


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _names(module: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter, by its first; a parameter that is used twice has two."""
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(first.setdefault(id(parameter), name), []).append(name)
    return names
