import os
import sys
from math import sqrt
from pathlib import Path

import pytest
import torch
from torch import nn

from executor.data import DataSet, digits, generated
from executor.models import MODELS, NETWORKS, make_model
from executor.network import layers_of
from simcore.errors import InputError

FLAT = generated(samples=20, features=49, classes=5)
EVEN = ("mlp", "conv")  # whose weights are all those of linear maps and convolutions


def images(*shape: int) -> DataSet:
    inputs, labels = torch.randn(20, *shape), torch.arange(20) % 5
    return DataSet("images", inputs, labels, inputs[:5], labels[:5], classes=5)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [parameter for parameter in model.parameters() if parameter.dim() > 1]


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize(("family", "square"), [("mlp", (16, 16)), ("conv", (16, 16, 3, 3))])
def test_every_layer_has_one_square_map(family: str, square: tuple[int, ...], depth: int) -> None:
    layers = layers_of(make_model(f"{family}:{depth}x16", FLAT, 0))
    shapes = [[tuple(weight.shape) for weight in weights(layer)] for layer in layers]
    first = (16, 49) if family == "mlp" else (16, 1, 3, 3)
    expected = [[square] for _ in range(depth)]
    expected[0].insert(0, first)
    expected[-1].append((5, 16))
    assert shapes == expected


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("data", [digits(), FLAT, images(3, 6, 4)], ids=lambda data: data.name)
def test_it_makes_outputs_of_classes_from_samples(family: str, data: DataSet) -> None:
    model = make_model(f"{family}:2x8", data, 0)
    assert model(data.inputs[:7]).shape == (7, data.classes)


def test_the_conv_net_has_batch_norm_after_each_convolution() -> None:
    names = [type(module).__name__ for module in make_model("conv:3x8", FLAT, 0).modules()]
    assert names.count("BatchNorm2d") == names.count("Conv2d") == 4


