import json
from dataclasses import replace
from fractions import Fraction

import pytest

from simcore.cluster import Cluster, Link
from simcore.errors import InputError
from simcore.schedules import build
from simcore.slack import (
    cluster_slack,
    link_slacks,
    pace_s,
    slack_values,
    smallest_in_flight,
)
from simcore.workload import Workload

FREE = Cluster.private()


def test_the_pace_is_that_of_a_mini_batch() -> None:
    # Four micro-batches of 1/4 each way, with the bubble of the second module.
    schedule = build("gpipe", modules=2, batches=8, micro_batches=4)
    assert pace_s(schedule, Workload.even(2, 2, 1), FREE) == 2 + Fraction(2, 4)


def test_the_pace_of_a_queue_that_grows_is_that_of_what_is_finished() -> None:
    schedule = build("async-lu", layers=1, backward_threads=1)
    assert pace_s(schedule, Workload.even(1, 1, 2), FREE) == 2


def test_only_what_travels_has_a_slack() -> None:
    schedule = build("fdg", modules=2)  # gradients[2] is the last module's own
    slacks = link_slacks(schedule, Workload.even(2, 2), FREE)
    assert [slack.channel for slack in slacks] == ["gradients[1]", "activations[2]"]
    assert link_slacks(build("bp"), Workload.even(4), FREE) == ()


def test_other_links_stay_as_they_are() -> None:
    # The loop of two ADL modules hides 3 s in all, of which the gradients use 2.
    schedule, workload = build("adl", modules=2), Workload.even(2, 2, 2)
    cluster = replace(FREE, links={"gradients[1]": Link(Fraction(2))})
    slacks = {slack.channel: slack.slack_s for slack in link_slacks(schedule, workload, cluster)}
    assert slacks == {"activations[2]": 1, "gradients[1]": 3}
    together = cluster_slack(schedule, workload, cluster)
    assert together.slack_s == Fraction(3, 2)


def test_a_slack_that_is_not_exact_says_so() -> None:
    schedule = build("async-lu", layers=1, queue_capacity=1)
    (slack,) = link_slacks(schedule, Workload.even(1, 3, 2), FREE)
    assert slack.slack_s is not None
    assert 0 < slack.tolerance_s <= Fraction(3, 1000)
    assert slack.slack_s <= 3 <= slack.slack_s + slack.tolerance_s


def test_a_window_is_needed_to_win_latency_back() -> None:
    workload = Workload.even(4)
    with pytest.raises(InputError, match="in_flight"):
        smallest_in_flight(build("fdg"), workload, FREE)
    assert smallest_in_flight(build("pipedream"), workload, FREE) == 4


@pytest.mark.parametrize(("name", "in_flight"), [("fdg", None), ("pipedream", 2)])
def test_values_are_those_of_json(name: str, in_flight: int | None) -> None:
    values = slack_values(build(name, modules=2, batches=20), Workload.even(2, 2, 2), FREE)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    none = {"slack_s": 0.0, "tolerance_s": 0.0, "searched_s": 48.0}
    assert values == {
        "links": [{"channel": f"{each}", **none} for each in ("gradients[1]", "activations[2]")],
        "all_links": {"channel": None, **none},
        "in_flight": in_flight,
    }
