"""Sending: what happens between the intent and the answer, and when there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.payouts import AskableRail, FileRail, Payouts, ScriptedRail, approved, new_payee, payout_world
from tests.withdrawals import assert_proven, available
from tests.world import PostgresServer

from paymaster.kernel.errors import NeverSent, RailRefused, RailUnknown
from paymaster.rails.base import Outcome, Verdict

SILENCE = RailUnknown("provider-silent", "No answer.")


@pytest.fixture
def rail() -> AskableRail:
    return AskableRail("wallet")


@pytest.fixture
async def payouts(postgres: PostgresServer, rail: AskableRail) -> AsyncIterator[Payouts]:
    async with payout_world(postgres, rail) as found:
        yield found
        await assert_proven(found.world)
        assert max(rail.paid.values(), default=0) <= 1


async def test_an_approved_withdrawal_is_sent_and_paid(payouts: Payouts, rail: AskableRail) -> None:
    earner = await new_payee(payouts, 1)
    withdrawal = await approved(payouts, earner, "30.00", "1.00")
    (order,) = await payouts.claim()
    assert await payouts.states(withdrawal) == ("sending", ["sending"])
    await payouts.deliver([order])
    assert await payouts.states(withdrawal) == ("sent", ["sent"])
    key = await payouts.key_of(withdrawal)
    assert order.prepared.keys == (key,) and len(key) == 15
    await payouts.hear("wallet", Outcome(key, Verdict.PAID))
    assert await payouts.states(withdrawal) == ("paid", ["paid"])
    assert await available(payouts.world, earner) == ("69.00", "0.00")
