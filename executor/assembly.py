"""Putting a run together: the parts that every runtime builds from a `Training`, and the result."""

import copy
import os
from array import array
from collections.abc import Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import torch

from executor.auxiliary import align, extras_of
from executor.drive import Losses
from executor.memory_rows import memory_table
from executor.network import block_shapes, split
from executor.shared_numbers import SharedNumbers
from executor.shared_weights import SharedWeights, tensors_of
from executor.slicing import Passes
from executor.streams import places_of
from executor.tensors import Extras, Settings, WorkerTensors, skeleton
from executor.training import RunResult, Training
from executor.tree import Value
from executor.warmup import warm_up
from executor.watchdog import NO_PULSE, Pulse
from executor.weights import BlockWeights
from simcore.errors import InputError
from simcore.ledger import Ledger
from simcore.ops import Item
from simcore.schedule import Schedule
from simcore.trace import Header, Recorder

__all__ = ["Parts", "extras_at", "finish", "mean_state"]


class Parts:
    """The blocks of a run in one process, with their ledger and the weights of this process.

    `workers` are those that this process runs; they get their tensors from `warm_tensors_of`. Each
    of their replicas has a copy of the model. `outputs` are templates of the blocks' outputs, with
    the data first. What processes have in common are the `weights` of a replica's blocks that
    several of them use, and the `versions` of all blocks.
    """

    def __init__(
        self,
        training: Training,
        schedule: Schedule,
        workers: Sequence[int],
        weights: Mapping[int, SharedWeights] = MappingProxyType({}),
        versions: SharedNumbers | None = None,
    ) -> None:
        self.training, self.schedule = training, schedule
        self.passes = Passes(schedule, training.source, training.first_batch)
        mine = [schedule.workers[number] for number in workers]
        self.models = {
            replica: copy.deepcopy(training.model)
            for replica in sorted({worker.replica for worker in mine})
        }
        self.blocks = {
            replica: split(model, training.bounds) for replica, model in self.models.items()
        }
        for blocks in self.blocks.values():
            if len(blocks) != schedule.blocks:
                raise InputError(
                    "number of blocks of the model",
                    len(blocks),
                    f"must equal the {schedule.blocks} of the schedule",
                    "give as many bounds as blocks, and one",
                )
        self.shared = weights
        self.ledger = _ledger(schedule, versions)
        inputs, self.labels = self.passes.payload(Item("activation", 0), 0)
        some = next(iter(self.blocks.values()))
        self.outputs = block_shapes(some, inputs, by_time=self.passes.by_time)
        self.own = sorted({(worker.replica, block) for worker in mine for block in worker.blocks})
        self.extras = {
            (replica, block): extras_at(training, schedule, self.outputs, block)
            for replica, block in self.own
        }
        self.places = places_of(training.devices, schedule)
        for number in workers:
            self._move(number)
        for replica, block in self.own:
            if self.is_shared(replica, block):
                head = self.extras[replica, block].head
                own = tensors_of(self.blocks[replica][block - 1], head)
                weights[replica].adopt(block, own)
        self.weights = {key: self._weights(*key) for key in self.own}
        self.settings = Settings(
            rules=schedule.weights,
            blocks=schedule.blocks,
            loss=training.loss,
            passes=self.passes,
            micro_batches=schedule.micro_batches,
            batches_per_update=schedule.batches_per_update,
            split_backward=schedule.split_backward,
            seed=training.seed,
            learning=training.learning,
            check_finite=training.check_finite,
            first_batch=training.first_batch,
        )

    def _move(self, number: int) -> None:
        """Bring what a worker trains to its device."""
        worker, place = self.schedule.workers[number], self.places[number]
        if place is None:
            return
        for block in worker.blocks:
            if self.is_shared(worker.replica, block) and place.device.type != "cpu":
                rule = "cannot share weights of a GPU between processes"
                raise InputError("device", str(place.device), rule, "use threads")
            self.blocks[worker.replica][block - 1].to(place.device)
            self.extras[worker.replica, block].to(place.device)

    def is_shared(self, replica: int, block: int) -> bool:
        """Whether the block's weights are in memory that other processes use, too."""
        return replica in self.shared and block in self.shared[replica].starts

    def warm_tensors_of(self, worker: int, pulse: Pulse = NO_PULSE) -> WorkerTensors:
        """The tensors of a worker, with a skeleton of each of its blocks, warmed up."""
        blocks, replica = self.schedule.workers[worker].blocks, self.schedule.replicas[worker]
        modules = {block: skeleton(self.blocks[replica][block - 1]) for block in blocks}
        if self.schedule.weights.feedback == "random":
            for block, module in modules.items():
                align(module, torch.Generator().manual_seed(_seed(self.training, block)))
        tensors = WorkerTensors(
            worker,
            self.ledger,
            modules,
            {block: self.weights[replica, block] for block in blocks},
            self.settings,
            {block: self.extras[replica, block] for block in blocks},
            replica,
            self.places[worker],
        )
        warm_up(tensors, self.outputs, self.labels, pulse)
        return tensors

    def state(self) -> dict[str, torch.Tensor]:
        """Weights and buffers of the blocks of this process alone, named as in the whole model.

        Of replicas that differ, it is the mean. What is shared, others may still be updating.
        """
        return mean_state([self._state_of(replica) for replica in self.models])

    def _state_of(self, replica: int) -> dict[str, torch.Tensor]:
        current: dict[int, torch.Tensor] = {}
        for own, block in self.own:
            if own != replica or self.is_shared(replica, block):
                continue
            module = self.blocks[replica][block - 1]
            weights = self.weights[replica, block].current.parameters
            current |= {id(p): weights.get(name, p) for name, p in module.named_parameters()}
            current |= {id(buffer): buffer for buffer in module.buffers()}
        return {
            name: current[id(tensor)].detach().to("cpu", copy=True)
            for name, tensor in self.models[replica].state_dict(keep_vars=True).items()
            if id(tensor) in current
        }

    def _weights(self, replica: int, block: int) -> BlockWeights:
        sharing = [w for w in self.schedule.workers if block in w.blocks and w.replica == replica]
        return BlockWeights(
            self.blocks[replica][block - 1],
            self.schedule.weights,
            self.training.make_optimizer,
            exclusive=len(sharing) == 1,
            lock=self.ledger.lock,
            head=self.extras[replica, block].head,
        )


