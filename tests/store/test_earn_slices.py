"""A campaign's budget over three cells: spent + in slices + in transit = funded, always."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from tests.earning import ENVIRONMENT, Earning, earning_world, event
from tests.world import PostgresServer

from paymaster.db import outbox
from paymaster.db.tx import CellRead
from paymaster.earn import reward
from paymaster.earn import slice as slices
from paymaster.earn.event import Status
from paymaster.earn.reversal import Reverse, reverse
from paymaster.kernel.ids import parse_text_id
from paymaster.ledger.balance import account_balance
from paymaster.ledger.chart import Account

ONCE = {"kind": "count", "event": "done"}
NAMES = [f"u{n}" for n in range(30)]


@pytest.fixture
async def earning(postgres: PostgresServer) -> AsyncIterator[Earning]:
    async with earning_world(postgres, cells=3) as made:
        made.slice_rewards = 5
        yield made


async def offered(e: Earning, budget: str, **changes: Any) -> int:
    camp = await e.put_campaign(**changes)
    await e.put_task(ONCE, reward="1.00")
    await e.fund(camp.number, budget)
    await e.add_users(*NAMES)
    assert {ref.cell for ref in e.users.values()} == {1, 2, 3}
    return camp.number


def away(e: Earning, cell: int = 2) -> list[str]:
    """Users of a cell that is not the campaign's home."""
    return [name for name, ref in e.users.items() if ref.cell == cell]


async def done(e: Earning, *names: str) -> list[Status]:
    return [one.status for one in await e.send(*(event(name, name, "done") for name in names))]


async def spent(tx: CellRead) -> int:
    found = await tx.value("SELECT sum(amount) FROM reward WHERE state IN ('vesting', 'credited')")
    return int(found or 0)


async def in_transit(e: Earning, campaign: int) -> int:
    """What has left a cell's budget by a command that its target has not yet carried out."""
    out = 0
    for cell in e.world.dbs.cells(ENVIRONMENT):
        for other in e.world.dbs.cells(ENVIRONMENT):
            account = Account("intercell", other.number, "USD")
            out += await e.world.read(lambda tx, a=account: account_balance(tx, a), cell.number)
    return out


async def check(e: Earning, campaign: int) -> None:
    """The invariant, and every proof of every cell."""
    total = await in_transit(e, campaign)
    for cell in e.world.dbs.cells(ENVIRONMENT):
        total += await e.budget(campaign, cell.number)
        total += await e.world.read(spent, cell.number)
    assert total == e.funded
    await e.prove()


async def test_a_cell_asks_for_a_slice_and_pays_when_it_comes(earning: Earning):
    campaign = await offered(earning, "20.00")
    names = away(earning)[:2]
    assert await done(earning, *names) == [Status.AWAITING_FUNDS] * 2
    await check(earning, campaign)
    assert await earning.relay(only=frozenset({slices.ASK})) == 1
    assert await earning.budget(campaign) == 1500
    assert await in_transit(earning, campaign) == 500
    await check(earning, campaign)
    assert await earning.relay() == 1
    assert await earning.budget(campaign, 2) == 300
    assert (await earning.balance(names[0])).available.minor == 100
    assert await done(earning, away(earning)[2]) == [Status.REWARDED]
    await check(earning, campaign)


async def test_a_command_delivered_twice_counts_once(earning: Earning):
    campaign = await offered(earning, "20.00")
    await done(earning, away(earning)[0])
    await earning.relay()
    await check(earning, campaign)
    for cell in (1, 2):
        _, messages = await earning.world.read(lambda tx: outbox.after(tx, 0, 1000), cell)
        for message in messages:
            if message.target_cell is not None:
                assert await earning.deliver(cell, message) == 0
    await check(earning, campaign)


