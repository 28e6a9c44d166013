"""What may leave through an account whose float is watched, and for whom that is enough.

The oldest go first. One for which the money is not enough lets smaller ones behind it go, but only
until it has waited for the patience of the settings: then what there is gathers for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from paymaster.db.tx import CellTx
from paymaster.dispatch import purse_store
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.purse_store import Waiting
from paymaster.kernel.errors import Conflict
from paymaster.withdraw import checks, moves
from paymaster.withdraw.moves import Withdrawal

REASON = "waiting-for-funds"
LOOK_AGAIN = timedelta(seconds=20)
"""After which a withdrawal that waits for funds is looked at again."""


@dataclass(frozen=True, slots=True)
class Purse:
    """What one holder may let out of an account: `room` minor units, under its lease's token."""

    rail_account_id: int
    room: int
    token: int
    patience: timedelta

    def without(self, minor: int) -> Purse:
        """What is left of it."""
        return replace(self, room=self.room - minor)


class Guard(Protocol):
    """Who counts the floats."""

    def watches(self, account: PayoutAccount) -> bool:
        """Whether payments leave this account only as far as its float reaches."""
        ...

    def purse(self, account: PayoutAccount) -> AbstractAsyncContextManager[Purse | None]:
        """What may leave now, for nobody else meanwhile; None while another process counts."""
        ...


def afford(
    waiting: Sequence[Waiting], room: int, now: datetime, patience: timedelta
) -> tuple[list[int], list[int]]:
    """Which of these, oldest first, go, and which wait. Never takes more than `room`."""
    goes: list[int] = []
    stays: list[int] = []
    blocked = False
    for one in waiting:
        if not blocked and one.amount <= room:
            goes.append(one.id)
            room -= one.amount
        else:
            stays.append(one.id)
            blocked = blocked or now - one.requested_at >= patience
    return goes, stays


async def take(tx: CellTx, purse: Purse, limit: int) -> list[Withdrawal]:
    """Lock the withdrawals of the account's queue that may leave; the others wait, and say why.

    For one under a regulatory hold no money is kept together: it does not go. Raises Conflict
    `lease-lost` when another process counts by now.
    """
    if not await purse_store.holds_fence(tx, purse.rail_account_id, purse.token):
        raise Conflict("lease-lost", "Another process lets payments out of this account.")
    waiting = await _waiting(tx, purse, limit)
    await checks.leave(tx, [one.id for one in waiting if one.held])
    free = [one for one in waiting if not one.held]
    goes, stays = afford(free, purse.room, tx.now, purse.patience)
    await purse_store.postpone(tx, stays, REASON, tx.now + LOOK_AGAIN)
    return await moves.take(tx, goes[:limit])


async def _waiting(tx: CellTx, purse: Purse, limit: int) -> list[Waiting]:
    """The oldest; where these are all there is room for, also the oldest that are small enough.

    Else a row of large ones would keep back every smaller one behind it.
    """
    oldest = await purse_store.waiting(tx, purse.rail_account_id, REASON, limit)
    if len(oldest) < limit:
        return oldest
    small = await purse_store.waiting(tx, purse.rail_account_id, REASON, limit, purse.room)
    return sorted({*oldest, *small}, key=lambda one: one.id)
