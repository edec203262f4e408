import json
from array import array
from collections.abc import Callable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.cluster import Cluster
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.schedules import SCHEDULES, build
from simcore.trace import GRADIENT_COLUMNS, KIND, SPAN_COLUMNS, Header, Recorder, Trace
from simcore.trace_file import dump_trace, load_trace
from simcore.trace_rows import KEYS
from simcore.workload import Workload

LARGEST = 2**63 - 1
BLOCKS, BATCHES, WORKERS, CHANNELS, GROUPS = 3, 10**9, 4, 2, 2

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
headers = st.builds(
    Header,
    origin=st.sampled_from(["simulated", "real"]),
    schedule=texts,
    options=st.dictionaries(texts, json_values, max_size=3),
    blocks=st.just(BLOCKS),
    batches=st.just(BATCHES),
    workers=st.lists(texts, min_size=WORKERS, max_size=WORKERS).map(tuple),
    channels=st.lists(texts, min_size=CHANNELS, max_size=CHANNELS).map(tuple),
    groups=st.lists(texts, min_size=GROUPS, max_size=GROUPS).map(tuple),
    replicas=st.just(()) | st.tuples(*[st.integers(0, 5)] * WORKERS),
    micro_batches=st.integers(1, 5),
    tick_s=st.fractions(min_value=Fraction(1, 10**30)).filter(bool),
    seed=st.integers(),
    about=st.dictionaries(texts, json_values, max_size=3),
)
counts = st.integers(0, LARGEST)
workers, blocks, batches = (
    st.integers(0, WORKERS - 1),
    st.integers(1, BLOCKS),
    st.integers(0, BATCHES - 1),
)


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, ...]:
    start, end = sorted((draw(counts), draw(counts)))
    kind = draw(st.sampled_from(sorted(KIND)))
    keys = KEYS[kind]
    place = draw(blocks) if "block" in keys else draw(st.integers(0, CHANNELS - 1))
    batch = draw(batches) if "batch" in keys else -1
    if "group" in keys:
        place, batch = draw(st.integers(0, GROUPS - 1)), draw(st.integers(0, BLOCKS))
    if kind == "load":
        place = 0
    version = draw(counts) if "version" in keys else -1
    return start, end, draw(workers), draw(counts), KIND[kind], place, batch, version


@st.composite
def gradients(draw: st.DrawFn) -> tuple[int, ...]:
    applied = draw(counts)
    earlier = [draw(st.integers(0, applied)) for _ in range(4)]
    return (
        draw(counts),
        draw(workers),
        draw(blocks),
        draw(batches),
        *earlier[:3],
        applied,
        earlier[3],
    )


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    recorder = Recorder()
    rows = draw(st.lists(spans(), max_size=6)), draw(st.lists(gradients(), max_size=6))
    recorder.add(*(array("q", chain.from_iterable(each)) for each in rows))
    return recorder.trace(draw(headers))


def assert_same(one: Trace, other: Trace) -> None:
    assert one.header == other.header
    assert np.array_equal(one.spans, other.spans)
    assert np.array_equal(one.gradients, other.gradients)
    assert one.spans.dtype.names == other.spans.dtype.names == SPAN_COLUMNS
    assert one.gradients.dtype.names == other.gradients.dtype.names == GRADIENT_COLUMNS


@settings(deadline=None)
@given(trace=traces())
def test_what_is_dumped_is_loaded(tmp_path_factory: pytest.TempPathFactory, trace: Trace) -> None:
    path = tmp_path_factory.mktemp("trace") / "file.jsonl"
    dump_trace(trace, path)
    assert_same(load_trace(path), trace)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_trace_of_every_schedule(tmp_path: Path, name: str) -> None:
    schedule = build(name, batches=5)
    cluster = Cluster.private(latency_s="1/7")
    trace = simulate(schedule, Workload.even(schedule.blocks), cluster, jitter=0.5, seed=3)
    dump_trace(trace, tmp_path / "file")
    assert_same(load_trace(tmp_path / "file"), trace)


