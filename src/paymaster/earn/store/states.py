"""SQL of the states of tasks in the hands of users, and of their moves (cell)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

import msgspec

from paymaster.db import copying
from paymaster.db.copying import NULL
from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.errors import Conflict

Pair = tuple[int, int]
"""User and task: the key of a task's state."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """What a state that is still missing starts with: the campaign's home cell, and its end."""

    home_cell: int
    expires_at: datetime | None = None


class StateRow(msgspec.Struct, gc=False):
    """A locked row of `task_state`; changed in place, then written back."""

    user_id: int
    task_id: int
    state: str
    number: int
    rewards: int
    home_cell: int
    barred: bool = False


class MoveRow(msgspec.Struct, frozen=True, gc=False):
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
) -> tuple[dict[Pair, StateRow], AbstractSet[Pair]]:
    """Lock the states of tasks in the hands of users; those that were missing are made.

    Also the pairs of the latter: nothing of them was there before.
    """
    found = await _lock_states(tx, sorted(pairs))
    missing = sorted(pair for pair in pairs if pair not in found)
    made: set[Pair] = set()
    if missing:
        rows = await tx.tuples(
            """
            INSERT INTO task_state (user_id, task_id, home_cell, state, number, rewards,
                expires_at, updated_at, version)
            SELECT u, t, h, %s, 0, 0, x, %s, 1
            FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::timestamptz[])
                AS n (u, t, h, x)
            ON CONFLICT (user_id, task_id) DO NOTHING RETURNING user_id, task_id
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
        for user_id, task_id in rows:
            pair = user_id, task_id
            made.add(pair)
            found[pair] = StateRow(user_id, task_id, initial, 0, 0, pairs[pair].home_cell)
        if len(made) < len(missing):
            # Others made them in the meantime.
            found |= await _lock_states(tx, [pair for pair in missing if pair not in made])
    return found, made


async def _lock_states(tx: CellTx, pairs: Sequence[Pair]) -> dict[Pair, StateRow]:
    """Locked one by one in the order of `pairs`, each by a probe of the key."""
    rows = await tx.tuples(
        """
        SELECT s.user_id, s.task_id, s.state, s.number, s.rewards, s.home_cell, s.barred
        FROM unnest(%s::bigint[], %s::bigint[]) AS n (user_id, task_id)
        CROSS JOIN LATERAL (
            SELECT user_id, task_id, state, number, rewards, home_cell, barred FROM task_state
            WHERE user_id = n.user_id AND task_id = n.task_id FOR UPDATE
        ) s
        """,
        ([pair[0] for pair in pairs], [pair[1] for pair in pairs]),
    )
    return {(row[0], row[1]): StateRow(*row) for row in rows}


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


async def write_moves(tx: CellTx, machine: str, rows: Sequence[MoveRow]) -> None:
    """Write the moves of tasks' states. Raises Conflict `illegal-move`, as `check_legal`."""
    await check_legal(tx, machine, {(row.source, row.event, row.target) for row in rows})
    first, commit = tx.append(len(rows)), tx.commit_id
    text, moved = copying.text, tx.now.isoformat()
    actor = text(tx.actor.name)
    await tx.copy(
        "COPY task_move (user_id, task_id, number, machine, source, event, target, reason, actor,"
        " commit_id, ordinal, moved_at) FROM STDIN",
        [
            f"{row.user_id}\t{row.task_id}\t{row.number}\t{machine}\t{row.source}\t{row.event}"
            f"\t{row.target}\t{NULL if row.reason is None else text(row.reason)}"
            f"\t{actor}\t{commit}\t{place}\t{moved}\n"
            for place, row in enumerate(rows, first)
        ],
    )


async def check_legal(tx: CellTx, machine: str, moves: AbstractSet[tuple[str, str, str]]) -> None:
    """Each kind of move `(source, event, target)` must be in this cell's table of legal moves.

    Raises Conflict `illegal-move`. Asked once for a batch, not by a foreign key for every row.
    """
    kinds = sorted(moves)
    known = await tx.tuples(
        """
        SELECT l.source, l.event, l.target FROM unnest(%s::text[], %s::text[], %s::text[])
            AS n (source, event, target)
        JOIN legal_move l ON l.machine = %s AND l.source = n.source AND l.event = n.event
            AND l.target = n.target
        """,
        (*([kind[place] for kind in kinds] for place in range(3)), machine),
    )
    for source, event, target in moves - {(row[0], row[1], row[2]) for row in known}:
        raise Conflict(
            "illegal-move", f"A {machine} that is {source} cannot be {target} by {event}."
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
