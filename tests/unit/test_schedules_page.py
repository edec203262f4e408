"""The page of schedules says what the registry says."""

import pytest

from analysis.schedules_page import PAGE, schedules_page
from simcore.schedules import SCHEDULES


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_has_its_row_its_section_and_its_timetable(name: str) -> None:
    page, entry = schedules_page(), SCHEDULES[name]
    assert f"| [{name}](#{name}) | {entry.lockings_broken} | {entry.gap} |" in page
    section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert entry.title in section
    assert "```text\n" in section
    assert ">>>" not in section


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == schedules_page(), "`make docs` renews it"
