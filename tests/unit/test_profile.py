import copy
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import SGD, Adam, Optimizer

import executor.profile
from executor.machine import describe_machine
from executor.network import layers_of
from executor.passes import Passes
from executor.profile import profile
from simcore.errors import InputError
from simcore.workload import Workload, dump_workload, load_workload

INPUTS, LABELS = torch.randn(4, 6), torch.tensor([0, 2, 1, 2])
IMAGES = torch.randn(4, 1, 8, 8)
LOSS = nn.CrossEntropyLoss()
sgd = partial(SGD, lr=0.1)


def mlp() -> nn.Sequential:
    """6 features, 5 wide, 3 classes; the layers are its children."""
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU()),
        nn.Sequential(nn.Linear(5, 5), nn.ReLU()),
        nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)),
    )


def convolutions() -> nn.Sequential:
    """What autograd saves of many kinds, with randomness, buffers, and frozen parameters."""
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4).eval(), nn.GELU(), nn.Dropout2d()),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.Tanh(),
        nn.BatchNorm1d(8),
        nn.Linear(8, 3),
    )
    model[7].requires_grad_(False)
    return model


def quick(model: nn.Sequential, inputs: torch.Tensor = INPUTS, **options: Any) -> Workload:
    """A profile of as few passes as possible."""
    given = {"repeats": 1, "phase_s": 0.0, **options}
    loss, make_optimizer = given.pop("loss", LOSS), given.pop("make_optimizer", sgd)
    return profile(model, inputs, given.pop("labels", LABELS), loss, make_optimizer, **given)


def test_bytes_of_a_perceptron_are_those_computed_by_hand() -> None:
    workload = quick(mlp(), name="mine")
    batch, number = 4, 4  # samples, and bytes of a float
    assert (workload.name, workload.batch_size) == ("mine", batch)
    assert workload.input_bytes == batch * 6 * number
    assert [layer.name for layer in workload.layers] == ["layer1", "layer2", "layer3"]
    outputs, parameters, saved = zip(
        *(
            (layer.activation_bytes, layer.parameter_bytes, layer.saved_bytes)
            for layer in workload.layers
        ),
        strict=True,
    )
    hidden = batch * 5 * number
    assert outputs == (hidden, hidden, batch * 3 * number)
    assert parameters == ((6 * 5 + 5 + 25 + 5) * number, 30 * number, (25 + 5 + 15 + 3) * number)
    # Of each ReLU its result, which the next linear map saves too. The loss saves the logarithms of
    # probabilities, and one number, the sum of the samples' weights.
    assert saved == (2 * hidden, hidden, hidden + batch * 3 * number + number)


def test_an_output_counts_even_if_only_the_next_layer_saves_it() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3))
    hidden, log_probabilities = 4 * 5 * 4, 4 * 3 * 4
    saved = [layer.saved_bytes for layer in quick(model).layers]
    assert saved == [hidden, hidden, log_probabilities + 4]


def test_views_of_the_input_cost_nothing() -> None:
    class View(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(2))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs.view(4, 6)

    layer = quick(nn.Sequential(nn.Linear(6, 6), View(), nn.Linear(6, 3))).layers[1]
    assert (layer.activation_bytes, layer.saved_bytes) == (4 * 6 * 4, 0)


@pytest.mark.parametrize(
    ("model", "inputs"), [(mlp(), INPUTS), (convolutions(), IMAGES)], ids=["mlp", "convolutions"]
)
def test_what_layers_keep_adds_up_to_what_the_whole_network_keeps(
    model: nn.Sequential, inputs: torch.Tensor
) -> None:
    # Every boundary of these networks is saved by one of its sides, so autograd shows all.
    whole = copy.deepcopy(model)
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.detach())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        LOSS(whole(inputs), LABELS)
    given = [inputs, LABELS, *whole.parameters(), *whole.buffers()]
    known = {tensor.untyped_storage().data_ptr() for tensor in given}
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in saved}
    expected = sum(storage.nbytes() for address, storage in sizes.items() if address not in known)
    assert sum(layer.saved_bytes for layer in quick(model, inputs).layers) == expected


def test_nothing_that_it_is_given_changes() -> None:
    model, inputs = convolutions(), IMAGES.clone()
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    quick(model, inputs, repeats=2, threads=threads + 1)
    assert all(torch.equal(state[name], now) for name, now in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(inputs, IMAGES)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_num_threads() == threads


def test_a_first_layer_that_works_in_place_does_not_change_the_data() -> None:
    inputs = INPUTS.clone()
    quick(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3)), inputs)
    assert torch.equal(inputs, INPUTS)


