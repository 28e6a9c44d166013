"""Attempts to be credited for what did not come, to take out too much, or to go unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random

import pytest
from tests.collecting import CAMPAIGN, TEN, Collecting
from tests.statements import line
from tests.store.test_payin_statements import Both, both_of, came
from tests.world import ACTOR, PostgresServer

from paymaster.db.tx import CellTx
from paymaster.dispatch import accounts
from paymaster.kernel.errors import PaymasterError, RailUnknown
from paymaster.kernel.ids import Ref
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.payin import outcome, refund
from paymaster.payin.pace import Pace
from paymaster.payin.run import Collector
from paymaster.people.machine import Status
from paymaster.people.users import Upsert, put
from paymaster.rails.base import LineKind
from paymaster.rails.payin import (
    ChargeOutcome,
    ChargeVerdict,
    RefundOutcome,
    RefundVerdict,
)
from paymaster.reconcile import resolve

FOUR = Money(400, "EUR")
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def both(postgres: PostgresServer) -> AsyncIterator[Both]:
    async with both_of(postgres) as made:
        yield made


# ---------------------------------------------------------------- lines of bills


@pytest.mark.parametrize(
    ("kind", "amount"),
    [
        (LineKind.SET_APART, "-10.00"),
        (LineKind.RETURN, "10.00"),
        (LineKind.GIVEN_BACK, "10.00"),
        (LineKind.PAYOUT, "-10.00"),
        (LineKind.OTHER, "-10.00"),
        (LineKind.OTHER, "10.00"),
        (LineKind.TOPUP, "10.00"),
    ],
)
@pytest.mark.parametrize("paid", [False, True])
async def test_only_a_line_of_what_came_in_shows_a_payment_to_us(
    both: Both, kind: LineKind, amount: str, paid: bool
) -> None:
    """A bill's row of a type that nobody listed, with our number on it, proves no payment."""
    row = await (both.till.paid() if paid else both.till.opened())
    await both.shown("100.00", line("A", amount, kind=kind, key=row.key))
    seen = await both.till.see(row)
    assert (seen.state, seen.booked_line) == ("paid" if paid else "open", None)
    assert await both.till.balance("budget", CAMPAIGN) == (1000 if paid else 0)
    assert len(await both.office.kinds()) == 1, "somebody is told of it"
    await both.assert_proven()


async def test_a_cent_and_a_word_of_the_staff_are_no_payment(both: Both) -> None:
    """Somebody pays a cent under our number, and the difference is accepted as a fee."""
    row = await both.till.opened()
    both.till.rail.pay(row.key, Money(1, "EUR"))
    await both.till.later(MINUTE)
    assert await both.till.state(row) == "disputed"
    await both.shown("0.00", came(row.key, amount="0.01"))
    assert await both.office.kinds() == ["amount-differs"]
    shown = Ref(1, await both.office.line("L1"))
    await both.till.world.run(
        lambda tx: resolve.retry(tx, shown, "their fee", accept_difference=True)
    )
    await both.office.settle()
    assert await both.till.state(row) == "disputed"
    assert await both.till.balance("budget", CAMPAIGN) == 0
    assert await both.office.kinds() == ["amount-differs"]
    await both.assert_proven()


async def test_an_accepted_difference_gives_nothing_back_that_nobody_gave_back(both: Both) -> None:
    row = await both.till.paid()
    await both.till.back(row, FOUR)
    await both.till.round()
    found = await both.till.refund(row)
    await both.shown("0.00", came(row.key), line("R", "-0.01", key=found.key))
    shown = Ref(1, await both.office.line("R"))
    await both.till.world.run(
        lambda tx: resolve.retry(tx, shown, "their fee", accept_difference=True)
    )
    await both.office.settle()
    assert (await both.till.refund(row)).state == "processing"
    assert await both.office.kinds() == ["amount-differs"]
    await both.assert_proven()


async def test_a_line_with_the_payments_number_ends_the_refund_that_was_made(both: Both) -> None:
    """Two refunds over the same amount: the older one never left, the younger one is on the bill.

    The older one waits because its user was frozen meanwhile: marked as given back it would never
    leave, and its payer would get less than was promised.
    """
    row = await both.till.paid()
    await both.till.back(row, FOUR)
    first = await both.till.refund(row)
    await both.till.back(row, FOUR)
    second = await _refund_of(both.till, row.id, first.id)

    async def gone(tx: CellTx) -> None:
        said = [RefundOutcome(second, RefundVerdict.DONE, amount=FOUR)]
        (done,) = await refund.apply(tx, both.till.account.id, said, evidence="test")
        assert done.done

    await both.till.world.run(gone)
    await both.shown("0.00", came(row.key), line("R", "-4.00", key=row.key))
    states = await _refunds(both.till, row.id)
    assert states == {first.key: ("requested", False), second: ("done", True)}
    assert await both.office.breaks() == []
    await both.till.round()
    assert set(both.till.rail.refunds) == {first.key}, "and what waited still leaves"
    await both.assert_proven()