def test_the_lines_of_a_file(tmp_path: Path) -> None:
    trace = simulate(build("fdg", modules=2, batches=2), Workload.even(2, forward_s="1/3"))
    dump_trace(trace, tmp_path / "file")
    lines = [json.loads(line) for line in (tmp_path / "file").read_text().splitlines()]
    assert lines[0] | {"options": {}, "about": {}} == {
        "schema": "gradlag.trace/2",
        "origin": "simulated",
        "schedule": "fdg",
        "options": {},
        "blocks": 2,
        "batches": 2,
        "workers": ["module 1", "module 2"],
        "channels": ["data", "gradients[1]", "activations[2]", "gradients[2]"],
        "groups": [],
        "replicas": [],
        "micro_batches": 1,
        "tick_s": "1/6",
        "seed": 0,
        "about": {},
        "spans": len(trace.spans),
        "gradients": 4,
    }
    first = {line["span"]: line for line in reversed(lines) if "span" in line}
    place = {"worker": 0, "index": 1, "block": 1, "batch": 0, "version": 0}
    assert first["forward"] == {"span": "forward", "start": 0, "end": 1} | place
    assert first["receive"].keys() == {
        "span",
        "start",
        "end",
        "worker",
        "index",
        "channel",
        "batch",
    }
    assert first["update"].keys() == {"span", "start", "end", "worker", "index", "block", "version"}
    assert lines[-1]["gradient"] == "applied"
    assert lines[-1].keys() - {"gradient"} == set(GRADIENT_COLUMNS)


# What is wrong with a file

Edit = Callable[[list[dict[str, Any]]], object]


