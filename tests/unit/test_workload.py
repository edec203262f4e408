import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcore.errors import InputError
from simcore.ticks import Number
from simcore.workload import (
    Layer,
    Workload,
    dump_workload,
    load_workload,
    workload_json_schema,
)

Document = dict[str, Any]

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
seconds = st.one_of(
    st.fractions(min_value=0),
    st.floats(0, allow_infinity=False).map(lambda value: Fraction(repr(value))),
    st.just(10**320 + Fraction(1, 3)),
)
sizes = st.integers(0, 2**53)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    backward = draw(seconds)
    part = st.none() | st.sampled_from([Fraction(0), backward / 3, backward])
    times = [draw(names), draw(seconds), backward, draw(seconds)]
    auxiliary = [draw(seconds), draw(seconds), draw(sizes), draw(seconds)]
    saved = [draw(sizes) for _ in range(3)]
    return Layer(*times, *saved, draw(st.none() | seconds), draw(part), *auxiliary)


workloads = st.builds(
    Workload,
    names,
    st.lists(layers(), min_size=1, max_size=3).map(tuple),
    st.none() | st.integers(1, 2**53),
    sizes,
    names | st.just(""),
    seconds,
    sizes,
).filter(lambda workload: workload.forward_s + workload.backward_s > 0)


def document() -> Document:
    return {
        "schema": "gradlag.workload/1",
        "name": "net",
        "layers": [{"name": "a", "forward_s": 0.1, "backward_s": "1/3"}],
    }


def written(folder: Path, text: str) -> Path:
    path = folder / "net.json"
    path.write_text(text, "utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_workload(path)
    return str(caught.value)


@settings(deadline=None)  # the disk may be slow
@given(workload=workloads)
def test_what_is_dumped_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, workload: Workload
) -> None:
    path = tmp_path_factory.mktemp("workload") / "file.json"
    dump_workload(workload, path)
    assert load_workload(path) == workload


def test_what_may_be_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(document()))
    assert load_workload(path) == Workload("net", (Layer("a", Fraction(1, 10), Fraction(1, 3)),))


def test_decimals_are_read_as_they_are_written(tmp_path: Path) -> None:
    text = json.dumps(document()).replace("0.1", "0.12345678901234567890123")
    (layer,) = load_workload(written(tmp_path, text)).layers
    assert layer.forward_s == Fraction(12345678901234567890123, 10**23)


TOML = """
schema = "gradlag.workload/1"
name = "net"
load_s = 0.25
optimizer_states = 2

[[layers]]
name = "a"
forward_s = 0.12345678901234567890123
backward_s = "1/3"
backward_input_s = "1/12"

[[layers]]
name = "b"
forward_s = 1
backward_s = 2e-3
tangent_s = 2
"""


def test_a_toml_file_is_read_as_exactly(tmp_path: Path) -> None:
    path = tmp_path / "net.TOML"
    path.write_text(TOML, "utf-8")
    first = Layer("a", Fraction(12345678901234567890123, 10**23), Fraction(1, 3))
    second = Layer("b", Fraction(1), Fraction(1, 500), tangent_s=Fraction(2))
    assert load_workload(path) == Workload(
        "net",
        (replace(first, backward_input_s=Fraction(1, 12)), second),
        load_s=Fraction(1, 4),
        optimizer_states=2,
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "schema =",
            "file is '{path}': must be TOML (Invalid value (at end of document)); correct the file",
        ),
        (
            TOML.replace("0.25", "nan"),
            "{path}: load_s is nan: must be finite; give a finite number",
        ),
        (
            TOML.replace("0.25", "-inf"),
            "{path}: load_s is -inf: must be finite; give a finite number",
        ),
        (
            TOML.replace("0.25", "1979-05-27"),
            "{path}: load_s is '\"1979-05-27\"': must be a number; "
            'give one such as 0.25, 1e-3 or "1/3"',
        ),
        (
            TOML.replace("2e-3", "1e9999"),
            "{path}: layers[1].backward_s is '1e+9999': "
            "must be 0 or between 1e-330 and 1e330 in size; give a number within that range",
        ),
        (
            TOML.replace("tangent_s", "tangents_s"),
            "{path}: layers[1].tangents_s is 2: there is no such key; "
            "remove it or correct its spelling",
        ),
    ],
)
def test_a_bad_toml_file_is_one_clear_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "net.toml"
    path.write_text(text, "utf-8")
    assert refusal(path) == line.format(path=path)


