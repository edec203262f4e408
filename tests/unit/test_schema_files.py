"""The JSON Schemas in the documentation are those of the models that read files."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.sweeps.file import read_sweep_file, sweep_json_schema
from simcore.cluster import cluster_json_schema, load_cluster
from simcore.durations import read_variation, samples_json_schema
from simcore.workload import load_workload, workload_json_schema

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "workload": workload_json_schema,
    "cluster": cluster_json_schema,
    "samples": samples_json_schema,
    "sweep": sweep_json_schema,
}
LOADERS: dict[str, Callable[[Path], object]] = {
    "gradlag.workload/1": load_workload,
    "gradlag.cluster/1": load_cluster,
    "gradlag.samples/1": lambda path: read_variation(f"samples:{path}"),
    "gradlag.sweep/1": read_sweep_file,
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_published_schema_is_that_of_its_model(name: str) -> None:
    path = REFERENCE / f"{name}.schema.json"
    current = json.dumps(SCHEMAS[name](), indent=1) + "\n"
    assert path.read_text("utf-8") == current, f"write the new one to {path}"


def test_toml_examples_load_and_are_the_json_examples(tmp_path: Path) -> None:
    page = (REFERENCE / "files.md").read_text("utf-8")
    found: dict[str, list[object]] = {}
    for language, text in re.findall(r"^```(json|toml)\n(.*?)^```", page, re.M | re.S):
        path = tmp_path / f"example.{language}"
        path.write_text(text, "utf-8")
        (schema,) = re.findall(r'"?schema"?[ :=]+"([^"]+)"', text)
        found.setdefault(schema, []).append(LOADERS[schema](path))
    assert found.keys() == LOADERS.keys()
    for first, *others in found.values():
        assert all(other == first for other in others)
    assert len(found["gradlag.workload/1"]) == len(found["gradlag.cluster/1"]) == 2
