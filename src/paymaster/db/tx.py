"""Transactions: `ReadTx` may look, `Tx` may write. The type says which.

A transaction lives in one schema: `ControlTx` in the directory, `CellTx` in one cell. Rows that are
never changed again (entries, moves, outbox, audit) carry `(commit_id, ordinal)`; the last
statement before COMMIT moves the schema's `head` on and so gives the whole transaction its place
in the order of commits.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from typing import Any, AnyStr, LiteralString, Protocol, TypeVar

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.types.json import Jsonb

from paymaster.db import copying
from paymaster.db.connections import Connection
from paymaster.db.sending import Failing, Params, Reply, Sending
from paymaster.kernel.errors import Broken

PATIENCE = "10s"
"""How long a transaction waits for a lock."""

MERGED_PATIENCE = "2s"
"""How long one waits that several callers wait for."""

_LINES_AT_ONCE = 250

_PLAN: LiteralString = """
    SELECT set_config(name, %s, true)
    FROM unnest('{enable_hashjoin,enable_mergejoin,enable_seqscan}'::text[]) AS name
"""

T = TypeVar("T")


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


class Asked(Protocol):
    """The answer to a statement, which may not have come yet."""

    async def rows(self) -> list[tuple[Any, ...]]:
        """All rows."""
        ...

    async def touched(self) -> int:
        """How many rows it touched."""
        ...


class ReadTx:
    """One snapshot of one schema. `now` is the moment at which it was opened.

    With `sending` its statements are sent together: see `paymaster.db.sending`.
    """

    def __init__(
        self, connection: AsyncConnection[Any], now: datetime, sending: Sending | None = None
    ) -> None:
        self._connection = connection
        ours = isinstance(connection, Connection)
        self._line = connection.sending if ours else Sending(connection)
        self._sending = sending
        self.sent = sending is not None
        """Whether statements are sent together: several callers wait for this transaction."""
        self.now = now

    async def ask(
        self, sql: LiteralString, params: Params = None, failing: Failing | None = None
    ) -> Asked:
        """Send a statement, to read its answer when it is needed.

        `failing` says what it means when the statement itself fails. That is raised here or, where
        statements are sent together, by the reading of this or a later answer.
        """
        if self._sending is not None:
            return self._sending.put(sql, params, failing)
        return await self._line.one(sql, params, failing)

    async def _asked(self, sql: LiteralString, params: Params) -> Reply:
        if self._sending is not None:
            return self._sending.put(sql, params)
        return await self._line.one(sql, params)

    async def fetch(self, sql: LiteralString, params: Params, row: type[T]) -> list[T]:
        """All rows, each as a `row`."""
        return await (await self._asked(sql, params)).read_as(row)

    async def maybe(self, sql: LiteralString, params: Params, row: type[T]) -> T | None:
        """The only row or None. Raises Broken when there are more."""
        rows = await self.fetch(sql, params, row)
        if len(rows) > 1:
            raise Broken("row-count", f"Expected at most one row, found {len(rows)}.")
        return rows[0] if rows else None

    async def tuples(self, sql: LiteralString, params: Params = None) -> list[tuple[Any, ...]]:
        """All rows as plain tuples, for aggregates and id lists."""
        return await (await self._asked(sql, params)).rows()

    async def only(self, sql: LiteralString, params: Params = None) -> list[tuple[Any, ...]]:
        """As `tuples`, of the only statement of a transaction that reads.

        Where statements are sent together the end of the transaction is sent with it.
        """
        if self._sending is None:
            return await self.tuples(sql, params)
        reply = self._sending.put(sql, params)
        await self._sending.commit()
        return await reply.rows()

    async def value(self, sql: LiteralString, params: Params = None) -> Any:
        """The first column of the first row, or None."""
        rows = await self.tuples(sql, params)
        return rows[0][0] if rows else None


class ControlRead(ReadTx):
    """Reads the directory."""


class CellRead(ReadTx):
    """Reads one cell. `time_zone` is the environment's, for business days."""

    def __init__(
        self,
        connection: AsyncConnection[Any],
        now: datetime,
        cell: int,
        time_zone: str,
        sending: Sending | None = None,
    ) -> None:
        super().__init__(connection, now, sending)
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
        sending: Sending | None = None,
    ) -> None:
        ReadTx.__init__(self, connection, now, sending)
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

    @property
    def patience(self) -> str:
        """How long statements of this transaction wait for a lock."""
        return MERGED_PATIENCE if self.sent else PATIENCE

    def append(self, count: int = 1) -> int:
        """Take `count` places in the order of this transaction; returns the first ordinal."""
        first = self._appended
        self._appended += count
        return first

    def dated_after(self, closed_through: date | None) -> None:
        """Entries of this transaction were dated while the books were closed through this day."""
        if self._dated_after is None:
            self._dated_after = (closed_through,)

    def go(self) -> None:
        """Let the database begin with what was asked in a `pipeline`, and do other work meanwhile.

        Where several callers wait nothing goes before it has to: they may be sent together.
        """
        if self._sending is not None and not self.sent:
            self._sending.go()

    async def execute(self, sql: LiteralString, params: Params = None) -> int:
        """Run a statement; the number of rows it touched."""
        return await (await self._asked(sql, params)).touched()

    async def in_order(self, sql: LiteralString, params: Params) -> Asked:
        """As `ask`, of an UPDATE from arrays: rows are visited in their order, by the index.

        Other plans would visit, and so lock, in the order of the table. (Statements that are sent
        together are planned so anyway.)
        """
        if self.sent:
            return await self.ask(sql, params)
        async with self.pipeline():
            await self.send(_PLAN, ("off",))
            asked = await self.ask(sql, params)
            await self.send(_PLAN, ("on",))
        return asked

    async def send(self, sql: LiteralString, params: Params = None) -> None:
        """Run a statement whose answer nobody needs.

        Where statements are sent together it is not waited for: should it fail, that is raised with
        the next answer, at the latest by the commit.
        """
        await self._asked(sql, params)

    def leave(
        self, sql: LiteralString, params: Params = None, failing: Failing | None = None
    ) -> None:
        """Run a statement whose answer nobody needs with the next one, by the commit at the latest.

        Should it fail, that is raised there.
        """
        leave = self._line.leave if self._sending is None else self._sending.put
        leave(sql, params, failing)

    @property
    def server_version(self) -> int:
        """PostgreSQL's, as 180006 for 18.6."""
        return self._connection.info.server_version

    async def copy(self, sql: LiteralString, lines: Sequence[str]) -> None:
        """Run a `COPY ... FROM STDIN`; see `paymaster.db.copying` for the lines."""
        if len(lines) <= copying.FEW:
            await self._insert(sql, [copying.line_columns(line) for line in lines])
        else:
            await self.copy_while(sql, lines, lambda: None)

    async def copy_rows(self, sql: LiteralString, rows: Sequence[bytes]) -> None:
        """Run a `COPY ... FROM STDIN (FORMAT binary)`; see `paymaster.db.copying` for the rows."""
        if len(rows) <= copying.FEW:
            await self._insert(sql, [copying.row_columns(row) for row in rows])
        else:
            await self._copy(sql, _pieces(copying.rows(rows), b"".join), lambda: None)

    async def _insert(self, sql: LiteralString, rows: Sequence[copying.Columns]) -> None:
        """What a COPY would, of a few rows, which it would cost more to begin and to end."""
        async with self.pipeline():
            for row in rows:
                await self.send(copying.inserting(sql), row)

    async def copy_while(
        self, sql: LiteralString, lines: Iterable[str], meanwhile: Callable[[], T]
    ) -> T:
        """As `copy`; `meanwhile` is called while the database is busy with the lines."""
        return await self._copy(sql, _pieces(lines, "".join), meanwhile)

    async def _copy(
        self, sql: LiteralString, pieces: Iterable[str | bytes], meanwhile: Callable[[], T]
    ) -> T:
        if self._sending is None:
            await self._line.begun()
            return await self._copied(sql, pieces, meanwhile)
        async with self._sending.paused():
            return await self._copied(sql, pieces, meanwhile)

    async def _copied(
        self, sql: LiteralString, pieces: Iterable[str | bytes], meanwhile: Callable[[], T]
    ) -> T:
        async with self._connection.cursor() as cursor, cursor.copy(sql) as target:
            for piece in pieces:
                await target.write(piece)
            return meanwhile()

    @asynccontextmanager
    async def pipeline(self) -> AsyncGenerator[None]:
        """Statements inside are sent without waiting for each other's answers; no COPY there."""
        if self._sending is not None:
            yield
            return
        self._line.begin()
        self._sending = self._line
        try:
            yield
        finally:
            self._sending = None
        await self._line.end()

    async def seal(self) -> None:
        """Take the place in the order of commits; the database calls it right before COMMIT.

        Nothing is read back, so that both are sent together: when a day was closed after this
        transaction had dated its entries there is no place for it, which the database refuses.
        Raises SerializationFailure then, there or at the commit, upon which the work is run again.
        """
        if not self._appended:
            return
        dated = self._dated_after
        self.leave(
            """
            WITH moved AS (
                UPDATE head SET seq = seq + %(n)s, recorded_at = greatest(recorded_at, %(now)s)
                WHERE id = 1
                    AND (NOT %(dated)s OR closed_through IS NOT DISTINCT FROM %(closed)s::date)
                RETURNING seq, recorded_at
            )
            INSERT INTO commit (id, first_seq, last_seq, recorded_at, actor, trace_id)
            SELECT %(id)s, m.seq - %(n)s + 1, m.seq, m.recorded_at, %(actor)s, %(trace)s
            FROM (SELECT) AS one LEFT JOIN moved m ON true
            """,
            {
                "n": self._appended,
                "now": self.now,
                "id": self.commit_id,
                "actor": self.actor.name,
                "trace": self.trace_id,
                "dated": dated is not None,
                "closed": None if dated is None else dated[0],
            },
            _closed_meanwhile,
        )


