"""The faults of `test_faults_workers` in ranks under torchrun, at any rank and any time.

A start takes seconds: a few run in `make test`, all with HYPOTHESIS_PROFILE=nightly.
"""

import os
import sys
import time
from itertools import product
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from faulty_layers import LAST_BATCH
from torchrun_commands import Case, error_of, ranks_of, start

from executor.failure import GRACE_S

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
TIMEOUT_S = 3.0
MARGIN_S = 15.0  # for a machine with other things to do; what hangs does so for ever
PHASES = {"start-up": (1, False), "steady": (LAST_BATCH // 2, False), "drain": (LAST_BATCH, True)}
CASES = (
    [*product(["raise", "kill", "hang", "nan"], [1, 2, 3], PHASES)]
    if NIGHTLY
    else [("raise", 3, "start-up"), ("nan", 2, "drain"), ("kill", 1, "drain")]
)


@pytest.mark.parametrize(("fault", "place", "phase"), CASES)
def test_a_fault_ends_all_ranks_with_the_name_of_its_worker(
    fault: str, place: int, phase: str, tmp_path: Path
) -> None:
    at, backward = PHASES[phase]
    note = tmp_path / "note"
    case: Case = {"faulty": (fault, place, at, backward, str(note)), "timeout_s": TIMEOUT_S}
    process = start(tmp_path, 3, [case])
    _, err = process.communicate(timeout=100)
    took_s = time.monotonic() - float(note.read_text())
    assert process.returncode == 1, err
    assert took_s < TIMEOUT_S + GRACE_S + MARGIN_S
    assert not ranks_of(tmp_path)
    reporting = 1 if fault == "kill" and place == 1 else 0
    text, traceback, partial = error_of(tmp_path, reporting)
    assert text == partial.failure
    assert partial.state is None
    assert text.startswith(f"module {place}: ")
    if fault == "raise":
        assert text.endswith("ValueError('fault on purpose')")
        assert "in strike" in traceback
    elif fault == "kill":
        assert "its process (rank" in text
        assert "SIGKILL" in err
    elif fault == "hang":
        assert "hangs: " in text
        assert "faulty_layers.py" in traceback
    else:
        assert " is not finite: training diverged" in text or "is nan" in text
    if phase != "start-up":
        assert len(partial.trace.spans) > 0
