"""Answers in any order, twice, late, contradicting each other: money moves once, on proof."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from tests.payouts import Payouts, approved, new_payee, payout_world
from tests.scripted_rails import AskableRail
from tests.withdrawals import Earner, assert_proven, available
from tests.world import PostgresServer, owner_rows

from paymaster.dispatch.outcome import Applied
from paymaster.kernel.money import Money
from paymaster.rails.base import Outcome, Verdict
from paymaster.withdraw.moves import Event, Step, move

A, P, J, R, U, N = (
    Verdict.ACCEPTED,
    Verdict.PAID,
    Verdict.REJECTED,
    Verdict.RETURNED,
    Verdict.UNKNOWN,
    Verdict.NOT_FOUND,
)
HELD, BACK, GONE = ("70.00", "30.00"), ("100.00", "0.00"), ("70.00", "0.00")


@pytest.fixture
async def payouts(postgres: PostgresServer) -> AsyncIterator[Payouts]:
    other = AskableRail("other", kinds=frozenset({"sandbox-wallet"}))
    async with payout_world(postgres, AskableRail("wallet"), other) as found:
        yield found
        await assert_proven(found.world)


class Sending:
    """A withdrawal of 30.00 that is being sent."""

    def __init__(self, payouts: Payouts, earner: Earner, withdrawal_id: int, key: str) -> None:
        self.payouts, self.earner, self.id, self.key = payouts, earner, withdrawal_id, key

    async def hears(self, *verdicts: Verdict, code: str | None = None) -> list[Applied]:
        found = [Outcome(self.key, verdict, code=code) for verdict in verdicts]
        return await self.payouts.hear("wallet", *found)

    async def stands(self) -> tuple[str, tuple[str, str]]:
        state, _ = await self.payouts.states(self.id)
        return state, await available(self.payouts.world, self.earner)


async def sending(payouts: Payouts, number: int = 1) -> Sending:
    earner = await new_payee(payouts, number)
    withdrawal_id = await approved(payouts, earner, "30.00")
    await payouts.claim()
    return Sending(payouts, earner, withdrawal_id, await payouts.key_of(withdrawal_id))


ENDS = {
    (P,): ("paid", GONE),
    (A, P): ("paid", GONE),
    (U, P): ("paid", GONE),
    (A, U, P): ("paid", GONE),
    (J,): ("failed", BACK),
    (A, J): ("failed", BACK),
    (U, J): ("failed", BACK),
    (P, R): ("returned", BACK),
    (A, P, R): ("returned", BACK),
    (U, A, P, R): ("returned", BACK),
}


async def test_the_order_of_answers_does_not_matter(payouts: Payouts) -> None:
    number = 0
    for verdicts, end in ENDS.items():
        for order in itertools.permutations(verdicts):
            number += 1
            one = await sending(payouts, number)
            # Everything is told twice, and once more at the end, as providers do.
            for verdict in (*order, *verdicts):
                await one.hears(verdict)
                await one.hears(verdict)
            assert await one.stands() == end, order


async def test_several_answers_in_one_call_are_taken_in_turn(payouts: Payouts) -> None:
    one = await sending(payouts)
    applied = await one.hears(U, A, P, P, R, A)
    assert [each.slug for each in applied] == [None, None, None, "already", None, "superseded"]
    assert await one.stands() == ("returned", BACK)


async def test_returned_before_paid_posts_both_once(payouts: Payouts) -> None:
    one = await sending(payouts)
    (applied,) = await one.hears(R, code="AC04")
    assert (applied.done, applied.state) == (True, "returned")
    assert await one.stands() == ("returned", BACK)
    (late,) = await one.hears(P)
    assert (late.done, late.slug) == (False, "superseded")
    kinds = owner_rows(
        payouts.world, "SELECT kind FROM entry WHERE kind IN ('paid', 'returned') ORDER BY id"
    )
    assert sorted(kind for (kind,) in kinds) == ["paid", "returned"]
    assert await payouts.value("SELECT closed_reason FROM destination") == "AC04"


async def test_paid_after_failed_is_not_applied_but_reported(payouts: Payouts) -> None:
    one = await sending(payouts)
    await one.hears(J, code="wallet_limit_exceeded")
    (applied,) = await one.hears(P)
    assert (applied.done, applied.slug, applied.is_break) == (False, "outcome-contradicts", True)
    assert applied.detail == "The attempt is rejected; now it is said to be paid."
    assert await one.stands() == ("failed", BACK)
    (row,) = owner_rows(
        payouts.world, "SELECT payload FROM outbox WHERE topic = 'attempt.contradicted'"
    )
    assert row[0]["verdict"] == "paid"
    assert row[0]["evidence"] == "test"


async def test_rejected_after_paid_is_a_contradiction_too(payouts: Payouts) -> None:
    one = await sending(payouts)
    await one.hears(P)
    (applied,) = await one.hears(J)
    assert applied.slug == "outcome-contradicts"
    assert await one.stands() == ("paid", GONE)


async def test_returned_after_rejected_is_a_contradiction(payouts: Payouts) -> None:
    one = await sending(payouts)
    await one.hears(J)
    (applied,) = await one.hears(R)
    assert applied.slug == "outcome-contradicts"
    assert await one.stands() == ("failed", BACK)


async def test_unknown_never_releases_the_hold(payouts: Payouts) -> None:
    one = await sending(payouts)
    for verdict in (U, U, N, U, N):
        await one.hears(verdict)
        assert await one.stands() == ("unknown", HELD)
    await one.hears(A)
    await one.hears(U)
    assert await one.stands() == ("sent", HELD)


async def test_not_found_from_a_message_proves_nothing(payouts: Payouts) -> None:
    one = await sending(payouts)
    (applied,) = await one.hears(N)
    assert (applied.done, applied.slug) == (False, "not-found-proves-nothing")
    assert await one.stands() == ("sending", HELD)


async def test_an_unknown_reference_changes_nothing(payouts: Payouts) -> None:
    (applied,) = await payouts.hear("wallet", Outcome("0" * 15, P))
    assert (applied.done, applied.slug, applied.attempt_id) == (False, "attempt-unknown", None)


async def test_another_account_cannot_speak_of_the_payment(payouts: Payouts) -> None:
    one = await sending(payouts)
    (applied,) = await payouts.hear("other", Outcome(one.key, P))
    assert applied.slug == "attempt-foreign"
    assert await one.stands() == ("sending", HELD)


@pytest.mark.parametrize("amount", [Money(2999, "EUR"), Money(3001, "EUR"), Money(3000, "USD")])
async def test_another_amount_is_not_believed(payouts: Payouts, amount: Money) -> None:
    one = await sending(payouts)
    (applied,) = await payouts.hear("wallet", Outcome(one.key, P, amount=amount))
    assert applied.slug == "outcome-amount-differs"
    assert await one.stands() == ("sending", HELD)


async def test_the_right_amount_is(payouts: Payouts) -> None:
    one = await sending(payouts)
    await payouts.hear("wallet", Outcome(one.key, P, amount=Money(3000, "EUR")))
    assert await one.stands() == ("paid", GONE)


async def test_one_that_cannot_be_applied_does_not_stop_the_others(payouts: Payouts) -> None:
    first, second = await sending(payouts, 1), await sending(payouts, 2)
    await first.hears(J)
    applied = await payouts.hear(
        "wallet",
        Outcome("0" * 15, P),
        Outcome(first.key, P),
        Outcome(second.key, P),
    )
    assert [each.done for each in applied] == [False, False, True]
    assert await second.stands() == ("paid", GONE)


async def test_a_withdrawal_that_cannot_follow_leaves_its_attempt_alone(payouts: Payouts) -> None:
    one = await sending(payouts)
    # A person turned it back by hand, which no machine allows: the attempt must not pretend.
    owner_rows(payouts.world, "UPDATE withdrawal SET state = 'in_review' RETURNING 1")
    (applied,) = await one.hears(P)
    assert (applied.done, applied.slug, applied.is_break) == (False, "withdrawal-stuck", True)
    assert await payouts.value("SELECT state FROM attempt") == "sending"
    owner_rows(payouts.world, "UPDATE withdrawal SET state = 'sending' RETURNING 1")


async def test_the_same_answer_by_two_ways_at_once_is_posted_once(payouts: Payouts) -> None:
    one = await sending(payouts)
    answers = await asyncio.gather(*(one.hears(P) for _ in range(8)))
    slugs = [applied.slug for (applied,) in answers]
    assert slugs.count(None) == 1
    assert slugs.count("already") == 7
    assert await one.stands() == ("paid", GONE)


async def test_a_return_and_a_payment_at_once(payouts: Payouts) -> None:
    for number in range(1, 7):
        one = await sending(payouts, number)
        await asyncio.gather(one.hears(R), one.hears(P), one.hears(A))
        assert await one.stands() == ("returned", BACK)


async def test_every_change_is_told_with_its_evidence(payouts: Payouts) -> None:
    one = await sending(payouts)
    await one.hears(A, P)
    rows = owner_rows(
        payouts.world,
        "SELECT topic, payload FROM outbox WHERE topic LIKE 'attempt.%%' ORDER BY message_id",
    )
    assert [topic for topic, _ in rows] == ["attempt.sent", "attempt.paid"]
    assert {payload["evidence"] for _, payload in rows} == {"test"}
    assert all(payload["subject"].startswith("wd_") for _, payload in rows)


async def test_a_later_withdrawal_does_not_get_the_answer_of_an_earlier_one(
    payouts: Payouts,
) -> None:
    first = await sending(payouts, 1)
    await first.hears(J)
    again = await approved(payouts, first.earner, "30.00")
    await payouts.claim()
    await first.hears(R)
    await first.hears(P)
    assert await payouts.states(again) == ("sending", ["sending"])
    assert await available(payouts.world, first.earner) == HELD


async def test_a_user_who_is_suspended_while_sending_still_gets_the_answer(
    payouts: Payouts,
) -> None:
    one = await sending(payouts)
    owner_rows(payouts.world, "UPDATE app_user SET status = 'suspended' RETURNING 1")
    await one.hears(A)
    await one.hears(P)
    assert await one.stands() == ("paid", GONE)


async def test_nobody_cancels_what_is_being_sent(payouts: Payouts) -> None:
    one = await sending(payouts)
    for event in (Event.CANCEL, Event.DENY, Event.HOLD):
        step = Step(one.id, event, reason="no")
        (moved,) = await payouts.world.run(lambda tx, s=step: move(tx, [s]))
        assert not moved.done
    assert await one.stands() == ("sending", HELD)


async def test_a_want_of_funds_waits_also_after_it_was_taken_in(payouts: Payouts) -> None:
    """The bank's report comes long after it took the file: the earner cannot help it either."""
    one = await sending(payouts, 1)
    await one.hears(A)
    await one.hears(J, code="AM04")
    assert await one.stands() == ("queued", HELD)
    reason = await payouts.value("SELECT reason FROM withdrawal WHERE id = %s", one.id)
    assert str(reason).startswith("AM04: attempt at_")
    await one.hears(P)
    assert await one.stands() == ("queued", HELD), "what was refused is not paid: that is a break"
    other = await sending(payouts, 2)
    await other.hears(J, code="AM04")
    assert await other.stands() == ("queued", HELD)
