"""Networks by name: what they consist of, how papers split them, and the page that lists them."""

import pickle
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call

from executor.data import DataSet
from executor.models import NETWORKS, make_model, published_split
from executor.models.named import runs
from executor.network import layers_of, split
from simcore.errors import InputError

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "networks.md"
OURS = [name for name, network in NETWORKS.items() if not network.own_weights]
SMALL = ["convs", "convl", "fcs", "fcl"]
HUGE = {"resnet101", "resnet1202", "wrn-28-10"}  # too slow to be run here on all kinds of data


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More threads than cores are what makes tests slow that run beside each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def samples(*shape: int, classes: int = 10, count: int = 4) -> DataSet:
    """Samples that take no memory of their own, however large they are."""
    inputs = torch.randn(count, *(1 for _ in shape)).expand(count, *shape)
    labels = torch.arange(count) % classes
    return DataSet("images", inputs, labels, inputs, labels, classes=classes)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def kinds(model: nn.Module) -> list[str]:
    return [type(part).__name__ for part in model.modules() if not [*part.children()]]


@pytest.mark.parametrize("name", OURS)
def test_parameters_are_those_published(name: str) -> None:
    reference = NETWORKS[name].reference
    model = NETWORKS[name].make(
        samples(*reference.shape, classes=reference.classes), NETWORKS[name].variants[0]
    )
    assert parameters(model) == reference.parameters
    if millions := re.match(r"([0-9]+\.([0-9]+))M", reference.printed):
        assert f"{parameters(model) / 1e6:.{len(millions[2])}f}" == millions[1]
    elif reference.printed:
        assert reference.printed.startswith(f"{parameters(model):,} (")


def test_parameters_of_the_small_networks_follow_from_the_tables_of_async_fgd() -> None:
    """For images of c x h x w; a convolution of k x k: k k in out + out, batch norm: 2 out."""

    def linear(*widths: int) -> int:
        return sum((given + 1) * made for given, made in pairwise(widths))

    def convolutions(size: int, *channels: int) -> int:
        return linear(channels[0] * size**2, channels[1]) + (
            convolutions(size, *channels[1:]) if len(channels) > 2 else 0
        )

    wide = (32, 64, 128, 256, 512)
    for (c, h, w), fc_s, fc_l in [((1, 28, 28), 6272, 2048), ((3, 32, 32), 8192, 2048)]:
        expected = {
            "convs": convolutions(5, c, 32) + linear(fc_s, 1000, 10),
            "convl": convolutions(3, c, *wide) + 2 * sum(wide) + linear(fc_l, 10),
            "fcs": linear(c * h * w, 1024, 512, 256, 10),
            "fcl": linear(c * h * w, 1024, 1024, 1024, 1024, 512, 10) + 2 * (4 * 1024 + 512),
        }
        for name, count in expected.items():
            assert parameters(make_model(name, samples(c, h, w), 0)) == count


def test_a_resnet_18_for_small_images_has_the_11_2_million_of_fdg() -> None:
    assert parameters(make_model("resnet18", samples(3, 32, 32), 0)) == 11_173_962
    assert f"{11_173_962 / 1e6:.1f}M" == "11.2M"


