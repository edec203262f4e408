"""Wires alone: when transfers end that begin at given times."""

import heapq
from collections.abc import Callable
from functools import partial
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcore.cluster import Device
from simcore.sharing import SharedDevice
from simcore.wires import SerialWire, SharedWire

Transfer = tuple[int, int]  # begin, length alone


class Calendar:
    """Planned actions, in order of time; at one tick, those that were planned first come first."""

    def __init__(self) -> None:
        self.planned: list[tuple[int, int, Callable[[], None]]] = []
        self.order = count()

    def at(self, moment: int, action: Callable[[], None]) -> None:
        heapq.heappush(self.planned, (moment, next(self.order), action))

    def run(self, until: float = float("inf")) -> None:
        while self.planned and self.planned[0][0] <= until:
            heapq.heappop(self.planned)[2]()


def ends(kind: type[SerialWire] | type[SharedWire], transfers: list[Transfer]) -> list[int]:
    calendar = Calendar()
    wire = kind(calendar.at)
    found = [-1] * len(transfers)
    for number, (begin, length) in enumerate(transfers):
        calendar.run(until=begin)
        wire.transmit(length, begin, partial(found.__setitem__, number))
    calendar.run()
    return found


@pytest.mark.parametrize(
    ("transfers", "expected"),
    [
        ([(0, 5)], [5]),
        ([(0, 5), (0, 5)], [5, 10]),
        ([(0, 5), (2, 1), (9, 0)], [5, 6, 9]),
        ([(3, 0), (3, 4), (4, 0)], [3, 7, 7]),
    ],
)
def test_a_serial_wire_carries_one_after_the_other(
    transfers: list[Transfer], expected: list[int]
) -> None:
    assert ends(SerialWire, transfers) == expected


@pytest.mark.parametrize(
    ("transfers", "expected"),
    [
        ([(0, 5)], [5]),
        ([(0, 5), (0, 5)], [10, 10]),  # each at half speed
        ([(0, 6), (2, 2)], [8, 6]),  # 2 alone, then both at half speed until 6, then 2 alone
        ([(0, 3), (0, 3), (0, 3), (3, 3)], [11, 11, 11, 12]),  # 1 of 3 each by 3, 2 more by 11
        ([(0, 4), (1, 0), (3, 1)], [5, 1, 5]),  # what has nothing to transfer passes at once
        ([(0, 1), (0, 1), (0, 2), (1, 1)], [4, 4, 6, 5]),  # ends between ticks are rounded up
        ([(0, 2), (7, 2)], [2, 9]),
    ],
)
def test_a_shared_wire_carries_all_at_once(transfers: list[Transfer], expected: list[int]) -> None:
    assert ends(SharedWire, transfers) == expected


transfers = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 9)), max_size=8).map(sorted)


@given(transfers)
def test_a_shared_wire_is_a_device_with_one_core(transfers: list[Transfer]) -> None:
    device = SharedDevice.of(Device("wire"), len(transfers) + 1)
    expected = [-1] * len(transfers)
    waiting = list(enumerate(transfers))
    while waiting or device.work:
        moments = [begin for _, (begin, _) in waiting[:1]]
        completion = device.next_completion()
        now = min([*moments, *([] if completion is None else [completion])])
        for number in device.advance(now):
            expected[number] = now
        while waiting and waiting[0][1][0] == now:
            number, (_, length) = waiting.pop(0)
            device.start(number, length)
    assert ends(SharedWire, transfers) == expected


@given(transfers)
def test_whole_transfers_take_as_long_either_way(transfers: list[Transfer]) -> None:
    """No time is lost: but for one tick of rounding each, a busy wire ends when a serial one does.

    Equal transfers also end in the order in which they began.
    """
    serial, shared = ends(SerialWire, transfers), ends(SharedWire, transfers)
    latest = max(serial, default=0)
    assert latest <= max(shared, default=0) <= latest + len(transfers)
    for length in range(1, 10):
        of_length = [
            end for end, (_, each) in zip(shared, transfers, strict=True) if each == length
        ]
        assert of_length == sorted(of_length)
