"""SQL of rewards and their moves (cell)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.money import MAX_MINOR


@dataclass(slots=True)
class RewardRow:
    """A row of `reward`; `version` is the number of its last move."""

    id: int
    campaign_id: int
    home_cell: int
    task_id: int
    user_id: int
    occurrence: str
    amount: int
    asset: str
    state: str
    remaining: int
    matures_at: datetime
    entry_credit: int
    entry_mature: int
    entry_reverse: int
    source: str
    event_id: str
    due_at: datetime | None
    created_at: datetime
    trace_id: str
    version: int


@dataclass(frozen=True, slots=True)
class RewardMove:
    """A move of a reward."""

    reward_id: int
    number: int
    source: str
    event: str
    target: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A campaign with rewards that wait for money in this cell, and what lies here for it."""

    campaign_id: int
    asset: str
    balance: int


_COLUMNS: LiteralString = (
    "id, campaign_id, home_cell, task_id, user_id, occurrence, amount, asset, state, remaining,"
    " matures_at, entry_credit, entry_mature, entry_reverse, source, event_id, due_at, created_at,"
    " trace_id, version"
)


async def insert(tx: CellTx, rows: Sequence[RewardRow]) -> None:
    """Write new rewards. A second one of an occurrence is an error of the database."""
    await tx.execute(
        """
        INSERT INTO reward (id, campaign_id, home_cell, task_id, user_id, occurrence, amount, asset,
            state, remaining, matures_at, entry_credit, entry_mature, entry_reverse, source,
            event_id, due_at, lease_token, created_at, trace_id, version)
        SELECT i, c, h, t, u, o, a, s, z, r, m, ec, em, er, f, e, d, 0, %s, %s, 1
        FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::bigint[], %s::bigint[], %s::text[],
            %s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::timestamptz[],
            %s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::timestamptz[])
            AS n (i, c, h, t, u, o, a, s, z, r, m, ec, em, er, f, e, d)
        """,
        (
            tx.now,
            tx.trace_id,
            [row.id for row in rows],
            [row.campaign_id for row in rows],
            [row.home_cell for row in rows],
            [row.task_id for row in rows],
            [row.user_id for row in rows],
            [row.occurrence for row in rows],
            [row.amount for row in rows],
            [row.asset for row in rows],
            [row.state for row in rows],
            [row.remaining for row in rows],
            [row.matures_at for row in rows],
            [row.entry_credit for row in rows],
            [row.entry_mature for row in rows],
            [row.entry_reverse for row in rows],
            [row.source for row in rows],
            [row.event_id for row in rows],
            [row.due_at for row in rows],
        ),
    )


async def update(tx: CellTx, rows: Sequence[RewardRow]) -> None:
    """Write locked rewards back; each has moved once."""
    await tx.execute(
        """
        UPDATE reward w SET state = n.s, remaining = n.r, due_at = n.d, version = n.v
        FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::timestamptz[], %s::int[])
            AS n (i, s, r, d, v)
        WHERE w.id = n.i
        """,
        (
            [row.id for row in rows],
            [row.state for row in rows],
            [row.remaining for row in rows],
            [row.due_at for row in rows],
            [row.version for row in rows],
        ),
    )


async def insert_moves(tx: CellTx, machine: str, rows: Sequence[RewardMove]) -> None:
    """Write the moves of rewards."""
    first = tx.append(len(rows))
    await tx.execute(
        """
        INSERT INTO reward_move (reward_id, number, machine, source, event, target, actor, reason,
            commit_id, ordinal, moved_at)
        SELECT w, m, %s, s, e, g, %s, r, %s, o, %s
        FROM unnest(%s::bigint[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[],
            %s::int[]) AS n (w, m, s, e, g, r, o)
        """,
        (
            machine,
            tx.actor.name,
            tx.commit_id,
            tx.now,
            [row.reward_id for row in rows],
            [row.number for row in rows],
            [row.source for row in rows],
            [row.event for row in rows],
            [row.target for row in rows],
            [row.reason for row in rows],
            list(range(first, first + len(rows))),
        ),
    )


async def claim_due(tx: CellTx, limit: int) -> list[RewardRow]:
    """Rewards whose vesting is over, locked; those that another worker holds are left to it."""
    return await tx.fetch(
        f"SELECT {_COLUMNS} FROM reward WHERE due_at <= %s AND state = 'vesting'"
        " ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED",
        (tx.now, limit),
        RewardRow,
    )


