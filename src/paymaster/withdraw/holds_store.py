"""The SQL of regulatory holds and of what they freeze. Private to the package; one a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from paymaster.db.tx import CellRead, CellTx


@dataclass(frozen=True, slots=True)
class HoldRow:
    """A hold; open while `lifted_at` is None. `user_id` is whose subject it is."""

    id: int
    subject_kind: str
    subject_id: int
    user_id: int
    reference: str
    reason: str
    placed_by: str
    placed_at: datetime
    lifted_by: str | None
    lift_reason: str | None
    lifted_at: datetime | None
    trace_id: str
    version: int


class Standing(NamedTuple):
    """What stands against moving withdrawals: by id of user, destination, or what is held."""

    users: dict[int, str]
    destinations: dict[int, str]
    held: dict[int, str]


async def standing(
    tx: CellRead,
    user_ids: Sequence[int],
    destination_ids: Sequence[int],
    subject_ids: Sequence[int],
) -> Standing:
    """Users and destinations that are not active, with how they stand; open holds of subjects.

    One statement, so that a batch pays one round trip for all three. A hold on a destination is
    one on all destinations of the same account details. Of several holds one reference is told.
    """
    found = Standing({}, {}, {})
    for number, text, kind in await tx.tuples(
        """
        SELECT id, status, 0 FROM app_user WHERE id = ANY(%s) AND status <> 'active'
        UNION ALL
        SELECT id, state, 1 FROM destination WHERE id = ANY(%s) AND state <> 'active'
        UNION ALL
        SELECT subject_id, min(reference), 2 FROM legal_hold
        WHERE subject_id = ANY(%s) AND lifted_at IS NULL GROUP BY subject_id
        UNION ALL
        SELECT t.id, min(h.reference), 2 FROM destination t
            JOIN destination s ON s.fingerprint = t.fingerprint
            JOIN legal_hold h ON h.subject_id = s.id AND h.lifted_at IS NULL
        WHERE t.id = ANY(%s) GROUP BY t.id
        """,
        (list(user_ids), list(destination_ids), list(subject_ids), list(subject_ids)),
    ):
        found[kind][number] = text
    return found


async def postpone(tx: CellTx, ids: Sequence[int], until: datetime) -> None:
    """Let no worker look at these locked withdrawals before then; what is not due stays so."""
    await tx.execute(
        "UPDATE withdrawal SET due_at = greatest(due_at, %s)"
        " WHERE id = ANY(%s) AND due_at IS NOT NULL",
        (until, list(ids)),
    )


async def due_now(tx: CellTx, withdrawal_id: int, states: Sequence[str]) -> bool:
    """Make a withdrawal due at once if it is in one of these states."""
    return bool(
        await tx.execute(
            "UPDATE withdrawal SET due_at = %s, version = version + 1"
            " WHERE id = %s AND state = ANY(%s)",
            (tx.now, withdrawal_id, list(states)),
        )
    )


async def wake(tx: CellTx, subject_id: int, states: Sequence[str]) -> None:
    """Let workers look at once at what was postponed under a hold of this subject.

    Their tries do not count: they failed because of the hold. An id is unique in its cell, so it is
    of a user, of a destination (then all of the same account details are meant) or of a withdrawal.
    """
    await tx.execute(
        """
        UPDATE withdrawal SET due_at = %(now)s, tries = 0, version = version + 1
        WHERE due_at > %(now)s AND id = ANY(ARRAY(
            SELECT id FROM withdrawal
            WHERE (user_id = %(of)s OR id = %(of)s OR destination_id = ANY(ARRAY(
                    SELECT s.id FROM destination t
                        JOIN destination s ON s.fingerprint = t.fingerprint
                    WHERE t.id = %(of)s)))
                AND state = ANY(%(states)s)
            ORDER BY id FOR UPDATE))
        """,
        {"now": tx.now, "states": list(states), "of": subject_id},
    )


async def lock_of_user(tx: CellTx, user_id: int, states: Sequence[str]) -> list[int]:
    """Lock the withdrawals of a user in these states, in order of id."""
    rows = await tx.tuples(
        "SELECT id FROM withdrawal WHERE user_id = %s AND state = ANY(%s) ORDER BY id FOR UPDATE",
        (user_id, list(states)),
    )
    return [row[0] for row in rows]


async def lock_of_destination(tx: CellTx, destination_id: int, states: Sequence[str]) -> list[int]:
    """Lock the withdrawals to a destination in these states, in order of id."""
    return await lock_of_destinations(tx, [destination_id], states)


async def lock_of_destinations(
    tx: CellTx, destination_ids: Sequence[int], states: Sequence[str]
) -> list[int]:
    """The same for several destinations."""
    rows = await tx.tuples(
        "SELECT id FROM withdrawal WHERE destination_id = ANY(%s) AND state = ANY(%s)"
        " ORDER BY id FOR UPDATE",
        (list(destination_ids), list(states)),
    )
    return [row[0] for row in rows]


async def lock_free_of_destination(
    tx: CellTx, destination_id: int, states: Sequence[str]
) -> list[int]:
    """As `lock_of_destination`, without what is held by order or locked by somebody else."""
    rows = await tx.tuples(
        """
        SELECT w.id FROM withdrawal w WHERE w.destination_id = %s AND w.state = ANY(%s)
            AND NOT EXISTS (SELECT FROM legal_hold h WHERE h.lifted_at IS NULL
                AND h.subject_id IN (w.id, w.user_id))
            AND NOT EXISTS (SELECT FROM destination t
                JOIN destination s ON s.fingerprint = t.fingerprint
                JOIN legal_hold h ON h.subject_id = s.id AND h.lifted_at IS NULL
                WHERE t.id = w.destination_id)
        ORDER BY w.id FOR UPDATE OF w SKIP LOCKED
        """,
        (destination_id, list(states)),
    )
    return [row[0] for row in rows]


async def held_users(tx: CellTx, user_ids: Sequence[int]) -> dict[int, str]:
    """Which of these users are held, with a reference; who is placing a hold is waited for."""
    await tx.tuples(
        "SELECT id FROM app_user WHERE id = ANY(%s) ORDER BY id FOR SHARE", (list(user_ids),)
    )
    rows = await tx.tuples(
        "SELECT subject_id, min(reference) FROM legal_hold"
        " WHERE subject_id = ANY(%s) AND lifted_at IS NULL GROUP BY subject_id",
        (list(user_ids),),
    )
    return {row[0]: row[1] for row in rows}


async def lock_user(tx: CellTx, user_id: int) -> int | None:
    """Lock a user: requests of the user wait. The id again; None when there is none such."""
    return await tx.value("SELECT id FROM app_user WHERE id = %s FOR UPDATE", (user_id,))


async def alike(tx: CellRead, destination_id: int) -> list[int]:
    """A destination and all others of the same account details; nothing when there is none such."""
    rows = await tx.tuples(
        "SELECT s.id FROM destination t JOIN destination s ON s.fingerprint = t.fingerprint"
        " WHERE t.id = %s ORDER BY s.id",
        (destination_id,),
    )
    return [row[0] for row in rows]


async def lock_destinations(tx: CellTx, destination_ids: Sequence[int]) -> dict[int, int]:
    """Lock destinations, in order of id: requests to them wait. Their users by id."""
    rows = await tx.tuples(
        "SELECT id, user_id FROM destination WHERE id = ANY(%s) ORDER BY id FOR UPDATE",
        (list(destination_ids),),
    )
    return {row[0]: row[1] for row in rows}


async def covered(
    tx: CellRead, destination_ids: Sequence[int], most: int
) -> list[tuple[int, list[int]]]:
    """Each of these with the other destinations of the same account details, at most so many."""
    return await tx.tuples(
        """
        SELECT t.id, ARRAY(SELECT s.id FROM destination s
            WHERE s.fingerprint = t.fingerprint AND s.id <> t.id ORDER BY s.id LIMIT %s)
        FROM destination t WHERE t.id = ANY(%s)
        """,
        (most, list(destination_ids)),
    )


async def lock_withdrawal(tx: CellTx, withdrawal_id: int) -> int | None:
    """Lock a withdrawal. Its user; None when there is none such."""
    return await tx.value(
        "SELECT user_id FROM withdrawal WHERE id = %s FOR UPDATE", (withdrawal_id,)
    )


async def insert(tx: CellTx, row: HoldRow) -> bool:
    """Whether it is new: of one reference there is one open hold of a subject."""
    return bool(
        await tx.execute(
            """
            INSERT INTO legal_hold (id, subject_kind, subject_id, user_id, reference, reason,
                placed_by, placed_at, trace_id, version)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (subject_id, reference) WHERE lifted_at IS NULL DO NOTHING
            """,
            (
                row.id,
                row.subject_kind,
                row.subject_id,
                row.user_id,
                row.reference,
                row.reason,
                row.placed_by,
                row.placed_at,
                row.trace_id,
                row.version,
            ),
        )
    )


async def lock(tx: CellTx, hold_id: int) -> HoldRow | None:
    """Lock a hold."""
    return await tx.maybe(
        """
        SELECT id, subject_kind, subject_id, user_id, reference, reason, placed_by, placed_at,
            lifted_by, lift_reason, lifted_at, trace_id, version
        FROM legal_hold WHERE id = %s FOR UPDATE
        """,
        (hold_id,),
        HoldRow,
    )


async def lifted(tx: CellTx, hold_id: int, reason: str) -> None:
    """Write that a locked hold was lifted."""
    await tx.execute(
        "UPDATE legal_hold SET lifted_by = %s, lift_reason = %s, lifted_at = %s,"
        " version = version + 1 WHERE id = %s",
        (tx.actor.name, reason, tx.now, hold_id),
    )


async def find(tx: CellRead, hold_id: int) -> HoldRow | None:
    """One hold."""
    return await tx.maybe(
        """
        SELECT id, subject_kind, subject_id, user_id, reference, reason, placed_by, placed_at,
            lifted_by, lift_reason, lifted_at, trace_id, version
        FROM legal_hold WHERE id = %s
        """,
        (hold_id,),
        HoldRow,
    )


async def page(
    tx: CellRead, is_open: bool | None, subject_id: int | None, below: int, limit: int
) -> list[HoldRow]:
    """Holds with an id below, newest first: open, lifted or all; of one subject or of all."""
    return await tx.fetch(
        """
        SELECT id, subject_kind, subject_id, user_id, reference, reason, placed_by, placed_at,
            lifted_by, lift_reason, lifted_at, trace_id, version
        FROM legal_hold
        WHERE id < %(below)s AND (%(open)s::boolean IS NULL OR (lifted_at IS NULL) = %(open)s)
            AND (%(subject)s::bigint IS NULL OR subject_id = %(subject)s)
        ORDER BY id DESC LIMIT %(limit)s
        """,
        {"below": below, "open": is_open, "subject": subject_id, "limit": limit},
        HoldRow,
    )


async def of_user(tx: CellRead, user_id: int) -> list[HoldRow]:
    """The open holds on a user, their destinations and withdrawals, oldest first."""
    return await tx.fetch(
        """
        SELECT id, subject_kind, subject_id, user_id, reference, reason, placed_by, placed_at,
            lifted_by, lift_reason, lifted_at, trace_id, version
        FROM legal_hold WHERE user_id = %s AND lifted_at IS NULL ORDER BY id
        """,
        (user_id,),
        HoldRow,
    )


class LastMove(NamedTuple):
    """How a withdrawal came to its state: who did what, and when."""

    event: str
    actor: str
    moved_at: datetime


async def last_move(tx: CellRead, withdrawal_id: int) -> LastMove | None:
    """The last move of a withdrawal; None when there was none."""
    rows = await tx.tuples(
        "SELECT event, actor, moved_at FROM withdrawal_move WHERE withdrawal_id = %s"
        " ORDER BY number DESC LIMIT 1",
        (withdrawal_id,),
    )
    return LastMove._make(rows[0]) if rows else None
