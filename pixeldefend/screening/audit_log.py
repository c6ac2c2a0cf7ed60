"""The audit log, in SQLite: one row per verdict, written before the answer is given."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ..errors import ParameterError
from .records import LOG_COLUMNS, Column, to_storable

VERSION = 3  # of the table, stored as PRAGMA user_version; logs before 0.2 have 0
RENAMED = {"arithmetic": "precision"}  # columns of earlier versions
SQL_TYPES = {str: "TEXT", float: "REAL", int: "INTEGER", bool: "INTEGER"}
# kind of feedback -> the verdict that it fits
FEEDBACK = {
    "false_alarm": "adversarial",  # flagged but clean
    "attack": "adversarial",  # flagged and attacked
    "missed": "clean",  # not flagged but attacked
    "clean": "clean",  # confirmed clean
}
PRUNED_EVERY = 1000  # rows
LARGEST = 2**63 - 1  # number in SQLite
BUSY_SECONDS = 30.0  # how long another process may lock the log
# primary result code of SQLite -> the number of the error that the system would report
ERRNO = {
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
    sqlite3.SQLITE_LOCKED: errno.EBUSY,
    sqlite3.SQLITE_READONLY: errno.EACCES,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PROTOCOL: errno.EBUSY,
    sqlite3.SQLITE_NOLFS: errno.EFBIG,
    sqlite3.SQLITE_AUTH: errno.EACCES,
}


class AuditLog:
    """An append-only log of verdicts.

    Once `add` has returned, its rows survive a kill at any moment: they are a committed transaction of SQLite in WAL
    mode, synchronised to the disk. One process writes; others may read. A log of an earlier version is upgraded, in one
    transaction, when it is opened for writing. When it is opened for reading it is not changed.

    Args:
        path: The path of the database, which is made if it is missing.
        max_rows: The number of rows to keep, at least 1. Older rows are deleted. None keeps all.
        max_days: The age in days, above 0, beyond which rows are deleted. None keeps all.
        read_only: Whether the log is only read. It must then exist.
        columns: The columns of a row.

    Every method raises `OSError` if the log cannot be read or written: if another process has locked it for 30 seconds,
    it is damaged, the disk is full, or the file was deleted or replaced since it was opened.

    Raises:
        ParameterError: If the file is another kind of database or a log of a later version, or if max_rows or max_days
            is out of range. The file is not changed.
        OSError: If the file cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_rows: int | None = None,
        max_days: float | None = None,
        read_only: bool = False,
        columns: tuple[Column, ...] = LOG_COLUMNS,
    ) -> None:
        if max_rows is not None and max_rows < 1:
            raise ParameterError(f"max_rows must be at least 1, got {max_rows}")
        if max_days is not None and not max_days > 0:
            raise ParameterError(f"max_days must be positive, got {max_days}")
        self.path, self.max_rows, self.max_days = Path(path), max_rows, max_days
        self.columns = {column.name: column for column in columns}
        self._lock = threading.Lock()
        self._since_pruned = 0
        self._files: list[tuple[int, int] | None] | None = None  # what identifies them, once they are open
        if self.path.exists() and not self.path.is_file():
            raise OSError(f"cannot open the log {path}: it is not a file")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"cannot write {path}: there is no folder {self.path.parent}")
        with self._explained():
            self._connection = self._open(read_only)
        try:
            with self._explained():
                self._check(read_only)
                if not read_only:
                    self._prepare()
        except BaseException:
            self.close()
            raise

    def _open(self, read_only: bool) -> sqlite3.Connection:
        options = "mode=rwc"
        if read_only:
            if not self.path.exists():
                raise FileNotFoundError(f"there is no log {self.path}")
            # a log in WAL mode is read with the help of files beside it. Where none can be made, it is read alone, but
            # only if nobody writes to it: then there is a -wal file, with rows that must not be left out
            alone = not os.access(self.path.parent, os.W_OK) and not self._beside("-wal").exists()
            options = "mode=ro&immutable=1" if alone else "mode=ro"
        uri = f"{self.path.absolute().as_uri()}?{options}"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.text_factory = lambda text: str(text, "utf-8", "backslashreplace")  # of a damaged log
        return connection

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns errors of SQLite into an `OSError`, or into a `ParameterError` if it is not an audit log."""
        try:
            yield
        except UnicodeDecodeError as error:  # in the name of a column
            raise self._damaged(str(error)) from error
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code is None or isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):  # the caller's bug
                raise
            primary = code & 0xFF
            if primary == sqlite3.SQLITE_CORRUPT:
                raise self._damaged(str(error)) from error
            if primary in ERRNO:
                raise OSError(ERRNO[primary], f"{error}{self._more(primary)}", str(self.path)) from error
            what = "is not" if primary == sqlite3.SQLITE_NOTADB else "cannot be used as"
            raise ParameterError(f"{self.path} {what} an audit log: {error}") from error

    def _damaged(self, what: str) -> OSError:
        return OSError(errno.EIO, f"the log is damaged: {what}; restore it from a copy", str(self.path))

    def _more(self, code: int) -> str:
        """Returns what SQLite's message leaves out."""
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return " by another process"
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            needed = [self.path.parent, self.path, self._beside("-wal"), self._beside("-shm"), self._beside("-journal")]
            for mode, done in ((os.R_OK, "read"), (os.W_OK, "written")):
                for place in needed:
                    if place.exists() and not os.access(place, mode):
                        return f" ({place} cannot be {done})"
        return ""

    def _check(self, read_only: bool) -> None:
        """Raises ParameterError for another program's database or a later log; an empty database may become a log."""
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        tables = [row["name"] for row in self._connection.execute(query)]
        if "verdicts" not in tables and (tables or read_only):
            listed = f"its tables are {', '.join(sorted(tables))}" if tables else "it is empty"
            raise ParameterError(f"{self.path} is not an audit log: {listed}")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise ParameterError(
                f"{self.path} has version {version}, but this pixeldefend reads logs up to version {VERSION}: "
                "upgrade pixeldefend"
            )
        present = _present(self._connection)
        odd = present - self.columns.keys() - RENAMED.keys()
        lacking = {column.name for column in self.columns.values() if _required(column)} - present
        if present and (odd or lacking):
            listed = ", ".join(sorted(present))
            raise ParameterError(f"{self.path} is not an audit log of this version: its columns are {listed}")

    def _prepare(self) -> None:
        """Makes the table, or upgrades it from an earlier version."""
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        with self._lock, self._transaction():
            columns = ", ".join(map(_sql, self.columns.values()))
            self._connection.execute(f"CREATE TABLE IF NOT EXISTS verdicts ({columns})")
            present = _present(self._connection)
            for old, new in RENAMED.items():
                if old in present:
                    self._connection.execute(f"ALTER TABLE verdicts RENAME COLUMN {old} TO {new}")
                    present = present - {old} | {new}
            for name, column in self.columns.items():
                if name not in present:
                    self._connection.execute(f"ALTER TABLE verdicts ADD COLUMN {_sql(column)}")
            for name in ("time", "sha256"):
                self._connection.execute(f"CREATE INDEX IF NOT EXISTS by_{name} ON verdicts ({name})")
            self._connection.execute(f"PRAGMA user_version = {VERSION}")
        self._files = self._held()

    def _selection(self, connection: sqlite3.Connection) -> str:
        """Returns the columns to select; in a log of an earlier version some have other names or are missing."""
        present = _present(connection)
        stands_for = {new: old for old, new in RENAMED.items() if old in present}
        held = {
            name: name if name in present else stands_for.get(name, _default(column))
            for name, column in self.columns.items()
        }
        return ", ".join(f"{expression} AS {name}" for name, expression in held.items())

    def _to_row(self, row: sqlite3.Row) -> dict[str, Any]:
        values = {name: row[name] for name in self.columns}
        for name, column in self.columns.items():
            value, kind = values[name], int if column.type is bool else column.type
            if value is not None and not isinstance(value, kind):
                raise self._damaged(f"{name} is {value!r}")
            if column.type is bool:
                values[name] = bool(value)
        return values

    def _held(self) -> list[tuple[int, int] | None]:
        """Returns what identifies the files of the log, each None if it is missing."""
        states = [os.stat(place) if place.exists() else None for place in (self.path, self._beside("-wal"))]
        return [None if state is None else (state.st_dev, state.st_ino) for state in states]

    def add(self, rows: Iterable[dict[str, Any]], *, source: str) -> list[str]:
        """Writes either all rows or none.

        Args:
            rows: Values by the names of columns. The id and the time are made if they are missing.
            source: The command that screened: "serve" or "watch".

        Returns:
            The ids, once all rows are on the disk.

        Raises:
            ParameterError: If a row has a key that is no column.
        """
        rows = [{"id": uuid.uuid4().hex, "time": time.time(), **row, "source": source} for row in rows]
        for row in rows:
            if unknown := row.keys() - self.columns.keys():
                raise ParameterError(f"the log has no column {', '.join(sorted(unknown))}")
        with self._lock, self._transaction():
            for row in rows:
                marks = ", ".join("?" * len(row))
                self._connection.execute(
                    f"INSERT INTO verdicts ({', '.join(row)}) VALUES ({marks})",
                    [to_storable(value) for value in row.values()],
                )
            self._since_pruned += len(rows)
            if self._since_pruned >= PRUNED_EVERY:
                self._prune()
        return [row["id"] for row in rows]

    def feedback(self, id: str, kind: str) -> None:
        """Stores feedback on a verdict.

        Args:
            id: The name of the row.
            kind: A key of `FEEDBACK`.

        Raises:
            ParameterError: If there is no such kind of feedback, or if it does not fit the verdict.
            KeyError: If there is no such row.
        """
        if kind not in FEEDBACK:
            raise ParameterError(f"feedback must be one of {', '.join(FEEDBACK)}, got {kind!r}")
        id = to_storable(id)
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
        """Reads rows.

        Args:
            verdict: Only rows with this verdict.
            client: Only rows of this client.
            sha256: Only rows of files with this hash.
            feedback: Only rows with this feedback.
            since: Only rows of this time or later, in seconds since 1970.
            limit: The largest number of rows.

        Yields:
            Rows as values by the names of columns, the newest first.
        """
        conditions = {"verdict = ?": verdict, "client = ?": client, "sha256 = ?": sha256, "feedback = ?": feedback}
        conditions["time >= ?"] = since  # type: ignore[assignment]
        chosen = {text: value for text, value in conditions.items() if value is not None}
        where = f"WHERE {' AND '.join(chosen)}" if chosen else ""
        # a separate connection, so that a slow reader does not block others
        values = [*map(to_storable, chosen.values()), -1 if limit is None else min(limit, LARGEST)]
        with self._explained(), closing(self._open(read_only=True)) as reader:
            selection = self._selection(reader)
            query = f"SELECT {selection} FROM verdicts {where} ORDER BY time DESC, rowid DESC LIMIT ?"
            for row in reader.execute(query, values):
                yield self._to_row(row)

    def count(self) -> int:
        """Returns the number of rows."""
        with self._lock, self._explained():
            return int(self._connection.execute("SELECT count(*) FROM verdicts").fetchone()[0])

    def seen(self, sha256: str | None, path: str | None = None) -> dict[str, Any] | None:
        """Looks up a watched file.

        Args:
            sha256: The hash of its content; None if it is not known.
            path: Its path; None for a file anywhere.

        Returns:
            The latest row of the file; None if there is none.
        """
        where, values = "sha256 IS ? AND source = 'watch'", [sha256]
        if path is not None:
            where, values = f"{where} AND path = ?", [sha256, to_storable(path)]
        with self._lock, self._explained():
            query = f"SELECT {self._selection(self._connection)} FROM verdicts WHERE {where}"
            row = self._connection.execute(f"{query} ORDER BY time DESC LIMIT 1", values).fetchone()
        return None if row is None else self._to_row(row)

    def prune(self) -> int:
        """Deletes rows beyond max_rows and max_days, and returns their number."""
        with self._lock, self._transaction():
            return self._prune()

    def close(self) -> None:
        """Closes the database."""
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
            removed += self._connection.execute(query, [min(self.max_rows, LARGEST)]).rowcount
        return removed

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                if self._files is not None and self._files != self._held():  # SQLite would write to what has no name
                    raise OSError(errno.ESTALE, "the log was deleted or replaced while it was open", str(self.path))
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has ended it already
                    self._connection.execute("ROLLBACK")
                raise


def _present(connection: sqlite3.Connection) -> set[str]:
    return {row["name"] for row in connection.execute("PRAGMA table_info(verdicts)")}


def _sql(column: Column) -> str:
    kind = SQL_TYPES[column.type]
    if column.name == "id":
        return f"id {kind} PRIMARY KEY"
    if _required(column):
        return f"{column.name} {kind} NOT NULL"
    return f"{column.name} {kind}" if column.nullable else f"{column.name} {kind} NOT NULL DEFAULT {_default(column)}"


def _required(column: Column) -> bool:
    """Returns whether every row has had such a column from the first version on."""
    return not column.nullable and column.type is not bool


def _default(column: Column) -> str:
    return "NULL" if column.nullable else "0"
