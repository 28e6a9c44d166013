"""Payments that wait for their payees, and what tests do with them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.payouts import Payouts, approved, new_payee
from tests.world import START

from paymaster.db.tx import CellRead
from paymaster.dispatch import confirmation
from paymaster.kernel.errors import Conflict, NotFound


async def waiting(payouts: Payouts, number: int = 1, amount: str = "30.00") -> int:
    """A payment that its payee has to accept."""
    withdrawal = await approved(payouts, await new_payee(payouts, number), amount)
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("awaiting_payee", ["awaiting_payee"])
    return withdrawal


async def owner(payouts: Payouts, withdrawal: int) -> int:
    return int(str(await payouts.value("SELECT user_id FROM withdrawal WHERE id = %s", withdrawal)))


async def show(payouts: Payouts, withdrawal: int, user: int | None = None) -> confirmation.Shown:
    async def work(tx: CellRead) -> confirmation.Shown:
        return await confirmation.show(tx, payouts.sealer, withdrawal, user_id=user)

    return await payouts.world.read(work)


async def kept(payouts: Payouts) -> int:
    return int(str(await payouts.value("SELECT count(*) FROM confirmation")))


async def take_back(
    payouts: Payouts, withdrawal: int, user: int | None = None, *, can: bool = True
) -> None:
    user = await owner(payouts, withdrawal) if user is None else user
    await payouts.world.run(
        lambda tx: confirmation.take_back(tx, user, withdrawal, lambda _: can, "changed my mind")
    )


async def refused(payouts: Payouts, withdrawal: int, user: int | None = None) -> str:
    with pytest.raises((Conflict, NotFound)) as caught:
        await show(payouts, withdrawal, user)
    return caught.value.slug


async def later(payouts: Payouts, **time: float) -> None:
    payouts.world.clock.advance(timedelta(**time))
    await payouts.run(payouts.dispatcher())


def plant_confirmation(owner: Any, number: int, sealed: bytes) -> None:
    """A row that belongs to an attempt of the batch of this number, which is there."""
    owner.execute(
        "INSERT INTO attempt (id, transfer_id, number, batch_id, rail_account_id, key, amount,"
        " asset, state, tries, lease_token, created_at, trace_id, version)"
        " VALUES (%s, %s, 1, %s, 7, %s, 1, 'EUR', 'sent', 0, 0, %s, 't', 1)",
        (number, number, number, f"k{number}", START),
    )
    owner.execute(
        "INSERT INTO confirmation VALUES (%s, %s, %s, %s)", (number, sealed, START, START)
    )
