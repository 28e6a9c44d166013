"""Transactions past the driver's cursors, whose statements are sent together or one by one.

The way to the server and back, and what the driver does around it, cost more than most statements
take. Here a statement is written into the connection's buffer, and nothing is waited for until
somebody reads an answer: then everything goes out, in order, and all answers come in. The server
carries the statements out one after the other, each on a snapshot of its own, exactly as if they
had come one by one; after the first that fails it carries out none. That is the pipeline mode of
PostgreSQL's protocol, without the driver's cursors: statements are prepared when they are first
met, and parameters adapted by `arrays` or by the driver.

A plan that is kept from the first time on is one for the tables as they are then; transactions
whose statements are sent together forbid the plans that only suit small ones. In all others a
statement is prepared once it has been used as often as the driver waits for (`prepare_threshold`).

Where each answer is waited for, only what begins and ends a transaction goes together with another:
BEGIN with the first statement, and COMMIT with what is left to the end.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final, TypeVar, cast

import psycopg
from psycopg import AsyncConnection, errors, generators, pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.sql import Composable

from paymaster.db import arrays
from paymaster.db.copying import Columns
from paymaster.db.queries import Params, Query, query_of
from paymaster.kernel.errors import Broken

T = TypeVar("T")

_PREPARED_MOST: Final = 500
"""Statements that one connection keeps prepared."""

_NUMBERS = count(1)
"""For the names of prepared statements: no two of this process are the same."""

_FAILED = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED)
_TUPLES = pq.ExecStatus.TUPLES_OK

Failing = Callable[[psycopg.Error], Exception | None]
"""What a statement's failure means; None where it means no more than it says."""

Seen = Callable[[list[tuple[Any, ...]]], Exception | None]
"""Looks at the rows as they come: what is wrong with them, if something is."""

_Answers = Generator[Any, Any, list[list[pq.abc.PGresult]]]


def check_committed(status: str | bytes | None) -> None:
    """A COMMIT after a failure that somebody swallowed is a ROLLBACK, and no error to the server.

    Raises Broken `commit-rolled-back`.
    """
    if status not in ("COMMIT", b"COMMIT"):
        raise Broken("commit-rolled-back", "The server rolled back what was to be committed.")


_Known = tuple[str, bytes, tuple[int, ...]]
"""A prepared statement: the search path, the text, the types of its parameters.

The server plans a statement anew when the path is another one than when it was prepared; so a
connection that goes from cell to cell keeps what it has prepared for each."""


class Reply:
    """The answer to one statement, which may not have come yet."""

    __slots__ = ("_sending", "failing", "result", "seen")

    def __init__(
        self, sending: Sending, failing: Failing | None = None, seen: Seen | None = None
    ) -> None:
        self._sending = sending
        self.failing = failing
        self.seen = seen
        self.result: pq.abc.PGresult | None = None

    async def rows(self) -> list[tuple[Any, ...]]:
        """All rows. Raises what this statement, or one that was sent before it, failed with."""
        return self._sending.loaded(await self._come())

    async def read_as(self, row: type[T]) -> list[T]:
        """All rows, the columns given to the fields of their names."""
        result = await self._come()
        return self._sending.made(result, row)

    async def touched(self) -> int:
        """How many rows the statement touched, or found."""
        return (await self._come()).command_tuples or 0

    async def _come(self) -> pq.abc.PGresult:
        if self.result is None:
            await self._sending.receive()
        if self.result is None:
            raise errors.InterfaceError("a statement was not answered")
        return self.result


