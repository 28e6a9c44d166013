"""SQL of events and what they count for (cell): one statement for a whole batch."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from paymaster.db import copying
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn.event import Event
from paymaster.earn.store.states import Pair

Key = tuple[str, str]
"""Source and event id."""

EventRow = tuple[Key, Pair, Event, str]
"""An event to keep: its key, user and task, the event, outcome. (A plain tuple: one is made for
every event. Rows sort by key; no two of a batch have the same.)"""


class Span(msgspec.Struct, frozen=True, gc=False):
    """Which part of what a user did towards a task is asked for; None is without end.

    Fewer than `least` events there would change nothing.
    """

    task_id: int
    user_id: int
    first: datetime | None
    last: datetime | None
    least: int


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


async def write_events(tx: CellTx, rows: Sequence[EventRow]) -> None:
    """Keep events that are new. One that is there after all is an error of the database."""
    first = tx.append(len(rows))
    same = b"".join(
        [
            copying.whole(copying.moment(tx.now)),
            copying.word(tx.trace_id),
            copying.whole(tx.commit_id),
        ]
    )
    tails: dict[tuple[str, str, str], bytes] = {}
    heads: dict[tuple[int, int], Callable[..., bytes]] = {}
    moment = copying.moment
    lines: list[bytes] = []
    for place, ((source, name), (user, task), event, outcome) in enumerate(sorted(rows), first):
        said = source, event.type, outcome
        tail = tails.get(said)
        if tail is None:
            tail = tails[said] = b"".join(map(copying.word, said)) + same
        event_id, digest, payload = name.encode(), event.digest, event.stored
        wide, size, more = len(event_id), len(digest), len(payload) + 1
        head = heads.get((size, wide))
        if head is None:
            head = struct.Struct(f">hiiiqiqiqi{size}si{wide}sib").pack
            heads[size, wide] = head
        at = moment(event.occurred_at)
        # Column after column: its length, its value. jsonb begins with the version of its format.
        lines.append(
            head(13, 4, place, 8, task, 8, user, 8, at, size, digest, wide, event_id, more, 1)
            + payload
            + tail
        )
    await tx.copy_rows(
        "COPY event (ordinal, task_id, user_id, occurred_at, digest, event_id, payload, source,"
        " type, outcome, received_at, trace_id, commit_id) FROM STDIN (FORMAT binary)",
        lines,
    )


async def insert_events(tx: CellTx, rows: Sequence[EventRow]) -> set[Key]:
    """Keep those events that are new; their `(source, event id)`.

    A concurrent transaction with the same event is waited for.
    """
    rows = sorted(rows)
    first = tx.append(len(rows))
    made = await tx.tuples(
        """
        INSERT INTO event (source, event_id, task_id, user_id, type, occurred_at, received_at,
            digest, payload, outcome, trace_id, commit_id, ordinal)
        SELECT s, e, k, u, t, o, %s, d, p::jsonb, r, %s, %s, i
        FROM unnest(%s::int[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::text[],
            %s::timestamptz[], %s::bytea[], %s::text[], %s::text[])
            AS n (i, s, e, k, u, t, o, d, p, r)
        ON CONFLICT (source, event_id) DO NOTHING RETURNING source, event_id
        """,
        (
            tx.now,
            tx.trace_id,
            tx.commit_id,
            list(range(first, first + len(rows))),
            [key[0] for key, _, _, _ in rows],
            [key[1] for key, _, _, _ in rows],
            [pair[1] for _, pair, _, _ in rows],
            [pair[0] for _, pair, _, _ in rows],
            [event.type for _, _, event, _ in rows],
            [event.occurred_at for _, _, event, _ in rows],
            [event.digest for _, _, event, _ in rows],
            [event.stored.decode() for _, _, event, _ in rows],
            [outcome for _, _, _, outcome in rows],
        ),
    )
    return {(row[0], row[1]) for row in made}


async def known_events(tx: CellRead, keys: Collection[Key]) -> dict[Key, bytes]:
    """Digests of those of the events `(source, event id)` that are kept already.

    Nearly always none. Where ids grow, nothing is kept between the least and the greatest of them,
    and that is all that is looked for. Else a probe of the key for each: a join can become a scan
    of all events.
    """
    found: dict[Key, bytes] = {}
    for source in dict.fromkeys([source for source, _ in keys]):
        ids = [event_id for of, event_id in keys if of == source]
        rows = await tx.tuples(
            """
            WITH n AS MATERIALIZED (SELECT unnest(%(ids)s::text[]) AS event_id), ends AS (
                SELECT min(event_id) AS least, max(event_id) AS greatest FROM n
            )
            SELECT n.event_id, k.digest FROM n CROSS JOIN LATERAL (
                SELECT e.digest FROM event e
                WHERE e.source = %(source)s AND e.event_id = n.event_id LIMIT 1
            ) k
            WHERE EXISTS (
                SELECT FROM event WHERE source = %(source)s
                    AND event_id >= (SELECT least FROM ends)
                    AND event_id <= (SELECT greatest FROM ends)
            )
            """,
            {"ids": ids, "source": source},
        )
        found |= {(source, row[0]): bytes(row[1]) for row in rows}
    return found


async def known_answers(
    tx: CellRead, keys: Sequence[tuple[int, int, str]]
) -> set[tuple[int, int, str]]:
    """Those of `(task, user, item)` that have an answer already."""
    rows = await tx.tuples(
        """
        SELECT n.task_id, n.user_id, n.item
        FROM unnest(%s::bigint[], %s::bigint[], %s::text[]) AS n (task_id, user_id, item)
        CROSS JOIN LATERAL (
            SELECT 1 FROM answer a
            WHERE a.task_id = n.task_id AND a.user_id = n.user_id AND a.item = n.item LIMIT 1
        ) k
        """,
        tuple([key[place] for key in keys] for place in range(3)),
    )
    return {(row[0], row[1], row[2]) for row in rows}


async def write_answers(
    tx: CellTx, rows: Sequence[tuple[tuple[int, int, str], tuple[str, str]]]
) -> None:
    """Keep first answers, `((task, user, item), (source, event id))`; the states are locked."""
    text = copying.escaping(
        [item for (_, _, item), _ in rows],
        [event_id for _, (_, event_id) in rows],
        {source for _, (source, _) in rows},
    )
    await tx.copy(
        "COPY answer (task_id, user_id, item, source, event_id) FROM STDIN",
        [
            f"{task}\t{user}\t{text(item)}\t{text(source)}\t{text(event_id)}\n"
            for (task, user, item), (source, event_id) in sorted(rows)
        ],
    )


async def counted(
    tx: CellRead, spans: Sequence[Span], most: int
) -> list[tuple[int, int, datetime, str]]:
    """`(task, user, occurred at, type)` of kept events that count, the newest `most` of each span.

    Nothing of spans with less than their least: most patterns are not complete, and are counted
    only.
    """
    rows = await tx.tuples(
        """
        SELECT n.task_id, n.user_id, p.occurred_at, p.type
        FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[], %s::timestamptz[], %s::bigint[])
            AS n (task_id, user_id, first, last, least)
        CROSS JOIN LATERAL (
            SELECT occurred_at, type FROM event
            WHERE user_id = n.user_id AND task_id = n.task_id AND outcome = 'counts'
                AND occurred_at >= coalesce(n.first, '-infinity')
                AND occurred_at <= coalesce(n.last, 'infinity')
            ORDER BY occurred_at DESC LIMIT %s
        ) p
        WHERE n.least <= (
            SELECT count(*) FROM (
                SELECT 1 FROM event
                WHERE user_id = n.user_id AND task_id = n.task_id AND outcome = 'counts'
                    AND occurred_at >= coalesce(n.first, '-infinity')
                    AND occurred_at <= coalesce(n.last, 'infinity')
                LIMIT n.least
            ) found
        )
        """,
        (
            [span.task_id for span in spans],
            [span.user_id for span in spans],
            [span.first for span in spans],
            [span.last for span in spans],
            [span.least for span in spans],
            most,
        ),
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


async def insert_dead_letters(tx: CellTx, rows: Sequence[DeadLetterRow]) -> None:
    """Keep lines that were not taken in."""
    first = tx.append(len(rows))
    await tx.execute(
        """
        INSERT INTO dead_letter (id, source, line, event_id, slug, detail, sealed, received_at,
            trace_id, commit_id, ordinal)
        SELECT i, s, l, e, g, d, b, %s, %s, %s, o
        FROM unnest(%s::int[], %s::bigint[], %s::text[], %s::int[], %s::text[], %s::text[],
            %s::text[], %s::bytea[]) AS n (o, i, s, l, e, g, d, b)
        """,
        (
            tx.now,
            tx.trace_id,
            tx.commit_id,
            list(range(first, first + len(rows))),
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