def test_squeeze_and_excitation_adds_two_linear_maps_to_each_block() -> None:
    """Of c channels to c / 16 and back, with biases: two blocks for each of four stages."""
    added = sum(2 * (2 * c * c // 16 + c // 16 + c) for c in (64, 128, 256, 512))
    with_them = NETWORKS["se-resnet18"].reference.parameters
    assert with_them == NETWORKS["resnet18"].reference.parameters + added


@pytest.mark.parametrize("name", OURS)
def test_each_block_is_a_layer(name: str) -> None:
    model = NETWORKS[name].make(samples(3, 32, 32), NETWORKS[name].variants[0])
    assert len(layers_of(model)) == len(model) == NETWORKS[name].layers
    if name not in SMALL:
        depth = re.search(r"\d+", name)
        assert depth is not None
        blocks = {"Residual", "PreActivation"}
        assert all(type(block).__name__ in blocks for block in model[1:-1])
        # Depth counts layers of weights, without those of shortcuts; for wide residual networks it
        # counts convolutions, with those of shortcuts.
        wide = name.startswith("wrn")
        weighted = [
            module
            for part, module in model.named_modules()
            if isinstance(module, nn.Conv2d)
            or (isinstance(module, nn.Linear) and not wide and "body" not in part)
            if wide or not re.search("shortcut|projection", part)
        ]
        assert len(weighted) == int(depth[0])


@pytest.mark.parametrize("name", sorted(set(OURS) - HUGE))
@pytest.mark.parametrize("shape", [(64,), (1, 8, 8), (3, 9, 7)], ids=str)
def test_small_images_of_any_kind_pass(name: str, shape: tuple[int, ...]) -> None:
    data = samples(*shape, classes=3)
    model = make_model(name, data, 0)
    outputs = model(data.inputs[:])
    assert outputs.shape == (4, 3)
    assert outputs.isfinite().all()


@pytest.mark.parametrize("name", sorted(HUGE))
def test_huge_networks_pass(name: str) -> None:
    data = samples(3, 4, 4)
    model = make_model(name, data, 0)
    with torch.no_grad():
        assert model(data.inputs[:]).isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_activations_follow_the_variant(name: str) -> None:
    data = samples(1, 28, 28)
    for spec, present, absent in [
        (name, "ReLU", "Tanh"),
        (f"{name}:relu", "ReLU", "Tanh"),
        (f"{name}:tanh", "Tanh", "ReLU"),
    ]:
        found = kinds(make_model(spec, data, 0))
        assert present in found
        assert absent not in found


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("convs", ["Conv2d ReLU", "MaxPool2d Flatten Linear", "ReLU Linear"]),
        (
            "convl",
            [
                "Conv2d BatchNorm2d ReLU MaxPool2d Conv2d BatchNorm2d ReLU MaxPool2d",
                "Conv2d BatchNorm2d ReLU MaxPool2d Conv2d BatchNorm2d ReLU MaxPool2d",
                "Conv2d BatchNorm2d ReLU MaxPool2d Flatten Linear",
            ],
        ),
        ("fcs", ["Flatten Linear ReLU", "Linear ReLU", "Linear ReLU Linear"]),
        (
            "fcl",
            [
                "Flatten Linear BatchNorm1d ReLU Linear BatchNorm1d ReLU",
                "Linear BatchNorm1d ReLU Linear BatchNorm1d ReLU",
                "Linear BatchNorm1d ReLU Linear",
            ],
        ),
    ],
)
def test_the_small_networks_are_split_as_async_fgd_says(name: str, modules: list[str]) -> None:
    bounds = published_split(name, 3)
    assert bounds is not None
    model = make_model(name, samples(3, 32, 32), 0)
    assert [" ".join(kinds(block)) for block in split(model, bounds)] == modules


@pytest.mark.parametrize(("variant", "pixels"), [("cifar", 64), ("imagenet", 16)])
def test_the_stem_follows_the_variant_or_else_the_images(variant: str, pixels: int) -> None:
    sizes = {"cifar": (3, 3), "imagenet": (7, 7)}
    other = "imagenet" if variant == "cifar" else "cifar"
    for spec, expected in [(f"resnet18:{variant}", variant), ("resnet18", other)]:
        model = make_model(spec, samples(3, pixels, pixels), 0)
        stem = [module for module in model[0].modules() if not [*module.children()]]
        assert isinstance(stem[0], nn.Conv2d)
        assert stem[0].kernel_size == sizes[expected]
        assert any(isinstance(module, nn.MaxPool2d) for module in stem) == (expected == "imagenet")


@pytest.mark.parametrize("name", NETWORKS)
def test_splits_cut_the_layers(name: str) -> None:
    network = NETWORKS[name]
    for modules, found in network.splits.items():
        assert published_split(name, modules) == found.bounds
        assert len(found.bounds) == modules + 1
        assert list(found.bounds) == sorted({0, *found.bounds, network.layers})
        assert found.source
    assert published_split(name, 99) is None


