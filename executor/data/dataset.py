"""Samples, and the order of their mini-batches, which is the same for every schedule."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, final

import numpy as np
import torch

from simcore.errors import InputError

__all__ = ["Contents", "DataSet", "Inputs"]


class Inputs(ABC):
    """Inputs of samples that are made when they are asked for, indexed like a tensor.

    `shape` is (samples, features...), `dtype` that of the tensors that indexing gives.
    """

    shape: torch.Size
    dtype: torch.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        """Number of dimensions, with that of the samples."""
        return len(self.shape)

    @abstractmethod
    def __getitem__(self, chosen: slice | torch.Tensor) -> torch.Tensor:
        """The chosen samples as they are when a network is tested: (chosen, features...)."""

    def in_training(self, chosen: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
        """The chosen samples as an epoch of training sees them; the same for the same arguments."""
        return self[chosen]


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What a data set consists of: inputs (samples, features...), whole labels (samples,).

    `vocabulary` is how many different whole numbers inputs can be, or None for real numbers.
    """

    inputs: torch.Tensor | Inputs
    labels: torch.Tensor
    test_inputs: torch.Tensor | Inputs
    test_labels: torch.Tensor
    classes: int
    vocabulary: int | None = None


class _Facts(NamedTuple):
    """What is known of a data set without its samples."""

    samples: int
    sample_shape: tuple[int, ...]
    dtype: torch.dtype
    classes: int
    vocabulary: int | None

    @classmethod
    def of(cls, contents: Contents) -> "_Facts":
        inputs = contents.inputs
        kinds = contents.classes, contents.vocabulary
        return cls(len(inputs), tuple(inputs.shape[1:]), inputs.dtype, *kinds)


@final
class DataSet:
    """Training and test samples: inputs (samples, features...) and integer labels (samples,).

    Made from tensors, it is pickled with them. Made by `reading`, it is pickled as the way to read
    it: the copy in another process reads the samples when it needs the first of them, if ever.
    """

    def __init__(
        self,
        name: str,
        inputs: torch.Tensor | Inputs,
        labels: torch.Tensor,
        test_inputs: torch.Tensor | Inputs,
        test_labels: torch.Tensor,
        classes: int,
        vocabulary: int | None = None,
    ) -> None:
        contents = Contents(inputs, labels, test_inputs, test_labels, classes, vocabulary)
        self._fill(name, None, _Facts.of(contents), contents)

    def _fill(
        self,
        name: str,
        read: Callable[[], Contents] | None,
        facts: _Facts,
        contents: Contents | None,
    ) -> None:
        self.name, self._read, self._facts, self._contents = name, read, facts, contents

    @classmethod
    def reading(cls, name: str, read: Callable[[], Contents]) -> "DataSet":
        """The data set that `read`, which can be pickled, reads: now, and again in its copies."""
        contents = read()
        return cls._made(name, read, _Facts.of(contents), contents)

    @classmethod
    def _made(
        cls,
        name: str,
        read: Callable[[], Contents],
        facts: _Facts,
        contents: Contents | None = None,
    ) -> "DataSet":
        made = cls.__new__(cls)
        made._fill(name, read, facts, contents)
        return made

    def __reduce__(self) -> tuple[object, ...]:
        if self._read is not None:
            return DataSet._made, (self.name, self._read, self._facts)
        found = self.contents
        tensors = found.inputs, found.labels, found.test_inputs, found.test_labels
        return DataSet, (self.name, *tensors, found.classes, found.vocabulary)

    @property
    def contents(self) -> Contents:
        """The samples, read if they have not been. Raises `InputError` if they have changed."""
        if self._contents is None:
            assert self._read is not None
            found = self._read()
            if _Facts.of(found) != self._facts:
                rule = "must not change while it is used"
                raise InputError("data set", self.name, rule, "start again")
            self._contents = found
        return self._contents

    @property
    def inputs(self) -> torch.Tensor | Inputs:
        """Training inputs (samples, features...)."""
        return self.contents.inputs

    @property
    def labels(self) -> torch.Tensor:
        """Training labels (samples,)."""
        return self.contents.labels

    @property
    def test_inputs(self) -> torch.Tensor | Inputs:
        """Test inputs (samples, features...)."""
        return self.contents.test_inputs

    @property
    def test_labels(self) -> torch.Tensor:
        """Test labels (samples,)."""
        return self.contents.test_labels

    @property
    def samples(self) -> int:
        """Number of training samples; known without reading them."""
        return self._facts.samples

    @property
    def classes(self) -> int:
        """Number of classes; labels are 0 up to it."""
        return self._facts.classes

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample's input; known without reading it."""
        return self._facts.sample_shape

    @property
    def dtype(self) -> torch.dtype:
        """The type of inputs; known without reading them."""
        return self._facts.dtype

    @property
    def vocabulary(self) -> int | None:
        """How many different whole numbers inputs can be; None for real numbers."""
        return self._facts.vocabulary

    def batches_per_epoch(self, batch_size: int) -> int:
        """Mini-batches of an epoch; the last may be smaller."""
        return -(-self.samples // batch_size)

    def size_of(self, number: int, batch_size: int) -> int:
        """Number of samples of mini-batch `number`, which need not be read for it.

        Raises `InputError` if the batch size exceeds the number of samples.
        """
        if not 1 <= batch_size <= self.samples:
            raise InputError(
                "batch size",
                batch_size,
                f"must be between 1 and the {self.samples} samples of {self.name}",
                "choose a smaller one",
            )
        position = number % self.batches_per_epoch(batch_size)
        return min(batch_size, self.samples - position * batch_size)

    def batch(self, number: int, batch_size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels of mini-batch `number`; each epoch is shuffled by (seed, epoch) anew.

        Raises `InputError` if the batch size exceeds the number of samples, or files cannot be
        read.
        """
        size = self.size_of(number, batch_size)
        epoch, position = divmod(number, self.batches_per_epoch(batch_size))
        first = position * batch_size
        chosen = _order(self.samples, seed, epoch)[first : first + size]
        inputs = self.inputs
        if isinstance(inputs, Inputs):
            return inputs.in_training(chosen, seed, epoch), self.labels[chosen]
        return inputs[chosen], self.labels[chosen]

    def template(self, number: int, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Zeros in the shapes and types of mini-batch `number`, without reading anything."""
        size = self.size_of(number, batch_size)
        inputs = torch.zeros(size, *self.sample_shape, dtype=self.dtype)
        return inputs, torch.zeros(size, dtype=torch.int64)

    def examples(self, count: int = 2) -> torch.Tensor:
        """The inputs of the first training samples, as they are in tests: (count, features...)."""
        return self.inputs[:count]

    def test_batches(self, batch_size: int = 500) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs and labels of all test samples in turn, so many at once."""
        for first in range(0, len(self.test_labels), batch_size):
            chosen = slice(first, first + batch_size)
            yield self.test_inputs[chosen], self.test_labels[chosen]


@lru_cache(maxsize=4)
def _order(samples: int, seed: int, epoch: int) -> torch.Tensor:
    # torch's generator would use 32 bits of its seed only, too few for both numbers.
    seeds = np.random.SeedSequence(seed % 2**64, spawn_key=(epoch,))
    return torch.from_numpy(np.random.default_rng(seeds).permutation(samples))
