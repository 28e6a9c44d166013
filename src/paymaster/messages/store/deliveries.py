"""SQL of deliveries: what each event owes to each endpoint. In every schema with an outbox."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from paymaster.db.tx import ReadTx, Writes


@dataclass(frozen=True, slots=True)
class Owed:
    """An event that an endpoint is to be told of."""

    endpoint_id: int
    seq: int
    topic: str
    key: str
    ordered: bool


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery under a lease. `tries` counts this one."""

    endpoint_id: int
    seq: int
    key: str
    ordered: bool
    tries: int
    lease_token: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of a try: the state after it, and when to go on."""

    claimed: Claimed
    state: str
    due_at: datetime | None
    status: int | None
    outcome: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery as the API shows it."""

    endpoint_id: int
    seq: int
    topic: str
    key: str
    state: str
    tries: int
    due_at: datetime | None
    status: int | None
    outcome: str | None
    duration_ms: int | None
    tried_at: datetime | None
    created_at: datetime


async def lock_order(tx: Writes, endpoint_ids: Iterable[int]) -> None:
    """Be the only one who decides who is next at these endpoints, until the transaction ends."""
    ids = sorted(set(endpoint_ids))
    if not ids:
        return
    await tx.execute(
        "INSERT INTO webhook_order (endpoint_id) SELECT e FROM unnest(%s::bigint[]) AS n (e)"
        " ORDER BY e ON CONFLICT (endpoint_id) DO NOTHING",
        (ids,),
    )
    await tx.tuples(
        "SELECT endpoint_id FROM webhook_order WHERE endpoint_id = ANY(%s)"
        " ORDER BY endpoint_id FOR UPDATE",
        (ids,),
    )


async def queue(tx: Writes, owed: Sequence[Owed], *, again: bool = False) -> int:
    """Owe events; how many are new. `again`: also those that failed or have arrived before.

    Events for endpoints that want order wait for `release`; lock their order before.
    """
    if not owed:
        return 0
    columns = (
        [one.endpoint_id for one in owed],
        [one.seq for one in owed],
        [one.topic for one in owed],
        [one.key for one in owed],
        [one.ordered for one in owed],
    )
    return await tx.execute(
        """
        INSERT INTO webhook_delivery (endpoint_id, seq, topic, key, ordered, state, tries, due_at,
            lease_token, created_at)
        SELECT e, s, t, k, o, 'waiting', 0, CASE WHEN o THEN NULL ELSE %(now)s::timestamptz END,
            0, %(now)s
        FROM unnest(%(e)s::bigint[], %(s)s::bigint[], %(t)s::text[], %(k)s::text[],
            %(o)s::boolean[]) AS n (e, s, t, k, o)
        ON CONFLICT (endpoint_id, seq) DO UPDATE SET state = 'waiting', tries = 0,
            due_at = excluded.due_at, created_at = excluded.created_at
        WHERE %(again)s AND webhook_delivery.state IN ('delivered', 'failed', 'cancelled')
        """,
        {"now": tx.now, "again": again, **dict(zip("estko", columns, strict=True))},
    )


async def settled(tx: ReadTx, endpoint_id: int, seqs: Sequence[int]) -> set[int]:
    """Which of these events have arrived, or are on their way."""
    rows = await tx.tuples(
        "SELECT seq FROM webhook_delivery WHERE endpoint_id = %s AND seq = ANY(%s)"
        " AND state NOT IN ('failed', 'cancelled')",
        (endpoint_id, list(seqs)),
    )
    return {row[0] for row in rows}


async def release(tx: Writes, keys: Iterable[tuple[int, str]]) -> None:
    """Make due who is next of each `(endpoint, key)` where nobody is; the order must be locked."""
    pairs = sorted(set(keys))
    if not pairs:
        return
    await tx.execute(
        """
        UPDATE webhook_delivery d SET due_at = %s
        FROM (
            SELECT n.e, first.seq, first.due_at
            FROM unnest(%s::bigint[], %s::text[]) AS n (e, k)
            CROSS JOIN LATERAL (
                SELECT w.seq, w.due_at FROM webhook_delivery w
                WHERE w.endpoint_id = n.e AND w.key = n.k AND w.ordered
                    AND w.state IN ('waiting', 'sending')
                ORDER BY w.due_at, w.seq LIMIT 1
            ) first
        ) next
        WHERE d.endpoint_id = next.e AND d.seq = next.seq AND next.due_at IS NULL
        """,
        (tx.now, [pair[0] for pair in pairs], [pair[1] for pair in pairs]),
    )


async def claim(tx: Writes, rooms: Sequence[tuple[int, int]], until: datetime) -> list[Claimed]:
    """Take what is due for `(endpoint, at most so many)` until the lease ends, oldest first."""
    return await tx.fetch(
        """
        WITH free AS (
            SELECT d.endpoint_id, d.seq
            FROM unnest(%(e)s::bigint[], %(n)s::int[]) AS r (id, room)
            CROSS JOIN LATERAL (
                SELECT w.endpoint_id, w.seq FROM webhook_delivery w
                WHERE w.endpoint_id = r.id AND w.due_at <= %(now)s
                ORDER BY w.due_at LIMIT r.room FOR UPDATE SKIP LOCKED
            ) d
        )
        UPDATE webhook_delivery d SET state = 'sending', tries = d.tries + 1, due_at = %(until)s,
            lease_token = d.lease_token + 1
        FROM free WHERE d.endpoint_id = free.endpoint_id AND d.seq = free.seq
        RETURNING d.endpoint_id, d.seq, d.key, d.ordered, d.tries, d.lease_token, d.created_at
        """,
        {
            "e": [room[0] for room in rooms],
            "n": [room[1] for room in rooms],
            "now": tx.now,
            "until": until,
        },
        Claimed,
    )


