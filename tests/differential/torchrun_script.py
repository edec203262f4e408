"""What torchrun starts in tests: it trains by several schedules, and rank 0 saves the results."""

import json
import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from torchrun_cases import training_of

from executor.distributed import run_torchrun
from executor.failure import WorkerError
from executor.launched import require_launch
from executor.training import RunResult


def main() -> None:
    folder, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    rank = require_launch().rank
    results: list[RunResult] = []
    told: list[int] = []

    def tell(applied: int) -> None:
        told.append(applied)
        (folder / "begun").touch()

    for case in cases:
        try:
            results.append(run_torchrun(training_of(case), tell))
        except WorkerError as error:
            (folder / f"error{rank}.pickle").write_bytes(
                pickle.dumps((str(error), error.traceback, error.partial))
            )
            raise SystemExit(1) from None
    (folder / f"results{rank}.pickle").write_bytes(pickle.dumps((results, sum(told))))
    if any(result.failure for result in results):
        raise SystemExit(130)


if __name__ == "__main__":
    main()
