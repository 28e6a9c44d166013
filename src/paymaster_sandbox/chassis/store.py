"""The durable memory of the sandbox: one SQLite file, one writer, whole transactions.

Write-ahead logging with `synchronous=NORMAL` keeps every committed transaction through a killed
process; only a power cut could lose the newest, and a simulator need not survive that.
"""

import fcntl
import os
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Row = tuple[Any, ...]


class DirectoryBusyError(Exception):
    """Another process keeps its books in this directory."""


class Tx:
    """One transaction. `now` is its virtual time, in microseconds since 1970."""

    __slots__ = ("_connection", "now")

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        self._connection = connection
        self.now = now

    def run(self, sql: str, *values: object) -> int:
        """Execute one statement; the number of rows that it changed."""
        return self._connection.execute(sql, values).rowcount

    def insert(self, sql: str, *values: object) -> int:
        """Execute one INSERT; the integer key of the new row."""
        key = self._connection.execute(sql, values).lastrowid
        assert key is not None
        return key

    def one(self, sql: str, *values: object) -> Row | None:
        """The first row, or None."""
        return self._connection.execute(sql, values).fetchone()

    def value(self, sql: str, *values: object) -> Any:
        """The first column of the only row of a query that always has one."""
        row = self.one(sql, *values)
        assert row is not None
        return row[0]

    def all(self, sql: str, *values: object) -> list[Row]:
        """Every row."""
        return self._connection.execute(sql, values).fetchall()


class Store:
    """Owns the directory and its database.

    Raises:
        DirectoryBusyError: a living process holds the directory.
    """

    def __init__(self, directory: Path, schemas: Sequence[str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise DirectoryBusyError(f"{directory} is in use by another sandbox") from error
        self._connection = sqlite3.connect(directory / "books.sqlite3", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        for schema in schemas:
            self._connection.executescript(schema)
        self._open = False

    @contextmanager
    def begin(self, now: int) -> Generator[Tx]:
        """A transaction: commits at the end, rolls back on any exception. Never nested."""
        assert not self._open, "a sandbox transaction is already open"
        self._open = True
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield Tx(self._connection, now)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        finally:
            self._open = False

    def close(self) -> None:
        """Close the database and let the directory go."""
        self._connection.close()
        os.close(self._lock)
