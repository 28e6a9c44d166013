"""Money that providers only set apart: their lines wait for the payment's end, and undo each other.

Found by the simulation: a transfer that Alipay still worked on was taken for paid because its money
had left, and one that was never made was called returned when it came back.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.statements import BANK, Office, Payout, came_back, later, office, paid, sheet
from tests.world import PostgresServer

from paymaster.dispatch import outcome
from paymaster.rails.base import LineKind, Outcome, StatementLine, Verdict
from paymaster.reconcile.answer import LOOK_AGAIN


def out(payout: Payout) -> StatementLine:
    """The money leaves our account for a payment."""
    return replace(paid(payout, "1"), kind=LineKind.SET_APART)


def back(payout: Payout) -> StatementLine:
    """It is there again, a day later."""
    return replace(came_back(payout, "2"), kind=LineKind.GIVEN_BACK, booked_on=later(1))


async def told(desk: Office, payout: Payout, verdict: Verdict) -> None:
    """The provider says what became of it."""
    code = "FAIL" if verdict is Verdict.REJECTED else None
    said = [Outcome(payout.key, verdict, code=code)]
    await desk.world.run(lambda tx: outcome.apply(tx, BANK.id, said, evidence="query"), payout.cell)


async def hours_later(desk: Office) -> None:
    """The lines that wait are looked at again."""
    desk.world.clock.advance(LOOK_AGAIN + timedelta(seconds=1))
    await desk.settle()


@pytest.mark.parametrize("state", ["sending", "unknown", "sent"])
async def test_money_that_was_set_apart_proves_no_payment(
    postgres: PostgresServer, state: str
) -> None:
    async with office(postgres) as desk:
        payout = await desk.payout("10.00", state=state)
        await desk.store(sheet("100.00", out(payout)))
        await desk.settle()
        assert await desk.withdrawal(payout) == state
        assert await desk.cash() == "90.00"
        assert (await desk.balance("suspense", BANK.id)).text() == "-10.00"
        await hours_later(desk)
        assert await desk.withdrawal(payout) == state
        await desk.assert_proven()


@pytest.mark.parametrize("first", [Verdict.ACCEPTED, Verdict.AWAITING])
async def test_its_line_is_matched_by_itself_once_it_is_paid(
    postgres: PostgresServer, first: Verdict
) -> None:
    async with office(postgres, cells=2) as desk:
        payout = await desk.payout("10.00", cell=2)
        await told(desk, payout, first)
        await desk.store(sheet("100.00", out(payout)))
        await desk.settle()
        assert await desk.kinds() == ["attempt-contradicts"]
        await told(desk, payout, Verdict.PAID)
        await hours_later(desk)
        assert await desk.lines() == {"1": "matched"}
        assert await desk.breaks() == []
        assert (await desk.balance("suspense", BANK.id)).minor == 0
        assert (await desk.balance("clearing", BANK.id, 2)).minor == 0
        await desk.assert_proven()


@pytest.mark.parametrize("end", ["before both", "between", "after both"])
async def test_what_was_never_paid_and_came_back_leaves_nothing_to_do(
    postgres: PostgresServer, end: str
) -> None:
    async with office(postgres, cells=2) as desk:
        payout = await desk.payout("10.00", cell=2)
        await told(desk, payout, Verdict.AWAITING)
        for place, lines in enumerate((out(payout), back(payout))):
            if end == ("before both", "between")[place]:
                await told(desk, payout, Verdict.REJECTED)
            opening = ("100.00", "90.00")[place]
            await desk.store(sheet(opening, lines, day=later(place)))
            await desk.settle()
        if end == "after both":
            assert set(await desk.kinds()) == {"attempt-contradicts"}
            await told(desk, payout, Verdict.REJECTED)
        await hours_later(desk)
        assert await desk.withdrawal(payout) == "failed"
        assert await desk.lines() == {"1": "matched", "2": "matched"}
        assert await desk.breaks() == []
        assert await desk.cash() == "100.00"
        assert (await desk.balance("suspense", BANK.id)).minor == 0
        await desk.assert_proven()


async def test_what_was_paid_and_came_back_is_returned(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        payout = await desk.payout("10.00")
        await told(desk, payout, Verdict.PAID)
        await desk.store(sheet("100.00", out(payout)))
        await desk.store(sheet("90.00", back(payout), day=later(1)))
        await desk.settle()
        assert await desk.withdrawal(payout) == "returned"
        assert await desk.breaks() == []
        await desk.assert_proven()


async def test_only_the_lines_of_one_payment_undo_each_other(postgres: PostgresServer) -> None:
    """Of another amount, or of another payment, they stay in doubt."""
    async with office(postgres) as desk:
        one, other = await desk.payouts(["10.00", "10.00"], state="rejected")
        less = replace(back(one), amount=back(one).amount - out(other).amount)
        await desk.store(sheet("100.00", out(one)))
        await desk.store(sheet("90.00", less, replace(back(other), line_id="3"), day=later(1)))
        await desk.settle()
        assert set((await desk.lines()).values()) == {"break"}
        await desk.assert_proven()
