"""The state of a run in one process, as plain containers of tensors, and back.

`Flight` is what a process has of a run. While its workers pause, `saved` takes all that they need
to go on: weights, in every version that something still needs, with the optimisers' states, and
unless `drained` also what is in flight: what workers hold, messages that nobody has read, rounds
that have not been joined, how far programs have got. `restore` puts it into a run that has not
begun yet.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from executor.assembly import Parts
from executor.checkpoint import Checkpoints, Opened, losses_of
from executor.checkpoint_files import write_part
from executor.checkpoint_items import Key, Versions, packed, plain, unpacked
from executor.drive import Losses
from executor.ports import LocalPort, Port, SourcePort
from executor.position import Position
from executor.ring_port import RingMeeting, RingPort
from executor.rounds import LocalRounds
from executor.tensors import WorkerTensors
from executor.weights import BlockWeights, Leaves
from simcore.errors import RunError
from simcore.ops import Channel, Group, Item

__all__ = ["Flight", "Messages", "begin_again", "goes_on", "restore", "saved"]

Messages = defaultdict[tuple[int, int], deque[Sequence[Any]]]
# What a worker holds by block, as containers of tensors and numbers.
_BY_BLOCK: Final = ("pending", "averaged", "snapshots", "means", "newest", "states")


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """What one process has of a run; workers by number.

    `meetings` are those of groups between processes, `rounds` those within this one. A runtime
    without ports has the `messages` that are unread, by (number of the channel, batch), and counts
    what has been `taken` from sources, by channel.
    """

    parts: Parts
    tensors: Mapping[int, WorkerTensors]
    positions: Mapping[int, Position]
    ports: Mapping[Channel, Port] = field(default_factory=dict)
    meetings: Mapping[Group, RingMeeting] = field(default_factory=dict)
    rounds: Mapping[Group, LocalRounds] = field(default_factory=dict)
    messages: Messages = field(default_factory=lambda: defaultdict(deque))
    taken: Counter[int] = field(default_factory=Counter)


def begin_again(flight: Flight, losses: Losses, opened: Opened) -> None:
    """Let a run that is all in this process begin with what a checkpoint holds, if it has one."""
    if opened is not None:
        manifest, state = opened
        restore(flight, state)
        losses.rows.extend(losses_of(manifest))


def goes_on(flight: Flight, losses: Losses, checkpoints: Checkpoints | None, ended: bool) -> bool:
    """Save a run that is all in this process and has paused or `ended`; whether it goes on."""

    def write_parts(folder: Path) -> list[str]:
        return [write_part(folder, "all.pt", saved(flight, drained=ended))]

    return checkpoints is not None and checkpoints.write(
        losses.rows, drained=ended, write_parts=write_parts
    )


def saved(flight: Flight, *, drained: bool) -> dict[str, Any]:
    """The state of this process's part of a run. Raises `RunError` for what cannot be saved."""
    parts = flight.parts
    versions = Versions(parts.weights)
    found: dict[str, Any] = {"random": torch.get_rng_state()}
    if not drained:
        found |= {
            "ledger": parts.ledger.saved(),
            "workers": {n: _worker(flight, n, versions) for n in flight.tensors},
            "channels": _channels(flight, versions),
            "groups": _groups(flight),
        }
    found["blocks"] = {key: _block(flight, key, versions, drained) for key in parts.weights}
    return found


def restore(flight: Flight, state: Sequence[Mapping[str, Any]]) -> None:
    """Begin where another run was when it was saved; `state` are the parts of a checkpoint."""
    leaves: dict[Key, list[Leaves]] = {}
    for part in state:
        for key, block in part["blocks"].items():
            if key in flight.parts.weights:
                leaves[key] = _restore_block(flight, key, plain(block))
        if not flight.tensors.keys() & part.get("workers", {}).keys():
            continue
        for number, worker in part["workers"].items():
            _restore_worker(flight, number, plain(worker), leaves)
        _restore_channels(flight, part["channels"], leaves)
        _restore_groups(flight, part["groups"])
        flight.parts.ledger.restore(part["ledger"])
    torch.set_rng_state(state[0]["random"].clone())


