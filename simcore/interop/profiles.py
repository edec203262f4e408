"""Chrome traces, those of torch.profiler above all, as workloads.

What a trace must have: slices named `forward NAME`, one for each layer and pass; the layers of the
workload are these names in the order in which they first run. In PyTorch that is
`record_function("forward NAME")` around a layer's call. The rest is read in one of two ways:

- slices named `backward NAME` and `update NAME` say what these took;
- otherwise autograd's own records do (`simcore.interop.autograd`). Operations outside of the marked
  slices, such as the loss, count to the layer before them. What an optimiser took
  (`Optimizer.step`) is shared among the layers by their parameters' bytes.

If kernels of a device were recorded, a layer takes the time of the kernels that its operations have
launched, else the time of its operations. Times are medians over the recorded passes. A pass begins
with the first layer's forward slice; those without backward pass do not count.

Sizes need `record_shapes=True`: parameters are what gradients are accumulated for, the output of a
layer is as large as the gradient that its first backward function is given, and of what a layer
keeps for its backward pass only the output is known.
"""

import os
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from pathlib import Path
from statistics import median
from typing import Final

from simcore.errors import InputError
from simcore.interop.autograd import ACCUMULATE, FUNCTION, Autograd, Mark
from simcore.interop.slices import Slice, load_slices, outermost
from simcore.workload import Layer, Workload

__all__ = ["load_profile"]

_MARK: Final = re.compile(r"(forward|backward|update) (.+)")
_OPTIMIZER: Final = "Optimizer.step"
_COPY: Final = "gpu_user_annotation"  # PyTorch repeats the slices of the host on the device
_DEVICE: Final = ("kernel", "gpu_memcpy", "gpu_memset")
_NANOSECONDS: Final = 10**9  # per second
_ITEM_BYTES: Final = {
    "double": 8,
    "long int": 8,
    "float": 4,
    "int": 4,
    "c10::Half": 2,
    "c10::BFloat16": 2,
    "unsigned char": 1,
    "signed char": 1,
    "bool": 1,
}


@dataclass(slots=True)
class _Sums:
    """What a layer took in each pass, in nanoseconds by kind, and how large it is, in bytes."""

    taken: dict[str, dict[int, float]] = field(
        default_factory=lambda: {kind: {} for kind in ("forward", "backward", "update")}
    )
    parameters: dict[int, int] = field(default_factory=dict)
    output: int = 0

    def seconds(self, kind: str, passes: Sequence[int]) -> Fraction:
        """The median over those of these passes that did it, rounded to nanoseconds."""
        taken = [self.taken[kind][each] for each in passes if each in self.taken[kind]]
        return Fraction(round(median(taken or [0])), _NANOSECONDS)


def load_profile(path: str | os.PathLike[str]) -> Workload:
    """Read a Chrome trace: a layer for each name that is marked `forward NAME`.

    Raises:
        InputError: no layer is marked, several threads mark layers, or no backward pass is found.
    """
    slices = load_slices(path)
    # What is marked within a backward function, as in recomputation, is part of the function.
    busy = outermost(each for each in slices if _is_work(each))
    marks = _marks(busy)
    forwards = [mark for mark in marks if mark.kind == "forward"]
    if not forwards:
        rule = "must have slices named 'forward NAME', one for each layer"
        raise InputError(f"{path}", "without layers", rule, "mark them with record_function")
    if len({mark.slice.thread for mark in forwards}) > 1:
        rule = "must have the 'forward NAME' slices of all layers on one thread"
        raise InputError(f"{path}", "of several threads", rule, "record one worker alone")
    names = list(dict.fromkeys(mark.layer for mark in forwards))
    passes = [mark.slice.start for mark in forwards if mark.layer == names[0]]
    sums = {name: _Sums() for name in ("", *names)}
    autograd = Autograd.of(slices, forwards)
    functions = autograd.functions(busy)
    work = [*marks, *functions, *autograd.unmarked(slices, functions)]
    _add_times(sums, work, slices, passes)
    _add_sizes(sums, autograd, slices, functions, passes)
    complete = [
        number
        for number in range(len(passes))
        if any(number in own.taken["backward"] for own in sums.values())
    ]
    if not complete:
        rule = "must have a backward pass: autograd's functions, or slices named 'backward NAME'"
        raise InputError(f"{path}", "without backward pass", rule, "record whole training steps")
    return Workload(
        Path(path).name.partition(".")[0],
        _layers(names, sums, complete),
        input_bytes=_input_bytes(slices, forwards[0].slice),
        note=f"from a profiler's trace, medians of {len(complete)} passes",
    )


