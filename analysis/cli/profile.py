"""`gradlag profile`: what the layers of a network cost on this machine."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Final

from analysis.cli.learning import OptimizerFlags
from analysis.cli.options import Json, flag, with_flags
from analysis.cli.output import Bar, console, folder, note
from analysis.cli.training import NetworkFlags
from analysis.cli.values import whole

if TYPE_CHECKING:
    from simcore.workload import Workload

__all__ = ["EXAMPLES", "NAME", "command"]

NAME: Final = "profile"
EXAMPLES: Final = """\
# The costs of eight layers, to simulate with
gradlag profile --model mlp:8x1024 --out out/mlp.json
gradlag simulate fdg --modules 4 --workload out/mlp.json
# A small convolutional network with Adam, as JSON
gradlag profile --model conv:4x16 --optimizer adam --json > conv.json
"""
_FILE: Final = "workload.json"


@with_flags
def command(
    network_flags: NetworkFlags,
    optimizer_flags: OptimizerFlags,
    repeats: Annotated[str, flag("--repeats", "R", "undisturbed phases of a second to time")] = "5",
    json: Json = False,
    out: Annotated[
        str | None, flag("--out", "PATH", "the workload file, or a folder for workload.json")
    ] = None,
) -> None:
    """Measure what each layer of a network costs for one mini-batch: time and memory.

    The result is a workload file, which `gradlag simulate --workload` reads. Phases in which other
    programs disturb the measurement are dropped and repeated.
    """
    wanted = whole(repeats, "--repeats")
    cores = network_flags.cores or 1
    optimizer_flags.settings()
    network = network_flags.make()
    file = _file(out)

    from torch import nn

    from executor.profile import profile
    from simcore.workload import dump_workload

    inputs, labels = network.data.batch(0, network.batch_size, network.seed)
    with Bar(f"timing {network.spec}", wanted) as bar:
        workload = profile(
            network.model,
            inputs,
            labels,
            nn.CrossEntropyLoss(),
            optimizer_flags.make(),
            wanted,
            cores,
            bar.told,
            name=network.spec,
        )
    if file is not None:
        dump_workload(workload, file)
        note(f"wrote {file}")
    if json:
        print(_text(workload), end="")
    else:
        _show(workload)


def _file(out: str | None) -> Path | None:
    """The file that `--out` means: itself if it ends in .json, else workload.json in it."""
    if out is None:
        return None
    path = Path(out) if out.endswith(".json") else Path(out) / _FILE
    folder(str(path.parent), [path.name])
    return path


def _text(workload: "Workload") -> str:
    from simcore.workload import dump_workload

    with TemporaryDirectory() as place:
        dump_workload(workload, Path(place) / _FILE)
        return (Path(place) / _FILE).read_text("utf-8")


def _show(workload: "Workload") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from analysis.cli.views import print_facts, seconds, size

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer")
    for heading in ("forward", "backward", "update", "output", "parameters", "saved"):
        table.add_column(heading, justify="right")
    for layer in workload.layers:
        times = (layer.forward_s, layer.backward_s, layer.update_s)
        sizes = (layer.activation_bytes, layer.parameter_bytes, layer.saved_bytes)
        table.add_row(
            layer.name, *(seconds(float(time)) for time in times), *(size(each) for each in sizes)
        )
    ratio = float(workload.backward_s / workload.forward_s) if workload.forward_s else 0.0
    facts = [
        (
            "forward, backward, update",
            ", ".join(
                seconds(float(time))
                for time in (workload.forward_s, workload.backward_s, workload.update_s)
            ),
        ),
        ("backward over forward", f"{ratio:.2f}"),
        ("one batch", seconds(float(workload.sequential_s(1)))),
    ]
    screen = console()
    print_facts(screen, workload.name, f"(batches of {workload.batch_size})", facts)
    screen.print(table, soft_wrap=False)
    screen.print(workload.note, style="dim", markup=False)
