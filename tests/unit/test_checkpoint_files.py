"""Checkpoints on disk are whole or not there, and hold no code; programs find their place again."""

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from executor.checkpoint import Checkpoints
from executor.checkpoint_files import Manifest, commit, latest, prepare, read, write_part
from executor.position import Position
from simcore.errors import InputError
from simcore.ops import Channel, Group, Join, Operation, Receive, Select, Worker

MANIFEST = Manifest(
    kind="carried",
    runtime="threads",
    schedule="fdg",
    options={"modules": 2, "batches": 8, "in_flight": (2, 1)},
    bounds=(0, 1, 2),
    seed=3,
    batches=4,
    passes=4,
    first_batch=0,
    optimizer="SGD",
    tensors={"0.weight": (2, 3)},
)


def written(folder: Path, batches: int, keep: int = 3) -> Path:
    writing = prepare(folder, batches)
    state = {"held": [("graph", 1, 2, {"inputs": torch.arange(3.0)})], (0, 1): None}
    parts = (write_part(writing, "all.pt", state),)
    return commit(writing, replace(MANIFEST, batches=batches, parts=parts), keep)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest, [part] = read(written(tmp_path, 4))
    manifest.require(replace(MANIFEST, batches=0))
    assert manifest.batches == 4
    assert torch.equal(part["held"][0][3]["inputs"], torch.arange(3.0))
    assert part[0, 1] is None


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for batches in (2, 9, 10, 100):
        written(tmp_path, batches, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "batch-0000000010",
        "batch-0000000100",
    ]
    assert latest(tmp_path) == tmp_path / "batch-0000000100"
    assert latest(tmp_path / "batch-0000000010") == tmp_path / "batch-0000000010"


def test_one_of_the_same_number_is_replaced(tmp_path: Path) -> None:
    first = written(tmp_path, 4)
    (first / "mark").touch()
    assert not (written(tmp_path, 4) / "mark").exists()
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_what_was_not_finished_does_not_count(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    writing = prepare(tmp_path, 7)
    write_part(writing, "all.pt", {})
    assert latest(tmp_path) is None
    written(tmp_path, 4)
    assert latest(tmp_path) == tmp_path / "batch-0000000004"
    assert len(list(tmp_path.iterdir())) == 1  # what was left is removed


def change(**values: Any) -> Any:
    def damage(checkpoint: Path) -> None:
        path = checkpoint / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return damage


def cut(checkpoint: Path) -> None:
    path = checkpoint / "all.pt"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (change(format="other"), "whole checkpoint"),
        (change(version=99), "must be of version 1"),
        (change(unknown=1), "whole checkpoint"),
        (cut, "whole checkpoint"),
        (lambda checkpoint: (checkpoint / "all.pt").unlink(), "whole checkpoint"),
        (lambda checkpoint: (checkpoint / "manifest.json").write_text("{"), "whole checkpoint"),
    ],
    ids=["format", "version", "unknown", "cut", "missing", "json"],
)
def test_damage_is_told_in_one_line(damage: Any, told: str, tmp_path: Path) -> None:
    checkpoint = written(tmp_path, 4)
    damage(checkpoint)
    with pytest.raises(InputError, match=told) as caught:
        read(checkpoint)
    assert "\n" not in str(caught.value)


def test_code_is_never_run(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, 4)

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"evil": Evil()}, checkpoint / "all.pt", pickle_module=pickle)
    with pytest.raises(InputError, match="whole checkpoint"):
        read(checkpoint)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "other",
    [{"seed": 4}, {"schedule": "adl"}, {"bounds": (0, 2)}, {"first_batch": 8}],
    ids=lambda other: next(iter(other)),
)
def test_another_training_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(other))} of the checkpoint"):
        MANIFEST.require(replace(MANIFEST, **other))


def test_only_a_drained_one_may_go_on_for_longer() -> None:
    longer = replace(MANIFEST, options={**MANIFEST.options, "batches": 9}, first_batch=8)
    replace(MANIFEST, kind="drained").require(longer)
    with pytest.raises(InputError, match=r"options of the checkpoint \(batches\)"):
        MANIFEST.require(longer)


@pytest.mark.parametrize("name", ["every", "keep", "stop_after"])
def test_numbers_are_checked(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{name} of checkpoints"):
        Checkpoints(tmp_path, **{name: 0})


def test_a_program_finds_its_place_again() -> None:
    channels = Channel("one", ()), Channel("two", ())
    group = Group("all")

    def program() -> Iterator[Operation]:
        log = []
        for number in range(5):
            log.append((yield Receive(channels[number % 2])))
            log.append((yield Select(channels)))
            log.append((yield Join(group)))
        yield Receive(Channel(repr(log), ()))

    worker = Worker("worker", program, (), receives=channels, joins=(group,))  # type: ignore[arg-type]
    answers = [7, (channels[1], 3), True, None, None, False, 8, (channels[0], 10**12), True]
    first = Position(worker, channels)
    for answer in answers:
        first.next()
        first.complete(answer)
    again = Position(worker, channels)
    again.go_to(first.saved())
    for rest in (first, again):
        for answer in (1, (channels[0], 2), True) * 2:
            rest.next()
            rest.complete(answer)
    one, other = first.next(), again.next()
    assert isinstance(one, Receive)
    assert isinstance(other, Receive)
    assert one.channel.name == other.channel.name
    assert (first.done, again.done) == (15, 15)


def test_a_shorter_program_is_refused() -> None:
    def program(count: int) -> Iterator[Operation]:
        for _ in range(count):
            yield Join(group)

    group = Group("all")
    long = Position(Worker("a", lambda: program(5), ()), ())  # type: ignore[arg-type, return-value]
    while long.next() is not None:
        long.complete(True)
    short = Position(Worker("a", lambda: program(3), ()), ())  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match="that of the checkpoint"):
        short.go_to(long.saved())
