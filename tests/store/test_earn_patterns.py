"""Patterns are judged over the events themselves: whatever came before, in whatever batch."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.earning import Earning, earning_world, event
from tests.world import PostgresServer, owner_rows

from paymaster.earn import ingest, record
from paymaster.earn.event import EventOutcome, Status
from paymaster.earn.record import FIRST, How

THREE = {"kind": "count", "event": "opened", "count": 3}
Record = Callable[..., Awaitable[list[EventOutcome]]]


@pytest.fixture
async def earning(postgres: PostgresServer) -> AsyncIterator[Earning]:
    async with earning_world(postgres) as made:
        yield made


async def patterns(e: Earning, *names: str) -> None:
    """Funded tasks, and users u1 to u3."""
    camp = await e.put_campaign()
    for name in names:
        await e.put_task(THREE, name)
    await e.fund(camp.number, "1.00")
    await e.add_users("u1", "u2", "u3")


def opened(number: int, user: str = "u1", **rest: Any) -> dict[str, Any]:
    return event(number, user, type=rest.pop("type", "opened"), **rest)


async def statuses(e: Earning, *lines: dict[str, Any]) -> list[Status]:
    return [one.status for one in await e.send(*lines)]


async def test_steps_of_earlier_batches_count_once_each(earning: Earning):
    await patterns(earning, "task")
    assert await statuses(earning, opened(1), opened(2, type="closed")) == [Status.RECORDED] * 2
    again = await statuses(earning, opened(1), opened(2, type="closed"), opened(3))
    assert again == [Status.DUPLICATE, Status.DUPLICATE, Status.RECORDED]
    assert await statuses(earning, opened(4)) == [Status.REWARDED]
    assert await statuses(earning, opened(5)) == [Status.RECORDED]
    assert owner_rows(earning.world, "SELECT count(*) FROM progress") == [(0,)]
    await earning.prove()


async def test_steps_belong_to_one_task_and_one_user(earning: Earning):
    await patterns(earning, "task", "other")
    lines = [opened(1), opened(2, task="other"), opened(3, "u2"), opened(4, task="other")]
    assert await statuses(earning, *lines) == [Status.RECORDED] * 4
    assert await statuses(earning, opened(5), opened(6, "u2")) == [Status.RECORDED] * 2
    assert await statuses(earning, opened(7, task="other")) == [Status.REWARDED]
    assert await statuses(earning, opened(8)) == [Status.REWARDED]
    await earning.prove()


async def test_what_was_no_step_when_it_came_never_becomes_one(earning: Earning):
    await patterns(earning, "task")
    lines = [opened(1), opened(2), opened(3, type="closed"), opened(4, type="closed")]
    assert await statuses(earning, *lines) == [Status.RECORDED] * 4
    await earning.put_task(THREE | {"event": "closed"}, "task")
    lines = [opened(5), opened(6, type="closed"), opened(7, type="closed")]
    assert await statuses(earning, *lines) == [Status.RECORDED] * 3
    assert await statuses(earning, opened(8, type="closed")) == [Status.REWARDED]
    await earning.prove()


@pytest.mark.parametrize("careful", [False, True])
async def test_patterns_come_out_right_from_any_cut_into_batches(
    earning: Earning, monkeypatch: pytest.MonkeyPatch, careful: bool
):
    """Careful is the way that is taken when another batch wrote one of the events meanwhile."""
    monkeypatch.setattr(ingest, "FIRST", FIRST._replace(careful=careful))
    names = [f"task{number}" for number in range(6)]
    await patterns(earning, *names)
    rnd = random.Random(7)
    lines = [
        opened(number, rnd.choice(("u1", "u2", "u3")), task=rnd.choice(names))
        for number in range(60)
    ]
    lines += rnd.sample(lines, 20)
    seen: dict[tuple[str, str], set[str]] = {}
    place = 0
    while place < len(lines):
        some = lines[place : place + rnd.randrange(1, 9)]
        place += len(some)
        wanted: dict[tuple[str, str], set[str]] = {}
        repeats: list[bool] = []
        for line in some:
            pair = line["user"], line["task"]
            repeats.append(line["event_id"] in seen.get(pair, set()) | wanted.get(pair, set()))
            wanted.setdefault(pair, set()).add(line["event_id"])
        found = await earning.send(*some)
        assert [one.status is Status.DUPLICATE for one in found] == repeats
        for pair, ids in wanted.items():
            before, after = len(seen.get(pair, set())), len(seen.get(pair, set()) | ids)
            rewarded = [
                one.status
                for one, line in zip(found, some, strict=True)
                if (line["user"], line["task"]) == pair and one.status is Status.REWARDED
            ]
            assert len(rewarded) == (before < 3 <= after)
            seen.setdefault(pair, set()).update(ids)
    await earning.prove()


async def test_a_batch_run_again_counts_its_steps_once(
    earning: Earning, monkeypatch: pytest.MonkeyPatch
):
    """What another batch took in between the look and the write is a duplicate, not a step."""
    await patterns(earning, "task")
    assert await statuses(earning, opened(1)) == [Status.RECORDED]
    original, ways = record.record, list[How]()

    async def blind(*args: Any, **more: Any) -> list[EventOutcome]:
        ways.append(more["how"])
        if not more["how"].careful:
            monkeypatch.setattr(record.store, "known_events", _none)
        else:
            monkeypatch.setattr(record.store, "known_events", known)
        return await original(*args, **more)

    known = record.store.known_events
    monkeypatch.setattr(ingest, "record", blind)
    assert await statuses(earning, opened(1), opened(2)) == [Status.DUPLICATE, Status.RECORDED]
    assert [how.careful for how in ways] == [False, True]
    assert await statuses(earning, opened(3)) == [Status.REWARDED]
    await earning.prove()


async def _none(*_: object) -> dict[tuple[str, str], bytes]:
    return {}
