"""`paymaster ledger prove`: every balance derived anew from the postings, every link followed.

Runs on one snapshot. A difference names the thing, what the books say and what the facts say;
none at all is the proof.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

from paymaster.db.tx import CellRead


@dataclass(frozen=True, slots=True)
class Difference:
    """`check` failed for `subject`: `stored` does not equal what was `derived`."""

    check: str
    subject: str
    stored: str
    derived: str


_LEGS: LiteralString = """
    WITH leg AS (
        SELECT destination_id AS account_id, id, amount, asset, destination_previous AS previous,
            destination_number AS number, destination_balance AS balance FROM posting
        UNION ALL
        SELECT source_id, id, -amount, asset, source_previous, source_number, source_balance
        FROM posting
    )
"""

_CHECKS: dict[str, LiteralString] = {
    "balance": _LEGS
    + """
        SELECT a.id::text, a.balance::text, coalesce(s.total, 0)::text
        FROM account a LEFT JOIN (
            SELECT account_id, sum(amount) AS total FROM leg GROUP BY 1
        ) s ON s.account_id = a.id
        WHERE a.balance <> coalesce(s.total, 0)
    """,
    "posting-count": _LEGS
    + """
        SELECT a.id::text, a.postings || ' ending ' || coalesce(a.last_posting_id, 0),
            coalesce(s.n, 0) || ' ending ' || coalesce(s.last, 0)
        FROM account a LEFT JOIN (
            SELECT account_id, count(*) AS n, (array_agg(id ORDER BY number DESC))[1] AS last
            FROM leg GROUP BY 1
        ) s ON s.account_id = a.id
        WHERE a.postings <> coalesce(s.n, 0) OR a.last_posting_id IS DISTINCT FROM s.last
    """,
    "account-missing": _LEGS
    + """
        SELECT leg.account_id::text, 'posting ' || min(leg.id), 'no such account'
        FROM leg LEFT JOIN account a ON a.id = leg.account_id
        WHERE a.id IS NULL GROUP BY leg.account_id
    """,
    "currency": _LEGS
    + """
        SELECT leg.id::text, leg.asset, a.asset
        FROM leg JOIN account a ON a.id = leg.account_id WHERE a.asset <> leg.asset
    """,
    "history": _LEGS
    + """
        SELECT account_id || '/' || number, coalesce(previous, 0) || ' -> ' || balance,
            coalesce(before, 0) || ' -> ' || coalesce(before_balance, 0) + amount
        FROM (
            SELECT leg.*, lag(id) OVER w AS before, lag(balance) OVER w AS before_balance,
                row_number() OVER w AS place
            FROM leg WINDOW w AS (PARTITION BY account_id ORDER BY number)
        ) chained
        WHERE previous IS DISTINCT FROM before OR number <> place
            OR balance <> coalesce(before_balance, 0) + amount
    """,
    "sum-of-balances": """
        SELECT asset, sum(balance)::text, '0' FROM account GROUP BY asset HAVING sum(balance) <> 0
    """,
    "entry-postings": """
        SELECT coalesce(e.id, p.entry_id)::text, coalesce(e.postings, -1)::text,
            coalesce(p.n, 0)::text
        FROM entry e FULL JOIN (
            SELECT entry_id, count(*) AS n FROM posting GROUP BY 1
        ) p ON p.entry_id = e.id
        WHERE coalesce(e.postings, -1) <> coalesce(p.n, 0)
    """,
    "bounds": """
        SELECT id::text, balance::text, coalesce(floor::text, '-') || '..'
            || coalesce(ceiling::text, '-')
        FROM account WHERE balance < floor OR balance > ceiling
    """,
    "holds": """
        SELECT a.id::text, a.balance::text, coalesce(h.total, 0)::text
        FROM account a LEFT JOIN (
            SELECT held_id, sum(remaining) AS total FROM hold WHERE state = 'open' GROUP BY 1
        ) h ON h.held_id = a.id
        WHERE a.kind = 'held' AND a.balance <> coalesce(h.total, 0)
    """,
    "commit-order": """
        SELECT id::text, first_seq::text, expected::text FROM (
            SELECT id, first_seq, 1 + coalesce(lag(last_seq) OVER (ORDER BY last_seq), 0)
                AS expected FROM commit
        ) ordered WHERE first_seq <> expected
    """,
    "head": """
        SELECT 'head', seq::text, coalesce((SELECT max(last_seq) FROM commit), 0)::text
        FROM head WHERE seq <> coalesce((SELECT max(last_seq) FROM commit), 0)
    """,
    "entry-commit": """
        SELECT e.id::text, e.ordinal::text, coalesce(c.last_seq - c.first_seq, -1)::text
        FROM entry e LEFT JOIN commit c ON c.id = e.commit_id
        WHERE c.id IS NULL OR e.ordinal NOT BETWEEN 0 AND c.last_seq - c.first_seq
    """,
    "day-opening": _LEGS
    + """
        SELECT d.account_id || ' ' || d.day, d.opening_balance::text,
            (leg.balance - leg.amount)::text
        FROM account_day d LEFT JOIN leg
            ON leg.account_id = d.account_id AND leg.id = d.first_posting_id
        WHERE leg.id IS NULL OR leg.balance - leg.amount <> d.opening_balance
    """,
}

CHECKS = tuple(_CHECKS)
"""The names of all checks."""


async def prove(tx: CellRead) -> list[Difference]:
    """Run every check; at most 100 differences each."""
    found: list[Difference] = []
    for check, statement in _CHECKS.items():
        for subject, stored, derived in (await tx.tuples(statement))[:100]:
            found.append(Difference(check, subject, stored, derived))
    return found
