"""The SQL of charges and refunds as far as statements prove them. Private to the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from paymaster.db.tx import CellRead


@dataclass(frozen=True, slots=True)
class UnbookedRow:
    """What a provider confirmed and no statement shows."""

    id: int
    amount: int
    asset: str
    is_refund: bool
    since: datetime


async def known(tx: CellRead, keys: Sequence[str]) -> frozenset[str]:
    """Which of these numbers are of charges or refunds here."""
    rows = await tx.tuples(
        """
        SELECT key FROM charge WHERE key = ANY(%(keys)s)
        UNION ALL SELECT key FROM charge_refund WHERE key = ANY(%(keys)s)
        """,
        {"keys": list(keys)},
    )
    return frozenset(row[0] for row in rows)


async def unbooked(
    tx: CellRead, rail_account_id: int, before: datetime, limit: int
) -> list[UnbookedRow]:
    """Paid or given back before a moment, without the line that shows it; oldest first."""
    return await tx.fetch(
        """
        (SELECT id, amount, asset, false AS is_refund, ended_at AS since FROM charge
         WHERE rail_account_id = %(account)s AND state = 'paid' AND booked_line IS NULL
            AND ended_at < %(before)s
         ORDER BY id LIMIT %(limit)s)
        UNION ALL
        (SELECT id, amount, asset, true, ended_at FROM charge_refund
         WHERE rail_account_id = %(account)s AND state = 'done' AND booked_line IS NULL
            AND ended_at < %(before)s
         ORDER BY id LIMIT %(limit)s)
        ORDER BY is_refund, id LIMIT %(limit)s
        """,
        {"account": rail_account_id, "before": before, "limit": limit},
        UnbookedRow,
    )
