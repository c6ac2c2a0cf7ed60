"""The audit log: one row a verdict, in SQLite, written before the answer is given."""

from __future__ import annotations

import csv
import os
import re
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from scipy.stats import binomtest

from ..errors import ParameterError

COLUMNS: dict[str, str] = {
    "id": "TEXT PRIMARY KEY",
    "time": "REAL NOT NULL",  # seconds since 1970, UTC
    "source": "TEXT NOT NULL",  # serve or watch
    "client": "TEXT",
    "request": "TEXT",
    "path": "TEXT",
    "sha256": "TEXT",
    "verdict": "TEXT NOT NULL",
    "p_value": "REAL",
    "bits_per_dim": "REAL",
    "score": "REAL",
    "detector": "TEXT",
    "detector_sha256": "TEXT",
    "precision": "TEXT",  # of the backend: scores of one are not comparable with those of another
    "width": "INTEGER",
    "height": "INTEGER",
    "error": "TEXT",
    "query_attack": "INTEGER NOT NULL DEFAULT 0",
    "feedback": "TEXT",
}
# what somebody may say of a verdict -> the verdict it fits
FEEDBACK = {
    "false_alarm": "adversarial",  # flagged but clean
    "attack": "adversarial",  # flagged and attacked
    "missed": "clean",  # not flagged but attacked
    "clean": "clean",  # confirmed clean
}
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
PRUNED_EVERY = 1000  # rows