def _block(flight: Flight, key: Key, versions: Versions, drained: bool) -> dict[str, Any]:
    """Weights of a block, buffers, and what learns with it; when `drained`, the newest only."""
    replica, block = key
    parts = flight.parts
    weights, module, extras = (
        parts.weights[key],
        parts.blocks[replica][block - 1],
        parts.extras[key],
    )
    state = weights.saved(lambda leaves: 0 if drained else versions.number(key, leaves))
    if drained:
        state["buffered"] = {}
    synthesizer = None
    if extras.synthesizer is not None and extras.optimizer is not None:
        synthesizer = plain(extras.synthesizer.state_dict()), extras.optimizer.state_dict()
    return {
        **state,
        "versions": [plain(leaves.parameters) for leaves in versions.found[key]],
        "fixed": plain(_fixed(module, weights)),
        "synthesizer": synthesizer,
        "feedback": plain(_feedback(_skeleton(flight, key))),
    }


def _restore_block(flight: Flight, key: Key, state: Mapping[str, Any]) -> list[Leaves]:
    replica, block = key
    parts = flight.parts
    weights, module, extras = (
        parts.weights[key],
        parts.blocks[replica][block - 1],
        parts.extras[key],
    )
    newest, *older = state["versions"]
    for name, parameter in weights.current.parameters.items():
        parameter.data.copy_(newest[name])
    fixed = _fixed(module, weights)
    for name, tensor in fixed.items():
        tensor.data.copy_(state["fixed"][name])
    leaves = [weights.current]
    for each in older:
        leaves.append(Leaves({name: nn.Parameter(tensor.clone()) for name, tensor in each.items()}))
    weights.restore(state, leaves)
    if state["synthesizer"] is not None:
        assert extras.synthesizer is not None
        assert extras.optimizer is not None
        network, optimizer = state["synthesizer"]
        extras.synthesizer.load_state_dict(network)
        extras.optimizer.load_state_dict(optimizer)
    for tensors in flight.tensors.values():
        if tensors.replica == replica and block in tensors.modules:
            for name, matrix in _feedback(tensors.modules[block]).items():
                matrix.copy_(state["feedback"][name])
    return leaves


def _fixed(module: nn.Module, weights: BlockWeights) -> dict[str, torch.Tensor]:
    """Buffers, and parameters that do not learn."""
    fixed = {n: p for n, p in module.named_parameters() if n not in weights.current.parameters}
    return {**fixed, **dict(module.named_buffers())}


def _skeleton(flight: Flight, key: Key) -> nn.Module:
    replica, block = key
    return next(
        each.modules[block]
        for each in flight.tensors.values()
        if each.replica == replica and block in each.modules
    )


def _feedback(module: nn.Module) -> dict[str, torch.Tensor]:
    """The fixed random weights that gradients go down through, by layer."""
    found = {name: layer.__dict__.get("feedback") for name, layer in module.named_modules()}
    return {name: each for name, each in found.items() if isinstance(each, torch.Tensor)}


def _worker(flight: Flight, number: int, versions: Versions) -> dict[str, Any]:
    tensors = flight.tensors[number]
    held = []
    for (kind, block, batch), payload in tensors.held.items():
        if kind in ("graph", "weight_graph"):
            _require_weights(tensors, block, batch)
        item = Item(kind, block)
        held.append((kind, block, batch, packed(versions, tensors.replica, item, payload)))
    return {
        "position": flight.positions[number].saved(),
        "held": held,
        **{name: plain(getattr(tensors, name)) for name in _BY_BLOCK},
    }


def _require_weights(tensors: WorkerTensors, block: int, batch: int) -> None:
    """Raise `RunError` if the weights that a graph was made with are gone."""
    if tensors.rules.policy != "stash" and not tensors.ledger.is_newest(
        tensors.worker, block, batch
    ):
        raise RunError(
            f"block {block} has been updated since the pass of batch {batch}: "
            "what is in flight cannot be saved; drain before checkpoints"
        )


