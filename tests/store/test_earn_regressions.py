"""Reversals as partners send them: late, early, repeated, in part, after a withdrawal.

Each is named after what went wrong in other systems.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.clawing import DAY, ONCE, PAID, Clawing, clawing_world, usd
from tests.earning import event
from tests.world import PostgresServer

from paymaster.earn import clawback, reversal, reward
from paymaster.earn.clawback import Fate
from paymaster.earn.event import Status
from paymaster.earn.reversal import Reverse, Took
from paymaster.kernel.errors import Conflict, Unprocessable
from paymaster.withdraw.machine import Event


@pytest.fixture
async def claw(postgres: PostgresServer) -> AsyncIterator[Clawing]:
    async with clawing_world(postgres) as made:
        yield made


async def test_a_postback_repeated_for_four_days_credits_once(claw: Clawing):
    """Tapjoy sends again every five minutes for four days, ayeT twelve times in an hour."""
    await claw.earning.put_task(ONCE, "offer")
    line = event("tx-1", "u1", "done", task="offer")
    told: list[Status] = []
    for _ in range(12):
        [outcome] = await claw.earning.send(line)
        told.append(outcome.status)
        claw.world.clock.advance(timedelta(hours=8))
    assert told == [Status.REWARDED] + [Status.DUPLICATE] * 11
    assert await claw.balance() == {"available": 2}
    await claw.prove()


async def test_a_reversal_repeated_for_four_days_takes_once(claw: Clawing):
    await claw.earn()
    await claw.pay(60)
    for _ in range(12):
        taken = await claw.claw_back("u1-t1")
        assert taken.fate is Fate.REVERSED
        claw.world.clock.advance(timedelta(hours=8))
    assert await claw.balance() == {"debt": 60}
    assert await claw.budget() == 100_000
    await claw.prove()


async def test_a_reversal_before_the_credit_arrives_is_kept_and_the_credit_never_made(
    claw: Clawing,
):
    await claw.earning.put_task(ONCE, "t")
    for _ in range(3):
        assert await claw.claw_back("u1-t") == clawback.Taken(Fate.KEPT)
    [waits] = await claw.world.read(lambda tx: clawback.waiting(tx, None, 10))
    assert (waits.event_id, waits.reason) == ("u1-t", "partner")
    first, again = await claw.send("t"), await claw.send("t")
    assert (first.status, first.slug) == (Status.REJECTED, "event-reversed")
    assert again.status is Status.DUPLICATE
    assert await claw.world.read(lambda tx: clawback.waiting(tx, None, 10)) == []
    assert await claw.balance() == {}
    assert await claw.budget() == 100_000
    [other] = await claw.earning.send(event("another", "u1", "done", task="t"))
    assert other.status is Status.REWARDED
    await claw.prove()


async def test_an_event_and_its_reversal_at_the_same_moment_end_the_same_way(claw: Clawing):
    """Whichever is first: the user has nothing, the budget everything."""
    for place in range(6):
        task = f"race{place}"
        await claw.earning.put_task(ONCE, task)
        await asyncio.gather(claw.send(task), claw.claw_back(f"u1-{task}"))
        assert await claw.balance() == {}
    assert await claw.budget() == 100_000
    await claw.prove()


async def test_part_of_a_reward_reversed_before_the_credit_is_taken_when_it_comes(claw: Clawing):
    await claw.earning.put_task(ONCE, "t", reward="1.00")
    assert await claw.claw_back("u1-t", 30, "cb-1") == clawback.Taken(Fate.KEPT)
    assert await claw.world.run(clawback.apply_due) == 0
    assert (await claw.send("t")).status is Status.REWARDED
    claw.world.clock.advance(timedelta(minutes=2))
    assert await claw.world.run(clawback.apply_due) == 1
    assert await claw.world.run(clawback.apply_due) == 0
    assert (await claw.claw_back("u1-t", 30, "cb-1")).fate is Fate.REVERSED
    assert await claw.balance() == {"available": 70}
    await claw.prove()


async def test_a_reversal_after_the_withdrawal_is_owed_and_recovered(claw: Clawing):
    """Up to ninety days later, when the money has long left."""
    reward_id = await claw.earn()
    await claw.pay(100)
    await claw.pass_days(90)
    assert await claw.reverse(reward_id) is Took.REVERSED
    assert await claw.balance() == {"debt": 100}
    assert await claw.budget() == 100_000
    refused = await claw.request(await claw.destination(), 1)
    assert refused.slug == "debt-open"
    await claw.earn(reward_="0.70")
    assert await claw.balance() == {"debt": 30}
    await claw.earn(reward_="0.70")
    assert await claw.balance() == {"available": 40}
    await claw.prove()


async def test_money_returned_after_it_was_paid_pays_the_debt_first(claw: Clawing):
    reward_id = await claw.earn()
    withdrawal = await claw.pay(100)
    await claw.reverse(reward_id, 60, "part")
    assert await claw.balance() == {"debt": 60}
    await claw.move(withdrawal, Event.RETURN)
    assert await claw.balance() == {"available": 40}
    await claw.prove()


async def test_a_cancel_unwinds_the_overdraft(claw: Clawing):
    """Midaz #2317: what is given back must pay what was opened meanwhile."""
    reward_id = await claw.earn()
    made = await claw.request(await claw.destination(), 80)
    assert await claw.reverse(reward_id) is Took.REVERSED
    assert await claw.balance() == {"held": 80, "debt": 80}
    await claw.move(made.withdrawal_id, Event.CANCEL)
    assert await claw.balance() == {}
    await claw.prove()


