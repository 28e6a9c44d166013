"""What a campaign has cost and brought: this cell's part, to be added up over all cells.

Read from the rows that are the truth of each figure, not kept beside them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from paymaster.db.tx import CellRead, ControlRead
from paymaster.earn.machine import RewardState

PAID = (RewardState.VESTING.value, RewardState.CREDITED.value)
"""States of rewards whose money has left the budget and stayed away."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Minor units. `funded` came in from the sponsor, here; `spent` on rewards not taken back."""

    funded: int = 0
    spent: int = 0
    events: int = 0
    users: int = 0
    rewards: int = 0
    awaiting_funds: int = 0

    @classmethod
    def total(cls, parts: Iterable[Figures]) -> Figures:
        """Over all cells. A user lives in one cell, so that users add up too."""
        found = list(parts)
        return cls(
            sum(part.funded for part in found),
            sum(part.spent for part in found),
            sum(part.events for part in found),
            sum(part.users for part in found),
            sum(part.rewards for part in found),
            sum(part.awaiting_funds for part in found),
        )


async def task_ids(tx: ControlRead, campaign_id: int) -> list[int]:
    """The tasks of a campaign."""
    rows = await tx.tuples("SELECT id FROM task WHERE campaign_id = %s ORDER BY id", (campaign_id,))
    return [row[0] for row in rows]


async def of_cell(
    tx: CellRead, campaign_id: int, home_cell: int, currency: str, tasks: list[int]
) -> Figures:
    """This cell's part, from the snapshot of `tx`. Sponsors' money comes into the home cell."""
    [(spent, rewards, waiting)] = await tx.tuples(
        """
        SELECT coalesce(sum(amount - taken) FILTER (WHERE state = ANY(%s)), 0)::bigint,
            count(*) FILTER (WHERE state = ANY(%s)),
            count(*) FILTER (WHERE state = 'awaiting_funds')
        FROM reward WHERE campaign_id = %s
        """,
        (list(PAID), list(PAID), campaign_id),
    )
    [(events, users)] = await tx.tuples(
        "SELECT count(*), count(DISTINCT user_id) FROM event WHERE task_id = ANY(%s)", (tasks,)
    )
    funded = await _funded(tx, campaign_id, currency) if tx.cell == home_cell else 0
    return Figures(funded, spent, events, users, rewards, waiting)


async def _funded(tx: CellRead, campaign_id: int, currency: str) -> int:
    """What came into the budget from outside: not by reversals, nor by leases between cells."""
    return await tx.value(
        """
        WITH budget AS (
            SELECT id FROM account WHERE kind = 'budget' AND owner_id = %s AND asset = %s
        ), moved AS (
            SELECT p.amount, p.source_id AS other FROM posting p, budget b
            WHERE p.destination_id = b.id
            UNION ALL
            SELECT -p.amount, p.destination_id FROM posting p, budget b WHERE p.source_id = b.id
        )
        SELECT coalesce(sum(m.amount), 0)::bigint FROM moved m JOIN account o ON o.id = m.other
        WHERE o.kind IN ('cash', 'suspense', 'equity', 'loss', 'incoming', 'refunds')
        """,
        (campaign_id, currency),
    )