def test_times_are_whole_nanoseconds_and_add_up_to_less_than_it_took() -> None:
    start_ns = time.monotonic_ns()
    with torch.no_grad():  # whatever the mode of its caller
        workload = quick(convolutions(), IMAGES, repeats=4)
    duration_ns = time.monotonic_ns() - start_ns
    times = [
        time * 10**9
        for layer in workload.layers
        for time in (layer.forward_s, layer.backward_s, layer.update_s)
    ]
    assert all(time > 0 and time.denominator == 1 for time in times)
    assert 4 * sum(times) <= duration_ns + 4 * len(times)  # a mean is rounded up by less than 1 ns


def test_a_workload_file_holds_it_exactly(tmp_path: Path) -> None:
    workload = quick(mlp())
    dump_workload(workload, tmp_path / "workload.json")
    assert load_workload(tmp_path / "workload.json") == workload


class Clock:
    """A clock that goes on where the models below say so, while they run or are stalled."""

    now = stalled = 0


class Slow(torch.autograd.Function):
    """Takes 1, 2, 3, ... seconds in successive passes forward, ten times as long backward."""

    @staticmethod
    def forward(context: Any, inputs: torch.Tensor, seconds: int) -> torch.Tensor:
        context.seconds = seconds
        Clock.now += seconds * 10**9
        return inputs.clone()

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        Clock.now += 10 * context.seconds * 10**9
        return gradients[0], None


class SlowLinear(nn.Linear):
    passes = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        result: torch.Tensor = Slow.apply(super().forward(inputs), self.passes)
        return result


class SlowSGD(SGD):
    def step(self, closure: Any = None) -> None:
        super().step()
        Clock.now += 7 * 10**9


def scripted(monkeypatch: pytest.MonkeyPatch, shares: list[float | None]) -> list[float | None]:
    """Let the watches of successive phases report these; returns what is left of them."""
    left = list(shares)

    class Watch:
        def other_share(self) -> float | None:
            return left.pop(0)

    monkeypatch.setattr(executor.profile, "CpuWatch", Watch)
    return left


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr(executor.profile, "now_ns", lambda: Clock.now)
    monkeypatch.setattr(executor.profile, "thread_time_ns", lambda: Clock.now - Clock.stalled)
    for name in ("now", "stalled"):
        monkeypatch.setattr(Clock, name, 0)
    scripted(monkeypatch, [0.0] * 10)
    return Clock


@pytest.mark.usefixtures("clock")
def test_times_are_means_and_belong_to_the_layer_and_the_operation_that_took_them() -> None:
    model = nn.Sequential(nn.Linear(6, 5), SlowLinear(5, 5), nn.ReLU(), nn.Linear(5, 3))
    made = iter([SGD, SGD, SlowSGD, SGD])  # the first is only tried

    def make_optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
        return next(made)(parameters, lr=0.1)

    def slow_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        Clock.now += 10**9
        return LOSS(outputs, labels)

    unmeasured = 1 + executor.profile.WARM_UP_PASSES
    workload = quick(model, repeats=3, make_optimizer=make_optimizer, loss=slow_loss)
    mean = unmeasured + Fraction(1 + 2 + 3, 3)
    first, second, third = workload.layers
    assert (first.forward_s, first.backward_s, first.update_s) == (0, 0, 0)
    assert (second.forward_s, second.backward_s, second.update_s) == (mean, 10 * mean, 7)
    assert (third.forward_s, third.backward_s, third.update_s) == (1, 0, 0)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("shares", "used", "counted", "told", "note"),
    [
        ([0.0, 0.05, 0.01, 0.9], 3, [1, 2, 3], [1, 1, 1, 0], (0, "at most 5.0%")),
        ([0.0, 0.3, 0.01, 0.02], 4, [1, 3, 4], [1, 0, 1, 1, 0], (1, "at most 2.0%")),
        (
            [0.5, 0.3, 0.9, 0.2, 0.01, 0.8, 0.0],
            6,
            [2, 4, 5],
            [0, 0, 0, 0, 1, 0, 2],
            (3, "at most 30.0%"),
        ),
        ([None] * 4, 3, [1, 2, 3], [1, 1, 1, 0], (0, "an unknown share")),
    ],
)
def test_disturbed_phases_are_dropped_and_repeated_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
    shares: list[float | None],
    used: int,
    counted: list[int],
    told: list[int],
    note: tuple[int, str],
) -> None:
    left = scripted(monkeypatch, shares)
    heard: list[int] = []
    # Each pass takes more than a phase must, so there is one pass in each.
    model = nn.Sequential(nn.Linear(6, 5), SlowLinear(5, 3))
    workload = quick(model, repeats=3, phase_s=1.0, progress=heard.append)
    assert len(shares) - len(left) == used
    unmeasured = 1 + executor.profile.WARM_UP_PASSES
    assert workload.layers[1].forward_s == Fraction(
        round(10**9 * (unmeasured + Fraction(sum(counted), 3))), 10**9
    )
    assert heard == told
    dropped, others = note
    assert workload.note.endswith(
        f"passes: 3 in 3 phases, disturbed phases dropped: {dropped}; "
        f"in those counted, others took {others} of the CPU, waiting 0.0% of the time"
    )


