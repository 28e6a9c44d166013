"""A destination to which payments keep failing: paused once, in time, and not for anything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from tests.contract.support import payee_wallet
from tests.payouts import Payouts, approved, new_payee, payout_world
from tests.scripted_rails import AskableRail
from tests.withdrawals import Earner, assert_proven
from tests.world import ACTOR, PostgresServer

from paymaster.db.tx import CellTx, Policy
from paymaster.kernel.errors import NotFound, Unprocessable
from paymaster.kernel.ids import new_trace_id, text_id
from paymaster.kernel.money import Money
from paymaster.people import destinations
from paymaster.rails.base import Outcome, Verdict
from paymaster.withdraw.failing import in_a_row
from paymaster.withdraw.failing_store import Ended
from paymaster.withdraw.request import RequestWithdrawal, request

pytestmark = pytest.mark.asyncio(loop_scope="module")
SECOND = timedelta(seconds=1)
BLOCKED, CLOSED, LIMIT = "wallet_blocked", "wallet_closed", "wallet_limit_exceeded"
NO, PAID, BACK = Verdict.REJECTED, Verdict.PAID, Verdict.RETURNED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payouts(postgres: PostgresServer) -> AsyncIterator[Payouts]:
    other = AskableRail("other", kinds=frozenset({"sandbox-wallet"}))
    async with payout_world(postgres, AskableRail("wallet"), other) as found:
        yield found
        await assert_proven(found.world)


_numbers = iter(range(1, 1000))


async def payee(payouts: Payouts) -> Earner:
    return await new_payee(payouts, next(_numbers))


async def sent(payouts: Payouts, earner: Earner, amount: str = "2.00") -> str:
    """The key of a payment that is on its way."""
    withdrawal_id = await approved(payouts, earner, amount)
    await payouts.claim()
    return await payouts.key_of(withdrawal_id)


async def ends(
    payouts: Payouts, earner: Earner, *verdicts: Verdict, code: str | None = BLOCKED
) -> str:
    """A payment that is answered with these verdicts, one after the other."""
    key = await sent(payouts, earner)
    for verdict in verdicts:
        payouts.world.clock.advance(SECOND)
        await payouts.hear("wallet", Outcome(key, verdict, code=code))
    return key


async def state(payouts: Payouts, earner: Earner) -> str:
    return str(
        await payouts.value("SELECT state FROM destination WHERE id = %s", earner.destination_id)
    )


async def told(payouts: Payouts, earner: Earner, topic: str) -> list[dict[str, Any]]:
    mine = text_id("de", earner.cell, earner.destination_id)
    rows = await payouts.world.read(
        lambda tx: tx.tuples(
            "SELECT payload FROM outbox WHERE topic = %s AND payload->>'destination' = %s",
            (topic, mine),
        )
    )
    return [row[0] for row in rows]


async def test_three_failures_in_a_row_pause_it_and_it_is_told_once(payouts: Payouts) -> None:
    earner = await payee(payouts)
    first = await ends(payouts, earner, NO)
    second = await ends(payouts, earner, NO)
    for key in (first, second, second):
        await payouts.hear("wallet", Outcome(key, NO, code=BLOCKED))
    assert await state(payouts, earner) == "active", "an outcome told again counts no second time"
    third = await ends(payouts, earner, NO)
    assert await state(payouts, earner) == "paused"
    await payouts.hear("wallet", Outcome(third, NO, code=BLOCKED))
    [message] = await told(payouts, earner, "destination.paused")
    assert (message["code"], message["failures"], message["state"]) == (BLOCKED, 3, "paused")


async def test_a_payment_that_stays_there_begins_anew(payouts: Payouts) -> None:
    earner = await payee(payouts)
    for verdict in (NO, NO, PAID, NO, NO):
        await ends(payouts, earner, verdict)
    assert await state(payouts, earner) == "active"
    await ends(payouts, earner, NO)
    assert await state(payouts, earner) == "paused"


async def test_what_was_paid_and_came_back_has_failed(payouts: Payouts) -> None:
    earner = await payee(payouts)
    for _ in range(2):
        await ends(payouts, earner, PAID, BACK)
    assert await state(payouts, earner) == "active"
    await ends(payouts, earner, PAID, BACK)
    assert await state(payouts, earner) == "paused"


async def test_failures_of_another_kind_neither_count_nor_end_the_row(payouts: Payouts) -> None:
    earner = await payee(payouts)
    for code in (BLOCKED, LIMIT, LIMIT, None, BLOCKED, "recipient_unverified"):
        await ends(payouts, earner, NO, code=code)
    assert await state(payouts, earner) == "active"
    await ends(payouts, earner, NO)
    assert await state(payouts, earner) == "paused"


async def test_one_that_is_dead_is_closed_at_once_and_not_paused(payouts: Payouts) -> None:
    earner = await payee(payouts)
    await ends(payouts, earner, NO)
    await ends(payouts, earner, NO)
    await ends(payouts, earner, NO, code=CLOSED)
    assert await state(payouts, earner) == "closed"
    assert await told(payouts, earner, "destination.paused") == []


async def test_two_failures_at_the_same_moment_are_both_seen(payouts: Payouts) -> None:
    earner = await payee(payouts)
    await ends(payouts, earner, NO)
    keys = [await sent(payouts, earner), await sent(payouts, earner)]
    await asyncio.gather(*(payouts.hear("wallet", Outcome(key, NO, code=BLOCKED)) for key in keys))
    assert await state(payouts, earner) == "paused"
    assert len(await told(payouts, earner, "destination.paused")) == 1


async def test_two_failures_in_one_message_count_two(payouts: Payouts) -> None:
    earner = await payee(payouts)
    keys = [await sent(payouts, earner) for _ in range(3)]
    await payouts.hear("wallet", *(Outcome(key, NO, code=BLOCKED) for key in keys))
    assert await state(payouts, earner) == "paused"


async def test_nothing_more_is_asked_for_or_sent_there(payouts: Payouts) -> None:
    earner = await payee(payouts)
    waiting = await approved(payouts, earner, "3.00")
    keys = []
    for _ in range(3):
        other = await approved(payouts, earner, "2.00")
        keys.append(other)
    await payouts.claim()
    # `waiting` was approved first and went as well; take another one that has not gone yet.
    late = await approved(payouts, earner, "4.00")
    for one in keys:
        key = await payouts.key_of(one)
        await payouts.hear("wallet", Outcome(key, NO, code=BLOCKED))
    assert await state(payouts, earner) == "paused"
    await payouts.claim()
    assert (await payouts.states(late))[0] == "in_review"
    why = await payouts.value("SELECT reason FROM withdrawal WHERE id = %s", late)
    assert why == "destination-paused"
    assert (await payouts.states(waiting))[0] == "sending", "what is under way goes on"

    command = RequestWithdrawal(earner.user_id, earner.destination_id, Money.parse("1.00", "EUR"))
    [refused] = await payouts.world.run(lambda tx: request(tx, [command]))
    assert refused.slug == "destination-paused"

    async def another(tx: CellTx) -> int:
        wallet = dict(payee_wallet(900 + next(_numbers)).details)
        view = await destinations.add(
            tx, payouts.sealer, earner.user_id, "sandbox-wallet", "EUR", wallet,
            cooling=destinations.COOLING_OFF * 0,
        )  # fmt: skip
        return view.ref.id

    new = await payouts.world.run(another)
    command = RequestWithdrawal(earner.user_id, new, Money.parse("1.00", "EUR"))
    [made] = await payouts.world.run(lambda tx: request(tx, [command]))
    assert made.slug is None, "another destination lets the earner go on"


async def test_an_operator_resumes_it_and_the_count_begins_anew(payouts: Payouts) -> None:
    earner = await payee(payouts)
    for _ in range(3):
        await ends(payouts, earner, NO)
    payouts.world.clock.advance(SECOND)

    async def resume(tx: CellTx) -> str:
        return (await destinations.resume(tx, earner.destination_id, "the bank says so")).state

    assert await payouts.world.run(resume) == "active"
    assert await payouts.world.run(resume) == "active", "twice is harmless"
    acts = await payouts.world.read(
        lambda tx: tx.tuples(
            "SELECT reason FROM audit WHERE action = 'destination.resume' AND reason IS NOT NULL"
        )
    )
    assert acts == [("the bank says so",)]
    assert len(await told(payouts, earner, "destination.resumed")) == 1
    for _ in range(2):
        await ends(payouts, earner, NO)
    assert await state(payouts, earner) == "active"
    await ends(payouts, earner, NO)
    assert await state(payouts, earner) == "paused"


async def test_a_closed_or_unknown_one_is_not_resumed(payouts: Payouts) -> None:
    earner = await payee(payouts)
    await payouts.world.run(lambda tx: destinations.close(tx, earner.destination_id, "gone"))
    with pytest.raises(Unprocessable) as refused:
        await payouts.world.run(lambda tx: destinations.resume(tx, earner.destination_id, "x"))
    assert refused.value.slug == "destination-closed"
    with pytest.raises(NotFound):
        await payouts.world.run(lambda tx: destinations.resume(tx, 1, "x"))


@pytest.mark.parametrize(("needed", "expected"), [(0, "active"), (1, "paused"), (5, "active")])
async def test_how_many_it_takes_is_a_setting(payouts: Payouts, needed: int, expected: str) -> None:
    earner = await payee(payouts)
    cell = payouts.world.dbs.cell(1)
    before = cell._policy
    cell._policy = Policy(destination_failures=needed)
    try:
        for _ in range(1 if needed == 1 else 4):
            await ends(payouts, earner, NO)
    finally:
        cell._policy = before
    assert await state(payouts, earner) == expected


async def test_a_destination_is_closed_from_its_pause(payouts: Payouts) -> None:
    earner = await payee(payouts)
    for _ in range(3):
        await ends(payouts, earner, NO)
    trace = new_trace_id()
    view = await payouts.world.dbs.cell(1).run(
        ACTOR, trace, lambda tx: destinations.close(tx, earner.destination_id, "asked for")
    )
    assert view.wire()["state"] == "closed"
    assert view.wire()["paused_code"] is None


async def test_the_row_ends_with_the_last_payment_that_stayed() -> None:
    found = [
        Ended(5, "failed", BLOCKED), Ended(4, "failed", "by hand: somebody said so"),
        Ended(3, "returned", "AG01"), Ended(2, "paid", None), Ended(1, "failed", BLOCKED),
    ]  # fmt: skip
    assert [one.id for one in in_a_row(found)] == [5, 3]
