"""The flags of what is trained and how, and the experiment that they make."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

from analysis.cli.costs import WorkloadFile, fitted
from analysis.cli.learning import OptimizerFlags
from analysis.cli.network import DATA_SETS, PANEL, Network, NetworkFlags
from analysis.cli.options import flag
from analysis.cli.output import Bar
from analysis.cli.sizes import MemoryLimit, refuse_if_too_large
from analysis.cli.values import number, one_of, whole
from simcore.errors import InputError
from simcore.schedules import build, find

if TYPE_CHECKING:
    from analysis.experiment import Experiment
    from simcore.workload import Workload

__all__ = [
    "DATA_SETS",
    "Network",
    "NetworkFlags",
    "Setup",
    "TrainingFlags",
]

_FEW: Final = 4  # batches of a schedule that is built only to see whether it can run
# Enough to cut layers into even blocks.
_REPEATS, _PHASE_S = 2, 0.2


@dataclass(frozen=True, slots=True)
class TrainingFlags:
    """How long and how training goes on."""

    epochs: Annotated[
        str | None, flag("--epochs", "E", "passes through the data, not --batches", PANEL)
    ] = None
    timeout: Annotated[
        str | None,
        flag(
            "--timeout",
            "S",
            "longest that one operation of a worker may take, in seconds (default: by measure, 5 "
            "or more)",
            PANEL,
        ),
    ] = None
    split: Annotated[
        str,
        flag("--split", "even|published", "blocks of even times, or those of the paper", PANEL),
    ] = "even"
    workload: WorkloadFile = None
    memory_limit: MemoryLimit = "4GiB"


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """An experiment as the flags describe it, checked, before anything is measured."""

    network: Network
    optimizer: OptimizerFlags
    threads: int | None
    devices: tuple[str, ...]
    batches: int
    costs: "Workload | None"
    timeout_s: float | None = None
    split: "Callable[[int], tuple[int, ...]] | None" = None

    @classmethod
    def read(
        cls,
        schedules: Sequence[tuple[str, Mapping[str, object]]],
        batches: object,
        network: NetworkFlags,
        optimizer: OptimizerFlags,
        training: TrainingFlags,
    ) -> "Setup":
        """The setup of schedules with their options; `batches` is None if none were asked for.

        Raises `InputError` for bad flags, for what needs too much memory, and for more blocks than
        the network has layers.
        """
        from executor.streams import devices_of

        recipe = optimizer.found_recipe()
        optimizer = optimizer.by_recipe().by_schedules(name for name, _ in schedules)
        network = network.by_recipe(recipe)
        optimizer.settings()
        if recipe is not None and training.epochs is None and batches is None:
            wanted = None if recipe.epochs is None else str(recipe.epochs)
            training = replace(training, epochs=wanted)
        threads, count = network.cores, 100 if batches is None else int(str(batches))
        if training.epochs is not None and batches is not None:
            rule = "must not be given with --batches"
            raise InputError("--epochs", training.epochs, rule, "leave one out")
        epochs = None if training.epochs is None else whole(training.epochs, "--epochs")
        # Once before anything is made, and again when it is known how long an epoch is.
        _refuse(schedules, count if epochs is None else epochs, training.memory_limit)
        made = network.make(_time_steps(schedules))
        if epochs is not None:
            count = epochs * made.data.batches_per_epoch(made.batch_size)
            _refuse(schedules, count, training.memory_limit)
        devices = tuple(each.strip() for each in network.device.split(","))
        if devices != ("cpu",):
            for name, options in schedules:
                few: dict[str, Any] = {**options, "batches": _FEW}
                few["batches"] = max(_FEW, few.get("replicas", 1))
                devices_of(devices, build(name, **few))
        for name, options in schedules:
            fitted(find(name), options, made.layers, f"of {made.spec}")
        timeout = training.timeout
        timeout_s = None if timeout is None else number(timeout, "--timeout", above=True)
        chosen = one_of(training.split, "--split", ("even", "published"))
        split = partial(_published, made.spec) if chosen == "published" else None
        costs = _costs(training.workload, made)
        return cls(made, optimizer, threads, devices, count, costs, timeout_s, split)

    def experiment(self, bar: Bar, *, even: bool = False) -> "Experiment":
        """The experiment; layers are timed where the flags do not say what they cost.

        With `even` they need not be timed, as there is only one way to cut them into blocks.
        """
        from analysis.experiment import Experiment
        from simcore.workload import Workload

        network, costs = self.network, self.costs
        if costs is None:
            costs = Workload.even(network.layers) if even else self._measured_costs(bar)
        return Experiment(
            network.model,
            network.data,
            costs,
            network.batch_size,
            self.batches,
            self.optimizer.make(),
            network.seed,
            self.threads,
            self.optimizer.learning(network.data.batches_per_epoch(network.batch_size)),
            network.time_steps,
            self.devices,
            self.settings,
            self.timeout_s,
            self.split,
        )

    def _measured_costs(self, bar: Bar) -> "Workload":
        from torch import nn

        from executor.profile import profile
        from executor.slicing import time_steps

        network = self.network
        bar.stage(f"timing the {network.layers} layers")
        inputs, labels = network.data.batch(0, network.batch_size, network.seed)
        if network.time_steps is not None:
            inputs = time_steps(inputs, network.time_steps)[0]
        return profile(
            network.model,
            inputs,
            labels,
            nn.CrossEntropyLoss(),
            self.optimizer.make(),
            _REPEATS,
            self.threads or 1,
            phase_s=_PHASE_S,
            name=network.spec,
        )

    @property
    def settings(self) -> dict[str, object]:
        """What was trained and how, for reports."""
        network = self.network
        return {
            "model": network.spec,
            "data": network.data.name,
            **({} if network.data_dir is None else {"data_dir": network.data_dir}),
            **({"augment": True} if network.augment else {}),
            "batch_size": network.batch_size,
            "batches": self.batches,
            **self.optimizer.settings(),
            "seed": network.seed,
        }


def _time_steps(schedules: Sequence[tuple[str, Mapping[str, object]]]) -> int | None:
    """The time steps into which a schedule cuts samples; None if none does.

    Raises `InputError` where they differ: one network cannot take both.
    """
    wanted = {
        options.get("time_steps", entry.defaults.get("time_steps"))
        for name, options in schedules
        for entry in [find(name)]
        if name != "bp"
    }
    steps = [each for each in wanted if isinstance(each, int)]
    if len(wanted) > 1 and steps:
        rule = "must be the same in all schedules, as they train one network"
        raise InputError("time_steps", steps[0], rule, "compare it by itself")
    return steps[0] if steps else None


def _published(spec: str, blocks: int) -> tuple[int, ...]:
    """The bounds that a paper cut a network at. Raises `InputError` where none did."""
    from executor.models import published_split

    bounds = published_split(spec, blocks)
    if bounds is None:
        rule = f"is known of no paper for {spec} in {blocks} blocks"
        raise InputError("--split", "published", rule, "leave it out, or see the page on networks")
    return bounds


def _refuse(
    schedules: Sequence[tuple[str, Mapping[str, object]]], batches: int, limit: str
) -> None:
    for name, options in schedules:
        refuse_if_too_large(name, {**options, "batches": batches}, limit)


def _costs(file: str | None, network: Network) -> "Workload | None":
    if file is None:
        return None
    from simcore.interop.workloads import load_workload_any

    found = load_workload_any(file)
    if len(found.layers) != network.layers:
        rule = f"must have the {network.layers} layers of {network.spec}, not {len(found.layers)}"
        raise InputError("--workload", file, rule, "profile this network")
    return found
