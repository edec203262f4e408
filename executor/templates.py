"""Tensors of the right shapes for any message, to time a worker without its neighbours."""

from typing import Any

from executor.network import block_shapes, split
from executor.payloads import Codec
from executor.slicing import Passes, Source
from executor.training import Training
from simcore.ops import Item
from simcore.schedule import Schedule

__all__ = ["TemplateSource"]


class TemplateSource:
    """A source of any item of a training's schedule: real data, and examples of all else.

    `parameter_bytes` are those of the blocks.
    """

    def __init__(self, training: Training, schedule: Schedule) -> None:
        self.source: Source = training.source
        passes = Passes(schedule, training.source)
        inputs, labels = passes.payload(Item("activation", 0), 0)
        blocks = split(training.model, training.bounds)
        outputs = block_shapes(blocks, inputs, by_time=passes.by_time)
        self.codec = Codec(outputs, labels, schedule.weights.tangents)
        self.parameter_bytes = [
            sum(parameter.nbytes for parameter in block.parameters()) for block in blocks
        ]

    def payload(self, item: Item, batch: int) -> Any:
        """The first mini-batch of the data, or an example of the item."""
        if item == Item("activation", 0):
            return self.source.payload(item, 0)
        return self.codec.example(item)

    def samples(self, batch: int) -> int:
        """The samples of a mini-batch: all are the first one."""
        return self.source.samples(0)
