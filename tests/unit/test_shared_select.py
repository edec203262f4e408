"""Selecting in a process: among rings from others, sources, and channels to itself."""

import pytest

from executor.payloads import Codec
from executor.ports import Exchange, LocalEnds, LocalPort, SourcePort
from executor.ring import Ring, Stop, Stopped
from executor.ring_port import ProcessEnds, RingPort
from simcore.errors import IllegalOperationError
from simcore.ops import Channel

BATCHES = 3


class Ends:
    """A worker with a ring from another, a source and a channel to itself, which carry nothing."""

    def __init__(self) -> None:
        self.stop = Stop()
        self.ring = Ring.create("ring", 4, 256, self.stop)
        self.from_other = Channel("from other", ())
        self.data = Channel("data", (), source=True)
        self.to_itself = Channel("to itself", ())
        exchange = Exchange()
        self.local = LocalPort(exchange, self.to_itself, 1)
        self.ports = {
            self.from_other: RingPort(self.ring, self.from_other, Codec([], None, 1)),
            self.data: SourcePort(self.data, BATCHES, lambda batch: []),
            self.to_itself: self.local,
        }
        self.ends = ProcessEnds(self.ports, LocalEnds(self.ports, exchange, {}), {})

    def select(self, *channels: Channel) -> tuple[str, int] | None:
        found = self.ends.select(channels)
        return None if found is None else (found[0].name, found[1].batch)


def test_the_first_in_the_listed_order_that_has_a_message_is_taken() -> None:
    own = Ends()
    channels = own.to_itself, own.from_other, own.data
    own.ring.send(7, [])
    own.local.send(9, [])
    assert own.select(*channels) == ("to itself", 9)
    assert own.select(*channels) == ("from other", 7)
    assert own.select(*channels) == ("data", 0)
    own.ring.send(8, [])
    assert own.select(own.data, own.from_other) == ("data", 1)
    assert own.select(own.from_other, own.data) == ("from other", 8)
    assert own.select(own.data, own.from_other) == ("data", 2)
    own.ring.send(9, [])
    assert own.select(own.data, own.from_other) == ("from other", 9)  # the source is empty


def test_a_closed_ring_leaves_the_others_and_all_closed_are_the_end() -> None:
    own = Ends()
    own.ring.send(5, [])
    own.ring.close()
    both = own.from_other, own.data
    found = [own.select(*both) for _ in range(5)]
    assert found == [("from other", 5), ("data", 0), ("data", 1), ("data", 2), None]
    assert own.select(own.from_other) is None


def test_it_waits_for_other_processes_until_the_run_is_stopped() -> None:
    own = Ends()
    while own.select(own.data, own.from_other) != ("data", BATCHES - 1):
        pass
    own.stop.set()
    with pytest.raises(Stopped):
        own.select(own.data, own.from_other)


def test_nobody_waits_for_itself() -> None:
    own = Ends()
    own.ring.close()
    with pytest.raises(IllegalOperationError, match="waits for to itself, to which nobody but"):
        own.select(own.from_other, own.to_itself)
