"""What each layer of a network costs, measured in training passes in this process."""

from collections.abc import Callable
from fractions import Fraction
from time import thread_time_ns
from typing import Final

import torch
from torch import nn

from executor.clock import now_ns
from executor.examination import examine, one_line
from executor.hygiene import CpuWatch
from executor.machine import describe_machine
from executor.passes import Operation, Passes
from executor.tensors import Loss
from executor.weights import MakeOptimizer
from simcore.errors import InputError
from simcore.workload import Layer, Workload

__all__ = ["profile"]

WARM_UP_PASSES: Final = 3  # the first ones choose kernels and allocate buffers
DISTURBED: Final = 0.05  # share of CPU or time lost above which a phase is dropped
JUDGED_S: Final = 0.5  # Linux counts CPU time in steps of 10 ms: too coarse for shorter phases


def profile(
    model: nn.Sequential,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    loss: Loss,
    make_optimizer: MakeOptimizer,
    repeats: int = 5,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
    *,
    phase_s: float = 1.0,
    name: str = "model",
) -> Workload:
    """Measure time and memory of each layer for one batch, in training passes on a copy.

    Times, in seconds, are means over whole passes (see `Passes`), rounded to 1 ns: a layer alone in
    a hot loop would find weights in the cache that training does not find there. The forward time
    of the last layer includes the loss. What PyTorch takes to call an operation is included, so the
    sum over narrow layers, of tens of microseconds each, exceeds the time of a block made of them.
    Memory takes time too: call `tune_allocator` first, as the worker processes do. Model, random
    state and number of threads are afterwards what they were.

    Passes are grouped into phases of at least `phase_s` seconds, one pass at the least. Phases in
    which others took more than 5 % of the CPU, or which did not get to run for 5 % of the time, are
    dropped and repeated, until `repeats` are left over or twice as many were run; then the least
    disturbed ones count. The note says how it was.

    Sizes, in bytes, are exact:

    - `activation_bytes`: the layer's output; `parameter_bytes`: its parameters, without buffers;
    - `saved_bytes`: what it keeps from the forward to the backward pass, its output included, its
      input not (see `examine`); `input_bytes`: the inputs of the first layer, without the labels.

    `inputs` (batch, features...) and `labels` (batch, ...) are one batch. `progress` is told after
    each phase how many more of the `repeats` are done, which may be none.

    Raises:
        InputError: a number of repeats or threads below 1; an empty batch; tensors that are not on
            the CPU; a layer, which is named, the loss or the optimiser that fails.
    """
    _check(model, inputs, make_optimizer, repeats, threads)
    threads_before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.random.fork_rng(), torch.enable_grad():
            passes = Passes(model, inputs, labels, loss, make_optimizer)
            sizes = examine(passes)
            for _ in range(WARM_UP_PASSES):
                passes.run(_Phase(len(passes.layers)))
            phases = _measure(passes, repeats, phase_s, progress or (lambda _: None))
    finally:
        torch.set_num_threads(threads_before)
    counted = sorted(phases, key=lambda phase: phase.disturbance)[:repeats]
    return Workload(
        name,
        tuple(
            Layer(
                f"layer{number + 1}",
                forward_s=_mean_s(counted, "forward", number),
                backward_s=_mean_s(counted, "backward", number),
                update_s=_mean_s(counted, "update", number),
                activation_bytes=sizes[number].activation_bytes,
                parameter_bytes=sum(parameter.nbytes for parameter in layer.parameters()),
                saved_bytes=sizes[number].saved_bytes,
            )
            for number, layer in enumerate(passes.layers)
        ),
        batch_size=len(inputs),
        input_bytes=inputs.nbytes,
        note=_note(counted, len(phases) - len(counted), threads),
    )