def extras_at(
    training: Training, schedule: Schedule, outputs: Sequence[Value], block: int
) -> Extras:
    """What a block learns with; the same in all replicas, as the weights are."""
    seed = _seed(training, block)
    return extras_of(schedule, block, outputs[block], outputs[-1], seed, training.make_optimizer)


def _seed(training: Training, block: int) -> int:
    seeds = np.random.SeedSequence(training.seed % 2**64, spawn_key=(0, block))
    return int(seeds.generate_state(1)[0])


def _ledger(schedule: Schedule, versions: SharedNumbers | None) -> Ledger:
    if versions is None:
        return Ledger(schedule.blocks, schedule.weights, schedule.replicas)
    row = schedule.blocks + 1
    rows = [versions.part(first, row) for first in range(0, versions.count, row)]
    return Ledger(schedule.blocks, schedule.weights, schedule.replicas, rows, versions.lock)


def mean_state(states: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of several states; whole numbers and what is the same in all are those of one."""
    together: dict[str, list[torch.Tensor]] = {}
    for state in states:
        for name, tensor in state.items():
            together.setdefault(name, []).append(tensor)
    return {
        name: tensors[0]
        if not tensors[0].is_floating_point() or all(tensors[0].equal(t) for t in tensors[1:])
        else torch.stack(tensors).mean(0)
        for name, tensors in together.items()
    }


def finish(
    training: Training,
    schedule: Schedule,
    recorder: Recorder,
    losses: Losses,
    state: dict[str, torch.Tensor] | None,
    about: Mapping[str, object],
    failure: str | None,
    memory: "array[int] | None" = None,
) -> RunResult:
    """The result of a run; times count from the start of its first operation."""
    told = {"threads": training.threads, "cores": os.cpu_count(), **training.about, **about}
    header = Header.of(schedule, "real", Fraction(1, 10**9), training.seed, told)
    trace = recorder.trace(header)
    start = trace.start
    trace.spans["start"] -= start
    trace.spans["end"] -= start
    trace.gradients["time"] -= start
    rows = _by_mini_batch(losses.rows, schedule.micro_batches)
    known = [(batch, loss, (time - start) / 1e9) for batch, loss, time in rows]
    measured = None if memory is None else memory_table(memory, start)
    return RunResult(trace, known, state, failure, measured)


def _by_mini_batch(
    rows: Sequence[tuple[int, float, int]], parts: int
) -> list[tuple[int, float, int]]:
    """(mini-batch, mean loss of its parts, when the last of them was known), of whole ones."""
    passed: dict[int, list[tuple[float, int]]] = {}
    for batch, loss, time in sorted(rows):
        passed.setdefault(batch // parts, []).append((loss, time))
    return [
        (batch, sum(loss for loss, _ in found) / len(found), max(time for _, time in found))
        for batch, found in passed.items()
        if len(found) == parts
    ]
