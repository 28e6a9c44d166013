"""Worker numbers: what makes the ids of two processes differ.

A process leases one of 64 rows per schema. The row stores how far ids may already have been issued
(`last_ms`), always ahead of what was. Whoever takes the number next starts beyond it, so a process
that was stopped past its lease and goes on can never make an id a second time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, LiteralString

from paymaster.kernel.clock import Clock, milliseconds
from paymaster.kernel.errors import Broken, Busy
from paymaster.kernel.ids import IdMaker
from paymaster.kernel.sources import SOURCES

if TYPE_CHECKING:
    from paymaster.db.pool import Server

_AHEAD = timedelta(seconds=60)
_RENEW = timedelta(seconds=20)
_WRITE: LiteralString = "BEGIN ISOLATION LEVEL READ COMMITTED"


def holder() -> str:
    """Names this process in lease rows."""
    return SOURCES.get().process_name()


class WorkerIds:
    """The id maker of this process in one schema, with its leased number."""

    def __init__(self, server: Server, schema: str, clock: Clock) -> None:
        self._server = server
        self._schema = schema
        self._clock = clock
        self._lock = asyncio.Lock()
        self._maker: IdMaker | None = None
        self._number = self._token = 0
        self._renew_at: datetime | None = None

    async def maker(self) -> Callable[[int], list[int]]:
        """Makes ids; the lease is taken or prolonged here, outside any other transaction."""
        now = self._clock.now()
        if self._renew_at is None or now >= self._renew_at:
            async with self._lock:
                if self._renew_at is None or now >= self._renew_at:
                    await self._lease(now)
        if self._maker is None:
            raise Broken("id-lease", "No worker number was leased.")
        return self._maker.next

    async def _lease(self, now: datetime) -> None:
        until = now + _AHEAD
        limit = milliseconds(until)
        if self._maker is not None:
            limit = max(limit, self._maker.last_ms + 1000)
        async with self._server.transaction(self._schema, _WRITE) as connection:
            cursor = await connection.execute(
                """
                UPDATE worker SET last_ms = greatest(last_ms, %(limit)s), expires_at = %(until)s
                WHERE number = %(number)s AND token = %(token)s AND expires_at > %(now)s
                RETURNING last_ms
                """,
                {
                    "limit": limit,
                    "until": until,
                    "number": self._number,
                    "token": self._token,
                    "now": now,
                },
            )
            renewed = await cursor.fetchone() if self._maker is not None else None
            if renewed is None:
                # Of the free numbers the one used least recently: its ids start nearest to now.
                cursor = await connection.execute(
                    """
                    WITH free AS (
                        SELECT number, last_ms AS issued FROM worker WHERE expires_at <= %(now)s
                        ORDER BY last_ms, number LIMIT 1 FOR UPDATE SKIP LOCKED
                    )
                    UPDATE worker w SET holder = %(holder)s, token = w.token + 1,
                        last_ms = greatest(w.last_ms, %(limit)s), expires_at = %(until)s
                    FROM free WHERE w.number = free.number
                    RETURNING w.number, w.token, free.issued, w.last_ms
                    """,
                    {"now": now, "holder": holder(), "limit": limit, "until": until},
                )
                taken = await cursor.fetchone()
                if taken is None:
                    raise Busy("workers-exhausted", "All 64 worker numbers of the cell are in use.")
                self._number, self._token, issued, granted = taken
                maker = IdMaker(self._number, issued, lambda: milliseconds(self._clock.now()))
                granted = max(granted, maker.last_ms + 1000)
                self._maker = maker
            else:
                granted = renewed[0]
        if self._maker is not None:
            self._maker.limit_ms = granted
        self._renew_at = now + _RENEW
