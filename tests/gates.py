"""The order of two transactions, forced: the first one stops right before its COMMIT.

Every writing transaction ends by moving `head` on. Whoever holds that row keeps it from ending,
with everything that it has locked and written; the second one then meets exactly that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
import pytest
from tests.world import World

T = TypeVar("T")
U = TypeVar("U")
Send = Callable[[], Awaitable[Any]]
ORDERS = pytest.mark.parametrize("turned", [False, True], ids=["first", "second"])
_LOOKS = 2000


class Gate:
    """The row is held by a connection of its own; another one looks who waits.

    Within one transaction PostgreSQL shows the connections as they were at the first look.
    """

    def __init__(
        self, holder: psycopg.AsyncConnection[Any], watcher: psycopg.AsyncConnection[Any]
    ) -> None:
        self._holder = holder
        self._watcher = watcher

    async def waiting(self, count: int) -> None:
        """Until so many transactions wait for a lock."""
        for _ in range(_LOOKS):
            cursor = await self._watcher.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            row = await cursor.fetchone()
            if row is not None and row[0] >= count:
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"{count} transactions should wait for a lock by now")

    async def open(self) -> None:
        """Let them end."""
        await self._holder.rollback()


@asynccontextmanager
async def closed(world: World, cell: int = 1) -> AsyncIterator[Gate]:
    """No transaction of the cell ends inside, until the gate is opened."""
    connect = psycopg.AsyncConnection.connect
    async with (
        await connect(world.owner_dsn) as holder,
        await connect(world.owner_dsn, autocommit=True) as watcher,
    ):
        await holder.execute(f"SELECT seq FROM cell_{cell}.head WHERE id = 1 FOR UPDATE".encode())
        yield Gate(holder, watcher)
        await holder.rollback()


async def one_after_the_other(
    world: World,
    first: Callable[[], Awaitable[T]],
    second: Callable[[], Awaitable[U]],
    *,
    waits: bool = True,
) -> tuple[T, U]:
    """Both at once; the second one begins when the first has done all but its COMMIT.

    `waits` is False where the second one does not wait for what is locked but passes it by.
    """
    async with closed(world) as gate:
        one = asyncio.ensure_future(first())
        await gate.waiting(1)
        other = asyncio.ensure_future(second())
        if waits:
            await gate.waiting(2)
        else:
            await asyncio.wait([other])
        assert not one.done()
        await gate.open()
        return await one, await other


async def both(world: World, works: Sequence[Send], *, turned: bool, waits: bool = True) -> Any:
    """The answers in the order of `works`, whichever came first."""
    first, second = works[::-1] if turned else works
    done = await one_after_the_other(world, first, second, waits=waits)
    return done[::-1] if turned else done
