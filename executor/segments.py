"""Long runs in parts: segments that drain the pipeline, and what parts of a run were together.

With the epoch policy `drain` a run is a sequence of segments. Each is the schedule over a number of
mini-batches, run to its end: then nothing is in flight, so that the network can be evaluated and
saved, by any schedule in any runtime. Weights, buffers, the states of optimisers, data, learning
rates and random draws go on from one segment to the next.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from executor.checkpoint import Checkpoints
from executor.run import Runtime, run
from executor.tensors import Loss
from executor.training import RunResult, Training
from simcore.errors import InputError
from simcore.schedule import Schedule
from simcore.trace import KIND, Trace

__all__ = ["Evaluation", "Part", "evaluate", "joined", "train_in_segments"]

# Rows of rounds have a group and a block where others have a block and a batch.
_ROUNDS: Final = (KIND["arrive"], KIND["join"])
_RAISING: Final = (KIND["update"], KIND["merge"])


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The mean loss over some samples, and the share of them that is classified right, 0 to 1."""

    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A run that is part of a longer one: it belongs to the segment that began with a mini-batch.

    Parts of one segment went on from each other with all that was in flight.
    """

    result: RunResult
    first_batch: int


def train_in_segments(
    training: Training,
    batches: int,
    per_segment: int,
    runtime: Runtime,
    checkpoints: Checkpoints,
    *,
    trace_of: Callable[[Schedule], Trace] | None = None,
    progress: Callable[[int], None] | None = None,
    after: Callable[[int, RunResult], None] | None = None,
) -> RunResult:
    """Train for so many mini-batches in all, draining the pipeline after each `per_segment`.

    `training.make_schedule` must take `batches=` (as `functools.partial(build, name, ...)` does).
    `training` may be one that is `executor.checkpoint.resumed`. `trace_of` gives the trace that the
    runtime `replay` follows. `after` is told, after each segment, how many mini-batches have been
    trained, and what the segment left. Returns all segments as one. Raises what the runtime raises,
    and `InputError` where there is nothing left to train.
    """
    first, parts = training.first_batch, []
    if first >= batches or per_segment < 1:
        what, rule = "batches", f"must be more than the {first} that were trained already"
        if per_segment < 1:
            what, rule = "per_segment", "must be at least 1"
        raise InputError(what, min(batches, per_segment), rule, "train for longer")
    segment = training
    while first < batches:
        count = min(per_segment, batches - first)
        again: Callable[..., Schedule] = training.make_schedule
        segment = replace(segment, make_schedule=partial(again, batches=count), first_batch=first)
        trace = None if trace_of is None else trace_of(segment.make_schedule())
        result = run(segment, runtime, trace=trace, progress=progress, checkpoints=checkpoints)
        parts.append(Part(result, first))
        if result.failure is not None:
            break
        first += count
        if after is not None:
            after(first, result)
        if checkpoints.is_stopping(first):
            break
        segment = replace(segment, start=str(checkpoints.written[-1]))
    return joined(parts)


def evaluate(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    inputs: torch.Tensor,
    labels: torch.Tensor,
    loss: Loss,
    batch_size: int = 512,
) -> Evaluation:
    """Evaluate a trained network on samples: (samples, ...) and (samples,).

    Batch normalisation uses its running statistics and nothing is dropped out; `model` itself is
    not changed. Meaningful where nothing was in flight: a state from the midst of a pipeline has
    weights of blocks from different moments.
    """
    twin = copy.deepcopy(model)
    twin.load_state_dict(dict(state))
    twin.eval()
    total, right = 0.0, 0
    with torch.no_grad():
        for part, wanted in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
            found = twin(part)
            total += float(loss(found, wanted)) * len(part)
            right += int((found.argmax(dim=1) == wanted).sum())
    return Evaluation(total / len(inputs), right / len(inputs))


def joined(parts: Sequence[Part]) -> RunResult:
    """Parts of a run, one after another, as one.

    Times, mini-batches, versions and operations count on; the pauses between parts are left out.
    The state is that of the last part.
    """
    tables, losses, time = [], [], 0
    joining = _Joining()
    for part in parts:
        trace = part.result.trace
        tables.append(joining.shifted(part, time))
        at_s = time * float(trace.header.tick_s)
        losses += [(b + part.first_batch, loss, s + at_s) for b, loss, s in part.result.losses]
        time += trace.end
    spans = np.concatenate([spans for spans, _ in tables])
    gradients = np.concatenate([gradients for _, gradients in tables])
    last = parts[-1]
    header = last.result.trace.header
    batches = last.first_batch * header.micro_batches + header.batches
    options = {**header.options, "batches": batches // header.micro_batches}
    header = replace(header, batches=batches, options=options)
    return replace(last.result, trace=Trace(header, spans, gradients), losses=sorted(losses))


class _Joining:
    """What the tables of parts count on from."""

    def __init__(self) -> None:
        self.segment = 0
        self.versions: defaultdict[tuple[int, int], int] = defaultdict(int)
        self.operations: defaultdict[int, int] = defaultdict(int)
        self.reached = dict(self.versions), dict(self.operations)

    def shifted(self, part: Part, time: int) -> tuple[Any, Any]:
        """The tables of a part in the counts of the whole."""
        trace, header = part.result.trace, part.result.trace.header
        if part.first_batch != self.segment:
            self.segment = part.first_batch
            self.versions.update(self.reached[0])
            self.operations.update(self.reached[1])
        spans, gradients = trace.spans.copy(), trace.gradients.copy()
        first = part.first_batch * header.micro_batches
        spans["start"] += time
        spans["end"] += time
        gradients["time"] += time
        computes = ~np.isin(spans["kind"], _ROUNDS)
        spans["batch"][computes & (spans["batch"] >= 0)] += first
        gradients["batch"] += first
        spans["index"] += np.array([self.operations[int(w)] for w in spans["worker"]], np.int64)
        spans["version"] += np.where(spans["version"] >= 0, self._versions(trace, spans), 0)
        before = self._versions(trace, gradients)
        for name in gradients.dtype.names or ():
            if name.startswith("version"):
                gradients[name] += before
        self._reach(trace, spans)
        return spans, gradients

    def _versions(self, trace: Trace, rows: Any) -> Any:
        replicas = trace.header.replica(rows["worker"])
        pairs = zip(replicas.tolist(), rows["block"].tolist(), strict=True)
        return np.array([self.versions[pair] for pair in pairs], np.int64)

    def _reach(self, trace: Trace, spans: Any) -> None:
        versions, operations = self.reached
        for worker in np.unique(spans["worker"]).tolist():
            operations[worker] = int(spans["index"][spans["worker"] == worker].max()) + 1
        raising = spans[np.isin(spans["kind"], _RAISING)]
        replicas = trace.header.replica(raising["worker"])
        columns = replicas.tolist(), raising["block"].tolist(), raising["version"].tolist()
        for replica, block, version in zip(*columns, strict=True):
            versions[replica, block] = max(versions.get((replica, block), 0), version + 1)
