"""Answers on disk: an SQLite file that keeps each as soon as it is there.

A study is one question, told by the hash of everything that determines its answers. Several may
lie in one file; an answer that another one has already is taken over, because equal keys mean
equal answers. Whatever kills the process, what was written stays (write-ahead log); a crash of the
whole machine may lose the last seconds, and never leaves a broken file.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Self

from analysis.sweeps.answer import MEASURES, Answer
from analysis.sweeps.axes import decimal_text
from analysis.sweeps.question import Question
from simcore.errors import InputError

__all__ = ["Found", "Store"]

_APPLICATION: Final = 0x6772_6167  # what SQLite keeps to tell whose file it is
_VERSION: Final = 1
_PATIENCE_S: Final = 30.0  # while another process writes
_MEASURES: Final = ", ".join(f'"{name}"' for name in MEASURES)
_TABLES: Final = f"""
CREATE TABLE studies (
    study TEXT PRIMARY KEY, question TEXT NOT NULL, configurations INTEGER NOT NULL,
    begun TEXT NOT NULL
);
CREATE TABLE answers (
    study TEXT NOT NULL REFERENCES studies, number INTEGER NOT NULL, key TEXT NOT NULL,
    schedule TEXT NOT NULL, options TEXT NOT NULL, numbers TEXT NOT NULL,
    state TEXT NOT NULL, reason TEXT, seconds REAL NOT NULL, block_gaps TEXT NOT NULL,
    {_MEASURES},
    PRIMARY KEY (study, number)
);
CREATE INDEX answers_by_key ON answers (key);
"""
_COLUMNS: Final = (
    "study, number, key, schedule, options, numbers, state, reason, seconds, block_gaps, "
    + _MEASURES
)


@dataclass(frozen=True, slots=True)
class Found:
    """A row of a study: a configuration, as JSON values, and its answer.

    `options` and `numbers` are those that were given; `number` counts configurations from 0.
    """

    number: int
    schedule: str
    options: dict[str, Any]
    numbers: dict[str, float]
    answer: Answer


class Store:
    """An open file of answers; use it as a context."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self._connection = path, connection

    @classmethod
    def open(cls, path: str | Path, what: str = "--store") -> Self:
        """Open a file, made with its folder if it is not there.

        Raises `InputError` for a file that cannot be used, or is another thing.
        """
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(target, timeout=_PATIENCE_S, isolation_level=None)
            [application] = connection.execute("PRAGMA application_id").fetchone()
            [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            [version] = connection.execute("PRAGMA user_version").fetchone()
            if not tables:
                _make(connection)
            elif (application, version) != (_APPLICATION, _VERSION):
                rule = f"must be a store of sweeps, version {_VERSION}"
                raise InputError(what, str(path), rule, "choose another file")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
        except (sqlite3.Error, OSError) as error:
            rule = f"must be a file for SQLite that can be written to ({error})"
            raise InputError(what, str(path), rule, "choose another file") from None
        return cls(target, connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def begin(self, question: Question) -> int:
        """Begin a study, or go on with it; returns how many answers came from other studies."""
        count = len(question.configurations)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._transaction():
            self._connection.execute(
                "INSERT OR IGNORE INTO studies VALUES (?, ?, ?, ?)",
                (question.study, question.text, count, now),
            )
            before = self._connection.total_changes
            kept = _COLUMNS.removeprefix("study, number, ")
            missing = self._missing(question)
            self._connection.executemany(
                f"INSERT OR IGNORE INTO answers ({_COLUMNS}) SELECT ?, ?, {kept} FROM answers "
                "WHERE key = ? LIMIT 1",
                [(question.study, number, question.keys[number]) for number in missing],
            )
            return self._connection.total_changes - before

    def missing(self, question: Question) -> list[int]:
        """The numbers of the configurations that have no answer yet."""
        return self._missing(question)

    def _missing(self, question: Question) -> list[int]:
        rows = self._connection.execute(
            "SELECT number FROM answers WHERE study = ?", (question.study,)
        )
        there = {number for (number,) in rows}
        return [n for n in range(len(question.configurations)) if n not in there]

    def add(self, question: Question, answers: Iterable[tuple[int, Answer]]) -> None:
        """Keep answers, all of them or none; they are safe when this returns."""
        rows = [_row(question, number, answer) for number, answer in answers]
        marks = ", ".join("?" * len(rows[0])) if rows else ""
        with self._transaction():
            self._connection.executemany(
                f"INSERT OR IGNORE INTO answers ({_COLUMNS}) VALUES ({marks})", rows
            )

    def found(self, study: str) -> list[Found]:
        """The rows of a study, in the order of its configurations."""
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM answers WHERE study = ? ORDER BY number", (study,)
        )
        return [_found(row) for row in rows]

    def studies(self) -> list[tuple[str, int, int, str]]:
        """Each study's name, number of configurations, answers, and when it was begun."""
        rows = self._connection.execute(
            "SELECT study, configurations, (SELECT count(*) FROM answers "
            "WHERE answers.study = studies.study), begun FROM studies ORDER BY begun, rowid"
        )
        return rows.fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


def _make(connection: sqlite3.Connection) -> None:
    # One transaction, so that a file that was killed in between has nothing in it.
    connection.executescript(
        f"BEGIN; {_TABLES} PRAGMA application_id = {_APPLICATION}; "
        f"PRAGMA user_version = {_VERSION}; COMMIT;"
    )


def _row(question: Question, number: int, answer: Answer) -> Sequence[Any]:
    asked = question.configurations[number]
    numbers = {name: decimal_text(Fraction(value)) for name, value in asked.numbers.items()}
    return (
        question.study,
        number,
        question.keys[number],
        asked.schedule,
        json.dumps(dict(asked.options)),
        json.dumps(numbers),
        answer.state,
        answer.reason,
        answer.seconds,
        json.dumps(answer.block_gaps),
        *(answer.values.get(name) for name in MEASURES),
    )


def _found(row: Sequence[Any]) -> Found:
    _, number, _, schedule, options, numbers, state, reason, seconds, block_gaps, *values = row
    known = dict(zip(MEASURES, values, strict=True)) if state == "done" else {}
    answer = Answer(state, reason, known, tuple(json.loads(block_gaps)), seconds)
    given = {name: float(Fraction(text)) for name, text in json.loads(numbers).items()}
    return Found(number, schedule, json.loads(options), given, answer)
