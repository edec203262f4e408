"""What goes to stdout and what to stderr, and what is drawn on a terminal."""

import json
import os
import pty
from pathlib import Path

import pytest

from analysis.cli.output import Bar, json_text
from tests.cli.conftest import Start


def test_json_alone_is_on_stdout(start: Start, tmp_path: Path) -> None:
    running = start("simulate", "fdg", "--batches", 5, "--json", "--out", "x")
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0
    assert json.loads(out)["schedule"] == "fdg"
    assert err.startswith("gradlag: wrote")


def test_a_reader_that_leaves_is_no_error(start: Start) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    running = start("simulate", "fdg", "--batches", 5, "--json", stdout=writing)
    os.close(writing)
    _, err = running.communicate(timeout=60)
    assert err == ""
    assert running.returncode == 141  # as a shell reports it of others
    reading, writing = os.pipe()
    os.close(reading)
    running = start("schedules", "--help", stdout=writing)
    os.close(writing)
    assert running.communicate(timeout=60)[1] == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
def test_a_full_disk_is_one_line(start: Start) -> None:
    with open("/dev/full", "w") as full:
        running = start("simulate", "fdg", "--batches", 5, "--json", stdout=full)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, len(err.splitlines())) == (1, 1)
    assert "No space left" in err


def test_a_terminal_sees_the_seconds_left_and_stdout_stays_clean(start: Start) -> None:
    ours, theirs = pty.openpty()
    # The compiled engine is done before anything is shown.
    options = ("--batches", 5000, "--modules", 4, "--engine", "simpy", "--json")
    running = start("simulate", "fdg", *options, stderr=theirs)
    os.close(theirs)
    seen = b""
    assert running.stdout is not None
    out = running.stdout.read()
    while chunk := _read(ours):
        seen += chunk
    running.wait(60)
    assert json.loads(out)["options"]["batches"] == 5000
    assert b"simulating fdg" in seen
    assert b"left" in seen


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end has closed
        return b""


def test_encodings_that_lack_a_sign_are_no_error(start: Start) -> None:
    running = start("simulate", "adl", "--batches", 5, encoding="ascii")
    out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (0, "")
    assert "speedup" in out


def test_no_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("counting", 10) as bar:
        bar.stage("more", 3)
        bar.told(3)
    with Bar("counting", log=True) as bar:
        bar.stage("even more")
    assert capsys.readouterr() == ("", "gradlag: even more\n")


def test_json_has_no_numbers_that_json_lacks() -> None:
    document = {"a": float("nan"), "b": [1, float("inf")], "c": {"d": [[1, 2], ["[", "x\ny"]]}}
    text = json_text(document)
    assert json.loads(text) == {"a": None, "b": [1, None], "c": {"d": [[1, 2], ["[", "x\ny"]]}}
    assert "[1, null]" in text
