"""Rate limits that all processes share: a bucket for each caller, in the directory.

A bucket holds a minute's requests and fills evenly. Processes count by themselves and charge what
they admitted, many callers in one statement; how far they may go before they have charged is theirs
to bound (`paymaster.api.limiter`). A bucket may be overdrawn: time fills it up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from paymaster.db.tx import ControlTx

FULL_AFTER = timedelta(minutes=2)
"""A bucket that nobody charged for so long is full again, unless it was deep in debt."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What a process admitted of one caller: `kind` and `subject` name the bucket."""

    kind: str
    subject: str
    per_minute: int
    admitted: int


async def charge(tx: ControlTx, charges: Sequence[Charge]) -> dict[tuple[str, str], float]:
    """Charge the buckets, each named once; how many requests each has left, negative when over."""
    rows = await tx.tuples(
        """
        INSERT INTO rate_bucket AS b (kind, subject, per_minute, left_milli, filled_at)
        SELECT k, s, m, (m - n) * 1000::bigint, %s
        FROM unnest(%s::text[], %s::text[], %s::int[], %s::int[]) AS u (k, s, m, n) ORDER BY k, s
        ON CONFLICT (kind, subject) DO UPDATE SET
            left_milli = least(
                excluded.per_minute * 1000::bigint,
                b.left_milli + excluded.per_minute * (1000 * extract(
                    epoch FROM greatest(excluded.filled_at - b.filled_at, interval '0')))::bigint
                    / 60
            ) - (excluded.per_minute * 1000::bigint - excluded.left_milli),
            per_minute = excluded.per_minute,
            filled_at = greatest(excluded.filled_at, b.filled_at)
        RETURNING kind, subject, left_milli
        """,
        (
            tx.now,
            [one.kind for one in charges],
            [one.subject for one in charges],
            [one.per_minute for one in charges],
            [one.admitted for one in charges],
        ),
    )
    return {(kind, subject): left / 1000 for kind, subject, left in rows}


async def sweep(tx: ControlTx, limit: int) -> int:
    """Drop buckets that are full again; how many, `limit` at most."""
    return await tx.execute(
        """
        DELETE FROM rate_bucket WHERE (kind, subject) IN (
            SELECT kind, subject FROM rate_bucket WHERE filled_at < %s AND left_milli >= 0
            ORDER BY filled_at LIMIT %s FOR UPDATE SKIP LOCKED)
        """,
        (tx.now - FULL_AFTER, limit),
    )
