"""What the processes of a run are given to share: rings of messages, weights and counts."""

from itertools import permutations

import torch

from executor.assembly import extras_at
from executor.network import block_shapes, split
from executor.payloads import Codec
from executor.ring import Ring, Stop, message_bytes
from executor.shared_numbers import SharedNumbers
from executor.shared_weights import SharedWeights, shared_blocks, tensors_of
from executor.slicing import Passes
from executor.training import Training
from executor.worker_process import Links
from simcore.ops import Group, Item
from simcore.schedule import Schedule
from simcore.validate import validate

__all__ = ["Provisions"]


class Provisions:
    """All that the processes of a run share, made before the first of them starts.

    Raises `InputError` where the system cannot give the memory.
    """

    def __init__(self, training: Training, schedule: Schedule, stop: Stop) -> None:
        self.training, self.schedule, self.stop = training, schedule, stop
        passes = Passes(schedule, training.source)
        data, labels = passes.payload(Item("activation", 0), 0)
        self.blocks = split(training.model, training.bounds)
        self.outputs = block_shapes(self.blocks, data, by_time=passes.by_time)
        self.codec = Codec(self.outputs, labels, schedule.weights.tangents)
        shared = shared_blocks(schedule)
        sent = (group.blocks for group in schedule.groups)
        self.heads = {
            block: extras_at(training, schedule, self.outputs, block).head
            for block in {block for blocks in (*shared.values(), *sent) for block in blocks}
        }
        self.rings = {
            number: Ring.create(
                channel.name, *self.slots_of(number), stop, len(schedule.senders[channel])
            )
            for number, channel in enumerate(schedule.channels)
            if schedule.receivers[channel] and not (channel.source or schedule.is_local(channel))
        }
        self.between = {
            (number, sender, receiver): Ring.create(group.name, *slots, stop)
            for number, group in enumerate(schedule.groups)
            for slots in [self.slots_of_group(group)]
            for sender, receiver in permutations(self.members(group), 2)
        }
        self.weights = {
            replica: SharedWeights.create(
                f"weights of replica {replica + 1}",
                {k: tensors_of(self.blocks[k - 1], self.heads[k]) for k in blocks},
            )
            for replica, blocks in shared.items()
        }
        self.versions, self.taken = None, None
        if self.weights:
            rows = max(schedule.replicas) + 1
            self.versions = SharedNumbers.create("versions", rows * (schedule.blocks + 1))
        if any(
            channel.source and len(schedule.receivers[channel]) > 1 for channel in schedule.channels
        ):
            self.taken = SharedNumbers.create("taken", len(schedule.channels))

    def links_of(self, number: int) -> Links:
        """What one worker's process needs of it."""
        worker = self.schedule.workers[number]
        used = {self.schedule.channels.index(c) for c in (*worker.sends, *worker.receives)}
        return Links(
            {n: ring for n, ring in self.rings.items() if n in used},
            {key: ring for key, ring in self.between.items() if number in key[1:]},
            {r: weights for r, weights in self.weights.items() if r == worker.replica},
            self.versions,
            self.taken,
        )

    def shared_state(self, replica: int) -> dict[str, torch.Tensor]:
        """What the processes of a replica have made of the weights that they share."""
        if replica not in self.weights:
            return {}
        return self.weights[replica].state(self.training.model, self.blocks)

    def slots_of(self, number: int) -> tuple[int, int]:
        """Slots, and bytes of a slot, of the ring of a channel, by its number.

        A channel without a capacity gets as many slots as it can ever need: the receiver is put
        last in the order of the untimed run, so that it lets messages pile up.
        """
        schedule, channel = self.schedule, self.schedule.channels[number]
        slots = channel.capacity
        if slots is None:
            last = set(schedule.receivers[channel])
            order = sorted(range(len(schedule.workers)), key=lambda worker: worker in last)
            slots = max(1, validate(schedule, order, every_batch=False).most_messages[number])
        return slots, message_bytes(self.codec.examples(channel.carries))

    def slots_of_group(self, group: Group) -> tuple[int, int]:
        """Slots, and bytes of a slot, of each ring between two members of a group.

        A member arrives for a round when it has joined the one before, which the others may still
        have to read: two messages for each block, and one that is on its way.
        """
        contributions = [message_bytes(self.learning(block)) for block in group.blocks]
        return 2 * (len(group.blocks) + 1) + 1, max(
            [message_bytes([torch.zeros((), dtype=torch.float64)]), *contributions]
        )

    def learning(self, block: int) -> list[torch.Tensor]:
        """The weights of a block that are updated, with those of its head."""
        parts = [self.blocks[block - 1], self.heads[block]]
        return [
            p for part in parts if part is not None for p in part.parameters() if p.requires_grad
        ]

    def members(self, group: Group) -> list[int]:
        """The numbers of a group's workers."""
        return [n for n, worker in enumerate(self.schedule.workers) if group in worker.joins]