async def test_one_ask_at_a_time_and_more_when_it_was_too_little(earning: Earning):
    campaign = await offered(earning, "30.00")
    names = away(earning)
    assert len(names) > 7
    await done(earning, names[0])
    await done(earning, *names[1:8])
    _, messages = await earning.world.read(lambda tx: outbox.after(tx, 0, 1000), 2)
    assert [m.topic for m in messages if m.target_cell] == [slices.ASK]
    await earning.relay()
    paid = [(await earning.balance(name)).available.minor for name in names[:8]]
    assert paid == [100] * 8
    await check(earning, campaign)


async def test_an_exhausted_budget_waits_and_is_asked_again_later(earning: Earning):
    campaign = await offered(earning, "3.00")
    names = away(earning)
    await done(earning, *names[:5])
    await earning.relay()
    paid = sum([(await earning.balance(name)).available.minor for name in names[:5]])
    assert paid == 300
    await check(earning, campaign)
    await earning.fund(campaign, "10.00")
    await earning.world.run(reward.retry_awaiting, 2)
    assert await earning.relay() == 0
    earning.world.clock.advance(slices.ASK_AGAIN)
    await earning.world.run(reward.retry_awaiting, 2)
    assert await earning.relay() == 2
    paid = sum([(await earning.balance(name)).available.minor for name in names[:5]])
    assert paid == 500
    await check(earning, campaign)


async def test_an_exhausted_budget_may_refuse_what_waits(earning: Earning):
    campaign = await offered(earning, "3.00", when_exhausted="refuse")
    names = away(earning)
    assert set(await done(earning, *names[:5])) == {Status.AWAITING_FUNDS}
    await earning.relay()
    states = sorted([await state(earning, name) for name in names[:5]])
    assert states == ["credited"] * 3 + ["refused"] * 2
    await earning.fund(campaign, "10.00")
    earning.world.clock.advance(slices.ASK_AGAIN)
    await earning.world.run(reward.retry_awaiting, 2)
    await earning.relay()
    assert sorted([await state(earning, name) for name in names[:5]]) == states
    assert await done(earning, names[5]) == [Status.AWAITING_FUNDS]
    await earning.relay()
    assert await state(earning, names[5]) == "credited"
    await check(earning, campaign)


async def state(e: Earning, name: str) -> str:
    ref = e.users[name]
    return await e.world.read(
        lambda tx: tx.value("SELECT state FROM reward WHERE user_id = %s", (ref.id,)), ref.cell
    )


async def test_idle_slices_go_home(earning: Earning):
    campaign = await offered(earning, "20.00")
    await done(earning, away(earning)[0], away(earning, 3)[0])
    await earning.relay()
    start = earning.world.clock.now()
    assert await earning.budget(campaign) == 1000
    assert await earning.world.run(lambda tx: slices.give_back_idle(tx, start), 2) == 0
    earning.world.clock.advance(timedelta(hours=2))
    later = start + timedelta(hours=1)
    assert await earning.world.run(lambda tx: slices.give_back_idle(tx, later), 2) == 1
    assert await earning.world.run(lambda tx: slices.give_back_idle(tx, later), 2) == 0
    assert await in_transit(earning, campaign) == 400
    await check(earning, campaign)
    assert await earning.relay() == 1
    assert await earning.budget(campaign) == 1400
    assert await earning.budget(campaign, 2) == 0
    await check(earning, campaign)
    assert await done(earning, away(earning)[1]) == [Status.AWAITING_FUNDS]
    await earning.relay()
    assert await state(earning, away(earning)[1]) == "credited"
    await check(earning, campaign)


