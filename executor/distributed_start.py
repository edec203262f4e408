"""How the ranks of a run come together: they agree on what is trained, then they connect."""

import hashlib
import itertools
import pickle
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist

from executor.launched import Launched, require_launch
from executor.training import Training
from executor.tree import flat
from simcore.errors import InputError, RunError
from simcore.ops import Item
from simcore.schedule import Schedule

__all__ = ["Together", "come_together", "obstacle"]

# Rank 0 may measure layers for some time before it says how it cuts them into blocks.
_PLAN_S: Final = 600.0
_OTHERS_S: Final = 60.0
# A receive that is posted ahead may wait as long as the run lasts: others see who is gone.
_NEVER: Final = timedelta(days=1000)

_runs: Final[Iterator[int]] = itertools.count()


class Together(NamedTuple):
    """The ranks of a run, by their hosts, and how they talk: two groups of torch.distributed."""

    rank: int
    hosts: tuple[str, ...]
    data: Any
    control: Any


def obstacle(schedule: Schedule) -> str | None:
    """Why the workers of a schedule cannot be ranks; None if they can.

    They share no memory, so that there is nobody who could hand out what several take from.
    """
    owners: dict[tuple[int, int], str] = {}
    for worker in schedule.workers:
        for block in worker.blocks:
            if owners.setdefault((worker.replica, block), worker.name) != worker.name:
                return f"several workers share the weights of block {block}"
    for channel in schedule.channels:
        receivers, senders = schedule.receivers[channel], schedule.senders[channel]
        if len(receivers) > 1:
            kind = "the source " if channel.source else ""
            return f"several workers receive from {kind}{channel.name}"
        if len(senders) > 1 and channel.capacity is not None:
            return f"several workers send to {channel.name}, which has a capacity"
        if len(senders) > 1 and set(receivers) & set(senders):
            return f"{schedule.workers[receivers[0]].name} is one of several who send to itself"
        kinds = {item.kind for item in channel.carries} & _BOUND
        if kinds and not channel.source and not schedule.is_local(channel):
            return f"{channel.name} hands over what is bound to its process ({min(kinds)})"
    return None


_BOUND: Final = {"graph", "weight_graph", "input", "tangent", "synthesizer", "sample"}


def come_together(training: Training, schedule: Schedule) -> tuple[Together, Training]:
    """Agree and connect; returns the training with the bounds that rank 0 has chosen.

    Raises `InputError` where the schedule cannot run so, and `RunError` where ranks were started
    with different arguments or do not come.
    """
    launch = require_launch()
    if reason := obstacle(schedule):
        rule = f"cannot run under torchrun, as {reason}"
        raise InputError("schedule", schedule.name, rule, "use another runtime, on one machine")
    for what, asked in (("start", training.start), ("measure_memory", training.measure_memory)):
        if asked:
            rule, remedy = "cannot be had under torchrun", "leave it out, or use processes"
            raise InputError(what, asked, rule, remedy)
    if (workers := len(schedule.workers)) != launch.size:
        rule = f"must be the number of workers of {schedule.name}, {workers}"
        remedy = f"start torchrun with --nproc-per-node {workers}, or fewer on several nodes"
        raise InputError("number of processes", launch.size, rule, remedy)
    store = _part_of_store(f"run {next(_runs)}")
    agreed = _agreed(store, launch, training, schedule)
    hosts = _hosts(store, launch, schedule)
    return Together(launch.rank, hosts, *_groups(launch)), agreed


@cache
def _store() -> Any:
    store, _, _ = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    return store


def _part_of_store(name: str) -> Any:
    return dist.PrefixStore(f"gradlag/{name}", _store())  # type: ignore[attr-defined]


@cache
def _groups(launch: Launched) -> tuple[Any, Any]:
    """The groups for tensors and for control; runs of one process use the same."""
    everybody = list(range(launch.size))
    if dist.is_initialized():  # by whoever calls
        data = dist.new_group(everybody, backend="gloo", timeout=_NEVER)
    else:
        store = _part_of_store("groups")
        dist.init_process_group(
            "gloo", store=store, rank=launch.rank, world_size=launch.size, timeout=_NEVER
        )
        data = dist.group.WORLD
    return data, dist.new_group(everybody, backend="gloo", timeout=_NEVER)


def _agreed(store: Any, launch: Launched, training: Training, schedule: Schedule) -> Training:
    facts = _facts(training, schedule)
    if launch.rank == 0:
        store.set("plan", pickle.dumps((training.bounds, facts)))
        return training
    _wait(store, ["plan"], _PLAN_S, lambda: "rank 0 has not said what is trained")
    bounds, wanted = pickle.loads(store.get("plan"))
    for name, value in facts.items():
        if wanted[name] != value:
            raise RunError(
                f"rank {launch.rank}: {name} is {value}, but {wanted[name]} on rank 0: "
                "start all ranks with the same arguments"
            )
    return replace(training, bounds=bounds)


def _facts(training: Training, schedule: Schedule) -> dict[str, str]:
    """What must be the same on all ranks, in words."""
    inputs, labels = training.source.payload(Item("activation", 0), 0)
    return {
        "the version of torch": str(torch.__version__),
        "the schedule": f"{schedule.name} {dict(schedule.options)}",
        "the number of batches": str(schedule.batches),
        "the seed": str(training.seed),
        "the checksum of the network": _checksum(training.model.state_dict().values()),
        "the checksum of the first mini-batch": _checksum([*flat(inputs), labels]),
    }


def _checksum(tensors: Any) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(content.numpy().data)
    return digest.hexdigest()[:16]


def _hosts(store: Any, launch: Launched, schedule: Schedule) -> tuple[str, ...]:
    """The hosts of all ranks; waits until all have come."""
    store.set(f"host {launch.rank}", socket.gethostname())
    keys = [f"host {rank}" for rank in range(launch.size)]

    def missing() -> str:
        names = [
            w.name for k, w in zip(keys, schedule.workers, strict=True) if not store.check([k])
        ]
        return f"there is no sign of {', '.join(names)}"

    _wait(store, keys, _OTHERS_S, missing)
    return tuple(store.get(key).decode() for key in keys)


def _wait(store: Any, keys: list[str], timeout_s: float, problem: Callable[[], str]) -> None:
    try:
        store.wait(keys, timedelta(seconds=timeout_s))
    except RuntimeError as error:
        raise RunError(f"{problem()} ({str(error).splitlines()[0]})") from error
