"""Which engine simulates: the compiled one where it can, the reference where it cannot."""

import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from simcore import engines
from simcore.cluster import Cluster, Device, Link
from simcore.schedules import build
from simcore.workload import Workload

ROOT = Path(__file__).resolve().parents[2]
SIMULATE = "from analysis.cli.main import main; main()", "simulate", "fdg", "--json"


def python(
    code: str, *arguments: str, path: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=path,
        env={**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{ROOT}", **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def test_without_numba_simpy_simulates_and_says_so() -> None:
    code, *arguments = SIMULATE
    ran = python(f"import sys; sys.modules['numba'] = None; {code}", *arguments)
    found = json.loads(ran.stdout)
    assert found["engine"] == "simpy"
    assert "numba is not installed" in ran.stderr
    expected = json.loads(python(*SIMULATE, "--engine", "simpy").stdout)
    assert found == expected


def test_a_numba_that_cannot_be_imported_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text("raise ImportError('needs an older NumPy')")
    ran = python(*SIMULATE, path=tmp_path)
    assert json.loads(ran.stdout)["engine"] == "simpy"
    assert "numba cannot be imported: needs an older NumPy" in ran.stderr


CACHE = "import simcore.compiled as c; print(c.__file__, c.run.stats.cache_path, sep='\\n')"


def test_compiled_code_is_kept_elsewhere_if_the_package_cannot_be_written(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    shutil.copytree(
        ROOT / "simcore", tmp_path / "simcore", ignore=shutil.ignore_patterns("__pycache__")
    )
    pycache = tmp_path / "simcore" / "__pycache__"
    pycache.write_text("a file, so that no folder can be made, whoever tries")
    kept = tmp_path / "kept"
    where = {"HOME": f"{kept}", "XDG_CACHE_HOME": f"{kept}", "PYTHONDONTWRITEBYTECODE": "1"}
    file, folder = python(CACHE, path=tmp_path, **where).stdout.split()
    assert file == f"{tmp_path}/simcore/compiled.py"
    assert Path(folder).is_relative_to(kept)
    shutil.rmtree(kept)
    kept.write_text("no folder either")
    assert python(CACHE, path=tmp_path, **where).stdout.split() == [file, "None"]


def test_another_text_of_any_file_is_looked_up_apart(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    shutil.copytree(
        ROOT / "simcore", tmp_path / "simcore", ignore=shutil.ignore_patterns("__pycache__")
    )
    code = "import simcore.compiled as c; print(c.run.py_func.__closure__[0].cell_contents)"
    first = python(code, path=tmp_path).stdout
    assert first == python(code).stdout
    with (tmp_path / "simcore" / "compiled_rounds.py").open("a") as file:
        file.write("\n# Changed.\n")
    assert python(code, path=tmp_path).stdout != first


def test_what_is_left_to_the_reference_is_told() -> None:
    schedule = build("fdg", batches=8)
    wire = Link(bytes_per_s=Fraction(8), transfers="shared")
    cluster = Cluster((Device("device"),), "private", wire)
    lines: list[str] = []
    blocks = Workload.even(schedule.blocks, 1, 2)
    trace = engines.simulate(schedule, blocks, cluster, told=lines.append)
    assert trace.header.about["engine"] == "simpy"
    if not engines.why_not_compiled():
        assert trace.header.about["instead_of"] == "compiled: transfers share a wire"
        assert lines == [
            "simulated by SimPy instead of the compiled engine: transfers share a wire"
        ]
    assert "instead_of" not in engines.simulate(schedule, blocks, engine="simpy").header.about
