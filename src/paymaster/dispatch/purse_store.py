"""SQL of watched floats: the fence of who counts, and the queue in order of age."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from paymaster.db.tx import CellTx


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued withdrawal: what would leave, in minor units; `held` by an authority's order."""

    id: int
    amount: int
    requested_at: datetime
    held: bool = False


async def holds_fence(tx: CellTx, rail_account_id: int, token: int) -> bool:
    """Whether a token is the last that was raised here; locked until the transaction ends."""
    found = await tx.value(
        "SELECT token FROM float_fence WHERE rail_account_id = %s FOR UPDATE", (rail_account_id,)
    )
    return found == token


async def waiting(tx: CellTx, rail_account_id: int, reason: str, limit: int) -> list[Waiting]:
    """Lock what waits for an account: what is due, and what waits for funds; oldest first."""
    return await tx.fetch(
        """
        SELECT w.id, w.payout_amount AS amount, w.requested_at,
            EXISTS (SELECT FROM legal_hold h WHERE h.lifted_at IS NULL
                AND h.subject_id IN (w.id, w.user_id))
            OR EXISTS (SELECT FROM destination t
                JOIN destination s ON s.fingerprint = t.fingerprint
                JOIN legal_hold h ON h.subject_id = s.id AND h.lifted_at IS NULL
                WHERE t.id = w.destination_id) AS held
        FROM withdrawal w
        WHERE w.state = 'queued' AND w.rail_account_id = %s
            AND (w.due_at <= %s OR starts_with(w.reason, %s))
        ORDER BY w.id LIMIT %s FOR UPDATE OF w SKIP LOCKED
        """,
        (rail_account_id, tx.now, reason, limit),
        Waiting,
    )


async def postpone(
    tx: CellTx, withdrawal_ids: Sequence[int], reason: str, due_at: datetime
) -> None:
    """Look at them again later, and say why; those that wait already keep their time."""
    if withdrawal_ids:
        await tx.execute(
            """
            UPDATE withdrawal SET due_at = %(due_at)s, reason = CASE
                WHEN starts_with(reason, %(why)s) THEN reason
                ELSE %(why)s || coalesce('; ' || reason, '') END
            WHERE id = ANY(%(ids)s) AND state = 'queued' AND due_at <= %(now)s
            """,
            {"due_at": due_at, "why": reason, "ids": list(withdrawal_ids), "now": tx.now},
        )
