"""An account's history, newest first: a walk along the links that each posting stores.

A moment in it is found by the marks that `post` leaves at every `STRIDE`th posting of an account: a
search among them, then less than `STRIDE` steps back. A mark that is missing makes the walk longer
and nothing else. The walk ends where the history begins, or where a month was archived.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal, LiteralString

from paymaster.db.tx import ReadTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Refusal
from paymaster.ledger import store
from paymaster.ledger.chart import Account

PAGE_LIMIT = 500

STRIDE = 64
"""Every so many postings of an account there is a mark."""


@dataclass(frozen=True, slots=True)
class StatementRow:
    """One posting seen from the account: `amount` and `balance` (after it) in minor units.

    `number` counts the account's postings from 1; `previous_id` is the posting before, None at the
    beginning of the history.
    """

    posting_id: int
    entry_id: int
    kind: str
    subject: str
    counter_kind: str
    counter_owner_id: int
    number: int
    amount: int
    balance: int
    effective_at: datetime
    recorded_at: datetime
    trace_id: str
    previous_id: int | None


@dataclass(frozen=True, slots=True)
class Archived:
    """Where an older part of the history is: a month, its file and the file's SHA-256 in hex."""

    month: date
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, newest first, and where the next page starts, if there is one.

    `archived` is set when they end before the history begins, because the rest was archived.
    """

    rows: list[StatementRow]
    next_id: int | None
    archived: Archived | None = None


async def page(
    tx: ReadTx,
    account: Account,
    start_id: int | None,
    limit: int,
    *,
    since: datetime | None = None,
) -> Page:
    """At most `limit` rows from `start_id` (None: the newest) back, none from before `since`."""
    limit = min(limit, PAGE_LIMIT)
    rows = await _walk(tx, account, start_id, limit)
    kept = [row for row in rows if since is None or row.recorded_at >= since]
    if len(kept) < len(rows):
        return Page(kept, None)
    if len(rows) == limit:
        return Page(rows, rows[-1].previous_id)
    return Page(rows, None, await _archived(tx, account, start_id, rows, since))


async def page_until(
    tx: ReadTx, account: Account, until: datetime, limit: int, *, since: datetime | None = None
) -> Page:
    """The first page of what was recorded by `until`. Raises Refusal `as-of-archived`."""
    if until >= tx.now:
        return await page(tx, account, None, limit, since=since)
    newest = (await _stood(tx, account, until)).newest_id
    if newest is None:
        return Page([], None)
    return await page(tx, account, newest, limit, since=since)


async def _walk(
    tx: ReadTx, account: Account, start_id: int | None, limit: int
) -> list[StatementRow]:
    return await tx.fetch(
        """
        WITH RECURSIVE walk AS (
            SELECT a.id AS account_id, 0 AS depth, NULL::bigint AS id, NULL::bigint AS entry_id,
                NULL::bigint AS other, NULL::bigint AS number, NULL::bigint AS amount,
                NULL::bigint AS balance,
                coalesce(%(start)s::bigint, a.last_posting_id) AS previous_id
            FROM account a
            WHERE a.kind = %(kind)s AND a.owner_id = %(owner)s AND a.asset = %(asset)s
            UNION ALL
            SELECT w.account_id, w.depth + 1, p.id, p.entry_id,
                CASE WHEN w.account_id = p.source_id THEN p.destination_id ELSE p.source_id END,
                CASE WHEN w.account_id = p.source_id THEN p.source_number
                     ELSE p.destination_number END,
                CASE WHEN w.account_id = p.source_id THEN -p.amount ELSE p.amount END,
                CASE WHEN w.account_id = p.source_id THEN p.source_balance
                     ELSE p.destination_balance END,
                CASE WHEN w.account_id = p.source_id THEN p.source_previous
                     ELSE p.destination_previous END
            FROM walk w JOIN posting p ON p.id = w.previous_id
            WHERE w.depth < %(limit)s AND w.account_id IN (p.source_id, p.destination_id)
        )
        SELECT w.id AS posting_id, w.entry_id, e.kind, e.subject, o.kind AS counter_kind,
            o.owner_id AS counter_owner_id, w.number, w.amount, w.balance, e.effective_at,
            c.recorded_at, e.trace_id, w.previous_id
        FROM walk w
        JOIN entry e ON e.id = w.entry_id
        JOIN commit c ON c.id = e.commit_id
        JOIN account o ON o.id = w.other
        ORDER BY w.depth
        """,
        {
            "start": start_id,
            "kind": account.kind,
            "owner": account.owner_id,
            "asset": account.asset,
            "limit": limit,
        },
        StatementRow,
    )


async def _archived(
    tx: ReadTx,
    account: Account,
    start_id: int | None,
    rows: list[StatementRow],
    since: datetime | None,
) -> Archived | None:
    """The archive that holds what comes before `rows` and was recorded after `since`."""
    if rows:
        missing = rows[-1].previous_id
    else:
        row = await store.find_account(tx, account)
        missing = None if row is None else start_id or row.last_posting_id
    if missing is None:
        return None
    return await tx.maybe(
        "SELECT month, file, encode(sha256, 'hex') AS sha256 FROM archive"
        " WHERE low_id <= %s AND high_id > %s"
        " AND recorded_through >= coalesce(%s, recorded_through)",
        (missing, missing, since),
        Archived,
    )


async def as_of(
    tx: ReadTx,
    account: Account,
    at: datetime,
    *,
    basis: Literal["recorded", "effective"],
) -> int:
    """The balance (minor units, in - out) as it stood at a moment.

    `recorded` counts what was in the books by then; `effective` counts what belongs to then, also
    what was booked later. Raises Refusal `as-of-future`, `as-of-archived`.
    """
    stood = await _stood(tx, account, at)
    if basis == "recorded" or stood.after is None:
        return stood.balance
    # Along one account, an entry that nobody dated takes effect no earlier than what other
    # transactions recorded before it. So of those recorded after the moment only the ones of the
    # first transaction may belong before it, in order; all others that do are late legs.
    balance, after = stood.balance, stood.after
    params = {"account": stood.account_id, "number": after.number, "at": at}
    # Of legs without those between them the sum may leave 64 bits.
    late = await tx.value(
        """
        SELECT coalesce(sum(amount), 0) FROM late_leg
        WHERE account_id = %(account)s AND number >= %(number)s AND effective_at <= %(at)s
        """,
        params,
    )
    balance += int(late)
    if after.effective_at <= at:
        balance += await _together(tx, {**params, "commit": after.commit_id})
    return balance


async def _together(tx: ReadTx, params: dict[str, Any]) -> int:
    """What the legs of one transaction that are not late come to, of those in effect by then."""
    found = await tx.value(
        """
        SELECT coalesce(sum(l.amount), 0)
        FROM entry e
        CROSS JOIN LATERAL (
            SELECT CASE WHEN p.source_id = %(account)s THEN p.source_number
                    ELSE p.destination_number END AS number,
                CASE WHEN p.source_id = %(account)s THEN -p.amount ELSE p.amount END AS amount
            FROM posting p
            WHERE p.id BETWEEN e.first_posting_id AND e.last_posting_id AND p.entry_id = e.id
                AND %(account)s IN (p.source_id, p.destination_id)
            OFFSET 0
        ) l
        WHERE e.commit_id = %(commit)s AND e.effective_at <= %(at)s AND NOT EXISTS (
            SELECT FROM late_leg t WHERE t.account_id = %(account)s AND t.number = l.number)
        """,
        params,
    )
    return int(found)


@dataclass(frozen=True, slots=True)
class _Step:
    """A posting on the way back to a moment; without one (`posting_id` None) the account alone.

    `archived` tells how far the archive reaches, `now` what the account holds.
    """

    archived: datetime | None
    account_id: int | None
    now: int | None
    posting_id: int | None
    commit_id: int
    number: int
    amount: int
    balance: int
    effective_at: datetime
    recorded_at: datetime
    previous_id: int | None


@dataclass(frozen=True, slots=True)
class _Stood:
    """An account at a moment: its balance, its newest posting by then, the first one after."""

    account_id: int
    balance: int
    newest_id: int | None
    after: _Step | None


async def _stood(tx: ReadTx, account: Account, at: datetime) -> _Stood:
    if at > tx.now:
        raise Refusal("as-of-future", "Balances are known up to now only.")
    steps = await _steps(tx, account, at, None)
    archived, account_id, balance = steps[0].archived, steps[0].account_id, steps[0].now
    if archived is not None and at < archived:
        raise Refusal(
            "as-of-archived",
            f"The books before {rfc3339(archived)} are archived; ask the archive's file.",
        )
    if account_id is None or balance is None:
        return _Stood(0, 0, None, None)
    after: _Step | None = None
    while True:
        for step in steps:
            if step.posting_id is None:
                return _Stood(account_id, balance, None, after)
            if step.recorded_at <= at:
                return _Stood(account_id, step.balance, step.posting_id, after)
            balance, after = step.balance - step.amount, step
        if after is None or after.previous_id is None:
            return _Stood(account_id, balance, None, after)
        steps = await _steps(tx, account, at, after.previous_id)


_BACK: LiteralString = """
    WITH RECURSIVE found AS (
        SELECT id, balance, postings, last_posting_id FROM account
        WHERE kind = %(kind)s AND owner_id = %(owner)s AND asset = %(asset)s
    ), seek AS (
        SELECT id, 0::bigint AS low, postings / %(stride)s + 1 AS high,
            NULL::bigint AS posting_id
        FROM found
        UNION ALL
        SELECT s.id, CASE WHEN k.later THEN s.low ELSE s.middle END,
            CASE WHEN k.later THEN s.middle ELSE s.high END,
            CASE WHEN k.later THEN k.posting_id ELSE s.posting_id END
        FROM (
            SELECT id, low, high, posting_id, (low + high) / 2 AS middle FROM seek
            WHERE high - low > 1 AND %(start)s::bigint IS NULL
        ) s
        LEFT JOIN LATERAL (
            SELECT m.posting_id, c.recorded_at > %(at)s AS later
            FROM account_mark m
            JOIN posting p ON p.id = m.posting_id
            JOIN entry e ON e.id = p.entry_id
            JOIN commit c ON c.id = e.commit_id
            WHERE m.account_id = s.id AND m.number = s.middle * %(stride)s
        ) k ON true
    ), walk AS (
        SELECT f.id AS account_id, 0 AS depth, NULL::bigint AS posting_id,
            NULL::bigint AS commit_id, NULL::bigint AS number, NULL::bigint AS amount,
            NULL::bigint AS balance, NULL::timestamptz AS effective_at,
            NULL::timestamptz AS recorded_at,
            coalesce(%(start)s::bigint,
                (SELECT posting_id FROM seek ORDER BY high - low LIMIT 1),
                f.last_posting_id) AS previous_id
        FROM found f
        UNION ALL
        SELECT w.account_id, w.depth + 1, p.id, e.commit_id,
            CASE WHEN p.source_id = w.account_id THEN p.source_number
                 ELSE p.destination_number END,
            CASE WHEN p.source_id = w.account_id THEN -p.amount ELSE p.amount END,
            CASE WHEN p.source_id = w.account_id THEN p.source_balance
                 ELSE p.destination_balance END,
            e.effective_at, c.recorded_at,
            CASE WHEN p.source_id = w.account_id THEN p.source_previous
                 ELSE p.destination_previous END
        FROM walk w
        JOIN posting p ON p.id = w.previous_id
        JOIN entry e ON e.id = p.entry_id
        JOIN commit c ON c.id = e.commit_id
        WHERE (w.recorded_at IS NULL OR w.recorded_at > %(at)s) AND w.depth < %(limit)s
            AND w.account_id IN (p.source_id, p.destination_id)
    )
    SELECT r.through AS archived, f.id AS account_id, f.balance AS now, w.posting_id,
        w.commit_id, w.number, w.amount, w.balance, w.effective_at, w.recorded_at,
        w.previous_id
    FROM (SELECT max(recorded_through) AS through FROM archive) r
    LEFT JOIN found f ON true
    LEFT JOIN walk w ON w.depth > 0
    ORDER BY w.depth DESC LIMIT 2
"""


async def _steps(tx: ReadTx, account: Account, at: datetime, start: int | None) -> list[_Step]:
    """Walk back to the first posting recorded by the moment, at most `PAGE_LIMIT` steps.

    The last two of them, the older one last; at least one row. Without a `start` the walk begins at
    the oldest marked posting that was recorded after the moment, or at the newest posting. Marks
    are searched by halves: a missing one counts as older, which is true of archived ones and makes
    the walk longer for others.
    """
    found = await tx.fetch(
        _BACK,
        {
            "kind": account.kind,
            "owner": account.owner_id,
            "asset": account.asset,
            "stride": STRIDE,
            "start": start,
            "at": at,
            "limit": PAGE_LIMIT,
        },
        _Step,
    )
    return found[::-1]
