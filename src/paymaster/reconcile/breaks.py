"""Breaks: what does not match is a row with a reason, an age and an owner, until it is explained.

A break is opened once for each (kind, subject), however often it is found. What explains itself
later (the missing statement arrives, the payment is booked after all) clears it; everything else
waits for a person (resolve.py). One that a person resolved stays resolved unless its figures
change.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from paymaster.db import audit, outbox
from paymaster.db.tx import CellTx, ReadTx
from paymaster.kernel.errors import Conflict, NotFound
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money

ITSELF = "itself"
"""`resolved_by` of a break that explained itself."""
PAGE_LIMIT = 200


class Kind(StrEnum):
    """What is wrong."""

    STATEMENT_CHANGED = "statement-changed"
    """A statement came again with other content."""
    STATEMENT_GAP = "statement-gap"
    """The opening balance is not the closing balance of the statement before."""
    STATEMENT_EARLY = "statement-early"
    """A statement from before the account's books begin."""
    UNKNOWN_LINE = "unknown-line"
    """Nothing of ours explains the line."""
    REFERENCE_UNKNOWN = "reference-unknown"
    """The line carries a reference of our form that no payment has."""
    BOOKED_TWICE = "booked-twice"
    """A second line for a payment that was booked already."""
    AMOUNT_DIFFERS = "amount-differs"
    """The line's amount or currency is not the payment's."""
    ACCOUNT_DIFFERS = "account-differs"
    """The payment was ordered through another account."""
    ATTEMPT_CONTRADICTS = "attempt-contradicts"
    """The line proves what the payment's state rules out."""
    FUNDING_AMBIGUOUS = "funding-ambiguous"
    """A payment in that names several campaigns."""
    FUNDING_CURRENCY = "funding-currency"
    """A payment in whose currency is not the campaign's."""
    TRANSFER_DIFFERS = "transfer-differs"
    """A line that names a treasury transfer but cannot be a side of it."""
    POSTING_REFUSED = "posting-refused"
    """The books refused the posting that the line asks for."""
    MISSING_PAYOUT = "missing-at-provider"
    """Paid according to the provider's answer, on no statement within the time allowed."""
    MISSING_RETURN = "return-missing-at-provider"
    """Returned according to the provider's answer, on no statement within the time allowed."""
    MISSING_PAYIN = "payin-missing-at-provider"
    """Paid to us according to the provider's answer, on no statement within the time allowed."""
    MISSING_REFUND = "refund-missing-at-provider"
    """Given back according to the provider's answer, on no statement within the time allowed."""
    BALANCE_DIFFERS = "balance-differs"
    """The statement's closing balance is not what the books and the outstanding lines say."""


