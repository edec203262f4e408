"""Waiting times on the reference simulator against queueing theory.

A loader whose `Load` takes exponential time is a Poisson process of arrivals; each station is a
channel with its receivers as servers, and a customer is a batch. The theory holds in steady state,
so every replication starts with customers that are not counted.

Each mean is estimated by independent replications, one per seed, with Student's interval at a
level of 99 %. The seeds are fixed, so that a test always passes or always fails; its interval must
contain the theory's value and be narrow enough to tell it from others.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from simcore.durations import Variations, exponential
from simcore.engine import simulate
from simcore.ops import Channel, Evaluate, Item, Load, Program, Receive, Send, Worker
from simcore.schedule import Schedule
from simcore.trace import KIND, Trace
from simcore.workload import Layer, Workload

LEVEL = 0.99
REPLICATIONS, CUSTOMERS = 16, 1700
WARM_UP = 200  # customers of each replication that are not counted
EXPONENTIAL = Variations(exponential())
ARRIVALS_ONLY = Variations(kinds={"load": exponential()})


def stations_in_a_row(servers: Sequence[int], customers: int) -> Schedule:
    """A loader, then stations with so many servers each; a customer passes all of them."""
    batches = Channel("batches", (Item("sample", 0),), source=True)
    lines = [Channel(f"line {k}", (Item("activation", k),)) for k in range(len(servers))]

    def loader() -> Program:
        while (batch := (yield Receive(batches))) is not None:
            yield Load(batch)
            yield Send(lines[0], batch)

    def server(station: int) -> Callable[[], Program]:
        def program() -> Program:
            while (batch := (yield Receive(lines[station]))) is not None:
                yield Evaluate(station + 1, batch)
                if station + 1 < len(lines):
                    yield Send(lines[station + 1], batch)

        return program

    workers = [Worker("loader", loader, (), (lines[0],), (batches,))]
    for station, count in enumerate(servers):
        ends = tuple(lines[station + 1 : station + 2]), (lines[station],)
        workers += [
            Worker(f"server {station + 1}.{n + 1}", server(station), (station + 1,), *ends)
            for n in range(count)
        ]
    return Schedule(len(servers), customers, tuple(workers), name="queue")


class Times(NamedTuple):
    """Seconds of each customer: at the door of each station, when served, when it leaves."""

    arrivals: list[NDArray[np.float64]]
    starts: list[NDArray[np.float64]]
    departures: list[NDArray[np.float64]]


def replicate(
    servers: Sequence[int],
    arrival: float,
    services: Sequence[float],
    variation: Variations = EXPONENTIAL,
) -> list[Times]:
    """Runs of stations with these rates of arrivals and of each station's servers, per second."""
    layers = tuple(Layer("station", 1 / Fraction(rate), Fraction(0)) for rate in services)
    workload = Workload("queue", layers, load_s=1 / Fraction(arrival))
    schedule = stations_in_a_row(servers, CUSTOMERS)
    return [
        _times(simulate(schedule, workload, variation=variation, seed=seed), len(servers))
        for seed in range(REPLICATIONS)
    ]


@pytest.fixture(scope="module")
def one_server() -> list[Times]:
    """M/M/1: 0.5 arrivals and 1 service per second."""
    return replicate([1], 0.5, [1])


