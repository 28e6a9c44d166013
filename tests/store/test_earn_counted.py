"""How much counts is kept with the state of a task: it decides, and agrees with the events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import psycopg
import pytest
from tests.earning import Earning, earning_world, event
from tests.world import PostgresServer, owner_rows

from paymaster.earn import ingest
from paymaster.earn.event import Status
from paymaster.earn.record import FIRST

THREE = {"kind": "count", "event": "opened", "count": 3}
RECORDED, REWARDED, DUPLICATE = Status.RECORDED, Status.REWARDED, Status.DUPLICATE


@pytest.fixture
async def earning(postgres: PostgresServer) -> AsyncIterator[Earning]:
    async with earning_world(postgres) as made:
        camp = await made.put_campaign()
        await made.put_task(THREE, "task")
        await made.fund(camp.number, "1.00")
        await made.add_users("u1", "u2", "u3")
        yield made


def opened(number: int, user: str = "u1", **rest: Any) -> dict[str, Any]:
    return event(number, user, type=rest.pop("type", "opened"), **rest)


async def statuses(e: Earning, *lines: dict[str, Any]) -> list[Status]:
    return [one.status for one in await e.send(*lines)]


def counted(e: Earning) -> list[tuple[Any, ...]]:
    return owner_rows(e.world, "SELECT counted, counted_type FROM task_state ORDER BY user_id")


@pytest.mark.parametrize("careful", [False, True])
async def test_it_is_exact_on_each_way(
    earning: Earning, monkeypatch: pytest.MonkeyPatch, careful: bool
):
    monkeypatch.setattr(ingest, "FIRST", FIRST._replace(careful=careful))
    assert await statuses(earning, opened(1), opened(2, "u2"), opened(3)) == [RECORDED] * 3
    assert counted(earning) == [(2, "opened"), (1, "opened")]
    found = await statuses(earning, opened(1), opened(2, "u2"), opened(4), opened(5, "u2"))
    assert found == [DUPLICATE, DUPLICATE, REWARDED, RECORDED]
    assert await statuses(earning, opened(6), opened(7)) == [RECORDED] * 2
    assert counted(earning) == [(5, "opened"), (2, "opened")]
    await earning.prove()


async def test_where_few_of_the_events_count_it_is_exact_as_well(earning: Earning):
    """Then the states are locked first, and what counts is written with their moves."""
    await earning.put_task({"kind": "gold"}, "gold")
    await earning.put_task({"kind": "review"}, "review")

    def mixed(first: int) -> list[dict[str, Any]]:
        others = [
            event(first + place, user, task="review", type="submitted")
            for place, user in enumerate(("u1", "u2", "u3"))
        ]
        return [*others, opened(first + 3), opened(first + 4, type="started", user="u2")]

    for first, last in ((1, RECORDED), (11, RECORDED), (21, REWARDED)):
        found = await statuses(earning, *mixed(first))
        assert found == [RECORDED] * 3 + [last, RECORDED]
    rows = owner_rows(
        earning.world, "SELECT counted, counted_type, state FROM task_state WHERE counted > 0"
    )
    assert rows == [(3, "opened", "rewarded")]
    await earning.prove()


async def test_a_first_event_that_leads_elsewhere_than_guessed(earning: Earning):
    lines = [opened(1, type="started"), opened(2), opened(3), opened(4)]
    assert await statuses(earning, *lines) == [RECORDED] * 3 + [REWARDED]
    assert await statuses(earning, opened(5, "u2", type="started")) == [RECORDED]
    rows = owner_rows(earning.world, "SELECT state, number FROM task_state ORDER BY user_id")
    assert rows == [("rewarded", 3), ("started", 1)]
    await earning.prove()


async def test_what_counted_under_another_rule_is_looked_at(earning: Earning):
    """Two kinds of events count, of which the rule now wants only one."""
    assert await statuses(earning, opened(1), opened(2)) == [RECORDED] * 2
    await earning.put_task(THREE | {"event": "closed"}, "task")
    lines = [opened(3, type="closed"), opened(4, type="closed")]
    assert await statuses(earning, *lines) == [RECORDED] * 2
    assert counted(earning) == [(4, "")]
    await earning.put_task(THREE, "task")
    assert await statuses(earning, opened(5)) == [REWARDED]
    await earning.prove()


async def test_a_first_step_that_counts_is_not_taken_for_one_of_the_rule(earning: Earning):
    await earning.put_task(THREE | {"after": "installed"}, "task")
    lines = [opened(1, type="installed"), opened(2), opened(3)]
    assert await statuses(earning, *lines) == [RECORDED] * 3
    assert counted(earning) == [(3, "")]
    await earning.put_task(THREE, "task")
    assert await statuses(earning, opened(4, type="installed")) == [RECORDED]
    assert await statuses(earning, opened(5)) == [REWARDED]
    await earning.prove()


async def test_a_rule_that_is_given_a_window_later_looks_at_times(earning: Earning):
    early = opened(1, occurred_at="2026-11-20T08:00:00Z")
    late = [opened(n, occurred_at=f"2026-11-20T09:0{n}:00Z") for n in (2, 3, 4)]
    assert await statuses(earning, early, late[0]) == [RECORDED] * 2
    await earning.put_task(THREE | {"within_seconds": 600}, "task")
    assert await statuses(earning, late[1]) == [RECORDED]
    assert await statuses(earning, late[2]) == [REWARDED]
    await earning.prove()


async def test_the_migration_counts_what_is_there(earning: Earning):
    assert await statuses(earning, opened(1), opened(2), opened(3, "u2")) == [RECORDED] * 3
    await earning.put_task(THREE | {"event": "closed"}, "task")
    assert await statuses(earning, opened(4, "u2", type="closed")) == [RECORDED]
    before = counted(earning)
    text = (resources.files("paymaster.db") / "migrations/0045_counted.sql").read_text()
    [update] = [one for one in text.split(";") if one.lstrip().startswith("UPDATE")]
    async with await psycopg.AsyncConnection.connect(earning.world.owner_dsn) as owner:
        await owner.execute("SET LOCAL search_path TO cell_1")
        await owner.execute("UPDATE task_state SET counted = 0, counted_type = ''")
        await owner.execute(update.encode())
    assert counted(earning) == before == [(2, "opened"), (2, "")]
    await earning.prove()


async def test_words_and_moments_are_stored_as_they_came(earning: Earning):
    """Whatever COPY's formats might take for something else."""
    names = ["a\\b", 'quoted "x"', "{1,2}", "\u00e9\u4e2d\U0001f600", "\\N", "tab\\t"]
    said = {"text": "line\nbreak\ttab \\ \u4e2d", "number": 1.5, "none": None, "yes": True}
    at = "2026-11-19T23:59:59.999999Z"
    lines = [{**opened(0), "event_id": name, "payload": said, "occurred_at": at} for name in names]
    found = await statuses(earning, *lines)
    assert sorted(found) == sorted([RECORDED] * 5 + [REWARDED])
    rows = owner_rows(
        earning.world, "SELECT event_id, payload, occurred_at, received_at, digest FROM event"
    )
    assert {row[0] for row in rows} == set(names)
    moment = datetime(2026, 11, 19, 23, 59, 59, 999_999, tzinfo=UTC)
    assert [(row[1], row[2]) for row in rows] == [(said, moment)] * 6
    assert {(row[3], len(row[4])) for row in rows} == {(earning.world.clock.now(), 16)}
    assert await statuses(earning, *lines) == [DUPLICATE] * 6
    await earning.prove()


async def test_known_events_are_found_wherever_they_lie(earning: Earning):
    """Ids in no order, kept ones between the ends of a batch, at them, or outside."""

    def named(*names: str) -> list[dict[str, Any]]:
        return [{**opened(0, "u3"), "event_id": name} for name in names]

    assert await statuses(earning, *named("d", "h")) == [RECORDED] * 2
    assert await statuses(earning, *named("e", "g")) == [RECORDED, REWARDED]
    assert await statuses(earning, *named("c", "d", "z")) == [RECORDED, DUPLICATE, RECORDED]
    assert await statuses(earning, *named("z", "y")) == [DUPLICATE, RECORDED]
    assert await statuses(earning, *named("c")) == [DUPLICATE]
    assert await statuses(earning, *named("zz", "a")) == [RECORDED] * 2
    await earning.prove()
