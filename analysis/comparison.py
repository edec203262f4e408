"""The comparison of predicted and measured runs: its data, in Python and as JSON.

Numbers are computed elsewhere and passed in; `analysis.comparison_tables` puts them into words.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

__all__ = ["SCHEMA", "Baselines", "Comparison", "Pair", "Row"]

SCHEMA: Final = "gradlag.comparison/1"


@dataclass(frozen=True, slots=True)
class Pair:
    """A quantity as it was predicted and as it was measured; None where it was not."""

    predicted: float | None = None
    measured: float | None = None

    @property
    def error(self) -> float | None:
        """The signed error of the prediction, relative to what was measured, dimensionless.

        >>> Pair(predicted=1.5, measured=2.0).error
        -0.25
        """
        if self.predicted is None or not self.measured:
            return None
        return self.predicted / self.measured - 1


@dataclass(frozen=True, slots=True)
class Row:
    """A schedule, predicted and measured.

    * `label`: unlike that of any other row. `schedule`, `options`: what builds the schedule.
    * `samples_per_update`: the samples that one update of each weight sees.
    * `batch_s`: seconds per batch.
    * `speedup_one_thread`, `speedup_all_cores`: over plain backpropagation on one thread and on all
      cores, predicted over predicted and measured over measured, dimensionless.
    * `gap_mean`, `gap_max`: mean and largest gap of all gradients, in updates.
    * `final_loss`; `accuracy`, a share of the test samples.
    * `disturbed`: what other programs took of the machine meanwhile, a share of all its cores.
    """

    label: str
    schedule: str
    options: Mapping[str, object] = field(default_factory=dict)
    workers: int = 1
    runtime: str = "threads"
    samples_per_update: int | None = None
    batch_s: Pair = Pair()
    speedup_one_thread: Pair = Pair()
    speedup_all_cores: Pair = Pair()
    gap_mean: Pair = Pair()
    gap_max: Pair = Pair()
    final_loss: float | None = None
    accuracy: float | None = None
    disturbed: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def prediction_error(self) -> float | None:
        """Signed relative error of the predicted seconds per batch: above 0 is too slow."""
        return self.batch_s.error


@dataclass(frozen=True, slots=True)
class Baselines:
    """Measured seconds per batch of plain backpropagation on one thread, and on all cores."""

    one_thread_batch_s: float | None = None
    all_cores_batch_s: float | None = None

    @property
    def all_cores_speedup(self) -> float | None:
        """Speedup of all cores over one thread, dimensionless."""
        if not self.one_thread_batch_s or not self.all_cores_batch_s:
            return None
        return self.one_thread_batch_s / self.all_cores_batch_s


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows of schedules that trained the same network on the same machine.

    `date` is in ISO 8601. `settings` say what was trained and how: model, data, batch size, ...
    """

    rows: tuple[Row, ...]
    machine: str = ""
    date: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    baselines: Baselines = Baselines()

    def to_json(self) -> dict[str, Any]:
        """A document of JSON values alone. What is not a finite number is null."""
        document: dict[str, Any] = _json_value({"schema": SCHEMA, **asdict(self)})
        for row, written in zip(self.rows, document["rows"], strict=True):
            written["prediction_error"] = _json_value(row.prediction_error)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """What `to_json` wrote; `ValueError` for a document of another schema."""
        if document.get("schema") != SCHEMA:
            raise ValueError(f"schema is {document.get('schema')!r}: must be {SCHEMA!r}")
        return cls(
            rows=tuple(_row(written) for written in document["rows"]),
            machine=document["machine"],
            date=document["date"],
            settings=document["settings"],
            baselines=Baselines(**document["baselines"]),
        )


def _row(written: Mapping[str, Any]) -> Row:
    fields = {name: value for name, value in written.items() if name != "prediction_error"}
    pairs = {name: Pair(**value) for name, value in fields.items() if name in _PAIRS}
    return Row(**fields | pairs | {"notes": tuple(fields["notes"])})


_PAIRS: Final = ("batch_s", "speedup_one_thread", "speedup_all_cores", "gap_mean", "gap_max")


def _json_value(value: Any) -> Any:
    """The value in JSON's types: NaN and infinity become null, what JSON does not know its text."""
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
