"""`prove` for reconciliation: every line against its posting, every booking against its attempt.

One snapshot of one cell. In the treasury cell: each line moved the account's cash by exactly its
amount and fee, the cash is what the statements brought and nothing else, suspense is what lies in
doubt and each such line has its break, every statement adds up, and the closed days form a chain.
In every cell: clearing is what was paid and is not yet on a statement, and
nothing was booked into a day after it was closed.
"""

from __future__ import annotations

import hashlib
from typing import LiteralString

from paymaster.db.tx import CellRead
from paymaster.kernel.ids import text_id
from paymaster.ledger.proof import Difference
from paymaster.reconcile import close_store
from paymaster.reconcile.close import signed_message

LIMIT = 100
"""Differences told of each check."""

_MOVED: LiteralString = """
    WITH moved AS (
        SELECT entry_id, owner_id, asset, sum(amount) AS amount FROM (
            SELECT p.entry_id, a.owner_id, a.asset, p.amount
            FROM account a JOIN posting p ON p.source_id = a.id WHERE a.kind = 'cash'
            UNION ALL
            SELECT p.entry_id, a.owner_id, a.asset, -p.amount
            FROM account a JOIN posting p ON p.destination_id = a.id WHERE a.kind = 'cash'
        ) AS leg GROUP BY 1, 2, 3
    )
"""

_CHECKS: dict[str, LiteralString] = {
    "line-posting": _MOVED
    + """
        SELECT l.rail_account_id || '/' || l.line_id, coalesce(m.amount, 0)::text, l.amount::text
        FROM statement_line l LEFT JOIN moved m ON m.entry_id = l.posted_id
            AND m.owner_id = l.rail_account_id AND m.asset = l.asset
        WHERE l.posted_id IS NOT NULL AND l.amount <> coalesce(m.amount, 0)
    """,
    "line-fee": _MOVED
    + """
        SELECT l.rail_account_id || '/' || l.line_id, coalesce(m.amount, 0)::text,
            (CASE WHEN l.posted_id IS NULL THEN 0 ELSE -l.fee END)::text
        FROM statement_line l LEFT JOIN moved m ON m.entry_id = l.entry_fee
        WHERE coalesce(m.amount, 0) <> CASE WHEN l.posted_id IS NULL THEN 0 ELSE -l.fee END
    """,
    "line-state": """
        SELECT l.rail_account_id || '/' || l.line_id, l.state,
            CASE WHEN e.id IS NULL THEN 'not posted' ELSE 'posted' END
        FROM statement_line l LEFT JOIN entry e ON e.id = l.entry_id
        WHERE (l.posted_id IS NULL AND (e.id IS NOT NULL OR l.state IN ('matched', 'break')))
            OR (l.state = 'matched') <> (l.matched IS NOT NULL)
    """,
    "cash": _MOVED
    + """
        SELECT 'rail account ' || coalesce(a.owner_id, f.owner_id),
            coalesce(-a.balance, 0) || ' ' || coalesce(a.asset, f.asset),
            coalesce(f.amount, 0)::text
        FROM (SELECT * FROM account WHERE kind = 'cash') AS a FULL JOIN (
            SELECT owner_id, asset, sum(amount) AS amount FROM (
                SELECT l.rail_account_id AS owner_id, l.asset, l.amount - l.fee AS amount
                FROM statement_line l WHERE l.posted_id IS NOT NULL
                UNION ALL
                SELECT s.rail_account_id, s.asset, m.amount
                FROM statement s JOIN moved m ON m.entry_id = s.entry_opening
            ) AS fact GROUP BY 1, 2
        ) AS f ON f.owner_id = a.owner_id AND f.asset = a.asset
        WHERE coalesce(-a.balance, 0) <> coalesce(f.amount, 0)
    """,
    "suspense": """
        SELECT 'rail account ' || coalesce(a.owner_id, f.owner_id),
            coalesce(a.balance, 0) || ' ' || coalesce(a.asset, f.asset),
            coalesce(f.amount, 0)::text
        FROM (SELECT * FROM account WHERE kind = 'suspense') AS a FULL JOIN (
            SELECT rail_account_id AS owner_id, asset, sum(amount) AS amount
            FROM statement_line WHERE posted_id IS NOT NULL AND state <> 'matched' GROUP BY 1, 2
        ) AS f ON f.owner_id = a.owner_id AND f.asset = a.asset
        WHERE coalesce(a.balance, 0) <> coalesce(f.amount, 0)
    """,
    "statement-sum": """
        SELECT s.rail_account_id || '/' || s.statement_id, s.closing || ' by ' || s.lines,
            coalesce(r.closing, s.opening) + coalesce(l.amount, 0) || ' by ' || coalesce(l.n, 0)
        FROM statement s LEFT JOIN statement r ON r.id = s.restates_id LEFT JOIN (
            SELECT statement_id, sum(amount - fee) AS amount, count(*) AS n
            FROM statement_line GROUP BY 1
        ) AS l ON l.statement_id = s.id
        WHERE s.closing <> coalesce(r.closing, s.opening) + coalesce(l.amount, 0)
            OR s.lines <> coalesce(l.n, 0)
    """,
    "clearing": """
        SELECT 'rail account ' || coalesce(a.owner_id, f.owner_id),
            coalesce(a.balance, 0) || ' ' || coalesce(a.asset, f.asset),
            coalesce(f.amount, 0)::text
        FROM (SELECT * FROM account WHERE kind = 'clearing') AS a FULL JOIN (
            SELECT owner_id, asset, sum(amount) AS amount FROM (
                SELECT rail_account_id AS owner_id, asset, amount
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
    "closed-day": """
        WITH closing AS (
            SELECT a.subject::date AS day, c.first_seq + a.ordinal AS seq
            FROM audit a JOIN commit c ON c.id = a.commit_id WHERE a.action = 'day.freeze'
        ), bound AS (
            SELECT d.effective_day, min(f.seq) AS seq
            FROM (SELECT DISTINCT effective_day FROM entry) AS d
                JOIN closing f ON f.day >= d.effective_day
            GROUP BY d.effective_day
        )
        SELECT e.id::text, e.effective_day::text, 'closed at seq ' || b.seq
        FROM bound b JOIN entry e ON e.effective_day = b.effective_day
            JOIN commit c ON c.id = e.commit_id
        WHERE c.first_seq + e.ordinal > b.seq
    """,
    "attempt-booking": """
        SELECT key, state, coalesce('out by ' || booked_line, '')
            || coalesce(' back by ' || returned_line, '')
        FROM attempt
        WHERE (booked_line IS NOT NULL AND state NOT IN ('paid', 'returned'))
            OR (returned_line IS NOT NULL AND state <> 'returned' AND withdrawal_id IS NOT NULL)
            OR (booked_line IS NULL) <> (booked_on IS NULL)
            OR (returned_line IS NULL) <> (returned_on IS NULL)
    """,
}

CHECKS = (*_CHECKS, "line-break", "day-close")
"""The names of all checks."""


async def prove(tx: CellRead) -> list[Difference]:
    """Run every check; at most 100 differences each."""
    found: list[Difference] = []
    for check, statement in _CHECKS.items():
        for subject, stored, derived in (await tx.tuples(statement))[:LIMIT]:
            found.append(Difference(check, subject, stored, derived))
    found += (await _line_breaks(tx))[:LIMIT]
    found += (await _day_closes(tx))[:LIMIT]
    return found


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