async def test_idle_slices_are_recalled_before_a_budget_is_called_exhausted(earning: Earning):
    """Whoever asks first takes a slice too large for it; the others get what it does not need."""
    campaign = await offered(earning, "5.00", when_exhausted="refuse")
    two, three, home = away(earning, 2), away(earning, 3), away(earning, 1)
    await done(earning, two[0])
    await earning.relay()
    assert await earning.budget(campaign) == 0
    assert await earning.budget(campaign, 2) == 400
    assert await done(earning, three[0], home[0]) == [Status.AWAITING_FUNDS] * 2
    await check(earning, campaign)
    await earning.relay()
    assert [await state(earning, name) for name in (three[0], home[0])] == ["credited"] * 2
    await check(earning, campaign)
    names = [*two[1:3], *three[1:3], *home[1:3]]
    for name in names:
        await done(earning, name)
        await earning.relay()
        await check(earning, campaign)
    states = [await state(earning, name) for name in names]
    assert states == ["credited"] * 2 + ["refused"] * 4
    assert sum([await earning.budget(campaign, cell) for cell in (1, 2, 3)]) == 0


async def test_a_campaign_that_changes_to_waiting_refuses_no_more(earning: Earning):
    campaign = await offered(earning, "1.00", when_exhausted="refuse")
    two, home = away(earning, 2), away(earning, 1)
    await done(earning, two[0])
    await earning.relay()
    assert await done(earning, home[0]) == [Status.AWAITING_FUNDS]
    await earning.relay()
    assert await state(earning, home[0]) == "refused"
    await earning.put_campaign(when_exhausted="wait")
    assert await done(earning, home[1], two[1]) == [Status.AWAITING_FUNDS] * 2
    await earning.relay()
    assert [await state(earning, name) for name in (home[1], two[1])] == ["awaiting_funds"] * 2
    await check(earning, campaign)


async def test_the_home_cell_keeps_its_own_slices(earning: Earning):
    campaign = await offered(earning, "20.00")
    back = await earning.world.run(lambda tx: slices.give_back(tx, campaign, 1, "USD"))
    assert back.minor == 0
    assert await earning.budget(campaign) == 2000


async def test_a_random_economy_keeps_every_cent(earning: Earning):
    """Completions, reversals, idle slices and a relay that stops anywhere, in random order."""
    campaign = await offered(earning, "17.00")
    rnd = random.Random(5)
    todo = list(NAMES)
    rnd.shuffle(todo)
    for _ in range(25):
        what = rnd.choice(["done", "done", "relay", "reverse", "idle", "retry"])
        cell = rnd.choice([1, 2, 3])
        if what == "done" and todo:
            await done(earning, *[todo.pop() for _ in range(min(3, len(todo)))])
        elif what == "relay":
            topics = rnd.choice([{slices.ASK}, {slices.GRANT}, {slices.RETURN, slices.ASK}])
            await earning.relay(1, only=frozenset(topics))
        elif what == "reverse":
            await take_one_back(earning, cell)
        elif what == "idle":
            earning.world.clock.advance(timedelta(minutes=rnd.randrange(10)))
            now = earning.world.clock.now()
            await earning.world.run(lambda tx, now=now: slices.give_back_idle(tx, now), cell)
        else:
            await earning.world.run(reward.retry_awaiting, cell)
        await check(earning, campaign)
    await earning.relay(50)
    assert await in_transit(earning, campaign) == 0
    await check(earning, campaign)


async def take_one_back(e: Earning, cell: int) -> None:
    async def work(tx: CellRead) -> int | None:
        return await tx.value("SELECT id FROM reward WHERE state = 'credited' ORDER BY id LIMIT 1")

    found = await e.world.read(work, cell)
    if found is not None:
        await e.world.run(lambda tx: reverse(tx, [Reverse(found, "random")]), cell)


async def test_commands_name_things_by_text_ids(earning: Earning):
    campaign = await offered(earning, "20.00")
    await done(earning, away(earning)[0])
    _, messages = await earning.world.read(lambda tx: outbox.after(tx, 0, 1000), 2)
    [ask] = [message for message in messages if message.target_cell is not None]
    assert ask.target_cell == 1
    assert parse_text_id("cp", ask.payload["campaign"]).id == campaign
    assert parse_text_id("sc", ask.payload["slice"]).cell == 2
    assert ask.payload["amount"] == {"amount": "5.00", "currency": "USD"}