async def test_a_line_with_the_payments_number_ends_no_refund_that_never_left(both: Both) -> None:
    """The provider took the money back by itself; ours of the same amount is still to come."""
    row = await both.till.paid()
    await both.till.back(row, FOUR)
    await both.shown("0.00", came(row.key), line("R", "-4.00", key=row.key))
    assert (await both.till.refund(row)).state == "requested"
    assert await both.office.kinds() == ["reference-unknown"]
    await both.assert_proven()


async def _refunds(till: Collecting, charge_id: int) -> dict[str, tuple[str, bool]]:
    rows = await till.world.read(
        lambda tx: tx.tuples(
            "SELECT key, state, booked_line IS NOT NULL FROM charge_refund WHERE charge_id = %s",
            (charge_id,),
        )
    )
    return {key: (state, booked) for key, state, booked in rows}


async def _refund_of(till: Collecting, charge_id: int, but: int) -> str:
    return await till.world.read(
        lambda tx: tx.value(
            "SELECT key FROM charge_refund WHERE charge_id = %s AND id <> %s", (charge_id, but)
        )
    )


# ---------------------------------------------------------------- several at once


async def test_notice_look_up_and_bill_at_once_credit_once(both: Both) -> None:
    till, row = both.till, await both.till.opened()
    till.rail.pay(row.key)
    now = till.world.clock.now()
    for number in range(6):
        await till.hear(till.rail.paid_notice(f"n{number}", now, row.key))
    said = [ChargeOutcome(row.key, ChargeVerdict.PAID, amount=TEN)]
    till.world.clock.advance(MINUTE)
    account, rails = till.account.id, till.payouts.rails
    others = [
        Collector(till.world.dbs, 1, rails, till.payouts.sealer, random=Random(n)) for n in range(3)
    ]
    told = (
        till.world.run(lambda tx: outcome.apply(tx, account, said, evidence="test"))
        for _ in range(4)
    )
    await asyncio.gather(
        *(one.tick(1) for one in others),
        *(till.settle() for _ in range(3)),
        both.shown("0.00", came(row.key)),
        *told,
    )
    for one in others:
        await one.drain()
    assert await till.state(row) == "paid"
    assert await till.balance("budget", CAMPAIGN) == 1000
    assert len(await till.told("topup.paid")) == 1
    await both.assert_proven()


async def test_several_processes_open_a_charge_once_and_order_a_refund_once(both: Both) -> None:
    till = both.till
    rows = [await till.new() for _ in range(6)]
    rails, sealer = till.payouts.rails, till.payouts.sealer
    loops = [Collector(till.world.dbs, 1, rails, sealer, random=Random(n)) for n in range(3)]

    async def round_() -> None:
        await asyncio.gather(*(one.tick(1) for one in loops))
        for one in loops:
            await one.drain()

    await round_()
    assert [till.rail.opened[row.key] for row in rows] == [1] * 6
    for row in rows:
        till.rail.pay(row.key)
    till.world.clock.advance(MINUTE)
    await round_()
    for row in rows:
        await till.back(row)
    await round_()
    assert [what for what, _ in till.rail.calls].count("refund") == 6
    await both.assert_proven()


async def test_a_flood_of_charges_holds_up_no_refund(both: Both) -> None:
    till, row = both.till, await both.till.paid()
    for _ in range(12):
        await till.new()
    await till.back(row)
    rails, sealer = till.payouts.rails, till.payouts.sealer
    loop = Collector(till.world.dbs, 1, rails, sealer, pace=Pace(items=4), random=Random(1))
    assert await loop.tick(1) == 4
    await loop.drain()
    assert (await till.refund(row)).state == "processing"
    calls = [what for what, _ in till.rail.calls]
    assert calls.count("open") == 1 + 3, "and charges go on beside it"


async def test_refunds_side_by_side_take_no_more_than_was_paid_and_is_there(both: Both) -> None:
    till, row = both.till, await both.till.paid()
    await till.paid()
    asked = await asyncio.gather(*(till.back(row, FOUR) for _ in range(8)), return_exceptions=True)
    refused = [one for one in asked if isinstance(one, PaymasterError)]
    assert len(refused) == 6
    assert {one.slug for one in refused} == {"refund-too-much"}
    assert await till.balance("budget", CAMPAIGN) == 1200
    await both.assert_proven()


async def test_a_reward_and_a_refund_at_once_spend_the_budget_once(both: Both) -> None:
    till, row = both.till, await both.till.paid()
    user = await till.user()

    async def spend(tx: CellTx) -> bool:
        spent, none = Money(700, "EUR"), Money.zero("EUR")
        postings = recipes.reward(CAMPAIGN, user, spent, vests=False, owes=False, commission=none)
        (done,) = await post(tx, [Entry(tx.id(), "reward", "x", postings)])
        return done.done

    found = await asyncio.gather(
        till.world.run(spend), till.back(row, Money(700, "EUR")), return_exceptions=True
    )
    spent, given = found[0] is True, not isinstance(found[1], BaseException)
    assert spent != given, found
    assert await till.balance("budget", CAMPAIGN) == 300


# ---------------------------------------------------------------- told to nobody


