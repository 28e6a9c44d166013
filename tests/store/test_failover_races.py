"""Two dispatch processes and one withdrawal whose order has just died."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.gates import one_after_the_other
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import AskableRail
from tests.withdrawals import assert_proven
from tests.world import ACTOR, PostgresServer

from paymaster.dispatch import accounts, failover
from paymaster.kernel.errors import RailRefused


@pytest.fixture
def first() -> AskableRail:
    return AskableRail("first")


@pytest.fixture
async def payouts(postgres: PostgresServer, first: AskableRail) -> AsyncIterator[Payouts]:
    async with payout_world(postgres, first, AskableRail("second")) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


@pytest.mark.parametrize(
    ("code", "alone"), [("insufficient_funds", False), ("invalid_request", True)]
)
async def test_what_another_process_sends_at_this_moment_is_not_followed_up(
    payouts: Payouts, first: AskableRail, code: str, alone: bool
) -> None:
    """It would go to the other account, or fail and be given back, while its new order pays it."""
    withdrawal = await approved(payouts, await new_payee(payouts, 1), "30.00")
    first.before = [RailRefused("provider-refused", "No.", extra={"code": code})]
    await payouts.deliver(await payouts.claim())
    if alone:
        await payouts.world.dbs.control.run(
            ACTOR, "", lambda tx: accounts.set_state(tx, 1, 1, "second", "paused", "sick")
        )
        await payouts.reload()
    payouts.world.clock.advance(timedelta(minutes=11))
    desk, account = payouts.desk, payouts.accounts["first"]
    orders, followed = await one_after_the_other(
        payouts.world,
        lambda: payouts.claim_queued("first"),
        lambda: payouts.world.run(lambda tx: failover.follow_up(tx, desk, account, 10)),
    )
    assert (len(orders), followed) == (1, 1)
    assert await payouts.states(withdrawal) == ("sending", ["rejected", "sending"])
    await payouts.deliver(orders)
    assert await payouts.states(withdrawal) == ("sent", ["rejected", "sent"])
