"""SQL of the states of tasks in the hands of users, and of their moves (cell)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import LiteralString

import msgspec

from paymaster.db import copying
from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.errors import Conflict

Pair = tuple[int, int]
"""User and task: the key of a task's state."""

Counting = tuple[int, str]
"""How many new events count, and their type; '' for several."""


NONE: Counting = (0, "")
"""Nothing counts."""


class Fresh(msgspec.Struct, frozen=True, gc=False):
    """What a state that is still missing starts with: the campaign's home cell, and its end.

    Also what events bring that are written in the same transaction: how many count, missing state
    or not, and what the first of them makes of one that is missing. The latter is a guess, which
    spares a visit to the row where it is right.
    """

    home_cell: int
    expires_at: datetime | None = None
    counts: Counting = NONE
    state: str | None = None


class StateRow(msgspec.Struct, gc=False):
    """A locked row of `task_state`; changed in place, then written back.

    `counted` is how many kept events counted before this transaction, `counted_type` the type of
    all of them ('' if they are of several). `more` are added by writing the row back. `ahead` is
    the state in which the row was made, as if its first move had been written. `changed` rows are
    to be written, unless they stand.
    """

    user_id: int
    task_id: int
    state: str
    number: int
    rewards: int
    home_cell: int
    barred: bool = False
    counted: int = 0
    counted_type: str = ""
    more: Counting | None = None
    ahead: str | None = None
    changed: bool = False

    @property
    def stands(self) -> bool:
        """Whether the row was made as it is to be."""
        return (
            self.ahead == self.state
            and self.number == 1
            and self.rewards == 0
            and self.more is None
        )


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
    tx: CellTx, wanted: Mapping[Pair, Fresh], initial: str
) -> tuple[dict[Pair, StateRow], AbstractSet[Pair]]:
    """Lock the states of tasks in the hands of users; those that were missing are made.

    Also the pairs of the latter: nothing of them was there before. What counts, and what comes of
    a missing state, is written on the way, as far as that spares a second visit to the row.
    """
    pairs = sorted(wanted)
    found = await _lock_states(tx, pairs, wanted)
    made: set[Pair] = set()
    if len(found) < len(pairs):
        missing = [pair for pair in pairs if pair not in found]
        made = await _make_states(tx, missing, wanted, initial)
        for pair in made:
            fresh = wanted[pair]
            found[pair] = StateRow(
                *pair, initial, 0, 0, fresh.home_cell, ahead=fresh.state, changed=bool(fresh.state)
            )
        if len(made) < len(missing):
            # Others made them in the meantime.
            late = [pair for pair in missing if pair not in made]
            found |= await _lock_states(tx, late, wanted)
    return found, made


async def _make_states(
    tx: CellTx, missing: Sequence[Pair], wanted: Mapping[Pair, Fresh], initial: str
) -> set[Pair]:
    made = [wanted[pair] for pair in missing]
    rows = await tx.tuples(
        """
        INSERT INTO task_state (user_id, task_id, home_cell, state, number, rewards, counted,
            counted_type, expires_at, updated_at, version)
        SELECT u, t, h, s, (s <> %s)::int, 0, c, k, x, %s, 1
        FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::text[], %s::int[], %s::text[],
            %s::timestamptz[]) AS n (u, t, h, s, c, k, x)
        ON CONFLICT (user_id, task_id) DO NOTHING RETURNING user_id, task_id
        """,
        (
            initial,
            tx.now,
            [pair[0] for pair in missing],
            [pair[1] for pair in missing],
            [fresh.home_cell for fresh in made],
            [fresh.state or initial for fresh in made],
            [fresh.counts[0] for fresh in made],
            [fresh.counts[1] for fresh in made],
            [fresh.expires_at for fresh in made],
        ),
    )
    return {(row[0], row[1]) for row in rows}


