import os
from pathlib import Path

import pytest

from simcore.errors import InputError
from simcore.files import write_whole


@pytest.mark.parametrize(
    ("content", "expected"), [("é\n", "é\n".encode()), (b"\x00\r\n", b"\x00\r\n"), ("", b"")]
)
def test_it_writes_text_and_bytes_as_they_are(
    tmp_path: Path, content: str | bytes, expected: bytes
) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_whole(path, content)
    assert path.read_bytes() == expected


def test_it_replaces_an_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(str(path), "a longer text")
    write_whole(str(path), "short")
    assert path.read_text() == "short"
    assert os.listdir(tmp_path) == ["file"]


def test_a_new_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "")
    (tmp_path / "other").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_when_it_fails_the_old_file_stays_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(InputError) as caught:
        write_whole(path, "new")
    assert str(caught.value) == (
        f"file is '{path}': must be writable (No space left on device); choose another path"
    )
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_interrupt_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", "new")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("below", "reason"),
    [
        ("taken/file", "its folder is a file"),
        ("taken/deeper/file", "Not a directory"),
        ("folder", "Is a directory"),
    ],
)
def test_a_path_that_cannot_be_written_is_one_clear_line(
    tmp_path: Path, below: str, reason: str
) -> None:
    (tmp_path / "taken").touch()
    (tmp_path / "folder").mkdir()
    path = tmp_path / below
    with pytest.raises(InputError) as caught:
        write_whole(path, "")
    assert (
        str(caught.value) == f"file is '{path}': must be writable ({reason}); choose another path"
    )
    assert sorted(os.listdir(tmp_path)) == ["folder", "taken"]
