"""`prove` for reconciliation: every line against its posting, every booking against its attempt.

Page by page, each on a snapshot of its own. In the treasury cell: each line moved the account's
cash by exactly its amount and fee, the cash is what the statements brought and nothing else,
suspense is what lies in doubt and each such line has its break, every statement adds up, and the
closed days form a chain. In every cell: clearing is what was paid and is not yet on a statement,
less what was set apart for payments that are not paid, and nothing was booked into a day after it
was closed.
"""

from __future__ import annotations

import hashlib
from typing import LiteralString

from paymaster.db.snapshots import OneSnapshot, Snapshots
from paymaster.db.tx import CellRead
from paymaster.dispatch.machine import ATTEMPT, TRANSFER
from paymaster.earn.machine import REWARD, TASK
from paymaster.kernel.ids import text_id
from paymaster.ledger.proof import POSTINGS_OF_E, Difference, Pages, Told, silent, walk
from paymaster.ledger.proof_moves import prove_legal
from paymaster.ledger.proof_pages import differences
from paymaster.payin.machine import CHARGE, REFUND
from paymaster.reconcile import close_store
from paymaster.reconcile.close import signed_message
from paymaster.withdraw.machine import WITHDRAWAL

MACHINES = (TASK, REWARD, WITHDRAWAL, ATTEMPT, TRANSFER, CHARGE, REFUND)
"""Whose moves `legal_move` holds: every lifecycle of the project."""
LIMIT = 100
"""Differences told of each check."""
PAGE = 2_000
ENTRIES_PAGE = 100_000

