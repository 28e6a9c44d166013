"""SQL of what is kept aside of matured rewards (cell)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from paymaster.db.tx import CellRead, CellTx

_COLUMNS: LiteralString = (
    "reward_id, user_id, asset, amount, remaining, releases_at, due_at, entry_reserve,"
    " entry_release, requested, released, created_at, released_at, version"
)


@dataclass(slots=True)
class ReserveRow:
    """A row of `reserve`. `requested` is its share, `amount` what was there of it."""

    reward_id: int
    user_id: int
    asset: str
    amount: int
    remaining: int
    releases_at: datetime
    due_at: datetime | None
    entry_reserve: int
    entry_release: int
    requested: int
    released: int
    created_at: datetime
    released_at: datetime | None
    version: int


async def insert(tx: CellTx, rows: Sequence[ReserveRow]) -> None:
    """Keep new ones."""
    await tx.send(
        """
        INSERT INTO reserve (reward_id, user_id, asset, amount, remaining, releases_at, due_at,
            entry_reserve, entry_release, requested, released, created_at, version)
        SELECT i, u, a, m, m, r, r, e, f, q, 0, %s, 1
        FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::bigint[], %s::timestamptz[],
            %s::bigint[], %s::bigint[], %s::bigint[]) AS n (i, u, a, m, r, e, f, q)
        """,
        (
            tx.now,
            [row.reward_id for row in rows],
            [row.user_id for row in rows],
            [row.asset for row in rows],
            [row.amount for row in rows],
            [row.releases_at for row in rows],
            [row.entry_reserve for row in rows],
            [row.entry_release for row in rows],
            [row.requested for row in rows],
        ),
    )


async def claim_due(tx: CellTx, limit: int) -> list[ReserveRow]:
    """Those whose date has come, locked; those that another worker holds are left to it."""
    return await tx.fetch(
        f"SELECT {_COLUMNS} FROM reserve WHERE due_at <= %s ORDER BY due_at, reward_id LIMIT %s"
        " FOR UPDATE SKIP LOCKED",
        (tx.now, limit),
        ReserveRow,
    )


async def lock_of(tx: CellTx, user_ids: Sequence[int]) -> list[ReserveRow]:
    """What is left of all that users have in reserve, locked, the oldest first."""
    return await tx.fetch(
        f"SELECT {_COLUMNS} FROM reserve WHERE user_id = ANY(%s) AND remaining > 0"
        " ORDER BY reward_id FOR UPDATE",
        (sorted(set(user_ids)),),
        ReserveRow,
    )


async def update(tx: CellTx, rows: Sequence[ReserveRow]) -> None:
    """Write locked rows back."""
    await tx.execute(
        """
        UPDATE reserve r SET remaining = n.m, due_at = n.d, released = n.f, released_at = n.t,
            version = r.version + 1
        FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[], %s::bigint[], %s::timestamptz[])
            AS n (i, m, d, f, t)
        WHERE r.reward_id = n.i
        """,
        (
            [row.reward_id for row in rows],
            [row.remaining for row in rows],
            [row.due_at for row in rows],
            [row.released for row in rows],
            [row.released_at for row in rows],
        ),
    )


async def of_user(tx: CellRead, user_id: int, limit: int) -> list[ReserveRow]:
    """What is left, the soonest to be released first."""
    return await tx.fetch(
        f"SELECT {_COLUMNS} FROM reserve WHERE user_id = %s AND remaining > 0"
        " ORDER BY releases_at, reward_id LIMIT %s",
        (user_id, limit),
        ReserveRow,
    )


async def after(tx: CellRead, after_id: int, limit: int) -> list[ReserveRow]:
    """A page of all rows by reward, for the proof."""
    return await tx.fetch(
        f"SELECT {_COLUMNS} FROM reserve WHERE reward_id > %s ORDER BY reward_id LIMIT %s",
        (after_id, limit),
        ReserveRow,
    )
