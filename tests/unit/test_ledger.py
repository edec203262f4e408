import pytest

from simcore.errors import IllegalOperationError
from simcore.ledger import Applied, Ledger, Update
from simcore.ops import (
    Backward,
    BackwardInput,
    BackwardThrough,
    BackwardWeight,
    Evaluate,
    Forward,
    Play,
    Project,
    Replay,
    Snapshot,
    Tangent,
)
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
    assert update.gradients == (Applied(2, 3, 0, 0, 0), Applied(2, 4, 0, 0, 0))
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


def test_an_update_after_others_contributed_applies_no_gradient_of_its_own() -> None:
    ledger = Ledger(1, WeightRules())
    assert ledger.update(0, 1) == Update(version=0, base=0, gradients=())
    assert ledger.version(1) == 1


def test_replicas_have_versions_of_their_own() -> None:
    ledger = Ledger(1, WeightRules(), replicas=(0, 1, 1))
    for worker, batch in ((0, 0), (2, 1)):
        ledger.begin(worker, Forward(1, batch))
        ledger.begin(worker, Backward(1, batch))
        ledger.end(worker, Backward(1, batch))
    assert ledger.update(2, 1).gradients == (Applied(1, 1, 0, 0, 0),)
    assert ledger.merge(1, 1) == 1
    assert [ledger.version(1, worker) for worker in range(3)] == [0, 2, 2]
    assert ledger.begin(1, Forward(1, 2)) == 2
    assert ledger.begin(0, Snapshot(1)) == 0


@pytest.mark.parametrize(("policy", "again"), [("stash", 0), ("mixed", 1), ("replay", 1)])
def test_a_replay_reads_the_weights_again_unless_they_are_stashed(policy: str, again: int) -> None:
    ledger = Ledger(1, WeightRules(policy=policy))  # type: ignore[arg-type]
    ledger.begin(0, Play(1, 0))
    ledger.update(0, 1)
    assert ledger.begin(0, Replay(1, 0)) == again
    assert ledger.begin(0, Backward(1, 0)) == again
    ledger.end(0, Backward(1, 0))
    assert ledger.update(0, 1).gradients == (Applied(1, 0, 0, again, again),)


def test_a_gradient_that_goes_through_is_not_for_an_update() -> None:
    ledger = Ledger(1, WeightRules(policy="mixed"))
    ledger.begin(0, Forward(1, 0))
    ledger.update(0, 1)
    assert ledger.begin(0, BackwardThrough(1, 0)) == 1
    ledger.end(0, BackwardThrough(1, 0))
    assert ledger.pending(0, 1) == 0
    with pytest.raises(KeyError):  # forgotten
        ledger.begin(0, BackwardWeight(1, 0))


def test_halves_of_a_backward_pass_share_a_version_and_the_second_makes_it_pending() -> None:
    ledger = Ledger(1, WeightRules(policy="mixed"))
    ledger.begin(0, Forward(1, 0))
    ledger.update(0, 1)
    assert ledger.begin(0, BackwardInput(1, 0)) == 1
    ledger.end(0, BackwardInput(1, 0))
    assert ledger.pending(0, 1) == 0
    ledger.update(0, 1)
    assert ledger.begin(0, BackwardWeight(1, 0)) == 1
    ledger.end(0, BackwardWeight(1, 0))
    assert ledger.update(0, 1).gradients == (Applied(1, 0, 0, 0, 1),)


def test_a_kept_direction_knows_its_version() -> None:
    ledger = Ledger(1, WeightRules(policy="mixed"))
    ledger.begin(0, Tangent(1, 0))
    ledger.update(0, 1)
    assert ledger.begin(0, Project(1, 0)) == 0
    ledger.end(0, Project(1, 0))
    assert ledger.update(0, 1).gradients == (Applied(1, 0, 0, 0, 0),)


def test_a_pass_that_keeps_nothing_leaves_nothing_in_the_ledger() -> None:
    ledger = Ledger(1, WeightRules())
    assert ledger.begin(0, Evaluate(1, 0)) == 0
    ledger.end(0, Evaluate(1, 0))
    assert ledger.pending(0, 1) == 0


def test_double_buffering_reads_the_version_of_the_window_before() -> None:
    ledger = Ledger(1, WeightRules(buffer=2))
    read = []
    for batch in range(8):
        read.append(ledger.begin(0, Forward(1, batch)))
        if batch % 2 == 1:
            ledger.update(0, 1)
    assert read == [0, 0, 0, 0, 1, 1, 2, 2]
    behind = Ledger(1, WeightRules(buffer=1))
    for batch in range(2):
        behind.begin(0, Forward(1, batch))
    with pytest.raises(IllegalOperationError, match="needs version 1 of its weights"):
        behind.begin(0, Forward(1, 2))


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
    assert ledger.update(0, 1).gradients == (Applied(1, 1, 0, 0, version_backward),)


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
    assert update.gradients == (Applied(1, 0, 0, 0, 0),)


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


def test_ledgers_of_several_processes_share_versions_and_raise_them_under_their_lock() -> None:
    class Held:
        times = 0

        def __enter__(self) -> None:
            self.times += 1
            assert versions == before

        def __exit__(self, *_: object) -> None:
            assert versions != before

    versions, raising = [[0, 0, 0], [0, 0, 0]], Held()
    rules, replicas = WeightRules(policy="mixed"), (0, 0, 1)
    ledgers = [Ledger(2, rules, replicas, versions, raising) for _ in range(3)]
    for worker, ledger in enumerate(ledgers):
        ledger.begin(worker, Forward(2, worker))
    before = [[0, 0, 0], [0, 0, 0]]
    backward_of(ledgers[0], 0)
    assert ledgers[0].update(0, 2).gradients == (Applied(2, 0, 0, 0, 0),)
    before = [[0, 0, 1], [0, 0, 0]]
    backward_of(ledgers[1], 1)  # it finds what the other has raised
    update = ledgers[1].update(1, 2)
    assert (update.version, update.gradients) == (1, (Applied(2, 1, 0, 0, 1),))
    before = [[0, 0, 2], [0, 0, 0]]
    assert ledgers[2].merge(2, 2) == 0
    assert versions == [[0, 0, 2], [0, 0, 1]]
    assert [ledger.version(2, 0) for ledger in ledgers] == [2, 2, 2]
    assert raising.times == 3


def backward_of(ledger: Ledger, worker: int) -> None:
    ledger.begin(worker, Backward(2, worker))
    ledger.end(worker, Backward(2, worker))
