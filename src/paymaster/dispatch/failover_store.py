"""The SQL of what may go another way. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.money import Money


class Dead(NamedTuple):
    """A rejected order whose withdrawal waits to be told where to go."""

    attempt_id: int
    withdrawal_id: int
    kind: str
    payout_amount: int
    payout_asset: str

    @property
    def money(self) -> Money:
        """What the payee gets."""
        return Money(self.payout_amount, self.payout_asset)


async def take_dead(tx: CellTx, rail_account_id: int, limit: int) -> list[Dead]:
    """Lock rejected attempts of an account that are due to be followed up, oldest first."""
    rows = await tx.tuples(
        """
        SELECT a.id, w.id, d.kind, w.payout_amount, w.payout_asset
        FROM attempt a JOIN withdrawal w ON w.id = a.withdrawal_id
            JOIN destination d ON d.id = w.destination_id
        WHERE a.rail_account_id = %s AND a.due_at <= %s AND a.state = 'rejected'
        ORDER BY a.due_at, a.id LIMIT %s FOR UPDATE OF a SKIP LOCKED
        """,
        (rail_account_id, tx.now, limit),
    )
    return [Dead._make(row) for row in rows]


async def follow_up(tx: CellTx, attempt_ids: Sequence[int], due_at: datetime | None) -> None:
    """When rejected attempts are looked at again; None: they are done with."""
    if attempt_ids:
        await tx.execute(
            "UPDATE attempt SET due_at = %s, version = version + 1"
            " WHERE id = ANY(%s) AND state = 'rejected'",
            (due_at, list(attempt_ids)),
        )


class Payment(NamedTuple):
    """A payment of an order, with what the choice of another account needs."""

    batch_id: int
    key: str
    attempt_id: int
    withdrawal_id: int | None
    number: int
    state: str
    kind: str | None
    payout_amount: int | None
    payout_asset: str | None

    @property
    def money(self) -> Money | None:
        """What the payee gets; None for a transfer."""
        if self.payout_amount is None or self.payout_asset is None:
            return None
        return Money(self.payout_amount, self.payout_asset)


async def payments(tx: CellRead, batch_ids: Sequence[int]) -> dict[int, list[Payment]]:
    """The payments of orders, by order."""
    rows = await tx.tuples(
        """
        SELECT a.batch_id, a.key, a.id, a.withdrawal_id, a.number, a.state, d.kind,
            w.payout_amount, w.payout_asset
        FROM attempt a LEFT JOIN withdrawal w ON w.id = a.withdrawal_id
            LEFT JOIN destination d ON d.id = w.destination_id
        WHERE a.batch_id = ANY(%s) ORDER BY a.id
        """,
        (list(batch_ids),),
    )
    found: dict[int, list[Payment]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(Payment._make(row))
    return found