class Sending:
    """What is under way on one connection. `begin` to `end` or `abandon` is one transaction.

    A transaction in which each answer is waited for is `open` to `close` or `abandon`; in between
    are `one`, `leave` and, where several are sent together, `begin` to `end`.
    """

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._threshold = connection.prepare_threshold
        self._adapting = Transformer(connection)
        self._names: dict[_Known, bytes] = {}
        self._uses: Counter[_Known] = Counter()
        self._unsure: list[_Known] = []
        self._path = ""
        self._waiting: deque[Reply] = deque()
        self._left: list[tuple[str, Params, Failing | None]] = []
        self._together = self._begins = self._under_way = self._ended = False

    def open(self, begin: str, path: str) -> None:
        """A transaction begins, with the first statement that is sent."""
        self._path = path
        self._left = [(begin, None, None), (f'SET LOCAL search_path TO "{path}"', None, None)]
        self._begins = True

    def leave(self, sql: str, params: Params = None, failing: Failing | None = None) -> None:
        """Leave a statement to be sent with the next, by `close` at the latest."""
        self._left.append((sql, params, failing))

    async def one(self, sql: str, params: Params = None, failing: Failing | None = None) -> Reply:
        """Send a statement, with what was left for it, and read the answer."""
        self.begin()
        try:
            reply = self.put(sql, params, failing)
        finally:
            await self.end()
        return reply

    async def begun(self) -> None:
        """Send what was left: the connection's own cursors can be used afterwards."""
        if self._left:
            self.begin()
            await self.end()

    async def close(self) -> None:
        """Commit, together with what was left; nothing is sent when nothing was before."""
        if self._begins:
            self._forget_left()
            return
        reply = await self.one("COMMIT")
        self._path = ""
        check_committed(reply.result.command_status if reply.result else None)

    def begin(self, path: str | None = None) -> None:
        """From here on statements are sent; the connection's own cursors cannot be used.

        A transaction that is begun so names its search path.
        """
        self._together = path is not None
        if path is not None:
            self._path = path
        self._ended = False
        self._pgconn.enter_pipeline_mode()
        left, self._left = self._left, []
        self._begins = False
        for sql, params, failing in left:
            self.put(sql, params, failing)

    def put(
        self,
        sql: str | Composable,
        params: Params = None,
        failing: Failing | None = None,
        seen: Seen | None = None,
    ) -> Reply:
        """Leave a statement to be sent with the next that is waited for.

        Raises DataError for parameters that cannot be written.
        """
        if not isinstance(sql, str):
            # Composed of names, for what only the owner does.
            sql = sql.as_string(self._connection)
        if params is None:
            query, values = Query(sql.encode(), None), ()
        else:
            query = query_of(sql)
            values = (
                [params[name] for name in query.names or ()] if isinstance(params, dict) else params
            )
        written, types, formats = self._written(values)
        name = self._prepared(query.text, types)
        reply = Reply(self, failing, seen)
        if name is None:
            self._pgconn.send_query_params(
                query.text, written, param_types=types, param_formats=formats
            )
        else:
            self._pgconn.send_query_prepared(name, written, param_formats=formats)
        self._waiting.append(reply)
        return reply

    def _written(
        self, values: Sequence[Any]
    ) -> tuple[list[Any], tuple[int, ...], list[pq.Format] | None]:
        """Values as the server takes them, the types that they are sent as, and their formats."""
        if isinstance(values, Columns):
            return values.sent()
        written: list[Any] = [None] * len(values)
        types = [0] * len(values)
        formats = [pq.Format.TEXT] * len(values)
        others: list[int] = []
        for place, value in enumerate(values):
            found = arrays.written(cast("list[Any]", value)) if type(value) is list else None
            if found is None:
                others.append(place)
            else:
                written[place], types[place] = found
        if others:
            adapting = self._adapting
            made = adapting.dump_sequence(
                [values[place] for place in others], [PyFormat.AUTO] * len(others)
            )
            for place, one, kind, form in zip(
                others, made, adapting.types or (), adapting.formats or (), strict=True
            ):
                written[place], types[place], formats[place] = one, kind, form
        return written, tuple(types), formats

    def _prepared(self, text: bytes, types: tuple[int, ...]) -> bytes | None:
        """The name of a prepared statement; it is prepared right before it is used so."""
        known = self._path, text, types
        name = self._names.get(known)
        if name is not None:
            return name
        threshold = self._threshold
        if threshold is None or (not self._together and self._uses[known] < threshold):
            if len(self._uses) < 4 * _PREPARED_MOST:
                self._uses[known] += 1
            return None
        if len(self._names) < _PREPARED_MOST:
            name = self._names[known] = b"sent_%d" % next(_NUMBERS)
            self._unsure.append(known)
            self._pgconn.send_prepare(name, text, types)
            self._waiting.append(Reply(self))
        return name

    def forget(self) -> None:
        """The server has forgotten the prepared statements."""
        self._names.clear()

    def loaded(self, result: pq.abc.PGresult) -> list[tuple[Any, ...]]:
        """The rows of an answer."""
        if result.status != _TUPLES:
            return []
        self._adapting.set_pgresult(result)
        return self._adapting.load_rows(0, result.ntuples, tuple)

    def made(self, result: pq.abc.PGresult, row: type[T]) -> list[T]:
        """The rows of an answer, each as a `row`, its columns given to the fields of their names.

        Columns that stand in the order of the fields are given by place, which takes half the time.
        """
        names = tuple((result.fname(at) or b"").decode() for at in range(result.nfields))
        rows = self.loaded(result)
        if names == getattr(row, "__match_args__", None):
            return [row(*one) for one in rows]
        return [row(**dict(zip(names, one, strict=True))) for one in rows]

    def go(self) -> None:
        """Let the server begin with what is there."""
        self._pgconn.flush()

    async def receive(self) -> None:
        """Send everything and read all answers. Raises what the first statement failed with."""
        self._pgconn.send_flush_request()
        await self._take()

    async def commit(self) -> None:
        """Commit and read all answers; nothing can be sent afterwards. Again, it does nothing."""
        if not self._ended:
            if any(reply.seen is not None for reply in self._waiting):
                await self.receive()
            self._ended = True
            reply = self.put("COMMIT")
            await self.end()
            self._path = ""
            check_committed(reply.result.command_status if reply.result else None)

    async def end(self) -> None:
        """As `receive`; afterwards the connection is as before `begin`."""
        self._waiting.append(Reply(self))
        try:
            await self._take(ends=True)
        finally:
            if not self._under_way:
                self._pgconn.exit_pipeline_mode()

    @asynccontextmanager
    async def paused(self) -> AsyncGenerator[None]:
        """The connection's own cursors can be used inside, for COPY."""
        await self.end()
        yield
        self._pgconn.enter_pipeline_mode()

    async def abandon(self) -> None:
        """Roll back, whatever was under way; afterwards the connection is as before `begin`.

        A connection that cannot roll back is closed, which is a rollback too.
        """
        if self._begins:
            self._forget_left()
            return
        self._forget_left()
        try:
            await self._roll_back()
        except psycopg.Error:
            await self._connection.close()
        except asyncio.CancelledError:
            await self._connection.close()
            raise

    def _forget_left(self) -> None:
        self._left.clear()
        self._begins, self._path = False, ""

    async def _roll_back(self) -> None:
        if self._under_way:
            raise errors.OperationalError("answers were interrupted")
        if self._pgconn.pipeline_status == pq.PipelineStatus.OFF:
            self.begin()
        waiting = len(self._waiting) + 3
        self._waiting.clear()
        found = await self._connection.wait(self._rolled_back(waiting))
        self._pgconn.exit_pipeline_mode()
        if found[-2][0].status in _FAILED:
            raise errors.OperationalError("the transaction could not be rolled back")

    async def _take(self, *, ends: bool = False) -> None:
        fault: Exception | None = None
        self._under_way = True
        found = await self._connection.wait(self._answers(len(self._waiting), ends=ends))
        self._under_way = False
        for [result] in found:
            reply = self._waiting.popleft()
            reply.result = result
            if fault is not None:
                continue
            if result.status in _FAILED:
                fault = self._fault(result, reply)
            elif reply.seen is not None:
                fault = reply.seen(self.loaded(result))
        if fault is not None:
            for key in self._unsure:
                self._names.pop(key, None)
        self._unsure.clear()
        if fault is not None:
            raise fault

    def _line(self) -> pq.abc.PGconn:
        """The line to the server, asked for when the turn has come to send on it."""
        return self._pgconn

    def _rolled_back(self, count: int) -> _Answers:
        pgconn = self._line()
        # The first ends what was skipped after a failure; the second carries out the rollback.
        pgconn.pipeline_sync()
        pgconn.send_query_params(b"ROLLBACK", None)
        return (yield from self._answers(count, ends=True))

    def _answers(self, count: int, *, ends: bool) -> _Answers:
        pgconn = self._line()
        if ends:
            # This sends at once, so it is done by whoever waits, like everything that is sent.
            pgconn.pipeline_sync()
        yield from generators.send(pgconn)
        found: list[list[pq.abc.PGresult]] = []
        for _ in range(count):
            found.append((yield from generators.fetch_many(pgconn)))  # noqa: PERF401 - a generator
        return found

    def _fault(self, result: pq.abc.PGresult, reply: Reply) -> Exception:
        if result.status == pq.ExecStatus.PIPELINE_ABORTED:
            return errors.InFailedSqlTransaction("a statement before this one failed")
        error = errors.error_from_result(result, encoding="utf-8")
        if isinstance(error, errors.InvalidSqlStatementName):
            self.forget()
        meaning = None if reply.failing is None else reply.failing(error)
        if meaning is None:
            return error
        meaning.__cause__ = error
        return meaning
