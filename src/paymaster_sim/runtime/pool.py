"""The pool of a simulated process, and the sessions that dead ones have left.

When a process dies, the server rolls back what it had open and ends its sessions. What is certain
to be quiet is rolled back here instead, and the session kept for the next process of that name:
otherwise the server would have to read its catalogue and plan every statement anew, which is a
tenth of what a run takes. To open it is a step like any other connecting.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg_pool import PoolTimeout

from paymaster.db import arrays
from paymaster.db.connections import Connection
from paymaster_sim.runtime.connection import SimConnection

if TYPE_CHECKING:
    from paymaster_sim.runtime.process import Process

_POOL_SECONDS = 5.0
_AGAIN_SECONDS = 0.5
_NO_LIMITS = " -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0"
"""What would happen at a moment of the machine's time."""


class Sessions:
    """What dead processes have left, by their names and the addresses."""

    def __init__(self) -> None:
        self._left: defaultdict[tuple[str, str], list[SimConnection]] = defaultdict(list)

    def leave(self, name: str, connections: list[SimConnection]) -> list[SimConnection]:
        """A process of this name has died with these; those that nobody can take over."""
        broken: list[SimConnection] = []
        for one in connections:
            heir = one.left_behind()
            if heir is None:
                broken.append(one)
            else:
                self._left[name, heir.address].append(heir)
        return broken

    def take(self, name: str, address: str) -> SimConnection | None:
        """The session there that was left last by a process of this name, if any."""
        left = self._left[name, address]
        return left.pop() if left else None

    def all(self) -> list[SimConnection]:
        """Everything that nobody has taken over; it is not kept here any more."""
        found = [one for left in self._left.values() for one in left]
        self._left.clear()
        return found


class SimPool:
    """Connections of one process to one server: what is free is given, oldest first."""

    def __init__(self, owner: Process, dsn: str, most: int, parameters: Mapping[str, Any]) -> None:
        self._owner = owner
        options = f"{parameters.get('options', '')}{_NO_LIMITS}"
        others = {k: v for k, v in parameters.items() if k not in ("autocommit", "options")}
        self._address = make_conninfo(dsn, **others, options=options)
        self._most = most
        self._free: deque[SimConnection] = deque()
        self._waiting: deque[asyncio.Future[SimConnection | None]] = deque()
        self._made = 0

    async def open(self) -> None:
        """Nothing is made before it is needed."""

    async def close(self) -> None:
        """Close what is free."""
        while self._free:
            await self._free.popleft().close()

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """A connection for as long as the block runs. Raises PoolTimeout."""
        taken = await self._take()
        try:
            yield taken
        finally:
            self._give_back(taken)

    async def _take(self) -> SimConnection:
        until = self._owner.turnstile.seconds + _POOL_SECONDS
        while True:
            if self._free:
                return self._free.pop()
            if self._made < self._most:
                self._made += 1
                try:
                    return await self._new()
                except psycopg.OperationalError:
                    self._free_place()
                    await asyncio.sleep(_AGAIN_SECONDS)
                except BaseException:
                    self._free_place()
                    raise
                if self._owner.turnstile.seconds < until:
                    continue
                raise PoolTimeout("no connection in time")
            given = await self._wait_until(until)
            if given is not None:
                return given

    async def _wait_until(self, until: float) -> SimConnection | None:
        """What somebody gives back; None when there is room for a new one."""
        place: asyncio.Future[SimConnection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout_at(until):
                return await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self._next(place.result())
            if isinstance(error, TimeoutError):
                raise PoolTimeout("no connection in time") from error
            raise
        finally:
            if place in self._waiting:
                self._waiting.remove(place)

    async def _new(self) -> SimConnection:
        made = await self._owner.turnstile.connecting(self._owner, self._opened)
        await arrays.configure(made)
        return made

    def _opened(self) -> SimConnection:
        """A session, without letting anybody else run. Raises OperationalError."""
        left = self._owner.turnstile.sessions.take(self._owner.name, self._address)
        if left is None:
            return SimConnection.made(self._address, self._owner)
        left.give_to(self._owner)
        return left

    def _give_back(self, connection: SimConnection) -> None:
        if connection.closed or connection.is_busy:
            if self._owner.alive:
                self._owner.turnstile.drop([connection])
            self._owner.connections.pop(connection, None)
            self._free_place()
        else:
            self._next(connection)

    def _free_place(self) -> None:
        self._made -= 1
        if self._waiting:
            self._next(None)

    def _next(self, connection: SimConnection | None) -> None:
        """Hand it to whoever has waited longest; None means that one can be made."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(connection)
                return
        if connection is not None:
            self._free.append(connection)
