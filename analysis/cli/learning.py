"""The flags of how weights are updated: optimiser, learning rate, clipping, precision."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from analysis.cli.options import flag
from analysis.cli.values import number, whole
from simcore.errors import InputError
from simcore.registry import USUAL_LEARNING
from simcore.schedules import find

if TYPE_CHECKING:
    from executor.recipes import Recipe
    from executor.training import Learning
    from executor.weights import MakeOptimizer

__all__ = ["OptimizerFlags"]

_PANEL: Final = "Learning"
_LEARNING_RATES: Final = dict([USUAL_LEARNING, ("adam", 0.001)])
_GLOBAL: Final = "global-norm"
_PRECISIONS: Final = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class OptimizerFlags:
    """How weights are updated."""

    optimizer: Annotated[
        str | None,
        flag(
            "--optimizer",
            "NAME",
            "of torch.optim: sgd (default; adam for gradients that are estimated), adamw, ...",
            _PANEL,
        ),
    ] = None
    optimizer_option: Annotated[
        list[str] | None,
        typer.Option(
            "--optimizer-option",
            metavar="NAME=VALUE",
            help="an option of its own, such as nesterov=true; may be repeated",
            rich_help_panel=_PANEL,
        ),
    ] = None
    learning_rate: Annotated[
        str | None,
        flag("--learning-rate", "X", "default 0.05 for sgd, else the optimizer's own", _PANEL),
    ] = None
    momentum_factor: Annotated[
        str | None,
        flag(
            "--momentum-factor",
            "X",
            "momentum of sgd, 0 to 1 (default 0); --momentum is another thing: whose momentum",
            _PANEL,
        ),
    ] = None
    weight_decay: Annotated[
        str | None, flag("--weight-decay", "X", "of the optimizer (default 0)", _PANEL)
    ] = None
    rate_schedule: Annotated[
        str | None,
        flag(
            "--learning-rate-schedule",
            "TEXT",
            "by epochs: constant, step:150,225, step:30,60:0.5 or cosine:100",
            _PANEL,
        ),
    ] = None
    warm_up: Annotated[
        str | None,
        flag(
            "--warm-up",
            "EPOCHS[:RATE]",
            "rise to the learning rate in so many epochs; with a rate, stay at it for as long",
            _PANEL,
        ),
    ] = None
    alpha_ramp: Annotated[
        str | None,
        flag(
            "--alpha-ramp",
            "EPOCHS,EPOCHS",
            "epochs with alpha 0, then epochs in which it rises to --alpha: 10,20 in AsyncFGD",
            _PANEL,
        ),
    ] = None
    clip: Annotated[
        str | None,
        flag(
            "--clip",
            "norm:X|value:X",
            "limit the gradients of each block; global-norm:X: those of all blocks together",
            _PANEL,
        ),
    ] = None
    precision: Annotated[
        str,
        flag(
            "--precision",
            "|".join(_PRECISIONS),
            "of matrix products: one for all workers, or one for each, with commas",
            _PANEL,
        ),
    ] = "float32"
    recipe: Annotated[
        str | None,
        flag("--recipe", "NAME", "a paper's: fdg-cifar10, adl-imagenet, ...; flags win", _PANEL),
    ] = None

    def found_recipe(self) -> "Recipe | None":
        """The recipe that was asked for. Raises `InputError` for an unknown one."""
        if self.recipe is None:
            return None
        from executor.recipes import find_recipe

        return find_recipe(self.recipe)

    def by_recipe(self) -> "OptimizerFlags":
        """These flags, with those of the recipe where none were given."""
        recipe = self.found_recipe()
        if recipe is None:
            return self
        same = self.optimizer in (None, recipe.optimizer)
        own = recipe.options.items() if same else ()
        options = [f"{name}={_text(value)}" for name, value in own]
        rate = None if self.learning_rate is not None else str(recipe.rate())
        return replace(
            self,
            optimizer=self.optimizer or recipe.optimizer,
            optimizer_option=[*options, *(self.optimizer_option or [])],
            learning_rate=self.learning_rate or rate,
            rate_schedule=self.rate_schedule or recipe.schedule,
            warm_up=self.warm_up or recipe.warm_up,
        )

    def by_schedules(self, names: Iterable[str]) -> "OptimizerFlags":
        """These flags; where they name no rule, with one by which all these schedules train."""
        if self.optimizer or self.learning_rate or self.momentum_factor or self.optimizer_option:
            return self
        own = {find(name).learning for name in names} - {USUAL_LEARNING}
        if not own:
            return self
        optimizer, rate = min(own, key=lambda learning: learning[1])
        return replace(self, optimizer=optimizer, learning_rate=str(rate))

    @property
    def rate(self) -> float | None:
        """The learning rate; None for the optimiser's own default."""
        if self.learning_rate is None:
            return _LEARNING_RATES.get((self.optimizer or "sgd").lower())
        return number(self.learning_rate, "--learning-rate", above=True)

    def settings(self) -> dict[str, object]:
        """The values, for reports. Raises `InputError` for bad ones."""
        import torch

        made = self.make()([torch.nn.Parameter(torch.zeros(1))]).defaults
        self.learning(1)
        found: dict[str, object] = {
            "optimizer": (self.optimizer or "sgd").lower(),
            "learning_rate": float(made["lr"]),
            "momentum_factor": float(made.get("momentum", 0.0)),
            "weight_decay": float(made.get("weight_decay", 0.0)),
        }
        if self.optimizer_option:
            found["optimizer_options"] = list(self.optimizer_option)
        for name in ("rate_schedule", "warm_up", "alpha_ramp", "clip", "recipe"):
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        if self.precision != "float32":
            found["precision"] = self.precision
        return found

    def make(self) -> "MakeOptimizer":
        """A maker of optimisers. Raises `InputError` for flags that it refuses."""
        from executor.optimizers import make_optimizer, optimizer_options

        name = (self.optimizer or "sgd").lower()
        options: dict[str, object] = {}
        for given in self.optimizer_option or []:
            option, equals, value = given.partition("=")
            if not equals:
                rule = "must be NAME=VALUE"
                raise InputError("--optimizer-option", given, rule, "write nesterov=true, say")
            options[option.strip()] = value.strip()
        if self.momentum_factor is not None:
            if "momentum" not in optimizer_options(name) or name == "muon":
                rule = f"is for sgd alone, as {name} has momentum of its own"
                raise InputError("--momentum-factor", self.momentum_factor, rule, "leave it out")
            options.pop("momentum", None)
            options["momentum"] = number(self.momentum_factor, "--momentum-factor", most=1)
        if self.weight_decay is not None:
            options["weight_decay"] = number(self.weight_decay, "--weight-decay")
        return make_optimizer(name, self.rate, options)

    def learning(self, batches_per_epoch: int) -> "Learning":
        """Rates, ramp, clipping and precision. Raises `InputError` for bad flags."""
        import torch

        from executor.clipping import read_clip
        from executor.learning_rates import AlphaRamp, LearningRate, read_shape, read_warm_up
        from executor.training import Learning

        rate = alpha = None
        if self.rate_schedule is not None or self.warm_up is not None:
            shape = read_shape(self.rate_schedule or "constant")
            base = self.rate or 1.0
            warm_up = None if self.warm_up is None else read_warm_up(self.warm_up, base)
            rate = LearningRate(batches_per_epoch, shape, warm_up).factor
        if self.alpha_ramp is not None:
            frozen, comma, rising = self.alpha_ramp.partition(",")
            epochs = [whole(frozen, "--alpha-ramp", least=0)]
            epochs.append(whole(rising if comma else "20", "--alpha-ramp", least=0))
            alpha = AlphaRamp(batches_per_epoch, *epochs).factor
        names = [name.strip() for name in self.precision.split(",")]
        for name in names:
            if name not in _PRECISIONS:
                rule = f"must be {' or '.join(_PRECISIONS)}, or one for each worker"
                raise InputError("--precision", self.precision, rule, "write bfloat16, say")
        types = tuple(None if name == "float32" else torch.bfloat16 for name in names)
        limit = self.norm_of_all()
        return Learning(
            rate=rate,
            alpha=alpha,
            clip=None if self.clip is None or limit is not None else read_clip(self.clip).apply,
            global_norm=limit,
            precisions=types if any(types) else (),
        )

    def norm_of_all(self) -> float | None:
        """The limit on the norm of all gradients together, if there is one."""
        kind, _, limit = (self.clip or "").partition(":")
        return number(limit, "--clip", above=True) if kind == _GLOBAL else None

    def around(self, name: str, options: Mapping[str, object]) -> dict[str, object]:
        """The options of a schedule with what these flags ask of it.

        Raises `InputError` where clipping together would take from the schedule what it is for.
        """
        if self.norm_of_all() is None:
            return dict(options)
        entry = find(name)
        if "global_norm" not in entry.defaults:
            rule = f"makes all modules wait for each other before they update, which {name} "
            rule += (
                f"is there to avoid (it breaks the locking: {entry.lockings_broken})"
                if not entry.lockings_broken.startswith("none")
                else "has no place for"
            )
            raise InputError("--clip", self.clip, rule, "use norm:X, which limits each block")
        return {**options, "global_norm": True}


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
