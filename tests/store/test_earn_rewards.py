"""Rewards on a real PostgreSQL: budgets that run out, vesting, reversal at every stage, debt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from tests.earning import Earning, earning_world, event
from tests.world import PostgresServer

from paymaster.db.tx import CellRead
from paymaster.earn import proof, reversal, reward
from paymaster.earn.event import EventOutcome, Status
from paymaster.earn.machine import OfferState
from paymaster.earn.reversal import Reverse, Took
from paymaster.earn.views import RewardView
from paymaster.kernel.errors import NotFound, Unprocessable
from paymaster.kernel.ids import parse_text_id

ONCE = {"kind": "count", "event": "done"}
WEEK = 7 * 86400


@pytest.fixture
async def earning(postgres: PostgresServer) -> AsyncIterator[Earning]:
    async with earning_world(postgres) as made:
        yield made


async def offered(e: Earning, budget: str, reward_: str = "1.00", **changes: Any) -> int:
    """A campaign with `budget` and one task that `done` completes; the campaign's number."""
    camp = await e.put_campaign(**changes)
    await e.put_task(ONCE, reward=reward_)
    if budget != "0.00":
        await e.fund(camp.number, budget)
    await e.add_users("u1", "u2", "u3")
    return camp.number


async def complete(e: Earning, user: str, task: str = "task") -> EventOutcome:
    [outcome] = await e.send(event(f"{user}-{task}", user, "done", task=task))
    return outcome


def number(outcome: EventOutcome) -> int:
    assert outcome.reward_id is not None
    return parse_text_id("rw", outcome.reward_id).id


async def shown(e: Earning, outcome: EventOutcome) -> RewardView:
    return await e.world.read(lambda tx: reversal.get(tx, number(outcome)))


async def amounts(e: Earning, user: str = "u1") -> tuple[int, int, int]:
    """Available, vesting, debt."""
    found = await e.balance(user)
    return found.available.minor, found.vesting.minor, found.debt.minor


async def take_back(e: Earning, outcome: EventOutcome, reason: str = "fraud") -> Took:
    command = Reverse(number(outcome), reason)
    [made] = await e.world.run(lambda tx: reversal.reverse(tx, [command]))
    return made.result


async def test_rewards_wait_for_money_and_are_paid_oldest_first(earning: Earning):
    campaign = await offered(earning, "1.50")
    outcomes = [await complete(earning, name) for name in ("u1", "u2", "u3")]
    assert [one.status for one in outcomes] == [
        Status.REWARDED,
        Status.AWAITING_FUNDS,
        Status.AWAITING_FUNDS,
    ]
    assert await earning.world.run(reward.retry_awaiting) == 0
    await earning.fund(campaign, "1.00")
    assert await earning.world.run(reward.retry_awaiting) == 1
    assert [(await shown(earning, one)).state for one in outcomes] == [
        "credited",
        "credited",
        "awaiting_funds",
    ]
    await earning.fund(campaign, "1.00")
    assert await earning.world.run(reward.retry_awaiting) == 1
    assert await earning.budget(campaign) == 50
    assert earning.funded == 50 + 3 * 100
    await earning.prove()


async def test_dry_campaigns_keep_no_other_waiting(
    earning: Earning, monkeypatch: pytest.MonkeyPatch
):
    """More campaigns wait than are looked at in one go: the round reaches every one."""
    await earning.add_users("u1")
    camps = [await earning.put_campaign(f"c{n}") for n in range(7)]
    for n in range(7):
        await earning.put_task(ONCE, parent=f"c{n}", reward="1.00")
        await earning.send(event(f"e{n}", "u1", "done", campaign=f"c{n}"))
    monkeypatch.setattr(reward, "MAX_CAMPAIGNS", 2)
    numbers = sorted(camp.number for camp in camps)
    await earning.fund(numbers[6], "1.00")
    await earning.fund(numbers[3], "1.00")
    moved = [await earning.world.run(reward.retry_awaiting) for _ in range(4)]
    assert moved == [0, 1, 0, 1]
    # Five are left; the round begins anew, and again after its end.
    await earning.fund(numbers[0], "1.00")
    assert await earning.world.run(reward.retry_awaiting) == 1
    await earning.fund(numbers[1], "1.00")
    moved = [await earning.world.run(reward.retry_awaiting) for _ in range(4)]
    assert sum(moved) == 1
    # One that is named is looked at whatever the round says.
    await earning.fund(numbers[5], "1.00")
    await earning.fund(numbers[4], "1.00")
    named = [
        await earning.world.run(lambda tx, n=n: reward.retry_awaiting(tx, campaign_id=n))
        for n in (numbers[5], numbers[5], numbers[2])
    ]
    assert named == [1, 0, 0]
    assert (await earning.balance("u1")).available.minor == 500
    await earning.prove()


