"""Networks of torchvision, and ours compared with its own; skipped where it cannot be imported."""

import importlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call

from executor.data import DataSet
from executor.models import NETWORKS, make_model, published_split
from executor.models.vision import RepeatedChannels
from executor.network import layers_of, split
from simcore.errors import InputError

FUNCTIONS = {
    "mobilenetv3-small": "mobilenet_v3_small",
    "efficientnet-b0": "efficientnet_b0",
    "mnasnet0.5": "mnasnet0_5",
    "shufflenetv2-0.5": "shufflenet_v2_x0_5",
}
every_network = pytest.mark.parametrize("name", FUNCTIONS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More threads than cores are what makes tests slow that run beside each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def samples(*shape: int, classes: int = 10) -> DataSet:
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(4, *shape, generator=generator), torch.arange(4) % classes
    return DataSet("images", inputs, labels, inputs, labels, classes=classes)


@pytest.fixture(scope="module")
def models() -> Any:
    try:
        return importlib.import_module("torchvision.models")
    except Exception as error:  # one for another build of torch fails in its own ways
        pytest.skip(f"torchvision cannot be imported: {error}")


def test_all_of_them_are_tried() -> None:
    assert set(FUNCTIONS) == {name for name, network in NETWORKS.items() if network.own_weights}


@every_network
def test_they_have_the_parameters_that_torchvision_publishes(models: Any, name: str) -> None:
    reference = NETWORKS[name].reference
    model = make_model(name, samples(*reference.shape, classes=reference.classes), 0)
    published = models.get_model_weights(FUNCTIONS[name])["IMAGENET1K_V1"].meta["num_params"]
    assert sum(weight.numel() for weight in model.parameters()) == published
    assert published == reference.parameters


@every_network
def test_they_are_torchvisions_own_layer_by_layer(models: Any, name: str) -> None:
    data = samples(3, 32, 32)
    model = make_model(name, data, 3).eval()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = getattr(models, FUNCTIONS[name])(num_classes=10).eval()
    torch.testing.assert_close(model(data.inputs[:]), theirs(data.inputs[:]))
    assert len(layers_of(model)) == len(model) == NETWORKS[name].layers


@every_network
def test_the_split_of_async_fgd_makes_four_modules(models: Any, name: str) -> None:
    bounds = published_split(name, 4)
    assert bounds is not None
    data = samples(3, 32, 32)
    model = make_model(name, data, 0).eval()
    value, sides = data.inputs[:], []
    for block in split(model, bounds):
        value = block(value)
        sides.append(value.shape[2] if value.dim() == 4 else 0)
    torch.testing.assert_close(value, model(data.inputs[:]))
    # Images of 32 pixels are halved at each stride of 2, which stand in the papers' tables.
    expected = {
        "mobilenetv3-small": [4, 2, 1, 0],  # in parts 1, 2, 3; 5; 10
        "efficientnet-b0": [16, 4, 1, 0],  # in the stem; MBConv 2, 3; 4, 6
        "mnasnet0.5": [16, 4, 1, 0],  # in the head; blocks 1, 2; 3, 5
        "shufflenetv2-0.5": [8, 4, 2, 0],  # in the head twice; in each stage
    }
    assert sides == expected[name]


@every_network
def test_weights_follow_the_seed_and_nothing_else(models: Any, name: str) -> None:
    before = torch.get_rng_state()
    one, again, other = (make_model(name, samples(64), seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


@every_network
@pytest.mark.parametrize("shape", [(64,), (1, 28, 28), (3, 9, 7)], ids=str)
def test_small_images_are_trained_on(models: Any, name: str, shape: tuple[int, ...]) -> None:
    data = samples(*shape)
    model = make_model(name, data, 0)
    nn.functional.cross_entropy(model(data.inputs[:]), data.labels).backward()
    assert all(weight.grad is not None for weight in model.parameters())
    copy = pickle.loads(pickle.dumps(model)).eval()  # as it is sent to other processes
    assert torch.equal(copy(data.inputs[:]), model.eval()(data.inputs[:]))


@every_network
def test_forward_derivatives_are_those_of_backpropagation(models: Any, name: str) -> None:
    data = samples(3, 16, 16)
    model = make_model(name, data, 0).double()
    for module in model.modules():  # what draws random numbers anew in each pass
        if type(module).__name__ in ("Dropout", "StochasticDepth"):
            module.eval()
    inputs, weights = data.inputs[:].double(), dict(model.named_parameters())
    torch.manual_seed(0)
    along = {key: torch.randn_like(weight) for key, weight in weights.items()}
    loss = nn.functional.cross_entropy(model(inputs), data.labels)
    gradients = torch.autograd.grad(loss, [*weights.values()])
    expected = sum((g * along[key]).sum() for key, g in zip(weights, gradients, strict=True))
    with forward_ad.dual_level(), torch.no_grad():
        duals = {
            key: forward_ad.make_dual(weight.detach(), along[key])
            for key, weight in weights.items()
        }
        dual = nn.functional.cross_entropy(functional_call(model, duals, (inputs,)), data.labels)
        found = forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101"])
def test_our_residual_networks_are_torchvisions(models: Any, name: str) -> None:
    data = samples(3, 64, 64)
    ours, theirs = make_model(name, data, 0), getattr(models, name)(num_classes=10)
    # Both register their parts in the order in which they are used.
    values = [*ours.state_dict().values()]
    for mine, other in zip(values, theirs.state_dict().values(), strict=True):
        other.copy_(mine)
    for mode in (True, False):
        ours.train(mode)
        theirs.train(mode)
        # In training first, so that running statistics are compared in evaluation.
        torch.testing.assert_close(ours(data.inputs[:]), theirs(data.inputs[:]))


def test_images_of_one_channel_are_repeated() -> None:
    images = torch.randn(2, 1, 4, 4)
    repeated = RepeatedChannels(3)(images)
    assert torch.equal(repeated, torch.cat([images] * 3, dim=1))


def test_other_channels_are_one_clear_line() -> None:
    with pytest.raises(InputError) as caught:
        make_model("mnasnet0.5", samples(2, 8, 8), 0)
    assert str(caught.value) == (
        "shape of a sample of images is '(2, 8, 8)': must have 1 or 3 channels for mnasnet0.5; "
        "use resnet18, say"
    )


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (
            None,
            "needs torchvision (ModuleNotFoundError: No module named 'torchvision'); install "
            "gradlag[vision]",
        ),
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            f"needs a torchvision that fits torch {torch.__version__} (RuntimeError: operator "
            "torchvision::nms does not exist); install both from one place, as gradlag[vision] "
            "names them",
        ),
    ],
)
def test_a_missing_or_broken_torchvision_is_one_clear_line(
    code: str | None, line: str, tmp_path: Path
) -> None:
    """In a process of its own, whose sys.path has no torchvision, or a broken one first."""
    if code:
        (tmp_path / "torchvision").mkdir()
        (tmp_path / "torchvision" / "__init__.py").write_text(code)
    script = f"""
import sys
if {code is None}:
    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "torchvision":
                raise ModuleNotFoundError(f"No module named '{{name.partition('.')[0]}}'")
    sys.meta_path.insert(0, Hidden())
import torch
from executor.data import DataSet
from executor.models import make_model
from simcore.errors import InputError
inputs, labels = torch.randn(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
try:
    make_model("efficientnet-b0", DataSet("images", inputs, labels, inputs, labels, 2), 0)
except InputError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == f"model is 'efficientnet-b0': {line}"
