"""SQL of rewards and their moves (cell)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

import msgspec

from paymaster.db import copying
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn.store.states import check_legal, moved_by
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
    words: dict[str, bytes] = {}
    for word in {word for row in rows for word in (row.asset, row.state, row.source)}:
        words[word] = copying.word(word)
    times: dict[datetime | None, bytes] = {None: copying.NOTHING}
    for at in {row.matures_at for row in rows} | {row.due_at for row in rows if row.due_at}:
        times[at] = copying.whole(copying.moment(at))
    tail = copying.whole(copying.moment(tx.now)) + copying.word(tx.trace_id)
    whole, word = copying.whole, copying.word
    await tx.copy_rows(
        "COPY reward (id, campaign_id, home_cell, task_id, user_id, amount, remaining, version,"
        " lease_token, entry_credit, entry_mature, entry_reverse, occurrence, event_id,"
        " asset, state, source, matures_at, due_at, policy_id, created_at, trace_id)"
        " FROM STDIN (FORMAT binary)",
        [
            b"%b%b%b%b%b%b%b%b%b%b%b%b"
            % (
                _whose(22, 8, row.id, 8, row.campaign_id, 4, row.home_cell, 8, row.task_id),
                _sums(8, row.user_id, 8, row.amount, 8, row.remaining, 4, row.version, 8, 0),
                _entries(8, row.entry_credit, 8, row.entry_mature, 8, row.entry_reverse),
                word(row.occurrence),
                word(row.event_id),
                words[row.asset],
                words[row.state],
                words[row.source],
                times[row.matures_at],
                times[row.due_at],
                copying.NOTHING if row.policy_id is None else whole(row.policy_id),
                tail,
            )
            for row in rows
        ],
    )


_whose = struct.Struct(">hiqiqiiiq").pack
"""How many columns; reward, campaign, its home cell, task."""

_sums = struct.Struct(">iqiqiqiiiq").pack
"""User, amount, remaining, version, and a lease that nobody has."""

_entries = struct.Struct(">iqiqiq").pack


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
    first, same = tx.append(len(rows)), moved_by(tx)
    kinds: dict[tuple[str, str, str, str | None], bytes] = {}
    for kind in {(row.source, row.event, row.target, row.reason) for row in rows}:
        kinds[kind] = b"".join([copying.word(word) for word in (machine, *kind)]) + same
    await tx.copy_rows(
        "COPY reward_move (reward_id, number, ordinal, machine, source, event, target, reason,"
        " actor, commit_id, moved_at) FROM STDIN (FORMAT binary)",
        [
            _move(11, 8, row.reward_id, 4, row.number, 4, place)
            + kinds[row.source, row.event, row.target, row.reason]
            for place, row in enumerate(rows, first)
        ],
    )


_move = struct.Struct(">hiqiiii").pack
"""How many columns, reward, number and ordinal."""


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
