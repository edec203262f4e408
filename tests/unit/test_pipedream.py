"""PipeDream's profiles: operators in order, and what a cut between them carries."""

from fractions import Fraction
from pathlib import Path

import pytest

from simcore.errors import InputError
from simcore.interop.pipedream import load_pipedream


def node(name: str, what: str, forward: float = 1, size: str = "10.0", parameters: int = 0) -> str:
    return (
        f"{name} -- {what} -- forward_compute_time={forward:.3f}, backward_compute_time=2.500, "
        f"activation_size={size}, parameter_size={parameters:.3f}"
    )


def written(folder: Path, *lines: str) -> Path:
    path = folder / "graph.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def sizes(path: Path) -> dict[str, int]:
    return {layer.name: layer.activation_bytes for layer in load_pipedream(path).layers}


def test_a_chain_in_milliseconds_and_bytes(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        node("node10", "Linear(in_features=4, out_features=2, bias=True)", 0.25, "8.0", 40),
        node("node9", "ReLU(inplace)", 0.5, "16.0") + " -- stage_id=0",
        node("node1", "Input", 400, "100.0"),
        "\tnode1 -- node9",
        "\tnode9 -- node10",
    )
    workload = load_pipedream(path)
    assert [layer.name for layer in workload.layers] == ["node9 ReLU", "node10 Linear"]
    first, last = workload.layers
    assert (first.forward_s, first.backward_s) == (Fraction(1, 2000), Fraction(1, 400))
    assert (first.activation_bytes, last.activation_bytes) == (16, 8)
    assert (first.parameter_bytes, last.parameter_bytes) == (0, 40)
    assert (last.saved_bytes, workload.input_bytes, workload.load_s) == (8, 100, Fraction(2, 5))


def test_a_cut_carries_each_tensor_that_is_needed_behind_it_once(tmp_path: Path) -> None:
    # node1 is needed by node2 and, past it, by node3 and node4: a skip connection.
    path = written(
        tmp_path,
        node("node1", "Conv2d(3, 64)", size="100.0"),
        node("node2", "Conv2d(64, 64)", size="7.0"),
        node("node3", "Conv2d(64, 64)", size="3.0"),
        node("node4", "Add(inplace)", size="2.0"),
        *("\tnode1 -- node2", "\tnode1 -- node3", "\tnode1 -- node4"),
        *("\tnode2 -- node4", "\tnode3 -- node4"),
    )
    assert list(sizes(path).values()) == [100, 107, 110, 2]


def test_of_an_output_of_several_parts_only_the_needed_ones_travel(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        node("node1", "LSTM(2048, 1024)", size="[64.0; 8.0; 9.0]"),
        node("node2", "__getitem__(0)", 0, "64.0"),
        node("node3", "__getitem__(1)", 0, "8.0"),
        node("node4", "Dropout(p=0.2)", size="64.0"),
        node("node5", "Add", size="64.0"),
        *("\tnode1 -- node2", "\tnode1 -- node3", "\tnode2 -- node4"),
        *("\tnode4 -- node5", "\tnode3 -- node5"),
    )
    assert sizes(path) == {"node1 LSTM": 72, "node4 Dropout": 72, "node5 Add": 64}
    assert load_pipedream(path).layers[0].saved_bytes == 81


def test_every_operator_comes_after_those_that_it_needs(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        *(node(f"node{number}", f"Layer{number}") for number in (12, 2, 7, 3)),
        *("\tnode12 -- node3", "\tnode2 -- node7", "\tnode7 -- node3"),
    )
    assert [name.split()[0] for name in sizes(path)] == ["node2", "node7", "node12", "node3"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["node1 -- Linear"], "line 1 is 'node1 -- Linear': must be a node with its figures, or"),
        ([node("node1", "A"), node("node1", "B")], "line 2 is 'node1': must name a new node"),
        ([node("node1", "A"), "\tnode1 -- node2"], "is 'node2': is in an edge but no node"),
        (
            [node("node1", "A"), node("node2", "B"), "\tnode1 -- node2", "\tnode2 -- node1"],
            "is 'node1': must not need its own output; break the cycle",
        ),
        ([node("node1", "A", size="x")], "line 1: activation_size is 'x': must be a number"),
        ([node("node1", "A", -1)], "forward_compute_time is '-1.000': must not be negative"),
        (
            ["node1 -- A -- forward_compute_time=1.0, activation_size=1"],
            "line 1: backward_compute_time is 'missing': the figure is required",
        ),
        ([node("node1", "Input")], "is 'without duration': must have times"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_pipedream(written(tmp_path, *lines))