def test_times_that_are_not_stated_have_defaults() -> None:
    layer = Layer("a", Fraction(3), Fraction(5))
    assert (layer.tangent_time_s, layer.backward_input_time_s) == (3, Fraction(5, 2))
    stated = replace(layer, tangent_s=Fraction(0), backward_input_s=Fraction(0))
    assert (stated.tangent_time_s, stated.backward_input_time_s) == (0, 0)


def in_layer(**changes: object) -> Callable[[Document], None]:
    return lambda content: content["layers"][0].update(changes)


def at_top(**changes: object) -> Callable[[Document], None]:
    return lambda content: content.update(changes)


def without(key: str) -> Callable[[Document], None]:
    return lambda content: content.pop(key)


POSITIVE_NUMBER = 'must be a number; give one such as 0.25, 1e-3 or "1/3"'
WHOLE = "must be a whole number; give one without point and exponent"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (without("schema"), "schema is 'missing': the key is required; add it"),
        (
            at_top(schema="gradlag.trace/1"),
            "schema is 'gradlag.trace/1': must be 'gradlag.workload/1'; correct it in the file",
        ),
        (without("layers"), "layers is 'missing': the key is required; add it"),
        (at_top(layers=[]), "layers is '[]': must not be empty; give at least one entry"),
        (at_top(layers={}), "layers is '{}': must be a list; put it in brackets"),
        (at_top(layers=[1]), "layers[0] is 1: must be an object; put it in braces"),
        (
            at_top(layers=[{"name": "a", "forward_s": 0, "backward_s": 0, "update_s": 1}]),
            "layers is 'without duration': forward_s and backward_s must be more than 0 "
            "in at least one layer; give the measured times",
        ),
        (at_top(name=""), "name is '': must not be empty; give at least one character"),
        (at_top(name=3), "name is 3: must be a string; put it in quotes"),
        (at_top(note=None), "note is 'null': must be a string; put it in quotes"),
        (at_top(batch_size=True), f"batch_size is 'true': {WHOLE}"),
        (
            at_top(batch_size=0),
            "batch_size is 0: must be greater than or equal to 1; correct it in the file",
        ),
        (
            at_top(batchsize=8),
            "batchsize is 8: there is no such key; remove it or correct its spelling",
        ),
        (
            at_top(**{"batch size\n": [1, "x\n" * 50]}),
            "['batch size\\n'] is '[1, \"" + "x\\n" * 17 + "x...': "
            "there is no such key; remove it or correct its spelling",
        ),
        (
            in_layer(forward_s=-0.5),
            "layers[0].forward_s is -0.5: must not be negative; give 0 or more",
        ),
        (
            in_layer(forward_s=float("nan")),
            "layers[0].forward_s is nan: must be finite; give a finite number",
        ),
        (
            in_layer(backward_s=float("inf")),
            "layers[0].backward_s is inf: must be finite; give a finite number",
        ),
        (in_layer(update_s="0.1"), f"layers[0].update_s is '0.1': {POSITIVE_NUMBER}"),
        (in_layer(update_s="-1/3"), f"layers[0].update_s is '-1/3': {POSITIVE_NUMBER}"),
        (in_layer(update_s=False), f"layers[0].update_s is 'false': {POSITIVE_NUMBER}"),
        (in_layer(update_s=None), f"layers[0].update_s is 'null': {POSITIVE_NUMBER}"),
        (
            in_layer(update_s="1/0"),
            "layers[0].update_s is '1/0': must not divide by zero; give another denominator",
        ),
        (in_layer(activation_bytes=1.0), f"layers[0].activation_bytes is 1.0: {WHOLE}"),
        (
            in_layer(saved_bytes=-1),
            "layers[0].saved_bytes is -1: must be greater than or equal to 0; "
            "correct it in the file",
        ),
        (
            in_layer(parameter_bytes=2**53 + 1),
            "layers[0].parameter_bytes is 9007199254740993: "
            "must be less than or equal to 9007199254740992; correct it in the file",
        ),
        (
            in_layer(backward_input_s=0.5),
            "layers[0].backward_input_s is 0.5: must be at most backward_s, of which it is a "
            "part; give less, or leave it out",
        ),
        (
            at_top(optimizer_states=-1),
            "optimizer_states is -1: must be greater than or equal to 0; correct it in the file",
        ),
        (
            in_layer(speed=1),
            "layers[0].speed is 1: there is no such key; remove it or correct its spelling",
        ),
    ],
)
def test_a_bad_document_is_one_clear_line(
    tmp_path: Path, change: Callable[[Document], None], line: str
) -> None:
    content = document()
    change(content)
    path = written(tmp_path, json.dumps(content))
    assert refusal(path) == f"{path}: {line}"


