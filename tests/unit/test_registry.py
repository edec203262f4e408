import pickle
import re
from functools import partial
from typing import Any, Literal, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simcore.compositions import COMPOSED
from simcore.errors import InputError
from simcore.ops import Channel, Group, Item, Worker
from simcore.options import OPTIONS, check, own_option
from simcore.registry import Entry, register
from simcore.schedule import Schedule, WeightRules, Window
from simcore.schedules import SCHEDULES, build, check_together, find
from simcore.testing import options, schedules

COUNT = "must be a whole number of at least 1; give 1 or more"
COUNTS = (
    "batches",
    "modules",
    "layers",
    "chunks",
    "processes",
    "replicas",
    "averaging",
    "prefetch",
    "tangents",
    "time_steps",
    "accumulation",
    "forward_threads",
    "backward_threads",
)
OPTIONAL_COUNTS = ("micro_batches", "queue_capacity")
WINDOWS = "must be a whole number of at least 1, or a list of one for each module"
SHRINK = "must be above 0 and at most 1; give 1 to leave gradients as they are"


def lines_of_counts() -> list[tuple[str, object, str]]:
    shown: list[tuple[object, str]] = [
        (0, "0"),
        (-3, "-3"),
        (1.0, "1.0"),
        (1.5, "1.5"),
        (True, "True"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        ("4", "'4'"),
        ([1], "'[1]'"),
    ]
    names = (*COUNTS, *OPTIONAL_COUNTS)
    found = [(name, value, f"{name} is {text}: {COUNT}") for name in names for value, text in shown]
    return found + [(name, None, f"{name} is 'None': {COUNT}") for name in COUNTS]


def lines_of_choices() -> list[tuple[str, object, str]]:
    choices = {
        "directions": "gaussian, rademacher",
        "keep": "tangent, seed",
        "order": "forward-first, update-first",
        "reduce": "mean, sum",
        "window": "batch, gradient",
        "write": "add, assign",
        "refresh": "layer, pass",
        "momentum": "worker, shared",
        "weights": "stash, mixed",
    }
    return [
        (name, value, f"{name} is {shown}: must be one of {listed}; choose one of these")
        for name, listed in choices.items()
        for value, shown in (("", "''"), ("Mean", "'Mean'"), (None, "'None'"), (1, "1"))
    ]


def lines_of_others() -> list[tuple[str, object, str]]:
    shown: list[tuple[object, str]] = [(0, "0"), ("4", "'4'"), ([], "'[]'"), (True, "True")]
    windows = f"{WINDOWS}; give one such as 4 or 4,3,2,1"
    found: list[tuple[str, object, str]] = [
        ("in_flight", value, f"in_flight is {text}: {windows}") for value, text in shown
    ]
    found += [("in_flight", (2, 0), f"in_flight is 0: {windows}")]
    loaders = "must be a whole number of at least 0; give 0 or more"
    found += [("loaders", value, f"loaders is {value}: {loaders}") for value in (-1, 0.5)]
    alpha = "must be at least 0; give 1 to leave them as they are"
    found += [("alpha", value, f"alpha is {value}: {alpha}") for value in (-0.1, float("nan"))]
    return found + [
        (name, value, f"{name} is {text}: must be true or false; give one of these")
        for name in ("recompute", "lockstep", "global_norm")
        for value, text in ((1, "1"), ("true", "'true'"), (None, "'None'"))
    ]


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        *lines_of_counts(),
        *lines_of_choices(),
        *lines_of_others(),
        *(
            ("shrink", value, f"shrink is {shown}: {SHRINK}")
            for value, shown in [
                (0, "0"),
                (0.0, "0.0"),
                (-0.5, "-0.5"),
                (1.0001, "1.0001"),
                (float("nan"), "nan"),
                (float("inf"), "inf"),
                (True, "True"),
                ("0.5", "'0.5'"),
                (None, "'None'"),
            ]
        ),
    ],
)
def test_a_bad_value_gets_one_line(name: str, value: object, line: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(line)}$"):
        check(name, value)


def test_every_option_has_a_tested_rule() -> None:
    lines = (*lines_of_counts(), *lines_of_choices(), *lines_of_others())
    tested = {name for name, _, _ in lines} | {"shrink"}
    assert tested == OPTIONS.keys()
    used = {option for entry in SCHEDULES.values() for option in entry.defaults}
    assert used == OPTIONS.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 1) for name in COUNTS),
        *((name, 10**30) for name in COUNTS),
        pytest.param("modules", 10**400, id="larger than any float"),
        ("queue_capacity", None),
        ("queue_capacity", 1),
        ("shrink", 1),
        ("shrink", 1e-300),
        *((name, choice) for name, option in OPTIONS.items() for choice in option.choices),
    ],
)
def test_a_good_value_stays_as_it_is(name: str, value: object) -> None:
    assert check(name, value) == value


