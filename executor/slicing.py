"""What passes through the network one by one: parts of mini-batches, or time steps of sequences."""

from functools import lru_cache
from typing import Any, Protocol

import torch

from executor.data import DataSet
from simcore.errors import InputError
from simcore.ops import Item, TangentStep
from simcore.schedule import Schedule
from simcore.validate import operations_used

__all__ = ["Passes", "Source", "step_of", "time_steps"]


class Source(Protocol):
    """Where payloads of source channels come from."""

    def payload(self, item: Item, batch: int) -> Any:
        """What an item is for a mini-batch: of block 0 its inputs and labels."""

    def samples(self, batch: int) -> int:
        """How many samples a mini-batch has."""


class Passes:
    """The passes of a schedule: each is one of `micro_batches` parts of a mini-batch.

    The samples are shared out as evenly as can be. Where the schedule goes on from step to step of
    a sequence, a part is a run of time instead: the features of a sample, (samples, features) or
    (samples, time, features), are cut into as many steps, of which each has the sample's label.

    Raises `InputError` for mini-batches that have no sample for each part, and for sequences that
    cannot be cut into equal steps.
    """

    def __init__(self, schedule: Schedule, source: Source, first_batch: int = 0) -> None:
        self.source, self.parts, self.first_batch = source, schedule.micro_batches, first_batch
        self.by_time = TangentStep in operations_used(schedule)
        self._mini_batch = lru_cache(maxsize=2)(self._taken)
        if self.parts > 1 and not self.by_time:
            mini_batches = schedule.batches // self.parts
            # The last of an epoch is the smallest; which one that is, the source knows.
            whole = range(first_batch, first_batch + min(mini_batches, 10**5))
            least = min(source.samples(batch) for batch in whole)
            if least < self.parts:
                rule = f"must be at most the {least} samples of the smallest mini-batch"
                remedy = "give fewer, or a batch size that divides the samples"
                raise InputError("micro_batches", self.parts, rule, remedy)

    def payload(self, item: Item, number: int) -> Any:
        """What a source channel gives of a pass."""
        if item.kind == "sample":
            return number
        if item != Item("activation", 0):
            return self.source.payload(item, self.first_batch * self.parts + number)
        mini_batch, part = divmod(number, self.parts)
        if self.parts == 1:
            return self.source.payload(item, self.first_batch + mini_batch)
        inputs, labels = self._mini_batch(mini_batch)
        if self.by_time:
            return inputs[part], labels
        return inputs[part], labels[part]

    def weight(self, number: int) -> float:
        """The factor on a pass's mean loss that makes the mean over the parts that of all samples.

        1, but where parts are unequal; 1 for time steps, whose losses are added up.
        """
        if self.parts == 1 or self.by_time:
            return 1.0
        mini_batch, part = divmod(number, self.parts)
        samples = self.source.samples(self.first_batch + mini_batch)
        if samples % self.parts == 0:
            return 1.0
        return (samples // self.parts + (part < samples % self.parts)) * self.parts / samples

    def _taken(self, mini_batch: int) -> tuple[tuple[torch.Tensor, ...], Any]:
        batch = self.first_batch + mini_batch
        inputs, labels = self.source.payload(Item("activation", 0), batch)
        if self.by_time:
            return time_steps(inputs, self.parts), labels
        return torch.tensor_split(inputs, self.parts), torch.tensor_split(labels, self.parts)


def step_of(data: DataSet, steps: int) -> DataSet:
    """Examples of the first time step of a data set's samples, for which networks are made.

    Raises `InputError` for samples that cannot be cut into so many steps.
    """
    [part, *_] = time_steps(data.examples(), steps)
    labels = torch.zeros(len(part), dtype=torch.int64)
    return DataSet(data.name, part, labels, part, labels, data.classes, data.vocabulary)


def time_steps(inputs: torch.Tensor, steps: int) -> tuple[torch.Tensor, ...]:
    """Samples cut into time steps, each (samples, features); those of images are runs of rows.

    Raises `InputError` for samples that cannot be cut into so many equal steps.
    """
    if inputs.dim() == 4:
        inputs = inputs.transpose(1, 2)
    length = inputs.shape[1]
    if length % steps:
        what = {2: "features", 4: "rows"}.get(inputs.dim(), "time steps")
        rule = f"must divide the {length} {what} of a sample"
        raise InputError("time_steps", steps, rule, "choose another number")
    return tuple(part.flatten(1) for part in inputs.split(length // steps, dim=1))