def test_phases_that_did_not_get_to_run_are_dropped_too(
    clock: type[Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.0] * 4)
    waits_s = iter([0] * (1 + executor.profile.WARM_UP_PASSES) + [1, 73, 2, 30])

    def stall(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        wait_s = next(waits_s)
        clock.now += (1 + wait_s) * 10**9
        clock.stalled += wait_s * 10**9
        return LOSS(outputs, labels)

    workload = quick(mlp(), repeats=2, loss=stall)
    assert workload.forward_s == Fraction((1 + 1) + (1 + 2), 2)
    assert workload.note.endswith(
        "passes: 2 in 2 phases, disturbed phases dropped: 2; "
        "in those counted, others took at most 0.0% of the CPU, waiting 66.7% of the time"
    )


def test_phases_last_as_long_as_they_should(
    clock: type[Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = scripted(monkeypatch, [0.0, 0.0])
    monkeypatch.setattr(SlowLinear, "forward", one_tenth_of_a_second)
    workload = quick(nn.Sequential(SlowLinear(6, 3)), repeats=2, phase_s=0.55)
    assert "passes: 12 in 2 phases" in workload.note
    assert not left
    quick(nn.Sequential(SlowLinear(6, 3)), repeats=2, phase_s=0.4)  # too short to be judged


def one_tenth_of_a_second(layer: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    Clock.now += 10**8
    return nn.functional.linear(inputs, layer.weight, layer.bias)


@pytest.mark.usefixtures("clock")
def test_the_note_says_where_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {**describe_machine(), "date": "2026-01-31T12:00:00+00:00"}
    monkeypatch.setattr(executor.profile, "describe_machine", lambda: machine)
    assert quick(mlp(), threads=2).note == (
        f"profiled on {machine['cpu']}, cores: {machine['cores']}, threads used: 2, "
        f"torch {torch.__version__}, Python {machine['python']}, 2026-01-31T12:00:00+00:00; "
        "passes: 1 in 1 phases, disturbed phases dropped: 0; "
        "in those counted, others took an unknown share of the CPU, waiting 0.0% of the time"
    )


def test_operations_run_with_the_given_number_of_threads() -> None:
    seen = set()

    class Spy(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            seen.add(torch.get_num_threads())
            return super().forward(inputs)

    quick(nn.Sequential(Spy(6, 3)), threads=torch.get_num_threads() + 1)
    assert seen == {torch.get_num_threads() + 1}


class Recorded(SGD):
    """Keeps the gradients that it is given."""

    seen: list[list[torch.Tensor]]

    def step(self, closure: Any = None) -> None:
        super().step()
        parameters = self.param_groups[0]["params"]
        self.seen.append([p.grad.detach().clone() for p in parameters])


def test_a_pass_computes_the_gradients_of_plain_backpropagation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Recorded, "seen", [], raising=False)
    model = convolutions()
    plain = copy.deepcopy(model)
    torch.manual_seed(3)
    LOSS(plain(IMAGES), LABELS).backward()
    torch.manual_seed(3)
    passes = Passes(model, IMAGES, LABELS, LOSS, partial(Recorded, lr=0.1))
    passes.run(lambda *_: nullcontext())
    for layer, found in zip(reversed(layers_of(plain)), Recorded.seen, strict=True):
        expected = [p.grad for p in layer.parameters() if p.requires_grad]
        assert len(found) == len(expected) > 0
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "make_optimizer",
    [partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1), partial(Adam, lr=0.1, weight_decay=0.1)],
    ids=["sgd", "adam"],
)
def test_passes_leave_the_weights_where_they_are(make_optimizer: Any) -> None:
    model = mlp()
    passes = Passes(model, INPUTS, LABELS, LOSS, make_optimizer)
    for _ in range(3):
        passes.run(lambda *_: nullcontext())
    own = [parameter for layer in passes.layers for parameter in layer.parameters()]
    pairs = list(zip(own, model.parameters(), strict=True))
    assert all(torch.equal(a, b) and a is not b for a, b in pairs)


def test_operations_come_in_the_order_of_training() -> None:
    seen: list[tuple[str, int]] = []

    def around(operation: str, number: int) -> AbstractContextManager[None]:
        seen.append((operation, number))
        return nullcontext()

    Passes(mlp(), INPUTS, LABELS, LOSS, sgd).run(around)
    expected = [("forward", 0), ("forward", 1), ("forward", 2), ("loss", 2)]
    expected += [(kind, number) for kind in ("backward", "update") for number in (2, 1, 0)]
    assert seen == expected


class Returns(nn.Linear):
    """A linear map with something done to its result."""

    def __init__(self, change: Any) -> None:
        super().__init__(6, 6)
        self.change = change

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.change(super().forward(inputs))


class ShyError(RuntimeError):
    pass


def silent(_: torch.Tensor) -> None:
    raise ShyError


class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.clone()

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        raise ValueError("no way\n  back")


def after(change: Any) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 6), Returns(change), nn.Linear(6, 3))