def test_splits_are_those_of_the_papers() -> None:
    assert published_split("resnet18", 4) == (0, 3, 5, 7, 10)
    assert published_split("resnet56", 2) == (0, 14, 29)  # stage 1 and 4 of 9 blocks | 5 and 9
    assert published_split("resnet56", 4) == (0, 7, 14, 21, 29)  # 6 | 3 + 4 | 5 + 2 | 7
    assert published_split("resnet18", 10) == tuple(range(11))
    # Stages of EfficientNet-B0 have 1, 2, 2, 3, 3, 4 and 1 blocks: stem 1 | 2-3 | 4-6 | 7 and rest.
    assert published_split("efficientnet-b0", 4) == (0, 2, 6, 16, 19)
    assert published_split("convs:tanh", 3) == (0, 1, 2, 3)
    assert published_split("mlp:8x8", 2) is None
    assert published_split("mine.nets:good", 2) is None


def test_stages_of_resnet_18_end_where_async_fgd_cuts() -> None:
    bounds = published_split("resnet18", 4)
    assert bounds is not None
    value = torch.randn(2, 3, 32, 32)
    shapes = []
    for block in split(make_model("resnet18", samples(3, 32, 32), 0), bounds):
        value = block(value)
        shapes.append(tuple(value.shape[1:]))
    assert shapes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (10,)]


def test_runs_of_blocks() -> None:
    assert runs(3) == (0, 5)
    assert runs(0, 6, 9, 1, tail=2) == (0, 1, 7, 16, 19)


