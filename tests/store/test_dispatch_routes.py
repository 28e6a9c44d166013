"""What no account can pay at the moment: it waits, and goes as soon as one can."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import AskableRail
from tests.withdrawals import assert_proven
from tests.world import PostgresServer, owner_rows


@pytest.fixture
async def payouts(postgres: PostgresServer) -> AsyncIterator[Payouts]:
    wallet = AskableRail("wallet", kinds=frozenset({"iban"}))
    async with payout_world(postgres, wallet) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


async def test_without_a_route_it_stays_approved_and_is_looked_at_again(
    payouts: Payouts,
) -> None:
    await approved(payouts, await new_payee(payouts, 1), "1.00")
    owner_rows(payouts.world, "UPDATE control.rail_account SET state = 'paused' RETURNING 1")
    await payouts.reload()
    assert await payouts.claim() == []
    assert (
        await payouts.value("SELECT state || ' ' || reason FROM withdrawal") == "approved no-route"
    )
    owner_rows(payouts.world, "UPDATE control.rail_account SET state = 'active' RETURNING 1")
    payouts.world.clock.advance(payouts.pace.look_again)
    await payouts.run(payouts.dispatcher())
    assert await payouts.value("SELECT state FROM withdrawal") == "sent"


async def test_an_account_that_lets_payments_go_again_pays_at_once_what_had_no_way_out(
    payouts: Payouts,
) -> None:
    """Nobody waits five minutes because a process knew the accounts of two seconds ago."""
    await approved(payouts, await new_payee(payouts, 1), "1.00")
    owner_rows(payouts.world, "UPDATE control.rail_account SET state = 'paused' RETURNING 1")
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    owner_rows(payouts.world, "UPDATE control.rail_account SET state = 'active' RETURNING 1")
    await payouts.run(dispatcher)
    assert (
        await payouts.value("SELECT state || ' ' || reason FROM withdrawal") == "approved no-route"
    )
    dispatcher.reload()
    await payouts.run(dispatcher)
    assert await payouts.value("SELECT state FROM withdrawal") == "sent"
