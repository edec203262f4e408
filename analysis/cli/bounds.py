"""`gradlag bounds`: a convergence bound beside what really happens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

from analysis.cli.options import Json, Out, Seed, flag
from analysis.cli.output import Bar, console, folder, note, print_json, write_json
from analysis.cli.values import MOST_SEED, number, option_value, whole
from simcore.errors import InputError
from simcore.options import OPTIONS

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.bounds import BoundCurve

__all__ = ["EXAMPLES", "NAME", "command", "show_curves", "trained_curves"]

NAME: Final = "bounds"
EXAMPLES: Final = """\
# Four modules; one, two and four gradients per update
gradlag bounds
# A quick look, with a figure and all curves in a folder
gradlag bounds --modules 2 --updates 50 --seeds 3 --out out/bounds
# Where staleness hurts: a large learning rate, and eight modules
gradlag bounds --modules 8 --learning-rate 0.2 --json > bounds.json
"""
_FILES: Final = ("bounds.json", "bounds.png")
_PANEL: Final = "Training"
_MOST_UPDATES, _MOST_SEEDS = 10**6, 10**4  # beyond, only the waiting would be longer


def command(
    modules: Annotated[str, flag("--modules", "K", "modules of ADL", _PANEL)] = "4",
    accumulations: Annotated[
        str, flag("--accumulations", "M,M,...", "gradients per update; a curve for each", _PANEL)
    ] = "1,2,4",
    updates: Annotated[str, flag("--updates", "S", "updates of each module", _PANEL)] = "400",
    seeds: Annotated[str, flag("--seeds", "N", "repetitions, for the interval", _PANEL)] = "8",
    learning_rate: Annotated[
        str | None, flag("--learning-rate", "X", "of the first update (default 0.02 / Lip)", _PANEL)
    ] = None,
    decay: Annotated[
        str, flag("--decay", "P", "the rate of update s is the first over (1 + s)^P", _PANEL)
    ] = "0",
    batch_size: Annotated[str, flag("--batch-size", "N", "samples of a batch", _PANEL)] = "32",
    regularization: Annotated[
        str, flag("--regularization", "X", "weight of ||theta||^2 / 2 in the loss", _PANEL)
    ] = "0.01",
    seed: Seed = "0",
    json: Json = False,
    out: Out = None,
) -> None:
    """Compare ADL's convergence bound (Theorem 2) with training that has exactly ADL's gaps.

    Logistic regression on digits, where every constant of the bound is known, is trained with the
    gaps of a simulated ADL. The bound is on the mean of the squared gradient norm over updates.
    """
    wanted = {
        "modules": whole(modules, "--modules", most=_MOST_UPDATES),
        "accumulations": _accumulations(accumulations),
        "updates": whole(updates, "--updates", most=_MOST_UPDATES),
        "seeds": whole(seeds, "--seeds", most=_MOST_SEEDS),
        "learning_rate": None
        if learning_rate is None
        else number(learning_rate, "--learning-rate", above=True),
        "decay": number(decay, "--decay"),
        "batch_size": whole(batch_size, "--batch-size", most=_MOST_UPDATES),
        "regularization": number(regularization, "--regularization", above=True),
        "seed": whole(seed, "--seed", least=0, most=MOST_SEED),
    }
    path = folder(out, _FILES)
    curves = trained_curves(wanted)

    from analysis.bounds import to_json
    from analysis.plots_bound import draw_bound

    document = to_json(curves)
    if path is not None:
        from analysis.plots import save_png

        write_json(path / _FILES[0], document)
        save_png(draw_bound(curves), path / _FILES[1])
        note(f"wrote {', '.join(_FILES)} to {path}")
    if json:
        print_json(document)
    else:
        show_curves(console(), curves)


def trained_curves(wanted: dict[str, Any]) -> "list[BoundCurve]":
    """Train, with a bar. `wanted` are arguments of `analysis.bounds.adl_bound`."""
    from analysis.bounds import adl_bound

    with Bar("training for the bound") as bar:
        total = wanted.get("updates", 400) * len(wanted["accumulations"])
        bar.stage("training for the bound", total)
        return adl_bound(**wanted, progress=bar.told)


def _accumulations(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for part in text.split(","):
        value = option_value(OPTIONS["accumulation"], part, "--accumulations")
        assert isinstance(value, int)
        if value > _MOST_UPDATES:
            rule = f"must be at most {_MOST_UPDATES}"
            raise InputError("--accumulations", value, rule, "give fewer gradients per update")
        if value in found:
            raise InputError("--accumulations", text, f"must not have {value} twice", "drop one")
        found.append(value)
    return tuple(found)


def show_curves(screen: "Console", curves: "Sequence[BoundCurve]") -> None:
    """Print both sides of the bound after the last update."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from analysis.cli.views import digits, print_facts

    constants = curves[0].constants
    facts = [
        ("Lip, A", f"{digits(constants.lipschitz)}, {digits(constants.second_moment)}"),
        ("learning rate", f"{constants.learning_rate:.3g}"),
        (
            "loss",
            f"{digits(constants.start_loss)} at first, at least {digits(constants.minimum_loss)}",
        ),
    ]
    about = f"(K = {curves[0].modules} modules, {constants.seeds} seeds)"
    print_facts(screen, "ADL, Theorem 2", about, facts)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("M", "mean gap", "updates", "measured", "sharper", "corrected", "printed"):
        table.add_column(heading, justify="right")
    for curve in curves:
        table.add_row(
            str(curve.accumulation),
            f"{sum(curve.mean_gaps) / curve.modules:.2f}",
            str(curve.updates[-1]),
            f"{curve.measured[-1]:.3g} ±{curve.measured_high[-1] - curve.measured[-1]:.1g}",
            *(f"{side[-1]:.3g}" for side in (curve.sharper, curve.corrected, curve.printed)),
        )
    screen.print(table, soft_wrap=False)
    screen.print("measured: mean of ||grad f||^2, 95 % interval over seeds; then its bounds")
    broken = {
        check.name: check.note for curve in curves for check in curve.checks if not check.holds
    }
    for name, meaning in broken.items():
        screen.print(f"does not hold: {name} ({meaning})", markup=False)