async def test_paid_without_an_amount_is_a_dispute_once_the_provider_was_asked(both: Both) -> None:
    """A look-up that says paid and not how much will say so for ever: somebody has to look."""
    till, row = both.till, await both.till.opened()
    known = till.rail.known[row.key]
    known.verdict, known.paid = ChargeVerdict.PAID, None
    now = till.world.clock.now()
    await till.hear(till.rail.notice("n1", now, row.key, verdict="paid"))
    await till.settle()
    assert await till.state(row) == "open", "a notice alone is looked up first"
    await till.later(MINUTE)
    seen = await till.see(row)
    assert (seen.state, seen.code) == ("disputed", "amount-missing")
    assert len(await till.told("topup.disputed")) == 1
    assert await till.balance("budget", CAMPAIGN) == 0
    await till.later(MINUTE)
    assert len(await till.told("topup.disputed")) == 1
    known.paid = TEN
    await till.later(timedelta(hours=7))
    assert await till.state(row) == "paid", "what it says later still counts"
    assert await till.balance("budget", CAMPAIGN) == 1000
    await both.assert_proven()


async def test_a_person_may_credit_in_full_what_came_short_by_a_coupon(both: Both) -> None:
    """The provider says paid, and that we get less: the house may bear that, by a person's word."""
    till, row = both.till, await both.till.opened()
    known = till.rail.known[row.key]
    known.verdict, known.paid = ChargeVerdict.PAID, None
    await till.later(MINUTE)
    assert await till.state(row) == "disputed"
    await both.shown("0.00", came(row.key, amount="9.50"))
    assert await both.office.kinds() == ["amount-differs"]
    assert await till.balance("budget", CAMPAIGN) == 0
    shown = Ref(1, await both.office.line("L1"))
    await till.world.run(lambda tx: resolve.retry(tx, shown, "coupon", accept_difference=True))
    await both.office.settle()
    assert await till.state(row) == "paid"
    assert await till.balance("budget", CAMPAIGN) == 1000
    assert (await both.cash(), await both.office.kinds()) == ("9.50", [])
    await both.assert_proven()


async def test_after_it_was_credited_no_amount_disputes_nothing(both: Both) -> None:
    till, row = both.till, await both.till.paid()
    said = [ChargeOutcome(row.key, ChargeVerdict.PAID)]
    (applied,) = await till.world.run(
        lambda tx: outcome.apply(tx, till.account.id, said, evidence="query")
    )
    assert (applied.done, applied.slug) == (False, "already")
    assert await till.told("topup.disputed") == []


async def test_nobodys_identity_is_kept_once_it_is_not_asked_about_any_more(both: Both) -> None:
    till = both.till
    row = await till.opened(method="app", payer="openid-of-anna", client_ip="192.0.2.7")
    till.rail.silent = 10_000
    assert (await till.see(row)).sealed is not None
    await till.later(timedelta(days=8))
    await till.later(timedelta(days=8))
    seen = await till.see(row)
    assert (seen.state, seen.due_at) == ("open", None)
    assert seen.sealed is None
    till.rail.pay(row.key)
    await till.hear(till.rail.paid_notice("late", till.world.clock.now(), row.key))
    await till.settle()
    assert await till.state(row) == "paid", "who pays so late is credited all the same"
    await both.assert_proven()


# ---------------------------------------------------------------- people and campaigns that end


async def test_a_wallet_that_was_closed_meanwhile_is_credited_and_can_be_given_back(
    both: Both,
) -> None:
    till = both.till
    user = await till.user()
    row = await till.opened(user, purpose="user")

    async def close(tx: CellTx) -> None:
        (made,) = await put(
            tx, till.payouts.sealer, [user], [Upsert(f"u-{user}", status=Status.CLOSED, reason="x")]
        )
        assert made.slug is None

    await till.world.run(close)
    till.rail.pay(row.key)
    await till.later(MINUTE)
    assert await till.state(row) == "paid"
    assert await till.balance("available", user) == 1000
    till.rail.refund_verdict = RefundVerdict.DONE
    await till.back(row)
    await till.later(MINUTE)
    assert (await till.refund(row)).state == "done"
    assert await till.balance("available", user) == 0
    await both.assert_proven()


async def test_who_was_lost_between_ordering_and_writing_gives_back_once(both: Both) -> None:
    """The order arrives, the process dies, the account is paused: still asked about, made once."""
    till, row = both.till, await both.till.paid()
    till.rail.after = [RailUnknown("provider-silent", "no answer")]
    await till.back(row)
    await till.round()
    assert (await till.refund(row)).state == "unknown"

    async def pause(state: str) -> None:
        await till.world.dbs.control.run(
            ACTOR,
            "",
            lambda tx: accounts.set_state(tx, 1, 1, till.rail.caps.name, state, "test"),
        )

    await pause("paused")
    till.rail.refund_verdict = RefundVerdict.DONE
    await till.later(MINUTE)
    assert (await till.refund(row)).state == "done"
    assert [what for what, _ in till.rail.calls].count("refund") == 1
    await both.assert_proven()
