"""Chrome traces as workloads: hand-made ones of known times, and real ones of torch.profiler."""

import gzip
import json
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from simcore.errors import InputError
from simcore.interop.profiles import load_profile
from simcore.interop.workloads import load_workload_any
from simcore.workload import Workload, dump_workload

Event = dict[str, Any]
FORWARD_S, BACKWARD_S = 0.05, 0.1
FUNCTION = "autograd::engine::evaluate_function: "


def event(name: str, start: float, duration: float, thread: int = 1, **more: Any) -> Event:
    """A slice. Times in microseconds, as in the files."""
    return {"ph": "X", "name": name, "ts": start, "dur": duration, "pid": 1, "tid": thread, **more}


def operation(
    name: str, start: float, duration: float, number: int, *, backward: bool = False, **more: Any
) -> Event:
    """An operation as torch.profiler records it."""
    arguments = {"Sequence number": number, "Fwd thread id": int(backward), **more}
    thread = 2 if backward else 1
    return event(name, start, duration, thread, cat="cpu_op", args=arguments)


def written(folder: Path, events: list[Event] | dict[str, Any], name: str = "net.json") -> Path:
    path = folder / name
    document = events if isinstance(events, dict) else {"traceEvents": events}
    path.write_text(json.dumps(document))
    return path


def times(workload: Workload) -> dict[str, tuple[float, float, float]]:
    """Forward, backward and update of each layer in microseconds."""
    return {
        layer.name: tuple(
            float(10**6 * each) for each in (layer.forward_s, layer.backward_s, layer.update_s)
        )
        for layer in workload.layers
    }


def step(at: float, number: int, scale: float = 1) -> list[Event]:
    """A training step of two layers, and a loss outside of them."""
    return [
        event("forward a", at, 10 * scale),
        operation("aten::add_", at + 1, 1, number),  # makes no node: the next one has its number
        operation("aten::addmm", at + 2, 5, number),
        event("forward b", at + 20, 6 * scale),
        operation("aten::relu", at + 21, 4, number + 1),
        operation("aten::cross_entropy_loss", at + 40, 7, number + 2),
        operation("aten::log_softmax", at + 41, 5, number + 2),
        operation("aten::argmax", at + 50, 3, number + 3),  # needs no gradient
        operation(f"{FUNCTION}LogSoftmaxBackward0", at + 60, 2, number + 2, backward=True),
        operation(f"{FUNCTION}ReluBackward0", at + 63, 3, number + 1, backward=True),
        operation("ReluBackward0", at + 64, 1, number + 1, backward=True),
        operation(f"{FUNCTION}AddmmBackward0", at + 67, 8 * scale, number, backward=True),
        event(f"{FUNCTION}torch::autograd::AccumulateGrad", at + 80, 1, 2, cat="cpu_op"),
        event("Optimizer.step#SGD.step", at + 90, 4, cat="user_annotation"),
    ]


def test_autograds_records_say_whose_backward_pass_it_is(tmp_path: Path) -> None:
    workload = load_profile(written(tmp_path, step(1000, 7)))
    # The loss, 7 forward and 2 backward, counts to b; without sizes the layers share the optimiser.
    assert times(workload) == {"a": (10, 9, 2), "b": (13, 5, 2)}


def test_times_are_medians_over_complete_passes(tmp_path: Path) -> None:
    warm_up = step(1000, 7, scale=9)
    unfinished = [event("forward a", 4000, 90), operation("aten::addmm", 4001, 50, 40)]
    events = [*warm_up, *step(2000, 17), *step(3000, 27), *unfinished]
    workload = load_profile(written(tmp_path, events))
    assert times(workload) == {"a": (10, 9, 2), "b": (13, 5, 2)}
    assert "3 passes" in workload.note


def test_recomputation_is_part_of_the_backward_pass(tmp_path: Path) -> None:
    recomputed = event("forward a", 1068, 3, thread=2)
    workload = load_profile(written(tmp_path, [*step(1000, 7), recomputed]))
    assert times(workload) == {"a": (10, 9, 2), "b": (13, 5, 2)}


def test_kernels_take_the_place_of_the_operations_that_launched_them(tmp_path: Path) -> None:
    def launched(start: float, thread: int, number: int) -> list[Event]:
        host = event("cudaLaunchKernel", start, 1, thread, cat="cuda_runtime")
        kernel = event("sgemm", start + 500, 100 * number, 7, cat="kernel")
        return [{**each, "args": {"correlation": number}} for each in (host, kernel)]

    events = [
        *step(1000, 7),
        event("forward a", 1500, 10, 7, cat="gpu_user_annotation"),
        *launched(1003, 1, 1),
        *launched(1022, 1, 2),
        *launched(1069, 2, 3),
        *launched(1064, 2, 4),
        *launched(1055, 1, 5),  # of the accuracy, which is not trained on
        event("memory", 1600, 1, 7, cat="gpu_memset"),
    ]
    assert times(load_profile(written(tmp_path, events))) == {
        "a": (100, 300, 0),
        "b": (200, 400, 0),
    }


