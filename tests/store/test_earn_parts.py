"""Large batches go in parts, two under way at a time, and come out as if one event came at once."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any
from zlib import crc32

import psycopg
import pytest
from psycopg import errors
from tests.earning import Earning, earning_world, event
from tests.world import START, PostgresServer, owner_rows

from paymaster.db.tx import CellTx
from paymaster.earn import grant, ingest, record, task
from paymaster.earn.event import Event, EventOutcome, Status
from paymaster.earn.ingest import split
from paymaster.earn.intake import parse
from paymaster.earn.record import FIRST, How
from paymaster.earn.store import events as event_store
from paymaster.earn.store.events import EventRow
from paymaster.kernel.errors import Busy, Conflict

PART = 4
GOLD = {"kind": "gold"}
ANSWERS = {letter: letter.upper() for letter in "abcdefgh"}
USERS = tuple(f"u{number}" for number in range(6))
Record = Callable[..., Awaitable[list[EventOutcome]]]
Line = dict[str, Any]


@pytest.fixture
async def earning(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Earning]:
    """A gold task with known answers, six users, and parts of four events."""
    monkeypatch.setattr(ingest, "MAX_BATCH", PART)
    async with earning_world(postgres) as made:
        yield made


async def labelling(e: Earning, budget: str = "100.00", **changes: Any) -> None:
    camp = await e.put_campaign()
    made = await e.put_task(GOLD, type="labelling", **changes)
    await e.fund(camp.number, budget)
    await e.add_users(*USERS)
    await e.control(lambda tx: task.put_gold(tx, 1, made.id, ANSWERS))


def answer(number: int | str, user: str, item: str, said: str) -> Line:
    return event(number, user, payload={"item": item, "answer": said})


def random_lines(seed: int, count: int) -> list[Line]:
    """Few ids, users and items: repeats and contradictions fall into the same and other parts."""
    rnd = random.Random(seed)
    lines: list[Line] = []
    for _ in range(count):
        if lines and rnd.random() < 0.2:
            lines.append(rnd.choice(lines))
            continue
        item = rnd.choice("abcdefgh")
        said = ANSWERS[item] if rnd.random() < 0.6 else "?"
        lines.append(answer(rnd.randrange(count * 2), rnd.choice(USERS), item, said))
    return lines


def expected(lines: Sequence[Line], money: int) -> list[tuple[Status, str | None]]:
    """What becomes of the lines when the parts' lines come one after the other."""
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    events = parse(body, "app", START).events
    order = [one.line - 1 for part in split(events, PART) for one in part]
    assert sorted(order) == list(range(len(lines)))
    found = one_by_one([lines[place] for place in order], money)
    return [outcome for _, outcome in sorted(zip(order, found, strict=True), key=first)]


def one_by_one(lines: Sequence[Line], money: int) -> list[tuple[Status, str | None]]:
    seen: dict[str, Line] = {}
    answered: set[tuple[str, str]] = set()
    found: list[tuple[Status, str | None]] = []
    for line in lines:
        before = seen.setdefault(line["event_id"], line)
        item = (line["user"], line["payload"]["item"])
        if before is not line:
            same = before == line
            found.append((Status.DUPLICATE, None) if same else (Status.REJECTED, "event-conflict"))
        elif item in answered:
            found.append((Status.RECORDED, "item-answered"))
        elif line["payload"]["answer"] != ANSWERS[item[1]]:
            found.append((Status.RECORDED, None))
        elif money:
            money -= 1
            found.append((Status.REWARDED, None))
        else:
            found.append((Status.AWAITING_FUNDS, None))
        if found[-1][1] != "event-conflict":
            answered.add(item)
    return found


def first(pair: tuple[int, object]) -> int:
    return pair[0]


def copies(lines: Sequence[Line]) -> list[Line]:
    """Every line an object of its own, so that a repeated one is told from itself."""
    return [dict(line) for line in lines]


@pytest.mark.parametrize("seed", range(4))
async def test_parts_come_out_as_one_after_the_other(earning: Earning, seed: int):
    await labelling(earning)
    lines = copies(random_lines(seed, 70))
    outcomes = await earning.send(*lines)
    assert [(one.status, one.slug) for one in outcomes] == expected(lines, money=100)
    assert [one.line for one in outcomes] == list(range(1, 71))
    again = await earning.send(*lines)
    assert {one.status for one in again} <= {Status.DUPLICATE, Status.REJECTED}
    await earning.prove()


@pytest.mark.parametrize("ample", [0, 1, grant.AMPLE])
async def test_money_goes_to_the_first_whatever_was_taken_for_granted(
    earning: Earning, monkeypatch: pytest.MonkeyPatch, ample: int
):
    """With 0 every part writes its rewards before it knows that the money reaches."""
    await labelling(earning, "0.20", reward="0.02")
    monkeypatch.setattr(grant, "AMPLE", ample)
    lines = copies(random_lines(9, 60))
    outcomes = await earning.send(*lines)
    wanted = expected(lines, money=10)
    assert (Status.AWAITING_FUNDS, None) in wanted
    assert [(one.status, one.slug) for one in outcomes] == wanted
    await earning.prove()


