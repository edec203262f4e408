import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from executor.data import DATA_SETS, DataSet, digits, generated
from executor.training import DataSource
from simcore.errors import InputError
from simcore.ops import Item


def counting(samples: int) -> DataSet:
    """Sample i has input i and label i."""
    numbers = torch.arange(samples)
    return DataSet("counting", numbers.float(), numbers, numbers[:0], numbers[:0], samples)


@given(st.data(), st.integers(1, 40), st.integers())
def test_an_epoch_takes_every_sample_once(data: st.DataObject, samples: int, seed: int) -> None:
    size = data.draw(st.integers(1, samples))
    epoch = data.draw(st.integers(0, 5))
    dataset = counting(samples)
    count = dataset.batches_per_epoch(size)
    batches = [dataset.batch(epoch * count + n, size, seed) for n in range(count)]
    sizes = [len(labels) for _, labels in batches]
    assert sizes == [size] * (samples // size) + ([samples % size] if samples % size else [])
    seen = torch.cat([labels for _, labels in batches])
    assert sorted(seen.tolist()) == list(range(samples))
    for inputs, labels in batches:
        assert torch.equal(inputs, labels.float())


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    dataset = counting(50)

    def order(epoch: int, seed: int) -> tuple[int, ...]:
        return tuple(dataset.batch(epoch, 50, seed)[1].tolist())

    seeds = (0, 1, 2, 2**32, 2**32 + 1, 2**40, -1)
    orders = {order(epoch, seed) for epoch in range(4) for seed in seeds}
    assert len(orders) == 4 * len(seeds)


def test_a_batch_depends_on_number_size_and_seed_alone() -> None:
    """Whoever asks, in whatever order, and however often: all schedules train on the same."""
    dataset = counting(23)
    forwards = [dataset.batch(n, 5, 1)[1].tolist() for n in range(40)]
    torch.manual_seed(99)
    torch.rand(5)
    backwards = [counting(23).batch(n, 5, 1)[1].tolist() for n in reversed(range(40))]
    assert forwards == backwards[::-1]


def test_drawing_batches_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    counting(10).batch(3, 4, 0)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("size", [0, -1, 11])
def test_a_batch_size_that_does_not_fit(size: int) -> None:
    line = (
        f"batch size is {size}: must be between 1 and the 10 samples of counting; "
        "choose a smaller one"
    )
    with pytest.raises(InputError, match=f"^{re.escape(line)}$"):
        counting(10).batch(0, size, 0)


def test_a_source_gives_inputs_and_labels() -> None:
    source = DataSource(counting(10), 4, seed=3)
    inputs, labels = source.payload(Item("activation", 0), 2)
    assert labels.tolist() == counting(10).batch(2, 4, 3)[1].tolist()
    assert len(inputs) == 2  # the last batch of the first epoch


def test_the_digits() -> None:
    dataset = digits()
    assert tuple(dataset.inputs.shape) == (1437, 64)
    assert tuple(dataset.test_inputs.shape) == (360, 64)
    assert dataset.inputs.dtype == torch.float32
    assert dataset.labels.dtype == torch.int64
    assert sorted(set(dataset.labels.tolist())) == list(range(dataset.classes))
    everything = torch.cat([dataset.inputs, dataset.test_inputs])
    assert float(everything.mean()) == pytest.approx(0, abs=1e-5)
    assert float(everything.std()) == pytest.approx(1, abs=1e-5)


def test_generated_data_depends_on_the_seed_alone() -> None:
    one, other, third = generated(100, 5, 3, 7), generated(100, 5, 3, 7), generated(100, 5, 3, 8)
    assert torch.equal(one.inputs, other.inputs)
    assert not torch.equal(one.inputs, third.inputs)
    assert (len(one.inputs), len(one.test_inputs), one.inputs.shape[1]) == (80, 20, 5)
    assert set(one.labels.tolist()) <= {0, 1, 2}


def test_data_sets_have_the_names_that_they_are_found_by() -> None:
    for name, make in DATA_SETS.items():
        assert make().name == name
