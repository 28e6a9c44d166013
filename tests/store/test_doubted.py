"""A provider's no that proves nothing by itself: dead only once it does not know the order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import LAG, WINDOW, AskableRail
from tests.withdrawals import assert_proven, available
from tests.world import PostgresServer, owner_rows

from paymaster.dispatch.run import Dispatcher
from paymaster.kernel.errors import RailError
from paymaster.rails import meaning
from paymaster.rails.meaning import Kind

STEP = timedelta(seconds=10)


@pytest.fixture
def first() -> AskableRail:
    return AskableRail("first")


@pytest.fixture
def second() -> AskableRail:
    return AskableRail("second")


@pytest.fixture
async def payouts(
    postgres: PostgresServer, first: AskableRail, second: AskableRail
) -> AsyncIterator[Payouts]:
    """Two accounts that could pay everything; `first` is chosen by its name."""
    async with payout_world(postgres, first, second) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


def says_no(code: str) -> RailError:
    return meaning.error(Kind.SAYS_NO, "No.", {"code": code})


def not_now(code: str) -> RailError:
    return meaning.error(Kind.NOT_NOW, "Not now.", {"code": code})


async def one(payouts: Payouts) -> int:
    return await approved(payouts, await new_payee(payouts, 1), "30.00")


async def go_on(payouts: Payouts, dispatcher: Dispatcher, span: timedelta) -> None:
    """Let time pass, with a look every few seconds, or every hundredth of a long span."""
    end = payouts.world.clock.now() + span
    while payouts.world.clock.now() < end:
        payouts.world.clock.advance(max(STEP, span / 100))
        dispatcher.reload()
        await payouts.run(dispatcher)


async def proofs(payouts: Payouts) -> list[tuple[str, str | None, str]]:
    rows = owner_rows(
        payouts.world, "SELECT kind, code, evidence FROM attempt_proof ORDER BY number"
    )
    return [(kind, code, evidence) for kind, code, evidence in rows]


async def test_a_no_about_the_payee_is_dead_when_the_order_is_not_there(
    payouts: Payouts, first: AskableRail, second: AskableRail
) -> None:
    earner = await new_payee(payouts, 1)
    withdrawal = await approved(payouts, earner, "30.00")
    first.before = [says_no("wallet_closed")]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"]), "no alone is no proof"
    await go_on(payouts, dispatcher, LAG - STEP)
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"]), "nor is one that is early"
    await go_on(payouts, dispatcher, LAG)
    assert await payouts.states(withdrawal) == ("failed", ["rejected"])
    assert await proofs(payouts) == [("refused", "wallet_closed", "query:no-and-absent")]
    assert len(first.orders) == 1, "what was refused is not sent again"
    assert second.orders == []
    assert await available(payouts.world, earner) == ("100.00", "0.00"), "the money is back"


async def test_a_no_that_was_a_lie_pays_once_and_nowhere_else(
    payouts: Payouts, first: AskableRail, second: AskableRail
) -> None:
    withdrawal = await one(payouts)
    first.after = [says_no("insufficient_funds")]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    await go_on(payouts, dispatcher, 3 * LAG)
    assert (await payouts.states(withdrawal))[1] == ["paid"]
    assert (sum(first.paid.values()), second.orders) == (1, [])


async def test_no_proof_no_end(payouts: Payouts, first: AskableRail, second: AskableRail) -> None:
    """While the provider does not say what became of it, it is nobody else's."""
    withdrawal = await one(payouts)
    first.before = [says_no("insufficient_funds")]
    first.silent = 10**6
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    await go_on(payouts, dispatcher, 2 * WINDOW)
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])
    assert second.orders == []


async def test_a_no_about_our_account_goes_to_another_one_once_it_is_proven(
    payouts: Payouts, first: AskableRail, second: AskableRail
) -> None:
    withdrawal = await one(payouts)
    first.before = [says_no("insufficient_funds")]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    assert second.orders == []
    await go_on(payouts, dispatcher, 2 * LAG)
    assert (await payouts.states(withdrawal))[1] == ["rejected", "paid"]
    assert (len(first.orders), len(second.orders)) == (1, 1)


async def test_what_is_not_for_now_goes_again_under_the_same_number(
    payouts: Payouts, first: AskableRail, second: AskableRail
) -> None:
    withdrawal = await one(payouts)
    first.before = [not_now("insufficient_funds"), not_now("insufficient_funds")]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    await go_on(payouts, dispatcher, 4 * LAG)
    assert (await payouts.states(withdrawal))[1] == ["paid"]
    assert (len(first.orders), len(first.bodies)) == (3, 1)
    assert second.orders == []


async def test_a_no_to_a_second_copy_needs_the_same_proof_again(
    payouts: Payouts, first: AskableRail
) -> None:
    withdrawal = await one(payouts)
    first.before = [not_now("insufficient_funds"), says_no("wallet_closed")]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    while len(first.orders) < 2:
        await go_on(payouts, dispatcher, STEP)
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])
    await go_on(payouts, dispatcher, LAG - 2 * STEP)
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"]), "the lag begins anew"
    await go_on(payouts, dispatcher, 2 * LAG)
    assert await payouts.states(withdrawal) == ("failed", ["rejected"])
    assert len(first.orders) == 2


@pytest.mark.parametrize("others", [True, False])
async def test_what_was_not_for_now_for_too_long_is_ordered_anew(
    payouts: Payouts, first: AskableRail, second: AskableRail, others: bool
) -> None:
    """Past the time in which the same number may go again, and proven absent: by another order."""
    withdrawal = await one(payouts)
    if not others:
        second.caps = AskableRail("second", kinds=frozenset({"card"})).caps
    first.before = [not_now("NOT_ENOUGH") for _ in range(10_000)]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    await go_on(payouts, dispatcher, WINDOW)
    if not others:
        first.before = []
    await go_on(payouts, dispatcher, timedelta(hours=2))
    assert (await payouts.states(withdrawal))[1] == ["rejected", "paid"]
    assert (await proofs(payouts))[0] == ("refused", "NOT_ENOUGH", "query:no-and-absent")
    assert sum((first if not others else second).paid.values()) == 1
