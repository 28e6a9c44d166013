"""Sending: what happens between the intent and the answer, and when there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import LAG, WINDOW, AskableRail
from tests.withdrawals import assert_proven, available
from tests.world import PostgresServer, owner_rows

from paymaster.dispatch.desk import Pace
from paymaster.dispatch.send import Answer
from paymaster.kernel.errors import Broken, NeverSent, RailRefused, RailUnknown
from paymaster.kernel.money import Money
from paymaster.rails.base import Outcome, Verdict


def silence() -> RailUnknown:
    return RailUnknown("provider-silent", "No answer.")


def refusal(code: str) -> RailRefused:
    return RailRefused("provider-refused", "No.", extra={"code": code})


def never() -> NeverSent:
    return NeverSent("provider-unreachable", "No connection.")


@pytest.fixture
def rail() -> AskableRail:
    return AskableRail("wallet")


@pytest.fixture
async def payouts(postgres: PostgresServer, rail: AskableRail) -> AsyncIterator[Payouts]:
    async with payout_world(postgres, rail) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


async def one(payouts: Payouts, amount: str = "30.00", number: int = 1) -> int:
    return await approved(payouts, await new_payee(payouts, number), amount)


def later(payouts: Payouts, step: timedelta) -> None:
    payouts.world.clock.advance(step)


# ------------------------------------------------------------------------------- the way


async def test_an_approved_withdrawal_is_sent_and_paid(payouts: Payouts) -> None:
    earner = await new_payee(payouts, 1)
    withdrawal = await approved(payouts, earner, "30.00", "1.00")
    (order,) = await payouts.claim()
    assert await payouts.states(withdrawal) == ("sending", ["sending"])
    await payouts.deliver([order])
    assert await payouts.states(withdrawal) == ("sent", ["sent"])
    key = await payouts.key_of(withdrawal)
    assert order.prepared.keys == (key,)
    assert len(key) == 15
    await payouts.hear("wallet", Outcome(key, Verdict.PAID))
    assert await payouts.states(withdrawal) == ("paid", ["paid"])
    assert await available(payouts.world, earner) == ("69.00", "0.00")


async def test_the_exact_bytes_are_stored_sealed_before_anything_is_sent(
    payouts: Payouts, rail: AskableRail
) -> None:
    await one(payouts)
    (order,) = await payouts.claim()
    assert rail.orders == []
    assert b"DE" in order.prepared.body
    ((sealed, digest),) = owner_rows(payouts.world, "SELECT sealed, digest FROM batch")
    for part in (b"DE", b"payments", order.prepared.batch_key.encode()):
        assert part in order.prepared.body
        assert part not in bytes(sealed) or part == b"DE"
    assert len(bytes(digest)) == 32


async def test_nothing_is_sent_inside_a_transaction(payouts: Payouts) -> None:
    await one(payouts)
    (order,) = await payouts.claim()

    async def work(_tx: object) -> Answer:
        return (await payouts.call(order)).answer

    # The rail's guard raises Broken; nothing left, and the order is unknown, not lost.
    assert await payouts.world.run(work) is Answer.UNKNOWN


# ------------------------------------------------------------------------------- silence


async def test_lost_answer_after_paying_is_asked_about_and_paid_once(
    payouts: Payouts, rail: AskableRail
) -> None:
    earner = await new_payee(payouts, 1)
    withdrawal = await approved(payouts, earner, "30.00")
    rail.after = [silence()]
    await payouts.deliver(await payouts.claim())
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])
    assert await available(payouts.world, earner) == ("70.00", "30.00")
    later(payouts, timedelta(seconds=5))
    assert await payouts.ask("wallet") == {}
    assert await payouts.states(withdrawal) == ("paid", ["paid"])
    assert len(rail.orders) == 1
    assert await available(payouts.world, earner) == ("70.00", "0.00")


async def test_gumroad_7569_a_read_timeout_stays_unknown_until_there_is_proof(
    payouts: Payouts, rail: AskableRail
) -> None:
    earner = await new_payee(payouts, 1)
    withdrawal = await approved(payouts, earner, "30.00")
    rail.before = [silence()]
    rail.silent = 3
    await payouts.deliver(await payouts.claim())
    for _ in range(3):
        later(payouts, timedelta(minutes=20))
        await payouts.ask("wallet")
        await payouts.replays("wallet")
        assert await payouts.states(withdrawal) == ("unknown", ["unknown"])
        assert await available(payouts.world, earner) == ("70.00", "30.00")
    assert len(rail.orders) == 1


async def test_not_found_is_no_proof_before_the_lag_is_over(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawal = await one(payouts)
    rail.before = [silence()]
    await payouts.deliver(await payouts.claim())
    later(payouts, LAG - timedelta(seconds=1))
    assert await payouts.ask("wallet") == {}
    assert rail.questions
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])


async def test_it_is_asked_again_as_soon_as_not_found_is_proof(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawal = await one(payouts)
    rail.before = [silence()]
    await payouts.deliver(await payouts.claim())
    for _ in range(4):  # the pauses grow: without a date the next question would come long after
        later(payouts, (LAG - timedelta(seconds=4)) / 4)
        assert await payouts.ask("wallet") == {}
    assert len(rail.questions) >= 3
    later(payouts, timedelta(seconds=4))
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("sent", ["sent"])


async def test_after_the_lag_the_same_bytes_go_again_under_the_same_key(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawal = await one(payouts)
    rail.before = [silence()]
    await payouts.deliver(await payouts.claim())
    later(payouts, LAG)
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("sent", ["sent"])
    assert len(rail.orders) == 2
    assert len(rail.bodies) == 1
    assert {order.keys for order in rail.orders} == {(await payouts.key_of(withdrawal),)}


async def test_a_replay_that_is_refused_is_a_no_because_absence_was_proven(
    payouts: Payouts, rail: AskableRail
) -> None:
    earner = await new_payee(payouts, 1)
    withdrawal = await approved(payouts, earner, "30.00")
    rail.before = [silence(), refusal("wallet_unknown")]
    await payouts.deliver(await payouts.claim())
    later(payouts, LAG)
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("failed", ["rejected"])
    assert await available(payouts.world, earner) == ("100.00", "0.00")


async def test_a_replay_that_never_left_does_not_undo_the_first_try(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawal = await one(payouts)
    rail.before = [silence(), never()]
    await payouts.deliver(await payouts.claim())
    later(payouts, LAG)
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])
    assert await payouts.value("SELECT state FROM batch") == "unknown"


async def test_nothing_is_replayed_after_the_window(payouts: Payouts, rail: AskableRail) -> None:
    withdrawal = await one(payouts)
    rail.before = [silence()]
    await payouts.deliver(await payouts.claim())
    later(payouts, WINDOW)
    await payouts.run(payouts.dispatcher())
    assert rail.questions
    assert len(rail.orders) == 1
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyError("x"), Broken("odd", "Odd.")])
async def test_any_other_error_out_of_a_rail_is_unknown(
    payouts: Payouts, rail: AskableRail, error: Exception
) -> None:
    withdrawal = await one(payouts)
    rail.after = [error]
    await payouts.deliver(await payouts.claim())
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])


async def test_a_call_that_takes_too_long_is_unknown(payouts: Payouts, rail: AskableRail) -> None:
    payouts.pace = Pace(call=timedelta(milliseconds=20))
    withdrawal = await one(payouts)
    rail.gate = asyncio.Event()
    await payouts.deliver(await payouts.claim())
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])


async def test_a_payment_that_the_answer_leaves_out_is_unknown(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawal = await one(payouts)
    (order,) = await payouts.claim()
    key = order.prepared.keys[0]
    rail.fates = {key: Outcome("0" * 15, Verdict.PAID)}
    await payouts.deliver([order])
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])


async def test_not_found_in_the_answer_to_an_order_is_unknown(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawal = await one(payouts)
    (order,) = await payouts.claim()
    key = order.prepared.keys[0]
    rail.fates = {key: Outcome(key, Verdict.NOT_FOUND)}
    await payouts.deliver([order])
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])


async def test_an_answer_over_another_amount_is_unclear_and_reported(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawal = await one(payouts)
    (order,) = await payouts.claim()
    key = order.prepared.keys[0]
    rail.fates = {key: Outcome(key, Verdict.PAID, amount=Money(3001, "EUR"))}
    applied = await payouts.finish(await payouts.call(order))
    assert [each.slug for each in applied] == ["outcome-amount-differs", None]
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])
    assert await payouts.value("SELECT count(*) FROM outbox WHERE topic = 'attempt.contradicted'")


# ------------------------------------------------------------------------------ no, never


async def test_what_never_left_is_due_again_with_the_same_bytes(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawal = await one(payouts)
    rail.before = [never(), never()]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    assert await payouts.states(withdrawal) == ("sending", ["sending"])
    assert await payouts.value("SELECT state FROM batch") == "prepared"
    assert len(rail.orders) == 1
    later(payouts, timedelta(seconds=1))
    await payouts.run(dispatcher)
    assert len(rail.orders) == 2
    later(payouts, timedelta(seconds=2))
    await payouts.run(dispatcher)
    assert await payouts.states(withdrawal) == ("sent", ["sent"])
    assert len(rail.orders) == 3
    assert len(rail.bodies) == 1
    assert await payouts.value("SELECT count(*) FROM attempt") == 1


async def test_a_definite_no_gives_the_money_back_once(payouts: Payouts, rail: AskableRail) -> None:
    earner = await new_payee(payouts, 1)
    withdrawal = await approved(payouts, earner, "30.00", "1.00")
    rail.before = [refusal("wallet_limit_exceeded")]
    await payouts.deliver(await payouts.claim())
    assert await payouts.states(withdrawal) == ("failed", ["rejected"])
    assert await available(payouts.world, earner) == ("100.00", "0.00")
    assert await payouts.value("SELECT reason FROM withdrawal") == "wallet_limit_exceeded"
    assert await payouts.value("SELECT state FROM destination") == "active"


async def test_a_dead_destination_is_closed_with_the_reason(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawal = await one(payouts)
    rail.before = [refusal("wallet_closed")]
    await payouts.deliver(await payouts.claim())
    assert await payouts.states(withdrawal) == ("failed", ["rejected"])
    assert await payouts.value("SELECT closed_reason FROM destination") == "wallet_closed"


async def test_while_our_float_is_short_the_payment_waits_and_is_made_anew(
    payouts: Payouts, rail: AskableRail
) -> None:
    earner = await new_payee(payouts, 1)
    withdrawal = await approved(payouts, earner, "30.00")
    rail.before = [refusal("insufficient_funds"), refusal("insufficient_funds")]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    assert await payouts.states(withdrawal) == ("queued", ["rejected"])
    assert await available(payouts.world, earner) == ("70.00", "30.00")
    for _ in range(2):
        later(payouts, timedelta(minutes=10))
        await payouts.run(dispatcher)
    assert await payouts.states(withdrawal) == ("sent", ["rejected", "rejected", "sent"])
    assert len({key for order in rail.orders for key in order.keys}) == 3


async def test_killbill_1015_success_of_the_first_attempt_after_a_second_one(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawal = await one(payouts)
    rail.before = [refusal("insufficient_funds")]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    later(payouts, timedelta(minutes=10))
    await payouts.run(dispatcher)
    first, second = [await payouts.key_of(withdrawal, number) for number in (1, 2)]
    (applied,) = await payouts.hear("wallet", Outcome(first, Verdict.PAID))
    assert applied.slug == "outcome-contradicts"
    assert applied.is_break
    assert await payouts.states(withdrawal) == ("sent", ["rejected", "sent"])
    await payouts.hear("wallet", Outcome(second, Verdict.PAID))
    assert await payouts.states(withdrawal) == ("paid", ["rejected", "paid"])


async def test_an_accepted_payment_whose_message_was_lost_is_asked_about(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawal = await one(payouts)
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    key = await payouts.key_of(withdrawal)
    rail.answers = {key: Verdict.ACCEPTED}
    asked = 0
    for _ in range(6):
        later(payouts, timedelta(minutes=20))
        await payouts.run(dispatcher)
        assert await payouts.states(withdrawal) == ("sent", ["sent"])
        assert len(rail.questions) > asked
        asked = len(rail.questions)
    rail.answers = {key: Verdict.PAID}
    later(payouts, timedelta(hours=1))
    await payouts.run(dispatcher)
    assert await payouts.states(withdrawal) == ("paid", ["paid"])
    asked = len(rail.questions)
    later(payouts, timedelta(days=1))
    await payouts.run(dispatcher)
    assert len(rail.questions) == asked


async def test_a_webhook_that_overtakes_the_answer_of_the_call(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawal = await one(payouts)
    (order,) = await payouts.claim()
    sent = await payouts.call(order)
    key = order.prepared.keys[0]
    await payouts.hear("wallet", Outcome(key, Verdict.PAID))
    assert await payouts.states(withdrawal) == ("paid", ["paid"])
    (applied,) = await payouts.finish(sent)
    assert (applied.done, applied.slug) == (False, "superseded")
    assert await payouts.states(withdrawal) == ("paid", ["paid"])
    assert rail.paid[key] == 1