async def test_a_batch_spends_what_is_there_and_not_more(earning: Earning):
    campaign = await offered(earning, "0.00", reward_="0.30")
    await earning.fund(campaign, "1.00")
    names = [f"x{n}" for n in range(10)]
    await earning.add_users(*names)
    outcomes = await earning.send(*(event(name, name, "done") for name in names))
    assert [one.status for one in outcomes].count(Status.REWARDED) == 3
    assert [one.status for one in outcomes].count(Status.AWAITING_FUNDS) == 7
    assert await earning.budget(campaign) == 10
    await earning.prove()


async def test_a_budget_is_not_overspent_from_two_sides(earning: Earning):
    campaign = await offered(earning, "5.00")
    names = [f"x{n}" for n in range(24)]
    await earning.add_users(*names)
    runs = await asyncio.gather(*(complete(earning, name) for name in names))
    assert [one.status for one in runs].count(Status.REWARDED) == 5
    assert await earning.budget(campaign) == 0
    await earning.prove()


async def test_a_campaign_may_refuse_when_its_budget_is_used_up(earning: Earning):
    campaign = await offered(earning, "1.00", when_exhausted="refuse")
    first, second = await complete(earning, "u1"), await complete(earning, "u2")
    assert first.status is Status.REWARDED
    assert (second.status, second.slug) == (Status.REJECTED, "budget-exhausted")
    assert (await shown(earning, second)).state == "refused"
    await earning.fund(campaign, "5.00")
    assert await earning.world.run(reward.retry_awaiting) == 0
    [again] = await earning.send(event("again", "u2", "done"))
    assert again.status is Status.RECORDED
    assert await amounts(earning, "u2") == (0, 0, 0)
    assert await take_back(earning, second) is Took.REFUSED
    with pytest.raises(Unprocessable, match="reward-not-paid"):
        await earning.world.run(lambda tx: reversal.reverse_one(tx, number(second), "x"))
    await earning.prove()


async def test_a_reward_vests_then_matures_once(earning: Earning):
    await offered(earning, "9.00", vesting_seconds=WEEK)
    outcome = await complete(earning, "u1")
    assert await amounts(earning) == (0, 100, 0)
    earning.world.clock.advance(timedelta(seconds=WEEK - 1))
    assert await earning.world.run(reward.mature_due) == 0
    earning.world.clock.advance(timedelta(seconds=1))
    done = await asyncio.gather(*(earning.world.run(reward.mature_due) for _ in range(4)))
    assert sorted(done) == [0, 0, 0, 1]
    assert await amounts(earning) == (100, 0, 0)
    assert (await shown(earning, outcome)).state == "credited"
    await earning.prove()


async def test_waiting_time_counts_as_vesting(earning: Earning):
    campaign = await offered(earning, "0.00", vesting_seconds=WEEK)
    await complete(earning, "u1")
    earning.world.clock.advance(timedelta(days=3))
    await complete(earning, "u2")
    earning.world.clock.advance(timedelta(days=5))
    await earning.fund(campaign, "2.00")
    assert await earning.world.run(reward.retry_awaiting) == 2
    assert await amounts(earning, "u1") == (100, 0, 0)
    assert await amounts(earning, "u2") == (0, 100, 0)
    await earning.prove()


async def test_a_vesting_reward_is_taken_back_from_vesting(earning: Earning):
    campaign = await offered(earning, "9.00", vesting_seconds=WEEK)
    outcome = await complete(earning, "u1")
    assert await take_back(earning, outcome) is Took.REVERSED
    assert await take_back(earning, outcome) is Took.ALREADY
    assert await amounts(earning) == (0, 0, 0)
    assert await earning.budget(campaign) == 900
    earning.world.clock.advance(timedelta(seconds=WEEK))
    assert await earning.world.run(reward.mature_due) == 0
    await earning.prove()