@pytest.mark.parametrize("name", ["convl", "fcl", "se-resnet18", "resnet20", "resnet164"])
def test_weights_follow_the_seed_and_nothing_else(name: str) -> None:
    data = samples(3, 8, 8)
    before = torch.get_rng_state()
    one = make_model(name, data, 5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, other = make_model(name, data, 5).state_dict(), make_model(name, data, 6).state_dict()
    assert all(torch.equal(one[key], again[key]) for key in one)
    drawn = [key for key in one if one[key].dim() > 1]
    assert drawn
    assert not any(torch.equal(one[key], other[key]) for key in drawn)
    for key in set(one) - set(drawn):
        begins = 1 if re.search(r"(running_var|weight)$", key) else 0
        assert (one[key] == begins).all(), key


@pytest.mark.parametrize("name", ["convs:tanh", "convl", "fcl", "resnet20", "se-resnet18"])
def test_forward_derivatives_are_those_of_backpropagation(name: str) -> None:
    """The derivative along u is <gradient, u>; batch norm in training mode included."""
    data = samples(3, 8, 8)
    model = make_model(name, data, 0).double()
    inputs = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    weights = dict(model.named_parameters())
    along = {key: torch.randn_like(weight) for key, weight in weights.items()}
    loss = nn.functional.cross_entropy(model(inputs), data.labels)
    gradients = torch.autograd.grad(loss, [*weights.values()])
    expected = sum(
        (gradient * along[key]).sum() for key, gradient in zip(weights, gradients, strict=True)
    )
    with forward_ad.dual_level(), torch.no_grad():
        duals = {
            key: forward_ad.make_dual(weight.detach(), along[key])
            for key, weight in weights.items()
        }
        outputs = functional_call(model, duals, (inputs,))
        dual = nn.functional.cross_entropy(outputs, data.labels)
        tangent = forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(tangent, expected)


@pytest.mark.parametrize("name", ["convl", "se-resnet18", "resnet20", "resnet164"])
def test_they_can_be_sent_to_other_processes(name: str) -> None:
    data = samples(3, 8, 8)
    model = make_model(name, data, 0)
    copy = pickle.loads(pickle.dumps(model))
    assert torch.equal(copy(data.inputs[:]), model(data.inputs[:]))


def test_option_a_shortcuts_drop_pixels_and_add_channels_of_zeros() -> None:
    model = make_model("resnet20", samples(3, 8, 8), 0)
    inputs = torch.randn(2, 16, 5, 7)  # (batch, channels, height, width)
    output = model[4].shortcut(inputs)
    assert output.shape == (2, 32, 3, 4)
    assert torch.equal(output[:, 8:24], inputs[:, :, ::2, ::2])
    assert not output[:, :8].any()
    assert not output[:, 24:].any()
    assert model[4](inputs).shape == output.shape
    assert isinstance(model[1].shortcut, nn.Identity)


@pytest.mark.parametrize(("name", "first"), [("resnet164", 64), ("wrn-28-10", 160)])
def test_pre_activation_blocks_keep_a_clear_way(name: str, first: int) -> None:
    """x + body(relu(norm(x))); a projection of relu(norm(x)) where the shape changes."""
    model = make_model(name, samples(3, 8, 8), 0)
    model.eval()
    inputs = torch.randn(2, 16, 4, 4)
    active = inputs.relu() / (1 + 1e-5) ** 0.5  # norm, before it has seen anything
    block = model[1]
    expected = nn.functional.conv2d(active, block.projection.weight) + block.body(active)
    torch.testing.assert_close(block(inputs), expected)
    same = model[2]
    assert same.projection is None
    for parameter in same.body.parameters():
        nn.init.zeros_(parameter)
    inputs = torch.randn(2, first, 4, 4)
    assert torch.equal(same(inputs), inputs)


def test_squeeze_and_excitation_scales_channels_before_the_sum() -> None:
    block = make_model("se-resnet18", samples(3, 8, 8), 0)[1]
    *convolutions, squeeze = block.body
    inputs = torch.randn(2, 64, 4, 4)
    made = nn.Sequential(*convolutions)(inputs)
    means = made.mean((2, 3))
    scale = torch.sigmoid(squeeze.excite(squeeze.squeeze(means).relu()))
    assert squeeze.squeeze.weight.shape == (4, 64)
    expected = (inputs + made * scale[:, :, None, None]).relu()
    torch.testing.assert_close(block(inputs), expected)


TOKENS = DataSet(
    "reviews",
    *(torch.zeros(4, 9, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)) * 2,
    classes=2,
)


@pytest.mark.parametrize(
    ("spec", "data", "line"),
    [
        (
            "convs:tahn",
            samples(64),
            "model is 'convs:tahn': must be convs or convs:relu or convs:tanh; "
            "did you mean convs:tanh?",
        ),
        ("resnet20:", samples(64), "model is 'resnet20:': must be resnet20; write resnet20"),
        (
            "resnet18:",
            samples(64),
            "model is 'resnet18:': must be resnet18 or resnet18:cifar or resnet18:imagenet; "
            "write resnet18",
        ),
        (
            "convs",
            samples(3, 1, 8),
            "shape of a sample of images is '(3, 1, 8)': must have at least 2 x 2 pixels for "
            "convs; use convl",
        ),
        (
            "resnet20",
            samples(50),
            "shape of a sample of images is '(50,)': must be (channels, height, width), or a "
            "square number, for a ConvNet; use an mlp",
        ),
        *(
            (
                name,
                TOKENS,
                "type of the samples of reviews is 'int64': must be floating-point numbers for "
                "this network; use lstm:2x256, say",
            )
            for name in ("fcs", "convl", "resnet56", "mlp:2x8", "conv:2x8")
        ),
    ],
)
def test_what_does_not_fit_is_one_clear_line(spec: str, data: DataSet, line: str) -> None:
    with pytest.raises(InputError) as caught:
        make_model(spec, data, 0)
    assert str(caught.value) == line


def rows(heading: str) -> list[list[str]]:
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_the_page_lists_every_network() -> None:
    def of_shape(name: str) -> str:
        reference = NETWORKS[name].reference
        shape = " x ".join(str(size) for size in reference.shape)
        return f"{reference.parameters:,} ({shape}, {reference.classes})"

    expected = [
        [
            f"`{name}`",
            ", ".join(f"`{variant}`" for variant in network.variants if variant),
            str(network.layers),
            of_shape(name),
            network.reference.printed.split(" (")[0],
            ", ".join(str(modules) for modules in sorted(network.splits)),
            network.source,
        ]
        for name, network in NETWORKS.items()
    ]
    assert rows("By name") == expected


def test_the_page_lists_every_split() -> None:
    expected = [
        [
            f"`{name}`",
            str(modules),
            "(" + ", ".join(str(bound) for bound in network.splits[modules].bounds) + ")",
            network.splits[modules].source,
        ]
        for name, network in NETWORKS.items()
        for modules in sorted(network.splits)
    ]
    assert rows("Splits of the papers") == expected
