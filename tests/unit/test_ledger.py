import pytest

from simcore.ledger import Applied, Ledger
from simcore.schedule import WeightRules


def test_an_update_applies_all_that_is_pending_and_raises_the_version_by_one() -> None:
    ledger = Ledger(2, WeightRules())
    for batch in (3, 4):
        assert ledger.forward(2, batch) == 0
        assert ledger.backward(0, 2, batch) == 0
        ledger.computed(0, 2, batch)
    assert ledger.pending(0, 2) == 2
    update = ledger.update(0, 2)
    assert (update.version, update.base) == (0, 0)
    assert update.gradients == (Applied(2, 3, 0, 0), Applied(2, 4, 0, 0))
    assert (ledger.version(1), ledger.version(2)) == (0, 1)
    assert ledger.pending(0, 2) == 0


def test_pending_gradients_belong_to_a_worker_and_a_block() -> None:
    ledger = Ledger(2, WeightRules())
    for worker, block, batch in ((0, 1, 0), (1, 1, 1), (0, 2, 0)):
        ledger.forward(block, batch)
        ledger.backward(worker, block, batch)
        ledger.computed(worker, block, batch)
    assert [g.batch for g in ledger.update(1, 1).gradients] == [1]
    assert [ledger.pending(0, 1), ledger.pending(1, 1), ledger.pending(0, 2)] == [1, 0, 1]


def test_an_update_of_nothing_is_refused() -> None:
    with pytest.raises(KeyError):
        Ledger(1, WeightRules()).update(0, 1)


@pytest.mark.parametrize(("policy", "version_backward"), [("stash", 0), ("mixed", 1)])
def test_the_policy_says_which_version_a_backward_pass_reads(
    policy: str, version_backward: int
) -> None:
    ledger = Ledger(1, WeightRules(policy=policy))  # type: ignore[arg-type]
    ledger.forward(1, 0)
    ledger.forward(1, 1)
    ledger.backward(0, 1, 0)
    ledger.computed(0, 1, 0)
    ledger.update(0, 1)
    assert ledger.backward(0, 1, 1) == version_backward
    ledger.computed(0, 1, 1)
    # The gap of batch 1 is 1 under both: it was read at 0 and is applied at 1.
    assert ledger.update(0, 1).gradients == (Applied(1, 1, 0, version_backward),)


def test_versions_are_read_at_the_start_and_applied_versions_at_the_end() -> None:
    """Another worker's update between a backward pass and its own update widens the gap."""
    ledger = Ledger(1, WeightRules(policy="mixed"))
    for batch in (0, 1):
        ledger.forward(1, batch)
        ledger.backward(batch, 1, batch)
        ledger.computed(batch, 1, batch)
    assert ledger.update(1, 1).version == 0
    update = ledger.update(0, 1)
    assert (update.version, update.base) == (1, 1)
    assert update.gradients == (Applied(1, 0, 0, 0),)


def backward(ledger: Ledger, worker: int, block: int, batch: int) -> None:
    ledger.forward(block, batch)
    ledger.backward(worker, block, batch)
    ledger.computed(worker, block, batch)


def test_an_assigning_update_overwrites_what_others_added_since_its_copy() -> None:
    ledger = Ledger(1, WeightRules(policy="mixed", write="assign"))
    backward(ledger, 0, 1, 0)
    backward(ledger, 1, 1, 1)
    first, second = ledger.update(0, 1), ledger.update(1, 1)
    assert (first.version, first.base) == (0, 0)
    assert (second.version, second.base) == (1, 0)  # the update of worker 0 is lost
    backward(ledger, 0, 1, 2)
    third = ledger.update(0, 1)
    assert (third.version, third.base) == (2, 2)


def test_copies_are_renewed_by_layer_or_by_pass() -> None:
    bases = {}
    for refresh in ("layer", "pass"):
        rules = WeightRules(policy="mixed", write="assign", refresh=refresh)
        ledger = Ledger(2, rules)
        backward(ledger, 0, 2, 0)  # the pass of worker 0 starts: both copies at version 0
        backward(ledger, 1, 2, 1)
        backward(ledger, 1, 1, 1)
        ledger.update(1, 1)
        backward(ledger, 0, 1, 0)  # by layer, the copy of block 1 is renewed only now
        bases[refresh] = [ledger.update(0, 1).base, ledger.update(0, 2).base]
    assert bases == {"layer": [1, 0], "pass": [0, 0]}
