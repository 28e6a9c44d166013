"""The order of commits without a gap, and every entry in its commit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, LiteralString

from paymaster.db.snapshots import Snapshots
from paymaster.db.tx import CellRead
from paymaster.ledger import proof_sql as sql
from paymaster.ledger.proof_pages import (
    MOST,
    POSTINGS_OF_E,
    Difference,
    Pages,
    Told,
    differences,
    walk,
)
from paymaster.ledger.proof_sum import PIECE, head

_COMMITS: LiteralString = """
    WITH page AS (
        SELECT id, first_seq, last_seq FROM commit WHERE last_seq > %(low)s
        ORDER BY last_seq LIMIT %(size)s
    ), ordered AS (
        SELECT id, first_seq, last_seq,
            1 + coalesce(lag(last_seq) OVER (ORDER BY last_seq), %(low)s) AS expected FROM page
    )
    SELECT id, first_seq, expected, (SELECT max(last_seq) FROM page) FROM ordered
    WHERE first_seq <> expected OR last_seq = (SELECT max(last_seq) FROM page)
    ORDER BY last_seq
"""

# Both are written by the statement that takes the place in the order.
_RECORDED: LiteralString = """
    SELECT 'recorded at', h.recorded_at, c.recorded_at
    FROM head h JOIN commit c ON c.last_seq = h.seq
    WHERE h.id = 1 AND h.recorded_at <> c.recorded_at
"""

# Each commit of a page is looked up once, however many entries it has.
_PLACES: LiteralString = """
    WITH page AS MATERIALIZED (
        SELECT id, commit_id, ordinal, effective_at FROM entry
        WHERE id > %(low)s AND id <= %(high)s
    ), placed AS MATERIALIZED (
        SELECT d.commit_id, c.last_seq - c.first_seq AS most, c.recorded_at
        FROM (SELECT DISTINCT commit_id FROM page) AS d LEFT JOIN LATERAL (
            SELECT first_seq, last_seq, recorded_at FROM commit WHERE id = d.commit_id LIMIT 1
        ) AS c ON true
    )
    SELECT p.id, p.ordinal, coalesce(c.most, -1)
    FROM page p JOIN placed c ON c.commit_id = p.commit_id
    WHERE c.most IS NULL OR p.ordinal NOT BETWEEN 0 AND c.most
        OR p.effective_at < c.recorded_at
"""
"""Entries outside of their commits, and entries that were dated back, which may be sound."""

_LATE_LEGS: LiteralString = f"""
    SELECT l.account_id || '/' || l.number, 'no late leg', e.effective_at
    FROM unnest(%(ids)s::bigint[]) AS late (id) CROSS JOIN LATERAL (
        SELECT * FROM entry WHERE id = late.id LIMIT 1
    ) AS e CROSS JOIN LATERAL (
        SELECT * FROM posting WHERE {POSTINGS_OF_E} OFFSET 0
    ) AS p CROSS JOIN LATERAL (VALUES
        (p.source_id, p.source_number, p.source_previous),
        (p.destination_id, p.destination_number, p.destination_previous)
    ) AS l (account_id, number, previous_id) CROSS JOIN LATERAL (
        SELECT entry_id FROM posting WHERE id = l.previous_id LIMIT 1
    ) AS q CROSS JOIN LATERAL (
        SELECT commit_id FROM entry WHERE id = q.entry_id LIMIT 1
    ) AS f CROSS JOIN LATERAL (
        SELECT recorded_at FROM commit WHERE id = f.commit_id LIMIT 1
    ) AS before
    WHERE f.commit_id <> e.commit_id AND e.effective_at < before.recorded_at AND NOT EXISTS (
        SELECT FROM late_leg WHERE account_id = l.account_id AND number = l.number)
    LIMIT 100
"""


async def _places(tx: CellRead, params: dict[str, Any]) -> list[Difference]:
    """Entries within their commits; legs that took effect before the posting before are noted."""
    rows = await tx.tuples(_PLACES, params)
    wrong = [row for row in rows if not 0 <= row[1] <= row[2]]
    late = [row[0] for row in rows if 0 <= row[1] <= row[2]]
    found = differences("entry-commit", wrong[:MOST])
    if late:
        found += differences("late-leg", await tx.tuples(_LATE_LEGS, {"ids": late}))
    return found


_ENTRIES = Pages("entries in their commits", sql.ENTRY_BOUND, {"entry-commit": _places}, PIECE)


async def prove_order(snapshots: Snapshots, told: Told, since: int) -> list[Difference]:
    """Commits behind `since` follow each other up to the head; entries lie within theirs."""
    found: list[Difference] = []
    low = since
    while True:
        rows, seq = await snapshots.read(_commits(low))
        wrong = [row for row in rows if row[1] != row[2]]
        found += differences("commit-order", [row[:3] for row in wrong])
        last = rows[-1][3] if rows else low
        if not rows or last >= seq:
            break
        low = last
        told("commits", low)
    if last != seq:
        found.append(Difference("head", "head", str(seq), str(last)))
    found += differences("head", await snapshots.read(lambda tx: tx.tuples(_RECORDED)))
    entries = [] if since else await walk(snapshots, _ENTRIES, told)
    return found[:MOST] + entries


def _commits(low: int) -> Callable[[CellRead], Awaitable[tuple[list[tuple[Any, ...]], int]]]:
    async def work(tx: CellRead) -> tuple[list[tuple[Any, ...]], int]:
        return await tx.tuples(_COMMITS, {"low": low, "size": PIECE}), await head(tx)

    return work
