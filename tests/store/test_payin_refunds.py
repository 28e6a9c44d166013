"""Money given back to a payer: set aside, ordered once, and freed by a definite word only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from tests.collecting import CAMPAIGN, Collecting, collecting_world
from tests.world import ACTOR, PostgresServer

from paymaster.dispatch import accounts
from paymaster.dispatch.accounts import NewAccount
from paymaster.kernel.errors import Conflict, NeverSent, RailUnknown, Unprocessable
from paymaster.kernel.money import Money
from paymaster.payin import refund
from paymaster.payin.machine import REFUND
from paymaster.rails.payin import RefundOutcome, RefundVerdict
from paymaster.withdraw import holds

MINUTE = timedelta(minutes=1)
FOUR = Money(400, "EUR")


@pytest.fixture
async def till(postgres: PostgresServer) -> AsyncIterator[Collecting]:
    async with collecting_world(postgres) as collecting:
        yield collecting


async def sums(till: Collecting) -> tuple[int, int, int]:
    """Budget, set aside, incoming."""
    return (
        await till.balance("budget", CAMPAIGN),
        await till.balance("refunds", till.account.id),
        -await till.balance("incoming", till.account.id),
    )


async def test_what_is_asked_for_is_set_aside_and_gone_when_the_provider_says_so(
    till: Collecting,
) -> None:
    row = await till.paid()
    await till.back(row, FOUR)
    assert await sums(till) == (600, 400, 1000)
    await till.round()
    found = await till.refund(row)
    assert (found.state, found.provider_id) == ("processing", f"rf_{found.key}")
    assert await sums(till) == (600, 400, 1000)
    till.rail.refund_verdict = RefundVerdict.DONE
    await till.later(MINUTE)
    assert (await till.refund(row)).state == "done"
    assert await sums(till) == (600, 0, 600)
    assert [one["state"] for one in await till.told("topup_refund.done")] == ["done"]
    calls = len(till.rail.calls)
    await till.later(timedelta(days=2))
    assert len(till.rail.calls) == calls
    await till.assert_proven()


async def test_a_definite_no_puts_the_money_back(till: Collecting) -> None:
    row = await till.paid()
    till.rail.refund_verdict = RefundVerdict.FAILED
    await till.back(row)
    await till.round()
    # What an order is answered is not believed: a look-up must say the same.
    assert (await till.refund(row)).state == "unknown"
    await till.later(MINUTE)
    assert (await till.refund(row)).state == "failed"
    assert await sums(till) == (1000, 0, 1000)
    assert (await till.see(row)).refunded == 0
    await till.back(row)
    assert (await till.see(row)).refunded == 1000
    await till.assert_proven()


async def test_stuck_money_stays_set_aside_until_somebody_has_seen_to_it(till: Collecting) -> None:
    row = await till.paid()
    till.rail.refund_verdict = RefundVerdict.STUCK
    await till.back(row)
    await till.later(MINUTE)
    assert (await till.refund(row)).state == "stuck"
    assert await sums(till) == (0, 1000, 1000)
    assert len(await till.told("topup_refund.stuck")) == 1
    till.rail.refund_verdict = RefundVerdict.DONE
    await till.later(timedelta(hours=7))
    assert (await till.refund(row)).state == "done"
    assert await sums(till) == (0, 0, 0)


async def test_an_order_without_an_answer_is_asked_about_and_sent_again_under_its_number(
    till: Collecting,
) -> None:
    row = await till.paid()
    till.rail.before = [RailUnknown("provider-silent", "no answer")]
    await till.back(row)
    await till.round()
    assert (await till.refund(row)).state == "unknown"
    till.rail.before = [NeverSent("transport-unreachable", "away")]
    for _ in range(6):
        await till.later(timedelta(seconds=20))
    assert (await till.refund(row)).state == "processing"
    assert len(till.rail.refunds) == 1
    other = await till.paid()
    till.rail.after = [RailUnknown("provider-silent", "no answer")]
    await till.back(other)
    await till.round()
    assert (await till.refund(other)).state == "unknown"
    ordered = [what for what, _ in till.rail.calls].count("refund")
    await till.later(MINUTE)
    assert (await till.refund(other)).state == "processing"
    assert [what for what, _ in till.rail.calls].count("refund") == ordered, "it was there"
    await till.assert_proven()


async def test_what_never_left_is_sent_when_it_can(till: Collecting) -> None:
    row = await till.paid()
    till.rail.before = [NeverSent("transport-unreachable", "away")] * 2
    await till.back(row)
    await till.round()
    assert (await till.refund(row)).state == "requested"
    for _ in range(3):
        await till.later(timedelta(seconds=10))
    assert (await till.refund(row)).state == "processing"


async def test_what_cannot_be_given_back(till: Collecting) -> None:
    row = await till.opened()
    with pytest.raises(Conflict, match="topup-not-paid"):
        await till.back(row)
    row = await till.paid()
    for amount, slug in (
        (Money(1001, "EUR"), "refund-too-much"),
        (Money(0, "EUR"), "refund-amount"),
        (Money(100, "USD"), "refund-currency"),
    ):
        with pytest.raises(Unprocessable, match=slug):
            await till.back(row, amount)
    await till.back(row, FOUR)
    with pytest.raises(Unprocessable, match="refund-too-much"):
        await till.back(row, Money(601, "EUR"))
    await till.back(row)
    with pytest.raises(Unprocessable, match="refund-too-much"):
        await till.back(row)
    other = await till.paid()
    till.world.clock.advance(timedelta(days=366))
    with pytest.raises(Unprocessable, match="refund-too-late"):
        await till.back(other)


async def test_what_was_spent_is_not_there_to_be_given_back(till: Collecting) -> None:
    from paymaster.db.tx import CellTx
    from paymaster.ledger import recipes
    from paymaster.ledger.entry import Entry
    from paymaster.ledger.post import post

    row = await till.paid()
    user = await till.user()

    async def spend(tx: CellTx) -> None:
        spent, nothing = Money(601, "EUR"), Money.zero("EUR")
        postings = recipes.reward(
            CAMPAIGN, user, spent, vests=False, owes=False, commission=nothing
        )
        (done,) = await post(tx, [Entry(tx.id(), "reward", "x", postings)])
        assert done.done

    await till.world.run(spend)
    with pytest.raises(Unprocessable, match="refund-insufficient"):
        await till.back(row, FOUR)
    assert (await till.see(row)).refunded == 0
    assert await till.world.read(lambda tx: tx.tuples("SELECT FROM charge_refund")) == []
    await till.back(row, Money(399, "EUR"))


@pytest.mark.parametrize("end", [RefundVerdict.DONE, RefundVerdict.FAILED])
async def test_what_contradicts_an_end_moves_no_money(till: Collecting, end: RefundVerdict) -> None:
    other = {RefundVerdict.DONE: RefundVerdict.FAILED, RefundVerdict.FAILED: RefundVerdict.DONE}
    row = await till.paid()
    await till.back(row)
    await till.round()
    key = (await till.refund(row)).key
    said = [
        RefundOutcome(key, end, amount=row.money),
        RefundOutcome(key, end, amount=row.money),
        RefundOutcome(key, RefundVerdict.PROCESSING),
        RefundOutcome(key, other[end], amount=row.money),
        RefundOutcome("0" * 15, end),
    ]
    applied = await till.world.run(
        lambda tx: refund.apply(tx, till.account.id, said, evidence="test")
    )
    assert [each.slug for each in applied] == [
        None, "already", "superseded", "refund-contradicted", "refund-unknown",
    ]  # fmt: skip
    foreign = await till.world.run(
        lambda tx: refund.apply(tx, till.account.id + 1, said[:1], evidence="test")
    )
    assert foreign[0].slug == "refund-foreign"
    assert (await till.refund(row)).state == end.value
    assert await sums(till) == ((0, 0, 0) if end is RefundVerdict.DONE else (1000, 0, 1000))
    await till.assert_proven()


async def test_another_amount_than_was_ordered_moves_nothing(till: Collecting) -> None:
    row = await till.paid()
    await till.back(row)
    await till.round()
    key = (await till.refund(row)).key
    said = [RefundOutcome(key, RefundVerdict.DONE, amount=FOUR)]
    (applied,) = await till.world.run(
        lambda tx: refund.apply(tx, till.account.id, said, evidence="test")
    )
    assert applied.slug == "refund-contradicted"
    assert await sums(till) == (0, 1000, 1000)


async def test_who_died_while_ordering_leaves_it_unknown(till: Collecting) -> None:
    import asyncio

    row = await till.paid()
    reached, never = asyncio.Event(), asyncio.Event()
    ordering = till.rail.refund

    async def hang(*args: Any) -> Any:
        await ordering(*args)
        reached.set()
        await never.wait()
        raise AssertionError

    till.rail.refund = hang  # pyright: ignore[reportAttributeAccessIssue]
    await till.back(row)
    await till.collector.tick(1)
    await reached.wait()
    await till.collector.stop()
    till.rail.refund = ordering
    assert (await till.refund(row)).state == "sending"
    await till.later(timedelta(seconds=61))
    assert (await till.refund(row)).state == "unknown"
    await till.round()
    assert (await till.refund(row)).state == "processing"
    assert len(till.rail.refunds) == 1


async def test_of_a_user_whom_an_authority_has_frozen_nothing_is_given_back(
    till: Collecting,
) -> None:
    user = await till.user()
    row = await till.paid(user, purpose="user")
    await till.back(row, FOUR)
    placed = await till.world.run(lambda tx: holds.place(tx, "user", user, "A-17", "order"))
    await till.later(MINUTE)
    assert (await till.refund(row)).state == "requested"
    assert till.rail.refunds == {}
    with pytest.raises(Conflict, match="held-by-order"):
        await till.back(row, FOUR)
    await till.world.run(lambda tx: holds.lift(tx, placed.id, "over"))
    await till.later(MINUTE)
    assert (await till.refund(row)).state == "processing"


async def test_after_a_change_of_settings_only_who_got_the_money_is_asked_for_it(
    till: Collecting,
) -> None:
    row = await till.paid()
    new = NewAccount(till.rail.caps.name, till.rail.caps.name, "EUR", {"payin_minimum": "1"}, {})
    await till.world.dbs.control.run(
        ACTOR, "", lambda tx: accounts.put(tx, 1, 1, new, till.payouts.rails)
    )
    theirs = till.rail.known.pop(row.key)
    await till.back(row)
    await till.later(MINUTE)
    assert (await till.refund(row)).state == "requested"
    assert "refund" not in {what for what, _ in till.rail.calls}
    till.rail.known[row.key] = theirs
    await till.later(MINUTE)
    assert (await till.refund(row)).state == "processing"


def test_only_a_definite_word_ends_a_refund() -> None:
    assert REFUND.terminal() == {"done", "failed"}
    assert "requested" not in REFUND.sources("fail"), "what was never ordered cannot have failed"
