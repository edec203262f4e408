"""How long each computation takes: as its block costs, on this worker, and at random."""

from simcore.cluster import Cluster
from simcore.costs import Costs
from simcore.durations import Variations
from simcore.errors import IllegalOperationError
from simcore.ops import Load, Merge, Pass, Snapshot, Update, kind_of
from simcore.randomness import uniform
from simcore.rules import shown
from simcore.schedule import Schedule

__all__ = ["Timing"]


class Timing:
    """Durations of computations at full speed, in ticks.

    The n-th computation of a worker has the same random factor whatever happens before it.
    """

    def __init__(
        self,
        schedule: Schedule,
        costs: Costs,
        cluster: Cluster,
        variations: Variations,
        seed: int,
    ) -> None:
        self.schedule, self.costs, self.variations, self.seed = schedule, costs, variations, seed
        self.slowdowns = [cluster.slowdown(worker) for worker in range(len(schedule.workers))]
        self.counts = [0] * len(schedule.workers)

    def ticks(self, worker: int, operation: Pass | Update | Snapshot | Merge | Load) -> int:
        """The duration of the worker's next computation."""
        kind = kind_of(type(operation))
        if kind not in self.costs.compute:
            raise IllegalOperationError(
                f"{self.schedule.workers[worker].name} may not do {shown(operation)}: "
                "its schedule does not say that it splits backward passes"
            )
        ticks = self.costs.compute[kind][0 if isinstance(operation, Load) else operation.block]
        self.counts[worker] += 1
        variation = self.variations.of(kind)
        if ticks and self.slowdowns[worker] != 1:
            ticks = max(1, round(ticks * self.slowdowns[worker]))
        if ticks and variation:
            factor = variation.quantile(uniform(self.seed, worker, self.counts[worker]))
            ticks = max(1, round(ticks * factor))
        return ticks