_LINES: LiteralString = (
    "SELECT id FROM statement_line WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)
_STATEMENTS: LiteralString = (
    "SELECT id FROM statement WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)
_ATTEMPTS: LiteralString = (
    "SELECT id FROM attempt WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)
_ENTRIES: LiteralString = (
    "SELECT id FROM entry WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)

# What the entries in `asked` moved on cash accounts, as their owners see it.
_MOVED: LiteralString = f"""
    moved AS MATERIALIZED (
        SELECT p.entry_id, a.owner_id, a.asset,
            sum(CASE WHEN a.id = p.source_id THEN p.amount ELSE -p.amount END) AS amount
        FROM asked CROSS JOIN LATERAL (
            SELECT id, commit_id, first_posting_id, last_posting_id FROM entry
            WHERE id = asked.id LIMIT 1
        ) AS e CROSS JOIN LATERAL (
            SELECT entry_id, source_id, destination_id, amount FROM posting
            WHERE {POSTINGS_OF_E} OFFSET 0
        ) AS p JOIN account a ON a.id IN (p.source_id, p.destination_id) AND a.kind = 'cash'
        GROUP BY 1, 2, 3
    )
"""
_LINE_PAGE: LiteralString = f"""
    WITH page AS MATERIALIZED (
        SELECT * FROM statement_line WHERE id > %(low)s AND id <= %(high)s
    ), asked AS MATERIALIZED (
        SELECT DISTINCT id FROM (
            SELECT posted_id AS id FROM page WHERE posted_id IS NOT NULL
            UNION ALL SELECT entry_fee FROM page
        ) AS each
    ), {_MOVED}
"""

# An entry that is gone into an archive says nothing any more; its line came before.
_ARCHIVED: LiteralString = """
    AND NOT (EXISTS (
        SELECT FROM statement s WHERE s.id = l.statement_id
            AND s.received_at <= (SELECT max(recorded_through) FROM archive)
    ) AND NOT EXISTS (SELECT FROM entry WHERE id = l.posted_id))
"""

_BY_LINE: dict[str, LiteralString] = {
    "line-posting": _LINE_PAGE
    + """
        SELECT l.rail_account_id || '/' || l.line_id, coalesce(m.amount, 0), l.amount
        FROM page l LEFT JOIN moved m ON m.entry_id = l.posted_id
            AND m.owner_id = l.rail_account_id AND m.asset = l.asset
        WHERE l.posted_id IS NOT NULL AND l.amount <> coalesce(m.amount, 0)
    """
    + _ARCHIVED,
    "line-fee": _LINE_PAGE
    + """
        SELECT l.rail_account_id || '/' || l.line_id, coalesce(m.amount, 0),
            CASE WHEN l.posted_id IS NULL THEN 0 ELSE -l.fee END
        FROM page l LEFT JOIN moved m ON m.entry_id = l.entry_fee
        WHERE coalesce(m.amount, 0) <> CASE WHEN l.posted_id IS NULL THEN 0 ELSE -l.fee END
    """
    + _ARCHIVED,
    "line-state": """
        SELECT l.rail_account_id || '/' || l.line_id, l.state,
            CASE WHEN e.id IS NULL THEN 'not posted' ELSE 'posted' END
        FROM statement_line l LEFT JOIN LATERAL (
            SELECT id FROM entry WHERE id = l.entry_id LIMIT 1
        ) AS e ON true
        WHERE l.id > %(low)s AND l.id <= %(high)s AND (
            (l.posted_id IS NULL AND (e.id IS NOT NULL OR l.state IN ('matched', 'break')))
            OR (l.state = 'matched') <> (l.matched IS NOT NULL)) LIMIT 100
    """,
}
_BY_STATEMENT: dict[str, LiteralString] = {
    "statement-sum": """
        SELECT s.rail_account_id || '/' || s.statement_id, s.closing || ' by ' || s.lines,
            coalesce(r.closing, s.opening) + coalesce(l.amount, 0) || ' by ' || coalesce(l.n, 0)
        FROM statement s LEFT JOIN statement r ON r.id = s.restates_id LEFT JOIN LATERAL (
            SELECT sum(amount - fee) AS amount, count(*) AS n
            FROM statement_line WHERE statement_id = s.id
        ) AS l ON true
        WHERE s.id > %(low)s AND s.id <= %(high)s
            AND (s.closing <> coalesce(r.closing, s.opening) + coalesce(l.amount, 0)
                OR s.lines <> coalesce(l.n, 0)) LIMIT 100
    """,
}
_BY_ATTEMPT: dict[str, LiteralString] = {
    "attempt-booking": """
        SELECT key, state, coalesce('out by ' || booked_line, '')
            || coalesce(' back by ' || returned_line, '')
        FROM attempt
        WHERE id > %(low)s AND id <= %(high)s AND (
            (booked_line IS NOT NULL AND state NOT IN ('paid', 'returned') AND NOT apart)
            OR (returned_line IS NOT NULL AND withdrawal_id IS NOT NULL AND state <> 'returned'
                AND (NOT apart OR state = 'paid'))
            OR (booked_line IS NULL) <> (booked_on IS NULL)
            OR (returned_line IS NULL) <> (returned_on IS NULL)) LIMIT 100
    """,
}
_BY_ENTRY: dict[str, LiteralString] = {
    "closed-day": """
        SELECT e.id, e.effective_day, 'closed at seq ' || f.seq
        FROM entry e JOIN LATERAL (
            SELECT min(seq) AS seq
            FROM unnest(%(days)s::date[], %(seqs)s::bigint[]) AS closing (day, seq)
            WHERE closing.day >= e.effective_day
        ) AS f ON true JOIN LATERAL (
            SELECT first_seq FROM commit WHERE id = e.commit_id LIMIT 1
        ) AS c ON true
        WHERE e.id > %(low)s AND e.id <= %(high)s
            AND e.effective_day <= (SELECT max(day) FROM unnest(%(days)s::date[]) AS closed (day))
            AND c.first_seq + e.ordinal > f.seq LIMIT 100
    """,
}
# The trail is looked up by the days that can have been closed, eleven years of them.
_CLOSINGS: LiteralString = """
    SELECT d.day::date, c.first_seq + a.ordinal
    FROM head h CROSS JOIN LATERAL generate_series(
        h.closed_through::timestamp - interval '4000 days', h.closed_through::timestamp,
        interval '1 day'
    ) AS d (day) CROSS JOIN LATERAL (
        SELECT commit_id, ordinal FROM audit
        WHERE subject = d.day::date::text AND action = 'day.freeze' OFFSET 0
    ) AS a JOIN commit c ON c.id = a.commit_id
    WHERE h.id = 1
"""

# Days that were closed, or said to be closed, by their acts and not by the head; a day is closed
# after it is over, wherever on earth that is.
_CLOSED_THROUGH: LiteralString = """
    SELECT 'closed through', coalesce(h.closed_through::text, 'nothing'),
        coalesce(f.day::text, 'nothing')
    FROM head h CROSS JOIN LATERAL (
        SELECT max(d.day)::date AS day FROM generate_series(
            h.recorded_at::date::timestamp - interval '4000 days',
            h.recorded_at::date::timestamp + interval '1 day', interval '1 day'
        ) AS d (day) CROSS JOIN LATERAL (
            SELECT FROM audit
            WHERE subject = d.day::date::text AND action = 'day.freeze' LIMIT 1
        ) AS a
    ) AS f
    WHERE h.id = 1 AND h.closed_through IS DISTINCT FROM f.day
"""
_UNCLOSED: LiteralString = """
    SELECT 'closed through', coalesce(h.closed_through::text, 'nothing'), 'signed ' || d.day
    FROM head h CROSS JOIN (SELECT max(day) AS day FROM day_close) AS d
    WHERE h.id = 1 AND d.day IS NOT NULL AND (h.closed_through IS NULL OR h.closed_through < d.day)
"""

# Sums over whole tables, but of few groups each: one statement is one snapshot. What was on an
# account before its first statement stands there, when its opening is in an archive.
_TOTALS: dict[str, LiteralString] = {
    "cash": f"""
        WITH asked AS MATERIALIZED (SELECT entry_opening AS id FROM statement), {_MOVED}
        SELECT 'rail account ' || coalesce(a.owner_id, f.owner_id),
            coalesce(-a.balance, 0) || ' ' || coalesce(a.asset, f.asset),
            coalesce(f.amount, 0)
        FROM (SELECT * FROM account WHERE kind = 'cash') AS a FULL JOIN (
            SELECT owner_id, asset, sum(amount) AS amount FROM (
                SELECT l.rail_account_id AS owner_id, l.asset, l.amount - l.fee AS amount
                FROM statement_line l WHERE l.posted_id IS NOT NULL
                UNION ALL
                SELECT s.rail_account_id, s.asset, m.amount
                FROM statement s JOIN moved m ON m.entry_id = s.entry_opening
                UNION ALL
                SELECT s.rail_account_id, s.asset, s.opening FROM statement s
                WHERE s.received_at <= (SELECT max(recorded_through) FROM archive)
                    AND NOT EXISTS (SELECT FROM entry WHERE id = s.entry_opening)
                    AND s.id = (SELECT min(id) FROM statement AS first
                        WHERE first.rail_account_id = s.rail_account_id)
            ) AS fact GROUP BY 1, 2
        ) AS f ON f.owner_id = a.owner_id AND f.asset = a.asset
        WHERE coalesce(-a.balance, 0) <> coalesce(f.amount, 0)
    """,
    "suspense": """
        SELECT 'rail account ' || coalesce(a.owner_id, f.owner_id),
            coalesce(a.balance, 0) || ' ' || coalesce(a.asset, f.asset),
            coalesce(f.amount, 0)
        FROM (SELECT * FROM account WHERE kind = 'suspense') AS a FULL JOIN (
            SELECT rail_account_id AS owner_id, asset, sum(amount) AS amount
            FROM statement_line WHERE posted_id IS NOT NULL AND state <> 'matched' GROUP BY 1, 2
        ) AS f ON f.owner_id = a.owner_id AND f.asset = a.asset
        WHERE coalesce(a.balance, 0) <> coalesce(f.amount, 0)
    """,
    "clearing": """
        SELECT 'rail account ' || coalesce(a.owner_id, f.owner_id),
            coalesce(a.balance, 0) || ' ' || coalesce(a.asset, f.asset),
            coalesce(f.amount, 0)
        FROM (SELECT * FROM account WHERE kind = 'clearing') AS a FULL JOIN (
            SELECT owner_id, asset, sum(amount) AS amount FROM (
                SELECT rail_account_id AS owner_id, payout_asset AS asset,
                    payout_amount AS amount
                FROM withdrawal WHERE state = 'paid'
                UNION ALL
                SELECT rail_account_id, asset,
                    CASE WHEN booked_line IS NULL THEN 0 ELSE -amount END
                    + CASE WHEN returned_line IS NULL THEN 0 ELSE amount END
                FROM attempt WHERE withdrawal_id IS NOT NULL
            ) AS fact GROUP BY 1, 2
        ) AS f ON f.owner_id = a.owner_id AND f.asset = a.asset
        WHERE coalesce(a.balance, 0) <> coalesce(f.amount, 0)
    """,
}

CHECKS = (
    *_BY_LINE,
    *_BY_STATEMENT,
    *_BY_ATTEMPT,
    *_BY_ENTRY,
    *_TOTALS,
    "line-break",
    "day-close",
    "day-close-chain",
    "closed-through",
    "legal-move",
)
"""The names of all checks."""


async def prove(tx: CellRead) -> list[Difference]:
    """Every check, on the snapshot of `tx`; at most 100 differences each."""
    return await prove_in(OneSnapshot(tx))


async def prove_in(snapshots: Snapshots, told: Told = silent) -> list[Difference]:
    """Every check, page by page; at most 100 differences each."""
    found: list[Difference] = []
    # Days that are closed later only make more of what is checked wrong: never a false alarm.
    closings = await snapshots.read(lambda tx: tx.tuples(_CLOSINGS))
    days = {"days": [row[0] for row in closings], "seqs": [row[1] for row in closings]}
    for pages in (
        Pages("statement lines", _LINES, _BY_LINE, PAGE),
        Pages("statements", _STATEMENTS, _BY_STATEMENT, PAGE),
        Pages("attempts", _ATTEMPTS, _BY_ATTEMPT),
        *([Pages("closed days", _ENTRIES, _BY_ENTRY, ENTRIES_PAGE, days)] if closings else []),
    ):
        found += await walk(snapshots, pages, told)
    for check, statement in _TOTALS.items():
        rows = await snapshots.read(lambda tx, one=statement: tx.tuples(one))
        found += differences(check, rows[:LIMIT])
    found += (await snapshots.read(_line_breaks))[:LIMIT]
    found += (await snapshots.read(_day_closes))[:LIMIT]
    found += await snapshots.read(_closed_through)
    return found + await prove_legal(snapshots, MACHINES)


async def _line_breaks(tx: CellRead) -> list[Difference]:
    """A line is in doubt exactly as long as it has an open break."""
    lines = await tx.tuples("SELECT id FROM statement_line WHERE state = 'break'")
    doubted = {text_id("sl", tx.cell, row[0]) for row in lines}
    subjects = await tx.tuples(
        "SELECT subject, count(*)::int FROM break"
        " WHERE state = 'open' AND starts_with(subject, 'sl_') GROUP BY subject"
    )
    waiting = await tx.tuples(
        "SELECT id FROM statement_line WHERE state IN ('open', 'asked') AND posted_id IS NOT NULL"
    )
    retried = {text_id("sl", tx.cell, row[0]) for row in waiting}
    opened: dict[str, int] = {row[0]: row[1] for row in subjects}
    found = [
        Difference("line-break", name, "in doubt", f"{opened.get(name, 0)} open breaks")
        for name in sorted(doubted)
        if opened.get(name) != 1
    ]
    found += [
        Difference("line-break", name, "not in doubt", f"{count} open breaks")
        for name, count in sorted(opened.items())
        if name not in doubted and name not in retried
    ]
    return found


async def _day_closes(tx: CellRead) -> list[Difference]:
    """Each closed day is as it was signed and names the one before it."""
    found: list[Difference] = []
    previous: str | None = None
    for row in reversed(await close_store.listing(tx, None, 100_000)):
        message = signed_message(row.day, row.closed_seq, row.totals)
        derived = hashlib.sha256(message).hexdigest()
        if derived != row.digest.hex():
            found.append(Difference("day-close", str(row.day), row.digest.hex(), derived))
        if row.totals.get("previous") != previous:
            named = str(row.totals.get("previous"))
            found.append(Difference("day-close-chain", str(row.day), named, str(previous)))
        previous = row.digest.hex()
    return found


async def _closed_through(tx: CellRead) -> list[Difference]:
    """The head is closed through the last day that was frozen, no less than the last one signed."""
    rows = await tx.tuples(_CLOSED_THROUGH) + await tx.tuples(_UNCLOSED)
    return differences("closed-through", rows)