def _times(trace: Trace, stations: int) -> Times:
    def by_customer(kind: str, block: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows = trace.spans[(trace.spans["kind"] == KIND[kind]) & (trace.spans["block"] == block)]
        rows = rows[np.argsort(rows["batch"])]
        tick_s = float(trace.header.tick_s)
        return rows["start"] * tick_s, rows["end"] * tick_s

    arrivals = [by_customer("load", 0)[1]]
    served = [by_customer("evaluate", station + 1) for station in range(stations)]
    arrivals += [ends for _, ends in served[:-1]]
    return Times(arrivals, [starts for starts, _ in served], [ends for _, ends in served])


class Interval(NamedTuple):
    mean: float
    half: float

    @classmethod
    def of(cls, replications: Sequence[float]) -> "Interval":
        quantile = float(stats.t.ppf((1 + LEVEL) / 2, len(replications) - 1))
        error = float(np.std(replications, ddof=1)) / len(replications) ** 0.5
        return cls(float(np.mean(replications)), quantile * error)

    def check(self, expected: float, narrow: float) -> None:
        """The value lies within, and the interval reaches at most this share of it aside."""
        assert abs(self.mean - expected) <= self.half, f"{self}: expected {expected}"
        assert self.half <= narrow * expected, f"{self} is too wide to tell anything"


def mean_wait(times: Times, station: int = 0) -> float:
    waits = times.starts[station] - times.arrivals[station]
    return float(waits[WARM_UP:].mean())


def share_that_waits(times: Times) -> float:
    return float(np.mean((times.starts[0] > times.arrivals[0])[WARM_UP:]))


def erlang_c(servers: int, load: float) -> float:
    """The share of customers that wait, if `load` servers are busy on average (Erlang, 1917)."""
    terms = [load**n / math.factorial(n) for n in range(servers)]
    full = load**servers / math.factorial(servers) / (1 - load / servers)
    return full / (sum(terms) + full)


def test_one_server_with_exponential_service(one_server: list[Times]) -> None:
    """M/M/1 with load 1/2: a mean wait of rho / (mu - lambda); a share of rho waits."""
    Interval.of([mean_wait(times) for times in one_server]).check(1, 0.15)
    Interval.of([share_that_waits(times) for times in one_server]).check(0.5, 0.05)


def test_the_time_spent_at_one_server_is_exponential(one_server: list[Times]) -> None:
    """M/M/1: with probability exp(-(mu - lambda) t) it is longer than t."""
    for limit in (1, 3):
        longer = [
            float(np.mean((times.departures[0] - times.arrivals[0] > limit)[WARM_UP:]))
            for times in one_server
        ]
        Interval.of(longer).check(math.exp(-limit / 2), 0.15)


def test_constant_service_halves_the_wait(one_server: list[Times]) -> None:
    """M/D/1: Pollaczek's and Khinchine's formula, rho / (2 mu (1 - rho))."""
    runs = replicate([1], 0.5, [1], ARRIVALS_ONLY)
    Interval.of([mean_wait(times) for times in runs]).check(0.5, 0.1)
    with pytest.raises(AssertionError):
        Interval.of([mean_wait(times) for times in one_server]).check(0.5, 1)


@pytest.mark.parametrize(("servers", "arrival"), [(2, 1.2), (3, 1.8)])
def test_several_servers_on_one_line(servers: int, arrival: float) -> None:
    """M/M/c: customers wait with Erlang's probability, then 1 / (c mu - lambda) on average."""
    runs = replicate([servers], arrival, [1])
    delay = erlang_c(servers, arrival)
    Interval.of([share_that_waits(times) for times in runs]).check(delay, 0.1)
    expected = delay / (servers - arrival)
    Interval.of([mean_wait(times) for times in runs]).check(expected, 0.25)


def test_a_line_of_stations_is_as_if_each_stood_alone() -> None:
    """Jackson, 1957: station k is an M/M/1 queue, and the lengths of all are independent.

    So the mean time in the line is the sum of 1 / (mu_k - lambda), and a customer finds two
    stations empty with the product of the probabilities 1 - rho_k.
    """
    arrival, services = 0.5, [1, 0.8]
    runs = replicate([1, 1], arrival, services)
    sojourns = [(times.departures[1] - times.arrivals[0])[WARM_UP:].mean() for times in runs]
    Interval.of(sojourns).check(sum(1 / (rate - arrival) for rate in services), 0.15)
    empty = math.prod(1 - arrival / rate for rate in services)
    Interval.of([_finds_all_empty(times) for times in runs]).check(empty, 0.15)


def _finds_all_empty(times: Times) -> float:
    """The share of customers that find nobody in any station."""
    left = np.searchsorted(times.departures[-1], times.arrivals[0], side="right")
    return float((left == np.arange(len(left)))[WARM_UP:].mean())