def test_any_tools_slices_named_by_kind_and_layer(tmp_path: Path) -> None:
    begun = [
        {"ph": "B", "name": "forward conv 1", "ts": 5, "pid": "a", "tid": "b"},
        {"ph": "B", "name": "inner", "ts": 6, "pid": "a", "tid": "b"},
        {"ph": "E", "ts": 7, "pid": "a", "tid": "b"},
        {"ph": "E", "ts": 9.5, "pid": "a", "tid": "b"},
        {"ph": "E", "ts": 10, "pid": "a", "tid": "b"},
        {"ph": "M", "name": "thread_name", "pid": "a", "tid": "b", "args": {"name": "main"}},
    ]
    events = [*begun, event("backward conv 1", 20, 8), event("update conv 1", 30, 0.25)]
    path = tmp_path / "net.trace.json.gz"
    path.write_bytes(gzip.compress(json.dumps(events).encode()))
    workload = load_workload_any(path)
    assert (workload.name, times(workload)) == ("net", {"conv 1": (4.5, 8, 0.25)})


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([event("aten::addmm", 0, 1)], "is 'without layers': must have slices named 'forward"),
        ([event("forward a", 0, 1)], "is 'without backward pass': must have a backward pass"),
        (
            [event("forward a", 0, 1), event("forward b", 0, 1, 2)],
            "is 'of several threads': must have the 'forward NAME' slices of all layers on one",
        ),
        ({"traceEvents": [{"ph": "X", "name": "forward a"}]}, "must be a Chrome trace"),
        ({"traceEvents": 5}, "must be a Chrome trace"),
        ({"events": []}, "must be a Chrome trace"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, events: list[Event] | dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        load_profile(written(tmp_path, events))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads of PyTorch that wait for each other take long where other tests take the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def annotate(model: nn.Sequential) -> None:
    """Mark the forward pass of each layer, as the how-to page does."""
    for name, layer in model.named_children():
        layer.forward = record_function(f"forward {name}")(layer.forward)


def recorded(folder: Path, model: nn.Sequential, inputs: torch.Tensor, steps: int) -> Path:
    annotate(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    labels = torch.zeros(len(inputs), dtype=torch.long)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recording:
        for _ in range(steps):
            outputs = model(inputs)
            nn.functional.cross_entropy(outputs, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            (outputs.argmax(1) == labels).float().mean()
    path = folder / "recorded.json.gz"
    recording.export_chrome_trace(str(path))
    return path


class Wait(torch.autograd.Function):
    """The identity, but slow: its times are known from below whatever else the machine does."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor) -> torch.Tensor:
        time.sleep(FORWARD_S)
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        time.sleep(BACKWARD_S)
        return gradient


class Slow(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return Wait.apply(inputs)


@pytest.mark.usefixtures("one_thread")
def test_a_real_profile_of_pytorch(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(96, 64), nn.BatchNorm1d(64), Slow(), nn.Linear(64, 10))
    workload = load_workload_any(recorded(tmp_path, model, torch.randn(32, 96), steps=5))
    layers = workload.layers
    assert [layer.name for layer in layers] == ["0", "1", "2", "3"]
    assert [layer.parameter_bytes for layer in layers] == [
        sum(4 * weight.numel() for weight in layer.parameters()) for layer in model
    ]
    assert [layer.activation_bytes for layer in layers] == [32 * 64 * 4] * 3 + [32 * 10 * 4]
    assert workload.input_bytes == 32 * 96 * 4
    for number, layer in enumerate(layers):
        assert 0 < layer.forward_s < FORWARD_S or number == 2
        assert 0 < layer.backward_s < BACKWARD_S or number == 2
    assert layers[2].forward_s >= FORWARD_S
    assert layers[2].backward_s >= BACKWARD_S
    assert layers[0].update_s == pytest.approx(6208 / 650 * layers[3].update_s, rel=1e-2)


def test_an_embedding_is_given_its_indices_second(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(50, 16), nn.Flatten(), nn.Linear(48, 10))
    inputs = torch.zeros(4, 3, dtype=torch.long)
    workload = load_profile(recorded(tmp_path, model, inputs, steps=1))
    assert workload.input_bytes == 4 * 3 * 8
    assert [layer.activation_bytes for layer in workload.layers] == [4 * 48 * 4] * 2 + [4 * 10 * 4]


def test_formats_are_told_by_their_content(tmp_path: Path) -> None:
    workload = Workload.even(3, forward_s=Fraction(1, 7))
    dump_workload(workload, tmp_path / "whatever")
    assert load_workload_any(tmp_path / "whatever") == workload
    graph = tmp_path / "graph"
    graph.write_text(
        "node1 -- Linear -- forward_compute_time=1.0, backward_compute_time=2.0, "
        "activation_size=3.0, parameter_size=4.0\n"
    )
    assert load_workload_any(graph).layers[0].name == "node1 Linear"
    assert times(load_workload_any(written(tmp_path, step(0, 0))))["a"] == (10, 9, 2)
    (tmp_path / "words").write_text("hello")
    with pytest.raises(InputError, match=r"must be a workload file, a graph\.txt of PipeDream or"):
        load_workload_any(tmp_path / "words")
    with pytest.raises(InputError, match="must be a readable text"):
        load_workload_any(tmp_path / "nothing")
    (tmp_path / "bytes").write_bytes(b"\x1f\x8b\x00broken")
    with pytest.raises(InputError, match="must be a readable text"):
        load_workload_any(tmp_path / "bytes")
