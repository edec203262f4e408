"""Numbers that processes count together, and their lock: nothing is lost, nobody waits for ever."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from executor.handles import FileLock, memory_file
from executor.shared_numbers import SharedNumbers

SPAWN = multiprocessing.get_context("spawn")
EACH = 3000


def count(numbers: SharedNumbers, results: Connection) -> None:
    results.send([numbers.next(1) for _ in range(EACH)])


def hold(numbers: SharedNumbers, results: Connection) -> None:
    with numbers.lock:
        results.send("held")
        time.sleep(100)


def wait(numbers: SharedNumbers, results: Connection) -> None:
    results.send("waiting")
    results.send(numbers.next(0))


@pytest.fixture
def started() -> Iterator[list[multiprocessing.process.BaseProcess]]:
    processes: list[multiprocessing.process.BaseProcess] = []
    yield processes
    for process in processes:
        process.kill()
        process.join()


def start(started, target, numbers):
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=target, args=(numbers, theirs))
    process.start()
    started.append(process)
    return process, ours


def test_no_two_processes_get_one_number(started) -> None:
    numbers = SharedNumbers.create("count", 3)
    results = [start(started, count, numbers)[1] for _ in range(2)]
    own = [numbers.next(1) for _ in range(EACH)]
    others = [result.recv() for result in results]
    assert sorted([*own, *others[0], *others[1]]) == list(range(3 * EACH))
    assert list(numbers.part(0, 3)) == [0, 3 * EACH, 0]


def test_the_lock_of_a_killed_process_is_free(started) -> None:
    numbers = SharedNumbers.create("killed", 1)
    holder, held = start(started, hold, numbers)
    assert held.recv() == "held"
    waiter, waiting = start(started, wait, numbers)
    assert waiting.recv() == "waiting"
    assert not waiting.poll(0.2)  # it has to wait
    os.kill(holder.pid, signal.SIGKILL)
    assert waiting.recv() == 0
    assert numbers.next(0) == 1
    waiter.join()
    assert waiter.exitcode == 0


def test_parts_are_the_numbers_themselves() -> None:
    numbers = SharedNumbers.create("parts", 5)
    part = numbers.part(2, 2)
    part[1] = 2**40
    assert list(numbers.part(0, 5)) == [0, 0, 0, 2**40, 0]
    assert numbers.next(3) == 2**40
    assert len(part) == 2
    with pytest.raises(IndexError):
        part[2]


def test_memory_is_zero_and_refused_where_there_is_none() -> None:
    memory = memory_file("zeros", 100)
    assert os.pread(memory.number, 200, 0) == bytes(100)
    with pytest.raises(OSError, match="bytes are available"):
        memory_file("all", 2**60)


def test_a_lock_is_left_by_an_error() -> None:
    lock = FileLock(memory_file("lock", 8))
    with pytest.raises(ValueError, match="inside"), lock:
        raise ValueError("inside")
    with lock:
        pass