def _pieces(
    lines: Iterable[AnyStr], joined: Callable[[Iterable[AnyStr]], AnyStr]
) -> Iterator[AnyStr]:
    """So that the database works on one while the next is made."""
    rest = iter(lines)
    while piece := joined(islice(rest, _LINES_AT_ONCE)):
        yield piece


def _closed_meanwhile(error: psycopg.Error) -> Exception | None:
    """A transaction that has no place in the order of commits."""
    if isinstance(error, errors.NotNullViolation) and error.diag.table_name == "commit":
        return errors.SerializationFailure("a day was closed meanwhile")
    return None


class ControlTx(Writes, ControlRead):
    """Writes to the directory."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the settings say to use cases that are given nothing but a transaction.

    `destination_failures`: after so many failures in a row a destination is paused; 0 means never.
    """

    destination_failures: int = 3


class CellTx(Writes, CellRead):
    """Writes to one cell."""

    policy = Policy()

    def __init__(
        self,
        connection: AsyncConnection[Any],
        now: datetime,
        actor: Actor,
        trace_id: str,
        make_ids: Callable[[int], list[int]],
        cell: int,
        time_zone: str,
        sending: Sending | None = None,
    ) -> None:
        Writes.__init__(self, connection, now, actor, trace_id, make_ids, sending)
        self.cell = cell
        self.time_zone = time_zone


def json(value: object) -> Jsonb:
    """A JSON parameter."""
    return Jsonb(value)