class _Phase:
    """Nanoseconds spent in each operation of each layer; a context for one at a time."""

    def __init__(self, layers: int) -> None:
        self.passes = 0
        self.other_share: float | None = None
        self.waited_share = 0.0
        self.spent_ns: dict[Operation, list[int]] = {
            operation: [0] * layers for operation in ("forward", "backward", "update")
        }

    @property
    def disturbance(self) -> float:
        """What others took of the CPU, or the time in which this thread did not run, from 0 to 1.

        A machine that stalls as a whole, or waits for a disk, shows in the second alone.
        """
        return max(self.other_share or 0.0, self.waited_share)

    def __call__(self, operation: Operation, number: int) -> "_Phase":
        self._into = self.spent_ns["forward" if operation == "loss" else operation]
        self._number = number
        return self

    def __enter__(self) -> None:
        self._start_ns = now_ns()

    def __exit__(self, *_: object) -> None:
        self._into[self._number] += now_ns() - self._start_ns


def _measure(
    passes: Passes, repeats: int, phase_s: float, progress: Callable[[int], None]
) -> list[_Phase]:
    phases: list[_Phase] = []
    clean = 0
    while clean < repeats and len(phases) < 2 * repeats:
        phases.append(_run_phase(passes, phase_s))
        undisturbed = phases[-1].disturbance <= DISTURBED
        clean += undisturbed
        progress(int(undisturbed))
    progress(repeats - clean)
    return phases


def _run_phase(passes: Passes, phase_s: float) -> _Phase:
    phase, watch = _Phase(len(passes.layers)), CpuWatch()
    start_ns, start_cpu_ns = now_ns(), thread_time_ns()
    duration_ns = 0
    while not phase.passes or duration_ns < phase_s * 1e9:
        passes.run(phase)
        phase.passes += 1
        duration_ns = now_ns() - start_ns
    if duration_ns >= JUDGED_S * 1e9:
        phase.waited_share = max(0.0, 1 - (thread_time_ns() - start_cpu_ns) / duration_ns)
        phase.other_share = watch.other_share()
    return phase


def _mean_s(phases: list[_Phase], operation: Operation, number: int) -> Fraction:
    passes = sum(phase.passes for phase in phases)
    spent_ns = sum(phase.spent_ns[operation][number] for phase in phases)
    return Fraction(round(Fraction(spent_ns, passes)), 10**9)


def _note(counted: list[_Phase], dropped: int, threads: int) -> str:
    machine = describe_machine()
    shares = [phase.other_share for phase in counted if phase.other_share is not None]
    others = f"at most {max(shares):.1%}" if shares else "an unknown share"
    return (
        f"profiled on {machine['cpu']}, cores: {machine['cores']}, threads used: {threads}, "
        f"torch {machine['torch']}, Python {machine['python']}, {machine['date']}; "
        f"passes: {sum(phase.passes for phase in counted)} in {len(counted)} phases, "
        f"disturbed phases dropped: {dropped}; in those counted, others took {others} of the CPU, "
        f"waiting {max(phase.waited_share for phase in counted):.1%} of the time"
    )


def _check(
    model: nn.Module,
    inputs: torch.Tensor,
    make_optimizer: MakeOptimizer,
    repeats: int,
    threads: int,
) -> None:
    for what, value in (("repeats", repeats), ("threads", threads)):
        if value < 1:
            raise InputError(what, value, "must be at least 1", "give 1 or more")
    if not inputs.dim() or not len(inputs):
        rule = "must be a batch of at least one sample"
        raise InputError("shape of the inputs", tuple(inputs.shape), rule, "give it samples")
    for tensor in (inputs, *model.parameters()):
        if tensor.device.type != "cpu":
            rule = "must be cpu: elsewhere operations end after their call"
            raise InputError("device", tensor.device, rule, "move model and data to the CPU")
    try:
        make_optimizer([nn.Parameter(torch.zeros(1))])
    except Exception as error:
        name = getattr(make_optimizer, "__name__", "make_optimizer")
        rule = f"must make an optimiser from parameters ({one_line(error)})"
        raise InputError("optimiser", name, rule, "correct its options") from error