class AuditLog:
    """An append-only log of verdicts. What `add` has returned from survives a kill at any moment: it is a committed
    transaction of SQLite in WAL mode, synchronised to the disk.

    path: of the database, made if it is not there. max_rows, max_days: older rows go (None: none do). read_only: it
    must be there, and is left as it is. One process writes; others may read. Raises ParameterError, and alters nothing, if
    the file is another kind of database, OSError if it cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_rows: int | None = None,
        max_days: float | None = None,
        read_only: bool = False,
    ) -> None:
        if max_rows is not None and max_rows < 1:
            raise ParameterError(f"max_rows must be at least 1, got {max_rows}")
        if max_days is not None and not max_days > 0:
            raise ParameterError(f"max_days must be positive, got {max_days}")
        self.path, self.max_rows, self.max_days = Path(path), max_rows, max_days
        self._lock = threading.Lock()
        self._since_pruned = 0
        if read_only and not self.path.is_file():
            raise FileNotFoundError(f"there is no log {path}")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"cannot write {path}: there is no folder {self.path.parent}")
        self._connection = self._open(read_only)
        try:
            self._check(read_only)
            if not read_only:
                self._prepare()
        except sqlite3.DatabaseError as error:
            self.close()
            raise ParameterError(f"{path} is not an audit log: {error}") from None
        except ValueError:
            self.close()
            raise

    def _open(self, read_only: bool) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        try:
            connection = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise OSError(f"cannot open the log {self.path}: {error}") from None
        connection.row_factory = sqlite3.Row
        return connection

    def _check(self, read_only: bool) -> None:
        """Raises ParameterError for another program's database; an empty one may become a log."""
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        tables = [row["name"] for row in self._connection.execute(query)]
        if "verdicts" not in tables and (tables or read_only):
            listed = f"its tables are {', '.join(sorted(tables))}" if tables else "it is empty"
            raise ParameterError(f"{self.path} is not an audit log: {listed}")
        columns = {row["name"] for row in self._connection.execute("PRAGMA table_info(verdicts)")}
        if columns and columns != COLUMNS.keys():
            listed = ", ".join(sorted(columns))
            raise ParameterError(f"{self.path} is not an audit log of this version: its columns are {listed}")

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS verdicts ({columns})")
        for name in ("time", "sha256"):
            self._connection.execute(f"CREATE INDEX IF NOT EXISTS by_{name} ON verdicts ({name})")

    def add(self, rows: Iterable[dict[str, Any]], *, source: str) -> list[str]:
        """rows: values by column; id and time are made if they are missing, other keys are refused. Returns the ids,
        once all rows are on disk, or none is."""
        rows = [{"id": uuid.uuid4().hex, "time": time.time(), **row, "source": source} for row in rows]
        for row in rows:
            if unknown := row.keys() - COLUMNS.keys():
                raise ParameterError(f"the log has no column {', '.join(sorted(unknown))}")
        with self._lock, self._transaction():
            for row in rows:
                marks = ", ".join("?" * len(row))
                self._connection.execute(
                    f"INSERT INTO verdicts ({', '.join(row)}) VALUES ({marks})", [_storable(v) for v in row.values()]
                )
            self._since_pruned += len(rows)
            if self._since_pruned >= PRUNED_EVERY:
                self._prune()
        return [row["id"] for row in rows]

    def feedback(self, id: str, kind: str) -> None:
        """Marks a verdict. kind: one of `FEEDBACK`. Raises ParameterError if it does not fit the verdict, KeyError if there
        is no such row."""
        if kind not in FEEDBACK:
            raise ParameterError(f"feedback must be one of {', '.join(FEEDBACK)}, got {kind!r}")
        with self._lock, self._transaction():
            found = self._connection.execute("SELECT verdict FROM verdicts WHERE id = ?", [id]).fetchone()
            if found is None:
                raise KeyError(id)
            if found["verdict"] != FEEDBACK[kind]:
                raise ParameterError(f"a verdict {found['verdict']!r} cannot be {kind}")
            self._connection.execute("UPDATE verdicts SET feedback = ? WHERE id = ?", [kind, id])

    def rows(
        self,
        *,
        verdict: str | None = None,
        client: str | None = None,
        sha256: str | None = None,
        feedback: str | None = None,
        since: float | None = None,
        limit: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yields rows, the newest first, that match all that is given. since: seconds since 1970."""
        conditions = {"verdict = ?": verdict, "client = ?": client, "sha256 = ?": sha256, "feedback = ?": feedback}
        conditions["time >= ?"] = since  # type: ignore[assignment]
        chosen = {text: value for text, value in conditions.items() if value is not None}
        where = f"WHERE {' AND '.join(chosen)}" if chosen else ""
        query = f"SELECT * FROM verdicts {where} ORDER BY time DESC, rowid DESC LIMIT ?"
        # a connection of its own: a slow reader holds nobody up
        with closing(self._open(read_only=True)) as reader:
            for row in reader.execute(query, [*chosen.values(), -1 if limit is None else limit]):
                yield dict(row)

    def count(self) -> int:
        with self._lock:
            return int(self._connection.execute("SELECT count(*) FROM verdicts").fetchone()[0])

    def seen(self, sha256: str | None, path: str | None = None) -> dict[str, Any] | None:
        """Returns the latest row of a watched file with this content (None: unknown), under this path if it is given;
        None if there is none."""
        query = "SELECT * FROM verdicts WHERE sha256 IS ? AND source = 'watch'"
        values: list[Any] = [sha256]
        if path is not None:
            query, values = f"{query} AND path = ?", [sha256, _storable(path)]
        with self._lock:
            row = self._connection.execute(f"{query} ORDER BY time DESC LIMIT 1", values).fetchone()
        return None if row is None else dict(row)

    def prune(self) -> int:
        """Removes what is beyond max_rows or max_days. Returns how many rows."""
        with self._lock, self._transaction():
            return self._prune()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _prune(self) -> int:
        self._since_pruned, removed = 0, 0
        if self.max_days is not None:
            oldest = time.time() - 86400 * self.max_days
            removed += self._connection.execute("DELETE FROM verdicts WHERE time < ?", [oldest]).rowcount
        if self.max_rows is not None:
            newest_to_go = "SELECT rowid FROM verdicts ORDER BY rowid DESC LIMIT 1 OFFSET ?"
            query = f"DELETE FROM verdicts WHERE rowid <= ({newest_to_go})"
            removed += self._connection.execute(query, [self.max_rows]).rowcount
        return removed

    def _transaction(self) -> Any:
        return _Transaction(self._connection)


class _Transaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __enter__(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: Any, *rest: Any) -> None:
        self.connection.execute("COMMIT" if kind is None else "ROLLBACK")


@dataclass(frozen=True)
class Confirmed:
    """scores: (n,) of images confirmed clean. traffic: (N,) of all that were screened."""

    scores: np.ndarray
    traffic: np.ndarray


def confirmed_clean(
    log: AuditLog, detector_sha256: str, precision: str = "float32", *, like_traffic: bool = True
) -> Confirmed:
    """Returns the scores that a detector gave in this precision (of `pixeldefend.detectors.backends.PRECISION`) to what is in
    the log, but for confirmed attacks ("attack" or "missed"), and to images that feedback says are clean ("clean" or
    "false_alarm"). Raises ParameterError if there are none, or, if like_traffic, if the share of flagged images among those
    confirmed differs from the traffic's by more than chance (1 in 1,000): to confirm alarms above all would move the
    threshold up until attacks pass, to confirm only what was not flagged would move it down."""
    made_by = (detector_sha256, precision)
    rows = [row for row in log.rows() if (row["detector_sha256"], row["precision"]) == made_by]
    rows = [row for row in rows if row["score"] is not None and row["feedback"] not in ("attack", "missed")]
    chosen = [row for row in rows if row["feedback"] in ("clean", "false_alarm")]
    if not chosen:
        raise ParameterError(
            f"no image that this detector judged in {precision} was confirmed clean in {log.path} (feedback clean or "
            "false_alarm)"
        )
    flagged, of_all = (np.array([row["verdict"] == "adversarial" for row in part]) for part in (chosen, rows))
    if like_traffic and binomtest(int(flagged.sum()), len(flagged), float(of_all.mean())).pvalue < 1e-3:
        raise ParameterError(
            f"of the {len(flagged)} images confirmed clean {flagged.mean():.1%} had been flagged, of all {len(of_all)} "
            f"{of_all.mean():.1%}: they were not drawn at random, and a threshold from them would not hold for the "
            "rest; confirm images without regard to their verdict, and mark attacks as such"
        )
    return Confirmed(np.array([row["score"] for row in chosen]), np.array([row["score"] for row in rows]))


def visible(text: str) -> str:
    """Returns the text with its control characters spelled out: names come from outside, and a terminal would obey
    them."""
    return UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def write_csv(rows: Iterable[dict[str, Any]], file: IO[str]) -> None:
    """Control characters are spelled out, and cells that a spreadsheet would take for a formula are quoted by an
    apostrophe: names come from outside."""
    table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({name: _cell(value) if isinstance(value, str) else value for name, value in row.items()})


def _cell(text: str) -> str:
    text = visible(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def write_parquet(rows: Iterable[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Needs pyarrow."""
    import pyarrow
    import pyarrow.parquet

    from ..serialization import whole_file

    kinds = {"TEXT": pyarrow.string(), "REAL": pyarrow.float64(), "INTEGER": pyarrow.int64()}
    schema = pyarrow.schema([(name, kinds[kind.split()[0]]) for name, kind in COLUMNS.items()])
    with whole_file(path, "wb") as file:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema), file)


def _storable(value: Any) -> Any:
    """Names of files need not be valid UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
