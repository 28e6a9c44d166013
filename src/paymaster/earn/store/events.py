"""SQL of events and what they count for (cell): one statement for a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from paymaster.db.tx import CellRead, CellTx


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event to keep."""

    source: str
    event_id: str
    task_id: int
    user_id: int
    type: str
    occurred_at: datetime
    digest: bytes
    payload: str
    outcome: str


@dataclass(frozen=True, slots=True)
class KnownEvent:
    """What is remembered of an event that came before."""

    source: str
    event_id: str
    task_id: int
    user_id: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class ProgressRow:
    """An event that counts towards a pattern."""

    task_id: int
    user_id: int
    occurred_at: datetime
    source: str
    event_id: str
    step: str


@dataclass(frozen=True, slots=True)
class Span:
    """Which part of a user's progress on a task is asked for; None is without end."""

    task_id: int
    user_id: int
    first: datetime | None
    last: datetime | None


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """A line that was not taken in, sealed."""

    id: int
    source: str
    line: int
    event_id: str | None
    slug: str
    detail: str
    sealed: bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A line of the dead-letter list without its bytes."""

    id: int
    source: str
    line: int
    event_id: str | None
    slug: str
    detail: str
    received_at: datetime
    trace_id: str


async def insert_events(tx: CellTx, rows: Sequence[EventRow]) -> set[tuple[str, str]]:
    """Keep new events; the `(source, event id)` of those that were new.

    A concurrent transaction with the same event is waited for.
    """
    rows = sorted(rows, key=lambda row: (row.source, row.event_id))
    made = await tx.tuples(
        """
        INSERT INTO event (source, event_id, task_id, user_id, type, occurred_at, received_at,
            digest, payload, outcome, trace_id)
        SELECT s, e, k, u, t, o, %s, d, p::jsonb, r, %s
        FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::text[],
            %s::timestamptz[], %s::bytea[], %s::text[], %s::text[])
            AS n (s, e, k, u, t, o, d, p, r)
        ON CONFLICT (source, event_id) DO NOTHING RETURNING source, event_id
        """,
        (
            tx.now,
            tx.trace_id,
            [row.source for row in rows],
            [row.event_id for row in rows],
            [row.task_id for row in rows],
            [row.user_id for row in rows],
            [row.type for row in rows],
            [row.occurred_at for row in rows],
            [row.digest for row in rows],
            [row.payload for row in rows],
            [row.outcome for row in rows],
        ),
    )
    return {(row[0], row[1]) for row in made}


async def known_events(
    tx: CellRead, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], KnownEvent]:
    """Those of the events that are kept already."""
    rows = await tx.fetch(
        """
        SELECT e.source, e.event_id, e.task_id, e.user_id, e.digest
        FROM unnest(%s::text[], %s::text[]) AS n (source, event_id)
        JOIN event e ON e.source = n.source AND e.event_id = n.event_id
        """,
        ([key[0] for key in keys], [key[1] for key in keys]),
        KnownEvent,
    )
    return {(row.source, row.event_id): row for row in rows}


async def insert_answers(
    tx: CellTx, rows: Sequence[tuple[int, int, str, str, str]]
) -> set[tuple[int, int, str]]:
    """Keep first answers `(task, user, item, source, event id)`; which were first."""
    rows = sorted(rows)
    made = await tx.tuples(
        """
        INSERT INTO answer (task_id, user_id, item, source, event_id)
        SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::text[])
        ON CONFLICT (task_id, user_id, item) DO NOTHING RETURNING task_id, user_id, item
        """,
        tuple([row[place] for row in rows] for place in range(5)),
    )
    return {(row[0], row[1], row[2]) for row in made}


async def insert_progress(tx: CellTx, rows: Sequence[ProgressRow]) -> None:
    """Keep events that count."""
    await tx.execute(
        """
        INSERT INTO progress (task_id, user_id, occurred_at, source, event_id, step)
        SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[], %s::text[],
            %s::text[], %s::text[])
        ON CONFLICT (task_id, user_id, occurred_at, source, event_id) DO NOTHING
        """,
        (
            [row.task_id for row in rows],
            [row.user_id for row in rows],
            [row.occurred_at for row in rows],
            [row.source for row in rows],
            [row.event_id for row in rows],
            [row.step for row in rows],
        ),
    )


async def progress(
    tx: CellRead, spans: Sequence[Span], most: int
) -> list[tuple[int, int, datetime, str]]:
    """`(task, user, occurred at, step)` within the spans, at most the newest `most` of each."""
    return [
        (row[0], row[1], row[2], row[3])
        for row in await tx.tuples(
            """
            SELECT n.task_id, n.user_id, p.occurred_at, p.step
            FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[], %s::timestamptz[])
                AS n (task_id, user_id, first, last)
            CROSS JOIN LATERAL (
                SELECT occurred_at, step FROM progress
                WHERE task_id = n.task_id AND user_id = n.user_id
                    AND occurred_at >= coalesce(n.first, '-infinity')
                    AND occurred_at <= coalesce(n.last, 'infinity')
                ORDER BY occurred_at DESC LIMIT %s
            ) p
            """,
            (
                [span.task_id for span in spans],
                [span.user_id for span in spans],
                [span.first for span in spans],
                [span.last for span in spans],
                most,
            ),
        )
    ]


async def insert_dead_letters(tx: CellTx, rows: Sequence[DeadLetterRow]) -> None:
    """Keep lines that were not taken in."""
    await tx.execute(
        """
        INSERT INTO dead_letter (id, source, line, event_id, slug, detail, sealed, received_at,
            trace_id)
        SELECT i, s, l, e, g, d, b, %s, %s
        FROM unnest(%s::bigint[], %s::text[], %s::int[], %s::text[], %s::text[], %s::text[],
            %s::bytea[]) AS n (i, s, l, e, g, d, b)
        """,
        (
            tx.now,
            tx.trace_id,
            [row.id for row in rows],
            [row.source for row in rows],
            [row.line for row in rows],
            [row.event_id for row in rows],
            [row.slug for row in rows],
            [row.detail for row in rows],
            [row.sealed for row in rows],
        ),
    )


async def dead_letters(tx: CellRead, before: int | None, limit: int) -> list[DeadLetter]:
    """A page of the dead-letter list, newest first."""
    return await tx.fetch(
        "SELECT id, source, line, event_id, slug, detail, received_at, trace_id FROM dead_letter"
        " WHERE id < %s ORDER BY id DESC LIMIT %s",
        (2**63 - 1 if before is None else before, limit),
        DeadLetter,
    )


async def dead_letter_bytes(tx: CellRead, number: int) -> bytes | None:
    """The sealed bytes of a dead letter."""
    found = await tx.value("SELECT sealed FROM dead_letter WHERE id = %s", (number,))
    return None if found is None else bytes(found)
