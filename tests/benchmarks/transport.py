"""How long does a message take, one way, through each of the transports?"""

from collections.abc import Callable
from functools import partial
from typing import Final

from tests.benchmarks.command import main
from tests.benchmarks.harness import Case, Phase, Scale, paired, watched
from tests.benchmarks.messages import SIZES, Messengers, threads_s
from tests.benchmarks.results import Cell, Phases, Result

__all__ = ["measure"]

QUESTION: Final = (
    "How long does a message take one way: half of the mean time of a round trip between two "
    "workers that do nothing else?"
)
TRANSPORTS: Final = {
    "ring": "shared-memory ring between processes (ours)",
    "threads": "channel by reference between threads (ours)",
    "gloo": "gloo, send and recv",
    "gloo-early": "gloo, irecv posted before it is needed",
    "queue": "torch.multiprocessing queue",
}


def measure(scale: Scale) -> Result:
    """One-way times of all transports and sizes, between workers on the CPU."""
    phases = Phases()
    found: dict[str, dict[str, Cell]] = {
        name: {"transport": title} for name, title in TRANSPORTS.items()
    }
    with Messengers(scale.device) as pair:
        for label, size in SIZES.items():
            trips = 3 if scale.tiny else max(60, min(4000, 2**28 // size))
            cases: dict[str, Case] = {
                name: _between_processes(pair, name, size, trips)
                for name in TRANSPORTS
                if name != "threads"
            }
            cases["threads"] = _phase(partial(threads_s, size, trips), [])
            scale.told(f"{label}:")
            rounds = paired(cases, scale)
            phases += Phases.of(rounds)
            for name, row in found.items():
                row[f"{label}, µs"] = 1e6 * rounds.batch_s(name)
    return Result("transport", QUESTION, list(found.values()), phases, notes=_NOTES)


_NOTES: Final = (
    "Between processes a message is one float32 tensor, which the ring and gloo copy into memory "
    "of the receiver; the queue moves it to shared memory and hands that over. Between threads "
    "only a reference passes, whatever the size. gloo's early irecv needs a receiver that knows "
    "what comes next.",
)


def _between_processes(pair: Messengers, name: str, size: int, trips: int) -> Case:
    return _phase(partial(pair.one_way_s, name, size, trips), pair.pids)


def _phase(measured_s: Callable[[], float], pids: list[int]) -> Case:
    def phase() -> Phase:
        return watched(lambda: (measured_s(), None), pids)

    return phase


if __name__ == "__main__":
    main(measure)
