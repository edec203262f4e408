"""Profiles of PipeDream (`graph.txt`) as workloads.

A profile is a graph of operators; a workload is a chain of layers. The operators are put in an
order in which each comes after those that it needs, and of several that may come next the one that
was recorded first does. What a cut between two layers carries is then what operators before it
have made and operators behind it need, every tensor once: where branches run side by side, or a
skip connection passes over the cut, that is more than the output of the layer before the cut.

Format: `graph/graph.py` and `optimizer/optimizer_graph_hierarchical.py` of PipeDream (Narayanan et
al. 2019, github.com/msr-fiddle/pipedream). Times are milliseconds, sizes bytes, for one batch.
"""

import heapq
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

from simcore.border import non_negative
from simcore.errors import InputError
from simcore.interop.texts import read_text
from simcore.workload import Layer, Workload

__all__ = ["load_pipedream"]

_NODE: Final = re.compile(r"(\S+) -- (.*?) -- (forward_compute_time=.*?)(?: -- stage_id=\d+)?")
_EDGE: Final = re.compile(r"(\S+) -- (\S+)")
_KEYS: Final = (
    "forward_compute_time",
    "backward_compute_time",
    "activation_size",
    "parameter_size",
)


@dataclass(frozen=True, slots=True)
class _Operator:
    """An operator of the graph; `needs` are those whose outputs it takes."""

    what: str
    forward_s: Fraction
    backward_s: Fraction
    output_bytes: int
    parameter_bytes: int
    needs: tuple[str, ...] = ()

    @property
    def is_input(self) -> bool:
        """Whether it stands for the data: its time is that of loading."""
        return self.what.startswith("Input") and not self.needs

    @property
    def is_element(self) -> bool:
        """Whether it takes one of several outputs of another: a tensor, but no computation."""
        return self.what.startswith("__getitem__") and len(self.needs) == 1


def load_pipedream(path: str | os.PathLike[str]) -> Workload:
    """Read a PipeDream profile: a layer for each operator, named after it.

    An output that is taken apart (`__getitem__`) counts only those parts that are needed.
    Inputs are no layers: `input_bytes` is their size and `load_s` their time. `saved_bytes` is the
    output alone, as the profile says no more.

    Raises:
        InputError: names file and line of the first problem; a graph with a cycle, without time.
    """
    operators = _read(path)
    order = _order(operators, path)
    layers = [name for name in order if _is_layer(operators[name])]
    carried = _carried(operators, layers)
    workload = Workload(
        name=Path(path).stem,
        layers=tuple(
            Layer(
                name=f"{name} {operators[name].what.partition('(')[0]}",
                forward_s=operators[name].forward_s,
                backward_s=operators[name].backward_s,
                activation_bytes=size,
                parameter_bytes=operators[name].parameter_bytes,
                saved_bytes=operators[name].output_bytes,
            )
            for name, size in zip(layers, carried, strict=True)
        ),
        input_bytes=sum(each.output_bytes for each in operators.values() if each.is_input),
        load_s=sum((each.forward_s for each in operators.values() if each.is_input), Fraction(0)),
        note="a PipeDream profile; a cut carries every tensor that is needed behind it",
    )
    if not workload.forward_s + workload.backward_s:
        raise InputError(f"{path}", "without duration", "must have times", "profile the network")
    return workload


def _is_layer(operator: _Operator) -> bool:
    return not (operator.is_input or operator.is_element)


def _read(path: str | os.PathLike[str]) -> dict[str, _Operator]:
    found: dict[str, tuple[str, str, str]] = {}
    needs: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        where, text = f"{path}: line {number}", line.strip()
        if not text:
            continue
        if node := _NODE.fullmatch(text):
            name, what, figures = node.groups()
            if name in found:
                raise InputError(where, name, "must name a new node", "remove one of the two")
            found[name] = (what, figures, where)
            needs.setdefault(name, [])
        elif line[0].isspace() and (edge := _EDGE.fullmatch(text)):
            needs.setdefault(edge[2], []).append(edge[1])
        else:
            rule = "must be a node with its figures, or an edge"
            raise InputError(where, text[:60], rule, "give a graph.txt of PipeDream's profiler")
    for name in (*needs, *(each for sources in needs.values() for each in sources)):
        if name not in found:
            raise InputError(f"{path}", name, "is in an edge but no node", "add the node")
    return {
        name: _operator(what, figures, tuple(needs[name]), where)
        for name, (what, figures, where) in found.items()
    }


def _operator(what: str, figures: str, needs: tuple[str, ...], where: str) -> _Operator:
    values = dict(figure.partition("=")[::2] for figure in figures.split(", "))
    for key in _KEYS:
        if key not in values:
            raise InputError(f"{where}: {key}", "missing", "the figure is required", "add it")
    forward_ms, backward_ms = (non_negative(values[key], f"{where}: {key}") for key in _KEYS[:2])
    output, parameters = (
        sum(non_negative(part, f"{where}: {key}") for part in values[key].strip("[]").split(";"))
        for key in _KEYS[2:]
    )
    return _Operator(
        what, forward_ms / 1000, backward_ms / 1000, round(output), round(parameters), needs
    )


def _order(operators: Mapping[str, _Operator], path: str | os.PathLike[str]) -> list[str]:
    """Every operator after those that it needs; of several the one with the lowest number first."""
    users: dict[str, list[str]] = {name: [] for name in operators}
    missing = {name: len(set(operator.needs)) for name, operator in operators.items()}
    for name, operator in operators.items():
        for needed in set(operator.needs):
            users[needed].append(name)
    ready = [_recorded(name) for name, count in missing.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        name = heapq.heappop(ready)[-1]
        order.append(name)
        for user in users[name]:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, _recorded(user))
    if len(order) < len(operators):
        stuck = next(name for name, count in missing.items() if count)
        raise InputError(f"{path}", stuck, "must not need its own output", "break the cycle")
    return order


def _recorded(name: str) -> tuple[int, str]:
    """A key that puts node9 before node10."""
    digits = re.search(r"\d+$", name)
    return int(digits[0]) if digits else 0, name


def _carried(operators: Mapping[str, _Operator], layers: list[str]) -> list[int]:
    """Bytes that a cut behind each layer carries; behind the last, its output."""
    place = {name: number for number, name in enumerate(layers)}

    def made_at(name: str) -> int:
        while operators[name].is_element:
            (name,) = operators[name].needs
        return place.get(name, -1)

    used_last: dict[str, int] = {}
    for number, name in enumerate(layers):
        for needed in operators[name].needs:
            used_last[needed] = number
    carried = [0] * len(layers)
    for name, last in used_last.items():
        for number in range(max(0, made_at(name)), last):
            carried[number] += operators[name].output_bytes
    return [*carried[:-1], operators[layers[-1]].output_bytes] if layers else []
