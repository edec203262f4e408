"""The watchdog's rules, on a clock of the test's own."""

import time
from array import array

import pytest

from executor.watchdog import Pulse, Watchdog
from simcore.errors import InputError
from simcore.ops import Channel, Forward, Item, Load, Receive

CHANNEL = Channel("between", (Item("activation", 1),))
SOURCE = Channel("data", (Item("activation", 0),), source=True)


class Watched:
    """Two workers and a watchdog that looks four times a second, at times that are told."""

    def __init__(self, timeout_s: float | None) -> None:
        values = array("q", [0, 0])
        self.pulses = [Pulse(values, worker) for worker in range(2)]
        self.watchdog = Watchdog(values, timeout_s)
        self.now_s = time.monotonic()

    def after(self, seconds: float) -> str | None:
        """The worker that is found to hang, and why, when so much time has passed."""
        for _ in range(int(seconds * 4)):
            self.now_s += 0.25
            if hang := self.watchdog.look(self.now_s):
                return f"{hang.worker}: {hang.reason}"
        return None


def test_a_long_operation_is_a_hang_and_waiting_for_it_is_none() -> None:
    watched = Watched(2.0)
    watched.pulses[0].enter(Receive(CHANNEL))
    watched.pulses[1].enter(Forward(1, 0))
    assert watched.after(1.75) is None
    assert watched.after(1) == "1: hangs: one operation has not ended after 2 s"


def test_an_operation_that_others_outlive_is_a_hang_all_the_same() -> None:
    watched = Watched(2.0)
    watched.pulses[1].enter(Forward(1, 0))
    for batch in range(2):
        watched.pulses[0].enter(Forward(1, batch))
        assert watched.after(1) is None
    watched.pulses[0].enter(Forward(1, 2))
    assert watched.after(1) == "1: hangs: one operation has not ended after 2 s"


def test_all_that_wait_for_ever_are_found_and_those_that_ended_do_not_count() -> None:
    watched = Watched(2.0)
    watched.pulses[0].end()
    watched.pulses[1].enter(Receive(CHANNEL))
    found = "1: waits, as all workers do, and nothing has come in 2 s"
    assert watched.after(3) == found
    watched.pulses[1].end()
    assert watched.after(100) is None


def test_without_a_timeout_the_longest_operation_so_far_says_what_is_long() -> None:
    watched = Watched(None)
    watched.pulses[0].end()
    watched.pulses[1].enter(Forward(1, 0))
    assert watched.after(5) is None
    watched.pulses[1].enter(Forward(1, 1))  # the one before took 5 s
    assert watched.after(99) is None
    assert watched.after(2) == "1: hangs: one operation has not ended after 100 s"


def test_passes_to_warm_up_say_what_is_long() -> None:
    watched = Watched(None)
    watched.pulses[0].end()
    watched.pulses[1].warm_up()
    assert watched.after(50) is None
    watched.pulses[1].enter(Forward(1, 0))
    assert watched.after(1000) is None


@pytest.mark.parametrize("operation", [Receive(SOURCE), Load(0)])
def test_loading_may_take_a_minute(operation: Receive | Load) -> None:
    watched = Watched(None)
    watched.pulses[0].end()
    watched.pulses[1].enter(operation)
    assert watched.after(59) is None
    found = "1: hangs: loading, saving or reporting has not ended after 60 s"
    assert watched.after(2) == found


@pytest.mark.parametrize("timeout_s", [None, 2.0])
def test_starting_may_take_a_minute_whatever_the_timeout(timeout_s: float | None) -> None:
    watched = Watched(timeout_s)
    watched.pulses[0].start()
    watched.pulses[1].end()
    assert watched.after(59) is None
    assert watched.after(2) == "0: hangs: starting has not ended after 60 s"


def test_time_in_which_the_watchdog_had_no_turn_counts_as_a_second() -> None:
    watched = Watched(2.0)
    watched.pulses[0].end()
    watched.pulses[1].enter(Forward(1, 0))
    assert watched.after(0.25) is None
    watched.now_s += 1000
    assert watched.after(0.25) is None
    assert watched.after(2) is not None


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("inf"), float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout_s: float) -> None:
    with pytest.raises(InputError, match=r"timeout_s is .*must be above 0 and finite"):
        Watchdog([0], timeout_s)
