import pickle
import re
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from executor.data import DATA_SETS, Contents, DataSet, digits, generated, open_data
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
    numbers = [epoch * count + n for n in range(count)]
    batches = [dataset.batch(number, size, seed) for number in numbers]
    sizes = [len(labels) for _, labels in batches]
    assert sizes == [size] * (samples // size) + ([samples % size] if samples % size else [])
    assert sizes == [dataset.size_of(number, size) for number in numbers]
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
    for taken in (counting(10).batch, counting(10).template):
        with pytest.raises(InputError, match=f"^{re.escape(line)}$"):
            taken(0, size, *([0] if taken.__name__ == "batch" else []))


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


def test_a_template_has_the_shapes_and_types_of_its_batch() -> None:
    for dataset, size in ((digits(), 100), (counting(10), 4)):
        for number in (0, dataset.batches_per_epoch(size) - 1):
            made, batch = dataset.template(number, size), dataset.batch(number, size, 0)
            for zeros, real in zip(made, batch, strict=True):
                assert (zeros.shape, zeros.dtype) == (real.shape, real.dtype)
                assert not zeros.any()


def test_test_batches_are_all_test_samples_in_order() -> None:
    dataset = generated(50, 3, 2)
    batches = list(dataset.test_batches(4))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), dataset.test_inputs)
    assert torch.equal(torch.cat([labels for _, labels in batches]), dataset.test_labels)
    assert list(counting(3).test_batches()) == []


def test_examples_are_the_first_samples() -> None:
    assert torch.equal(digits().examples(3), digits().inputs[:3])


def test_tensors_are_pickled_as_they_are() -> None:
    copy = pickle.loads(pickle.dumps(counting(7)))
    assert torch.equal(copy.batch(1, 3, 2)[0], counting(7).batch(1, 3, 2)[0])
    assert (copy.name, copy.classes, copy.vocabulary) == ("counting", 7, None)


readings: list[int] = []


def noted(samples: int) -> Contents:
    readings.append(samples)
    found = counting(samples)
    return Contents(found.inputs, found.labels, found.test_inputs, found.test_labels, samples)


def test_what_is_read_is_pickled_as_the_way_to_read_it() -> None:
    readings.clear()
    made = DataSet.reading("noted", partial(noted, 1000))
    pickled = pickle.dumps(pickle.loads(pickle.dumps(made)))
    assert len(pickled) < 1000
    copy = pickle.loads(pickled)
    assert (copy.name, copy.samples, copy.classes, copy.sample_shape) == ("noted", 1000, 1000, ())
    assert copy.size_of(3, 300) == 100
    assert len(copy.template(0, 8)[0]) == 8
    assert readings == [1000]
    assert copy.batch(0, 9, 4)[1].tolist() == made.batch(0, 9, 4)[1].tolist()
    assert copy.batch(1, 9, 4)[1].tolist() == made.batch(1, 9, 4)[1].tolist()
    assert readings == [1000, 1000]


def shrinking() -> Contents:
    return noted(10 - len(readings))


def test_what_is_read_must_not_change() -> None:
    readings.clear()
    copy = pickle.loads(pickle.dumps(DataSet.reading("shrinking", shrinking)))
    with pytest.raises(InputError, match="'shrinking': must not change while it is used"):
        copy.batch(0, 1, 0)


@pytest.mark.parametrize("dataset", [digits(), generated(300, 6, 3)], ids=lambda each: each.name)
def test_bundled_data_is_pickled_in_few_bytes(dataset: DataSet) -> None:
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 1000
    for one, other in zip(
        dataset.batch(1, 50, 0), pickle.loads(pickled).batch(1, 50, 0), strict=True
    ):
        assert torch.equal(one, other)


def test_bundled_data_has_the_name_that_it_is_opened_by() -> None:
    bundled = [name for name, entry in DATA_SETS.items() if entry.bundled]
    assert bundled == ["digits", "generated"]
    for name in bundled:
        assert open_data(name).name == name


@pytest.mark.parametrize("name", [name for name, entry in DATA_SETS.items() if not entry.augments])
def test_what_cannot_be_varied(name: str) -> None:
    with pytest.raises(InputError, match=f"augment is True: must be left out for {name}"):
        open_data(name, augment=True)


def test_a_folder_for_data_without_files() -> None:
    with pytest.raises(InputError, match="data dir is 'here': must be left out for digits"):
        open_data("digits", "here")


def test_an_unknown_name() -> None:
    with pytest.raises(InputError, match=r"data set is 'cifar': must be one of .* mean cifar10\?"):
        open_data("cifar")