@pytest.mark.parametrize(
    ("number", "shown"),
    [("1e999999999", "1e+999999999"), ("-1e-9999", "-1e-9999"), ("1" + "0" * 400, "1.00e+400")],
)
def test_a_number_without_measure_is_refused(tmp_path: Path, number: str, shown: str) -> None:
    path = written(tmp_path, json.dumps(document()).replace("0.1", number))
    assert refusal(path) == (
        f"{path}: layers[0].forward_s is '{shown}': "
        "must be 0 or between 1e-330 and 1e330 in size; give a number within that range"
    )


def test_only_the_first_problem_is_named(tmp_path: Path) -> None:
    content = {**document(), "schema": "x", "name": 1, "unknown": 0}
    assert "schema is 'x'" in refusal(written(tmp_path, json.dumps(content)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ('{"schema": }', "Expecting value: line 1 column 12 (char 11)"),
        ("[1e9999999999999999999]", "1e9999999999999999999 is out of range"),
    ],
)
def test_a_file_that_is_not_json(tmp_path: Path, text: str, reason: str) -> None:
    path = written(tmp_path, text)
    assert refusal(path) == f"file is '{path}': must be JSON ({reason}); correct the file"


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b'{"schema": 1' + b"0" * 5000 + b"}"])
def test_a_hostile_file_is_one_line_as_well(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.json"
    path.write_bytes(content)
    line = refusal(path)
    assert line.startswith(f"file is '{path}': must be JSON (")
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(("text", "shown"), [("[]", "'[]'"), ("3", "3"), ("null", "'null'")])
def test_a_document_must_be_an_object(tmp_path: Path, text: str, shown: str) -> None:
    path = written(tmp_path, text)
    assert refusal(path) == f"{path} is {shown}: must be an object; put it in braces"


@pytest.mark.parametrize(
    ("name", "reason"), [("none.json", "No such file or directory"), ("", "Is a directory")]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / name
    assert refusal(path) == f"file is '{path}': must be readable ({reason}); check the path"


def test_the_json_schema_states_keys_and_defaults() -> None:
    schema = workload_json_schema()
    assert schema["properties"]["schema"]["const"] == "gradlag.workload/1"
    assert schema["required"] == ["schema", "name", "layers"]
    layer = schema["$defs"]["LayerFile"]
    assert list(layer["properties"]) == list(Layer.__dataclass_fields__)
    assert layer["properties"]["update_s"]["default"] == 0
    assert layer["properties"]["tangent_s"]["default"] is None
    assert layer["additionalProperties"] is False


@given(
    st.integers(1, 50),
    st.fractions(min_value=0).filter(bool),
    st.fractions(min_value=0),
    st.fractions(min_value=0),
)
def test_even_layers_sum_to_the_whole(
    layers: int, forward: Fraction, ratio: Fraction, update: Fraction
) -> None:
    workload = Workload.even(layers, forward, ratio, update)
    assert len({layer.forward_s for layer in workload.layers}) == 1
    assert len(workload.layers) == layers
    assert workload.forward_s == forward
    assert workload.backward_s == forward * ratio
    assert workload.update_s == update
    assert workload.sequential_s(7) == 7 * (forward + forward * ratio + update)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((0, 1, 2, 0), "layers is 0: must be at least 1; give 1 or more"),
        ((1, 0, 2, 0), "forward time is 0: must be more than 0; give a positive number"),
        (
            (1, "x", 2, 0),
            "forward time is 'x': must be a number; give one such as 0.25, 1e-3 or 1/3",
        ),
        ((1, 1, -2, 0), "backward ratio is -2: must not be negative; give 0 or more"),
        ((1, 1, 2, -0.5), "update time is -0.5: must not be negative; give 0 or more"),
    ],
)
def test_even_refuses(arguments: tuple[int, Number, Number, Number], line: str) -> None:
    with pytest.raises(InputError) as caught:
        Workload.even(*arguments)
    assert str(caught.value) == line
