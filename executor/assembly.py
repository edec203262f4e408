"""Putting a run together: the parts that every runtime builds from a `Training`, and the result."""

import copy
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch

from executor.auxiliary import align, extras_of
from executor.drive import Losses
from executor.network import block_shapes, split
from executor.slicing import Passes
from executor.tensors import Extras, Settings, WorkerTensors, skeleton
from executor.training import RunResult, Training
from executor.warmup import warm_up
from executor.weights import BlockWeights
from simcore.errors import InputError
from simcore.ledger import Ledger
from simcore.ops import Item
from simcore.schedule import Schedule
from simcore.trace import Header, Recorder

__all__ = ["Parts", "finish", "mean_state"]


class Parts:
    """The blocks of a run in one process, with their ledger and the weights of this process.

    `workers` are those that this process runs; they get their tensors from `warm_tensors_of`. Each
    of their replicas has a copy of the model. `outputs` are templates of the blocks' outputs, with
    the data first.
    """

    def __init__(self, training: Training, schedule: Schedule, workers: Sequence[int]) -> None:
        self.training, self.schedule = training, schedule
        self.passes = Passes(schedule, training.source)
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
        self.ledger = Ledger(schedule.blocks, schedule.weights, schedule.replicas)
        inputs, self.labels = self.passes.payload(Item("activation", 0), 0)
        some = next(iter(self.blocks.values()))
        self.outputs = block_shapes(some, inputs, by_time=self.passes.by_time)
        self.own = sorted({(worker.replica, block) for worker in mine for block in worker.blocks})
        self.extras = {key: self._extras(*key) for key in self.own}
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
            rate=training.rate,
            alpha=training.alpha,
            clip=training.clip,
            precision=training.precision,
        )

    def warm_tensors_of(self, worker: int) -> WorkerTensors:
        """The tensors of a worker, with a skeleton of each of its blocks, warmed up."""
        blocks, replica = self.schedule.workers[worker].blocks, self.schedule.replicas[worker]
        modules = {block: skeleton(self.blocks[replica][block - 1]) for block in blocks}
        if self.schedule.weights.feedback == "random":
            for block, module in modules.items():
                align(module, torch.Generator().manual_seed(self._seed(block)))
        tensors = WorkerTensors(
            worker,
            self.ledger,
            modules,
            {block: self.weights[replica, block] for block in blocks},
            self.settings,
            {block: self.extras[replica, block] for block in blocks},
            replica,
        )
        warm_up(tensors, self.outputs, self.labels)
        return tensors

    def state(self) -> dict[str, torch.Tensor]:
        """Weights and buffers of this process's blocks, named as in the whole model.

        Of replicas that differ, it is the mean.
        """
        return mean_state([self._state_of(replica) for replica in self.models])

    def _state_of(self, replica: int) -> dict[str, torch.Tensor]:
        current: dict[int, torch.Tensor] = {}
        for own, block in self.own:
            if own != replica:
                continue
            module = self.blocks[replica][block - 1]
            weights = self.weights[replica, block].current.parameters
            current |= {id(p): weights.get(name, p) for name, p in module.named_parameters()}
            current |= {id(buffer): buffer for buffer in module.buffers()}
        return {
            name: current[id(tensor)].detach().clone()
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

    def _extras(self, replica: int, block: int) -> Extras:
        # The same in all replicas, as the weights are.
        return extras_of(
            self.schedule,
            block,
            self.outputs[block],
            self.outputs[-1],
            self._seed(block),
            self.training.make_optimizer,
        )

    def _seed(self, block: int) -> int:
        seeds = np.random.SeedSequence(self.training.seed % 2**64, spawn_key=(0, block))
        return int(seeds.generate_state(1)[0])


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
) -> RunResult:
    """The result of a run; times count from the start of its first operation."""
    known = {"threads": training.threads, "cores": os.cpu_count(), **training.about, **about}
    header = Header.of(schedule, "real", Fraction(1, 10**9), training.seed, known)
    trace = recorder.trace(header)
    start = trace.start
    trace.spans["start"] -= start
    trace.spans["end"] -= start
    trace.gradients["time"] -= start
    rows = sorted((batch, loss, (time - start) / 1e9) for batch, loss, time in losses.rows)
    return RunResult(trace, rows, state, failure)