@pytest.mark.parametrize("count", [0, 1, 4, 5, 40])
def test_a_user_stays_in_a_lane_and_in_order(count: int):
    rnd = random.Random(count)
    lines = [answer(n, f"u{rnd.randrange(9)}", "a", "A") for n in range(count)]
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    events = parse(body, "app", START).events if lines else []
    parts = list(split(events, PART))
    assert sorted(one.line for part in parts for one in part) == list(range(1, count + 1))
    assert max((len(part) for part in parts), default=0) <= PART
    if count <= PART:
        assert parts == [events]
        return
    for user in {one.user for one in events}:
        mine = [one.line for part in parts for one in part if one.user == user]
        assert mine == sorted(mine)
    lanes: dict[int, set[int]] = {}
    for part in parts:
        [lane] = {crc32(one.user.encode()) & 1 for one in part}
        lanes.setdefault(lane, set()).add(len(part))
    assert all(max(sizes) - min(sizes) <= 1 for sizes in lanes.values())


class Staged:
    """Record, watched: the first part fails once after the second one has begun."""

    def __init__(self, error: Exception) -> None:
        self.calls: list[str] = []
        self._error = error
        self._honest: Record = record.record
        self._second = asyncio.Event()
        self._failed = False

    async def record(
        self, tx: CellTx, sealer: Any, found: Any, events: Sequence[Event], **rest: Any
    ) -> list[EventOutcome]:
        first = events[0].event_id == "0"
        self.calls.append("first" if first else "later")
        if not first:
            self._second.set()
        outcomes = await self._honest(tx, sealer, found, events, **rest)
        if first and not self._failed:
            await self._second.wait()
            self._failed = True
            raise self._error
        return outcomes


def contradicting() -> list[Line]:
    """One lane; in its second part the same items again, answered rightly, in the first wrongly."""
    assert {crc32(user.encode()) & 1 for user in USERS[:4]} == {0}
    return [
        answer(n, USERS[n % 4], "abcd"[n % 4], "?" if n < 4 else "ABCD"[n % 4]) for n in range(8)
    ]


async def test_a_part_whose_forerunner_runs_again_goes_after_it(
    earning: Earning, monkeypatch: pytest.MonkeyPatch
):
    await labelling(earning)
    staged = Staged(errors.SerializationFailure("again"))
    monkeypatch.setattr(ingest, "record", staged.record)
    lines = contradicting()
    outcomes = await earning.send(*lines)
    assert [(one.status, one.slug) for one in outcomes] == expected(lines, money=100)
    assert {one.slug for one in outcomes[4:]} == {"item-answered"}
    assert sorted(staged.calls) == ["first", "first", "later", "later"]
    await earning.prove()


async def test_nothing_of_later_parts_is_kept_when_one_fails(
    earning: Earning, monkeypatch: pytest.MonkeyPatch
):
    await labelling(earning)
    staged = Staged(Busy("database-slow", "The database took too long; retry."))
    monkeypatch.setattr(ingest, "record", staged.record)
    lines = contradicting()
    with pytest.raises(Busy):
        await earning.send(*lines)
    assert owner_rows(earning.world, "SELECT count(*) FROM event") == [(0,)]
    outcomes = await earning.send(*lines)
    assert [(one.status, one.slug) for one in outcomes] == expected(lines, money=100)


async def test_of_two_parts_with_one_id_the_first_keeps_it(
    earning: Earning, monkeypatch: pytest.MonkeyPatch
):
    """However long it takes to write: the second part has its locks by then, and waits."""
    await labelling(earning)
    honest = event_store.write_events

    async def slow(tx: CellTx, rows: Sequence[EventRow]) -> None:
        if any(event.event_id == "0" for _, _, event, _ in rows):
            await asyncio.sleep(0.2)
        await honest(tx, rows)

    monkeypatch.setattr(event_store, "write_events", slow)
    first = [answer(n, USERS[n], "a", "A") for n in range(4)]
    outcomes = await earning.send(*first, answer("1", "u4", "a", "A"), answer("5", "u5", "a", "A"))
    rewarded = Status.REWARDED, None
    conflict = Status.REJECTED, "event-conflict"
    found = [(one.status, one.slug) for one in outcomes]
    assert found == [rewarded, rewarded, rewarded, rewarded, conflict, rewarded]
    await earning.prove()


async def test_a_batch_that_is_given_up_leaves_nothing_running(
    earning: Earning, monkeypatch: pytest.MonkeyPatch
):
    await labelling(earning)
    begun, honest = asyncio.Event(), record.record

    async def endless(*args: Any, **rest: Any) -> list[EventOutcome]:
        outcomes = await honest(*args, **rest)
        begun.set()
        await asyncio.Event().wait()
        return outcomes

    monkeypatch.setattr(ingest, "record", endless)
    before = asyncio.all_tasks()
    sending = asyncio.create_task(earning.send(*contradicting()))
    await begun.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert {one for one in asyncio.all_tasks() - before if "ingest" in repr(one)} == set()
    assert owner_rows(earning.world, "SELECT count(*) FROM event") == [(0,)]
    monkeypatch.setattr(ingest, "record", honest)
    lines = contradicting()
    outcomes = await earning.send(*lines)
    assert [(one.status, one.slug) for one in outcomes] == expected(lines, money=100)


