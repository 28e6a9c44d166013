"""Rate limits shared by processes: what they admit together, and that nobody is counted twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from tests.world import ACTOR, PostgresServer, World, make_world, owner_rows

from paymaster.api.limiter import Limiter, Shared
from paymaster.db import limits
from paymaster.db.limits import Charge
from paymaster.kernel.errors import Busy, RateLimited

LIMIT = 200
SLACK = 2 * LIMIT // 50
"""What one process may admit more: two fiftieths."""


@pytest.fixture
async def world(postgres: PostgresServer):
    async with make_world(postgres, moves=[]) as made:
        yield made


@dataclass
class Process:
    """What one api process has: its own counting, one shared table. Its time stands still."""

    shared: Shared
    limiter: Limiter[int]
    admitted: int = 0
    told: dict[str, Any] = field(default_factory=dict)

    async def ask(self, times: int, subject: int = 1) -> None:
        for _ in range(times):
            try:
                await self.limiter.admit(subject, self.told)
            except RateLimited:
                continue
            self.admitted += 1


@asynccontextmanager
async def processes(world: World, count: int, limit: int = LIMIT) -> AsyncIterator[list[Process]]:
    made: list[Process] = []
    for _ in range(count):
        shared = Shared(world.dbs, seconds=lambda: 0.0)
        made.append(Process(shared, Limiter("key", limit, shared, lambda: 0.0)))
    yield made
    for one in made:
        await one.shared.close()


async def charge(world: World, admitted: int, subject: str = "1", limit: int = LIMIT) -> float:
    async def work(tx):
        return await limits.charge(tx, [Charge("key", subject, limit, admitted)])

    return (await world.dbs.control.run(ACTOR, "", work))["key", subject]


async def test_a_bucket_is_emptied_and_fills_again(world: World) -> None:
    assert await charge(world, 150) == 50
    assert await charge(world, 60) == -10
    world.clock.advance(timedelta(seconds=30))
    assert await charge(world, 0) == 90
    world.clock.advance(timedelta(hours=1))
    assert await charge(world, 0) == LIMIT


async def test_a_limit_that_is_raised_counts_at_once(world: World) -> None:
    assert await charge(world, 150) == 50
    world.clock.advance(timedelta(seconds=60))
    assert await charge(world, 0, limit=1000) == 1000


@pytest.mark.parametrize("count", [1, 4])
async def test_processes_admit_together_what_is_allowed(world: World, count: int) -> None:
    async with processes(world, count) as several:
        await asyncio.gather(*(one.ask(LIMIT) for one in several for _ in range(4)))
        total = sum(one.admitted for one in several)
        assert LIMIT <= total <= LIMIT + (count - 1) * SLACK
        for one in several:
            await one.shared.settled()
        assert await charge(world, 0) == LIMIT - total


async def test_one_caller_after_another_in_two_processes(world: World) -> None:
    async with processes(world, 2) as (first, second):
        await first.ask(LIMIT)
        await first.shared.settled()
        await second.ask(LIMIT)
        await second.shared.settled()
        assert first.admitted == LIMIT
        assert second.admitted <= SLACK
        before = second.admitted
        await second.ask(LIMIT)
        assert second.admitted == before


async def test_callers_do_not_share_a_bucket(world: World) -> None:
    async with processes(world, 1) as [one]:
        await one.ask(LIMIT, 1)
        await one.ask(LIMIT, 2)
        assert one.admitted == 2 * LIMIT


async def test_a_burst_in_one_turn_of_the_loop_waits_instead_of_failing(world: World) -> None:
    async with processes(world, 1) as [one]:
        await asyncio.gather(*(one.ask(1) for _ in range(LIMIT)))
        assert one.admitted == LIMIT


async def test_the_answer_says_how_much_is_left(world: World) -> None:
    async with processes(world, 1) as [one]:
        await one.ask(1)
        assert one.told["rate_limit"] == (b'"key";q=200;w=60', b'"key";r=199;t=0')
        await one.ask(LIMIT)
        assert one.told["rate_limit"] == (b'"key";q=200;w=60', b'"key";r=0;t=60')
        with pytest.raises(RateLimited, match="rate-limited") as refusal:
            await one.limiter.admit(1, one.told)
        assert refusal.value.retry_after_seconds == 1


async def test_the_smallest_limit(world: World) -> None:
    async with processes(world, 2, limit=1) as several:
        for one in several:
            await one.ask(10)
            await one.shared.settled()
        assert [one.admitted for one in several] == [1, 1]
        assert await charge(world, 0, limit=1) == -1


async def test_without_the_directory_each_counts_for_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(*_: Any, **__: Any) -> None:
        raise Busy("database-unavailable", "gone")

    monkeypatch.setattr(world.dbs.control, "run", unreachable)
    async with processes(world, 2) as several:
        await asyncio.gather(*(one.ask(2 * LIMIT) for one in several))
        assert [one.admitted for one in several] == [LIMIT, LIMIT]


async def test_nothing_is_written_while_nothing_is_asked(world: World) -> None:
    async with processes(world, 1) as [one]:
        await one.ask(1)
        await one.shared.settled()
        before = owner_rows(world, "SELECT xmin::text FROM control.rate_bucket")
        await asyncio.sleep(0.4)
        assert owner_rows(world, "SELECT xmin::text FROM control.rate_bucket") == before


async def test_full_buckets_go(world: World) -> None:
    await charge(world, 10, "1")
    await charge(world, 10 * LIMIT, "2")
    world.clock.advance(timedelta(minutes=3))
    await charge(world, 1, "3")
    assert await world.dbs.control.run(ACTOR, "", lambda tx: limits.sweep(tx, 100)) == 1
    left = owner_rows(world, "SELECT subject FROM control.rate_bucket ORDER BY 1")
    assert left == [("2",), ("3",)]
