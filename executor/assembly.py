"""Putting a run together: the parts that every runtime builds from a `Training`, and the result."""

import copy
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch

from executor.drive import Losses
from executor.network import block_shapes, split
from executor.perform import WorkerTensors, skeleton
from executor.training import RunResult, Training
from executor.warmup import warm_up
from executor.weights import BlockWeights
from simcore.errors import InputError
from simcore.ledger import Ledger
from simcore.ops import Item
from simcore.schedule import Schedule
from simcore.trace import Header, Recorder

__all__ = ["Parts", "finish"]


class Parts:
    """The blocks of a run in one process, with their ledger and the weights of this process.

    `workers` are those that this process runs; they get their tensors from `warm_tensors_of`.
    `outputs` are templates of the blocks' outputs, with the data first.
    """

    def __init__(self, training: Training, schedule: Schedule, workers: Sequence[int]) -> None:
        self.training, self.schedule = training, schedule
        self.model = copy.deepcopy(training.model)
        self.blocks = split(self.model, training.bounds)
        if len(self.blocks) != schedule.blocks:
            raise InputError(
                "number of blocks of the model",
                len(self.blocks),
                f"must equal the {schedule.blocks} of the schedule",
                "give as many bounds as blocks, and one",
            )
        self.ledger = Ledger(schedule.blocks, schedule.weights)
        inputs, self.labels = training.source.payload(Item("activation", 0), 0)
        self.outputs = block_shapes(self.blocks, inputs)
        self.own = sorted(
            {block for number in workers for block in schedule.workers[number].blocks}
        )
        self.weights = {
            block: BlockWeights(
                self.blocks[block - 1],
                schedule.weights,
                training.make_optimizer,
                exclusive=sum(block in worker.blocks for worker in schedule.workers) == 1,
                lock=self.ledger.lock,
            )
            for block in self.own
        }

    def warm_tensors_of(self, worker: int) -> WorkerTensors:
        """The tensors of a worker, with a skeleton of each of its blocks, warmed up."""
        blocks = self.schedule.workers[worker].blocks
        tensors = WorkerTensors(
            worker,
            self.ledger,
            {block: skeleton(self.blocks[block - 1]) for block in blocks},
            {block: self.weights[block] for block in blocks},
            self.training.loss,
        )
        warm_up(tensors, self.outputs, self.labels, self.training.loss)
        return tensors

    def state(self) -> dict[str, torch.Tensor]:
        """Weights and buffers of this process's blocks, named as in the whole model."""
        current: dict[int, torch.Tensor] = {}
        for block in self.own:
            module, weights = self.blocks[block - 1], self.weights[block].current.parameters
            current |= {id(p): weights.get(name, p) for name, p in module.named_parameters()}
            current |= {id(buffer): buffer for buffer in module.buffers()}
        return {
            name: current[id(tensor)].detach().clone()
            for name, tensor in self.model.state_dict(keep_vars=True).items()
            if id(tensor) in current
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