async def test_a_poisoned_event_of_a_middle_part_stands_alone(
    earning: Earning, monkeypatch: pytest.MonkeyPatch
):
    await labelling(earning)
    honest = record.record

    async def strict(tx: CellTx, *args: Any, **rest: Any) -> list[EventOutcome]:
        if any(one.event_id == "6" for one in args[2]):
            await tx.value("SELECT 'poison'::timestamptz")
        return await honest(tx, *args, **rest)

    monkeypatch.setattr(ingest, "record", strict)
    outcomes = await earning.send(
        *(
            answer(n, USERS[n % 6], "abcdefgh"[n // 2], "abcdefgh"[n // 2].upper())
            for n in range(16)
        )
    )
    assert [one.slug for one in outcomes] == [None] * 6 + ["event-poisoned"] + [None] * 9
    assert [one.status for one in outcomes].count(Status.REWARDED) == 15
    await earning.prove()


async def test_an_event_that_somebody_else_is_taking_in_counts_once(
    earning: Earning, monkeypatch: pytest.MonkeyPatch
):
    """They looked it up before we wrote it: the database refuses, then they find it."""
    await labelling(earning)
    wrote, go_on = asyncio.Event(), asyncio.Event()
    honest: Record = record.record
    ways: list[How] = []

    async def slow(*args: Any, how: How = FIRST, **rest: Any) -> list[EventOutcome]:
        ways.append(how)
        outcomes = await honest(*args, how=how, **rest)
        if not wrote.is_set():
            wrote.set()
            await go_on.wait()
        return outcomes

    monkeypatch.setattr(ingest, "record", slow)
    first = asyncio.create_task(earning.send(answer("x", "u1", "a", "A")))
    await wrote.wait()
    # Another user, or the lock of the user's task would keep them apart.
    other = asyncio.create_task(
        earning.send(answer("x", "u2", "a", "A"), answer("y", "u2", "b", "B"))
    )
    await _until_somebody_waits(earning)
    go_on.set()
    assert [one.status for one in await first] == [Status.REWARDED]
    assert [(one.status, one.slug) for one in await other] == [
        (Status.REJECTED, "event-conflict"),
        (Status.REWARDED, None),
    ]
    assert [how.careful for how in ways] == [False, False, True]
    await earning.prove()


async def test_two_who_begin_a_users_task_at_once_count_together(
    earning: Earning, monkeypatch: pytest.MonkeyPatch
):
    """Only who made the user's state may take it that nothing was counted before."""
    camp = await earning.put_campaign()
    await earning.put_task({"kind": "count", "event": "opened", "count": 2})
    await earning.fund(camp.number, "1.00")
    await earning.add_users("u1")
    wrote, go_on = asyncio.Event(), asyncio.Event()
    honest: Record = record.record

    async def slow(*args: Any, **rest: Any) -> list[EventOutcome]:
        outcomes = await honest(*args, **rest)
        if not wrote.is_set():
            wrote.set()
            await go_on.wait()
        return outcomes

    monkeypatch.setattr(ingest, "record", slow)
    first = asyncio.create_task(earning.send(event("x", "u1", "opened")))
    await wrote.wait()
    other = asyncio.create_task(earning.send(event("y", "u1", "opened")))
    await _until_somebody_waits(earning)
    go_on.set()
    assert [one.status for one in await first] == [Status.RECORDED]
    assert [one.status for one in await other] == [Status.REWARDED]
    await earning.prove()


async def _until_somebody_waits(e: Earning) -> None:
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    for _ in range(2000):
        if owner_rows(e.world, waiting) != [(0,)]:
            return
        await asyncio.sleep(0.002)
    pytest.fail("Nobody waits.")


async def test_a_move_that_the_cell_does_not_know_is_refused(earning: Earning):
    """The table of legal moves is asked once for each kind of move of a batch."""
    await labelling(earning)
    with psycopg.connect(earning.world.owner_dsn, autocommit=True) as owner:
        owner.execute("SET search_path TO cell_1")
        owner.execute("DELETE FROM legal_move WHERE machine = 'reward' AND target = 'credited'")
    with pytest.raises(Conflict, match="illegal-move"):
        await earning.send(answer(1, "u1", "a", "A"))
    assert owner_rows(earning.world, "SELECT count(*) FROM event") == [(0,)]


async def test_a_month_without_partition_is_not_the_senders_fault(earning: Earning) -> None:
    await labelling(earning)
    earning.world.clock.advance(timedelta(days=150))
    with pytest.raises(Busy, match="partition-missing"):
        await earning.send(answer(1, "u0", "a", "A"))
    assert owner_rows(earning.world, "SELECT count(*) FROM dead_letter") == [(0,)]
