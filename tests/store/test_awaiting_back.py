"""Taking back what waits for its payee: asked for here, ended by the provider alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.awaiting import kept, later, refused, take_back, waiting
from tests.confirming_rail import ConfirmingRail, StubbornRail
from tests.gates import closed
from tests.payouts import Payouts, assert_paid_once, payout_world
from tests.withdrawals import assert_proven
from tests.world import PostgresServer, owner_rows

from paymaster.kernel.errors import Conflict, NeverSent, NotFound, RailUnknown
from paymaster.rails.base import Outcome, Verdict


@pytest.fixture
def wallet() -> ConfirmingRail:
    return ConfirmingRail()


@pytest.fixture
async def payouts(postgres: PostgresServer, wallet: ConfirmingRail) -> AsyncIterator[Payouts]:
    async with payout_world(postgres, wallet) as found:
        yield found
        await assert_proven(found.world)


async def test_only_the_providers_last_word_frees_the_money(
    payouts: Payouts, wallet: ConfirmingRail
) -> None:
    withdrawal = await waiting(payouts)
    key = await payouts.key_of(withdrawal)
    wallet.cancels = [Outcome(key, Verdict.AWAITING)]
    await take_back(payouts, withdrawal)
    assert await refused(payouts, withdrawal) == "not-awaiting"
    await payouts.run(payouts.dispatcher())
    assert wallet.cancelled == [key]
    assert wallet.questions == [key], "no end came of it: it is asked what became of it"
    assert await payouts.states(withdrawal) == ("awaiting_payee", ["awaiting_payee"])
    wallet.cancels = [Outcome(key, Verdict.REJECTED, code="MCH_CANCEL")]
    await later(payouts, seconds=10)
    assert await payouts.states(withdrawal) == ("failed", ["rejected"])
    assert await kept(payouts) == 0
    await assert_paid_once(payouts)


@pytest.mark.parametrize(
    "trouble", [NeverSent("provider-unreachable", "Away."), RailUnknown("provider-silent", "?")]
)
async def test_a_request_to_take_it_back_that_fails_is_made_again(
    payouts: Payouts, wallet: ConfirmingRail, trouble: NeverSent
) -> None:
    withdrawal = await waiting(payouts)
    key = await payouts.key_of(withdrawal)
    wallet.cancels = [trouble, Outcome(key, Verdict.REJECTED, code="MCH_CANCEL")]
    await take_back(payouts, withdrawal)
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("awaiting_payee", ["awaiting_payee"])
    await later(payouts, seconds=10)
    assert wallet.cancelled == [key, key]
    assert await payouts.states(withdrawal) == ("failed", ["rejected"])


async def test_a_payee_who_was_quicker_is_paid(payouts: Payouts, wallet: ConfirmingRail) -> None:
    withdrawal = await waiting(payouts)
    key = await payouts.key_of(withdrawal)
    wallet.answers[key] = Verdict.PAID
    await take_back(payouts, withdrawal)
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("paid", ["paid"])


async def test_what_was_taken_back_is_not_ordered_anew(
    payouts: Payouts, wallet: ConfirmingRail
) -> None:
    """A code that is the account's own fault makes another order; not of what nobody wants."""
    withdrawal, other = await waiting(payouts, 1), await waiting(payouts, 2)
    await take_back(payouts, withdrawal)
    for each in (withdrawal, other):
        said = Outcome(await payouts.key_of(each), Verdict.REJECTED, code="insufficient_funds")
        await payouts.hear("wallet", said)
    assert await payouts.states(withdrawal) == ("failed", ["rejected"])
    assert await payouts.states(other) == ("queued", ["rejected"]), "the code makes the difference"


async def test_who_may_take_back_what(payouts: Payouts, wallet: ConfirmingRail) -> None:
    withdrawal = await waiting(payouts)
    with pytest.raises(NotFound):
        await take_back(payouts, withdrawal, 1)
    with pytest.raises(Conflict) as caught:
        await take_back(payouts, withdrawal, can=False)
    assert caught.value.slug == "cancel-unsupported"
    await take_back(payouts, withdrawal)
    await take_back(payouts, withdrawal)
    acts = owner_rows(
        payouts.world, "SELECT reason FROM audit WHERE action = 'withdrawal.take_back'"
    )
    assert acts == [("changed my mind",)], "the second wish changes nothing"
    await payouts.hear("wallet", Outcome(await payouts.key_of(withdrawal), Verdict.PAID))
    with pytest.raises(Conflict) as caught:
        await take_back(payouts, withdrawal)
    assert caught.value.slug == "not-awaiting"


async def test_without_a_way_to_take_back_the_wish_does_no_harm(postgres: PostgresServer) -> None:
    """The rail was replaced after the wish: it is asked what became of it, and nothing more."""
    wallet = StubbornRail()
    async with payout_world(postgres, wallet) as payouts:
        withdrawal = await waiting(payouts)
        await take_back(payouts, withdrawal)
        wallet.answers[await payouts.key_of(withdrawal)] = Verdict.AWAITING
        await payouts.run(payouts.dispatcher())
        assert await payouts.states(withdrawal) == ("awaiting_payee", ["awaiting_payee"])


async def test_two_wishes_and_an_answer_at_once_end_once(payouts: Payouts) -> None:
    """The answer has locked the attempt and is about to commit; the wish meets the end."""
    withdrawal = await waiting(payouts)
    key = await payouts.key_of(withdrawal)
    async with closed(payouts.world) as gate:
        paid = asyncio.create_task(payouts.hear("wallet", Outcome(key, Verdict.PAID)))
        await gate.waiting(1)
        wish = asyncio.create_task(take_back(payouts, withdrawal))
        await gate.waiting(2)
        await gate.open()
        (applied,) = await paid
        with pytest.raises(Conflict) as caught:
            await wish
    assert applied.done
    assert caught.value.slug == "not-awaiting"
    assert await payouts.states(withdrawal) == ("paid", ["paid"])


async def test_a_wish_that_comes_first_does_not_stop_the_answer(payouts: Payouts) -> None:
    withdrawal = await waiting(payouts)
    key = await payouts.key_of(withdrawal)
    async with closed(payouts.world) as gate:
        wish = asyncio.create_task(take_back(payouts, withdrawal))
        await gate.waiting(1)
        paid = asyncio.create_task(payouts.hear("wallet", Outcome(key, Verdict.PAID)))
        await gate.waiting(2)
        await gate.open()
        await wish
        (applied,) = await paid
    assert applied.done
    assert await payouts.states(withdrawal) == ("paid", ["paid"])
