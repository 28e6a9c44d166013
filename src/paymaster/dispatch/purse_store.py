"""SQL of watched floats: the fence of who counts, and the queue in order of age."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

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


_HELD: LiteralString = """
    (EXISTS (SELECT FROM legal_hold h WHERE h.lifted_at IS NULL
        AND h.subject_id IN (w.id, w.user_id))
    OR EXISTS (SELECT FROM destination t
        JOIN destination s ON s.fingerprint = t.fingerprint
        JOIN legal_hold h ON h.subject_id = s.id AND h.lifted_at IS NULL
        WHERE t.id = w.destination_id))
"""


async def waiting(
    tx: CellTx, rail_account_id: int, reason: str, limit: int, within: int | None = None
) -> list[Waiting]:
    """Lock what waits for an account: what is due, and what waits for funds; oldest first.

    With `within`, only what is no larger and may go.
    """
    return await tx.fetch(
        f"SELECT w.id, w.payout_amount AS amount, w.requested_at, {_HELD} AS held"
        " FROM withdrawal w"
        " WHERE w.state = 'queued' AND w.rail_account_id = %(account)s"
        " AND (w.due_at <= %(now)s OR starts_with(w.reason, %(why)s))"
        " AND (%(within)s::bigint IS NULL OR w.payout_amount <= %(within)s AND NOT "
        f"{_HELD}) ORDER BY w.id LIMIT %(limit)s FOR UPDATE OF w SKIP LOCKED",
        {
            "account": rail_account_id,
            "now": tx.now,
            "why": reason,
            "limit": limit,
            "within": within,
        },
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