async def test_a_credited_reward_is_taken_back_from_available(earning: Earning):
    campaign = await offered(earning, "9.00")
    outcome = await complete(earning, "u1")
    results = await asyncio.gather(*(take_back(earning, outcome) for _ in range(4)))
    assert sorted(results) == [Took.ALREADY] * 3 + [Took.REVERSED]
    assert await amounts(earning) == (0, 0, 0)
    assert await earning.budget(campaign) == 900
    [again] = await earning.send(event("again", "u1", "done"))
    assert again.status is Status.RECORDED
    await earning.prove()


async def test_a_waiting_reward_is_taken_back_without_money(earning: Earning):
    campaign = await offered(earning, "0.00")
    outcome = await complete(earning, "u1")
    assert await take_back(earning, outcome) is Took.REVERSED
    await earning.fund(campaign, "9.00")
    assert await earning.world.run(reward.retry_awaiting) == 0
    assert await earning.budget(campaign) == 900
    await earning.prove()


async def test_after_a_withdrawal_the_rest_is_owed_and_recovered(earning: Earning):
    campaign = await offered(earning, "9.00")
    await earning.put_task(ONCE, "more", reward="0.50")
    await earning.put_campaign("slow", vesting_seconds=WEEK)
    slow = await earning.put_campaign("slow", vesting_seconds=WEEK)
    await earning.put_task(ONCE, "slow", parent="slow", reward="0.80")
    await earning.fund(slow.number, "9.00")
    outcome = await complete(earning, "u1")
    await earning.withdraw("u1", "0.70")
    assert await take_back(earning, outcome, "partner took it back") is Took.REVERSED
    assert await amounts(earning) == (0, 0, 70)
    assert await earning.budget(campaign) == 900
    await complete(earning, "u1", "more")
    assert await amounts(earning) == (0, 0, 20)
    await earning.send(event("s", "u1", "done", campaign="slow", task="slow"))
    assert await amounts(earning) == (0, 80, 20)
    earning.world.clock.advance(timedelta(seconds=WEEK))
    await earning.world.run(reward.mature_due)
    assert await amounts(earning) == (60, 0, 0)
    await earning.prove()


async def test_several_reversals_of_one_user_share_what_is_available(earning: Earning):
    await offered(earning, "9.00")
    await earning.put_task(ONCE, "more", reward="0.50")
    outcomes = [await complete(earning, "u1"), await complete(earning, "u1", "more")]
    await earning.withdraw("u1", "1.20")
    commands = [Reverse(number(one), "fraud") for one in outcomes]
    made = await earning.world.run(lambda tx: reversal.reverse(tx, commands))
    assert [one.result for one in made] == [Took.REVERSED, Took.REVERSED]
    assert await amounts(earning) == (0, 0, 120)
    await earning.prove()


async def test_a_claw_back_finds_the_reward_by_its_event(earning: Earning):
    await offered(earning, "9.00")
    outcome = await complete(earning, "u1")
    keys = [("app", "u1-task"), ("app", "none"), ("other", "u1-task")]
    found = await earning.world.read(lambda tx: reversal.of_events(tx, keys))
    assert found == {("app", "u1-task"): number(outcome)}


async def test_what_does_not_exist_is_said_so(earning: Earning):
    await offered(earning, "1.00")
    [made] = await earning.world.run(lambda tx: reversal.reverse(tx, [Reverse(1, "x")]))
    assert (made.result, made.slug) == (Took.UNKNOWN, "reward-unknown")
    with pytest.raises(NotFound, match="reward-unknown"):
        await earning.world.run(lambda tx: reversal.reverse_one(tx, 1, "x"))
    with pytest.raises(NotFound, match="reward-unknown"):
        await earning.world.read(lambda tx: reversal.get(tx, 1))