async def claim_waiting(tx: CellTx, most: Mapping[int, int], each: int) -> list[RewardRow]:
    """Rewards that wait for money, of each campaign the oldest `each`, locked.

    `most` by campaign: larger rewards are passed over, or those that the money does not reach
    would stand before those that it does for ever.
    """
    if not most:
        return []
    return await tx.fetch(
        f"""
        SELECT r.* FROM unnest(%s::bigint[], %s::bigint[]) AS c (id, most)
        CROSS JOIN LATERAL (
            SELECT {_COLUMNS} FROM reward
            WHERE campaign_id = c.id AND state = 'awaiting_funds' AND amount <= c.most
            ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
        ) r
        """,
        (sorted(most), [most[number] for number in sorted(most)], each),
        RewardRow,
    )


async def lock(tx: CellTx, ids: Sequence[int]) -> list[RewardRow]:
    """Rewards by id, locked in that order."""
    return await tx.fetch(
        f"SELECT {_COLUMNS} FROM reward WHERE id = ANY(%s) ORDER BY id FOR UPDATE",
        (sorted(set(ids)),),
        RewardRow,
    )


async def waiting(tx: CellRead, limit: int) -> list[Waiting]:
    """Campaigns with rewards that wait, by a walk over the partial index: one probe a campaign."""
    return await tx.fetch(
        """
        WITH RECURSIVE found AS (
            (SELECT campaign_id, asset FROM reward WHERE state = 'awaiting_funds'
             ORDER BY campaign_id LIMIT 1)
            UNION ALL
            SELECT next.campaign_id, next.asset FROM found CROSS JOIN LATERAL (
                SELECT campaign_id, asset FROM reward
                WHERE state = 'awaiting_funds' AND campaign_id > found.campaign_id
                ORDER BY campaign_id LIMIT 1
            ) next
        )
        SELECT f.campaign_id, f.asset, coalesce(a.balance, 0) AS balance
        FROM found f LEFT JOIN account a
            ON a.kind = 'budget' AND a.owner_id = f.campaign_id AND a.asset = f.asset
        LIMIT %s
        """,
        (limit,),
        Waiting,
    )


async def waiting_total(tx: CellRead, campaign_id: int) -> tuple[int, int]:
    """Minor units that wait for a campaign's money in this cell, and the smallest reward of it."""
    [(total, least)] = await tx.tuples(
        "SELECT coalesce(sum(amount), 0), coalesce(min(amount), 0) FROM reward"
        " WHERE campaign_id = %s AND state = 'awaiting_funds'",
        (campaign_id,),
    )
    return min(int(total), MAX_MINOR), least


async def of_events(tx: CellRead, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Ids of the rewards that events brought, by `(source, event id)`."""
    rows = await tx.tuples(
        """
        SELECT w.source, w.event_id, w.id
        FROM unnest(%s::text[], %s::text[]) AS n (source, event_id)
        JOIN event e ON e.source = n.source AND e.event_id = n.event_id
        JOIN reward w ON w.user_id = e.user_id AND w.task_id = e.task_id
            AND w.source = e.source AND w.event_id = e.event_id
        """,
        ([key[0] for key in keys], [key[1] for key in keys]),
    )
    return {(row[0], row[1]): row[2] for row in rows}


async def of_user(tx: CellRead, user_id: int, before: int | None, limit: int) -> list[RewardRow]:
    """A page of a user's rewards, newest first."""
    return await tx.fetch(
        f"SELECT {_COLUMNS} FROM reward WHERE user_id = %s AND id < %s ORDER BY id DESC LIMIT %s",
        (user_id, 2**63 - 1 if before is None else before, limit),
        RewardRow,
    )


async def by_id(tx: CellRead, ids: Sequence[int]) -> list[RewardRow]:
    """Rewards by id."""
    return await tx.fetch(
        f"SELECT {_COLUMNS} FROM reward WHERE id = ANY(%s) ORDER BY id", (list(ids),), RewardRow
    )


async def after(tx: CellRead, after_id: int, limit: int) -> list[RewardRow]:
    """A page of all rewards by id, for the proof."""
    return await tx.fetch(
        f"SELECT {_COLUMNS} FROM reward WHERE id > %s ORDER BY id LIMIT %s",
        (after_id, limit),
        RewardRow,
    )
