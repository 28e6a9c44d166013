"""Processes that die or sleep in the middle, and several of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import LAG, AskableRail
from tests.withdrawals import assert_proven
from tests.world import ACTOR, PostgresServer, owner_rows

from paymaster.db.tx import ControlTx
from paymaster.dispatch import accounts
from paymaster.dispatch.send import Answer
from paymaster.kernel.errors import NeverSent, RailRefused, RailUnknown
from paymaster.kernel.ids import new_trace_id
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


async def test_crash_between_the_intent_and_the_call(payouts: Payouts, rail: AskableRail) -> None:
    withdrawal = await one(payouts)
    await payouts.claim()  # and the process is gone
    later(payouts, payouts.pace.lease - timedelta(seconds=1))
    assert await payouts.expire("wallet") == 0
    later(payouts, timedelta(seconds=1))
    assert await payouts.expire("wallet") == 1
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])
    later(payouts, LAG)  # it may have begun at the end of its lease, and be on the wire still
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])
    later(payouts, payouts.pace.call)
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("sent", ["sent"])
    assert len(rail.orders) == 1


async def test_crash_after_the_call_before_its_answer_is_written(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawal = await one(payouts)
    (order,) = await payouts.claim()
    await payouts.call(order)  # and the process is gone
    later(payouts, payouts.pace.lease)
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    later(payouts, timedelta(seconds=5))
    await payouts.run(dispatcher)
    assert await payouts.states(withdrawal) == ("paid", ["paid"])
    assert len(rail.orders) == 1


async def test_a_dispatcher_that_is_stopped_in_a_call_leaves_an_unknown_order(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawal = await one(payouts)
    rail.gate = asyncio.Event()
    first = payouts.dispatcher()
    await first.tick(1)
    await asyncio.sleep(0.05)
    await first.stop()
    assert await payouts.states(withdrawal) == ("sending", ["sending"])
    rail.gate = None
    later(payouts, payouts.pace.lease)
    await payouts.run(payouts.dispatcher())
    later(payouts, payouts.pace.call + LAG)
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("sent", ["sent"])
    assert len(rail.orders) == 1


# ------------------------------------------------------------------------- more than one


async def test_two_dispatchers_at_once_never_send_an_order_twice(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawals = [await one(payouts, "10.00", number) for number in range(12)]
    first, second = payouts.dispatcher(), payouts.dispatcher()
    await asyncio.gather(*(d.tick(1) for d in (first, second, first, second)))
    await asyncio.gather(first.drain(), second.drain())
    for _ in range(4):
        await asyncio.gather(payouts.run(first), payouts.run(second))
    keys = [key for order in rail.orders for key in order.keys]
    assert len(keys) == len(set(keys)) == len(withdrawals)
    for withdrawal in withdrawals:
        assert await payouts.states(withdrawal) == ("sent", ["sent"])


async def test_two_dispatchers_at_once_never_send_a_due_order_twice(
    payouts: Payouts, rail: AskableRail
) -> None:
    await one(payouts)
    rail.before = [never()]
    await payouts.deliver(await payouts.claim())
    later(payouts, timedelta(minutes=1))
    first, second = payouts.dispatcher(), payouts.dispatcher()
    await asyncio.gather(first.tick(1), second.tick(1))
    await asyncio.gather(first.drain(), second.drain())
    assert len(rail.orders) == 2
    assert len(rail.bodies) == 1
    assert sum(rail.paid.values()) == 1


async def test_a_holder_past_its_lease_cannot_write(payouts: Payouts, rail: AskableRail) -> None:
    withdrawal = await one(payouts)
    (order,) = await payouts.claim()
    rail.before = [refusal("invalid_request")]
    sent = await payouts.call(order)  # and the process is paused here
    later(payouts, payouts.pace.lease)
    assert await payouts.expire("wallet") == 1
    later(payouts, payouts.pace.call + LAG)
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("sent", ["sent"])
    assert await payouts.finish(sent) == []  # it wakes up with a no
    assert await payouts.states(withdrawal) == ("sent", ["sent"])


async def test_a_holder_past_its_lease_does_not_even_send(
    payouts: Payouts, rail: AskableRail
) -> None:
    await one(payouts)
    (order,) = await payouts.claim()
    later(payouts, payouts.pace.lease)
    assert (await payouts.call(order)).answer is Answer.LATE
    assert rail.orders == []


async def test_an_order_that_was_too_late_to_be_sent_goes_once_its_holder_goes_on(
    payouts: Payouts, rail: AskableRail
) -> None:
    """The holder stood still until its lease had run out, and nobody else has looked since."""
    withdrawal = await one(payouts)
    (order,) = await payouts.claim()
    later(payouts, payouts.pace.lease)
    await payouts.deliver([order])
    assert rail.orders == []
    assert await payouts.states(withdrawal) == ("sending", ["sending"])
    later(payouts, timedelta(minutes=1))
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("sent", ["sent"])
    assert sum(rail.paid.values()) == 1


async def test_a_question_that_comes_back_past_its_lease_changes_nothing(
    payouts: Payouts, rail: AskableRail
) -> None:
    withdrawal = await one(payouts)
    await payouts.deliver(await payouts.claim())
    later(payouts, timedelta(seconds=30))
    rail.gate = None
    slow = asyncio.Event()
    ask = rail.query

    async def paused(account: object, key: str) -> Outcome:
        await slow.wait()
        return Outcome(key, Verdict.REJECTED, code="odd")

    rail.query = paused
    late = asyncio.create_task(payouts.ask("wallet"))
    await asyncio.sleep(0.05)
    rail.query = ask
    later(payouts, payouts.pace.lease)
    await payouts.ask("wallet")
    assert await payouts.states(withdrawal) == ("paid", ["paid"])
    slow.set()
    assert await late == {}
    assert await payouts.states(withdrawal) == ("paid", ["paid"])
    told = "SELECT count(*) FROM outbox WHERE topic = 'attempt.contradicted'"
    assert await payouts.value(told) == 0


async def test_after_the_account_was_pointed_elsewhere_not_found_proves_nothing(
    payouts: Payouts, rail: AskableRail
) -> None:
    """Another merchant knows nothing of the payment, and must not get its bytes either."""
    withdrawal = await one(payouts)
    rail.before = [silence()]
    await payouts.deliver(await payouts.claim())
    later(payouts, timedelta(seconds=1))
    new = accounts.NewAccount("wallet", "wallet", "EUR", {"merchant": "another"}, {})

    async def point_elsewhere(tx: ControlTx) -> None:
        changed, _ = await accounts.put(tx, 1, 1, new, payouts.rails)
        again, _ = await accounts.put(tx, 1, 1, new, payouts.rails)
        assert changed.settings_at == again.settings_at == tx.now
        assert not changed.knows(tx.now + timedelta(seconds=2)), "sent by what was read before"
        assert changed.knows(tx.now + timedelta(minutes=2))

    await payouts.world.dbs.control.run(ACTOR, new_trace_id(), point_elsewhere)
    dispatcher = payouts.dispatcher()
    for _ in range(3):
        later(payouts, 2 * LAG)
        await payouts.run(dispatcher)
    assert rail.questions
    assert len(rail.orders) == 1
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])


async def test_an_order_that_was_altered_in_the_database_is_not_sent(
    payouts: Payouts, rail: AskableRail
) -> None:
    await one(payouts)
    rail.before = [never()]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    owner_rows(
        payouts.world,
        "UPDATE batch SET sealed = set_byte(sealed, length(sealed) - 1,"
        " get_byte(sealed, length(sealed) - 1) # 1) RETURNING 1",
    )
    payouts.world.clock.advance(timedelta(minutes=1))
    await payouts.run(dispatcher)
    assert len(rail.orders) == 1
    assert "sealed-damaged" in str(await payouts.value("SELECT detail FROM batch"))


# ---------------------------------------------------------------------- lost notifications
