"""Calling slices home: what lies idle in one cell may be what another one waits for.

Only when every cell that may hold some of a campaign's budget has given back what it does not
need, and still too little is there, is the budget exhausted. So an ask that finds too little in
the home cell waits while slices are out: they are recalled, each answer serves those who wait in
order, and the last answer that brings nothing tells them so. A reversal in a cell that had given
everything back is told home: there is something to recall again.

All of this runs in the home cell but `answer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paymaster.db import outbox
from paymaster.db.outbox import Outgoing
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn.views import money
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money

RECALL, RECALLED, IDLE = "slice.recall", "slice.recalled", "slice.idle"


@dataclass(frozen=True, slots=True)
class Waiting:
    """An ask that could not be granted yet."""

    cell: int
    slice_id: int
    asset: str
    amount: int
    least: int


@dataclass(frozen=True, slots=True)
class _Lease:
    campaign_id: int
    cell: int
    asset: str
    grants: int


async def note_grant(tx: CellTx, campaign_id: int, cell: int, asset: str) -> None:
    """A cell was granted a slice: it may hold idle money from now on."""
    await tx.execute(
        """
        INSERT INTO slice_lease (campaign_id, cell, asset, grants, idle, recalled, refuse)
        VALUES (%s, %s, %s, 1, true, false, false)
        ON CONFLICT (campaign_id, cell) DO UPDATE SET grants = slice_lease.grants + 1, idle = true
        """,
        (campaign_id, cell, asset),
    )


async def out(tx: CellRead, campaign_ids: Sequence[int]) -> frozenset[int]:
    """Those of the campaigns of which some cell may still hold some of the budget."""
    rows = await tx.tuples(
        "SELECT DISTINCT campaign_id FROM slice_lease WHERE campaign_id = ANY(%s) AND idle",
        (list(campaign_ids),),
    )
    return frozenset(row[0] for row in rows)


async def exhausted(tx: CellRead, campaign_ids: Sequence[int]) -> frozenset[int]:
    """Those of which everything is home, and whose waiting rewards are refused then."""
    rows = await tx.tuples(
        "SELECT campaign_id FROM slice_lease WHERE campaign_id = ANY(%s)"
        " GROUP BY campaign_id HAVING bool_or(refuse) AND NOT bool_or(idle)",
        (list(campaign_ids),),
    )
    return frozenset(row[0] for row in rows)


async def note_policy(tx: CellTx, campaigns: Mapping[int, bool]) -> None:
    """Whether rewards that wait here are refused when nothing is left, as the campaign now says."""
    await tx.execute(
        """
        UPDATE slice_lease l SET refuse = c.refuse
        FROM unnest(%s::bigint[], %s::boolean[]) AS c (id, refuse)
        WHERE l.campaign_id = c.id AND l.refuse <> c.refuse
        """,
        (list(campaigns), list(campaigns.values())),
    )


async def recall(tx: CellTx, campaign_ids: Sequence[int]) -> int:
    """Ask every cell that may hold some to give it back, unless it was asked already."""
    if not campaign_ids:
        return 0
    rows = await tx.fetch(
        "UPDATE slice_lease SET recalled = true"
        " WHERE campaign_id = ANY(%s) AND idle AND NOT recalled"
        " RETURNING campaign_id, cell, asset, grants",
        (list(campaign_ids),),
        _Lease,
    )
    await outbox.put(
        tx,
        [
            outbox.Message(
                RECALL,
                text_id("cp", tx.cell, row.campaign_id),
                {
                    "campaign": text_id("cp", tx.cell, row.campaign_id),
                    "currency": row.asset,
                    "grants": row.grants,
                },
                row.cell,
            )
            for row in sorted(rows, key=lambda row: (row.campaign_id, row.cell))
        ],
    )
    return len(rows)


def answer(
    tx: CellTx, question: Outgoing, home_cell: int, slice_id: int, amount: Money
) -> outbox.Message:
    """In the recalled cell: what it gave back as which slice, also when that is nothing."""
    campaign = question.payload["campaign"]
    payload = {
        "slice": text_id("sc", tx.cell, slice_id),
        "campaign": campaign,
        "amount": money(amount),
        "grants": question.payload["grants"],
    }
    return outbox.Message(RECALLED, campaign, payload, home_cell)


async def note_answer(tx: CellTx, campaign_id: int, cell: int, grants: int) -> None:
    """A cell has answered. What was granted to it after the question may be idle again."""
    await tx.execute(
        "UPDATE slice_lease SET recalled = false, idle = idle AND grants <> %s"
        " WHERE campaign_id = %s AND cell = %s",
        (grants, campaign_id, cell),
    )


async def tell_idle(tx: CellTx, homes: Mapping[int, int]) -> None:
    """In a cell with slices: a reversal brought money back to these campaigns (to their homes)."""
    names = {text_id("cp", home, number): home for number, home in sorted(homes.items())}
    await outbox.put(
        tx,
        [outbox.Message(IDLE, name, {"campaign": name}, home) for name, home in names.items()],
    )


async def note_idle(tx: CellTx, campaign_id: int, cell: int) -> int:
    """A cell that had given everything back may hold some again."""
    return await tx.execute(
        "UPDATE slice_lease SET idle = true WHERE campaign_id = %s AND cell = %s AND NOT idle",
        (campaign_id, cell),
    )


async def wait(tx: CellTx, campaign_id: int, ask: Waiting) -> None:
    """Keep an ask until the recalled slices are home."""
    await tx.execute(
        "INSERT INTO slice_wait (cell, slice_id, campaign_id, asset, amount, least, asked_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (ask.cell, ask.slice_id, campaign_id, ask.asset, ask.amount, ask.least, tx.now),
    )


async def waiting(tx: CellTx, campaign_id: int) -> list[Waiting]:
    """The asks that wait for a campaign, oldest first."""
    return await tx.fetch(
        "SELECT cell, slice_id, asset, amount, least FROM slice_wait WHERE campaign_id = %s"
        " ORDER BY slice_id, cell",
        (campaign_id,),
        Waiting,
    )


async def served(tx: CellTx, ask: Waiting) -> None:
    """Forget an ask that was answered."""
    await tx.execute(
        "DELETE FROM slice_wait WHERE cell = %s AND slice_id = %s", (ask.cell, ask.slice_id)
    )
