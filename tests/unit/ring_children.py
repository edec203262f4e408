"""Runs of rings between real processes. `test_ring.py` starts this file, one scenario at a time.

A file of its own, so that spawned children can import it; and started as a program, so that the
test sees all that the scenario's processes print, and, as they hold its pipes, that they end.
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time

import torch

from executor.ring import Ring, Stop, Stopped, message_bytes, select

BATCHES = 200
SLOT_BYTES = message_bytes([torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64)])


def message_of(batch):
    """Like a batch of activations and labels, the last one shorter."""
    rows = 8 if batch % BATCHES != BATCHES - 1 else 5
    return torch.full((rows, 3), float(batch)), torch.arange(rows) + batch


def shared_memory_names():
    with open("/proc/self/maps") as lines:
        return set(re.findall(r"/memfd:gradlag-\w+|/dev/shm/\S+", lines.read()))


def produce(ring, first):
    for batch in range(first, first + BATCHES):
        ring.send(batch, message_of(batch))
    ring.close()
    ring.close()


def consume(rings, results, receiver):
    """Take from whichever ring has a message; pass on what came, with the ring's index."""
    while (found := select(rings)) is not None:
        index, message = found
        assert all(map(torch.equal, message.tensors, message_of(message.batch)))
        results.send(message.batch, (torch.tensor(index), torch.tensor(receiver)))
    assert select(rings) is None
    assert all(ring.receive() is None for ring in rings)
    assert not [name for name in shared_memory_names() if name.startswith("/dev/shm")]
    results.close()


def wait_for_message(ring):
    report_end(ring.receive)


def wait_for_room(ring, started):
    started.send(0, ())
    report_end(lambda: [ring.send(batch, message_of(batch)) for batch in range(BATCHES)])


def report_end(action):
    try:
        action()
    except Stopped as reason:
        os.write(1, f"stopped: {reason}\n".encode())  # in one piece, whoever else writes


def start(target, *args):
    process = multiprocessing.get_context("spawn").Process(target=target, args=args)
    process.start()
    return process


def many_to_many():
    """Two processes send to one ring, the parent to another; two receivers select from both."""
    stop = Stop()
    shared = Ring.create("shared", 3, SLOT_BYTES, stop, senders=2)
    alone = Ring.create("alone", 1, SLOT_BYTES, stop)
    results = Ring.create("results", 2, 256, stop, senders=2)
    rings = (shared, alone)
    processes = [start(produce, shared, 0), start(produce, shared, 1000)]
    processes += [start(consume, rings, results, receiver) for receiver in range(2)]
    threading.Thread(target=produce, args=(alone, 2000)).start()
    got = {}
    while (message := results.receive()) is not None:
        index, receiver = (int(tensor) for tensor in message.tensors)
        sender = message.batch // 1000
        assert index == (1 if sender == 2 else 0)
        got.setdefault((sender, receiver), []).append(message.batch)
    for sender in range(3):
        batches = [batch for (of, _), batch in got.items() if of == sender for batch in batch]
        assert sorted(batches) == list(range(sender * 1000, sender * 1000 + BATCHES))
    # A sender's messages come in order, so each receiver's part of them does.
    assert all(batches == sorted(batches) for batches in got.values())
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    names = {"/memfd:gradlag-" + ring.name for ring in (*rings, results)}
    assert shared_memory_names() == names
    del shared, alone, results, rings, processes, process
    assert shared_memory_names() == set()
    print("done")


def killed_child():
    """A receiver is killed; the parent fails for it, and stops the others on its way out."""
    stop = Stop()
    ring = Ring.create("unread", 2, SLOT_BYTES, stop)
    silent = Ring.create("silent", 1, SLOT_BYTES, stop)
    started = Ring.create("started", 1, 256, stop)
    receiver = start(wait_for_message, ring)
    start(wait_for_room, ring, started)
    start(wait_for_message, silent)
    started.receive()
    os.kill(receiver.pid, signal.SIGKILL)
    receiver.join()
    try:
        raise ValueError(f"the receiver ended with {receiver.exitcode}")
    finally:
        stop.set()
        assert stop.is_set()


def killed_parent():
    """The parent prints that its children wait, and is killed by the test."""
    stop = Stop()
    ring = Ring.create("unread", 2, SLOT_BYTES, stop)
    silent = Ring.create("silent", 1, SLOT_BYTES, stop)
    started = Ring.create("started", 1, 256, stop)
    start(wait_for_message, silent)
    start(wait_for_room, ring, started)
    started.receive()
    assert not stop.is_set()
    print("waiting", flush=True)
    time.sleep(60)


if __name__ == "__main__":
    {f.__name__: f for f in (many_to_many, killed_child, killed_parent)}[sys.argv[1]]()
