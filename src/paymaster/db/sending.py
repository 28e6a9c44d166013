"""A transaction whose statements are sent together and answered together.

The way to the server and back, and what the driver does around it, cost more than most statements
of a batch take. Here a statement is written into the connection's buffer, and nothing is waited for
until somebody reads an answer: then everything goes out, in order, and all answers come in. The
server carries the statements out one after the other, each on a snapshot of its own, exactly as if
they had come one by one; after the first that fails it carries out none. That is the pipeline mode
of PostgreSQL's protocol, without the driver's cursors: statements are prepared when they are first
met, and parameters adapted by `arrays` or by the driver.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, TypeVar, cast

import psycopg
from psycopg import AsyncConnection, errors, generators, pq
from psycopg.adapt import PyFormat, Transformer

from paymaster.db import arrays
from paymaster.kernel.errors import Broken

T = TypeVar("T")

_PREPARED_MOST: Final = 500
"""Statements that one connection keeps prepared."""

_PLACE = re.compile(r"%(?:(%)|s|\((\w+)\)s)")
_FAILED = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED)
_TUPLES = pq.ExecStatus.TUPLES_OK

Failing = Callable[[psycopg.Error], Exception | None]
"""What a statement's failure means; None where it means no more than it says."""

Seen = Callable[[list[tuple[Any, ...]]], Exception | None]
"""Looks at the rows as they come: what is wrong with them, if something is."""

_Answers = Generator[Any, Any, list[list[pq.abc.PGresult]]]

Params = Sequence[Any] | dict[str, Any] | None


def check_committed(status: str | bytes | None) -> None:
    """A COMMIT after a failure that somebody swallowed is a ROLLBACK, and no error to the server.

    Raises Broken `commit-rolled-back`.
    """
    if status not in ("COMMIT", b"COMMIT"):
        raise Broken("commit-rolled-back", "The server rolled back what was to be committed.")


class _Query(NamedTuple):
    """A statement as the server reads it, and the names of its parameters, if they have names."""

    text: bytes
    names: tuple[str, ...] | None


_queries: dict[str, _Query] = {}


def _query(sql: str) -> _Query:
    found = _queries.get(sql)
    if found is None:
        names: list[str] = []
        count = 0

        def place(match: re.Match[str]) -> str:
            nonlocal count
            if match[1]:
                return "%"
            if match[2] is None:
                count += 1
                return f"${count}"
            if match[2] not in names:
                names.append(match[2])
            return f"${names.index(match[2]) + 1}"

        text = _PLACE.sub(place, sql)
        found = _queries[sql] = _Query(text.encode(), tuple(names) if names else None)
    return found


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
        names = [(result.fname(at) or b"").decode() for at in range(result.nfields)]
        rows = self._sending.loaded(result)
        return [row(**dict(zip(names, one, strict=True))) for one in rows]

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
    """What is under way on one connection. `begin` to `end` or `abandon` is one transaction."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._adapting = Transformer(connection)
        self._names: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        self._made = 0
        self._unsure: list[tuple[bytes, tuple[int, ...]]] = []
        self._waiting: deque[Reply] = deque()
        self._under_way = self._ended = False

    def begin(self) -> None:
        """From here on statements are sent; the connection's own cursors cannot be used."""
        self._ended = False
        self._pgconn.enter_pipeline_mode()

    def put(
        self,
        sql: str,
        params: Params = None,
        failing: Failing | None = None,
        seen: Seen | None = None,
    ) -> Reply:
        """Leave a statement to be sent with the next that is waited for.

        Raises DataError for parameters that cannot be written.
        """
        if params is None:
            query, values = _Query(sql.encode(), None), ()
        else:
            query = _query(sql)
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
        """The name of a prepared statement; it is prepared right before it is first used."""
        name = self._names.get((text, types))
        if name is None and len(self._names) < _PREPARED_MOST:
            self._made += 1
            name = self._names[text, types] = b"sent_%d" % self._made
            self._unsure.append((text, types))
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
            check_committed(reply.result.command_status if reply.result else None)

    async def end(self) -> None:
        """As `receive`; afterwards the connection is as before `begin`."""
        self._waiting.append(Reply(self))
        await self._take(ends=True)
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
        try:
            await self._roll_back()
        except psycopg.Error:
            await self._connection.close()
        except asyncio.CancelledError:
            await self._connection.close()
            raise

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
