"""Automatic payouts: made once a period whatever happens, skipped with a reason, told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.withdrawals import (
    Earner,
    assert_proven,
    available,
    bring,
    insert_destination,
    new_earner,
    requested,
)
from tests.world import PostgresServer, World, make_world, owner_rows

from paymaster.kernel.errors import Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.people.factors.binding import Purpose
from paymaster.people.factors.policy import Policy, Rule
from paymaster.people.factors.proof import Shown
from paymaster.withdraw import automatic
from paymaster.withdraw.automatic import Choice, Rules
from paymaster.withdraw.automatic_schedule import Plan
from paymaster.withdraw.fee_plans import Plans
from paymaster.withdraw.fees import FeePlan
from paymaster.withdraw.request_checks import Limits

TEN = Money.parse("10.00", "EUR")
DAILY = Plan("schedule", TEN, None, "day")
REACHED = Plan("threshold", TEN)
NO_PROOF = Shown(required=False)


@pytest.fixture
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with make_world(postgres) as made:
        yield made
        await assert_proven(made)


async def chosen(world: World, one: Earner, plan: Plan = DAILY, shown: Shown = NO_PROOF) -> None:
    choice = Choice(plan, one.destination_id)
    await world.run(lambda tx: automatic.choose(tx, one.user_id, choice, shown))


async def run(world: World, rules: Rules | None = None) -> int:
    """One round of a worker: schedules, then thresholds."""
    rules = rules or Rules()
    done = await world.run(lambda tx: automatic.run_scheduled(tx, rules, 100))
    ready, _ = await world.read(lambda tx: automatic.reached(tx, (0, "")))
    return done + await world.run(lambda tx: automatic.run_reached(tx, rules, ready))


async def next_day(world: World) -> None:
    world.clock.advance(timedelta(days=1))


async def note(world: World, one: Earner) -> str | None:
    (row,) = await world.read(lambda tx: automatic.listing(tx, one.user_id))
    return row.last_slug


def told(world: World) -> list[Any]:
    rows = owner_rows(
        world,
        "SELECT payload FROM outbox WHERE topic = 'automatic_payout.skipped'"
        " ORDER BY commit_id, ordinal",
    )
    return [payload for (payload,) in rows]


# --------------------------------------------------------------------------------- paid


async def test_a_schedule_pays_all_there_is_once_a_period(world: World) -> None:
    one = await new_earner(world, "42.00")
    await chosen(world, one)
    assert await run(world) == 0, "today has begun already"
    await next_day(world)
    assert await run(world) == 1
    assert await run(world) == 0
    assert await available(world, one) == ("0.00", "42.00")
    ((key, amount),) = owner_rows(
        world, "SELECT r.key, w.amount FROM automatic_run r JOIN withdrawal w"
        " ON w.id = r.withdrawal_id",
    )  # fmt: skip
    assert (key, amount) == (f"auto:{text_id('us', 1, one.user_id)}:EUR:2026-11-21", 4200)
    assert await note(world, one) is None
    await next_day(world)
    assert await run(world) == 1
    assert await note(world, one) == "automatic-below-minimum"


async def test_a_threshold_pays_when_it_is_reached_and_not_before(world: World) -> None:
    poor, rich = await new_earner(world, "9.99"), await new_earner(world, "10.00")
    for each in (poor, rich):
        await chosen(world, each, REACHED)
    assert await run(world) == 1
    assert await available(world, rich) == ("0.00", "10.00")
    assert await available(world, poor) == ("9.99", "0.00")
    assert await note(world, poor) is None, "it was not due"
    assert await run(world) == 0


async def test_no_more_than_is_allowed_goes_at_once(world: World) -> None:
    one, other = await new_earner(world, "50.00"), await new_earner(world, "50.00")
    await chosen(world, one, replace(REACHED, at_most=Money.parse("20.00", "EUR")))
    await chosen(world, other, REACHED)
    limits = {"EUR": Limits(maximum=Money.parse("30.00", "EUR"))}
    assert await run(world, Rules(limits)) == 2
    assert await available(world, one) == ("30.00", "20.00")
    assert await available(world, other) == ("20.00", "30.00"), "the rules' largest amount"
    assert await run(world, Rules(limits)) == 0, "once a day"
    await next_day(world)
    assert await run(world, Rules(limits)) == 2


async def test_the_fee_is_taken_out_of_all_there_is(world: World) -> None:
    one = await new_earner(world, "50.00")
    await chosen(world, one, REACHED)
    plans = Plans(1, (FeePlan("bank", 1, "EUR", "sender", flat=25, ppm=10_000),))
    assert await run(world, Rules(plans=plans)) == 1
    free, held = await available(world, one)
    assert (free, held) == ("0.00", "50.00")


# -------------------------------------------------------------------------------- skipped


async def _suspended(world: World, one: Earner) -> None:
    owner_rows(
        world, "UPDATE app_user SET status = 'suspended' WHERE id = %s RETURNING 1", one.user_id
    )


async def _closed(world: World, one: Earner) -> None:
    owner_rows(
        world,
        "UPDATE destination SET state = 'closed' WHERE id = %s RETURNING 1",
        one.destination_id,
    )


async def _paused(world: World, one: Earner) -> None:
    owner_rows(
        world,
        "UPDATE destination SET state = 'paused' WHERE id = %s RETURNING 1",
        one.destination_id,
    )


@pytest.mark.parametrize(
    ("spoil", "slug"),
    [
        (_suspended, "user-suspended"),
        (_closed, "destination-closed"),
        (_paused, "destination-paused"),
    ],
)
async def test_what_is_skipped_says_why_and_is_told_once(
    world: World, spoil: Any, slug: str
) -> None:
    one = await new_earner(world, "42.00")
    await chosen(world, one)
    await spoil(world, one)
    for _ in range(3):
        await next_day(world)
        assert await run(world) == 1
    (row,) = await world.read(lambda tx: automatic.listing(tx, one.user_id))
    assert row.last_slug == slug
    assert (row.last_detail or "").startswith("Skipped because: ")
    assert row.due_at == datetime.fromisoformat("2026-11-23T23:00:00+00:00")
    (payload,) = told(world)
    assert payload["reason"] == slug
    assert payload["user"] == text_id("us", 1, one.user_id)
    assert await available(world, one) == ("42.00", "0.00")


async def test_a_debt_is_paid_back_first(world: World) -> None:
    from paymaster.ledger import recipes
    from paymaster.ledger.entry import Entry
    from paymaster.ledger.post import post

    one = await new_earner(world, "42.00")
    await chosen(world, one, REACHED)

    async def owe(tx: Any) -> None:
        zero = Money.zero("EUR")
        postings = recipes.reverse(1, one.user_id, Money.parse("50.00", "EUR"), zero)
        (done,) = await post(tx, [Entry(tx.id(), "reverse", "rw_x", postings)])
        assert done.done
        # Earned under a recipe that does not pay debts back, so that both stand side by side.
        postings = recipes.reward(1, one.user_id, TEN, vests=False, owes=False, commission=zero)
        (done,) = await post(tx, [Entry(tx.id(), "reward", "x", postings)])
        assert done.done

    await world.run(owe)
    assert await run(world) == 1
    assert await note(world, one) == "debt-open"


async def test_a_destination_that_sends_everything_back_gets_no_third(world: World) -> None:
    one = await new_earner(world, "42.00")
    for _ in range(2):
        await bring(world, await requested(world, one, "12.00"), "returned")
    await chosen(world, one, REACHED)
    assert await run(world) == 1
    assert await note(world, one) == "automatic-came-back"
    assert await available(world, one) == ("42.00", "0.00")
    await bring(world, await requested(world, one, "12.00"), "paid")
    await next_day(world)
    assert await run(world) == 1
    assert await note(world, one) is None
    assert await available(world, one) == ("0.00", "30.00")


async def test_a_reason_that_changes_is_told_again(world: World) -> None:
    one = await new_earner(world, "5.00")
    await chosen(world, one)
    await next_day(world)
    await run(world)
    await _suspended(world, one)
    owner_rows(world, "UPDATE automatic_payout SET minimum = 100 RETURNING 1")
    await next_day(world)
    await run(world)
    reasons = [payload["reason"] for payload in told(world)]
    assert reasons == ["automatic-below-minimum", "user-suspended"]


async def test_what_was_missed_while_nothing_ran_is_made_up_for_once(world: World) -> None:
    one = await new_earner(world, "42.00")
    await chosen(world, one)
    world.clock.advance(timedelta(days=9))
    assert await run(world) == 1
    assert await run(world) == 0
    assert owner_rows(world, "SELECT count(*) FROM withdrawal") == [(1,)]


# ------------------------------------------------------------------------------ only once


async def test_two_workers_at_once_make_one_payout(world: World) -> None:
    earners = [await new_earner(world, "42.00") for _ in range(6)]
    for each in earners:
        await chosen(world, each)
    await next_day(world)
    done = await asyncio.gather(
        *(world.run(lambda tx: automatic.run_scheduled(tx, Rules(), 4)) for _ in range(4))
    )
    assert sum(done) == 6
    assert owner_rows(world, "SELECT count(*), count(DISTINCT user_id) FROM withdrawal") == [(6, 6)]


async def test_a_crash_before_the_commit_leaves_nothing_and_is_done_again(world: World) -> None:
    one = await new_earner(world, "42.00")
    await chosen(world, one)
    await next_day(world)

    async def crash(tx: Any) -> None:
        assert await automatic.run_scheduled(tx, Rules(), 10) == 1
        raise RuntimeError("the process ends here")

    with pytest.raises(RuntimeError):
        await world.run(crash)
    assert await available(world, one) == ("42.00", "0.00")
    assert await run(world) == 1
    assert await available(world, one) == ("0.00", "42.00")


async def test_a_period_that_was_paid_is_never_paid_again(world: World) -> None:
    """Whatever the row says: it is set back by hand, as if it had never run."""
    one = await new_earner(world, "42.00")
    await chosen(world, one, replace(DAILY, at_most=TEN))
    await next_day(world)
    await run(world)
    owner_rows(world, "UPDATE automatic_payout SET due_at = due_at - interval '1 day' RETURNING 1")
    assert await run(world) == 1
    assert owner_rows(world, "SELECT count(*) FROM withdrawal") == [(1,)]
    assert await available(world, one) == ("32.00", "10.00")


# ------------------------------------------------------------------------------- defaults


async def test_an_environment_s_default_is_for_all_who_have_chosen_nothing(world: World) -> None:
    one, own, two_places = [await new_earner(world, "42.00") for _ in range(3)]
    await chosen(world, own, Plan("off", TEN))
    await world.run(lambda tx: insert_destination(tx, two_places.user_id))
    plans = {"EUR": DAILY}
    assert await world.run(lambda tx: automatic.adopt(tx, DAILY, 0)) is None
    await next_day(world)
    assert await run(world) == 2
    assert await available(world, one) == ("0.00", "42.00")
    assert await available(world, own) == ("42.00", "0.00")
    assert await note(world, two_places) == "automatic-no-destination"
    assert await world.run(lambda tx: automatic.conform(tx, plans, 100)) == 0
    assert await world.run(lambda tx: automatic.conform(tx, {}, 100)) == 2
    await next_day(world)
    assert await run(world) == 0
    assert await world.run(lambda tx: automatic.adopt(tx, DAILY, 0)) is None
    assert await world.run(lambda tx: automatic.conform(tx, plans, 1)) == 1, "in batches"


async def test_a_stricter_policy_stops_what_was_never_confirmed(world: World) -> None:
    one = await new_earner(world, "42.00")
    await chosen(world, one, REACHED)
    steps = Policy((Rule(Purpose.WITHDRAWAL, "EUR", 2000),))
    await run(world, Rules(steps=steps))
    assert await note(world, one) == "automatic-unproven"


async def test_a_confirmation_needs_to_say_how_much(world: World) -> None:
    one = await new_earner(world, "42.00")
    with pytest.raises(Unprocessable) as caught:
        await chosen(world, one, REACHED, Shown(required=True))
    assert caught.value.slug == "automatic-at-most-missing"