def _is_work(slice: Slice) -> bool:
    name = slice.name
    named = _MARK.fullmatch(name) or name.startswith((FUNCTION, _OPTIMIZER))
    return bool(named) and slice.category != _COPY


def _marks(slices: Iterable[Slice]) -> list[Mark]:
    """What a slice's name says of it; an optimiser's steps are of all layers."""
    found = []
    for slice in slices:
        if match := _MARK.fullmatch(slice.name):
            found.append(Mark(match[1], match[2], slice))
        elif slice.name.startswith(_OPTIMIZER):
            found.append(Mark("update", "", slice))
    return found


def _layers(
    names: Sequence[str], sums: Mapping[str, _Sums], passes: Sequence[int]
) -> tuple[Layer, ...]:
    optimizer_s = sums[""].seconds("update", passes)
    sizes = {name: int(median(sums[name].parameters.values() or [0])) for name in names}
    whole = sum(sizes.values())
    layers = []
    for name in names:
        own = sums[name]
        share = Fraction(sizes[name], whole) if whole else Fraction(1, len(names))
        update_s = own.seconds("update", passes) + optimizer_s * share
        layers.append(
            Layer(
                name=name,
                forward_s=own.seconds("forward", passes),
                backward_s=own.seconds("backward", passes),
                update_s=Fraction(round(update_s * _NANOSECONDS), _NANOSECONDS),
                activation_bytes=own.output,
                parameter_bytes=sizes[name],
                saved_bytes=own.output,
            )
        )
    return tuple(layers)


def _add_times(
    sums: Mapping[str, _Sums], work: Sequence[Mark], slices: Sequence[Slice], passes: list[float]
) -> None:
    """Add what each piece of work took: its kernels on the device if there are any, else itself."""
    kernels = [each for each in slices if each.category in _DEVICE]
    launched = _launched(work, slices) if kernels else {}
    timed = [
        (launched[number], kernel)
        for kernel in kernels
        if (number := kernel.arguments.get("correlation")) in launched
    ] or [(each, each.slice) for each in work]
    for mark, slice in timed:
        if mark.layer in sums:
            taken = sums[mark.layer].taken[mark.kind]
            number = bisect_right(passes, mark.slice.start) - 1
            taken[number] = taken.get(number, 0) + slice.end - slice.start


def _launched(work: Sequence[Mark], slices: Iterable[Slice]) -> dict[object, Mark]:
    """The work that each launch of a kernel is part of, by the number that both of them have."""
    by_thread: dict[tuple[str, str], list[Mark]] = defaultdict(list)
    for mark in sorted(work, key=lambda mark: mark.slice.start):
        by_thread[mark.slice.thread].append(mark)
    starts = {key: [mark.slice.start for mark in marks] for key, marks in by_thread.items()}
    launched: dict[object, Mark] = {}
    for slice in slices:
        if "correlation" in slice.arguments and slice.thread in starts:
            number = bisect_right(starts[slice.thread], slice.start) - 1
            mark = by_thread[slice.thread][max(0, number)]
            if mark.slice.start <= slice.start < mark.slice.end:
                launched[slice.arguments["correlation"]] = mark
    return launched


def _add_sizes(
    sums: Mapping[str, _Sums],
    autograd: Autograd,
    slices: Iterable[Slice],
    functions: Iterable[Mark],
    passes: list[float],
) -> None:
    layer_of = {id(mark.slice): mark.layer for mark in functions}
    layer: str | None = None
    for slice in slices:
        layer = layer_of.get(id(slice), layer)
        if slice.name == ACCUMULATE and layer is not None:
            parameters = sums[layer].parameters
            number = bisect_right(passes, slice.start) - 1
            parameters[number] = parameters.get(number, 0) + _bytes(slice, 0)
        elif (name := autograd.layer_of(slice, inside=True)) and not sums[name].output:
            sums[name].output = _bytes(slice, 0)


def _input_bytes(slices: Iterable[Slice], first: Slice) -> int:
    """The size of the first tensor that the first layer works on."""
    within = (
        each
        for each in slices
        if each.thread == first.thread and first.start <= each.start < first.end
    )
    # An embedding is given its weights first.
    sizes = (_bytes(each, 1 if each.name == "aten::embedding" else 0) for each in within)
    return next((size for size in sizes if size), 0)


def _bytes(slice: Slice, argument: int) -> int:
    """The size of a tensor argument, 0 if it is none or shapes were not recorded."""
    dimensions = slice.arguments.get("Input Dims", ())
    kinds = slice.arguments.get("Input type", ())
    if argument >= min(len(dimensions), len(kinds)) or not dimensions[argument]:
        return 0
    return int(prod(dimensions[argument])) * _ITEM_BYTES.get(kinds[argument], 0)
