"""SQL of reversals: those that were done, and those that came before their reward (cell)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple

from paymaster.db.tx import CellRead, CellTx


class ReversalRow(NamedTuple):
    """A row of `reward_reversal`, without its place in the commit."""

    reward_id: int
    number: int
    reference: str | None
    user_id: int
    campaign_id: int
    asset: str
    amount: int
    from_vesting: int
    from_available: int
    from_reserve: int
    owed: int
    bearer: str
    entry_id: int
    reason: str
    actor: str
    reversed_at: datetime


_COLUMNS: LiteralString = (
    "reward_id, number, reference, user_id, campaign_id, asset, amount, from_vesting,"
    " from_available, from_reserve, owed, bearer, entry_id, reason, actor, reversed_at"
)


async def insert(tx: CellTx, rows: Sequence[ReversalRow]) -> None:
    """Keep what reversals did."""
    first = tx.append(len(rows))
    await tx.send(
        f"INSERT INTO reward_reversal ({_COLUMNS}, ordinal, commit_id)"
        " SELECT n.*, %s FROM unnest(%s::bigint[], %s::int[], %s::text[], %s::bigint[],"
        " %s::bigint[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],"
        " %s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::timestamptz[],"
        " %s::int[]) AS n",
        (
            tx.commit_id,
            *([row[place] for row in rows] for place in range(16)),
            list(range(first, first + len(rows))),
        ),
    )


async def of_rewards(tx: CellRead, reward_ids: Sequence[int]) -> list[ReversalRow]:
    """All reversals of rewards, in order."""
    rows = await tx.tuples(
        f"SELECT {_COLUMNS} FROM reward_reversal WHERE reward_id = ANY(%s)"
        " ORDER BY reward_id, number",
        (list(reward_ids),),
    )
    return [ReversalRow._make(row) for row in rows]


class EarlyRow(NamedTuple):
    """A row of `early_reversal`."""

    source: str
    event_id: str
    reference: str
    user_id: int
    amount: int | None
    asset: str | None
    reason: str
    actor: str
    received_at: datetime
    due_at: datetime | None
    met_at: datetime | None


_EARLY: LiteralString = (
    "source, event_id, reference, user_id, amount, asset, reason, actor, received_at, due_at,"
    " met_at"
)

OF_NO_TASK = 0
REVERSED = "reversed"
"""The outcome of an event that was taken back before it came; nothing else is known of it."""

FORESTALLED = b""
"""Its digest: no event has an empty one."""


async def forestall(tx: CellTx, source: str, event_id: str, user_id: int) -> bool:
    """Keep an event as reversed that never came; False when it did.

    One that is being taken in at this moment is waited for: of the two, one is first.
    """
    return bool(
        await tx.execute(
            """
            INSERT INTO event (source, event_id, task_id, user_id, type, occurred_at, received_at,
                digest, payload, outcome, trace_id, commit_id, ordinal)
            VALUES (%s, %s, %s, %s, 'reversal', %s, %s, '', '{}', %s, %s, %s, %s)
            ON CONFLICT (source, event_id) DO NOTHING
            """,
            (
                source,
                event_id,
                OF_NO_TASK,
                user_id,
                tx.now,
                tx.now,
                REVERSED,
                tx.trace_id,
                tx.commit_id,
                tx.append(),
            ),
        )
    )


async def forestalled(tx: CellRead, source: str, event_id: str) -> bool | None:
    """Whether an event is kept as reversed only; None when it is not kept at all."""
    return await tx.value(
        "SELECT outcome = 'reversed' AND task_id = 0 FROM event"
        " WHERE source = %s AND event_id = %s",
        (source, event_id),
    )


async def bar(tx: CellTx, source: str, event_id: str, user_id: int) -> bool:
    """Let a pattern never be earned towards which an event counts.

    False when there is none, or it was earned. Whoever judges it at this moment is waited for.
    """
    return bool(
        await tx.execute(
            """
            UPDATE task_state s SET barred = true, version = s.version + 1
            FROM event e WHERE e.source = %s AND e.event_id = %s AND e.user_id = %s
                AND e.outcome = 'counts' AND s.user_id = e.user_id AND s.task_id = e.task_id
                AND s.rewards = 0
            """,
            (source, event_id, user_id),
        )
    )


async def keep_early(tx: CellTx, row: EarlyRow) -> bool:
    """Keep a reversal that came before its reward; False when it is kept already."""
    return bool(
        await tx.execute(
            f"INSERT INTO early_reversal ({_EARLY}, trace_id)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (source, event_id, reference) DO NOTHING",
            (*row, tx.trace_id),
        )
    )


async def claim_early(tx: CellTx, limit: int) -> list[EarlyRow]:
    """Early reversals that shall be tried again, locked."""
    rows = await tx.tuples(
        f"SELECT {_EARLY} FROM early_reversal WHERE due_at <= %s"
        " ORDER BY due_at, source, event_id, reference LIMIT %s FOR UPDATE SKIP LOCKED",
        (tx.now, limit),
    )
    return [EarlyRow._make(row) for row in rows]


async def tried_early(tx: CellTx, rows: Sequence[EarlyRow]) -> None:
    """Write when they are due again, and when they were met."""
    await tx.execute(
        """
        UPDATE early_reversal w SET due_at = n.d, met_at = n.m
        FROM unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[])
            AS n (s, e, r, d, m)
        WHERE w.source = n.s AND w.event_id = n.e AND w.reference = n.r
        """,
        (
            [row.source for row in rows],
            [row.event_id for row in rows],
            [row.reference for row in rows],
            [row.due_at for row in rows],
            [row.met_at for row in rows],
        ),
    )


async def due_now(tx: CellTx, user_id: int) -> None:
    """Make a user's early reversals that are to be tried again due at once."""
    await tx.execute(
        "UPDATE early_reversal SET due_at = %s WHERE user_id = %s AND due_at > %s",
        (tx.now, user_id, tx.now),
    )


async def met_early(tx: CellTx, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Note that events came whose reversal was there before; those for which it is news."""
    rows = await tx.tuples(
        """
        UPDATE early_reversal w SET met_at = %s, due_at = NULL
        FROM unnest(%s::text[], %s::text[]) AS n (s, e)
        WHERE w.source = n.s AND w.event_id = n.e AND w.met_at IS NULL
        RETURNING w.source, w.event_id
        """,
        (tx.now, [key[0] for key in keys], [key[1] for key in keys]),
    )
    return {(row[0], row[1]) for row in rows}


async def open_early(
    tx: CellRead, after: tuple[str, str, str] | None, limit: int
) -> list[EarlyRow]:
    """A page of early reversals whose reward never came."""
    rows = await tx.tuples(
        f"SELECT {_EARLY} FROM early_reversal WHERE met_at IS NULL"
        " AND (source, event_id, reference) > (%s, %s, %s)"
        " ORDER BY source, event_id, reference LIMIT %s",
        (*(after or ("", "", "")), limit),
    )
    return [EarlyRow._make(row) for row in rows]
