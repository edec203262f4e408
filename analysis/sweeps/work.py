"""Answering many configurations: on all cores, or on a cluster through joblib's back ends."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from time import perf_counter
from typing import Any, Final, Literal

from analysis.sweeps.answer import Answer, answered
from analysis.sweeps.question import Configuration, Question, Setting
from analysis.sweeps.store import Store
from simcore.errors import GradlagError, InputError
from simcore.estimate import estimate
from simcore.processes import deaf, follow

__all__ = ["Backend", "Workers", "sweep", "weight"]

# Operations of a group of configurations: enough that sending it costs nothing beside it, also for
# the compiled engine.
_GROUP_OPERATIONS: Final = 100_000
_GROUP_MOST: Final = 100
_GROUP_S: Final = 0.5  # after which a group comes back with what it has: no more is lost by a kill

# What is worth starting processes, which takes a second or two.
_WORTH_OPERATIONS: Final = 200_000
_WORTH_CONFIGURATIONS: Final = 500

Backend = Literal["loky", "dask", "ray"]
_LIBRARIES: Final = {"dask": "distributed", "ray": "ray"}
Group = Sequence[tuple[int, Configuration]]
Answers = list[tuple[int, Answer]]
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Workers:
    """Who answers: `jobs` processes of this machine (loky), or a cluster.

    Without a number they are as many as pay, at most one for each core.

    `scheduler` is the address of a Dask or Ray cluster, None for one that is started here.
    """

    jobs: int | None = None
    backend: Backend = "loky"
    scheduler: str | None = None

    def check(self) -> None:
        """Raise `InputError` for a cluster whose library is not installed."""
        library = _LIBRARIES.get(self.backend)
        if library is not None and find_spec(library) is None:
            rule = "needs a package that is not installed"
            raise InputError(
                "--backend", self.backend, rule, f"pip install 'gradlag[{self.backend}]'"
            )


def weight(configuration: Configuration) -> int:
    """About how many operations a configuration has; 1 for one that will be refused."""
    try:
        return max(1, estimate(configuration.schedule, configuration.options).operations)
    except GradlagError:
        return 1


_HERE: Final = Workers()


def sweep(
    question: Question,
    setting: Setting,
    store: Store,
    workers: Workers = _HERE,
    *,
    progress: Progress = lambda operations: None,
) -> None:
    """Answer what the store does not know yet, and keep each answer as it comes.

    `progress` is told the `weight` of what has been answered.

    Raises `InputError` for a back end that is not installed or a scheduler that does not answer.
    """
    workers.check()
    missing = [(number, question.configurations[number]) for number in store.missing(question)]
    if not missing:
        return
    weights = {number: weight(configuration) for number, configuration in missing}
    local = workers.backend == "loky"
    groups = list(_groups(missing, weights))
    jobs = min(workers.jobs or _paying(weights), len(groups)) if local else -1
    streams = workers.backend != "ray"  # it gives answers back only when all are there
    if jobs == 1:
        for number, configuration in missing:
            store.add(question, [(number, answered(configuration, setting))])
            progress(weights[number])
        return
    one = partial(_answer_group, setting=setting, parent=os.getpid() if local else None)
    with _cluster(workers):
        while groups:
            for answers in _in_parallel(one, groups, jobs, streams):
                store.add(question, answers)
                progress(sum(weights[number] for number, _ in answers))
            # What a group had no time for is sent again, one by one.
            left = store.missing(question)
            groups = [[(number, question.configurations[number])] for number in left]


def _paying(weights: Mapping[int, int]) -> int:
    pays = len(weights) > _WORTH_CONFIGURATIONS or sum(weights.values()) > _WORTH_OPERATIONS
    return (os.cpu_count() or 1) if pays else 1


def _groups(missing: Group, weights: dict[int, int]) -> Iterator[Group]:
    """Neighbours that together take long enough to be worth sending."""
    group: list[tuple[int, Configuration]] = []
    operations = 0
    for number, configuration in missing:
        if group and (
            operations + weights[number] > _GROUP_OPERATIONS or len(group) >= _GROUP_MOST
        ):
            yield group
            group, operations = [], 0
        group.append((number, configuration))
        operations += weights[number]
    yield group


def _answer_group(group: Group, setting: Setting, parent: int | None) -> Answers:
    if parent is not None:
        follow(parent)
    found: Answers = []
    begun = perf_counter()
    for number, configuration in group:
        found.append((number, answered(configuration, setting)))
        if perf_counter() - begun > _GROUP_S:
            break
    return found


def _in_parallel(
    one: Callable[[Group], Answers], groups: Sequence[Group], jobs: int, streams: bool
) -> Iterator[Answers]:
    """The answers of groups, in the order in which they come; few at a time if none streams."""
    # Imported here, because it takes a while and only sweeps need it.
    from joblib import Parallel, delayed, effective_n_jobs

    if not streams:
        step = 2 * effective_n_jobs(-1)
        parallel = Parallel(n_jobs=-1, batch_size=1)
        for begin in range(0, len(groups), step):
            yield from parallel(delayed(one)(group) for group in groups[begin : begin + step])
        return
    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
    with deaf():  # the call starts processes
        answers = parallel(delayed(one)(group) for group in groups)
    yield from answers


@contextmanager
def _cluster(workers: Workers) -> Iterator[None]:
    """Within, joblib works on this back end."""
    from joblib import parallel_config

    around: AbstractContextManager[Any] = nullcontext()
    if workers.backend == "dask":
        around = _dask(workers.scheduler)
    elif workers.backend == "ray":
        around = _ray(workers.scheduler)
    with around, parallel_config(backend=workers.backend):
        yield


@contextmanager
def _dask(scheduler: str | None) -> Iterator[None]:
    from distributed import Client

    try:
        client = Client(scheduler) if scheduler else Client(dashboard_address=None)
    except (OSError, ValueError) as error:
        rule = f"must be the address of a Dask scheduler that answers ({error})"
        remedy = "start one by 'dask scheduler', and give the address that it prints"
        raise InputError("--scheduler", str(scheduler), rule, remedy) from None
    with client:
        yield


@contextmanager
def _ray(scheduler: str | None) -> Iterator[None]:
    import ray
    from ray.util.joblib import register_ray

    try:
        ray.init(address=scheduler, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        rule = f"must be the address of a Ray cluster that answers ({error})"
        raise InputError("--scheduler", str(scheduler), rule, "see 'ray start'") from None
    register_ray()
    try:
        yield
    finally:
        ray.shutdown()
