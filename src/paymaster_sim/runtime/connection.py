"""Connections whose every round trip passes the turnstile, and the pool that hands them out."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Self, cast

import psycopg
from psycopg import AsyncCursor, errors, pq, waiting
from psycopg._preparing import PrepareManager
from psycopg.copy import AsyncLibpqWriter
from psycopg.generators import copy_end, copy_to
from psycopg.sql import Composable

from paymaster.db.connections import Connection
from paymaster.db.sending import Failing, Params, Reply, Seen, Sending
from paymaster_sim.runtime.deferred import Deferred
from paymaster_sim.runtime.errors import SimulationError
from paymaster_sim.runtime.passage import at_once

if TYPE_CHECKING:
    from paymaster_sim.runtime.process import Process

_CONNECT_SECONDS = 30.0
_READ_ONLY = " READ ONLY"
_QUIET = (
    pq.TransactionStatus.IDLE,
    pq.TransactionStatus.INTRANS,
    pq.TransactionStatus.INERROR,
)
_BEGINNING = 2
"""Statements that begin a transaction: they are not said."""


@lru_cache(maxsize=4096)
def _short(query: str) -> str:
    return " ".join(query.split())[:40]


def _text(query: object) -> str:
    if isinstance(query, bytes):
        return _short(query.decode())
    return _short(query if isinstance(query, str) else str(query))


class _SimSending(Sending):
    """Says what it sends, and lets nothing go before its turn has come."""

    def __init__(self, connection: SimConnection) -> None:
        super().__init__(connection)
        self._to = connection
        self._leads_to(self._pgconn)
        self._reads = False
        self._unsaid = 0

    def open(self, begin: str, path: str) -> None:
        self._reads = _READ_ONLY in begin
        super().open(begin, path)

    def begin(self, path: str | None = None) -> None:
        self._deferred.forget()
        self._unsaid = 0
        if self._begins:
            self._unsaid = _BEGINNING
            self._to.reads = self._reads
        elif self._to.pgconn.transaction_status == pq.TransactionStatus.IDLE:
            self._to.reads = False
        super().begin(path)

    def put(
        self,
        sql: str | Composable,
        params: Params = None,
        failing: Failing | None = None,
        seen: Seen | None = None,
    ) -> Reply:
        if self._unsaid:
            self._unsaid -= 1
        else:
            self._to.texts.append(_text(sql))
        return super().put(sql, params, failing, seen)

    async def receive(self) -> None:
        self._to.together = True
        await super().receive()

    async def commit(self) -> None:
        self._to.together = True
        await super().commit()

    async def _roll_back(self) -> None:
        self._to.texts.append("ROLLBACK")
        await super()._roll_back()

    def go(self) -> None:
        """Not before its turn has come."""

    def _leads_to(self, line: pq.abc.PGconn) -> None:
        self._deferred = Deferred(line)
        self._pgconn = cast("pq.abc.PGconn", self._deferred)

    def inherit(self, dead: _SimSending) -> None:
        """Go on with a session of which this knows what is prepared there.

        What was being prepared when its process died may be there or not; names are never given
        twice.
        """
        self._names = {known: n for known, n in dead._names.items() if known not in dead._unsure}
        self._uses = dead._uses
        dead._leads_to(pq.PGconn())

    def _line(self) -> pq.abc.PGconn:
        return self._deferred.opened()


class _SimCursor(AsyncCursor[Any]):
    """Says what it executes; a COPY sends all its lines at once."""

    async def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Self:
        connection = self.connection
        if isinstance(connection, SimConnection):
            connection.texts.append(_text(query))
            connection.asked_by = self
        return await super().execute(query, params, **kwargs)

    def copy(  # pyright: ignore[reportIncompatibleMethodOverride] - the same, from outside
        self, statement: Any, params: Any = None, **kwargs: Any
    ) -> AbstractAsyncContextManager[Any]:
        if isinstance(self.connection, SimConnection):
            self.connection.opens_copy = True
        kwargs.setdefault("writer", _AtOnce(self, statement))
        return super().copy(statement, params, **kwargs)

    def copied(self, result: Any) -> None:
        """A COPY has ended so."""
        self._results = [result]


class _AtOnce(AsyncLibpqWriter):
    """Keeps the lines until the end, so that the server works on none before their turn."""

    def __init__(self, cursor: _SimCursor, statement: object) -> None:
        super().__init__(cursor)
        self._from = cursor
        self._statement = statement
        self._pieces: list[bytes] = []

    async def write(self, data: Any) -> None:
        self._pieces.append(bytes(data))

    async def finish(self, exc: BaseException | None = None) -> None:
        reason = None if exc is None else b"ended by the program"
        if isinstance(self.connection, SimConnection):
            self.connection.texts.append(_text(self._statement))
        try:
            result = await self.connection.wait(_copied(self._pgconn, self._pieces, reason))
        except errors.QueryCanceled:
            if reason is None:
                raise
        else:
            self._from.copied(result)


def _copied(
    pgconn: pq.abc.PGconn, pieces: list[bytes], reason: bytes | None
) -> Generator[Any, Any, Any]:
    for piece in pieces if reason is None else ():
        yield from copy_to(pgconn, piece, flush=False)
    return (yield from copy_end(pgconn, reason))


class SimConnection(Connection):
    """A connection of a simulated process."""

    def __init__(self, pgconn: Any, row_factory: Any = None) -> None:
        super().__init__(pgconn, *(() if row_factory is None else (row_factory,)))
        self.cursor_factory = _SimCursor
        # Its tables are small, and most connections do not live to use a statement often.
        self.prepare_threshold = 0
        self.owner: Process | None = None
        self.texts: list[str] = []
        self.asked_by: AsyncCursor[Any] | None = None
        self.opens_copy = False
        self.together = False
        """Whether several callers wait for what is sent."""
        self.reads = False
        """Whether the transaction is one that only reads."""
        self.server_pid = pgconn.backend_pid
        self.address = ""

    @cached_property
    def sending(self) -> Sending:
        """Sends statements of a transaction together."""
        return self.session

    @cached_property
    def session(self) -> _SimSending:
        """The same."""
        return _SimSending(self)

    @classmethod
    def made(cls, conninfo: str, owner: Process) -> SimConnection:
        """A new one, waited for in place."""
        making = cls._connect_gen(conninfo)
        made = waiting.wait_conn(making, interval=0.1, timeout=_CONNECT_SECONDS)
        made._autocommit = True  # noqa: SLF001 - as the driver's own `connect` does
        made.address = conninfo
        made.give_to(owner)
        return made

    def give_to(self, owner: Process) -> None:
        """It is this process's."""
        self.owner = owner
        owner.connections[self] = None

    @property
    def process(self) -> Process:
        """Whose it is."""
        if self.owner is None:
            raise SimulationError("A connection without a process is used.")
        return self.owner

    async def wait(
        self,
        gen: Any,
        interval: float = 0.0,
        timeout: float | None = None,  # noqa: ASYNC109 - the driver's signature
    ) -> Any:
        """Pass the turnstile; see the driver's own."""
        _ = interval, timeout
        texts, self.texts = self.texts, []
        asked_by, self.asked_by = self.asked_by, None
        opens_copy, self.opens_copy = self.opens_copy, False
        together, self.together = self.together, False
        if not texts and not opens_copy and self.process.goes_on:
            # The beginning of a transaction: it sees and holds nothing yet.
            return at_once(self, gen)
        if (opens_copy or self.has_only_read) and self._is_inside():
            return at_once(self, gen)
        turnstile = self.process.turnstile
        return await turnstile.statement(self, gen, texts, asked_by, together=together)

    def _is_inside(self) -> bool:
        """Whether it is in a transaction that has begun, of a process that can go on.

        Then what reads from the snapshot that was taken is no step: nobody can notice it, nor can
        it notice anybody; neither can its COMMIT. Nor is the beginning of a COPY one, whose rows
        all come with its end.
        """
        inside = self.pgconn.transaction_status == pq.TransactionStatus.INTRANS
        return inside and self.process.goes_on

    @property
    def has_only_read(self) -> bool:
        """Whether a transaction is open that can have written nothing."""
        open_ = self.pgconn.transaction_status == pq.TransactionStatus.INTRANS
        return self.reads and open_ and self.process.alive

    def pipeline(self) -> AbstractAsyncContextManager[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One by one: what is sent without waiting would be carried out before its turn."""
        return nullcontext()

    async def close(self) -> None:
        """Close it, and wait until the server has noticed.

        What the dead had open is closed already, or waits for a lock and is out of their reach.
        """
        if not self.closed and self.process.alive:
            self.process.turnstile.drop([self])

    @property
    def is_busy(self) -> bool:
        """Whether a transaction may be open; of one that is sent together little is known."""
        return (
            self.pgconn.transaction_status != pq.TransactionStatus.IDLE
            or self.pgconn.pipeline_status != pq.PipelineStatus.OFF
        )

    def cut(self) -> None:
        """Break the line; what was not sent yet is lost."""
        if self.pgconn.status != pq.ConnStatus.OK:
            return
        with suppress(OSError, psycopg.Error), socket.socket(fileno=self.pgconn.socket) as line:
            try:
                line.shutdown(socket.SHUT_RDWR)
            finally:
                line.detach()

    def give_up(self) -> None:
        """Let go of what is left here of a connection that was cut."""
        self._closed = True
        self.pgconn.finish()

    def left_behind(self) -> SimConnection | None:
        """Its process has died: the same session, rolled back, for the next one of its name.

        None when a statement is under way: then the connection is to be dropped. This one is closed
        for whoever still holds it.
        """
        line = self.pgconn
        if self.closed or line.transaction_status not in _QUIET:
            return None
        try:
            line.exit_pipeline_mode()
            if line.exec_(b"ROLLBACK").status != pq.ExecStatus.COMMAND_OK:
                return None
        except psycopg.Error:
            return None
        heir = SimConnection(line)
        heir._autocommit = True
        heir._prepared = self._prepared
        self._prepared = PrepareManager()
        heir.session.inherit(self.session)
        heir.address = self.address
        self._closed = True
        self.pgconn = pq.PGconn()
        return heir