@pytest.mark.parametrize("entry", SCHEDULES.values(), ids=SCHEDULES)
def test_entries_agree_with_their_factories(entry: Entry) -> None:
    assert entry.factory.__doc__
    assert entry.blocks_option in entry.defaults
    assert find(entry.name) is entry
    for option, default in entry.defaults.items():
        assert check(option, default) == default
    around = {option for name in entry.compositions for option in COMPOSED[name]}
    hints = get_type_hints(entry.factory)
    assert entry.defaults.keys() == around | (hints.keys() - {"return"})
    for option in hints.keys() - {"return"}:
        kind = OPTIONS[option].kind
        if kind is tuple:
            assert hints[option] in (Window, Window | None)
        elif kind is str:
            assert get_args(hints[option]) == OPTIONS[option].choices
        else:
            assert hints[option] in (kind, kind | None)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("fdgs", "fdg"),
        ("ADL", "adl"),
        ("AsyncLU", "async-lu"),
        ("bq", "bp"),
        ("async-lv", "async-lu"),
    ],
)
def test_an_unknown_schedule_gets_the_nearest_name(name: str, nearest: str) -> None:
    listed = ", ".join(SCHEDULES)
    line = f"schedule is '{name}': must be one of {listed}; did you mean {nearest}?"
    with pytest.raises(InputError, match=f"^{re.escape(line)}$"):
        build(name)


@pytest.mark.parametrize("name", ["", "zzz", "bp\n"])
def test_any_unknown_name_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match=r"must be one of .*; did you mean [\w-]+\?$") as caught:
        find(name)
    assert "\n" not in str(caught.value)


def test_an_option_that_a_schedule_lacks_is_refused() -> None:
    line = (
        "accumulation is 2: is not an option of fdg; "
        "leave it out; fdg has modules, batches, shrink, lockstep, weights, "
        "recompute, replicas, loaders, prefetch"
    )
    with pytest.raises(InputError, match=f"^{re.escape(line)}$"):
        build("fdg", accumulation=2)


def test_errors_use_the_flag_that_was_given() -> None:
    flags = {"modules": "--modules", "accumulation": "--accumulation"}
    with pytest.raises(InputError, match=r"^--modules is 0: must be"):
        build("fdg", flags=flags, modules=0)
    with pytest.raises(InputError, match=r"^--accumulation is 2: is not an option of fdg"):
        build("fdg", flags=flags, accumulation=2)


@pytest.mark.parametrize(
    ("given_options", "line"),
    [
        (
            {"write": "assign", "weights": "stash"},
            "write is 'assign': writes in place and cannot keep old weights; use weights=mixed",
        ),
        (
            {"write": "assign", "momentum": "shared"},
            "momentum is 'shared': cannot step each worker's own copy; use momentum=worker",
        ),
    ],
)
@pytest.mark.parametrize("name", ["async-lu", "async-bu"])
def test_options_that_do_not_go_together(
    name: str, given_options: dict[str, object], line: str
) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(line)}$"):
        build(name, **given_options)  # type: ignore[arg-type]


def test_processes_that_assign_have_momentum_of_their_own() -> None:
    with pytest.raises(InputError, match=r"^momentum is 'shared': cannot step"):
        build("hogwild", write="assign", momentum="shared")


@pytest.mark.parametrize(
    ("name", "large"),
    [
        *((name, {"batches": 10**9}) for name in SCHEDULES),
        ("ddp", {"batches": 5000, "replicas": 5000}),
        ("lapsgd", {"batches": 10**6, "averaging": 10**5}),
        ("pipedream-2bw", {"micro_batches": 5000}),
        ("interleaved-1f1b", {"micro_batches": 8000}),
        ("hogwild", {"processes": 10**18}),
        ("fdg", {"modules": 10**18}),
    ],
)
def test_large_options_that_go_together_are_not_refused(name: str, large: dict[str, int]) -> None:
    check_together(name, {}, large)


def test_options_that_do_not_go_together_are_refused_however_large_the_rest_is() -> None:
    with pytest.raises(InputError, match=r"^--replicas is 3: must be at most the number of batch"):
        check_together("fdg", {"replicas": "--replicas"}, {"batches": 2, "replicas": 3})
    with pytest.raises(
        InputError, match=r"^micro_batches is 5001: must be a multiple of the 4 mod"
    ):
        check_together("interleaved-1f1b", {}, {"batches": 10**9, "micro_batches": 5001})


def shape(schedule: Schedule) -> tuple[object, ...]:
    return (
        schedule.name,
        dict(schedule.options),
        schedule.blocks,
        schedule.batches,
        schedule.weights,
        [(c.name, c.carries, c.capacity, c.source) for c in schedule.channels],
        [
            (w.name, w.blocks, [c.name for c in w.sends], [c.name for c in w.receives])
            for w in schedule.workers
        ],
    )


@given(schedules())
def test_a_schedule_is_built_again_from_its_options(schedule: Schedule) -> None:
    assert schedule.options.keys() == SCHEDULES[schedule.name].defaults.keys()
    given_options: Any = dict(schedule.options)
    again = pickle.loads(pickle.dumps(partial(build, schedule.name, **given_options)))()
    assert shape(again) == shape(schedule)


