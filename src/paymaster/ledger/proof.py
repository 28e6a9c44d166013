"""`paymaster ledger prove`: every balance derived anew from the postings, every link followed.

Reads everything in short snapshots and in bounded memory, while posting goes on. A difference
names the thing, what the books say and what the facts say; none at all is the proof.

    proof_pages    row by row: a row against what was written with it
    proof_sum     all of it: histories and balances cancel out, entries have their postings
    proof_names    what does not cancel out, by account and posting
    proof_order    the order of commits, entries in their commits
    proof_moves    moves against the machines; the packages that have some call it
    proof_store    how far the books were proven, to go on from there
"""

from __future__ import annotations

from dataclasses import dataclass

from paymaster.db.snapshots import OneSnapshot, Snapshots
from paymaster.db.tx import CellRead
from paymaster.kernel.money import EXPONENTS
from paymaster.ledger import proof_sql as sql
from paymaster.ledger.chart import KINDS
from paymaster.ledger.proof_names import name_steps
from paymaster.ledger.proof_order import prove_order
from paymaster.ledger.proof_pages import (
    MOST,
    POSTINGS_OF_E,
    Difference,
    Pages,
    Told,
    silent,
    walk,
)
from paymaster.ledger.proof_store import Checkpoint
from paymaster.ledger.proof_sum import PIECE, Archived, Books, archived, check_marks, sum_up

