"""Worker numbers: what makes the ids of two processes differ.

A process leases one of 64 rows per schema. The row stores how far ids may already have been issued
(`last_ms`), always ahead of what was. Whoever takes the number next starts beyond it, so a process
that was stopped past its lease and goes on can never make an id a second time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, LiteralString, cast

from paymaster.kernel.clock import Clock, milliseconds
from paymaster.kernel.errors import Broken, Busy
from paymaster.kernel.ids import IdMaker
from paymaster.kernel.sources import SOURCES

if TYPE_CHECKING:
    from paymaster.db.pool import Server

_AHEAD = timedelta(seconds=60)
_RENEW = timedelta(seconds=20)
_LEASE: LiteralString = """
    WITH own AS (
        UPDATE "{schema}".worker SET last_ms = greatest(last_ms, %(limit)s), expires_at = %(until)s
        WHERE number = %(number)s AND token = %(token)s AND expires_at > %(now)s
        RETURNING number, token, last_ms AS issued, last_ms
    ), free AS (
        SELECT number, last_ms AS issued FROM "{schema}".worker
        WHERE expires_at <= %(now)s AND NOT EXISTS (SELECT FROM own)
        ORDER BY last_ms, number LIMIT 1 FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE "{schema}".worker w SET holder = %(holder)s, token = w.token + 1,
            last_ms = greatest(w.last_ms, %(limit)s), expires_at = %(until)s
        FROM free WHERE w.number = free.number
        RETURNING w.number, w.token, free.issued, w.last_ms
    )
    SELECT * FROM own UNION ALL SELECT * FROM taken
"""
"""Our own number once more, or of the free ones the one used least recently: its ids start nearest
to now."""


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
        rows = await self._server.alone(
            cast("LiteralString", _LEASE.format(schema=self._schema)),
            {
                "limit": limit,
                "until": until,
                "number": self._number,
                "token": self._token,
                "now": now,
                "holder": holder(),
            },
        )
        if not rows:
            raise Busy("workers-exhausted", "All 64 worker numbers of the cell are in use.")
        [(number, token, issued, granted)] = rows
        if self._maker is None or (number, token) != (self._number, self._token):
            self._number, self._token = number, token
            self._maker = IdMaker(number, issued, lambda: milliseconds(self._clock.now()))
            granted = max(granted, self._maker.last_ms + 1000)
        self._maker.limit_ms = granted
        self._renew_at = now + _RENEW
