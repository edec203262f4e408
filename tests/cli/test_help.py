"""Help, and the examples in it, which really run."""

import json
import shlex
import subprocess
import sys

import pytest

from analysis.cli.app import MODULES
from analysis.cli.options import FLAGS, meaning
from analysis.cli.training import DATA_SETS
from simcore.options import OPTIONS
from simcore.schedules import SCHEDULES
from tests.cli.conftest import ROOT, Gradlag

COMMANDS = {module.NAME: module for module in MODULES}
HEAVY = {"torch", "simpy", "numba", "numpy", "scipy", "matplotlib", "sklearn", "pydantic"}

# What makes an example small; of a flag that is given twice the last counts.
SMALLER = {
    "profile": ["--repeats", "1", "--model", "mlp:2x16"],
    "simulate": ["--batches", "6"],
    "sweep": ["--batches", "2", "--jobs", "1"],
    "run": ["--batches", "6", "--model", "mlp:16x8", "--runtime", "threads"],
    "bounds": ["--updates", "3", "--seeds", "2"],
}


def examples() -> list[tuple[str, str]]:
    lines = [(name, line) for name, each in COMMANDS.items() for line in each.EXAMPLES.splitlines()]
    return [(name, line) for name, line in lines if not line.startswith("#")]


def test_every_command_teaches_by_two_to_four_examples() -> None:
    for module in MODULES:
        own = [line for name, line in examples() if name == module.NAME]
        assert 2 <= len(own) <= 4
        assert all(line.startswith("gradlag ") for line in own)
        assert max(map(len, own)) <= 82


@pytest.mark.usefixtures("quick_profile")
def test_examples_run(gradlag: Gradlag) -> None:
    """All but those of `compare`, which take long; these are in test_compare."""
    for command, line in examples():
        if command == "compare":
            continue
        words, to_file = shlex.split(line.partition(" > ")[0])[1:], " > " in line
        smaller = list(SMALLER.get(words[0], []))
        if "--epochs" in words:
            smaller = smaller[2:]
        if "--runtime" in words:
            smaller = smaller[:4]
        if "--workload" in words:
            words[words.index("--modules") + 1] = "2"
        ran = gradlag(*words, *smaller)
        assert ran.status == 0, (line, ran.err)
        assert ran.out
        if to_file:
            json.loads(ran.out)


@pytest.mark.parametrize("name", [*COMMANDS])
def test_help_of_a_command(gradlag: Gradlag, name: str) -> None:
    ran = gradlag(name, "--help")
    assert ran.status == 0
    assert ran.err == ""
    assert ran.out.startswith(f"Usage: gradlag {name}")
    for line in [line for command, line in examples() if command == name]:
        assert line in ran.out
    assert "--json" in ran.out
    assert "--out" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 84


def test_help_names_every_command_and_comes_without_arguments_too(gradlag: Gradlag) -> None:
    ran = gradlag("--help")
    assert (ran.status, ran.err) == (0, "")
    assert not [name for name in COMMANDS if f"  {name} " not in ran.out]
    assert gradlag() == ran


def test_help_says_which_schedules_have_an_option_and_its_default(gradlag: Gradlag) -> None:
    words = " ".join(gradlag("simulate", "--help").out.split())
    assert "gradients per update, M (default 1; " in words
    assert "mini-batches to train on, N (default 100)" in words
    assert "(default unbounded; async-lu, async-bu)" in words
    assert "(default stash; " in words
    assert "; mixed for async-1f1b and " in words


def test_no_option_takes_more_than_a_few_lines_of_help() -> None:
    assert max(len(meaning(name)) for name in FLAGS) < 240


def test_help_of_one_schedule_has_its_options_alone(gradlag: Gradlag) -> None:
    for words in (("adl", "--help"), ("--help", "adl")):
        out = gradlag("simulate", *words).out
        shown = {name for name, flag in FLAGS.items() if f"  {flag} " in out}
        assert shown == SCHEDULES["adl"].defaults.keys()
        assert "gradients per update, M (default 1)" in " ".join(out.split())
        assert "--link-latency" in out


def test_every_option_of_every_schedule_has_a_flag() -> None:
    for entry in SCHEDULES.values():
        assert entry.defaults.keys() <= FLAGS.keys() <= OPTIONS.keys()


def test_data_sets_of_the_help_are_those_that_there_are() -> None:
    from executor.data import DATA_SETS as KNOWN

    assert tuple(KNOWN) == DATA_SETS


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from analysis.cli.main import execute; execute([]); print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(ran.stdout.splitlines()[-1].split())


def test_help_of_simulate_imports_no_library_of_simulation_or_training() -> None:
    code = (
        "import sys; from analysis.cli.main import execute; "
        "execute(['simulate', '--help']); print(*sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # Typer itself reads what was typed with pydantic.
    assert not (HEAVY - {"pydantic"}) & set(ran.stdout.splitlines()[-1].split())
