"""What is long unknown about money that came in is told, and a person can end a refund."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from tests.collecting import CAMPAIGN, TEN, Collecting, collecting_world
from tests.world import ACTOR, PostgresServer

from paymaster.db.tx import CellTx
from paymaster.dispatch import accounts
from paymaster.kernel.errors import Conflict, NotFound, Unprocessable
from paymaster.kernel.money import Money
from paymaster.payin import decide, late, refund
from paymaster.payin.decide import Finding
from paymaster.rails.payin import RefundOutcome, RefundVerdict
from paymaster.withdraw import holds

MINUTE = timedelta(minutes=1)
AFTER = [30 * MINUTE, 240 * MINUTE]
SILENT = timedelta(hours=96)
FOUR = Money(400, "EUR")


@pytest.fixture
async def till(postgres: PostgresServer) -> AsyncIterator[Collecting]:
    async with collecting_world(postgres) as collecting:
        yield collecting


async def warned(till: Collecting) -> tuple[int, int]:
    """What one round warns of."""
    return await till.world.run(_both)


async def _both(tx: CellTx) -> tuple[int, int]:
    charges = await late.warn_charges(tx, AFTER, 100)
    return charges, await late.warn_refunds(tx, AFTER, SILENT, 100)


async def paused(till: Collecting) -> None:
    name = till.rail.caps.name
    await till.world.dbs.control.run(
        ACTOR, "", lambda tx: accounts.set_state(tx, 1, 1, name, "paused", "test")
    )


async def test_a_charge_whose_end_nobody_says_is_warned_of_once_for_each_time(
    till: Collecting,
) -> None:
    row = await till.opened()
    till.rail.silent = 10_000
    await till.later(31 * MINUTE)
    assert await warned(till) == (0, 0), "its time is just over"
    await till.later(30 * MINUTE)
    assert await warned(till) == (1, 0)
    assert await warned(till) == (0, 0)
    await till.later(timedelta(hours=9))
    assert await warned(till) == (1, 0)
    await till.later(timedelta(days=9))
    assert await warned(till) == (0, 0)
    first, second = await till.told("topup.unknown_old")
    assert (first["minutes"], second["minutes"]) == (30, 240)
    assert first["state"] == "open"
    assert await till.state(row) == "open", "a warning moves nothing"
    await till.assert_proven()


async def test_nobody_is_warned_of_what_has_its_end_or_was_told(till: Collecting) -> None:
    await till.paid()
    await till.opened()
    other = await till.opened()
    till.rail.pay(other.key, FOUR)
    await till.later(31 * MINUTE)
    assert await till.state(other) == "disputed"
    await till.later(timedelta(days=1))
    assert await warned(till) == (0, 0)


async def test_what_a_missing_rail_leaves_behind_is_warned_of(till: Collecting) -> None:
    """Nobody asks at all: the rail of the account is not installed here any more."""
    await till.opened()
    paid = await till.paid()
    await till.back(paid, FOUR)
    rail = till.payouts.rails.pop(till.rail.caps.name)
    await till.later(timedelta(days=1))
    till.payouts.rails[till.rail.caps.name] = rail
    assert await warned(till) == (1, 1)
    (told,) = await till.told("topup_refund.unknown_old")
    assert (told["state"], told["minutes"]) == ("requested", 240)


async def test_a_refund_that_does_not_end_is_warned_of_once_it_is_silent_for_long(
    till: Collecting,
) -> None:
    row = await till.paid()
    await till.back(row)
    await till.round()
    assert (await till.refund(row)).state == "processing"
    await till.later(timedelta(hours=95))
    assert await warned(till) == (0, 0)
    await till.later(timedelta(hours=2))
    assert await warned(till) == (0, 1)
    await till.later(timedelta(days=30))
    assert await warned(till) == (0, 0)
    (told,) = await till.told("topup_refund.unknown_old")
    assert told["minutes"] == 96 * 60


async def said(till: Collecting, row_id: int, finding: Finding, proof: str = "portal") -> str:
    ended = await till.world.run(lambda tx: decide.decide(tx, row_id, finding, proof))
    return ended.state


@pytest.mark.parametrize("finding", list(Finding))
async def test_a_person_ends_what_the_provider_refuses_for_good(
    till: Collecting, finding: Finding
) -> None:
    from paymaster.kernel.errors import RailUnknown

    row = await till.paid()
    till.rail.before = [RailUnknown("provider-refused", "no")]
    await till.back(row, FOUR)
    await till.round()
    found = await till.refund(row)
    assert found.state == "unknown"
    done = finding is Finding.DONE
    assert await said(till, found.id, finding) == ("done" if done else "failed")
    assert await till.balance("budget", CAMPAIGN) == (600 if done else 1000)
    assert await till.balance("refunds", till.account.id) == 0
    assert (await till.see(row)).refunded == (400 if done else 0)
    calls = len(till.rail.calls)
    await till.later(timedelta(days=1))
    assert len(till.rail.calls) == calls, "it is neither ordered nor asked about again"
    with pytest.raises(Conflict, match="refund-decided"):
        await said(till, found.id, finding)
    acts = await till.world.read(
        lambda tx: tx.tuples("SELECT reason FROM audit WHERE action = 'topup_refund.decide'")
    )
    assert acts == [("portal",)]
    await till.assert_proven()


async def test_what_never_left_is_dropped_and_leaves_no_more(till: Collecting) -> None:
    row = await till.paid()
    await paused(till)
    await till.back(row)
    await till.round()
    found = await till.refund(row)
    assert found.state == "requested"
    assert await said(till, found.id, Finding.NOT_DONE) == "failed"
    assert await till.balance("budget", CAMPAIGN) == 1000
    assert (await till.see(row)).refunded == 0
    assert till.rail.refunds == {}
    again = await till.back(row)
    assert again.key != found.key
    await till.assert_proven()


async def test_what_was_decided_and_is_contradicted_moves_no_money_and_is_told(
    till: Collecting,
) -> None:
    row = await till.paid()
    await till.back(row)
    await till.round()
    found = await till.refund(row)
    till.world.clock.advance(MINUTE)
    await said(till, found.id, Finding.NOT_DONE)
    outcome = [RefundOutcome(found.key, RefundVerdict.DONE, amount=TEN)]
    (applied,) = await till.world.run(
        lambda tx: refund.apply(tx, till.account.id, outcome, evidence="test")
    )
    assert applied.slug == "refund-contradicted"
    assert await till.balance("budget", CAMPAIGN) == 1000
    await till.assert_proven()


async def test_nothing_is_decided_while_the_provider_is_being_asked(till: Collecting) -> None:
    import asyncio

    row = await till.paid()
    reached, go_on = asyncio.Event(), asyncio.Event()
    ordering = till.rail.refund

    async def slow(*args: Any) -> Any:
        reached.set()
        await go_on.wait()
        return await ordering(*args)

    till.rail.refund = slow  # pyright: ignore[reportAttributeAccessIssue]
    await till.back(row)
    await till.collector.tick(1)
    await reached.wait()
    found = await till.refund(row)
    with pytest.raises(Conflict, match="refund-in-work"):
        await said(till, found.id, Finding.NOT_DONE)
    go_on.set()
    await till.collector.drain()
    assert (await till.refund(row)).state == "processing"
    asking, asked = till.rail.find_refund, asyncio.Event()

    async def slow_look(*args: Any) -> Any:
        asked.set()
        await never.wait()
        return await asking(*args)

    never = asyncio.Event()
    till.rail.find_refund = slow_look  # pyright: ignore[reportAttributeAccessIssue]
    till.world.clock.advance(MINUTE)
    await till.collector.tick(1)
    await asked.wait()
    with pytest.raises(Conflict, match="refund-in-work"):
        await said(till, found.id, Finding.NOT_DONE)
    never.set()
    await till.collector.drain()
    assert await said(till, found.id, Finding.DONE) == "done"
    await till.assert_proven()


async def test_who_decides_needs_a_proof_a_refund_and_no_order_of_an_authority(
    till: Collecting,
) -> None:
    user = await till.user()
    row = await till.paid(user, purpose="user")
    made = await till.back(row, FOUR)
    with pytest.raises(Unprocessable, match="reason-missing"):
        await said(till, made.id, Finding.DONE, "  ")
    with pytest.raises(NotFound):
        await said(till, made.id + 1, Finding.DONE)
    await till.world.run(lambda tx: holds.place(tx, "user", user, "A-17", "order"))
    with pytest.raises(Conflict, match="held-by-order"):
        await said(till, made.id, Finding.NOT_DONE)
    assert (await till.refund(row)).state == "requested"