async def test_the_price_at_completion_counts(earning: Earning):
    await offered(earning, "9.00", reward_="1.00")
    first = await complete(earning, "u1")
    await earning.put_task(ONCE, reward="0.10")
    second = await complete(earning, "u2")
    assert [(await shown(earning, one)).amount.minor for one in (first, second)] == [100, 10]
    listed = await earning.world.read(
        lambda tx: reversal.listing(tx, earning.users["u2"].id, None, 10)
    )
    assert [one.wire()["amount"]["amount"] for one in listed] == ["0.10"]


async def test_an_ended_campaign_still_gives_back(earning: Earning):
    campaign = await offered(earning, "1.00")
    outcome = await complete(earning, "u1")
    await earning.put_campaign(state=OfferState.ENDED)
    assert await take_back(earning, outcome) is Took.REVERSED
    assert await earning.budget(campaign) == 100


DAMAGE: dict[str, str] = {
    "UPDATE reward SET remaining = 1 WHERE state = 'vesting'": "earn-vesting",
    "UPDATE reward SET state = 'refused', remaining = 0 WHERE state = 'vesting'": "earn-spent",
    "UPDATE reward SET amount = 101 WHERE state = 'credited'": "earn-reward-entries",
    "UPDATE reward SET state = 'reversed' WHERE state = 'credited'": "earn-reward-entries",
    "UPDATE entry SET digest = 'x' WHERE kind = 'mature'": "earn-reward-entries",
    "UPDATE task_state SET rewards = 2": "earn-reward-count",
    "UPDATE task_state SET state = 'started'": "earn-task-moves",
    "UPDATE task_state SET counted = counted + 1": "earn-counted",
    "DELETE FROM reward_move": "earn-reward-moves",
    "DELETE FROM reward WHERE state = 'credited'": "earn-spent",
    "UPDATE reward_move SET source = 'reversed' WHERE target = 'credited'": "earn-reward-legal",
    "UPDATE reward_move SET machine = 'task'": "earn-reward-legal",
    "UPDATE task_move SET event = 'granted'": "earn-task-legal",
}


async def test_the_proof_names_what_was_altered(earning: Earning):
    await offered(earning, "9.00", vesting_seconds=WEEK)
    await complete(earning, "u1")
    earning.world.clock.advance(timedelta(seconds=WEEK))
    await earning.world.run(reward.mature_due)
    await complete(earning, "u2")
    await earning.prove()
    async with await psycopg.AsyncConnection.connect(earning.world.owner_dsn) as owner:
        for damage, check in DAMAGE.items():
            await owner.execute("SET LOCAL search_path TO cell_1")
            done = await owner.execute(damage.encode())
            assert done.rowcount > 0
            tx = CellRead(owner, earning.world.clock.now(), 1, "Europe/Berlin")
            found = await proof.prove(tx)
            await owner.rollback()
            assert check in {one.check for one in found}, damage


@pytest.mark.parametrize("vesting", [0, WEEK])
async def test_debt_made_between_the_look_and_the_locks_is_still_paid_back(
    earning: Earning, monkeypatch: pytest.MonkeyPatch, vesting: int
):
    """A reversal that commits after debtors were looked up, before the accounts are locked."""
    await offered(earning, "9.00")
    await earning.put_campaign("late", vesting_seconds=vesting)
    late = await earning.put_campaign("late", vesting_seconds=vesting)
    await earning.put_task(ONCE, "late", parent="late", reward="0.80")
    await earning.fund(late.number, "9.00")
    outcome = await complete(earning, "u1")
    await earning.withdraw("u1", "1.00")
    assert await take_back(earning, outcome) is Took.REVERSED
    look, calls = reward._debtors, 0

    async def stale(tx, rows):
        nonlocal calls
        calls += 1
        return set() if calls == 1 else await look(tx, rows)

    if vesting:
        await earning.send(event("s", "u1", "done", campaign="late", task="late"))
        earning.world.clock.advance(timedelta(seconds=WEEK))
        monkeypatch.setattr(reward, "_debtors", stale)
        await earning.world.run(reward.mature_due)
    else:
        monkeypatch.setattr(reward, "_debtors", stale)
        await earning.send(event("s", "u1", "done", campaign="late", task="late"))
    assert calls == 2
    assert await amounts(earning) == (0, 0, 20)
    await earning.prove()
