"""Threads against the simulator and the validator: the same programs, so the same order and gaps.

Nothing here depends on how fast anything is.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from functools import partial
from threading import Thread
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from executor.data import DataSet
from executor.ports import Exchange, LocalEnds, LocalPort, Port, SourcePort
from executor.ring import Stopped
from executor.threads import run_threads
from executor.training import DataSource, RunResult, Training, optimizer
from simcore.engine import simulate
from simcore.invariants import check_trace, operations_of
from simcore.ops import Channel
from simcore.schedule import Schedule
from simcore.schedules import build
from simcore.trace import Trace
from simcore.validate import validate
from simcore.workload import Workload

BATCHES, BATCH_SIZE = 9, 4


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data_set(features: int = 3, classes: int = 2) -> DataSet:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(30, features, dtype=torch.float64, generator=generator)
    labels = torch.randint(classes, (30,), generator=generator)
    return DataSet("noise", inputs, labels, inputs[:0], labels[:0], classes)


def network(layers: int) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [part for _ in range(layers - 1) for part in (nn.Linear(3, 3), nn.Tanh())]
    return nn.Sequential(*hidden, nn.Linear(3, 2)).double()


def train(name: str, make_optimizer: Any = None, **options: Any) -> tuple[Schedule, RunResult]:
    """Train a network of one layer per block with threads."""
    schedule = build(name, **options)
    training = Training(
        partial(build, name, **options),
        network(schedule.blocks),
        tuple(range(schedule.blocks + 1)),
        DataSource(data_set(), BATCH_SIZE, seed=0),
        make_optimizer or optimizer("sgd", 0.05, 0.9),
    )
    return schedule, run_threads(training)


def versions_of(trace: Trace) -> dict[tuple[int, int], tuple[int, ...]]:
    columns = ("version_forward", "version_backward", "version_applied", "version_base")
    return {
        (int(row["block"]), int(row["batch"])): tuple(int(row[column]) for column in columns)
        for row in trace.gradients
    }


def product(**values: tuple[Any, ...]) -> list[dict[str, Any]]:
    combined = itertools.product(*values.values())
    return [dict(zip(values, chosen, strict=True)) for chosen in combined]


STATIC = [
    *(("bp", options) for options in product(modules=(1, 3), weights=("stash", "mixed"))),
    *(
        ("fdg", options)
        for options in product(modules=(1, 2, 3, 4), weights=("stash", "mixed"), shrink=(0.5,))
    ),
    *(
        ("adl", options)
        for options in product(
            modules=(1, 2, 3, 4),
            accumulation=(1, 2, 4),
            order=("forward-first", "update-first"),
            window=("batch", "gradient"),
        )
    ),
    ("adl", {"modules": 3, "accumulation": 2, "weights": "mixed", "reduce": "sum"}),
    ("adl", {"modules": 2, "accumulation": 20}),  # a window that never fills
    ("async-lu", {"layers": 2, "forward_threads": 1, "backward_threads": 1, "queue_capacity": 1}),
]


def shown(value: object) -> str:
    if isinstance(value, dict):
        return "-".join(str(option) for option in value.values()) or "default"
    return str(value)


@pytest.mark.parametrize(("name", "options"), STATIC, ids=shown)
def test_static_schedules_run_as_they_are_simulated(name: str, options: dict[str, Any]) -> None:
    """Each worker's order is the validator's and the simulator's; so are all versions.

    The gap of every batch in every module is then exact, not only its distribution. Async BP with
    one thread of each kind has a fixed order of operations, but its versions depend on time.
    """
    schedule, result = train(name, batches=BATCHES, **options)
    check_trace(schedule, result.trace)
    verdict = validate(schedule)
    assert verdict.conclusive
    simulated = simulate(schedule, Workload.even(schedule.blocks, update_s=0.1))
    assert operations_of(result.trace) == verdict.operations == operations_of(simulated)
    if name != "async-lu":
        assert versions_of(result.trace) == versions_of(simulated)
    assert_complete(result, schedule)


def assert_complete(result: RunResult, schedule: Schedule) -> None:
    assert result.failure is None
    batches, losses, seconds = zip(*result.losses, strict=True)
    assert batches == tuple(range(schedule.batches))
    assert torch.tensor(losses).isfinite().all()
    assert min(seconds) >= 0
    model = network(schedule.blocks)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert result.state is not None
    model.load_state_dict(result.state, strict=True)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert all(not torch.equal(before[name], tensor) for name, tensor in result.state.items())


@pytest.mark.parametrize("modules", [2, 4])
def test_fdg_has_the_gaps_of_its_formula(modules: int) -> None:
    """max(0, 2(K - k) - 1), and t for the first batches t < 2(K - k), on real threads."""
    _, result = train("fdg", modules=modules, batches=BATCHES)
    for row in result.trace.gradients:
        full = max(0, 2 * (modules - int(row["block"])) - 1)
        assert row["version_applied"] - row["version_forward"] == min(full, int(row["batch"]))


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_adl_has_the_gaps_of_its_equation_17(accumulation: int) -> None:
    """d = s - floor((M s + j - 2(K - k)) / M) for every whole window of K = 3 modules."""
    modules, many = 3, accumulation
    _, result = train("adl", modules=modules, batches=15, accumulation=many)
    checked = Counter[int]()
    for row in result.trace.gradients:
        block, batch = int(row["block"]), int(row["batch"])
        delay = 2 * (modules - block)
        window, position = divmod(batch + delay, many)
        if batch >= delay and (window + 1) * many - delay <= 15:
            expected = window - (many * window + position - delay) // many
            assert row["version_applied"] - row["version_forward"] == expected
            checked[block] += 1
    assert all(checked[block] >= 5 for block in range(1, modules + 1))


def test_runs_repeat_exactly() -> None:
    """Static schedules leave nothing to chance: weights and losses are the same to the bit."""
    for name, options in (("fdg", {"modules": 3}), ("adl", {"modules": 3, "accumulation": 2})):
        runs = [train(name, batches=BATCHES, **options)[1] for _ in range(2)]
        losses = [[(batch, loss) for batch, loss, _ in run.losses] for run in runs]
        assert losses[0] == losses[1]
        first, second = (run.state or {} for run in runs)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_model_that_was_given_stays_as_it_is() -> None:
    model = network(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    source = DataSource(data_set(), BATCH_SIZE, seed=0)
    make = partial(build, "fdg", modules=2, batches=3)
    run_threads(Training(make, model, (0, 1, 2), source, optimizer("sgd", 0.1)))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_progress_adds_up_to_all_gradients() -> None:
    told: list[int] = []
    source = DataSource(data_set(), BATCH_SIZE, seed=0)
    make = partial(build, "fdg", modules=2, batches=BATCHES)
    training = Training(make, network(2), (0, 1, 2), source, optimizer("sgd", 0.1))
    run_threads(training, told.append)
    assert sum(told) == 2 * BATCHES


# Asynchronous backpropagation: the order is for the threads to find

ASYNC = [
    *product(
        forward_threads=(1, 2), backward_threads=(1, 3), write=("add",), weights=("stash", "mixed")
    ),
    *product(backward_threads=(2,), write=("assign",), refresh=("layer", "pass")),
    *product(backward_threads=(2,), weights=("stash", "mixed"), momentum=("shared",)),
    *product(backward_threads=(2,), queue_capacity=(1, 3)),
]


@pytest.mark.parametrize("name", ["async-lu", "async-bu"])
@pytest.mark.parametrize("options", ASYNC, ids=shown)
def test_asynchronous_runs_account_for_every_gradient(name: str, options: dict[str, Any]) -> None:
    """Each batch once per layer; versions unique and without holes; no full queue overrun.

    All of that is `check_trace`. Work is a permutation of what the validator finds.
    """
    schedule, result = train(name, layers=3, batches=20, **options)
    check_trace(schedule, result.trace)
    found = Counter(itertools.chain(*operations_of(result.trace)))
    assert found == Counter(itertools.chain(*validate(schedule).operations))
    assert_complete(result, schedule)
    rows = result.trace.gradients
    assert len(rows) == 60
    for layer in (1, 2, 3):
        of_layer = rows[rows["block"] == layer]
        assert sorted(of_layer["version_applied"].tolist()) == list(range(20))


class Dyadic(Optimizer):
    """Steps of whole multiples of 2**-20, so that sums are exact in any order; logs each one."""

    def __init__(self, parameters: Any, log: list[list[torch.Tensor]]) -> None:
        super().__init__(parameters, {})
        self.log = log

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        parameters = [p for group in self.param_groups for p in group["params"]]
        steps = []
        for parameter in parameters:
            assert parameter.grad is not None
            steps.append(torch.round(parameter.grad * 2**16) * -(2.0**-20))
        with torch.no_grad():
            for parameter, step in zip(parameters, steps, strict=True):
                parameter.add_(step)
        self.log.append(steps)


@pytest.mark.parametrize(
    "options",
    [
        *product(weights=("stash",), backward_threads=(1, 3), momentum=("worker", "shared")),
        *product(weights=("mixed",), backward_threads=(1,)),
    ],
    ids=shown,
)
@pytest.mark.parametrize("name", ["async-lu", "async-bu"])
def test_final_weights_are_the_sum_of_all_steps(name: str, options: dict[str, Any]) -> None:
    """Nothing is lost where updates exclude each other: stashed weights, or a single writer.

    With several writers in place (`mixed`) the tensor additions themselves may race.
    """
    layers, batches = 2, 25
    log: list[list[torch.Tensor]] = []  # appending is atomic
    model = network(layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.round(parameter * 2**20) * 2.0**-20)
    training = Training(
        partial(build, name, layers=layers, batches=batches, **options),
        model,
        (0, 1, 2),
        DataSource(data_set(), BATCH_SIZE, seed=0),
        partial(Dyadic, log=log),
    )
    result = run_threads(training)
    assert result.state is not None
    assert len(log) == layers * batches
    for layer, child in ((0, 0), (1, 2)):
        shape = model[child].weight.shape
        steps = [found for found in log if found[0].shape == shape]
        assert len(steps) == batches
        for number, part in enumerate(("weight", "bias")):
            initial = model.state_dict()[f"{child}.{part}"]
            expected = initial + torch.stack([found[number] for found in steps]).sum(0)
            assert torch.equal(result.state[f"{child}.{part}"], expected), (layer, part)


# Channels between threads


def pipe(capacity: int | None = None, senders: int = 1) -> tuple[LocalPort, Exchange]:
    exchange = Exchange()
    return LocalPort(exchange, Channel("pipe", (), capacity), senders), exchange


def test_a_full_channel_makes_its_sender_wait() -> None:
    """The third message enters once the first has been taken, and never before."""
    port, _ = pipe(capacity=2)
    lengths: list[int] = []

    def send() -> None:
        for batch in range(10):
            port.send(batch, [])
            lengths.append(len(port.arrived))
        port.close()

    sender = Thread(target=send, daemon=True)
    sender.start()
    received = []
    while (message := port.receive()) is not None:
        received.append(message.batch)
    sender.join()
    assert received == list(range(10))
    assert max(lengths) <= 2


def test_a_channel_closes_with_its_last_sender() -> None:
    port, _ = pipe(senders=2)
    port.close()
    port.send(4, [])
    port.close()
    assert port.receive() is not None
    assert port.receive() is None


@pytest.mark.parametrize("wait", ["send", "receive", "select"])
def test_a_stopped_run_wakes_up_whoever_waits(wait: str) -> None:
    port, exchange = pipe(capacity=1)
    channel = Channel("pipe", ())
    ended: list[type] = []

    def work() -> None:
        try:
            if wait == "send":
                port.send(0, [])
                port.send(1, [])
            elif wait == "receive":
                port.receive()
            else:
                LocalEnds({channel: port}, exchange, {}).select((channel,))
        except Stopped:
            ended.append(Stopped)

    worker = Thread(target=work, daemon=True)
    worker.start()
    exchange.stop()
    worker.join()
    assert ended == [Stopped]


def test_select_takes_the_first_listed_and_sources_too() -> None:
    """As in the simulator: what is there, in the listed order; None once all are closed."""
    exchange = Exchange()
    first, data, last = Channel("first", ()), Channel("data", (), source=True), Channel("last", ())
    ports: dict[Channel, Port] = {
        first: LocalPort(exchange, first, 1),
        data: SourcePort(data, 2, lambda batch: []),
        last: LocalPort(exchange, last, 1),
    }
    ends = LocalEnds(ports, exchange, {})
    ports[last].send(7, [])
    ports[first].send(8, [])
    found = []
    for channel in (first, last):
        ports[channel].close()
    while (answer := ends.select((first, data, last))) is not None:
        found.append((answer[0].name, answer[1].batch))
    assert found == [("first", 8), ("data", 0), ("data", 1), ("last", 7)]


def test_a_select_waits_for_whichever_comes() -> None:
    exchange = Exchange()
    channels = tuple(Channel(name, ()) for name in ("a", "b"))
    ports = {channel: LocalPort(exchange, channel, 1) for channel in channels}
    ends = LocalEnds(ports, exchange, {})

    def send() -> None:
        ports[channels[0]].close()
        ports[channels[1]].send(3, [])
        ports[channels[1]].close()

    sender = Thread(target=send, daemon=True)
    sender.start()
    answer = ends.select(channels)
    assert answer is not None
    assert (answer[0].name, answer[1].batch) == ("b", 3)
    assert ends.select(channels) is None
    sender.join()


def test_sources_may_be_shared() -> None:
    """Several threads take each batch once."""
    port = SourcePort(Channel("data", (), source=True), 500, lambda batch: [])
    found: list[int] = []

    def take() -> None:
        while (message := port.receive()) is not None:
            found.append(message.batch)

    threads = [Thread(target=take, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(500))