def small_trace(folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    path = folder / "bad.jsonl"
    dump_trace(simulate(build("fdg", modules=2, batches=2), Workload.even(2)), path)
    return path, [json.loads(line) for line in path.read_text().splitlines()]


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_trace(path)
    text = str(caught.value)
    assert text.count("\n") == 0
    assert text.startswith((f"{path}: ", "file is "))
    return text.removeprefix(f"{path}: ")


def change(line: int, **values: object) -> Edit:
    return lambda lines: lines[line - 1].update(values)


def drop(line: int, key: str) -> Edit:
    return lambda lines: lines[line - 1].pop(key)


WHOLE = "must be a whole number from 0 to 2**63 - 1"

# Line 2 is a receive, line 3 a forward; the last four are gradients.
DEFECTS: list[tuple[Edit, str]] = [
    (change(1, schema="gradlag.trace/1"), "line 1: schema is 'gradlag.trace/1': must be gradlag."),
    (drop(1, "schema"), "line 1: schema is 'missing': the key is required; add it"),
    (drop(1, "seed"), "line 1: seed is 'missing': the key is required; add it"),
    (change(1, note=""), "line 1: note is '': there is no such key; remove it or correct its"),
    (change(1, origin="dreamt"), "line 1: origin is 'dreamt': must be simulated or real;"),
    (change(1, blocks=True), "line 1: blocks is 'true': must be a whole number from 1 to"),
    (change(1, batches=0), "line 1: batches is 0: must be a whole number from 1 to"),
    (change(1, workers="a"), "line 1: workers is 'a': must be a list of names;"),
    (change(1, channels=[1]), "line 1: channels is '[1]': must be a list of names;"),
    (change(1, micro_batches=0), "line 1: micro_batches is 0: must be a whole number from 1 to"),
    (change(1, groups="a"), "line 1: groups is 'a': must be a list of names;"),
    (change(1, replicas=["a"]), "line 1: replicas is '[\"a\"]': must be a list of whole"),
    (change(1, replicas=[0]), "line 1: replicas is '[0]': must be empty or name the replica of"),
    (change(1, tick_s=0.5), "line 1: tick_s is 0.5: must be an exact ratio above 0 in a string,"),
    (change(1, tick_s="0/3"), "line 1: tick_s is '0/3': must be an exact ratio above 0"),
    (change(1, tick_s="1/0"), "line 1: tick_s is '1/0': must be an exact ratio above 0"),
    (change(1, tick_s="1.5"), "line 1: tick_s is '1.5': must be an exact ratio above 0"),
    (change(1, options=[]), "line 1: options is '[]': must be an object;"),
    (change(1, spans=-1), "line 1: spans is -1: must be a whole number of at least 0;"),
    (
        change(1, spans=99),
        "line 1: spans is 99: must be the number of such lines, and there are 26",
    ),
    (lambda lines: lines.pop(), "line 1: gradients is 4: must be the number of such lines, and "),
    (change(2, span="jump"), "line 2: span is 'jump': must be one of forward, backward, update,"),
    (change(2, span=["send"]), "line 2: span is '[\"send\"]': must be one of forward,"),
    (drop(2, "span"), "line 2: gradient is 'missing': must be one of applied;"),
    (change(-1, gradient="lost"), "gradient is 'lost': must be one of applied;"),
    (drop(3, "version"), "line 3: version is 'missing': the key is required; add it"),
    (change(2, version=0), "line 2: version is 0: there is no such key; remove it"),
    (lambda lines: change(2, block=lines[1].pop("channel"))(lines), "line 2: channel is 'missing'"),
    (change(3, worker=2), "line 3: worker is 2: must be below 2, the number of workers;"),
    (change(3, worker=-1), f"line 3: worker is -1: {WHOLE};"),
    (change(2, channel=4), "line 2: channel is 4: must be below 4, the number of channels;"),
    (change(3, block=0), "line 3: block is 0: must be within 1..2;"),
    (change(3, block=3), "line 3: block is 3: must be within 1..2;"),
    (change(3, batch=2), "line 3: batch is 2: must be below 2, the number of batches;"),
    (change(3, start=5), "line 3: end is 1: must not be before start;"),
    (change(3, start=0.0), f"line 3: start is 0.0: {WHOLE};"),
    (change(3, end="1"), f"line 3: end is '1': {WHOLE};"),
    (change(3, index=True), f"line 3: index is 'true': {WHOLE};"),
    (change(3, end=None), f"line 3: end is 'null': {WHOLE};"),
    (change(3, end=2**63), f"line 3: end is {2**63}: {WHOLE};"),
    (change(-2, worker=2), "worker is 2: must be below 2, the number of workers;"),
    (change(-2, version_forward=7), "version_forward is 7: must not be above version_applied;"),
    (change(-2, version_base=7), "version_base is 7: must not be above version_applied;"),
]


@pytest.mark.parametrize(("edit", "expected"), DEFECTS, ids=[text for _, text in DEFECTS])
def test_a_defect_is_one_line_that_says_where_and_what(
    tmp_path: Path, edit: Edit, expected: str
) -> None:
    path, lines = small_trace(tmp_path)
    edit(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert expected in refusal(path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{oops}\n", "is '{oops}': must be JSON; correct the line"),
        (b"\n", "is '': must be JSON; correct the line"),
        (b"[1]\n", "is '[1]': must be an object; put it in braces"),
        (b"3\n", "is 3: must be an object; put it in braces"),
        (b"\xff\n", "is '\ufffd': must be JSON; correct the line"),
        (b"[" * 100_000 + b"\n", "...': must be JSON; correct the line"),
        (
            b'{"span":"for',
            """is '{"span":"for': must be whole, and is cut short; write the trace""",
        ),
    ],
)
def test_a_line_that_is_no_object(tmp_path: Path, line: bytes, expected: str) -> None:
    path, lines = small_trace(tmp_path)
    with path.open("ab") as stream:
        stream.write(line)
    text = refusal(path)
    assert text.startswith(f"line {len(lines) + 1} is '" if b"3" not in line else "line ")
    assert expected in text


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path, _ = small_trace(tmp_path)
    content = path.read_bytes()
    # Without its last line break it is still whole.
    for length in range(0, len(content) - 1, 7):
        path.write_bytes(content[:length])
        refusal(path)


def test_a_file_that_is_empty_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(InputError, match=r"must be readable \(No such file or directory\); check"):
        load_trace(path)
    path.touch()
    assert refusal(path) == (
        f"file is '{path}': must begin with the line of the header, and is empty; "
        "write the trace again"
    )


def test_the_first_bad_row_is_named(tmp_path: Path) -> None:
    path, lines = small_trace(tmp_path)
    change(6, worker=9)(lines)
    change(4, batch=9)(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert refusal(path).startswith("line 4: batch is 9")


def test_a_dump_replaces_an_old_file_whole(tmp_path: Path) -> None:
    path, _ = small_trace(tmp_path)
    trace = load_trace(path)
    path.write_text("old, and much longer" * 1000)
    dump_trace(trace, path)
    assert_same(load_trace(path), trace)
    with pytest.raises(InputError, match="must be writable"):
        dump_trace(trace, path / "below")