def no_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return outputs


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"repeats": 0}, "repeats is 0: must be at least 1; give 1 or more"),
        ({"threads": 0}, "threads is 0: must be at least 1; give 1 or more"),
        (
            {"inputs": torch.zeros(0, 6)},
            "shape of the inputs is '(0, 6)': must be a batch of at least one sample; "
            "give it samples",
        ),
        (
            {"inputs": torch.tensor(1.0)},
            "shape of the inputs is '()': must be a batch of at least one sample; give it samples",
        ),
        (
            {"inputs": torch.zeros(4, 6, device="meta")},
            "device is 'meta': must be cpu: elsewhere operations end after their call; "
            "move model and data to the CPU",
        ),
        (
            {"model": nn.Sequential(nn.ReLU())},
            "model is 'Sequential': must have parameters to learn; add a layer that learns",
        ),
        (
            {"inputs": torch.zeros(4, 6, dtype=torch.int64)},
            "layer 1 of the model is 'Linear, ReLU, Linear, ReLU': must accept the data, int64 of "
            "shape (4, 6) (RuntimeError: mat1 and mat2 must have the same dtype, but got Long and "
            "Float); convert the data to floating point, or begin with an nn.Embedding",
        ),
        (
            {"model": nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(4, 3))},
            "layer 2 of the model is 'Linear': must accept the output of layer 1, float32 of "
            "shape (4, 5) (RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x5 and 4x3)); "
            "make the two fit",
        ),
        (
            {"model": after(silent)},
            "layer 2 of the model is 'Returns': must accept the output of layer 1, float32 of "
            "shape (4, 6) (ShyError); make the two fit",
        ),
        (
            {"model": after(lambda output: (output, 1))},
            "layer 2 of the model is 'Returns': must return one tensor, not a tuple; "
            "wrap it in a module that does",
        ),
        (
            {"model": after(torch.Tensor.int)},
            "layer 2 of the model is 'Returns': must return floating-point numbers, not int32, for "
            "gradients to come back; convert its output",
        ),
        (
            {"model": after(Backwards.apply)},
            "layer 2 of the model is 'Returns': must let gradients through to what it is given "
            "(ValueError: no way back); correct its forward pass",
        ),
        (
            {"labels": LABELS + 9},
            "loss is 'CrossEntropyLoss': must make one number of outputs (4, 3) and the labels "
            "(IndexError: Target 9 is out of bounds.); make the model, the labels and it fit",
        ),
        (
            {"loss": no_loss},
            "loss is 'no_loss': must make one number of outputs (4, 3) and the labels "
            "(RuntimeError: a Tensor with 12 elements cannot be converted to Scalar); "
            "make the model, the labels and it fit",
        ),
        (
            {"make_optimizer": partial(SGD, lr=-1.0)},
            "optimiser is 'make_optimizer': must make an optimiser from parameters "
            "(ValueError: Invalid learning rate: -1.0); correct its options",
        ),
        (
            {"make_optimizer": torch.optim.LBFGS},
            "optimiser is 'LBFGS': must update layer 3 from its gradients (TypeError: "
            "LBFGS.step() missing 1 required positional argument: 'closure'); choose another one",
        ),
    ],
)
def test_what_cannot_be_profiled_is_one_clear_line(options: dict[str, Any], line: str) -> None:
    threads = torch.get_num_threads()
    with pytest.raises(InputError) as caught:
        quick(options.pop("model", None) or mlp(), **{"threads": threads + 1, **options})
    assert str(caught.value) == line
    assert torch.get_num_threads() == threads


def test_a_long_message_is_cut() -> None:
    def talk(_: torch.Tensor) -> None:
        raise ShyError("x" * 1000)

    with pytest.raises(InputError, match=r"\(ShyError: x{147}\.\.\.\); make") as caught:
        quick(after(talk))
    assert len(str(caught.value)) < 300


def test_a_machine_is_described_for_reports() -> None:
    machine = describe_machine()
    assert machine["torch"] == str(torch.__version__)
    assert isinstance(machine["cores"], int)
    assert machine["cores"] >= 1
    assert machine["cpu"]


def test_layers_are_those_of_the_executor() -> None:
    model = convolutions()
    assert len(quick(model, IMAGES).layers) == len(layers_of(model)) == 4
    assert all(a.name != b.name for a, b in pairwise(quick(model, IMAGES).layers))