async def test_a_failed_payout_unwinds_the_overdraft(claw: Clawing):
    reward_id = await claw.earn()
    made = await claw.request(await claw.destination(), 80)
    await claw.reverse(reward_id)
    await claw.move(made.withdrawal_id, *PAID[:-1], Event.REJECT)
    assert await claw.balance() == {}
    await claw.prove()


async def test_parts_are_taken_once_each_and_the_whole_takes_the_rest(claw: Clawing):
    await claw.earning.put_campaign(vesting_seconds=2 * DAY)
    reward_id = await claw.earn()
    assert await claw.reverse(reward_id, 30, "cb-1") is Took.REVERSED
    assert await claw.reverse(reward_id, 30, "cb-1") is Took.ALREADY
    assert await claw.reverse(reward_id, 31, "cb-1") is Took.REFUSED
    assert await claw.reverse(reward_id, 71, "cb-2") is Took.REFUSED
    assert await claw.reverse(reward_id, 20) is Took.REFUSED
    assert await claw.balance() == {"vesting": 70}
    await claw.prove()
    await claw.pass_days(2)
    assert await claw.balance() == {"available": 70}
    await claw.pay(60)
    assert await claw.reverse(reward_id, 25, "cb-3") is Took.REVERSED
    assert await claw.balance() == {"debt": 15}
    await claw.prove()
    assert await claw.reverse(reward_id) is Took.REVERSED
    assert await claw.reverse(reward_id) is Took.ALREADY
    assert await claw.balance() == {"debt": 60}
    assert await claw.budget() == 100_000
    await claw.prove()


async def test_a_part_that_is_all_that_is_left_ends_the_reward(claw: Clawing):
    reward_id = await claw.earn()
    await claw.reverse(reward_id, 40, "a")
    await claw.reverse(reward_id, 60, "b")
    assert await claw.reverse(reward_id, 60, "b") is Took.ALREADY
    assert await claw.reverse(reward_id, 10, "c") is Took.ALREADY
    assert await claw.balance() == {}
    await claw.prove()


async def test_several_parts_in_one_batch(claw: Clawing):
    one, two = await claw.earn(), await claw.earn()
    commands = [
        Reverse(one, "x", usd(10), "a"), Reverse(two, "x"), Reverse(one, "x", usd(10), "a"),
        Reverse(one, "x", usd(20), "b"), Reverse(two, "x"), Reverse(one, "x"),
    ]  # fmt: skip
    made = await claw.world.run(lambda tx: reversal.reverse(tx, commands))
    took, already = Took.REVERSED, Took.ALREADY
    assert [done.result for done in made] == [took, took, already, took, already, took]
    assert await claw.balance() == {}
    await claw.prove()


async def test_what_a_claw_back_may_not_name(claw: Clawing):
    await claw.earning.put_task({"kind": "count", "event": "done", "count": 2}, "two")
    await claw.earning.send(event("began", "u1", "started", task="two"))
    with pytest.raises(Unprocessable, match="event-earned-nothing"):
        await claw.claw_back("began")
    await claw.earn()
    with pytest.raises(Unprocessable, match="event-of-another"):
        await claw.claw_back("u1-t1", user="u2")
    with pytest.raises(Unprocessable, match="reversal-reference"):
        await claw.claw_back("never", 5)
    await claw.claw_back("u1-t1", 5, "cb")
    with pytest.raises(Conflict, match="reversal-conflict"):
        await claw.claw_back("u1-t1", 6, "cb")
    assert await claw.world.run(reward.mature_due) == 0
    await claw.prove()


async def test_an_install_taken_back_before_the_pattern_is_complete_earns_nothing(claw: Clawing):
    rule = {"kind": "count", "event": "opened", "count": 2, "after": "installed"}
    await claw.earning.put_task(rule, "app")
    for number, kind in enumerate(("installed", "opened")):
        await claw.earning.send(event(f"one-{number}", "u1", kind, task="app"))
        await claw.earning.send(event(f"two-{number}", "u2", kind, task="app"))
    for _ in range(2):
        assert await claw.claw_back("one-0") == clawback.Taken(Fate.KEPT)
    assert await claw.world.read(lambda tx: clawback.waiting(tx, None, 10)) == []
    last = [event(f"{user}-2", user, "opened", task="app") for user in ("u1", "u2")]
    told = [one.status for one in await claw.earning.send(*last)]
    assert told == [Status.RECORDED, Status.REWARDED]
    with pytest.raises(Unprocessable, match="event-earned-nothing"):
        await claw.claw_back("two-0", user="u2")
    assert (await claw.claw_back("u2-2", user="u2")).fate is Fate.REVERSED
    assert [await claw.balance(user) for user in ("u1", "u2")] == [{}, {}]
    await claw.prove()
