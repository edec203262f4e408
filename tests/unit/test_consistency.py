from fractions import Fraction
from typing import Any

from simcore.consistency import Spread, drift, fresh_fractions, inconsistency
from simcore.engine import simulate
from simcore.schedules import SCHEDULES, build
from simcore.trace import Trace
from simcore.window import steady_window
from simcore.workload import Workload
from tests.properties.odd_schedules import ODD_SCHEDULES


def run(name: str, blocks: int = 2, **options: Any) -> Trace:
    options[SCHEDULES[name].blocks_option] = blocks
    return simulate(build(name, **options), Workload.even(blocks, blocks, 2))


def test_backpropagation_is_consistent() -> None:
    trace = run("bp", batches=5)
    assert inconsistency(trace) == drift(trace) == Spread(0.0, 0, 0)
    assert fresh_fractions(trace) == (1, 1)


def test_of_a_pipeline() -> None:
    # Batch t meets versions max(0, t - 1) and t: see the gaps in test_staleness.
    trace = run("fdg", batches=4)
    assert inconsistency(trace) == Spread(0.75, 0, 1)
    assert fresh_fractions(trace) == (0, 1)
    assert drift(trace) == Spread(0.0, 0, 0)
    # In place, the backward pass of batch t > 0 finds one more update than its forward pass.
    assert drift(run("fdg", batches=4, weights="mixed")) == Spread(3 / 8, 0, 1)


def test_ages_are_counted_in_batches() -> None:
    # Four gradients for an update, at the same iterations of both modules. The first one lags two
    # batches behind the other, although its versions never do by more than one.
    trace = run("adl", 2, batches=40, accumulation=4)
    assert inconsistency(trace, steady_window(trace)) == Spread(2.0, 2, 2)
    # Windows counted from each module's first gradient: their updates come two iterations apart.
    trace = run("adl", 2, batches=40, accumulation=4, window="gradient")
    spread = inconsistency(trace, steady_window(trace))
    assert spread is not None
    assert (spread.min, spread.max) == (0, 4)


def test_the_window_is_that_of_the_passes() -> None:
    trace = run("fdg", batches=4)
    read = {(int(row["block"]), int(row["batch"])): int(row["start"]) for row in
            trace.of_kind("forward")}  # fmt: skip
    # Batch 0 alone, before it has met its second block, and with it.
    assert inconsistency(trace, (-1, read[1, 0])) is None
    assert inconsistency(trace, (-1, read[2, 0])) == Spread(0.0, 0, 0)
    assert fresh_fractions(trace, (0, read[2, 1])) == (0, 1)
    assert fresh_fractions(trace, (read[1, 1], read[2, 1])) == (None, 1)
    assert fresh_fractions(trace, (-1, 0)) == (None, None)  # batch 0 has none before it


def test_blocks_that_are_never_updated_have_no_age() -> None:
    # Block 1 is frozen; block 2 takes two batches for an update, block 3 one. Each worker has
    # learned from a batch, or is in the midst of two, before it takes the next.
    schedule = ODD_SCHEDULES["local"](4)
    trace = simulate(schedule, Workload.even(3, 3, 2))
    assert inconsistency(trace) == Spread(0.5, 0, 1)
    assert fresh_fractions(trace) == (None, Fraction(1, 3), 1)


def test_the_batch_before_is_that_of_the_replica() -> None:
    trace = simulate(ODD_SCHEDULES["replicas"](6), Workload.even(2))
    assert fresh_fractions(trace) == (1, 1)
    assert inconsistency(trace) == Spread(0.0, 0, 0)


def test_a_replay_meets_weights_that_the_first_pass_did_not() -> None:
    trace = simulate(ODD_SCHEDULES["replayed, replay"](4), Workload.even(2, 2, 2))
    rows = trace.gradients
    newer = (rows["version_backward"] - rows["version_first"]).tolist()
    assert drift(trace) == Spread(sum(newer) / len(newer), min(newer), max(newer))
    assert max(newer) > 0