async def record(tx: Writes, tried: Sequence[Tried]) -> list[tuple[int, str]]:
    """Write down what became of tries whose lease still holds; `(endpoint, key)` of ended ones.

    Only those of endpoints that want order are returned: give them to `release`.
    """
    rows = await tx.tuples(
        """
        UPDATE webhook_delivery d SET state = n.state, due_at = n.due_at, status = n.status,
            outcome = n.outcome, duration_ms = n.duration_ms, tried_at = %s
        FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::timestamptz[],
            %s::smallint[], %s::text[], %s::int[])
            AS n (endpoint_id, seq, token, state, due_at, status, outcome, duration_ms)
        WHERE d.endpoint_id = n.endpoint_id AND d.seq = n.seq AND d.lease_token = n.token
            AND d.state = 'sending'
        RETURNING d.endpoint_id, d.key, d.ordered AND n.due_at IS NULL
        """,
        (
            tx.now,
            [one.claimed.endpoint_id for one in tried],
            [one.claimed.seq for one in tried],
            [one.claimed.lease_token for one in tried],
            [one.state for one in tried],
            [one.due_at for one in tried],
            [one.status for one in tried],
            [one.outcome for one in tried],
            [one.duration_ms for one in tried],
        ),
    )
    return [(row[0], row[1]) for row in rows if row[2]]


async def wake(tx: Writes, endpoint_id: int) -> int:
    """The endpoint answers again: what waits for its next try is due now; how many."""
    return await tx.execute(
        "UPDATE webhook_delivery SET due_at = %s"
        " WHERE endpoint_id = %s AND due_at > %s AND state = 'waiting'",
        (tx.now, endpoint_id, tx.now),
    )


async def hurry(tx: Writes, endpoint_id: int, seq: int) -> int:
    """One that waits for its next try is due now; how many. Not one that waits behind others."""
    return await tx.execute(
        "UPDATE webhook_delivery SET due_at = %s"
        " WHERE endpoint_id = %s AND seq = %s AND due_at > %s AND state = 'waiting'",
        (tx.now, endpoint_id, seq, tx.now),
    )


async def cancel(tx: Writes, endpoint_id: int) -> int:
    """Nothing more goes to this endpoint; how many deliveries were open."""
    return await tx.execute(
        "UPDATE webhook_delivery SET state = 'cancelled', due_at = NULL"
        " WHERE endpoint_id = %s AND state IN ('waiting', 'sending')",
        (endpoint_id,),
    )


async def forget(tx: Writes, before: datetime, limit: int) -> int:
    """Delete at most `limit` deliveries that were queued before a moment; how many.

    Where order is wanted, what waited behind them is released.
    """
    rows = await tx.tuples(
        "SELECT endpoint_id, seq, key, ordered FROM webhook_delivery WHERE created_at < %s"
        " ORDER BY seq LIMIT %s",
        (before, limit),
    )
    await lock_order(tx, [row[0] for row in rows if row[3]])
    gone = await tx.execute(
        "DELETE FROM webhook_delivery d"
        " USING unnest(%s::bigint[], %s::bigint[]) AS n (endpoint_id, seq)"
        " WHERE d.endpoint_id = n.endpoint_id AND d.seq = n.seq AND d.created_at < %s",
        ([row[0] for row in rows], [row[1] for row in rows], before),
    )
    await release(tx, [(row[0], row[2]) for row in rows if row[3]])
    return gone


async def of_event(tx: ReadTx, seq: int, endpoint_ids: Sequence[int]) -> list[DeliveryRow]:
    """The deliveries of one event."""
    return await tx.fetch(
        """
        SELECT endpoint_id, seq, topic, key, state, tries, due_at, status, outcome, duration_ms,
            tried_at, created_at
        FROM webhook_delivery WHERE seq = %s AND endpoint_id = ANY(%s) ORDER BY endpoint_id
        """,
        (seq, list(endpoint_ids)),
        DeliveryRow,
    )


async def of_endpoint(
    tx: ReadTx, endpoint_id: int, state: str | None, before: int, limit: int
) -> list[DeliveryRow]:
    """The last deliveries to one endpoint before a seq, newest event first."""
    return await tx.fetch(
        """
        SELECT endpoint_id, seq, topic, key, state, tries, due_at, status, outcome, duration_ms,
            tried_at, created_at
        FROM webhook_delivery
        WHERE endpoint_id = %s AND seq < %s AND (%s::text IS NULL OR state = %s)
        ORDER BY seq DESC LIMIT %s
        """,
        (endpoint_id, before, state, state, limit),
        DeliveryRow,
    )


async def due(tx: ReadTx, endpoint_ids: Sequence[int]) -> tuple[int, datetime | None]:
    """How many deliveries are due to these endpoints, and since when the oldest is."""
    rows = await tx.tuples(
        "SELECT count(*), min(due_at) FROM webhook_delivery"
        " WHERE endpoint_id = ANY(%s) AND due_at <= %s",
        (list(endpoint_ids), tx.now),
    )
    return rows[0][0], rows[0][1]
