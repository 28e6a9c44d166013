"""SQL of the states of tasks in the hands of users, and of their moves (cell)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from paymaster.db.tx import CellRead, CellTx

Pair = tuple[int, int]
"""User and task: the key of a task's state."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """What a state that is still missing starts with: the campaign's home cell, and its end."""

    home_cell: int
    expires_at: datetime | None = None


@dataclass(slots=True)
class StateRow:
    """A locked row of `task_state`; changed in place, then written back."""

    user_id: int
    task_id: int
    state: str
    number: int
    rewards: int
    home_cell: int


@dataclass(frozen=True, slots=True)
class MoveRow:
    """A move of a task's state."""

    user_id: int
    task_id: int
    number: int
    source: str
    event: str
    target: str
    reason: str | None


async def lock_states(
    tx: CellTx, pairs: Mapping[Pair, Fresh], initial: str
) -> dict[Pair, StateRow]:
    """Lock the states of tasks in the hands of users, making those that are missing."""
    found = await _lock_states(tx, sorted(pairs))
    missing = sorted(pair for pair in pairs if pair not in found)
    if missing:
        await tx.execute(
            """
            INSERT INTO task_state (user_id, task_id, home_cell, state, number, rewards,
                expires_at, updated_at, version)
            SELECT u, t, h, %s, 0, 0, x, %s, 1
            FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::timestamptz[])
                AS n (u, t, h, x)
            ON CONFLICT (user_id, task_id) DO NOTHING
            """,
            (
                initial,
                tx.now,
                [pair[0] for pair in missing],
                [pair[1] for pair in missing],
                [pairs[pair].home_cell for pair in missing],
                [pairs[pair].expires_at for pair in missing],
            ),
        )
        found |= await _lock_states(tx, missing)
    return found


async def _lock_states(tx: CellTx, pairs: Sequence[Pair]) -> dict[Pair, StateRow]:
    rows = await tx.fetch(
        """
        SELECT s.user_id, s.task_id, s.state, s.number, s.rewards, s.home_cell
        FROM unnest(%s::bigint[], %s::bigint[]) AS n (user_id, task_id)
        JOIN task_state s ON s.user_id = n.user_id AND s.task_id = n.task_id
        ORDER BY s.user_id, s.task_id FOR UPDATE OF s
        """,
        ([pair[0] for pair in pairs], [pair[1] for pair in pairs]),
        StateRow,
    )
    return {(row.user_id, row.task_id): row for row in rows}


async def states(tx: CellRead, pairs: Sequence[Pair]) -> dict[Pair, StateRow]:
    """The states of tasks in the hands of users; untouched ones are missing."""
    rows = await tx.fetch(
        """
        SELECT s.user_id, s.task_id, s.state, s.number, s.rewards, s.home_cell
        FROM unnest(%s::bigint[], %s::bigint[]) AS n (user_id, task_id)
        JOIN task_state s ON s.user_id = n.user_id AND s.task_id = n.task_id
        """,
        ([pair[0] for pair in pairs], [pair[1] for pair in pairs]),
        StateRow,
    )
    return {(row.user_id, row.task_id): row for row in rows}


async def update_states(tx: CellTx, rows: Sequence[StateRow]) -> None:
    """Write locked states back; a decided one no longer expires."""
    await tx.execute(
        """
        UPDATE task_state s SET state = n.s, number = n.m, rewards = n.r, updated_at = %s,
            version = s.version + 1,
            expires_at = CASE WHEN n.s IN ('offered', 'started', 'in_progress')
                THEN s.expires_at END
        FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::int[], %s::int[])
            AS n (u, t, s, m, r)
        WHERE s.user_id = n.u AND s.task_id = n.t
        """,
        (
            tx.now,
            [row.user_id for row in rows],
            [row.task_id for row in rows],
            [row.state for row in rows],
            [row.number for row in rows],
            [row.rewards for row in rows],
        ),
    )


async def insert_moves(tx: CellTx, machine: str, rows: Sequence[MoveRow]) -> None:
    """Write the moves of tasks' states."""
    first = tx.append(len(rows))
    await tx.execute(
        """
        INSERT INTO task_move (user_id, task_id, number, machine, source, event, target, actor,
            reason, commit_id, ordinal, moved_at)
        SELECT u, t, m, %s, s, e, g, %s, r, %s, o, %s
        FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::text[], %s::text[], %s::text[],
            %s::text[], %s::int[]) AS n (u, t, m, s, e, g, r, o)
        """,
        (
            machine,
            tx.actor.name,
            tx.commit_id,
            tx.now,
            [row.user_id for row in rows],
            [row.task_id for row in rows],
            [row.number for row in rows],
            [row.source for row in rows],
            [row.event for row in rows],
            [row.target for row in rows],
            [row.reason for row in rows],
            list(range(first, first + len(rows))),
        ),
    )


async def claim_expired(tx: CellTx, limit: int) -> list[StateRow]:
    """Undecided states whose time is over, locked."""
    return await tx.fetch(
        """
        SELECT user_id, task_id, state, number, rewards, home_cell FROM task_state
        WHERE expires_at <= %s ORDER BY expires_at, user_id, task_id LIMIT %s FOR UPDATE SKIP LOCKED
        """,
        (tx.now, limit),
        StateRow,
    )


async def states_of_user(
    tx: CellRead, user_id: int, task_ids: Sequence[int]
) -> dict[int, StateRow]:
    """A user's states by task."""
    found = await states(tx, [(user_id, task_id) for task_id in task_ids])
    return {row.task_id: row for row in found.values()}
