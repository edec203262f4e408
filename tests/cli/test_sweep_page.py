"""Commands on the page about sweeps print what the page says."""

import doctest
import re
import shlex
from pathlib import Path

from tests.cli.conftest import ROOT, Gradlag

PAGE = (ROOT / "docs" / "how-to" / "sweep.md").read_text()
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
BLOCKS = re.findall(r"^```sh\n(.*?)^```\n(?:\n```console\n(.*?)^```\n)?", PAGE, re.M | re.S)


def test_commands_print_what_the_page_says(gradlag: Gradlag, tmp_path: Path) -> None:
    assert len(BLOCKS) == PAGE.count("```sh\n") == 6
    assert sum(bool(shown) for _, shown in BLOCKS) == PAGE.count("```console\n") == 5
    checker = doctest.OutputChecker()
    for commands, shown in BLOCKS:
        for name, text in re.findall(r"^cat > (\S+) << END\n(.*?)^END\n", commands, re.M | re.S):
            (tmp_path / name).write_text(text)
        for line in re.findall(r"^gradlag (.*)$", commands, re.M):
            ran = gradlag(*shlex.split(line), *(["--jobs", 1] if line[:5] == "sweep" else []))
            assert ran.status == 0, ran.err
        assert not shown or checker.check_output(shown, ran.out, OPTIONS), (shown, ran.out)
    assert {path.name for path in (tmp_path / "out" / "grid").iterdir()} >= {
        "sweep.csv",
        "speedup.png",
        "gap.png",
        "memory.png",
    }
