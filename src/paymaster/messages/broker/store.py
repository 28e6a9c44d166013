"""SQL of publishing: what is next, and what was laid aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from paymaster.db.tx import ReadTx, Writes
from paymaster.messages.store.events import Event


@dataclass(frozen=True, slots=True)
class Laid:
    """An event that the broker does not take; `detail` is why, as of the last try."""

    seq: int
    event: str
    topic: str
    key: str
    tries: int
    detail: str
    laid_at: datetime


async def position(tx: ReadTx, name: str) -> int | None:
    """Up to which seq a reader has come; None for one that never began."""
    return await tx.value("SELECT seq FROM cursor WHERE name = %s", (name,))


async def take_over(tx: Writes, name: str) -> int | None:
    """Take a reader's lease from whoever has it, and lock its position; None: it never began."""
    await tx.execute(
        "UPDATE lease SET token = token + 1, expires_at = %s WHERE name = %s", (tx.now, name)
    )
    return await tx.value("SELECT seq FROM cursor WHERE name = %s FOR UPDATE", (name,))


async def set_back(tx: Writes, name: str, seq: int) -> None:
    """Have a reader go on from an earlier place."""
    await tx.execute("UPDATE cursor SET seq = least(seq, %s) WHERE name = %s", (seq, name))


async def page(
    tx: ReadTx, after: int, until: int, topics: Sequence[str], limit: int
) -> list[Event]:
    """The first events of these topics in (after, until], in order.

    `after` may lie in the middle of a commit.
    """
    return await tx.fetch(
        """
        SELECT c.first_seq + o.ordinal AS seq, o.topic, o.key, o.payload, o.trace_id, o.created_at
        FROM commit c JOIN outbox o ON o.commit_id = c.id
        WHERE c.last_seq > %(after)s AND c.last_seq <= %(until)s
            AND c.first_seq + o.ordinal > %(after)s
            AND o.target_cell IS NULL AND o.topic = ANY(%(topics)s)
        ORDER BY 1 LIMIT %(limit)s
        """,
        {"after": after, "until": until, "topics": list(topics), "limit": limit},
        Event,
    )


async def lay(tx: Writes, laid: Sequence[Laid]) -> None:
    """Lay events aside; harmless to repeat."""
    if not laid:
        return
    await tx.execute(
        """
        INSERT INTO broker_aside (seq, event, topic, key, tries, detail, laid_at)
        SELECT s, e, t, k, 1, d, %s
        FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[])
            AS u (s, e, t, k, d)
        ON CONFLICT (seq) DO NOTHING
        """,
        (
            tx.now,
            [one.seq for one in laid],
            [one.event for one in laid],
            [one.topic for one in laid],
            [one.key for one in laid],
            [one.detail for one in laid],
        ),
    )


async def listing(tx: ReadTx, limit: int) -> list[Laid]:
    """What lies here, in the order of commits."""
    return await tx.fetch(
        "SELECT seq, event, topic, key, tries, detail, laid_at FROM broker_aside"
        " WHERE done_at IS NULL ORDER BY seq LIMIT %s",
        (limit,),
        Laid,
    )


async def count(tx: ReadTx) -> int:
    """How many lie here."""
    return await tx.value("SELECT count(*) FROM broker_aside WHERE done_at IS NULL")


async def try_again(tx: Writes, seq: int) -> int:
    """Make an event due; 0 if it does not lie here."""
    return await tx.execute(
        "UPDATE broker_aside SET due_at = %s WHERE seq = %s AND done_at IS NULL", (tx.now, seq)
    )


async def due(tx: ReadTx, limit: int) -> list[int]:
    """The places of events that shall be tried again, in order."""
    rows = await tx.tuples(
        "SELECT seq FROM broker_aside WHERE due_at IS NOT NULL ORDER BY seq LIMIT %s", (limit,)
    )
    return [row[0] for row in rows]


async def settle(tx: Writes, seq: int, detail: str | None) -> None:
    """What became of the try: taken, or refused again with this reason."""
    await tx.execute(
        """
        UPDATE broker_aside SET due_at = NULL, tries = tries + 1,
            done_at = CASE WHEN %(detail)s::text IS NULL THEN %(now)s::timestamptz END,
            detail = coalesce(%(detail)s, detail)
        WHERE seq = %(seq)s
        """,
        {"seq": seq, "detail": detail, "now": tx.now},
    )
