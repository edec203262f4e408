"""The flags of what is trained, on what, and where."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from analysis.cli.options import Seed, flag
from analysis.cli.values import MOST_SEED, one_of, whole

if TYPE_CHECKING:
    from torch import nn

    from executor.data import DataSet
    from executor.recipes import Recipe

__all__ = ["DATA_SETS", "PANEL", "Network", "NetworkFlags"]

PANEL: Final = "Training"
DATA_SETS: Final = (
    "digits",
    "generated",
    "mnist",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "svhn",
    "imdb",
    "images",
)
_NEVER_VARIED: Final = ("digits", "generated", "imdb")
_MOST_THREADS: Final = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network, its data, and the size of a mini-batch."""

    spec: str
    model: "nn.Sequential"
    data: "DataSet"
    batch_size: int
    seed: int
    layers: int
    augment: bool = False
    time_steps: int | None = None
    data_dir: str | None = None


@dataclass(frozen=True, slots=True)
class NetworkFlags:
    """What is trained, on what."""

    model: Annotated[
        str,
        flag(
            "--model",
            "SPEC",
            "mlp:DEPTHxWIDTH, conv:DEPTHxCHANNELS, rnn:DEPTHxWIDTH, lstm:DEPTHxWIDTH, a network's "
            "name (resnet18, convs:tanh, ...), or package.module:function that makes an "
            "nn.Sequential",
            PANEL,
        ),
    ] = "mlp:8x512"
    data: Annotated[str, flag("--data", "|".join(DATA_SETS), "what is learned", PANEL)] = "digits"
    data_dir: Annotated[
        str | None,
        flag("--data-dir", "DIR", "where its files are (default $GRADLAG_DATA or data)", PANEL),
    ] = None
    augment: Annotated[
        bool,
        typer.Option("--augment", help="vary images from epoch to epoch", rich_help_panel=PANEL),
    ] = False
    batch_size: Annotated[
        str | None, flag("--batch-size", "N", "samples of a mini-batch (default 64)", PANEL)
    ] = None
    threads: Annotated[
        str | None,
        flag("--threads", "T", "cores that an operation may use (default: all, shared out)", PANEL),
    ] = None
    device: Annotated[
        str,
        flag(
            "--device",
            "cpu|cuda|cuda:N",
            "where workers compute: one for all (cuda: the GPUs in turn), or one for each",
            PANEL,
        ),
    ] = "cpu"
    seed: Seed = "0"

    @property
    def cores(self) -> int | None:
        """The number of cores of an operation; None where it was not given."""
        if self.threads is None:
            return None
        return whole(self.threads, "--threads", most=_MOST_THREADS)

    def by_recipe(self, recipe: "Recipe | None") -> "NetworkFlags":
        """These flags, with those of a recipe where none were given."""
        if recipe is None:
            return self
        varied = bool(recipe.augment) and self.data not in _NEVER_VARIED
        size = str(recipe.batch_size) if self.batch_size is None else self.batch_size
        return replace(self, batch_size=size, augment=self.augment or varied)

    def make(self, time_steps: int | None = None) -> Network:
        """The network and its data, of single time steps where samples are to be cut into these.

        Raises `InputError` for bad flags.
        """
        chosen = one_of(self.data, "--data", DATA_SETS)
        size = whole(self.batch_size or "64", "--batch-size")
        seed = whole(self.seed, "--seed", least=0, most=MOST_SEED)

        from executor.allocator import tune_allocator
        from executor.data import open_data
        from executor.models import make_model
        from executor.network import layers_of
        from executor.slicing import step_of

        tune_allocator()  # as the processes of workers, which are measured too, do
        samples = open_data(chosen, self.data_dir, self.augment)
        samples.size_of(0, size)
        seen = samples if time_steps is None else step_of(samples, time_steps)
        made = make_model(self.model, seen, seed)
        layers = len(layers_of(made))
        about = self.augment, time_steps, self.data_dir
        return Network(self.model, made, samples, size, seed, layers, *about)
