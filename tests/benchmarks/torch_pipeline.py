"""PyTorch's own 1F1B, torch.distributed.pipelining, on the processes of one machine."""

import multiprocessing
import tempfile
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import torch
from torch import distributed, nn

from executor.allocator import tune_allocator
from executor.clock import now_ns
from executor.network import split
from executor.training import optimizer
from tests.benchmarks.harness import Phase, Task, watched

__all__ = ["TorchPipeline"]

_WARM_UP: Final = 10  # mini-batches until the heap has its final size


class TorchPipeline:
    """Processes that hold one block each and train by `Schedule1F1B`, phase after phase.

    They wait on pipes between phases. gloo carries the messages, or NCCL where each has a GPU.
    """

    def __init__(self, task: Task, modules: int, micro_batches: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        store = Path(self._folder.name) / "store"
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(modules):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(task, rank, modules, micro_batches, str(store), theirs),
                daemon=True,
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10)
        self._folder.cleanup()

    def train(self, batches: int) -> Phase:
        """So many mini-batches; the slowest process counts."""

        def measured() -> tuple[float, Any]:
            for pipe in self._pipes:
                pipe.send(batches)
            return max(pipe.recv() for pipe in self._pipes), None

        return watched(measured, [process.pid or 0 for process in self._processes])


def _serve(
    task: Task, rank: int, modules: int, micro_batches: int, store: str, pipe: Connection
) -> None:
    tune_allocator()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    on_gpus = task.device != "cpu"
    device = torch.device("cuda", rank) if on_gpus else torch.device("cpu")
    distributed.init_process_group(
        "nccl" if on_gpus else "gloo", init_method=f"file://{store}", rank=rank, world_size=modules
    )
    block = split(task.network(), task.bounds(modules))[rank].to(device)
    stage = PipelineStage(block, rank, modules, device)
    schedule = Schedule1F1B(stage, micro_batches, loss_fn=nn.CrossEntropyLoss())
    stepper = optimizer("sgd", 1e-3)(block.parameters())
    source, last = task.source(), rank == modules - 1

    def train(batches: int) -> float:
        distributed.barrier()
        start = now_ns()
        for number in range(batches):
            losses: list[torch.Tensor] = []
            if rank == 0 or last:
                inputs, labels = source.data.batch(number, task.batch_size, 0)
            given: Any = (inputs.to(device),) if rank == 0 else ()
            wanted: Any = {"target": labels.to(device), "losses": losses} if last else {}
            schedule.step(*given, **wanted)
            stepper.step()
            stepper.zero_grad()
            if last:
                torch.stack(losses).mean().item()
        if on_gpus:
            torch.cuda.synchronize(device)
        distributed.barrier()
        return (now_ns() - start) / 1e9 / batches

    train(_WARM_UP)
    pipe.send("ready")
    while True:
        try:
            pipe.send(train(pipe.recv()))
        except (EOFError, BrokenPipeError):
            break
    distributed.destroy_process_group()