__all__ = [
    "CHECKS", "MOST", "POSTINGS_OF_E", "BooksProof", "Difference", "Pages", "Told", "prove",
    "prove_books", "silent", "walk",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class BooksProof:
    """What was proven of the books: up to `seq`, and from `since` on (0: from the beginning)."""

    seq: int
    since: int
    at_seq: int
    postings: int
    accounts: int
    differences: list[Difference]


_ACCOUNTS = Pages(
    "bounds and holds",
    sql.ACCOUNT_BOUND,
    {
        "bounds": """
            SELECT id, balance, coalesce(floor::text, '-') || '..' || coalesce(ceiling::text, '-')
            FROM account WHERE id > %(low)s AND id <= %(high)s
                AND (balance < floor OR balance > ceiling) LIMIT 100
        """,
        "holds": """
            SELECT a.id, a.balance, coalesce(h.total, 0)
            FROM account a CROSS JOIN LATERAL (
                SELECT sum(remaining) AS total FROM hold
                WHERE held_id = a.id AND state = 'open'
            ) AS h
            WHERE a.id > %(low)s AND a.id <= %(high)s AND a.kind = 'held'
                AND a.balance <> coalesce(h.total, 0) LIMIT 100
        """,
        "chart": """
            SELECT a.id, a.kind || ' ' || coalesce(a.floor::text, '-') || '..'
                    || coalesce(a.ceiling::text, '-') || ' scale ' || a.scale,
                coalesce(k.kind || ' ' || coalesce(k.floor::text, '-') || '..'
                    || coalesce(k.ceiling::text, '-'), 'no such kind')
                    || ' scale ' || coalesce(c.scale::text, '-')
            FROM account a LEFT JOIN unnest(
                %(kinds)s::text[], %(floors)s::bigint[], %(ceilings)s::bigint[]
            ) AS k (kind, floor, ceiling) ON k.kind = a.kind
            LEFT JOIN unnest(%(assets)s::text[], %(scales)s::integer[])
                AS c (asset, scale) ON c.asset = a.asset
            WHERE a.id > %(low)s AND a.id <= %(high)s AND (k.kind IS NULL
                OR a.floor IS DISTINCT FROM k.floor OR a.ceiling IS DISTINCT FROM k.ceiling
                OR a.scale IS DISTINCT FROM c.scale) LIMIT 100
        """,
    },
    params={
        "kinds": list(KINDS),
        "floors": [kind.floor for kind in KINDS.values()],
        "ceilings": [kind.ceiling for kind in KINDS.values()],
        "assets": list(EXPONENTS),
        "scales": list(EXPONENTS.values()),
    },
)
_HOLDS = Pages(
    "holds",
    sql.HOLD_BOUND,
    {
        "hold-account": """
            SELECT h.id, h.available_id || ' -> ' || h.held_id,
                coalesce(a.kind, 'none') || ' -> ' || coalesce(b.kind, 'none')
            FROM hold h LEFT JOIN account a ON a.id = h.available_id
                LEFT JOIN account b ON b.id = h.held_id
            WHERE h.id > %(low)s AND h.id <= %(high)s AND (a.kind IS DISTINCT FROM 'available'
                OR b.kind IS DISTINCT FROM 'held' OR a.owner_id <> b.owner_id
                OR a.asset <> b.asset) LIMIT 100
        """,
    },
)
_POSTINGS = Pages(
    "postings in their entries",
    sql.POSTING_BOUND,
    {
        "posting-entry": """
            SELECT p.id, 'entry ' || p.entry_id, coalesce(
                e.first_posting_id || '..' || e.last_posting_id, 'no such entry')
            FROM posting p LEFT JOIN LATERAL (
                SELECT id, first_posting_id, last_posting_id FROM entry
                WHERE id = p.entry_id LIMIT 1
            ) AS e ON true
            WHERE p.id > %(low)s AND p.id <= %(high)s
                AND (e.id IS NULL OR p.id < e.first_posting_id OR p.id > e.last_posting_id)
            LIMIT 100
        """,
    },
    PIECE,
)
_MARKS = Pages(
    "marks of histories",
    sql.ACCOUNT_BOUND,
    {
        "history-mark": """
            SELECT m.account_id || '/' || m.number, m.posting_id,
                coalesce(p.number::text, 'no such posting')
            FROM account_mark m LEFT JOIN LATERAL (
                SELECT CASE m.account_id WHEN source_id THEN source_number
                    WHEN destination_id THEN destination_number END AS number
                FROM posting WHERE id = m.posting_id LIMIT 1
            ) AS p ON true
            WHERE m.account_id > %(low)s AND m.account_id <= %(high)s
                AND m.number IS DISTINCT FROM p.number
                AND NOT (p.number IS NULL AND EXISTS (
                    SELECT FROM archive WHERE m.posting_id >= low_id
                        AND m.posting_id < high_id))
            UNION ALL
            SELECT a.id::text, coalesce(m.n, 0), (a.postings / 64)::text
            FROM account a LEFT JOIN (
                SELECT account_id, count(*) AS n FROM account_mark
                WHERE account_id > %(low)s AND account_id <= %(high)s GROUP BY 1
            ) AS m ON m.account_id = a.id
            WHERE a.id > %(low)s AND a.id <= %(high)s AND coalesce(m.n, 0) <> a.postings / 64
                AND NOT EXISTS (SELECT FROM archive)
            LIMIT 100
        """,
        "late-leg": """
            SELECT l.account_id || '/' || l.number, l.posting_id || ' ' || l.amount,
                coalesce(p.number || ' ' || p.amount, 'no such posting')
            FROM late_leg l LEFT JOIN LATERAL (
                SELECT CASE l.account_id WHEN source_id THEN source_number
                        WHEN destination_id THEN destination_number END AS number,
                    CASE l.account_id WHEN source_id THEN -amount ELSE amount END AS amount
                FROM posting WHERE id = l.posting_id LIMIT 1
            ) AS p ON true
            WHERE l.account_id > %(low)s AND l.account_id <= %(high)s
                AND (l.number IS DISTINCT FROM p.number OR l.amount IS DISTINCT FROM p.amount)
                AND NOT (p.number IS NULL AND EXISTS (
                    SELECT FROM archive WHERE l.posting_id >= low_id
                        AND l.posting_id < high_id)) LIMIT 100
        """,
    },
)
_COUNTS = Pages(
    "naming",
    sql.ENTRY_BOUND,
    {
        "entry-postings": f"""
            SELECT e.id, e.postings || coalesce(
                    ': ' || e.first_posting_id || '..' || e.last_posting_id, ''),
                p.n || coalesce(': ' || p.first || '..' || p.last, '')
            FROM entry e CROSS JOIN LATERAL (
                SELECT count(*) AS n, min(id) AS first, max(id) AS last FROM posting
                WHERE {POSTINGS_OF_E}
            ) AS p
            WHERE e.id > %(low)s AND e.id <= %(high)s AND (e.postings <> p.n
                OR e.first_posting_id <> p.first OR e.last_posting_id <> p.last) LIMIT 100
        """
    },
)

CHECKS = (
    "balance", "posting-count", "account-missing", "currency", "history", "sum-of-balances",
    "entry-postings", *_POSTINGS.checks, *_ACCOUNTS.checks, *_HOLDS.checks, *_MARKS.checks,
    "commit-order", "head", "entry-commit",
)  # fmt: skip
"""The names of all checks."""


async def prove(tx: CellRead) -> list[Difference]:
    """Every check, all on the snapshot of `tx`."""
    return (await prove_books(OneSnapshot(tx))).differences


async def prove_books(
    snapshots: Snapshots,
    told: Told = silent,
    since: Checkpoint | None = None,
    piece: int = PIECE,
) -> BooksProof:
    """Every check; at most 100 differences each.

    With `since` the postings up to there are taken as proven: only what came later is read, and
    every account's row is held against both. Raises Broken `proof-marks` where this cannot work.
    """
    await check_marks(snapshots)
    start = None if since is None else (since.seq, since.at_seq)
    gone = await snapshots.read(archived)
    books = await sum_up(snapshots, told, gone, start, piece)
    while (now_gone := await snapshots.read(archived)) != gone:
        # A month left for an archive while it was being read.
        gone = now_gone
        books = await sum_up(snapshots, told, gone, start, piece)
    found = await _summed(snapshots, told, gone, books, piece)
    found += await prove_order(snapshots, told, 0 if since is None else since.seq)
    for pages in (_ACCOUNTS, _HOLDS, *(() if since else (_MARKS,))):
        found += await walk(snapshots, pages, told)
    return BooksProof(
        books.seq,
        since.seq if since else 0,
        books.at_seq,
        books.postings,
        books.accounts,
        found,
    )


async def _summed(
    snapshots: Snapshots, told: Told, gone: Archived, books: Books, piece: int
) -> list[Difference]:
    """What the sums say, and the names of what does not come out."""
    found = [
        Difference("sum-of-balances", asset, str(total), "0")
        for asset, total in sorted(books.money.items())
        if total
    ]
    if books.steps != books.ends:
        named = await name_steps(snapshots, told, gone, books.postings, piece)
        found += named or [
            Difference("history", "all accounts", "a remainder", "no account to name: prove again")
        ]
    counts = [Difference("entry-postings", str(a), str(b), str(c)) for a, b, c in books.miscounted]
    if books.named != books.entered:
        counts += await walk(snapshots, _POSTINGS, told)
        counts += await walk(snapshots, _COUNTS, told)
        counts = counts or [
            Difference("entry-postings", "all entries", "a remainder", "no entry to name")
        ]
    return found + list(dict.fromkeys(counts))
