"""Bad input: status 2 and exactly one line, which names the value, the rule and the remedy."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Gradlag

WORKLOAD = {
    "schema": "gradlag.workload/1",
    "name": "two",
    "layers": [
        {"name": "a", "forward_s": 1, "backward_s": 2},
        {"name": "b", "forward_s": 1, "backward_s": 2},
    ],
}
CLUSTER = {
    "schema": "gradlag.cluster/1",
    "devices": [{"name": "cpu", "cores": 1}],
    "placement": "shared",
}

SIMULATE = [
    ("", "SCHEDULE is 'missing'", "gradlag schedules"),
    ("fdgg", "schedule is 'fdgg'", "must be one of", "did you mean fdg?"),
    ("1f1", "schedule is '1f1'", "did you mean 1f1b?"),
    ("pipe-dream", "schedule is 'pipe-dream'", "did you mean pipedream?"),
    ("asyncbp", "schedule is 'asyncbp'", "did you mean async"),
    ("FDG", "schedule is 'FDG'", "did you mean fdg?"),
    ("fdg:", "schedule is 'fdg:'", "must not have ''"),
    ("fdg:modules", "schedule is 'fdg:modules'", "must not have 'modules'", "fdg:OPTION=VALUE"),
    ("fdg:modules=2 --modules 3", "--modules is '3'", "must be given once"),
    ("fdg:modules=x", "--modules is 'x'", "whole number"),
    ("fdg:batches=3", "'batches=3'", "give --batches, for all"),
    ("pipedream --in-flight x", "--in-flight is 'x'", "whole number"),
    ("pipedream --in-flight 4,0,1,1", "--in-flight is 0", "at least 1"),
    ("pipedream --in-flight 4,,1,1", "--in-flight is ''", "whole number"),
    ("pipedream --in-flight 2,1", "--in-flight", "4"),
    ("ddp --replicas 5 --batches 4", "--replicas is 5", "number of batches"),
    ("fdg --replicas 101", "--replicas is 101", "number of batches"),
    ("gpipe --replicas 0", "--replicas is 0", "at least 1"),
    ("fdg --recompute yes", "--recompute is 'yes'", "true or false"),
    ("fdg --alpha 1", "--alpha is '1'", "not an option of fdg"),
    ("gpipe --micro-batches 0", "--micro-batches is 0", "at least 1"),
    ("own.py:absent", "schedule is 'own.py:absent'", "the file has fixed, odd"),
    ("absent.py:own", "schedule is 'absent.py:own'", "check the path"),
    ("own.py", "schedule is 'own.py'", "FILE.py:FUNCTION"),
    ("own.py:", "schedule is 'own.py:'", "FILE.py:FUNCTION", "the file has fixed, odd"),
    ("wrong.py:own", "schedule is 'wrong.py:own'", "SyntaxError"),
    ("own.py:odd", "schedule is 'own.py:odd'", "not a str", "return a Schedule"),
    ("own.py:fixed:slack=x", "slack is 'x'", "whole number"),
    ("own.py:fixed:slak=1", "'slak=1'", "an option out of slack"),
    ("own.py:fixed --modules 2", "--modules is '2'", "not an option of own.py:fixed"),
    ("fdg --schedule own.py:fixed", "--schedule is 'own.py:fixed'", "leave out 'fdg'"),
    ("--schedule fdg", "--schedule is 'fdg'", "FILE.py:FUNCTION"),
    ("absent.csv", "'absent.csv'", "readable"),
    ("odd.csv", "odd.csv: rank 0 is '0X0'", "stage, action and micro-batch"),
    ("odd.csv --modules 2", "odd.csv: rank 0"),
    ("fdg adl", "'adl'"),
    ("fdg --modles 2", "--modles", "did you mean --modules?"),
    ("fdg --modules", "--modules", "without a value"),
    ("fdg --modules two", "--modules is 'two'", "whole number"),
    ("fdg --modules 1.5", "--modules is '1.5'", "whole number"),
    ("fdg --modules nan", "--modules is 'nan'", "whole number"),
    ("fdg --modules 0", "--modules is 0", "at least 1", "give 1 or more"),
    ("fdg --modules -1", "--modules is -1", "at least 1"),
    ("adl --accumulation 0", "--accumulation is 0", "at least 1"),
    ("fdg --batches 0", "--batches is 0", "at least 1"),
    ("async-lu --layers 0", "--layers is 0", "at least 1"),
    ("async-lu --forward-threads 0", "--forward-threads is 0", "at least 1"),
    ("async-bu --backward-threads -2", "--backward-threads is -2", "at least 1"),
    ("async-lu --queue-capacity 0", "--queue-capacity is 0", "at least 1"),
    ("fdg --accumulation 2", "--accumulation is '2'", "not an option of fdg", "--shrink"),
    ("async-lu --modules 2", "--modules is '2'", "not an option of async-lu", "--layers"),
    ("adl --order sideways", "--order is 'sideways'", "forward-first, update-first"),
    ("fdg --shrink 0", "--shrink is 0.0", "above 0 and at most 1"),
    ("fdg --shrink inf", "--shrink is 'inf'"),
    ("async-lu --write assign --weights stash", "--write is 'assign'", "use --weights mixed"),
    ("fdg --backward-ratio -1", "--backward-ratio is '-1'", "must not be negative"),
    ("fdg --backward-ratio nan", "--backward-ratio is 'nan'", "must be finite"),
    ("fdg --forward-time 0", "--forward-time is '0'", "must be more than 0"),
    ("fdg --forward-time inf", "--forward-time is 'inf'", "must be finite"),
    ("fdg --forward-time fast", "--forward-time is 'fast'", "must be a number"),
    ("fdg --forward-time 1/0", "--forward-time", "divide by zero"),
    ("fdg --forward-time 1e20", "makespan", "2**62"),
    ("fdg --update-time -0.1", "--update-time is '-0.1'", "must not be negative"),
    ("fdg --link-latency -1", "--link-latency is '-1'", "must not be negative"),
    ("fdg --link-bandwidth 0", "--link-bandwidth is '0'", "must be more than 0"),
    ("fdg --link-bandwidth inf", "--link-bandwidth is 'inf'", "must be finite"),
    ("fdg --jitter -0.5", "--jitter is '-0.5'", "at least 0"),
    ("fdg --jitter nan", "--jitter is 'nan'"),
    ("fdg --seed -1", "--seed is -1", "whole number from 0"),
    ("fdg --engine magic", "--engine is 'magic'", "must be one of compiled, simpy"),
    ("fdg --memory-limit 0", "--memory-limit is '0'", "4GiB"),
    (
        "fdg --jitter 1 --batches 1000000000000000000",
        "estimated memory",
        "the memory limit",
        "years",
    ),
    ("fdg --jitter 1 --batches 1e18", "estimated memory"),
    ("fdg --modules 1000000", "estimated memory", "4 GiB"),
    ("fdg --jitter 1 --batches 100000 --memory-limit 1MB", "estimated memory", "--memory-limit"),
    ("fdg --out ", "--out is ''"),
    ("fdg --out file", "--out is 'file'", "it is a file"),
    ("fdg --workload absent", "'absent'", "readable"),
    ("fdg --workload broken.json", "'broken.json'", "must be JSON"),
    ("fdg --workload incomplete.json", "layers[0].backward_s", "required"),
    ("fdg --workload negative.json", "layers[0].forward_s is -1", "must not be negative"),
    ("fdg --workload two.json --modules 3", "--modules is 3", "at most 2", "two.json"),
    ("fdg --workload two.json", "--modules is '4, its default'", "give --modules 2 or less"),
    ("async-lu --workload two.json --layers 3", "--layers is 3", "at most 2"),
    ("fdg --workload two.json --forward-time 1", "--forward-time is '1'", "--workload"),
    ("fdg --workload two.json --update-time 1", "--update-time is '1'", "--workload"),
    ("fdg --cluster absent", "'absent'", "readable"),
    ("fdg --cluster broken.json", "'broken.json'", "must be JSON"),
    ("fdg --cluster two.json", "two.json"),
    ("fdg --cluster far.json", "far.json: links is 'activations[9]'", "did you mean activations["),
    ("fdg --cluster few.json", "few.json: placement is '2 long'", "4 workers"),
    ("fdg --cluster far.json --link-latency 1", "--link-latency is '1'", "--cluster"),
]
OTHERS = [
    ("simulat", "command is 'simulat'", "did you mean simulate?"),
    ("--jsn", "--jsn is not an option of 'gradlag'"),
    ("schedules --jsn", "--jsn", "did you mean --json?"),
    ("bounds --modules 0", "--modules is 0", "from 1"),
    ("bounds --accumulations 1,x", "--accumulations is 'x'"),
    ("bounds --accumulations 2,2", "--accumulations is '2,2'", "twice"),
    ("bounds --learning-rate 1000", "--learning-rate is 1000.0", "1 / Lip"),
    ("bounds --seeds 0", "--seeds is 0"),
    ("profile --repeats 0", "--repeats is 0", "at least 1"),
    ("profile --model mpl:2x8", "--model is 'mpl:2x8'", "did you mean mlp?"),
    ("profile --model mlp:2", "--model is 'mlp:2'", "mlp:DEPTHxWIDTH"),
    ("profile --batch-size 1438", "--batch-size is 1438", "samples of digits"),
    ("profile --optimizer magic", "is 'magic'", "adam"),
    ("profile --out file/x.json", "--out is 'file'", "it is a file"),
    ("run fdgg", "schedule is 'fdgg'", "did you mean fdg?"),
    ("run fdg --model networks:straight", "--model", "nn.Sequential", "Linear"),
    ("run fdg --model networks:absent", "--model", "absent"),
    ("run fdg --model mlp:3x8", "--modules is '4, its default'", "at most 3", "of mlp:3x8"),
    ("run fdg --model mlp:3x8 --modules 5", "--modules is 5", "at most 3"),
    ("run async-lu --model mlp:3x8 --layers 4", "--layers is 4", "at most 3"),
    ("run fdg --layers 4", "--layers is '4'", "not an option of fdg"),
    ("run fdg --batches 1e18", "estimated memory"),
    ("run fdg --epochs 1e18", "estimated memory"),
    ("run fdg --epochs 0", "--epochs is 0", "at least 1"),
    ("run fdg --epochs 1 --batches 5", "--epochs is '1'", "--batches"),
    ("run fdg --data nmist", "--data is 'nmist'", "digits, generated"),
    ("run fdg --learning-rate 0", "--learning-rate is '0'", "above 0"),
    ("run fdg --learning-rate nan", "--learning-rate is 'nan'"),
    ("run fdg --weight-decay -1", "--weight-decay is '-1'"),
    ("run fdg --momentum-factor 2", "--momentum-factor is '2'", "at most 1"),
    ("run fdg --optimizer adam --momentum-factor 0.9", "--momentum-factor is '0.9'", "sgd alone"),
    ("run fdg --momentum shared", "--momentum is 'shared'", "not an option of fdg"),
    ("run fdg --threads 0", "--threads is 0"),
    (
        "run fdg --runtime cloud",
        "--runtime is 'cloud'",
        "auto, threads, processes, torchrun",
    ),
    ("run fdg --trace x", "--trace is 'x'", "--runtime replay"),
    ("run fdg --runtime replay --trace absent --model mlp:4x8", "'absent'", "readable"),
    ("run async-lu --runtime processes --model mlp:2x8", "schedule is 'async-lu'", "processes"),
    ("run fdg --workload two.json --model mlp:4x8", "--workload is 'two.json'", "4 layers"),
    ("run fdg --out file", "--out is 'file'", "it is a file"),
    ("compare", "SCHEDULE", "missing"),
    ("compare fdgg", "schedule is 'fdgg'", "did you mean fdg?"),
    ("compare fdg:accumulation=2", "'accumulation=2'", "fdg:OPTION=VALUE"),
    ("compare adl:accumulation=0", "accumulation of 'adl:accumulation=0' is 0", "at least 1"),
    ("compare fdg:batches=3", "'batches=3'", "give --batches, for all"),
    ("compare fdg: ", "schedule is 'fdg:'"),
    ("compare fdg fdg", "schedule is 'fdg'", "must be given once"),
    ("compare fdg --accumulation 2", "--accumulation is '2'", "none of fdg"),
    ("compare fdg --modules 9 --model mlp:4x8", "--modules is 9", "at most 4"),
    ("compare fdg --runtime replay", "--runtime is 'replay'", "auto, threads, processes"),
    ("compare fdg --batches 1e18", "estimated memory"),
    ("compare fdg --out file", "--out is 'file'", "it is a file"),
]
OWN = """
from simcore.ops import Worker
from simcore.schedule import Schedule