def _restore_worker(
    flight: Flight, number: int, state: Mapping[str, Any], leaves: Mapping[Key, list[Leaves]]
) -> None:
    tensors = flight.tensors[number]
    for kind, block, batch, payload in state["held"]:
        item = Item(kind, block)
        tensors.held[kind, block, batch] = unpacked(tensors, item, batch, payload, leaves)
    for name in _BY_BLOCK:
        setattr(tensors, name, state[name])
    flight.positions[number].go_to(state["position"])


def _receiver(flight: Flight, channel: Channel) -> int | None:
    """The worker who answers for what is unread in a channel; None if it is not of this process."""
    first = min(flight.parts.schedule.receivers[channel], default=None)
    return first if first in flight.tensors else None


def _channels(flight: Flight, versions: Versions) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for number, channel in enumerate(flight.parts.schedule.channels):
        receiver = _receiver(flight, channel)
        if receiver is None:
            continue
        match flight.ports.get(channel):
            case RingPort() as port:
                unread = [(each.batch, list(each.tensors)) for each in port.ring.unread()]
                found[number] = {"unread": unread}
            case SourcePort() as port:
                found[number] = {"taken": port.taken()}
            case LocalPort() as port:
                replica = flight.tensors[receiver].replica
                unread = _packed(versions, replica, channel, port.arrived)
                found[number] = {"unread": unread}
            case None:
                replica = flight.tensors[receiver].replica
                here = [
                    (batch, payloads)
                    for (at, batch), sent in flight.messages.items()
                    for payloads in sent
                    if at == number
                ]
                unread = _packed(versions, replica, channel, here)
                found[number] = {"unread": unread, "taken": flight.taken[number]}
    return found


def _packed(
    versions: Versions,
    replica: int,
    channel: Channel,
    messages: Iterable[tuple[int, Sequence[Any]]],
) -> list[tuple[int, list[Any]]]:
    found = []
    for batch, payloads in messages:
        pairs = zip(channel.carries, payloads, strict=True)
        found.append((batch, [packed(versions, replica, *pair) for pair in pairs]))
    return found


def _restore_channels(
    flight: Flight, state: Mapping[int, Any], leaves: Mapping[Key, list[Leaves]]
) -> None:
    for number, found in state.items():
        channel = flight.parts.schedule.channels[number]
        receiver = _receiver(flight, channel)
        if receiver is None:
            continue
        tensors = flight.tensors[receiver]
        port = flight.ports.get(channel)
        if isinstance(port, SourcePort):
            port.start_at(found["taken"])
        elif port is None:
            flight.taken[number] = found.get("taken", 0)
        for batch, sent in found.get("unread", ()):
            if isinstance(port, RingPort):
                port.ring.send(batch, sent)
                continue
            pairs = zip(channel.carries, plain(sent), strict=True)
            payloads = [unpacked(tensors, item, batch, each, leaves) for item, each in pairs]
            if isinstance(port, LocalPort):
                port.arrived.append((batch, payloads))
            else:
                flight.messages[number, batch].append(payloads)


def _groups(flight: Flight) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for number, group in enumerate(flight.parts.schedule.groups):
        if (meeting := flight.meetings.get(group)) is not None:
            found[number] = plain(meeting.saved())
        elif (rounds := flight.rounds.get(group)) is not None:
            found[number] = {
                "arrived": dict(rounds.arrived),
                "joined": dict(rounds.joined),
                "given": plain(rounds.given),
                "taken": dict(rounds.taken),
            }
    return found


def _restore_groups(flight: Flight, state: Mapping[int, Any]) -> None:
    for number, found in state.items():
        group = flight.parts.schedule.groups[number]
        if (meeting := flight.meetings.get(group)) is not None:
            meeting.restore(plain(found))
        elif (rounds := flight.rounds.get(group)) is not None:
            rounds.arrived, rounds.joined = Counter(found["arrived"]), Counter(found["joined"])
            rounds.given = defaultdict(dict, plain(found["given"]))
            rounds.taken = Counter(found["taken"])
