"""SQL that reads events off the outbox; nothing here writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from paymaster.db.tx import ReadTx


@dataclass(frozen=True, slots=True)
class Told:
    """A message without its payload; the environment as text, where the payload states one."""

    seq: int
    topic: str
    key: str
    environment: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """A message with its payload."""

    seq: int
    topic: str
    key: str
    payload: dict[str, Any]
    trace_id: str
    created_at: datetime


async def head(tx: ReadTx) -> int:
    """How far the order of commits has come."""
    return await tx.value("SELECT seq FROM head WHERE id = 1") or 0


async def reach(tx: ReadTx, after: int, until: int, commits: int) -> int | None:
    """The last seq of the next `commits` commits after a seq, up to `until`; None without any."""
    return await tx.value(
        "SELECT max(last_seq) FROM (SELECT last_seq FROM commit WHERE last_seq > %s"
        " AND last_seq <= %s ORDER BY last_seq LIMIT %s) AS next",
        (after, until, commits),
    )


async def told(tx: ReadTx, after: int, until: int, topics: Sequence[str]) -> list[Told]:
    """The messages of these topics to subscribers, of the commits in (after, until], in order."""
    return await tx.fetch(
        """
        SELECT c.first_seq + o.ordinal AS seq, o.topic, o.key,
            o.payload ->> 'environment_id' AS environment, o.created_at
        FROM commit c JOIN outbox o ON o.commit_id = c.id
        WHERE c.last_seq > %s AND c.last_seq <= %s AND o.target_cell IS NULL AND o.topic = ANY(%s)
        ORDER BY 1
        """,
        (after, until, list(topics)),
        Told,
    )


async def events(tx: ReadTx, seqs: Sequence[int]) -> list[Event]:
    """The events at these places; those that are none are missing."""
    return await tx.fetch(
        """
        SELECT n.seq, o.topic, o.key, o.payload, o.trace_id, o.created_at
        FROM unnest(%s::bigint[]) AS n (seq)
        CROSS JOIN LATERAL (
            SELECT id, first_seq FROM commit WHERE last_seq >= n.seq ORDER BY last_seq LIMIT 1
        ) c
        JOIN outbox o ON o.commit_id = c.id AND o.ordinal = n.seq - c.first_seq
        WHERE o.target_cell IS NULL
        """,
        (list(seqs),),
        Event,
    )


async def before(
    tx: ReadTx, seq: int, commits: int, topics: Sequence[str], oldest: datetime, limit: int
) -> tuple[int | None, list[Event]]:
    """The last events before a seq, newest first, none older than `oldest`.

    Looks at the last `commits` commits only. Beside the events stands the seq before which to go
    on; None when there is nothing further back.
    """
    low, recorded_at, count = (
        await tx.tuples(
            """
            SELECT min(first_seq), min(recorded_at), count(*) FROM (
                SELECT first_seq, recorded_at FROM commit WHERE last_seq <= coalesce(
                    (SELECT last_seq FROM commit WHERE last_seq >= %(seq)s - 1
                    ORDER BY last_seq LIMIT 1), %(seq)s)
                ORDER BY last_seq DESC LIMIT %(commits)s
            ) AS earlier
            """,
            {"seq": seq, "commits": commits},
        )
    )[0]
    if low is None:
        return None, []
    rows = await tx.fetch(
        """
        SELECT c.first_seq + o.ordinal AS seq, o.topic, o.key, o.payload, o.trace_id, o.created_at
        FROM commit c JOIN outbox o ON o.commit_id = c.id
        WHERE c.last_seq >= %(low)s AND c.first_seq < %(seq)s
            AND c.first_seq + o.ordinal < %(seq)s AND o.target_cell IS NULL
            AND o.topic = ANY(%(topics)s) AND o.created_at >= %(oldest)s
        ORDER BY 1 DESC LIMIT %(limit)s
        """,
        {"low": low, "seq": seq, "topics": list(topics), "oldest": oldest, "limit": limit},
        Event,
    )
    if len(rows) == limit:
        return rows[-1].seq, rows
    return (None if count < commits or recorded_at < oldest else low), rows


async def since(tx: ReadTx, first_id: int) -> int | None:
    """The first seq of the earliest commit whose id is at least this; None when there is none."""
    return await tx.value(
        "SELECT first_seq FROM commit WHERE id >= %s ORDER BY id LIMIT 1", (first_id,)
    )


async def next_recorded(tx: ReadTx, after: int) -> datetime | None:
    """When the first commit after a seq was recorded; None when there is none."""
    return await tx.value(
        "SELECT recorded_at FROM commit WHERE last_seq > %s ORDER BY last_seq LIMIT 1", (after,)
    )