def fixed(batches: int = 10, slack: int = 1):
    return Schedule(1, batches, (Worker("idle", lambda: iter(()), ()),))

def odd(batches: int = 10, modules: int = 2):
    return "a schedule"
"""
NETWORKS = """
from torch import nn

def straight():
    return nn.Linear(64, 10)
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "broken.json").write_text("{")
    layers = [{"name": "a", "forward_s": 1}]
    (tmp_path / "incomplete.json").write_text(json.dumps({**WORKLOAD, "layers": layers}))
    layers = [{"name": "a", "forward_s": -1, "backward_s": 2}]
    (tmp_path / "negative.json").write_text(json.dumps({**WORKLOAD, "layers": layers}))
    (tmp_path / "two.json").write_text(json.dumps(WORKLOAD))
    far = {**CLUSTER, "links": {"activations[9]": {"latency_s": 1}}}
    (tmp_path / "far.json").write_text(json.dumps(far))
    (tmp_path / "few.json").write_text(json.dumps({**CLUSTER, "placement": [0, 0]}))
    (tmp_path / "networks.py").write_text(NETWORKS)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "wrong.py").write_text("def own(:")
    (tmp_path / "odd.csv").write_text("0X0\n")


@pytest.mark.parametrize(("line", "words"), [(line, words) for line, *words in SIMULATE])
def test_simulate_refuses(gradlag: Gradlag, line: str, words: list[str]) -> None:
    gradlag("simulate", *line.split(" ") if line else ()).refused(*words)


