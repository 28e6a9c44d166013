"""SQL of debts: what is owed, since when, and what was given up (cell)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString, NamedTuple

from paymaster.db.tx import CellRead, CellTx


class DebtRow(NamedTuple):
    """Somebody owes `owed` minor units."""

    user_id: int
    asset: str
    owed: int


async def owing(tx: CellRead, after: tuple[int, str] | None, limit: int) -> list[DebtRow]:
    """A page of all debts by user and currency."""
    user_id, asset = after or (0, "")
    rows = await tx.tuples(
        "SELECT owner_id, asset, -balance FROM account WHERE kind = 'debt'"
        " AND (owner_id, asset) > (%s, %s) AND balance < 0 ORDER BY owner_id, asset LIMIT %s",
        (user_id, asset, limit),
    )
    return [DebtRow._make(row) for row in rows]


async def of_user(tx: CellRead, user_id: int) -> list[DebtRow]:
    """What one user owes, by currency."""
    rows = await tx.tuples(
        "SELECT owner_id, asset, -balance FROM account WHERE kind = 'debt' AND owner_id = %s"
        " AND balance < 0 ORDER BY asset",
        (user_id,),
    )
    return [DebtRow._make(row) for row in rows]


class OriginRow(NamedTuple):
    """A reversal that made a debt."""

    user_id: int
    asset: str
    reward_id: int
    campaign_id: int
    home_cell: int
    owed: int
    bearer: str
    reason: str
    opened_at: datetime


async def origins(tx: CellRead, rows: Sequence[DebtRow], most: int) -> list[OriginRow]:
    """The newest `most` reversals that made each debt, newest first."""
    found = await tx.tuples(
        """
        SELECT n.user_id, n.asset, v.reward_id, v.campaign_id, r.home_cell, v.owed, v.bearer,
            v.reason, v.reversed_at
        FROM unnest(%s::bigint[], %s::text[]) WITH ORDINALITY AS n (user_id, asset, place)
        CROSS JOIN LATERAL (
            SELECT * FROM reward_reversal WHERE user_id = n.user_id AND asset = n.asset
                AND owed > 0 ORDER BY reversed_at DESC, reward_id DESC, number DESC LIMIT %s
        ) v JOIN reward r ON r.id = v.reward_id
        ORDER BY n.place, v.reversed_at DESC, v.reward_id DESC, v.number DESC
        """,
        ([row.user_id for row in rows], [row.asset for row in rows], most),
    )
    return [OriginRow._make(row) for row in found]


@dataclass(slots=True)
class WriteOffRow:
    """A row of `write_off`: what of it one bears."""

    id: int
    place: int
    user_id: int
    asset: str
    campaign_id: int | None
    home_cell: int | None
    amount: int
    from_budget: int
    state: str
    entry_id: int
    entry_undo: int
    reason: str
    actor: str
    written_off_at: datetime
    undone_reason: str | None
    undone_by: str | None
    undone_at: datetime | None
    version: int


_COLUMNS: LiteralString = (
    "id, place, user_id, asset, campaign_id, home_cell, amount, from_budget, state, entry_id,"
    " entry_undo, reason, actor, written_off_at, undone_reason, undone_by, undone_at, version"
)


async def insert(tx: CellTx, rows: Sequence[WriteOffRow]) -> None:
    """Keep the parts of a new write-off."""
    await tx.send(
        """
        INSERT INTO write_off (id, place, user_id, asset, campaign_id, home_cell, amount,
            from_budget, state, entry_id, entry_undo, reason, actor, written_off_at, version)
        SELECT i, p, u, a, c, h, m, b, 'written_off', e, f, %s, %s, %s, 1
        FROM unnest(%s::bigint[], %s::int[], %s::bigint[], %s::text[], %s::bigint[], %s::int[],
            %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
            AS n (i, p, u, a, c, h, m, b, e, f)
        """,
        (
            rows[0].reason,
            rows[0].actor,
            tx.now,
            [row.id for row in rows],
            [row.place for row in rows],
            [row.user_id for row in rows],
            [row.asset for row in rows],
            [row.campaign_id for row in rows],
            [row.home_cell for row in rows],
            [row.amount for row in rows],
            [row.from_budget for row in rows],
            [row.entry_id for row in rows],
            [row.entry_undo for row in rows],
        ),
    )


async def lock(tx: CellTx, number: int) -> list[WriteOffRow]:
    """The parts of a write-off, locked."""
    return await tx.fetch(
        f"SELECT {_COLUMNS} FROM write_off WHERE id = %s ORDER BY place FOR UPDATE",
        (number,),
        WriteOffRow,
    )


async def undone(tx: CellTx, number: int, reason: str) -> None:
    """Note that a locked write-off was undone."""
    await tx.execute(
        "UPDATE write_off SET state = 'undone', undone_reason = %s, undone_by = %s,"
        " undone_at = %s, version = version + 1 WHERE id = %s",
        (reason, tx.actor.name, tx.now, number),
    )


async def written_off(
    tx: CellRead, user_id: int, before: int | None, limit: int
) -> list[WriteOffRow]:
    """The parts of a user's newest write-offs, newest first."""
    return await tx.fetch(
        f"SELECT {_COLUMNS} FROM write_off WHERE user_id = %s AND id IN ("
        "SELECT DISTINCT id FROM write_off WHERE user_id = %s AND id < %s"
        " ORDER BY id DESC LIMIT %s) ORDER BY id DESC, place",
        (user_id, user_id, 2**63 - 1 if before is None else before, limit),
        WriteOffRow,
    )


async def after(tx: CellRead, after_id: int, limit: int) -> list[WriteOffRow]:
    """A page of all parts by id, for the proof."""
    return await tx.fetch(
        f"SELECT {_COLUMNS} FROM write_off WHERE id > %s ORDER BY id, place LIMIT %s",
        (after_id, limit),
        WriteOffRow,
    )