@pytest.mark.parametrize("family", MODELS)
def test_weights_follow_the_seed_and_nothing_else(family: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    model = make_model(f"{family}:3x8", FLAT, 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert equal(model, make_model(f"{family}:3x8", FLAT, 5))
    assert not equal(model, make_model(f"{family}:3x8", FLAT, 6))


@pytest.mark.parametrize("family", EVEN)
def test_weights_have_the_variance_of_he_and_biases_are_zero(family: str) -> None:
    # The variance of normal weights with known mean 0, from n of them, has a relative standard
    # error of sqrt(2 / n); the seed is fixed, 4 of these would otherwise fail once in 15,000 times.
    for weight in weights(make_model(f"{family}:3x64", FLAT, 0)):
        expected = 2 / weight[0].numel()
        off = weight.square().mean().item() / expected - 1
        assert abs(off) < 4 * sqrt(2 / weight.numel())
    for module in make_model(f"{family}:3x8", FLAT, 0).modules():
        bias = getattr(module, "bias", None)
        assert bias is None or not bias.any()


@pytest.fixture
def user_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `mine` in the current folder, which sys.path lacks."""
    code = """
        import torch
        from torch import nn

        def good():
            return nn.Sequential(nn.Linear(49, 8), nn.BatchNorm1d(8), nn.Linear(8, 5))

        def frozen():
            return nn.Sequential(nn.Linear(49, 5), nn.Dropout().eval())

        class Net(nn.Sequential):
            def __init__(self):
                super().__init__(nn.Linear(49, 5))

        def fails():
            return [][1]

        def with_arguments(width):
            return nn.Sequential(nn.Linear(49, width))

        def single():
            return nn.Linear(49, 5)

        def empty():
            return nn.Sequential(nn.ReLU())

        def wide():
            return nn.Sequential(nn.Linear(49, 1000))

        def mismatched():
            return nn.Sequential(nn.Linear(49, 8), nn.ReLU(), nn.Sequential(nn.Linear(9, 5)))

        def pair():
            return nn.Sequential(nn.LSTM(49, 5))

        instance = good()
        number = 3
    """
    lines = [line.removeprefix("        ") for line in code.splitlines()]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "nets.py").write_text("\n".join(lines))
    (tmp_path / "mine" / "broken.py").write_text("import no_such_library")
    (tmp_path / "mine" / "leaves.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


@pytest.mark.usefixtures("user_code")
@pytest.mark.parametrize("factory", ["good", "Net"])
def test_a_users_factory_is_called_with_a_seed_of_its_own(factory: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    model = make_model(f"mine.nets:{factory}", FLAT, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(model, make_model(f"mine.nets:{factory}", FLAT, 5))
    assert not equal(model, make_model(f"mine.nets:{factory}", FLAT, 6))
    assert model(FLAT.inputs).shape == (len(FLAT.inputs), 5)


@pytest.mark.usefixtures("user_code")
def test_trying_a_users_model_changes_neither_buffers_nor_modes() -> None:
    assert make_model("mine.nets:good", FLAT, 5).state_dict()["1.num_batches_tracked"] == 0
    model = make_model("mine.nets:frozen", FLAT, 5)
    assert [part.training for part in model] == [True, False]


def test_the_current_folder_comes_last_and_stays(user_code: Path) -> None:
    before = list(sys.path)
    for _ in range(2):
        make_model("mine.nets:good", FLAT, 0)
    assert sys.path == [*before, os.fspath(user_code)]


FORMS = (
    "must be mlp:DEPTHxWIDTH, conv:DEPTHxCHANNELS, rnn:DEPTHxWIDTH, lstm:DEPTHxWIDTH, "
    f"package.module:factory or one of {', '.join(NETWORKS)}"
)
SIZES = "in whole numbers from 1 to 999999; write"


@pytest.mark.usefixtures("user_code")
@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("mpl:8x64", f"model is 'mpl:8x64': {FORMS}; did you mean mlp?"),
        ("perceptron", f"model is 'perceptron': {FORMS}; write mlp:8x1024, for instance"),
        ("resnet-18", f"model is 'resnet-18': {FORMS}; did you mean resnet18?"),
        ("convS", f"model is 'convS': {FORMS}; did you mean convs?"),
        ("", f"model is '': {FORMS}; write mlp:8x1024, for instance"),
        ("a:b:c", f"model is 'a:b:c': {FORMS}; write mlp:8x1024, for instance"),
        (".mine:good", f"model is '.mine:good': {FORMS}; write mlp:8x1024, for instance"),
        ("mlp", f"model is 'mlp': must be mlp:DEPTHxWIDTH, {SIZES} mlp:8x64, for instance"),
        (
            "mlp:0x64",
            f"model is 'mlp:0x64': must be mlp:DEPTHxWIDTH, {SIZES} mlp:8x64, for instance",
        ),
        (
            "conv:8x-1",
            f"model is 'conv:8x-1': must be conv:DEPTHxCHANNELS, {SIZES} conv:8x64, for instance",
        ),
        (
            "mpl:width",
            "model is 'mpl:width': mpl must be a module that can be imported "
            "(ModuleNotFoundError: No module named 'mpl'); did you mean mlp:DEPTHxWIDTH?",
        ),
        (
            "resnet2:tanh",
            "model is 'resnet2:tanh': resnet2 must be a module that can be imported "
            "(ModuleNotFoundError: No module named 'resnet2'); did you mean resnet20?",
        ),
        (
            "mine.net:good",
            "model is 'mine.net:good': mine.net must be a module that can be imported "
            "(ModuleNotFoundError: No module named 'mine.net'); go to its folder or install it",
        ),
        (
            "mine.broken:good",
            "model is 'mine.broken:good': mine.broken must be a module that can be imported "
            "(ModuleNotFoundError: No module named 'no_such_library'); correct the module",
        ),
        (
            "mine.leaves:good",
            "model is 'mine.leaves:good': mine.leaves must be a module that can be imported "
            "(SystemExit: 3); correct the module",
        ),
        (
            "mine.nets:goood",
            "model is 'mine.nets:goood': 'goood' must be a function of mine.nets that returns the "
            "network; did you mean mine.nets:good?",
        ),
        *(
            (
                f"mine.nets:{name}",
                f"model is 'mine.nets:{name}': '{name}' must be a function of mine.nets that "
                "returns the network; write one that takes no arguments",
            )
            for name in ("number", "xyz")
        ),
        (
            "mine.nets:fails",
            "model is 'mine.nets:fails': its function must work without arguments "
            "(IndexError: list index out of range); correct it",
        ),
        (
            "mine.nets:with_arguments",
            "model is 'mine.nets:with_arguments': its function must work without arguments "
            "(TypeError: with_arguments() missing 1 required positional argument: 'width'); "
            "correct it",
        ),
        (
            "mine.nets:single",
            "model is 'mine.nets:single': must return an nn.Sequential, not Linear; "
            "wrap its parts in one",
        ),
        (
            "mine.nets:empty",
            "model is 'Sequential': must have parameters to learn; add a layer that learns",
        ),
        (
            "mine.nets:wide",
            "shape of the model's output is '(2, 1000)': must be (2, 5) for two samples of "
            "generated; give the last layer 5 outputs",
        ),
        (
            "mine.nets:pair",
            "shape of the model's output is 'tuple': must be (2, 5) for two samples of "
            "generated; give the last layer 5 outputs",
        ),
        (
            "mine.nets:mismatched",
            "layer 2 of the model is 'Linear': must accept the output of layer 1 (RuntimeError: "
            "mat1 and mat2 shapes cannot be multiplied (2x8 and 9x5)); make the two fit",
        ),
    ],
)
def test_a_bad_model_is_one_clear_line(spec: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        make_model(spec, FLAT, 0)
    assert str(caught.value) == line


@pytest.mark.usefixtures("user_code")
def test_a_model_object_is_no_factory() -> None:
    with pytest.raises(InputError, match="'instance' must be a function of mine"):
        make_model("mine.nets:instance", FLAT, 0)


def test_a_model_that_does_not_fit_into_memory_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> nn.Sequential:
        raise RuntimeError("[enforce fail]\ncan't allocate memory")

    monkeypatch.setitem(MODELS, "mlp", full)
    with pytest.raises(InputError) as caught:
        make_model("mlp:1x999999", FLAT, 0)
    assert str(caught.value) == (
        "model is 'mlp:1x999999': must fit into memory (RuntimeError: [enforce fail] can't "
        "allocate memory); choose a smaller one"
    )


def test_a_conv_net_needs_images() -> None:
    with pytest.raises(InputError) as caught:
        make_model("conv:2x4", generated(samples=20, features=50), 0)
    assert str(caught.value) == (
        "shape of a sample of generated is '(50,)': must be (channels, height, width), or a square "
        "number, for a ConvNet; use an mlp"
    )