MISSING = frozenset({
    Kind.MISSING_PAYOUT, Kind.MISSING_RETURN, Kind.MISSING_PAYIN, Kind.MISSING_REFUND,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class NewBreak:
    """A break to open; `expected` and `found` are minor units, where the break has figures."""

    rail_account_id: int
    day: date
    kind: Kind
    subject: str
    asset: str
    detail: str
    expected: int | None = None
    found: int | None = None


@dataclass(frozen=True, slots=True)
class Break:
    """A break as stored."""

    id: int
    rail_account_id: int
    day: date
    kind: str
    subject: str
    expected: int | None
    found: int | None
    asset: str
    detail: str
    state: str
    owner: str | None
    resolution: str | None
    resolved_by: str | None
    opened_at: datetime
    resolved_at: datetime | None
    version: int

    def age_days(self, today: date) -> int:
        """How many days it has been open, counted from the statement's day."""
        return max((today - self.day).days, 0)


async def open_all(tx: CellTx, found: Sequence[NewBreak]) -> int:
    """Open breaks; how many were new, open again or changed. Announces each as `break.opened`."""
    unique = {(each.kind, each.subject): each for each in found}
    rows = [unique[key] for key in sorted(unique)]
    if not rows:
        return 0
    written = await tx.tuples(
        """
        INSERT INTO break (id, rail_account_id, day, kind, subject, expected, found, asset, detail,
            state, opened_at, version)
        SELECT i, r, d, k, s, e, f, a, t, 'open', %s, 1
        FROM unnest(%s::bigint[], %s::bigint[], %s::date[], %s::text[], %s::text[], %s::bigint[],
            %s::bigint[], %s::text[], %s::text[]) AS u (i, r, d, k, s, e, f, a, t)
        ON CONFLICT (kind, subject) DO UPDATE SET expected = excluded.expected,
            found = excluded.found, detail = excluded.detail, state = 'open', resolution = NULL,
            resolved_by = NULL, resolved_at = NULL, version = break.version + 1
        WHERE break.resolved_by = 'itself'
            OR (break.expected, break.found) IS DISTINCT FROM (excluded.expected, excluded.found)
        RETURNING id, kind, subject
        """,
        (
            tx.now,
            tx.ids(len(rows)),
            [row.rail_account_id for row in rows],
            [row.day for row in rows],
            [row.kind.value for row in rows],
            [row.subject for row in rows],
            [row.expected for row in rows],
            [row.found for row in rows],
            [row.asset for row in rows],
            [row.detail for row in rows],
        ),
    )
    await _announce(tx, "break.opened", [(row[0], row[1], row[2]) for row in written])
    return len(written)


async def clear(
    tx: CellTx,
    subjects: Collection[str],
    reason: str,
    *,
    kinds: Collection[Kind] | None = None,
    but: Kind | None = None,
) -> int:
    """Resolve the open breaks of these subjects by themselves, of some kinds or of all `but` one.

    Announces each as `break.resolved`; returns how many there were.
    """
    if not subjects:
        return 0
    rows = await tx.tuples(
        """
        UPDATE break SET state = 'resolved', resolution = %s, resolved_by = %s, resolved_at = %s,
            version = version + 1
        WHERE subject = ANY(%s) AND state = 'open' AND (%s::text[] IS NULL OR kind = ANY(%s))
            AND kind IS DISTINCT FROM %s
        RETURNING id, kind, subject
        """,
        (
            reason,
            ITSELF,
            tx.now,
            sorted(subjects),
            None if kinds is None else [kind.value for kind in kinds],
            None if kinds is None else [kind.value for kind in kinds],
            None if but is None else but.value,
        ),
    )
    await _announce(tx, "break.resolved", [(row[0], row[1], row[2]) for row in rows])
    return len(rows)


async def _announce(tx: CellTx, topic: str, rows: Sequence[tuple[int, str, str]]) -> None:
    messages = [
        outbox.Message(
            topic,
            text_id("br", tx.cell, break_id),
            {"break": text_id("br", tx.cell, break_id), "kind": kind, "subject": subject},
        )
        for break_id, kind, subject in sorted(rows)
    ]
    await outbox.put(tx, messages)


async def find(tx: ReadTx, break_id: int) -> Break:
    """One break. Raises NotFound `not-found`."""
    row = await tx.maybe(
        """
        SELECT id, rail_account_id, day, kind, subject, expected, found, asset, detail, state,
            owner, resolution, resolved_by, opened_at, resolved_at, version
        FROM break WHERE id = %s
        """,
        (break_id,),
        Break,
    )
    if row is None:
        raise NotFound("not-found", "There is no break of this id.")
    return row


async def lock(tx: CellTx, break_id: int) -> Break:
    """One break, locked. Raises NotFound `not-found`, Conflict `break-resolved`."""
    await tx.tuples("SELECT id FROM break WHERE id = %s FOR UPDATE", (break_id,))
    row = await find(tx, break_id)
    if row.state != "open":
        raise Conflict("break-resolved", f"It was resolved already: {row.resolution}")
    return row


async def listing(
    tx: ReadTx,
    *,
    state: str | None = "open",
    rail_account_id: int | None = None,
    kind: str | None = None,
    owner: str | None = None,
    until: date | None = None,
    after: tuple[date, int] | None = None,
    limit: int = 50,
) -> list[Break]:
    """Breaks, the oldest day first. `after` is (day, id) of the last one of the page before."""
    return await tx.fetch(
        """
        SELECT id, rail_account_id, day, kind, subject, expected, found, asset, detail, state,
            owner, resolution, resolved_by, opened_at, resolved_at, version
        FROM break
        WHERE (%(state)s::text IS NULL OR state = %(state)s)
            AND (%(account)s::bigint IS NULL OR rail_account_id = %(account)s)
            AND (%(kind)s::text IS NULL OR kind = %(kind)s)
            AND (%(owner)s::text IS NULL OR owner = %(owner)s)
            AND (%(until)s::date IS NULL OR day <= %(until)s)
            AND (%(day)s::date IS NULL OR (day, id) > (%(day)s, %(id)s))
        ORDER BY day, id LIMIT %(limit)s
        """,
        {
            "state": state,
            "account": rail_account_id,
            "kind": kind,
            "owner": owner,
            "until": until,
            "day": after[0] if after else None,
            "id": after[1] if after else None,
            "limit": min(limit, PAGE_LIMIT),
        },
        Break,
    )


async def of_subject(tx: ReadTx, subject: str) -> list[Break]:
    """All breaks that one thing ever had, oldest first."""
    return await tx.fetch(
        """
        SELECT id, rail_account_id, day, kind, subject, expected, found, asset, detail, state,
            owner, resolution, resolved_by, opened_at, resolved_at, version
        FROM break WHERE subject = %s ORDER BY id
        """,
        (subject,),
        Break,
    )


@dataclass(frozen=True, slots=True)
class Ageing:
    """Open breaks of one kind: how many, since which day, and the money in doubt."""

    kind: str
    asset: str
    open: int
    oldest: date
    in_doubt: Money

    def oldest_days(self, today: date) -> int:
        """Age of the oldest."""
        return max((today - self.oldest).days, 0)


async def ageing(tx: ReadTx) -> list[Ageing]:
    """Open breaks by kind and currency."""
    rows = await tx.tuples(
        """
        SELECT kind, asset, count(*)::int, min(day),
            coalesce(sum(abs(coalesce(found, 0) - coalesce(expected, 0))), 0)::bigint
        FROM break WHERE state = 'open' GROUP BY kind, asset ORDER BY kind, asset
        """
    )
    return [Ageing(kind, asset, n, day, Money(total, asset)) for kind, asset, n, day, total in rows]


async def assign(tx: CellTx, break_id: int, owner: str) -> Break:
    """Give an open break an owner. Raises NotFound `not-found`, Conflict `break-resolved`."""
    before = await lock(tx, break_id)
    await tx.execute(
        "UPDATE break SET owner = %s, version = version + 1 WHERE id = %s", (owner, break_id)
    )
    name = text_id("br", tx.cell, break_id)
    await audit.record(tx, [audit.Act("break.assign", name, None, {"owner": owner})])
    return await find(tx, before.id)


async def close(tx: CellTx, row: Break, reason: str) -> Break:
    """Mark a locked break resolved by the transaction's actor, with audit and announcement."""
    await tx.execute(
        """
        UPDATE break SET state = 'resolved', resolution = %s, resolved_by = %s, resolved_at = %s,
            version = version + 1
        WHERE id = %s
        """,
        (reason, tx.actor.name, tx.now, row.id),
    )
    name = text_id("br", tx.cell, row.id)
    detail = {"kind": row.kind, "subject": row.subject}
    await audit.record(tx, [audit.Act("break.resolve", name, reason, detail)])
    await _announce(tx, "break.resolved", [(row.id, row.kind, row.subject)])
    return await find(tx, row.id)
