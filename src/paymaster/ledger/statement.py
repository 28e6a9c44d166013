"""An account's history, newest first: a walk along the links that each posting stores."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from paymaster.db.tx import ReadTx
from paymaster.kernel.clock import business_day
from paymaster.kernel.errors import Refusal
from paymaster.ledger import store
from paymaster.ledger.chart import Account

PAGE_LIMIT = 500


@dataclass(frozen=True, slots=True)
class StatementRow:
    """One posting seen from the account: `amount` and `balance` (after it) in minor units.

    `previous_id` is where the next page starts; None at the beginning of the history.
    """

    posting_id: int
    entry_id: int
    kind: str
    subject: str
    counter_kind: str
    counter_owner_id: int
    amount: int
    balance: int
    effective_at: datetime
    recorded_at: datetime
    trace_id: str
    previous_id: int | None


async def page(
    tx: ReadTx, account: Account, start_id: int | None, limit: int
) -> list[StatementRow]:
    """At most `limit` rows from `start_id` (None: the newest) backwards."""
    row = await store.find_account(tx, account)
    if row is None or row.last_posting_id is None:
        return []
    return await tx.fetch(
        """
        WITH RECURSIVE walk AS (
            SELECT p.*, 1 AS depth FROM posting p
            WHERE p.id = %(start)s AND %(account)s IN (p.source_id, p.destination_id)
            UNION ALL
            SELECT p.*, w.depth + 1 FROM walk w JOIN posting p ON p.id =
                CASE WHEN w.source_id = %(account)s THEN w.source_previous
                     ELSE w.destination_previous END
            WHERE w.depth < %(limit)s
        )
        SELECT w.id AS posting_id, w.entry_id, e.kind, e.subject, o.kind AS counter_kind,
            o.owner_id AS counter_owner_id,
            CASE WHEN w.source_id = %(account)s THEN -w.amount ELSE w.amount END AS amount,
            CASE WHEN w.source_id = %(account)s THEN w.source_balance
                 ELSE w.destination_balance END AS balance,
            e.effective_at, c.recorded_at, e.trace_id,
            CASE WHEN w.source_id = %(account)s THEN w.source_previous
                 ELSE w.destination_previous END AS previous_id
        FROM walk w
        JOIN entry e ON e.id = w.entry_id
        JOIN commit c ON c.id = e.commit_id
        JOIN account o ON o.id =
            CASE WHEN w.source_id = %(account)s THEN w.destination_id ELSE w.source_id END
        ORDER BY w.depth
        """,
        {
            "start": row.last_posting_id if start_id is None else start_id,
            "account": row.id,
            "limit": min(limit, PAGE_LIMIT),
        },
        StatementRow,
    )


async def as_of(
    tx: ReadTx,
    account: Account,
    at: datetime,
    *,
    basis: Literal["recorded", "effective"],
    time_zone: str,
) -> int:
    """The balance (minor units, in - out) as it stood at a moment.

    `recorded` counts what was in the books by then; `effective` counts what belongs to then, also
    what was booked later. Raises Refusal `as-of-future`.
    """
    if at > tx.now:
        raise Refusal("as-of-future", "Balances are known up to now only.")
    row = await store.find_account(tx, account)
    if row is None:
        return 0
    column = "recorded_at" if basis == "recorded" else "effective_at"
    # Days after the one asked for lie wholly behind it; only they and that day are walked.
    later = await tx.tuples(
        "SELECT opening_balance, first_posting_id FROM account_day"
        " WHERE account_id = %s AND day > %s ORDER BY day LIMIT 1",
        (row.id, business_day(at, time_zone)),
    )
    if basis == "recorded" and later:
        start, balance = await _before(tx, row.id, later[0][1]), int(later[0][0])
    else:
        start, balance = row.last_posting_id, row.balance
    while start is not None:
        rows = await page(tx, account, start, PAGE_LIMIT)
        for found in rows:
            moment = found.recorded_at if column == "recorded_at" else found.effective_at
            if moment > at:
                balance -= found.amount
            elif found.recorded_at <= at:
                return balance
        start = rows[-1].previous_id if rows else None
    return balance


async def _before(tx: ReadTx, account_id: int, posting_id: int) -> int | None:
    return await tx.value(
        "SELECT CASE WHEN source_id = %s THEN source_previous ELSE destination_previous END"
        " FROM posting WHERE id = %s",
        (account_id, posting_id),
    )
