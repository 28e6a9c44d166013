"""Events into state and money on a real PostgreSQL: once each, in any order, from any side."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.earning import Earning, day, earning_world, event
from tests.world import ACTOR, PostgresServer, owner_rows

from paymaster.db.tx import CellTx
from paymaster.earn import dead_letter, ingest, task, user_task
from paymaster.earn.catalogue import Catalogue, live
from paymaster.earn.event import Event, EventOutcome, Status
from paymaster.earn.machine import OfferState
from paymaster.earn.user_task import Decision
from paymaster.earn.verify import Count, Step, complete
from paymaster.kernel.clock import business_day
from paymaster.kernel.errors import NotFound, Unprocessable
from paymaster.kernel.ids import new_trace_id
from paymaster.people import users
from paymaster.people.machine import Status as UserStatus
from paymaster.people.profile import Profile
from paymaster.secrets.sealing import Sealer

GOLD = {"kind": "gold"}


@pytest.fixture
async def earning(postgres: PostgresServer) -> AsyncIterator[Earning]:
    async with earning_world(postgres) as made:
        yield made


async def labelling(e: Earning, **changes: Any) -> str:
    """A funded gold task with users u1 and u2; its text id."""
    camp = await e.put_campaign()
    made = await e.put_task(GOLD, type="labelling", **changes)
    await e.fund(camp.number, "1.00")
    await e.add_users("u1", "u2")
    await e.control(lambda tx: task.put_gold(tx, 1, made.id, {"a": "1", "b": "2", "c": "3"}))
    return made.id


def answer(number: int | str, user: str, item: str, said: object, **rest: Any):
    return event(number, user, payload={"item": item, "answer": said}, **rest)


async def states(e: Earning, user: str = "u1") -> list[str]:
    ref = e.users[user]
    rows = owner_rows(
        e.world, "SELECT target FROM task_move WHERE user_id = %s ORDER BY number", ref.id
    )
    return [row[0] for row in rows]


async def test_a_right_answer_is_rewarded_once(earning: Earning):
    await labelling(earning)
    outcomes = await earning.send(
        answer(1, "u1", "a", "1"),
        answer(2, "u1", "b", "1"),
        answer(3, "u2", "a", 1),
        answer(1, "u1", "a", "1"),
    )
    assert [one.status for one in outcomes] == [
        Status.REWARDED,
        Status.RECORDED,
        Status.REWARDED,
        Status.DUPLICATE,
    ]
    assert outcomes[0].reward_id is not None
    again = await earning.send(answer(1, "u1", "a", "1"), answer(4, "u1", "a", "1"))
    assert [(one.status, one.slug) for one in again] == [
        (Status.DUPLICATE, None),
        (Status.RECORDED, "item-answered"),
    ]
    assert (await earning.balance("u1")).available.minor == 2
    assert await states(earning) == ["in_progress", "rewarded"]
    await earning.prove()


async def test_the_first_answer_decides(earning: Earning):
    """Trying every answer until one is right earns nothing."""
    await labelling(earning)
    tries = await earning.send(*(answer(n, "u1", "a", str(9 - n)) for n in range(9)))
    assert {one.status for one in tries} == {Status.RECORDED}
    assert (await earning.balance("u1")).available.minor == 0


async def test_an_event_id_with_another_body_is_a_conflict(earning: Earning):
    await labelling(earning)
    await earning.send(answer(1, "u1", "a", "1"))
    outcomes = await earning.send(
        answer(1, "u1", "a", "2"),
        answer(2, "u1", "b", "2"),
        answer(2, "u1", "b", "1"),
        answer(1, "u2", "a", "1"),
    )
    assert [(one.status, one.slug) for one in outcomes] == [
        (Status.REJECTED, "event-conflict"),
        (Status.REWARDED, None),
        (Status.REJECTED, "event-conflict"),
        (Status.REJECTED, "event-conflict"),
    ]
    other = await earning.send(answer(1, "u2", "a", "1"), source="other-feed")
    assert other[0].status is Status.REWARDED
    await earning.prove()


async def test_the_same_events_from_two_sides_at_once_count_once(earning: Earning):
    await labelling(earning)
    await earning.put_task({"kind": "count", "event": "opened", "count": 3}, "opening")
    events = [answer(n, f"u{n % 2 + 1}", "abc"[n % 3], str(n % 3 + 1)) for n in range(6)]
    events += [event(f"o{n}", "u1", "opened", task="opening") for n in range(3)]
    rnd = random.Random(7)
    runs = [rnd.sample(events, len(events)) for _ in range(8)]
    results = await asyncio.gather(*(earning.send(*run) for run in runs))
    rewarded = [one.event_id for run in results for one in run if one.status is Status.REWARDED]
    assert len(rewarded) == 7
    balances = [await earning.balance(name) for name in ("u1", "u2")]
    assert sum(balance.available.minor for balance in balances) == 14
    await earning.prove()


async def test_what_names_nothing_is_listed_and_the_others_go_on(earning: Earning):
    await labelling(earning)
    outcomes = await earning.send(
        answer(1, "nobody", "a", "1"),
        answer(2, "u1", "a", "1", campaign="none"),
        answer(3, "u1", "a", "1", task="none"),
        answer(4, "u1", "a", "1", campaign=None, task="tk_000000000000000"),
        answer(5, "u1", "zzz", "1"),
        event(6, payload={"item": "a"}),
        event(7, payload={"answer": "1"}),
        answer(8, "u1", "a", "1", occurred_at="2007-12-31T23:59:59Z"),
        answer(9, "u1", "a", "1", occurred_at="2026-11-20T09:06:00Z"),
        answer(10, "u1", "a", "1", price="5.00"),
        answer(11, "u1", "a", "1"),
    )
    assert [one.slug for one in outcomes] == [
        "user-unknown",
        "campaign-unknown",
        "task-unknown",
        "task-unknown",
        "item-unknown",
        "payload-incomplete",
        "payload-incomplete",
        "outside-dates",
        "event-in-future",
        "event-malformed",
        None,
    ]
    assert [one.line for one in outcomes] == list(range(1, 12))
    assert outcomes[-1].status is Status.REWARDED
    letters = await earning.world.read(dead_letter.listing)
    assert sorted(letter.slug for letter in letters) == sorted(str(o.slug) for o in outcomes[:-1])
    await earning.add_users("nobody")
    sealed = next(letter for letter in letters if letter.slug == "user-unknown")
    raw = await earning.world.read(lambda tx: dead_letter.opened(tx, earning.sealer, sealed.id))
    assert b'"nobody"' in raw
    [stored] = owner_rows(earning.world, "SELECT sealed FROM dead_letter WHERE id = %s", sealed.id)
    assert b"nobody" not in bytes(stored[0])
    [again] = await earning.send(answer(1, "nobody", "a", "1"))
    assert again.status is Status.REWARDED
    with pytest.raises(NotFound, match="dead-letter-unknown"):
        await earning.world.read(lambda tx: dead_letter.opened(tx, earning.sealer, 1))


async def test_a_task_by_its_text_id(earning: Earning):
    name = await labelling(earning)
    [outcome] = await earning.send(answer(1, "u1", "a", "1", campaign=None, task=name))
    assert outcome.status is Status.REWARDED


async def test_a_paused_campaign_takes_no_events_until_it_goes_on(earning: Earning):
    await labelling(earning)
    await earning.put_campaign(state=OfferState.PAUSED)
    [outcome] = await earning.send(answer(1, "u1", "a", "1"))
    assert outcome.slug == "task-not-active"
    await earning.put_campaign()
    [outcome] = await earning.send(answer(1, "u1", "a", "1"))
    assert outcome.status is Status.REWARDED


async def test_users_who_are_not_active_earn_nothing(earning: Earning):
    await labelling(earning)
    for status in (UserStatus.SUSPENDED, UserStatus.CLOSED):
        await users.upsert(
            earning.world.dbs, earning.sealer, 1, ACTOR, new_trace_id(), "u1", None, status
        )
        [outcome] = await earning.send(answer(1, "u1", "a", "1"))
        assert (outcome.status, outcome.slug) == (Status.REJECTED, f"user-{status}")


async def test_the_cap_of_a_user_holds_within_and_between_batches(earning: Earning):
    await labelling(earning, user_cap=2)
    first = await earning.send(answer(1, "u1", "a", "1"))
    rest = await earning.send(
        answer(2, "u1", "b", "2"), answer(3, "u1", "c", "3"), answer(4, "u2", "c", "3")
    )
    assert [one.status for one in first + rest] == [
        Status.REWARDED,
        Status.REWARDED,
        Status.RECORDED,
        Status.REWARDED,
    ]
    assert rest[1].slug == "user-cap"


async def test_only_users_who_fit_may_begin(earning: Earning):
    await labelling(earning, requirements={"countries": ["DE"], "minimum_age": 18})
    await earning.add_users("grown", profile=Profile(country="DE", birth_year=1990))
    await earning.add_users("young", profile=Profile(country="DE", birth_year=2015))
    outcomes = await earning.send(
        *(answer(name, name, "a", "1") for name in ("grown", "young", "u1"))
    )
    assert [one.slug for one in outcomes] == [None, "not-eligible", "not-eligible"]
    # Whoever has begun may go on, wherever they move.
    await earning.add_users("grown", profile=Profile(country="FR", birth_year=1990))
    [outcome] = await earning.send(answer("more", "grown", "b", "2"))
    assert outcome.status is Status.REWARDED


async def test_a_window_is_judged_right_in_any_order(earning: Earning):
    """Many users with random histories, in shuffled batches, against the pure judgement."""
    camp = await earning.put_campaign()
    rule = Count("opened", 3, 3 * 86400, distinct_days=True, after="installed")
    await earning.put_task(
        {
            "kind": "count",
            "event": "opened",
            "count": 3,
            "within_seconds": 3 * 86400,
            "distinct_days": True,
            "after": "installed",
        }
    )
    await earning.fund(camp.number, "100.00")
    rnd = random.Random(11)
    names = [f"w{n}" for n in range(40)]
    await earning.add_users(*names)
    sent = []
    expected = set()
    for name in names:
        steps = [
            Step(day(rnd.randrange(8), rnd.randrange(24)), kind)
            for kind in rnd.choices(["opened", "opened", "opened", "installed", "seen"], k=9)
        ]
        sent += [(name, step) for step in steps]
        if complete(rule, steps, lambda moment: business_day(moment, "Europe/Berlin")):
            expected.add(name)
    assert 5 < len(expected) < 35
    rnd.shuffle(sent)
    lines = [event(n, name, step.type, step.occurred_at) for n, (name, step) in enumerate(sent)]
    rewarded = []
    for start in range(0, len(lines), 37):
        outcomes = await earning.send(*lines[start : start + 37])
        rewarded += [
            lines[int(one.event_id or 0)]["user"]
            for one in outcomes
            if one.status is Status.REWARDED
        ]
    assert sorted(rewarded) == sorted(expected)
    again = await earning.send(*lines)
    assert {one.status for one in again} == {Status.DUPLICATE}
    await earning.prove()


async def test_late_events_count_on_an_expired_task(earning: Earning):
    camp = await earning.put_campaign()
    await earning.fund(camp.number, "1.00")
    await earning.add_users("u1")
    ends = earning.world.clock.now() + timedelta(hours=1)
    await earning.put_task({"kind": "count", "event": "opened", "count": 2}, expires_at=ends)
    await earning.send(event(1, "u1", "opened"))
    earning.world.clock.advance(timedelta(hours=2))
    assert await earning.world.run(user_task.expire_due) == 1
    assert await earning.world.run(user_task.expire_due) == 0
    assert await states(earning) == ["in_progress", "expired"]
    late, after = await earning.send(
        event(2, "u1", "opened"), event(3, "u1", "opened", at=ends + timedelta(seconds=1))
    )
    assert late.status is Status.REWARDED
    assert after.slug == "outside-dates"
    assert await states(earning) == ["in_progress", "expired", "rewarded"]


async def test_work_is_handed_in_and_decided(earning: Earning):
    camp = await earning.put_campaign()
    await earning.fund(camp.number, "1.00")
    await earning.add_users("u1", "u2")
    await earning.put_task({"kind": "review"}, reward="0.50")
    [offer] = await earning.control(lambda tx: live(tx, 1, tx.now))
    one, two = earning.users["u1"], earning.users["u2"]
    started = await earning.world.run(lambda tx: user_task.start(tx, earning.sealer, one.id, offer))
    assert started.state == "started"
    await earning.send(event(1, "u1", "submitted"), event(2, "u2", "submitted"))
    commands = [
        Decision(one.id, offer, True, "good"),
        Decision(two.id, offer, False, "blurred"),
        Decision(one.id, offer, True, "again"),
    ]
    decided = await earning.world.run(lambda tx: user_task.decide(tx, commands))
    assert [(d.state, d.slug) for d in decided] == [
        ("rewarded", None),
        ("rejected", None),
        ("rewarded", "not-submitted"),
    ]
    assert decided[0].reward_id is not None
    assert (await earning.balance("u1")).available.minor == 50
    await earning.send(event(3, "u2", "submitted"))
    [second] = await earning.world.run(
        lambda tx: user_task.decide(tx, [Decision(two.id, offer, True, "now fine")])
    )
    assert second.state == "rewarded"
    assert await states(earning) == ["started", "submitted", "verified", "rewarded"]
    await earning.prove()


async def test_a_personal_list_shows_what_can_be_earned(earning: Earning):
    await labelling(earning, requirements={"countries": ["DE"]})
    await earning.put_task({"kind": "count", "event": "opened"}, "opening")
    await earning.put_task({"kind": "count", "event": "seen"}, "old", state=OfferState.ENDED)
    await earning.add_users("de", profile=Profile(country="DE"))

    async def shown(name: str) -> list[tuple[str, str]]:
        ref = earning.users[name]
        offers = await earning.control(lambda tx: live(tx, 1, tx.now))
        found = await earning.world.read(
            lambda tx: user_task.listing(tx, earning.sealer, ref.id, offers)
        )
        return [(one.wire()["type"], one.state) for one in found]

    assert await shown("de") == [("labelling", "offered"), ("custom", "offered")]
    assert await shown("u1") == [("custom", "offered")]
    await earning.send(answer(1, "de", "a", "1"), event(2, "de", "opened", task="opening"))
    assert await shown("de") == [("labelling", "rewarded")]
    [first, _] = await earning.control(lambda tx: live(tx, 1, tx.now))
    with pytest.raises(Unprocessable, match="not-eligible"):
        await earning.world.run(
            lambda tx: user_task.start(tx, earning.sealer, earning.users["u1"].id, first)
        )


async def test_every_move_is_on_record_with_its_message(earning: Earning):
    await labelling(earning)
    [outcome] = await earning.send(answer(1, "u1", "a", "1", occurred_at=_iso(day(3))))
    rows = owner_rows(
        earning.world, "SELECT topic, payload FROM outbox WHERE topic LIKE 'reward.%%'"
    )
    [(topic, payload)] = rows
    assert topic == "reward.credited"
    assert payload["reward"] == outcome.reward_id
    assert payload["amount"] == {"amount": "0.02", "currency": "USD"}
    assert payload["user"].startswith("us_")
    [(topic, payload)] = owner_rows(
        earning.world, "SELECT topic, payload FROM outbox WHERE topic LIKE 'user_task.%%'"
    )
    assert (topic, payload["state"]) == ("user_task.rewarded", "rewarded")


def _iso(moment: datetime) -> str:
    return moment.isoformat()


async def test_a_poisoned_event_stands_alone(earning: Earning, monkeypatch: pytest.MonkeyPatch):
    """What the database itself refuses is found by halving; the others are taken in."""
    await labelling(earning)
    honest = ingest.record

    async def strict(
        tx: CellTx, sealer: Sealer, catalogue: Catalogue, events: Sequence[Event], **rest: Any
    ) -> list[EventOutcome]:
        if any(one.event_id == "2" for one in events):
            await tx.value("SELECT 'poison'::timestamptz")
        return await honest(tx, sealer, catalogue, events, **rest)

    monkeypatch.setattr(ingest, "record", strict)
    outcomes = await earning.send(
        answer(1, "u1", "a", "1"), answer(2, "u1", "b", "2"), answer(3, "u1", "c", "3")
    )
    assert [(one.status, one.slug) for one in outcomes] == [
        (Status.REWARDED, None),
        (Status.REJECTED, "event-poisoned"),
        (Status.REWARDED, None),
    ]
    await earning.prove()
