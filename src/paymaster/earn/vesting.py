"""What a user has earned that is not yet available: row by row, with the moment it matures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from paymaster.db.tx import CellRead
from paymaster.kernel.money import Money

LISTED = 100
"""How many are listed; the balance of the vesting account is the total of all."""


@dataclass(frozen=True, slots=True)
class Maturing:
    """Part of a reward."""

    amount: Money
    matures_at: datetime


async def of_user(tx: CellRead, user_id: int) -> list[Maturing]:
    """What still vests, the soonest first."""
    rows = await tx.tuples(
        "SELECT remaining, asset, matures_at FROM reward WHERE user_id = %s AND remaining > 0"
        " ORDER BY matures_at, id LIMIT %s",
        (user_id, LISTED),
    )
    return [Maturing(Money(remaining, asset), at) for remaining, asset, at in rows]
