"""The SQL of where a user's money is. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from paymaster.db.tx import CellRead
from paymaster.withdraw.view_store import AttemptRow, MoveRow

MOST_LISTED = 100
"""So many withdrawals that came back are listed, the latest ones. Those under way all are."""


async def under_way(tx: CellRead, user_id: int) -> list[int]:
    """Withdrawals whose money is set aside, or paid and on no statement, newest first."""
    rows = await tx.tuples(
        """
        SELECT w.id FROM withdrawal w
        WHERE w.user_id = %s AND w.state NOT IN ('failed', 'returned', 'denied', 'cancelled')
            AND (w.state <> 'paid' OR EXISTS (SELECT FROM attempt a WHERE a.withdrawal_id = w.id
                AND a.state = 'paid' AND a.booked_on IS NULL))
        ORDER BY w.id DESC
        """,
        (user_id,),
    )
    return [row[0] for row in rows]


async def came_back(tx: CellRead, user_id: int, since: datetime) -> list[int]:
    """Withdrawals that failed or came back since a moment, newest first."""
    rows = await tx.tuples(
        """
        SELECT w.id FROM withdrawal w
            JOIN withdrawal_move m ON m.withdrawal_id = w.id AND m.number = w.number
        WHERE w.user_id = %s AND w.state IN ('failed', 'returned') AND m.moved_at >= %s
        ORDER BY w.id DESC LIMIT %s
        """,
        (user_id, since, MOST_LISTED),
    )
    return [row[0] for row in rows]


async def latest_attempts(tx: CellRead, ids: Sequence[int]) -> dict[int, AttemptRow]:
    """The last order to a provider of each withdrawal that has one."""
    rows = await tx.tuples(
        """
        SELECT DISTINCT ON (a.withdrawal_id) a.withdrawal_id, a.id, a.number, a.rail_account_id,
            a.key, b.batch_key, a.state, a.provider_id, a.code, a.detail, a.tries, a.created_at,
            a.resolved_at, a.booked_on, a.returned_on, c.expires_at, a.cancel_at
        FROM attempt a JOIN batch b ON b.id = a.batch_id
            LEFT JOIN confirmation c ON c.attempt_id = a.id
        WHERE a.withdrawal_id = ANY(%s) ORDER BY a.withdrawal_id, a.number DESC
        """,
        (list(ids),),
    )
    return {row[0]: AttemptRow(*row[1:-2], accept_by=row[-2], cancel_at=row[-1]) for row in rows}


async def latest_moves(tx: CellRead, ids: Sequence[int]) -> dict[int, MoveRow]:
    """The last move of each withdrawal that has moved."""
    rows = await tx.tuples(
        """
        SELECT m.withdrawal_id, m.number, m.source, m.event, m.target, m.actor, m.reason,
            m.moved_at, c.first_seq + m.ordinal, c.trace_id
        FROM withdrawal w
            JOIN withdrawal_move m ON m.withdrawal_id = w.id AND m.number = w.number
            JOIN commit c ON c.id = m.commit_id
        WHERE w.id = ANY(%s)
        """,
        (list(ids),),
    )
    return {row[0]: MoveRow(*row[1:]) for row in rows}


async def in_transit(tx: CellRead, user_id: int) -> dict[str, int]:
    """The sum of what was paid and is on no statement yet, by currency of the balance."""
    rows = await tx.tuples(
        """
        SELECT w.asset, sum(w.amount) FROM withdrawal w
        WHERE w.user_id = %s AND w.state = 'paid' AND EXISTS (SELECT FROM attempt a
            WHERE a.withdrawal_id = w.id AND a.state = 'paid' AND a.booked_on IS NULL)
        GROUP BY w.asset
        """,
        (user_id,),
    )
    return {row[0]: int(row[1]) for row in rows}
