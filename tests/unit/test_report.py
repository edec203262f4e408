"""The report is a folder that a browser can open anywhere, offline."""

import base64
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.bounds import BoundCurve, adl_bound
from analysis.comparison import Baselines, Comparison, Pair, Row
from analysis.report import REPORT, Run, stems, write_report
from analysis.report_html import Html, breakable, element
from simcore.engine import simulate
from simcore.errors import InputError
from simcore.schedules import build
from simcore.trace import Trace
from simcore.workload import Workload

NASTY = """<script>alert("x")</script>&amp;'"""
EMPTY = {"meta", "img", "br", "wbr"}


class Page(HTMLParser):
    """Reads a page: tags have to be closed in order; keeps links, pictures, ids, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.said = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in EMPTY:
            self.open.append(tag)
        given = {name: value or "" for name, value in attrs}
        assert len(given) == len(attrs)
        self.attributes += given.items()
        self.links += [given["href"]] if "href" in given else []
        self.pictures += [given["src"]] if "src" in given else []
        self.ids += [given["id"]] if "id" in given else []
        if tag == "img":
            assert given["alt"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.said += data


def trace(jitter: float = 0.0) -> Trace:
    schedule = build("fdg", modules=2, batches=12)
    return simulate(schedule, Workload.even(2, 0.02, 2, 0.002), jitter=jitter)


@pytest.fixture(scope="module")
def bounds() -> Sequence[BoundCurve]:
    return adl_bound(2, (1, 2), updates=3, seeds=2)


@pytest.fixture(scope="module")
def folder(bounds: Sequence[BoundCurve], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    (out / "traces").mkdir()
    for name in ("a b.json", "all.json"):
        (out / "traces" / name).write_text("{}")
    rows = (
        Row("fdg", "fdg", batch_s=Pair(0.02, 0.025), speedup_one_thread=Pair(2, 1.6)),
        Row(NASTY, "fdg", notes=("a <b> note",)),
        Row("failed", "fdg"),
    )
    comparison = Comparison(
        rows, machine="<two> cores", settings={"batches": 12}, baselines=Baselines(0.04, 0.03)
    )
    losses = [(batch, 2.0 / (batch + 1), batch * 0.1) for batch in range(12)]
    files = {"the trace": "traces/a b.json", "a trace that is missing": "traces/missing.json"}
    runs = [
        Run("fdg", trace(), trace(0.1), losses, files),
        Run(NASTY, trace(), trace(0.2), losses),
        Run("failed", trace()),
    ]
    everything = {"all traces": "traces/all.json"}
    path = write_report(out, comparison, runs, bounds=bounds, files=everything, smooth=3)
    assert path == out / REPORT
    return out


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / REPORT).read_text("utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_it_is_a_page_that_parses(text: str, page: Page) -> None:
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    assert {"title", "main", "h1", "table", "figure", "nav", "dl"} <= page.tags
    assert len(set(page.ids)) == len(page.ids)


def test_it_needs_nothing_from_outside(text: str, page: Page) -> None:
    assert not {"script", "link", "iframe", "object"} & page.tags
    assert all(source.startswith("data:image/png;base64,") for source in page.pictures)
    assert not re.search(r"https?:|url\(|@import", text)
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_every_link_leads_somewhere(folder: Path, page: Page) -> None:
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert {"results", "guide", "bound", "of-fdg"} <= inside <= set(page.ids)
    beside = {link for link in page.links if not link.startswith("#")}
    assert {"traces/a%20b.json", "traces/all.json", "losses.png"} <= beside
    assert "traces/missing.json" not in beside
    for link in beside:
        assert (folder / link.replace("%20", " ")).is_file()


def test_every_plot_is_in_the_page_and_beside_it(folder: Path, page: Page) -> None:
    stem = "script-alert-x-script-amp"
    names = {"losses.png", "speedups.png", "bound.png"} | {
        f"{name}-{plot}.png"
        for name in ("fdg", stem, "failed")
        for plot in ("timeline", "start", "gaps")
    }
    assert {path.name for path in folder.iterdir()} == names | {"traces", REPORT}
    shown = {base64.b64decode(source.partition(",")[2]) for source in page.pictures}
    assert shown == {(folder / name).read_bytes() for name in names}
    assert len(page.pictures) == len(names)


def test_names_are_shown_as_they_are(text: str, page: Page) -> None:
    assert "<script" not in text
    assert page.said.count(NASTY) >= 3
    assert "<two> cores" in page.said
    assert "a <b> note" in page.said


def test_it_says_what_was_found(page: Page) -> None:
    said = " ".join(page.said.replace("\N{NO-BREAK SPACE}", " ").split())
    assert "The fastest was fdg, 1.60 times as fast as plain backpropagation" in said
    assert "(2.00 predicted)" in said
    assert "The error of the predicted time per batch is -20.0 %." in said
    assert "Plain backpropagation takes 40.0 ms a batch on one thread and 30.0 ms a batch" in said
    assert "fdg: modules=2, batches=12" in said


def test_the_bound_comes_with_constants_and_assumptions(
    page: Page, bounds: Sequence[BoundCurve]
) -> None:
    for constant in ("lipschitz", "second moment", "learning rate"):
        assert constant in page.said
    for check in bounds[0].checks:
        assert check.name in page.said
        assert check.note in page.said
    assert "does not hold" in page.said


def test_without_bound_losses_and_files_their_parts_are_missing(tmp_path: Path) -> None:
    path = write_report(tmp_path, Comparison((Row("fdg", "fdg"),)), [Run("fdg", trace())])
    page = Page(path.read_text("utf-8"))
    assert "bound" not in page.ids
    assert "Files of this report" not in page.said
    assert {link for link in page.links if not link.startswith("#")} == {
        "fdg-timeline.png", "fdg-start.png", "fdg-gaps.png", "speedups.png"
    }  # fmt: skip


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match="must be writable"):
        write_report(tmp_path / "taken", Comparison(()), [Run("fdg", trace())])


def test_files_of_different_labels_have_different_names() -> None:
    labels = ["fdg", "FDG", "fdg-2", "fdg", "", "?", "x" * 100, "x" * 101]
    assert len(set(stems(labels))) == len(labels)
    assert max(map(len, stems(labels))) < 70


def test_elements_escape_text_and_attributes_but_not_elements() -> None:
    inner = element("b", "1 < 2")
    assert element("p", inner, " & ", title='"') == ('<p title="&quot;"><b>1 &lt; 2</b> &amp; </p>')
    assert element("img", src="x", alt=None) == '<img src="x">'
    assert breakable("a:b=1,<c> d") == "a:<wbr>b=<wbr>1,<wbr>&lt;c&gt; d"
    assert isinstance(inner, Html)
