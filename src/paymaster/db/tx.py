"""Transactions: `ReadTx` may look, `Tx` may write. The type says which.

A transaction lives in one schema: `ControlTx` in the directory, `CellTx` in one cell. Rows that are
never changed again (entries, moves, outbox, audit) carry `(commit_id, ordinal)`; the last
statement before COMMIT moves the schema's `head` on and so gives the whole transaction its place
in the order of commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from typing import Any, LiteralString, TypeVar

from psycopg import AsyncConnection, errors
from psycopg.types.json import Jsonb

from paymaster.db.rows import rows_as
from paymaster.kernel.errors import Broken

_LINES_AT_ONCE = 250

T = TypeVar("T")
Params = Sequence[Any] | dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something: `name` such as `key:pk_test_1a2b` or `role:dispatch`, and from where.

    `environment_id` is written to the audit of the directory, which all environments share;
    `reason` to acts that name none of their own.
    """

    name: str
    origin: str | None = None
    environment_id: int | None = None
    reason: str | None = None


class ReadTx:
    """One snapshot of one schema. `now` is the moment at which it was opened."""

    def __init__(self, connection: AsyncConnection[Any], now: datetime) -> None:
        self._connection = connection
        self.now = now

    async def fetch(self, sql: LiteralString, params: Params, row: type[T]) -> list[T]:
        """All rows, each as a `row`."""
        async with self._connection.cursor(row_factory=rows_as(row)) as cursor:
            await cursor.execute(sql, params)
            return await cursor.fetchall()

    async def maybe(self, sql: LiteralString, params: Params, row: type[T]) -> T | None:
        """The only row or None. Raises Broken when there are more."""
        rows = await self.fetch(sql, params, row)
        if len(rows) > 1:
            raise Broken("row-count", f"Expected at most one row, found {len(rows)}.")
        return rows[0] if rows else None

    async def tuples(self, sql: LiteralString, params: Params = None) -> list[tuple[Any, ...]]:
        """All rows as plain tuples, for aggregates and id lists."""
        cursor = await self._connection.execute(sql, params)
        return await cursor.fetchall()

    async def value(self, sql: LiteralString, params: Params = None) -> Any:
        """The first column of the first row, or None."""
        cursor = await self._connection.execute(sql, params)
        found = await cursor.fetchone()
        return found[0] if found else None


class ControlRead(ReadTx):
    """Reads the directory."""


class CellRead(ReadTx):
    """Reads one cell. `time_zone` is the environment's, for business days."""

    def __init__(
        self, connection: AsyncConnection[Any], now: datetime, cell: int, time_zone: str
    ) -> None:
        super().__init__(connection, now)
        self.cell = cell
        self.time_zone = time_zone


class Writes(ReadTx):
    """What a writing transaction adds."""

    def __init__(
        self,
        connection: AsyncConnection[Any],
        now: datetime,
        actor: Actor,
        trace_id: str,
        make_ids: Callable[[int], list[int]],
    ) -> None:
        ReadTx.__init__(self, connection, now)
        self.actor = actor
        self.trace_id = trace_id
        self._make_ids = make_ids
        self._commit_id: int | None = None
        self._appended = 0
        self._dated_after: tuple[date | None] | None = None

    def ids(self, count: int) -> list[int]:
        """New ids of this schema, growing."""
        return self._make_ids(count)

    def id(self) -> int:
        """One new id."""
        return self._make_ids(1)[0]

    @property
    def commit_id(self) -> int:
        """The id of this transaction's row in `commit`."""
        if self._commit_id is None:
            self._commit_id = self.id()
        return self._commit_id

    def append(self, count: int = 1) -> int:
        """Take `count` places in the order of this transaction; returns the first ordinal."""
        first = self._appended
        self._appended += count
        return first

    def dated_after(self, closed_through: date | None) -> None:
        """Entries of this transaction were dated while the books were closed through this day."""
        if self._dated_after is None:
            self._dated_after = (closed_through,)

    async def execute(self, sql: LiteralString, params: Params = None) -> int:
        """Run a statement; the number of rows it touched."""
        cursor = await self._connection.execute(sql, params)
        return cursor.rowcount

    @property
    def server_version(self) -> int:
        """PostgreSQL's, as 180006 for 18.6."""
        return self._connection.info.server_version

    async def copy(self, sql: LiteralString, lines: Iterable[str]) -> None:
        """Run a `COPY ... FROM STDIN`; see `paymaster.db.copying` for the lines."""
        await self.copy_while(sql, lines, lambda: None)

    async def copy_while(
        self, sql: LiteralString, lines: Iterable[str], meanwhile: Callable[[], T]
    ) -> T:
        """As `copy`; `meanwhile` is called while the database is busy with the lines."""
        rest = iter(lines)
        async with self._connection.cursor() as cursor, cursor.copy(sql) as target:
            # In pieces: the database works on one while the next is made.
            while piece := "".join(islice(rest, _LINES_AT_ONCE)):
                await target.write(piece)
            return meanwhile()

    def pipeline(self) -> AbstractAsyncContextManager[object]:
        """Statements inside are sent without waiting for each other's answers; no COPY there."""
        return self._connection.pipeline()

    async def seal(self) -> None:
        """Take the place in the order of commits; the database calls it right before COMMIT.

        Raises SerializationFailure, upon which the work is run again, when a day was closed after
        this transaction had dated its entries.
        """
        if not self._appended:
            return
        cursor = await self._connection.execute(
            """
            WITH moved AS (
                UPDATE head SET seq = seq + %(n)s, recorded_at = greatest(recorded_at, %(now)s)
                WHERE id = 1 RETURNING seq, recorded_at, closed_through
            ), made AS (
                INSERT INTO commit (id, first_seq, last_seq, recorded_at, actor, trace_id)
                SELECT %(id)s, seq - %(n)s + 1, seq, recorded_at, %(actor)s, %(trace)s FROM moved
            )
            SELECT closed_through FROM moved
            """,
            {
                "n": self._appended,
                "now": self.now,
                "id": self.commit_id,
                "actor": self.actor.name,
                "trace": self.trace_id,
            },
        )
        if self._dated_after is not None and await cursor.fetchone() != self._dated_after:
            raise errors.SerializationFailure("a day was closed meanwhile")


class ControlTx(Writes, ControlRead):
    """Writes to the directory."""


class CellTx(Writes, CellRead):
    """Writes to one cell."""

    def __init__(
        self,
        connection: AsyncConnection[Any],
        now: datetime,
        actor: Actor,
        trace_id: str,
        make_ids: Callable[[int], list[int]],
        cell: int,
        time_zone: str,
    ) -> None:
        Writes.__init__(self, connection, now, actor, trace_id, make_ids)
        self.cell = cell
        self.time_zone = time_zone


def json(value: object) -> Jsonb:
    """A JSON parameter."""
    return Jsonb(value)
