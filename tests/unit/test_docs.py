"""Code in the documentation runs and prints what the page says."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from simcore.cluster import load_cluster
from simcore.workload import load_workload

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]
    if re.search(r"^```python\n.*?^```\n\n```text\n", page.read_text(), re.M | re.S)
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_print_the_text_block_that_follows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that begins with the name of a file is saved under it, for those that follow."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    for name, code in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", text, re.M | re.S):
        (tmp_path / name).write_text(code)
    lines = r"((?:(?!```).*\n)*)"
    blocks = re.findall(rf"^```python\n{lines}```\n\n```text\n{lines}```", text, re.M)
    assert len(blocks) == text.count("```text")
    namespace: dict[str, object] = {"__name__": "page"}
    for code, expected in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(page), "exec"), namespace)
        assert printed.getvalue() == expected


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_example_files_load(tmp_path: Path) -> None:
    page = (ROOT / "docs/reference/files.md").read_text()
    loaders = {"gradlag.workload/1": load_workload, "gradlag.cluster/1": load_cluster}
    examples = re.findall(r"^```json\n(.*?)^```", page, re.M | re.S)
    assert len(examples) == len(loaders)
    for text in examples:
        path = tmp_path / "example.json"
        path.write_text(text)
        loaders[json.loads(text)["schema"]](path)
