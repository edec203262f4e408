"""The simulator of tables in torch's pipelining: a peer that counts steps.

It has one action of each rank in a step, if what the action waits for is done. Its own table of
1F1B gives the last rank one action too few, so the order is written down here as in its runtime.
"""

from typing import Any

from torch.distributed.pipelining import schedules

__all__ = ["one_f_one_b_actions", "simulated"]

Actions = dict[int, list[Any]]


def one_f_one_b_actions(stages: int, micro_batches: int) -> Actions:
    """1F1B, a stage for each rank: what each does in turn, with sends and receives."""
    forward, backward = schedules.FORWARD, schedules.FULL_BACKWARD
    computed: Actions = {}
    for rank in range(stages):
        window = min(micro_batches, stages - rank)
        order = [(forward, batch) for batch in range(window)]
        for batch in range(micro_batches):
            order.append((backward, batch))
            if batch + window < micro_batches:
                order.append((forward, batch + window))
        computed[rank] = [schedules._Action(rank, kind, batch) for kind, batch in order]
    return schedules._add_send_recv(computed, lambda stage: stage, stages)


def simulated(actions: Actions) -> int:
    """How many steps the table takes."""
    found = schedules._simulate_comms_compute(actions, lambda stage: stage, len(actions))
    return max(map(len, found.values()))
