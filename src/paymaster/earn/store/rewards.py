"""SQL of rewards and their moves (cell)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

import msgspec

from paymaster.db import copying
from paymaster.db.copying import NULL
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn.store.states import check_legal
from paymaster.kernel.money import MAX_MINOR


class RewardRow(msgspec.Struct, gc=False):
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
    policy_id: int | None = None
    taken: int = 0
    waits_for: str | None = None
    exempt: bool = False

    @property
    def rest(self) -> int:
        """What of the amount was not taken back."""
        return self.amount - self.taken


class RewardMove(msgspec.Struct, frozen=True, gc=False):
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
    " trace_id, version, policy_id, taken, waits_for, exempt"
)


async def write(tx: CellTx, rows: Sequence[RewardRow]) -> None:
    """Write new rewards. A second one of an occurrence is an error of the database."""
    text = copying.escaping(
        [row.occurrence for row in rows], [row.event_id for row in rows], {r.source for r in rows}
    )
    moments = {row.matures_at for row in rows}
    times: dict[datetime | None, str] = {moment: moment.isoformat() for moment in moments}
    times[None] = NULL
    tail = f"{tx.now.isoformat()}\t{copying.text(tx.trace_id)}\t0\n"
    await tx.copy(
        "COPY reward (id, campaign_id, home_cell, task_id, user_id, occurrence, amount, asset,"
        " state, remaining, matures_at, entry_credit, entry_mature, entry_reverse, source,"
        " event_id, due_at, version, policy_id, created_at, trace_id, lease_token) FROM STDIN",
        [
            f"{row.id}\t{row.campaign_id}\t{row.home_cell}\t{row.task_id}\t{row.user_id}"
            f"\t{text(row.occurrence)}\t{row.amount}\t{row.asset}\t{row.state}\t{row.remaining}"
            f"\t{times[row.matures_at]}\t{row.entry_credit}\t{row.entry_mature}"
            f"\t{row.entry_reverse}\t{text(row.source)}\t{text(row.event_id)}"
            f"\t{times[row.due_at]}\t{row.version}"
            f"\t{NULL if row.policy_id is None else row.policy_id}\t{tail}"
            for row in rows
        ],
    )


async def update(tx: CellTx, rows: Sequence[RewardRow]) -> None:
    """Write locked rewards back; each has moved once."""
    await tx.execute(
        """
        UPDATE reward w SET state = n.s, remaining = n.r, due_at = n.d, version = n.v,
            taken = n.t, waits_for = n.f, matures_at = n.m, exempt = n.e
        FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::timestamptz[], %s::int[],
            %s::bigint[], %s::text[], %s::timestamptz[], %s::boolean[])
            AS n (i, s, r, d, v, t, f, m, e)
        WHERE w.id = n.i
        """,
        (
            [row.id for row in rows],
            [row.state for row in rows],
            [row.remaining for row in rows],
            [row.due_at for row in rows],
            [row.version for row in rows],
            [row.taken for row in rows],
            [row.waits_for for row in rows],
            [row.matures_at for row in rows],
            [row.exempt for row in rows],
        ),
    )


async def write_moves(tx: CellTx, machine: str, rows: Sequence[RewardMove]) -> None:
    """Write the moves of rewards. Raises Conflict `illegal-move`, as `check_legal`."""
    await check_legal(tx, machine, {(row.source, row.event, row.target) for row in rows})
    first, commit = tx.append(len(rows)), tx.commit_id
    text, moved = copying.text, tx.now.isoformat()
    actor = text(tx.actor.name)
    await tx.copy(
        "COPY reward_move (reward_id, number, machine, source, event, target, reason, actor,"
        " commit_id, ordinal, moved_at) FROM STDIN",
        [
            f"{row.reward_id}\t{row.number}\t{machine}\t{row.source}\t{row.event}\t{row.target}"
            f"\t{NULL if row.reason is None else text(row.reason)}"
            f"\t{actor}\t{commit}\t{place}\t{moved}\n"
            for place, row in enumerate(rows, first)
        ],
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


async def waiting(tx: CellRead, after: int, limit: int) -> list[Waiting]:
    """Campaigns with rewards that wait, the next `limit` after a campaign.

    By a walk over the partial index: one probe a campaign.
    """
    return await tx.fetch(
        """
        WITH RECURSIVE found AS (
            (SELECT campaign_id, asset FROM reward
             WHERE state = 'awaiting_funds' AND campaign_id > %s ORDER BY campaign_id LIMIT 1)
            UNION ALL
            SELECT next.campaign_id, next.asset FROM found CROSS JOIN LATERAL (
                SELECT campaign_id, asset FROM reward
                WHERE state = 'awaiting_funds' AND campaign_id > found.campaign_id
                ORDER BY campaign_id LIMIT 1
            ) next
        )
        SELECT f.campaign_id, f.asset, coalesce(a.balance, 0) AS balance
        FROM (SELECT campaign_id, asset FROM found LIMIT %s) f LEFT JOIN account a
            ON a.kind = 'budget' AND a.owner_id = f.campaign_id AND a.asset = f.asset
        """,
        (after, limit),
        Waiting,
    )


async def round_after(tx: CellRead) -> int:
    """The campaign after which the round over those that wait goes on; 0 is the start."""
    return await tx.value("SELECT after_id FROM earn_round WHERE name = 'awaiting'") or 0


async def go_round(tx: CellTx, after: int) -> None:
    """Remember how far the round has come."""
    await tx.execute(
        "INSERT INTO earn_round (name, after_id) VALUES ('awaiting', %s)"
        " ON CONFLICT (name) DO UPDATE SET after_id = excluded.after_id",
        (after,),
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
