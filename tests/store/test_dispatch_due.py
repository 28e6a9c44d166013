"""What a dispatcher is told to do: each kind of work by its name, and nothing that is not due."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.payouts import Payouts, approved, new_payee, payout_world
from tests.scripted_rails import AskableRail
from tests.world import PostgresServer, owner_rows

from paymaster.dispatch import store


@pytest.fixture
async def payouts(postgres: PostgresServer) -> AsyncIterator[Payouts]:
    wallet = AskableRail("wallet", kinds=frozenset({"iban"}))
    async with payout_world(postgres, wallet) as found:
        yield found


async def due(payouts: Payouts) -> set[str]:
    rows = owner_rows(payouts.world, "SELECT id FROM control.rail_account")
    accounts = [row[0] for row in rows]
    return {one.work for one in await payouts.world.cell.read(lambda tx: store.due(tx, accounts))}


async def test_an_order_is_due_as_what_it_is(payouts: Payouts) -> None:
    world, ago = payouts.world, timedelta(seconds=1)
    assert await due(payouts) == set()
    await approved(payouts, await new_payee(payouts, 1), "1.00")
    assert await due(payouts) == {"approved"}
    assert len(await payouts.claim()) == 1
    assert await due(payouts) == set()
    owner_rows(world, "UPDATE attempt SET due_at = NULL RETURNING 1")
    for state, name in (("sending", "silent"), ("prepared", "prepared"), ("unknown", "doubted")):
        for when, expected in ((-ago, {name}), (ago, set[str]())):
            owner_rows(
                world,
                "UPDATE batch SET state = %s, due_at = %s RETURNING 1",
                state,
                world.clock.now() + when,
            )
            assert await due(payouts) == expected, state
    owner_rows(world, "UPDATE batch SET due_at = NULL RETURNING 1")
    for state, name in (
        ("unknown", "asked"), ("sent", "asked"), ("awaiting_payee", "asked"), ("rejected", "dead"),
    ):  # fmt: skip
        for when, expected in ((-ago, {name}), (ago, set[str]())):
            owner_rows(
                world,
                "UPDATE attempt SET state = %s, due_at = %s RETURNING 1",
                state,
                world.clock.now() + when,
            )
            assert await due(payouts) == expected, state