@given(st.data(), st.sampled_from(sorted(SCHEDULES)))
def test_options_arrive_where_they_belong(data: st.DataObject, name: str) -> None:
    drawn: dict[str, Any] = data.draw(options(name))
    try:
        schedule = build(name, **drawn)
    except InputError:
        return
    assert schedule.options == drawn
    assert schedule.blocks == SCHEDULES[name].blocks(drawn)
    assert schedule.batches == drawn["batches"] * passes(drawn)
    rules = {"weights": "policy"}
    for option, value in drawn.items():
        attribute = rules.get(option, option)
        if attribute in WeightRules.__slots__:
            replayed = (attribute, value) == ("policy", "mixed") and drawn.get("recompute")
            assert getattr(schedule.weights, attribute) == ("replay" if replayed else value)
    capacities = {channel.capacity for channel in schedule.channels}
    assert capacities <= {None, drawn.get("queue_capacity"), drawn.get("prefetch")}


def passes(drawn: dict[str, Any]) -> int:
    """How often a mini-batch goes through the network, part by part."""
    parts = drawn.get("micro_batches", 1) or drawn["modules"]
    return int(parts * drawn.get("time_steps", 1))


def test_nothing_is_registered_twice() -> None:
    about: Any = dict.fromkeys(("title", "source", "lockings_broken", "gap", "memory"), "")

    def known(modules: int = 1) -> Schedule:
        raise NotImplementedError

    before = dict(SCHEDULES)
    with pytest.raises(TypeError, match=r"registered as bp already"):
        register("bp", **about)(known)
    assert before == SCHEDULES


@pytest.mark.parametrize(
    ("default", "annotation", "good", "bad", "rule"),
    [
        (1, int, [0, -3, 10**30], [1.5, "1", True, None], "must be a whole number"),
        (0.5, float, [0.0, 1, -2.5], ["1", float("nan"), float("inf"), False], "must be a number"),
        ("left", str, ["right", ""], [1, None], "must be a word"),
        ("left", Literal["left", "right"], ["right"], ["up", 1], "must be one of left, right"),
        (True, bool, [False], [0, "true"], "must be true or false"),
    ],
)
def test_options_of_its_own_are_known_by_their_default(
    default: object, annotation: Any, good: list[Any], bad: list[Any], rule: str
) -> None:
    option = own_option("colour", default, annotation)
    for value in [default, *good]:
        assert option.read("--colour", value) == value
    for value in bad:
        with pytest.raises(InputError, match=f"^--colour is .*: {rule}"):
            option.read("--colour", value)


def test_an_option_of_its_own_must_be_known_by_its_default() -> None:
    with pytest.raises(InputError, match=r"^option is 'colour': must have a number, a word"):
        own_option("colour", [1])


def worker(*blocks: int, name: str = "worker", **channels: Any) -> Worker:
    return Worker(name, lambda: iter(()), blocks, **channels)  # type: ignore[arg-type,return-value]


def test_a_schedule_checks_its_workers_and_channels() -> None:
    data = Channel("data", (Item("activation", 0),), source=True)
    twin = Channel("data", (Item("activation", 0),), source=True)
    for workers, line in (
        ((worker(0),), "block of worker is 0: must be within 1..2; correct the worker"),
        ((worker(1, 3),), "block of worker is 3: must be within 1..2; correct the worker"),
        (
            (worker(1, receives=(data,)), worker(2, name="other", receives=(twin,))),
            "channel is 'data': must be one channel; name each one apart",
        ),
        (
            (worker(1, joins=(Group("clock"),)), worker(2, name="other", joins=(Group("clock"),))),
            "group is 'clock': must be one group; name each one apart",
        ),
        (
            (worker(1, sends=(data,)),),
            "channel is 'data': is a source and has no senders; drop the sender",
        ),
        ((), "number of workers is 0: must be at least 1; add a worker"),
        ((worker(1), worker(2)), "worker is 'worker': must be one worker; name each one apart"),
        (
            (worker(1, sends=(Channel("full", (), capacity=0),)),),
            "capacity of full is 0: must be at least 1, or None; give 1 or more",
        ),
        (
            (worker(1, joins=(Group("mean", (1, 3)),)),),
            "block of mean is 3: must be within 1..2; correct the group",
        ),
    ):
        with pytest.raises(InputError, match=f"^{re.escape(line)}$"):
            Schedule(blocks=2, batches=1, workers=workers, name="own")


def test_a_schedule_knows_the_ends_of_its_channels() -> None:
    loop, pipe, sink = (Channel(name, ()) for name in ("loop", "pipe", "sink"))
    data = Channel("data", (Item("activation", 0),), source=True)
    schedule = Schedule(
        blocks=1,
        batches=1,
        workers=(
            worker(1, receives=(data, loop), sends=(loop, pipe)),
            worker(1, name="other", receives=(data, pipe), sends=(pipe, sink)),
        ),
    )
    assert schedule.channels == (data, loop, pipe, sink)
    assert schedule.senders == {data: (), loop: (0,), pipe: (0, 1), sink: (1,)}
    assert schedule.receivers == {data: (0, 1), loop: (0,), pipe: (1,), sink: ()}
    assert [schedule.is_local(channel) for channel in schedule.channels] == [
        False,
        True,
        False,
        True,  # nobody is there to receive it: no transport either
    ]