async def _lock_states(
    tx: CellTx, pairs: Sequence[Pair], wanted: Mapping[Pair, Fresh]
) -> dict[Pair, StateRow]:
    """Locked one by one in the order of `pairs`, each by a probe of the key.

    Where most of them count, that is written at once, which locks them as well.
    """
    counts = [wanted[pair].counts for pair in pairs]
    if 2 * counts.count(NONE) <= len(pairs):
        return await _count_states(tx, pairs, counts)
    rows = await tx.tuples(
        """
        SELECT s.user_id, s.task_id, s.state, s.number, s.rewards, s.home_cell, s.barred,
            s.counted, s.counted_type
        FROM unnest(%s::bigint[], %s::bigint[]) AS n (user_id, task_id)
        CROSS JOIN LATERAL (
            SELECT user_id, task_id, state, number, rewards, home_cell, barred, counted,
                counted_type
            FROM task_state WHERE user_id = n.user_id AND task_id = n.task_id FOR UPDATE
        ) s
        """,
        ([pair[0] for pair in pairs], [pair[1] for pair in pairs]),
    )
    found = {(row[0], row[1]): StateRow(*row) for row in rows}
    for pair, count in zip(pairs, counts, strict=True):
        if count != NONE and pair in found:
            found[pair].more, found[pair].changed = count, True
    return found


async def _count_states(
    tx: CellTx, pairs: Sequence[Pair], counts: Sequence[Counting]
) -> dict[Pair, StateRow]:
    asked = await tx.in_order(
        f"""
        UPDATE task_state s SET counted = s.counted + n.c, counted_type = {_TYPE}
        FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::text[]) AS n (u, t, c, k)
        WHERE s.user_id = n.u AND s.task_id = n.t
        RETURNING s.user_id, s.task_id, s.state, s.number, s.rewards, s.home_cell, s.barred,
            s.counted - n.c, s.counted_type
        """,
        (
            [pair[0] for pair in pairs],
            [pair[1] for pair in pairs],
            [count for count, _ in counts],
            [kind for _, kind in counts],
        ),
    )
    return {(row[0], row[1]): StateRow(*row) for row in await asked.rows()}


_TYPE: LiteralString = """
    CASE WHEN n.c = 0 THEN s.counted_type
        WHEN s.counted = 0 OR s.counted_type = n.k THEN n.k ELSE '' END
"""


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
    more = [row.more or NONE for row in rows]
    await tx.execute(
        f"""
        UPDATE task_state s SET state = n.s, number = n.m, rewards = n.r, updated_at = %s,
            version = s.version + 1, counted = s.counted + n.c, counted_type = {_TYPE},
            expires_at = CASE WHEN n.s IN ('offered', 'started', 'in_progress')
                THEN s.expires_at END
        FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::int[], %s::int[], %s::int[],
            %s::text[]) AS n (u, t, s, m, r, c, k)
        WHERE s.user_id = n.u AND s.task_id = n.t
        """,
        (
            tx.now,
            [row.user_id for row in rows],
            [row.task_id for row in rows],
            [row.state for row in rows],
            [row.number for row in rows],
            [row.rewards for row in rows],
            [count for count, _ in more],
            [kind for _, kind in more],
        ),
    )


async def write_moves(tx: CellTx, machine: str, rows: Sequence[MoveRow]) -> None:
    """Write the moves of tasks' states. Raises Conflict `illegal-move`, as `check_legal`."""
    await check_legal(tx, machine, {(row.source, row.event, row.target) for row in rows})
    first, same = tx.append(len(rows)), moved_by(tx)
    kinds: dict[tuple[str, str, str, str | None], bytes] = {}
    for kind in {(row.source, row.event, row.target, row.reason) for row in rows}:
        kinds[kind] = b"".join([copying.word(word) for word in (machine, *kind)]) + same
    await tx.copy_rows(
        "COPY task_move (user_id, task_id, number, ordinal, machine, source, event, target, reason,"
        " actor, commit_id, moved_at) FROM STDIN (FORMAT binary)",
        [
            _move(12, 8, row.user_id, 8, row.task_id, 4, row.number, 4, place)
            + kinds[row.source, row.event, row.target, row.reason]
            for place, row in enumerate(rows, first)
        ],
    )


_move = struct.Struct(">hiqiqiiii").pack
"""How many columns, user, task, number and ordinal."""


def moved_by(tx: CellTx) -> bytes:
    """The columns of a move that say who made it, with which commit and when."""
    return b"".join(
        [
            copying.word(tx.actor.name),
            copying.whole(tx.commit_id),
            copying.whole(copying.moment(tx.now)),
        ]
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