@pytest.mark.parametrize(("line", "words"), [(line, words) for line, *words in OTHERS])
def test_other_commands_refuse(gradlag: Gradlag, line: str, words: list[str]) -> None:
    gradlag(*line.split(" ")).refused(*words)


def test_a_bad_folder_is_found_before_the_work_starts(
    gradlag: Gradlag, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("simcore.engines.simulate", work)
    monkeypatch.setattr("analysis.bounds.adl_bound", work)
    monkeypatch.setattr("executor.profile.profile", work)
    gradlag("simulate", "fdg", "--out", "file").refused("--out")
    gradlag("bounds", "--out", "file").refused("--out")
    gradlag("profile", "--out", "file").refused("--out")
    (tmp_path / "results" / "gaps.png").mkdir(parents=True)
    gradlag("simulate", "fdg", "--out", "results").refused("--out", "gaps.png", "a folder has it")


def test_what_is_told_is_one_line_whatever_was_typed(gradlag: Gradlag) -> None:
    gradlag("simulate", "fdg", "--modules", "two\nlines").refused("two\\nlines")
    gradlag("simulate", "fdg\nadl").refused("fdg\\nadl")
    gradlag("sim\nulate").refused()
    gradlag("simulate", "fdg", "--a\nb").refused()
    gradlag("simulate", "fdg", "a\nb").refused()
    gradlag("simulate", "fdg", "--modules", "9" * 5000).refused("...")


def test_a_mistake_of_the_program_is_one_line_too(
    gradlag: Gradlag, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("simcore.engines.simulate", work)
    ran = gradlag("simulate", "fdg")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("gradlag: internal error: ZeroDivisionError")
    assert len(ran.err.splitlines()) == 1
    monkeypatch.setenv("GRADLAG_TRACEBACK", "1")
    assert "Traceback" in gradlag("simulate", "fdg").err
