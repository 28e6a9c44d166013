"""The SQL of failing destinations. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from paymaster.db.tx import CellRead, CellTx

LOOKED_AT = 200
"""So many withdrawals of a destination are looked at, the latest ones."""


class Ended(NamedTuple):
    """A withdrawal that is over, and why it is as it is."""

    id: int
    state: str
    reason: str | None


async def lock_active(tx: CellTx, withdrawal_ids: Sequence[int]) -> list[int]:
    """Lock the destinations of withdrawals, as far as they are active, in order of id."""
    rows = await tx.tuples(
        """
        SELECT id FROM destination
        WHERE id IN (SELECT destination_id FROM withdrawal WHERE id = ANY(%s)) AND state = 'active'
        ORDER BY id FOR UPDATE
        """,
        (list(withdrawal_ids),),
    )
    return [row[0] for row in rows]


async def ended(tx: CellRead, destination_id: int) -> list[Ended]:
    """What became of the withdrawals to a destination since it was last resumed.

    In order of when it became known, the newest first.
    """
    rows = await tx.tuples(
        """
        SELECT w.id, w.state, w.reason
        FROM (SELECT id, number, state, reason, destination_id FROM withdrawal
                WHERE destination_id = %s ORDER BY id DESC LIMIT %s) w
            JOIN withdrawal_move m ON m.withdrawal_id = w.id AND m.number = w.number
            JOIN destination d ON d.id = w.destination_id
        WHERE w.state IN ('paid', 'failed', 'returned')
            AND (d.resumed_at IS NULL OR m.moved_at > d.resumed_at)
        ORDER BY m.moved_at DESC, w.id DESC
        """,
        (destination_id, LOOKED_AT),
    )
    return list(map(Ended._make, rows))
