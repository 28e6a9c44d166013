"""Connections, and the only two ways to open a transaction: `read` and `run`.

A `Schema` is one PostgreSQL schema (the directory or a cell) on one server. `run` opens a
transaction, gives it to a piece of work, seals it and commits. A deadlock is tried again. A
connection that is lost before or during COMMIT is indeterminate: the work is run again, which is
safe because every use case carries its own ids and keys.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import errors
from psycopg_pool import PoolTimeout

from paymaster.db.connections import Connection, MakePool, own_pool
from paymaster.db.sending import Sending
from paymaster.db.tx import (
    MERGED_PATIENCE,
    PATIENCE,
    Actor,
    CellRead,
    CellTx,
    ControlRead,
    ControlTx,
    Policy,
)
from paymaster.db.worker import WorkerIds
from paymaster.kernel.clock import AheadClock, Clock
from paymaster.kernel.errors import Broken, Busy
from paymaster.kernel.guard import TRANSACTION_OPEN

T = TypeVar("T")

_TRIES = 5
_LOST = (psycopg.OperationalError, PoolTimeout)
_AGAIN = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.InvalidSqlStatementName,
)
"""The last: the server was told to forget what is prepared. It is prepared anew."""


class Server:
    """A pool of connections to one PostgreSQL server, shared by all schemas on it.

    Statements are planned once a connection, for any parameters: ours look rows up by key, and
    planning anew costs a small transaction a quarter of PostgreSQL's time.
    """

    def __init__(
        self,
        name: str,
        dsn: str,
        *,
        connections: int,
        statement_seconds: int,
        make_pool: MakePool = own_pool,
    ) -> None:
        self.name = name
        self._pool = make_pool(
            dsn,
            connections,
            {
                "autocommit": True,
                "application_name": f"paymaster-{os.getpid()}",
                "options": f"-c statement_timeout={statement_seconds * 1000}"
                f" -c lock_timeout={PATIENCE} -c idle_in_transaction_session_timeout=60000"
                " -c timezone=UTC -c client_encoding=UTF8 -c plan_cache_mode=force_generic_plan",
            },
        )

    async def open(self) -> None:
        """Start the pool; connections are made as they are needed."""
        await self._pool.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    @asynccontextmanager
    async def transaction(
        self,
        schema: str,
        begin: LiteralString,
        clock: AheadClock | None = None,
        *,
        sent: bool = False,
    ) -> AsyncGenerator[Connection]:
        """A connection inside BEGIN ... COMMIT with the schema on its search path.

        With `sent` its statements are sent together, and BEGIN and COMMIT with them. Otherwise
        BEGIN goes with the first: before a cursor of the connection's own is used comes
        `sending.begun`.

        The clock of a test environment learns on the way how far it is ahead. When that is new,
        what was prepared for the transaction is of another time: raises _ClockMovedError, with
        `sent` by the first answer that is read.
        """
        if TRANSACTION_OPEN.get():
            raise Broken("transaction-nested", "A transaction was opened inside another one.")
        async with self._pool.connection() as connection:
            token = TRANSACTION_OPEN.set(True)
            sending = connection.sending
            try:
                if sent:
                    await _begin_together(sending, schema, begin, clock)
                else:
                    await _begin(sending, schema, begin, clock)
                yield connection
                await (sending.commit() if sent else sending.close())
            except BaseException:
                await sending.abandon()
                raise
            finally:
                TRANSACTION_OPEN.reset(token)

    async def alone(self, sql: LiteralString, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows of one statement, which names its schema and is a transaction by itself."""
        if TRANSACTION_OPEN.get():
            raise Broken("transaction-nested", "A transaction was opened inside another one.")
        async with self._pool.connection() as connection:
            sending = connection.sending
            try:
                return await (await sending.one(sql, dict(params))).rows()
            except BaseException:
                await sending.abandon()
                raise


class _ClockMovedError(Exception):
    """The clock of a test environment was put forward meanwhile."""


async def _begin(
    sending: Sending, schema: str, begin: LiteralString, clock: AheadClock | None
) -> None:
    """Each answer is waited for. BEGIN goes with the first statement, COMMIT with the last one."""
    sending.open(begin, schema)
    if clock is not None:
        for (ahead_seconds,) in await (await sending.one(_AHEAD)).rows():
            if clock.learn(ahead_seconds):
                raise _ClockMovedError


async def _begin_together(
    sending: Sending, schema: str, begin: LiteralString, clock: AheadClock | None
) -> None:
    """Statements are sent together, and BEGIN and COMMIT with them."""
    began = clock.ahead_seconds if clock is not None else 0

    def moved(rows: Sequence[tuple[Any, ...]]) -> Exception | None:
        for (ahead_seconds,) in rows:
            if clock is not None:
                clock.learn(ahead_seconds)
            # Another transaction may have learned of it since this one took its time.
            if ahead_seconds > began:
                return _ClockMovedError()
        return None

    sending.begin(schema)
    sending.put(begin)
    sending.put(_SENT, (f'"{schema}"', MERGED_PATIENCE))
    if clock is not None:
        sending.put(_AHEAD, seen=moved)


def _met_another(error: psycopg.Error) -> bool:
    """Another transaction has just made what is made here: run again, that one is seen then.

    That is an entry of this id, an account, or a caller's key.
    """
    return re.fullmatch(_MET, error.diag.constraint_name or "") is not None


