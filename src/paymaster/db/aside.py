"""Commands laid aside: those that cannot be carried out, and all behind them under the same key.

A command that fails again and again must not hold up the others of its cell for ever. It is laid
aside with the reason; later commands of its key to the same cell follow it, so that the order of a
key is kept whatever happens. They wait here until somebody says that they shall be tried again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from paymaster.db.outbox import Outgoing
from paymaster.db.tx import ReadTx, Writes, json

BEHIND = "behind-another"
"""The slug of a command that waits because an earlier one of its key does."""


@dataclass(frozen=True, slots=True)
class Aside:
    """A command that waits for somebody; `slug` and `detail` are its last failure."""

    message_id: int
    seq: int
    topic: str
    key: str
    target_cell: int
    trace_id: str
    tries: int
    slug: str
    detail: str
    laid_at: datetime


async def lay(tx: Writes, messages: Sequence[Outgoing], tries: int, slug: str, detail: str) -> None:
    """Lay commands aside; harmless to repeat.

    Where others of the key are being tried again, these are tried behind them.
    """
    await tx.execute(
        """
        INSERT INTO aside (message_id, seq, topic, key, target_cell, payload, trace_id, tries, slug,
            detail, laid_at, due_at)
        SELECT m, s, t, k, c, p, r, %s, %s, %s, %s, (
            SELECT max(a.due_at) FROM aside a
            WHERE a.target_cell = c AND a.key = k AND a.done_at IS NULL
        )
        FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::int[], %s::jsonb[],
            %s::text[]) AS u (m, s, t, k, c, p, r)
        ON CONFLICT (message_id) DO NOTHING
        """,
        (
            tries,
            slug,
            detail,
            tx.now,
            [message.message_id for message in messages],
            [message.seq for message in messages],
            [message.topic for message in messages],
            [message.key for message in messages],
            [message.target_cell for message in messages],
            [json(message.payload) for message in messages],
            [message.trace_id for message in messages],
        ),
    )


async def blocked(tx: ReadTx) -> set[tuple[int, str]]:
    """Target cells and keys of which commands lie here."""
    rows = await tx.tuples("SELECT DISTINCT target_cell, key FROM aside WHERE done_at IS NULL")
    return {(row[0], row[1]) for row in rows}


async def listing(tx: ReadTx, limit: int) -> list[Aside]:
    """What lies here, in the order of commits."""
    return await tx.fetch(
        "SELECT message_id, seq, topic, key, target_cell, trace_id, tries, slug, detail, laid_at"
        " FROM aside WHERE done_at IS NULL ORDER BY seq LIMIT %s",
        (limit,),
        Aside,
    )


async def count(tx: ReadTx) -> int:
    """How many lie here."""
    return await tx.value("SELECT count(*) FROM aside WHERE done_at IS NULL")


async def try_again(tx: Writes, message_id: int) -> int:
    """Make a command due, with all others of its key to its cell; how many, 0 if none lies here."""
    return await tx.execute(
        """
        UPDATE aside a SET due_at = %s FROM aside one
        WHERE one.message_id = %s AND one.done_at IS NULL AND a.done_at IS NULL
            AND a.target_cell = one.target_cell AND a.key = one.key
        """,
        (tx.now, message_id),
    )


async def due(tx: ReadTx, limit: int) -> list[Outgoing]:
    """Commands that shall be tried again, in the order of commits."""
    return await tx.fetch(
        "SELECT seq, message_id, topic, key, target_cell, payload, trace_id FROM aside"
        " WHERE due_at <= %s ORDER BY seq LIMIT %s",
        (tx.now, limit),
        Outgoing,
    )


async def done(tx: Writes, message_id: int) -> None:
    """It was carried out."""
    await tx.execute(
        "UPDATE aside SET done_at = %s, due_at = NULL WHERE message_id = %s", (tx.now, message_id)
    )


async def failed_again(tx: Writes, message: Outgoing, slug: str, detail: str) -> None:
    """It failed once more: it and those behind it stay."""
    await tx.execute(
        """
        UPDATE aside SET due_at = NULL,
            tries = CASE WHEN message_id = %(id)s THEN tries + 1 ELSE tries END,
            slug = CASE WHEN message_id = %(id)s THEN %(slug)s ELSE slug END,
            detail = CASE WHEN message_id = %(id)s THEN %(detail)s ELSE detail END
        WHERE target_cell = %(cell)s AND key = %(key)s AND done_at IS NULL
        """,
        {
            "id": message.message_id,
            "slug": slug,
            "detail": detail,
            "cell": message.target_cell,
            "key": message.key,
        },
    )
