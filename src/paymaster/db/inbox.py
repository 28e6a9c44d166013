"""Messages in: each once, kept by (source, message id), worked on later or in place.

`receive` deduplicates and leaves the message due. `once` is for commands that are carried out in
the same transaction: the first caller gets None and stores its result; every later one gets it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from paymaster.db.tx import Writes, json


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message to keep: `sealed` when its body may name a person or an account."""

    source: str
    message_id: str
    topic: str
    payload: Mapping[str, Any] | None
    sealed: bytes | None
    trace_id: str


@dataclass(frozen=True, slots=True)
class Due:
    """A claimed message."""

    source: str
    message_id: str
    topic: str
    payload: dict[str, Any] | None
    sealed: bytes | None
    trace_id: str
    tries: int
    lease_token: int


def _digest(message: Incoming) -> bytes:
    return hashlib.sha256(message.sealed or repr(message.payload).encode()).digest()


async def receive(tx: Writes, messages: Sequence[Incoming]) -> int:
    """Keep new messages, due at once; how many were new."""
    [new] = await receive_each(tx, [messages])
    return new


async def receive_each(tx: Writes, groups: Sequence[Sequence[Incoming]]) -> list[int]:
    """Keep the messages of several callers; how many of each were new, the first to bring one."""
    # Always in the same order, so that two transactions with the same messages do not deadlock.
    messages = sorted(
        {(m.source, m.message_id): m for group in reversed(groups) for m in reversed(group)}.items()
    )
    if not messages:
        return [0] * len(groups)
    kept = [message for _, message in messages]
    rows = await tx.tuples(
        """
        INSERT INTO inbox (source, message_id, topic, payload, sealed, digest, trace_id,
            received_at, due_at, tries, lease_token)
        SELECT s, m, t, p, b, d, r, %(now)s, %(now)s, 0, 0
        FROM unnest(%(s)s::text[], %(m)s::text[], %(t)s::text[], %(p)s::jsonb[], %(b)s::bytea[],
            %(d)s::bytea[], %(r)s::text[]) AS u (s, m, t, p, b, d, r)
        ON CONFLICT (source, message_id) DO NOTHING
        RETURNING source, message_id
        """,
        {
            "now": tx.now,
            "s": [m.source for m in kept],
            "m": [m.message_id for m in kept],
            "t": [m.topic for m in kept],
            "p": [None if m.payload is None else json(dict(m.payload)) for m in kept],
            "b": [m.sealed for m in kept],
            "d": [_digest(m) for m in kept],
            "r": [m.trace_id for m in kept],
        },
    )
    new = set(rows)
    counts: list[int] = []
    for group in groups:
        brought = {(m.source, m.message_id) for m in group} & new
        new -= brought
        counts.append(len(brought))
    return counts


async def once(tx: Writes, message: Incoming) -> dict[str, Any] | None:
    """None for the first to come (who then calls `done`); the stored result for all others.

    A second caller waits until the first one's transaction has ended.
    """
    created = await tx.execute(
        """
        INSERT INTO inbox (source, message_id, topic, payload, sealed, digest, trace_id,
            received_at, tries, lease_token)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 0, 0)
        ON CONFLICT (source, message_id) DO NOTHING
        """,
        (
            message.source,
            message.message_id,
            message.topic,
            None if message.payload is None else json(dict(message.payload)),
            message.sealed,
            _digest(message),
            message.trace_id,
            tx.now,
        ),
    )
    if created:
        return None
    found = await tx.value(
        "SELECT result FROM inbox WHERE source = %s AND message_id = %s",
        (message.source, message.message_id),
    )
    return found or {}


async def done(
    tx: Writes, source: str, message_id: str, result: Mapping[str, Any], token: int | None = None
) -> bool:
    """Store the result; False when a `token` is given and the lease was lost meanwhile."""
    return bool(
        await tx.execute(
            "UPDATE inbox SET done_at = %s, due_at = NULL, result = %s WHERE source = %s"
            " AND message_id = %s AND (%s::bigint IS NULL OR lease_token = %s)",
            (tx.now, json(dict(result)), source, message_id, token, token),
        )
    )


async def claim(tx: Writes, topic: str, limit: int, until: datetime) -> list[Due]:
    """Take due messages of a topic until `until`; a lease that runs out makes them due again."""
    token = tx.id()
    return await tx.fetch(
        """
        WITH due AS (
            SELECT source, message_id FROM inbox WHERE due_at <= %s AND topic = %s
            ORDER BY due_at, source, message_id LIMIT %s FOR UPDATE SKIP LOCKED
        )
        UPDATE inbox i SET due_at = %s, tries = i.tries + 1, lease_token = %s
        FROM due WHERE i.source = due.source AND i.message_id = due.message_id
        RETURNING i.source, i.message_id, i.topic, i.payload, i.sealed, i.trace_id, i.tries,
            i.lease_token
        """,
        (tx.now, topic, limit, until, token),
        Due,
    )


async def postpone(tx: Writes, message: Due, due_at: datetime) -> None:
    """Come back to a claimed message later."""
    await tx.execute(
        "UPDATE inbox SET due_at = %s WHERE source = %s AND message_id = %s AND lease_token = %s",
        (due_at, message.source, message.message_id, message.lease_token),
    )
