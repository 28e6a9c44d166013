"""Policies of earnings: which counts, when rewards clear, what is kept in reserve, who waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from tests.clawing import DAY, Clawing, clawing_world, usd
from tests.earning import ENVIRONMENT
from tests.world import START, PostgresServer, owner_rows

from paymaster.earn import policy, reserve, reversal, reward
from paymaster.earn.policy import PutPolicy
from paymaster.earn.reversal import Took
from paymaster.kernel.errors import Conflict, NotFound, Unprocessable
from paymaster.people.kyc import Evidence, record

TENTH = {"ppm": 100_000, "seconds": 10 * DAY}


@pytest.fixture
async def claw(postgres: PostgresServer) -> AsyncIterator[Clawing]:
    async with clawing_world(postgres) as made:
        yield made


async def clears(claw: Clawing, reward_id: int) -> tuple[float, str | None]:
    """After how many days a reward matures, and the policy that says so."""
    view = await claw.world.read(lambda tx: reversal.get(tx, reward_id))
    days = (view.matures_at - claw.world.clock.now()) / timedelta(days=1)
    said = view.policy
    return round(days, 3), None if said is None else f"{said['source']}/{said['version']}"


async def test_the_most_specific_policy_in_force_counts_alone(claw: Clawing):
    await claw.earning.put_campaign(vesting_seconds=DAY)
    await claw.offer("other")
    assert await clears(claw, await claw.earn()) == (1, None)
    await claw.put(clearing_seconds=2 * DAY, reserve=TENTH)
    await claw.put("partner:acme", clearing_seconds=3 * DAY)
    await claw.put("type:custom", clearing_seconds=4 * DAY)
    await claw.put("source:tapjoy")
    await claw.put("campaign:other", clearing_seconds=6 * DAY)
    assert await clears(claw, await claw.earn()) == (4, "type:custom/1")
    assert await clears(claw, await claw.earn(source="tapjoy")) == (1, "source:tapjoy/1")
    assert await clears(claw, await claw.earn(campaign="other", source="tapjoy")) == (
        6,
        "campaign:other/1",
    )
    await claw.put("type:custom", 1, in_force=False)
    assert await clears(claw, await claw.earn()) == (3, "partner:acme/1")
    await claw.put("partner:acme", 1, in_force=False)
    first = await claw.earn()
    await claw.put(based_on=1, clearing_seconds=0)
    assert await clears(claw, first) == (2, "default/1")
    assert await clears(claw, await claw.earn()) == (0, "default/2")
    await claw.prove()


async def test_tiers_clear_sooner_or_later(claw: Clawing):
    await claw.put(clearing_seconds=9 * DAY, tiers={"full": 0, "none": 30 * DAY})
    evidence = Evidence("full", "vendor", "ref-1")
    await claw.world.run(lambda tx: record(tx, claw.user("u2"), evidence))
    evidence = Evidence("basic", "vendor", "ref-2")
    await claw.world.run(lambda tx: record(tx, claw.user("u3"), evidence))
    days = [(await clears(claw, await claw.earn(user)))[0] for user in ("u1", "u2", "u3")]
    assert days == [30, 0, 9]
    await claw.prove()


async def test_versions_follow_each_other_and_nothing_is_lost(claw: Clawing):
    with pytest.raises(NotFound, match="policy-unknown"):
        await claw.earning.control(lambda tx: policy.history(tx, ENVIRONMENT, "default"))
    with pytest.raises(Conflict, match="newest version is 0"):
        await claw.put(based_on=3, clearing_seconds=60)
    await claw.put(clearing_seconds=60)
    with pytest.raises(Conflict, match="policy-changed"):
        await claw.put(clearing_seconds=120)
    with pytest.raises(Conflict, match="policy-changed"):
        await claw.put(based_on=2, clearing_seconds=120)
    await claw.put(based_on=1, clearing_seconds=120)
    found = await claw.earning.control(lambda tx: policy.history(tx, ENVIRONMENT, "default"))
    assert [(one.row.version, one.row.terms["clearing_seconds"]) for one in found] == [
        (2, 120),
        (1, 60),
    ]
    listed = await claw.earning.control(lambda tx: policy.listing(tx, ENVIRONMENT))
    assert [one.wire()["source"] for one in listed] == ["default"]


BAD: dict[str, dict[str, Any]] = {
    "/terms": {"clearing_days": 3},
    "/terms/clearing_seconds": {"clearing_seconds": -1},
    "/terms/tiers": {"tiers": {"gold": 1}},
    "/terms/tiers/full": {"tiers": {"full": -1}},
    "/terms/reserve/ppm": {"reserve": {"ppm": 1_000_001, "seconds": 1}},
    "/terms/reserve/seconds": {"reserve": {"ppm": 1, "seconds": 0}},
    "/terms/chargeback/above_ppm": {"chargeback": {"above_ppm": -1, "window_days": 1}},
    "/terms/chargeback/window_days": {"chargeback": {"above_ppm": 1, "window_days": 0}},
    "/terms/chargeback/at_least": {"chargeback": {"above_ppm": 1, "window_days": 1, "at_least": 0}},
    "/terms/chargeback/extra_seconds": {
        "chargeback": {"above_ppm": 1, "window_days": 1, "extra_seconds": 5}
    },
    "/terms/first_payout/seconds": {"first_payout": {"seconds": -1}},
}


def test_what_a_policy_may_not_say():
    for at, terms in BAD.items():
        with pytest.raises(Unprocessable, match="policy-invalid") as refused:
            policy.check(PutPolicy("default", 0, terms, "x"))
        assert [problem.pointer for problem in refused.value.problems] == [at]
    first = {"first_payout": {"seconds": 5}}
    with pytest.raises(Unprocessable, match="policy-invalid"):
        policy.check(PutPolicy("source:x", 0, first, "x"))
    for source in ("", "default:x", "campaign:", "planet:mars", "source:" + "x" * 129):
        with pytest.raises(Unprocessable, match="policy-source"):
            policy.check(PutPolicy(source, 0, {}, "x"))


async def test_a_source_that_is_not_there_has_no_policy(claw: Clawing):
    with pytest.raises(Unprocessable, match="campaign-unknown"):
        await claw.put("campaign:none")
    with pytest.raises(Unprocessable, match="sponsor-unknown"):
        await claw.put("partner:none")


async def test_a_share_stays_aside_and_is_released_on_its_date(claw: Clawing):
    await claw.put(clearing_seconds=2 * DAY, reserve=TENTH)
    await claw.earn(reward_="1.05")
    assert await claw.balance() == {"vesting": 105}
    await claw.pass_days(2)
    assert await claw.balance() == {"available": 95, "reserve": 10}  # half to even
    [kept] = await claw.world.read(lambda tx: reserve.of_user(tx, claw.user()))
    assert (kept.amount, kept.releases_at) == (usd(10), START + timedelta(days=12))
    await claw.prove()
    await claw.pass_days(9.99)
    assert await claw.balance() == {"available": 95, "reserve": 10}
    await claw.pass_days(0.01)
    assert await claw.balance() == {"available": 105}
    await claw.prove()


async def test_what_clears_at_once_has_its_share_kept_too(claw: Clawing):
    await claw.put(reserve=TENTH)
    await claw.earn()
    assert await claw.balance() == {"available": 90, "reserve": 10}
    assert (await claw.request(await claw.destination(), 91)).slug == "insufficient-funds"
    await claw.pay(90)
    await claw.prove()


async def test_the_order_of_recovery(claw: Clawing):
    """Vesting, available, reserve, later earnings."""
    await claw.put("campaign:camp", reserve=TENTH)
    await claw.offer("slow", vesting_seconds=5 * DAY)
    first, second = await claw.earn(reward_="4.00"), await claw.earn()
    third = await claw.earn(campaign="slow", reward_="0.50")
    assert await claw.balance() == {"available": 450, "reserve": 50, "vesting": 50}
    await claw.pay(330)
    assert await claw.reverse(third) is Took.REVERSED
    assert await claw.balance() == {"available": 120, "reserve": 50}
    assert await claw.reverse(second) is Took.REVERSED
    assert await claw.balance() == {"available": 20, "reserve": 50}
    assert await claw.reverse(first) is Took.REVERSED
    assert await claw.balance() == {"debt": 330}
    [row] = owner_rows(
        claw.world,
        "SELECT from_vesting, from_available, from_reserve, owed FROM reward_reversal"
        " WHERE reward_id = %s",
        first,
    )
    assert row == (0, 20, 50, 330)
    await claw.prove()
    await claw.earn(reward_="3.50")
    assert await claw.balance() == {"reserve": 20}  # 35 of it, of what the debt has left
    assert await claw.budget() == 100_000 - 350
    await claw.pass_days(10)
    assert await claw.balance() == {"available": 20}
    await claw.prove()


async def test_the_reversed_rewards_own_reserve_is_taken_first(claw: Clawing):
    await claw.put(reserve=TENTH)
    old, new = await claw.earn(), await claw.earn()
    await claw.pay(180)
    assert await claw.reverse(new, 10, "part") is Took.REVERSED
    [kept] = await claw.world.read(lambda tx: reserve.of_user(tx, claw.user()))
    assert (kept.reward_id, kept.amount) == (old, usd(10))
    await claw.prove()


async def test_a_reserve_is_released_by_many_workers_once(claw: Clawing):
    await claw.put(reserve=TENTH)
    for user in ("u1", "u2", "u3"):
        await claw.earn(user)
    claw.world.clock.advance(timedelta(days=10))
    done = await asyncio.gather(
        *(claw.world.run(lambda tx: reserve.release_due(tx, 2)) for _ in range(4))
    )
    assert sum(done) == 3
    assert [await claw.balance(user) for user in ("u1", "u2", "u3")] == [{"available": 100}] * 3
    await claw.prove()


WATCH = {"above_ppm": 200_000, "window_days": 30, "at_least": 4}


async def test_a_user_of_whom_much_is_taken_back_clears_longer(claw: Clawing):
    await claw.put(clearing_seconds=5 * DAY, chargeback={**WATCH, "extra_seconds": 7 * DAY})
    rewards = [await claw.earn() for _ in range(4)]
    await claw.reverse(rewards[0])
    assert await clears(claw, await claw.earn("u2")) == (12, "default/1")  # the source as a whole
    await claw.pass_days(5)
    assert await claw.balance() == {"vesting": 300}
    view = await claw.world.read(lambda tx: reversal.get(tx, rewards[1]))
    assert view.waits_for == "chargeback-rate"
    assert view.matures_at == START + timedelta(days=12)
    await claw.prove()
    for _ in range(3):
        await claw.earn()  # the first of them is one of five, and clears longer at once
    await claw.pass_days(7)
    view = await claw.world.read(lambda tx: reversal.get(tx, rewards[1]))
    assert (view.state, view.waits_for) == ("credited", None)
    assert await claw.balance() == {"available": 500, "vesting": 100}
    await claw.prove()


async def test_a_reward_may_wait_for_a_person(claw: Clawing):
    await claw.put(chargeback=WATCH, clearing_seconds=DAY)
    rewards = [await claw.earn() for _ in range(4)]
    await claw.reverse(rewards[0])
    with pytest.raises(Conflict, match="reward-not-held"):
        await claw.world.run(lambda tx: reward.let_mature(tx, rewards[1]))
    with pytest.raises(NotFound, match="reward-unknown"):
        await claw.world.run(lambda tx: reward.let_mature(tx, 5))
    await claw.pass_days(2)
    assert await claw.balance() == {"vesting": 300}
    assert await claw.world.run(reward.mature_due) == 0
    for _ in range(2):
        await claw.world.run(lambda tx: reward.let_mature(tx, rewards[1]))
    await claw.work()
    await claw.pass_days(60)
    assert await claw.balance() == {"available": 100, "vesting": 200}
    await claw.reverse(rewards[2])
    await claw.prove()


async def test_the_window_moves_on(claw: Clawing):
    await claw.put(chargeback={**WATCH, "extra_seconds": DAY})
    await claw.reverse(await claw.earn())
    for _ in range(3):
        assert (await clears(claw, await claw.earn()))[0] == 0  # too few to say anything
    last = await claw.earn()
    assert (await clears(claw, last))[0] == 1
    await claw.reverse(last)
    await claw.pass_days(28)
    assert (await clears(claw, await claw.earn()))[0] == 1
    await claw.pass_days(2)
    assert (await clears(claw, await claw.earn()))[0] == 0
    await claw.prove()


@pytest.mark.parametrize("since", ["registration", "first_earning"])
async def test_a_first_payout_waits(claw: Clawing, since: str):
    await claw.put(first_payout={"seconds": 14 * DAY, "since": since})
    await claw.pass_days(4)
    await claw.earn()
    destination = await claw.destination()
    until = START + timedelta(days=14 if since == "registration" else 18)
    refused = await claw.request(destination, 10)
    assert refused.slug == "first-payout-wait"
    assert f"{until:%Y-%m-%dT%H}" in (refused.detail or "")
    claw.world.clock.advance(until - claw.world.clock.now())
    made = await claw.request(destination, 10)
    assert made.slug is None
    await claw.put(based_on=1, first_payout={"seconds": 300 * DAY, "since": since})
    assert (await claw.request(destination, 10)).slug == "first-payout-wait"
    await claw.put(based_on=2)
    await claw.pay(10)
    await claw.put(based_on=3, first_payout={"seconds": 300 * DAY, "since": since})
    assert (await claw.request(destination, 10)).slug is None  # one was paid
