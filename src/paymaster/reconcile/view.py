"""What people are shown of statements: pages of them, their lines, and how matching stands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from paymaster.db.tx import ReadTx

PAGE_LIMIT = 200


@dataclass(frozen=True, slots=True)
class StatementView:
    """A statement; amounts in minor units. `open_lines` are not decided yet."""

    id: int
    statement_id: str
    rail_account_id: int
    day: date
    opening: int
    closing: int
    asset: str
    lines: int
    open_lines: int
    restates_id: int | None
    received_at: datetime


@dataclass(frozen=True, slots=True)
class LineView:
    """A line without what is sealed of it."""

    id: int
    line_id: str
    kind: str
    amount: int
    fee: int
    asset: str
    booked_on: date
    reference: str | None
    code: str | None
    state: str
    matched: str | None


async def statements(
    tx: ReadTx, rail_account_id: int | None, day: date | None, before_id: int | None, limit: int
) -> list[StatementView]:
    """A page of statements, newest first."""
    return await tx.fetch(
        """
        SELECT s.id, s.statement_id, s.rail_account_id, s.day, s.opening, s.closing, s.asset,
            s.lines, s.restates_id, s.received_at,
            (SELECT count(*)::int FROM statement_line l
                WHERE l.statement_id = s.id AND l.state IN ('open', 'asked')) AS open_lines
        FROM statement s
        WHERE (%(account)s::bigint IS NULL OR s.rail_account_id = %(account)s)
            AND (%(day)s::date IS NULL OR s.day = %(day)s)
            AND (%(before)s::bigint IS NULL OR s.id < %(before)s)
        ORDER BY s.id DESC LIMIT %(limit)s
        """,
        {
            "account": rail_account_id,
            "day": day,
            "before": before_id,
            "limit": min(limit, PAGE_LIMIT),
        },
        StatementView,
    )


async def lines(
    tx: ReadTx, statement_id: int, state: str | None, after_id: int, limit: int
) -> list[LineView]:
    """A page of a statement's lines, in the order in which they were read."""
    return await tx.fetch(
        """
        SELECT id, line_id, kind, amount, fee, asset, booked_on,
            coalesce(given_reference, reference) AS reference, code, state, matched
        FROM statement_line
        WHERE statement_id = %s AND id > %s AND (%s::text IS NULL OR state = %s)
        ORDER BY id LIMIT %s
        """,
        (statement_id, after_id, state, state, min(limit, PAGE_LIMIT)),
        LineView,
    )


async def exists(tx: ReadTx, statement_id: int) -> bool:
    """Whether there is such a statement."""
    return await tx.value("SELECT 1 FROM statement WHERE id = %s", (statement_id,)) is not None


async def open_lines(tx: ReadTx) -> int:
    """How many lines of all accounts are not decided yet."""
    return await tx.value(
        "SELECT count(*)::int FROM statement_line WHERE state <> 'matched'"
        " AND state IN ('open', 'asked')"
    )
