"""A question to the slim variant; run as a program it also says how much memory that took."""

import resource
import sys
import time
from fractions import Fraction

from simcore.figures import Figures, figures
from simcore.schedule import Schedule
from simcore.schedules import build
from simcore.workload import Layer, Workload

__all__ = ["counted", "schedule", "uneven"]


def counted(name: str, workers: int, passes: int) -> Figures:
    """The figures of a schedule of so many passes of batches."""
    found = figures(schedule(name, workers, passes), uneven(workers))
    assert found.engine == "slim", found.instead_of
    return found


def schedule(name: str, workers: int, passes: int) -> Schedule:
    """Its passes are of mini-batches, or of the micro-batches of one mini-batch."""
    if name == "1f1b":
        return build(name, modules=workers, batches=1, micro_batches=passes)
    return build(name, modules=workers, batches=passes)


def uneven(blocks: int) -> Workload:
    """Blocks whose times differ by up to a tenth."""
    layers = (
        Layer(
            f"block {k}",
            forward_s=Fraction(100 + 7 * k % 11, 1000),
            backward_s=Fraction(200 + 11 * k % 19, 1000),
            update_s=Fraction(10, 1000),
        )
        for k in range(blocks)
    )
    return Workload("uneven", tuple(layers))


if __name__ == "__main__":
    counted("fdg", 2, 10)  # loads the compiled code
    began = time.perf_counter()
    operations = counted(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])).operations
    seconds = time.perf_counter() - began
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(f"{operations} {seconds} {kib / 1024}\n")
