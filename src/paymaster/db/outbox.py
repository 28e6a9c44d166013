"""Messages out: written in the transaction of what they tell, delivered afterwards in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paymaster.db.tx import ReadTx, Writes, json


@dataclass(slots=True)
class Message:
    """`key` orders (a user, a campaign); `target_cell` is set on commands to another cell.

    `trace_id` None means the transaction's; a merged transaction carries several callers' traces.
    """

    topic: str
    key: str
    payload: Mapping[str, Any]
    target_cell: int | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message with its place in the order of commits."""

    seq: int
    message_id: int
    topic: str
    key: str
    target_cell: int | None
    payload: dict[str, Any]
    trace_id: str


async def put(tx: Writes, messages: Sequence[Message]) -> None:
    """Leave messages with this transaction."""
    if not messages:
        return
    first = tx.append(len(messages))
    await tx.send(
        """
        INSERT INTO outbox (commit_id, ordinal, message_id, topic, key, target_cell, payload,
            trace_id, created_at)
        SELECT %s, o, m, t, k, c, p::jsonb, r, %s
        FROM unnest(%s::int[], %s::bigint[], %s::text[], %s::text[], %s::int[], %s::jsonb[],
            %s::text[]) AS u (o, m, t, k, c, p, r)
        """,
        (
            tx.commit_id,
            tx.now,
            list(range(first, first + len(messages))),
            tx.ids(len(messages)),
            [m.topic for m in messages],
            [m.key for m in messages],
            [m.target_cell for m in messages],
            [json(dict(m.payload)) for m in messages],
            [m.trace_id or tx.trace_id for m in messages],
        ),
    )


async def position(tx: ReadTx, name: str) -> int:
    """Up to which seq the reader `name` has come."""
    return await tx.value("SELECT seq FROM cursor WHERE name = %s", (name,)) or 0


async def after(tx: ReadTx, seq: int, limit: int) -> tuple[int, list[Outgoing]]:
    """Messages of the next `limit` commits after `seq`, and the seq that they reach."""
    reached = await tx.value(
        "SELECT max(last_seq) FROM (SELECT last_seq FROM commit WHERE last_seq > %s"
        " ORDER BY last_seq LIMIT %s) AS next",
        (seq, limit),
    )
    if reached is None:
        return seq, []
    rows = await tx.fetch(
        """
        SELECT c.first_seq + o.ordinal AS seq, o.message_id, o.topic, o.key, o.target_cell,
            o.payload, o.trace_id
        FROM commit c JOIN outbox o ON o.commit_id = c.id
        WHERE c.last_seq > %s AND c.last_seq <= %s ORDER BY 1
        """,
        (seq, reached),
        Outgoing,
    )
    return reached, rows


async def advance(tx: Writes, name: str, seq: int) -> None:
    """Remember how far the reader `name` has come; never back."""
    await tx.execute(
        "INSERT INTO cursor (name, seq) VALUES (%s, %s)"
        " ON CONFLICT (name) DO UPDATE SET seq = greatest(cursor.seq, excluded.seq)",
        (name, seq),
    )
