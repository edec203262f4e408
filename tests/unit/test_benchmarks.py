"""Every benchmark runs, with sizes at which its figures mean nothing; its arithmetic is right."""

import json
import sys
from dataclasses import replace
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from simcore.engine import simulate
from simcore.errors import InputError
from simcore.metrics import makespan_s
from simcore.schedules import build
from simcore.workload import Workload
from tests.benchmarks.__main__ import BENCHMARKS
from tests.benchmarks.command import TINY, main
from tests.benchmarks.gap_distributions import distance
from tests.benchmarks.harness import Case, Phase, Scale, paired
from tests.benchmarks.itemised import itemised
from tests.benchmarks.results import SCHEMA, Phases, Result, Target, markdown, written


def tried(name: str, device: str = "cpu") -> Any:
    """The result of a benchmark with tiny sizes, as JSON."""
    result = import_module(f"tests.benchmarks.{name}").measure(replace(TINY, device=device))
    assert result.name == name
    return json.loads(json.dumps(result.document()))


def check_plausible(found: Any) -> None:
    assert found["schema"] == SCHEMA
    assert found["machine"]["torch"] == torch.__version__
    assert found["phases"]["kept"] > 0
    assert found["rows"]
    for row in found["rows"]:
        assert row.keys() == found["rows"][0].keys()
    for head in found["rows"][0]:
        if head.endswith((", ms", ", µs")):
            values = [row[head] for row in found["rows"]]
            if found["name"] == "figures":  # which asks some of its questions without the peers
                values = [value for value in values if value is not None]
            assert values, head
            assert all(0 < value < 1e7 for value in values), head
    assert found["question"] in markdown(Result.read(found))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_leaves_plausible_json(name: str) -> None:
    check_plausible(tried(name))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["ideal", "small_operations", "gap_distributions"])
def test_benchmarks_run_on_a_gpu(name: str) -> None:
    check_plausible(tried(name, device="cuda"))


def measured(scale: Scale) -> Result:
    """How fast is nothing?"""
    scale.told("measuring")
    return Result("nothing", "How fast?", [{"device": scale.device, "a, ms": 1.5}], Phases(1))


def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The allocator's settings would outlive the test.
    monkeypatch.setattr("tests.benchmarks.command.tune_allocator", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    file = tmp_path / "found.json"
    main(measured, ["--rounds", "2", "--json", str(file)])
    document = json.loads(file.read_text())
    assert document["command"] == "python -m tests.benchmarks.nothing --rounds 2"
    printed = capsys.readouterr()
    assert "| cpu    |   1.5 |" in printed.out
    assert printed.err == "measuring\n"
    with pytest.raises(SystemExit, match="2"):
        main(measured, ["--device", "cuda"])
    assert capsys.readouterr().err.startswith("error: --device is 'cuda'")


def test_disturbed_phases_are_repeated_and_counted() -> None:
    shares = iter([0.0, 0.5, 0.02, 0.0, 0.3, 0.2, 0.4])
    times = iter([4.0, 9.0, 2.0, 6.0, 9.0, 3.0, 9.0])
    order: list[str] = []

    def case(name: str) -> Case:
        def phase() -> Phase:
            order.append(name)
            return Phase(next(times), next(shares))

        return phase

    rounds = paired({"a": case("a"), "b": case("b")}, Scale(rounds=2, repeats=2))
    # b is repeated in both rounds, and in the second there is none that nobody disturbed.
    assert "".join(order) == "abbabbb"
    assert (rounds.dropped, rounds.disturbed) == (3, 1)
    assert rounds.ratios("a", "b") == [4.0 / 2.0, 6.0 / 3.0]
    assert str(Phases.of(rounds)).startswith("4 phases, 3 more dropped")


def test_items_add_up_to_the_time_and_find_what_was_put_in() -> None:
    """Two runs of a schedule with known costs: what the slower one takes longer for is found."""
    schedule = build("fdg", modules=2, batches=40)
    work = Workload.even(2, forward_s=2, backward_ratio=2, update_s=Fraction(1, 10))
    slow = Workload.even(
        2, forward_s=Fraction(22, 10), backward_ratio=2, update_s=Fraction(11, 100)
    )
    ideal, measured = simulate(schedule, work), simulate(schedule, slow)
    alone = simulate(build("bp", modules=2, batches=40), work)
    items = itemised(measured, alone, ideal)
    assert items.total == pytest.approx(makespan_s(measured) / 40)
    assert items.computing + items.bubble == pytest.approx(makespan_s(ideal) / 40)
    assert items.within == pytest.approx(0)
    updates = 0.05
    assert items.updates == pytest.approx(0.1 * updates)
    assert items.contention == pytest.approx(0.1 * (items.computing - updates))
    assert items.messages == items.python == 0
    assert items.share("contention") == pytest.approx(items.contention / items.total)


def test_the_distance_of_gaps_is_a_total_variation() -> None:
    schedule = build("fdg", modules=2, batches=50)
    fdg = simulate(schedule, Workload.even(2))
    bp = simulate(build("bp", modules=2, batches=50), Workload.even(2))
    assert distance(fdg, fdg) == 0
    # All gaps of BP are 0; so are FDG's in module 2, and that of the first batch in module 1.
    assert distance(fdg, bp) == pytest.approx(49 / 100)


def test_targets_say_by_how_much_they_were_missed() -> None:
    assert str(Target("share", 0.95, 0.9)) == "share: 0.9, wanted at least 0.95: missed by 0.05"
    assert str(Target("distance", 0.05, 0.01, at_least=False)).endswith("at most 0.05: met")


def test_a_page_takes_a_result_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- benchmark one -->\nold\n<!-- benchmark one -->\nafter\n")
    rows: list[dict[str, str | float]] = [{"network": "mlp", "share": 0.9567}]
    result = Result("one", "How?", rows, Phases(3, 1), [Target("share", 0.9, 0.9567)])
    written(result, page)
    written(Result.read(json.loads(json.dumps(result.document()))), page)
    text = page.read_text()
    assert text.startswith("before\n<!-- benchmark one -->\n\n**Question.** How?")
    assert text.endswith("<!-- benchmark one -->\nafter\n")
    assert "old" not in text
    assert "| mlp     | 0.957 |" in text
    assert text.count("met") == 1
    page.write_text("nothing")
    with pytest.raises(InputError, match="benchmark one"):
        written(result, page)
