"""What a network costs: time and memory of each layer, for one batch."""

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from simcore.border import (
    Amount,
    Bytes,
    Count,
    FileModel,
    Name,
    Seconds,
    dump_json,
    json_schema_of,
    non_negative,
    positive,
    read_model,
)
from simcore.errors import InputError
from simcore.ticks import Number

__all__ = ["Layer", "Workload", "dump_workload", "load_workload", "workload_json_schema"]


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer costs for one batch, in seconds and bytes.

    `activation_bytes` is the size of its output, which travels to the next layer; the gradient that
    travels back has the same size. `saved_bytes` is what its forward keeps for its backward.

    What only some schedules do:

    * `tangent_s`: a forward pass together with its Jacobian-vector product (None: `forward_s`), and
      `project_s`: the product of a kept tangent with a scalar;
    * `backward_input_s`: the part of `backward_s` for the gradient of the input (None: half);
    * `auxiliary_s` and `auxiliary_bytes`: time and parameters of what makes a gradient on the spot,
      a local loss, a synthesiser or a random projection;
    * `merge_s`: adding what other replicas have learned to the weights.
    """

    name: str
    forward_s: Fraction
    backward_s: Fraction
    update_s: Fraction = Fraction(0)
    activation_bytes: int = 0
    parameter_bytes: int = 0
    saved_bytes: int = 0
    tangent_s: Fraction | None = None
    backward_input_s: Fraction | None = None
    project_s: Fraction = Fraction(0)
    auxiliary_s: Fraction = Fraction(0)
    auxiliary_bytes: int = 0
    merge_s: Fraction = Fraction(0)

    @property
    def tangent_time_s(self) -> Fraction:
        """Time of a forward pass with its Jacobian-vector product, in seconds."""
        return self.forward_s if self.tangent_s is None else self.tangent_s

    @property
    def backward_input_time_s(self) -> Fraction:
        """Time of the part of the backward pass for the gradient of the input, in seconds."""
        return self.backward_s / 2 if self.backward_input_s is None else self.backward_input_s


@dataclass(frozen=True, slots=True)
class Workload:
    """The layers of a network, from the data to the loss.

    `input_bytes` is the size of one batch of data and `load_s` the time to get it from storage.
    `optimizer_states` is how many tensors the optimiser keeps for each parameter, dimensionless: 0
    for plain stochastic gradient descent, 1 with momentum, 2 for Adam. `note` says where the
    figures come from.
    """

    name: str
    layers: tuple[Layer, ...]
    batch_size: int | None = None
    input_bytes: int = 0
    note: str = ""
    load_s: Fraction = Fraction(0)
    optimizer_states: int = 0

    @classmethod
    def even(
        cls,
        layers: int,
        forward_s: Number = 1,
        backward_ratio: Number = 2,
        update_s: Number = 0,
    ) -> Self:
        """A network of equal layers. The times are those of the whole network.

        `backward_ratio` is the time of a backward pass over that of a forward pass, dimensionless.

        >>> Workload.even(3, forward_s=0.1).layers[2].forward_s
        Fraction(1, 30)

        Raises:
            InputError: no layer, no forward time, or a negative time or ratio.
        """
        if layers < 1:
            raise InputError("layers", layers, "must be at least 1", "give 1 or more")
        forward = positive(forward_s, "forward time") / layers
        backward = forward * non_negative(backward_ratio, "backward ratio")
        update = non_negative(update_s, "update time") / layers
        return cls(
            name=f"{layers} even layers",
            layers=tuple(
                Layer(f"layer{number}", forward, backward, update)
                for number in range(1, layers + 1)
            ),
        )

    @property
    def forward_s(self) -> Fraction:
        """Forward time of the whole network for one batch, in seconds."""
        return sum((layer.forward_s for layer in self.layers), Fraction(0))

    @property
    def backward_s(self) -> Fraction:
        """Backward time of the whole network for one batch, in seconds."""
        return sum((layer.backward_s for layer in self.layers), Fraction(0))

    @property
    def update_s(self) -> Fraction:
        """Time of one update of the whole network, in seconds."""
        return sum((layer.update_s for layer in self.layers), Fraction(0))

    def sequential_s(self, batches: int, batches_per_update: int = 1) -> Fraction:
        """Time of plain backpropagation of so many batches on one worker, in seconds.

        >>> workload = Workload.even(4, forward_s=1, backward_ratio=2, update_s=0.5)
        >>> workload.sequential_s(10), workload.sequential_s(10, batches_per_update=4)
        (Fraction(35, 1), Fraction(63, 2))
        """
        updates = -(-batches // batches_per_update)
        return batches * (self.forward_s + self.backward_s) + updates * self.update_s


class LayerFile(FileModel):
    """One layer. Times in seconds and sizes in bytes, for one batch.

    A tangent_s of null is forward_s, a backward_input_s of null half of backward_s.
    """

    name: Name
    forward_s: Seconds
    backward_s: Seconds
    update_s: Seconds = Fraction(0)
    activation_bytes: Bytes = 0
    parameter_bytes: Bytes = 0
    saved_bytes: Bytes = 0
    tangent_s: Seconds | None = None
    backward_input_s: Seconds | None = None
    project_s: Seconds = Fraction(0)
    auxiliary_s: Seconds = Fraction(0)
    auxiliary_bytes: Bytes = 0
    merge_s: Seconds = Fraction(0)

    @model_validator(mode="after")
    def _input_gradient_is_a_part(self) -> Self:
        part = self.backward_input_s
        if part is not None and part > self.backward_s:
            rule = "must be at most backward_s, of which it is a part"
            raise InputError("backward_input_s", float(part), rule, "give less, or leave it out")
        return self


class WorkloadFile(FileModel):
    """What a network costs, layer by layer from the data to the loss."""

    schema_: Literal["gradlag.workload/1"] = Field(alias="schema")
    name: Name
    layers: Annotated[tuple[LayerFile, ...], Field(min_length=1)]
    batch_size: Count | None = None
    input_bytes: Bytes = 0
    note: Annotated[str, Field(strict=True)] = ""
    load_s: Seconds = Fraction(0)
    optimizer_states: Amount = 0

    @model_validator(mode="after")
    def _takes_time(self) -> Self:
        if not any(layer.forward_s or layer.backward_s for layer in self.layers):
            rule = "forward_s and backward_s must be more than 0 in at least one layer"
            raise InputError("layers", "without duration", rule, "give the measured times")
        return self


def load_workload(path: str | os.PathLike[str]) -> Workload:
    """Read a workload file: TOML if its name ends in .toml, else JSON.

    Decimals are exact; a string such as "1/3" is an exact ratio.

    Raises:
        InputError: names file, key, value, rule and remedy of the file's first problem.
    """
    content = read_model(path, WorkloadFile)
    return Workload(
        name=content.name,
        layers=tuple(Layer(**dict(layer)) for layer in content.layers),
        batch_size=content.batch_size,
        input_bytes=content.input_bytes,
        note=content.note,
        load_s=content.load_s,
        optimizer_states=content.optimizer_states,
    )


def dump_workload(workload: Workload, path: str | os.PathLike[str]) -> None:
    """Write a workload file, whole or not at all; `load_workload` reads an equal workload back.

    Raises:
        InputError: the file cannot be written.
    """
    dump_json(path, "gradlag.workload/1", workload)


def workload_json_schema() -> dict[str, Any]:
    """The JSON Schema of workload files."""
    return json_schema_of(WorkloadFile)