_MET = r"entry_p\d+_pkey\d*|account_kind_owner_id_asset_key|idempotency_pkey"


class Schema:
    """One schema: where it is and who makes its ids. `clock` is that of its environment."""

    def __init__(self, server: Server, name: str, clock: Clock) -> None:
        if not name.replace("_", "").isalnum():
            raise Broken("schema-name", f"{name!r} is not a name for a schema.")
        self.server = server
        self.name = name
        self.clock = clock
        self._ahead = clock if isinstance(clock, AheadClock) else None
        self.workers = WorkerIds(server, name, clock)

    async def _retried(self, once: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(_TRIES):
            try:
                return await once()
            except (_ClockMovedError, Broken) as error:
                # Ids of a lease that a clock put forward has left behind are not made either.
                if isinstance(error, Broken) and (error.slug != "id-lease" or not self._ahead):
                    raise
            except (*_AGAIN, errors.UniqueViolation) as error:
                if not isinstance(error, _AGAIN) and not _met_another(error):
                    raise
                if attempt == _TRIES - 1:
                    raise Busy("database-contention", "Too many writers met; retry.") from error
            except errors.CheckViolation as error:
                if error.diag.constraint_name is not None:
                    raise
                raise Busy(
                    "partition-missing",
                    "The books have no partition for this month; nothing has happened.",
                    retry_after_seconds=60,
                ) from error
            except errors.LockNotAvailable as error:
                raise Busy("database-contention", "A lock was not free in time; retry.") from error
            except errors.QueryCanceled as error:
                raise Busy("database-slow", "The database took too long; retry.") from error
            except _LOST as error:
                # The pool has waited long enough by itself.
                if attempt >= 2 or isinstance(error, PoolTimeout):
                    raise Busy(
                        "database-unavailable",
                        "The database cannot be reached; nothing is known to have changed. "
                        "Send the same request again, with the same Idempotency-Key.",
                        retry_after_seconds=2,
                    ) from error
            await asyncio.sleep(0.02 * (attempt + 1))
        raise Broken("retry-loop", "The retry loop ended without an answer.")


class ControlDb(Schema):
    """The directory."""

    async def read(self, work: Callable[[ControlRead], Awaitable[T]], *, merged: bool = False) -> T:
        """Run `work` on one snapshot; the statements of a `merged` one are sent together."""

        async def once() -> T:
            async with self.server.transaction(self.name, _SNAPSHOT, sent=merged) as connection:
                sending = connection.sending if merged else None
                return await work(ControlRead(connection, self.clock.now(), sending))

        return await self._retried(once)

    async def run(
        self,
        actor: Actor,
        trace_id: str,
        work: Callable[[ControlTx], Awaitable[T]],
        *,
        merged: bool = False,
    ) -> T:
        """Run `work` in a transaction and commit it; `merged` as in a cell."""

        async def once() -> T:
            make = await self.workers.maker()
            async with self.server.transaction(self.name, _WRITE, sent=merged) as connection:
                sending = connection.sending if merged else None
                tx = ControlTx(connection, self.clock.now(), actor, trace_id, make, sending)
                result = await work(tx)
                await tx.seal()
            return result

        return await self._retried(once)


class CellDb(Schema):
    """One cell."""

    def __init__(
        self,
        server: Server,
        name: str,
        clock: Clock,
        number: int,
        time_zone: str,
        policy: Policy = CellTx.policy,
    ) -> None:
        super().__init__(server, name, clock)
        self.number = number
        self.time_zone = time_zone
        self._policy = policy

    async def read(self, work: Callable[[CellRead], Awaitable[T]]) -> T:
        """Run `work` on one snapshot."""

        async def once() -> T:
            async with self.server.transaction(self.name, _SNAPSHOT, self._ahead) as connection:
                tx = CellRead(connection, self.clock.now(), self.number, self.time_zone)
                return await work(tx)

        return await self._retried(once)

    async def run(
        self,
        actor: Actor,
        trace_id: str,
        work: Callable[[CellTx], Awaitable[T]],
        *,
        merged: bool = False,
    ) -> T:
        """Run `work` in a transaction and commit it. `work` may be run more than once.

        A `merged` one, in which several callers wait, sends its statements together, waits less
        long for a lock, and finds the rows of an array's keys one by one: while a table is small
        the planner likes to read all of it for a batch, and may keep to that plan when the table
        has grown.
        """

        async def once() -> T:
            make = await self.workers.maker()
            async with self.server.transaction(
                self.name, _WRITE, self._ahead, sent=merged
            ) as connection:
                tx = CellTx(
                    connection,
                    self.clock.now(),
                    actor,
                    trace_id,
                    make,
                    self.number,
                    self.time_zone,
                    connection.sending if merged else None,
                )
                tx.policy = self._policy
                result = await work(tx)
                await tx.seal()
            return result

        return await self._retried(once)


_AHEAD: LiteralString = "SELECT ahead_seconds FROM test_clock"
_SNAPSHOT: LiteralString = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITE: LiteralString = "BEGIN ISOLATION LEVEL READ COMMITTED"
_SENT: LiteralString = """
    SELECT set_config('search_path', %s, true), set_config('lock_timeout', %s, true),
        set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
        set_config('enable_seqscan', 'off', true)
"""
