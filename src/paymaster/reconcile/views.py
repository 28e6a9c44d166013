"""What people look at: statements, their lines, and one line's way back to the withdrawal.

Runs are listed by `run_store.listing`, breaks by `breaks.listing`, closed days by
`close_store.listing`. Texts that name people are opened for a single line only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from paymaster.db.cells import Databases
from paymaster.db.tx import CellRead, ReadTx
from paymaster.kernel.errors import NotFound
from paymaster.kernel.ids import Ref, parse_text_id, text_id
from paymaster.reconcile import breaks
from paymaster.reconcile.breaks import Break
from paymaster.reconcile.close_store import DayClose
from paymaster.reconcile.close_store import find as closed_day
from paymaster.reconcile.close_store import listing as closed_days
from paymaster.reconcile.run_store import Run
from paymaster.reconcile.run_store import listing as runs
from paymaster.reconcile.sealed import Note, read_note
from paymaster.secrets.sealing import Sealer

__all__ = [
    "Break", "DayClose", "EntryView", "LineStory", "LineView", "Payment", "Run", "StatementView",
    "Trace", "closed_day", "closed_days", "line_story", "lines", "payments", "runs", "statements",
    "trace",
]  # fmt: skip

PAGE_LIMIT = 500


@dataclass(frozen=True, slots=True)
class StatementView:
    """A statement, amounts in minor units; `undecided` lines are open or asked about."""

    id: int
    rail_account_id: int
    statement_id: str
    day: date
    opening: int
    closing: int
    asset: str
    lines: int
    restates_id: int | None
    file_name: str
    received_at: datetime
    matched: int
    in_doubt: int
    undecided: int


async def statements(
    tx: ReadTx,
    *,
    rail_account_id: int | None = None,
    day: date | None = None,
    before_id: int | None = None,
    limit: int = 50,
) -> list[StatementView]:
    """Statements, newest first, those older than `before_id`, with the counts of their lines."""
    return await tx.fetch(
        """
        WITH page AS (
            SELECT * FROM statement
            WHERE (%(account)s::bigint IS NULL OR rail_account_id = %(account)s)
                AND (%(day)s::date IS NULL OR day = %(day)s)
                AND (%(before)s::bigint IS NULL OR id < %(before)s)
            ORDER BY id DESC LIMIT %(limit)s
        )
        SELECT s.id, s.rail_account_id, s.statement_id, s.day, s.opening, s.closing, s.asset,
            s.lines, s.restates_id, f.name AS file_name, s.received_at, n.matched, n.in_doubt,
            n.undecided
        FROM page s JOIN rail_file f ON f.id = s.file_id, LATERAL (
            SELECT (count(*) FILTER (WHERE l.state = 'matched'))::int AS matched,
                (count(*) FILTER (WHERE l.state = 'break'))::int AS in_doubt,
                (count(*) FILTER (WHERE l.state IN ('open', 'asked')))::int AS undecided
            FROM statement_line l WHERE l.statement_id = s.id
        ) AS n
        ORDER BY s.id DESC
        """,
        {
            "account": rail_account_id,
            "day": day,
            "before": before_id,
            "limit": min(limit, PAGE_LIMIT),
        },
        StatementView,
    )


@dataclass(frozen=True, slots=True)
class LineView:
    """A line, amounts in minor units; `matched` is the text id of what it matches."""

    id: int
    statement_id: int
    rail_account_id: int
    line_id: str
    kind: str
    amount: int
    fee: int
    asset: str
    booked_on: date
    reference: str | None
    given_reference: str | None
    code: str | None
    state: str
    matched: str | None
    posted_id: int | None


async def lines(
    tx: ReadTx,
    *,
    statement_id: int | None = None,
    rail_account_id: int | None = None,
    state: str | None = None,
    after_id: int | None = None,
    limit: int = 100,
) -> list[LineView]:
    """Lines in order of id, those behind `after_id`."""
    return await tx.fetch(
        """
        SELECT id, statement_id, rail_account_id, line_id, kind, amount, fee, asset, booked_on,
            reference, given_reference, code, state, matched, posted_id
        FROM statement_line
        WHERE (%(statement)s::bigint IS NULL OR statement_id = %(statement)s)
            AND (%(account)s::bigint IS NULL OR rail_account_id = %(account)s)
            AND (%(state)s::text IS NULL OR state = %(state)s)
            AND (%(after)s::bigint IS NULL OR id > %(after)s)
        ORDER BY id LIMIT %(limit)s
        """,
        {
            "statement": statement_id,
            "account": rail_account_id,
            "state": state,
            "after": after_id,
            "limit": min(limit, PAGE_LIMIT),
        },
        LineView,
    )


@dataclass(frozen=True, slots=True)
class EntryView:
    """An entry that a line posted."""

    id: int
    kind: str
    effective_day: date
    trace_id: str


@dataclass(frozen=True, slots=True)
class LineStory:
    """A line with everything around it in the treasury cell."""

    line: LineView
    statement: StatementView
    note: Note
    entries: tuple[EntryView, ...]
    breaks: tuple[Break, ...]


async def line_story(tx: CellRead, sealer: Sealer, line_id: int) -> LineStory:
    """One line. Raises NotFound `not-found`."""
    rows = await lines(tx, after_id=line_id - 1, limit=1)
    if not rows or rows[0].id != line_id:
        raise NotFound("not-found", "There is no statement line of this id.")
    line = rows[0]
    facts = await tx.tuples(
        "SELECT sealed, entry_id, entry_fee FROM statement_line WHERE id = %s", (line_id,)
    )
    sealed, entry_id, entry_fee = facts[0]
    (statement,) = await statements(
        tx, rail_account_id=line.rail_account_id, before_id=line.statement_id + 1, limit=1
    )
    entries = await tx.fetch(
        "SELECT id, kind, effective_day, trace_id FROM entry WHERE id = ANY(%s) ORDER BY id",
        ([entry_id, entry_fee, line.posted_id],),
        EntryView,
    )
    name = text_id("sl", tx.cell, line.id)
    note = read_note(sealer, line.rail_account_id, line.line_id, sealed)
    found = await breaks.of_subject(tx, name)
    return LineStory(line, statement, note, tuple(entries), tuple(found))


@dataclass(frozen=True, slots=True)
class Payment:
    """An attempt and what it pays, as text ids; amounts in minor units."""

    attempt: str
    withdrawal: str | None
    transfer: str | None
    user: str | None
    batch_key: str
    key: str
    provider_id: str | None
    state: str
    amount: int
    asset: str
    booked_line: str | None
    returned_line: str | None
    trace_id: str


async def payments(
    tx: CellRead, *, attempt_id: int | None = None, batch_id: int | None = None
) -> list[Payment]:
    """In the payout's cell: one attempt, or all of an order."""
    rows = await tx.tuples(
        """
        SELECT a.id, a.withdrawal_id, a.transfer_id, w.user_id, b.batch_key, a.key, a.provider_id,
            a.state, a.amount, a.asset, a.booked_line, a.returned_line, a.trace_id
        FROM attempt a JOIN batch b ON b.id = a.batch_id
            LEFT JOIN withdrawal w ON w.id = a.withdrawal_id
        WHERE a.id = %s OR a.batch_id = %s ORDER BY a.id LIMIT %s
        """,
        (attempt_id, batch_id, PAGE_LIMIT),
    )

    def name(prefix: str, number: int | None) -> str | None:
        return None if number is None else text_id(prefix, tx.cell, number)

    return [
        Payment(
            text_id("at", tx.cell, row[0]),
            name("wd", row[1]),
            name("tr", row[2]),
            name("us", row[3]),
            *row[4:],
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Trace:
    """From a bank line to the withdrawals that it proves."""

    story: LineStory
    payments: tuple[Payment, ...]


async def trace(dbs: Databases, sealer: Sealer, line: Ref) -> Trace:
    """Follow a line into the cell of its payment. Raises NotFound `not-found`."""
    story = await dbs.cell(line.cell).read(lambda tx: line_story(tx, sealer, line.id))
    matched = story.line.matched or ""
    found: list[Payment] = []
    if matched.startswith("at_"):
        ref = parse_text_id("at", matched)
        found = await dbs.cell(ref.cell).read(lambda tx: payments(tx, attempt_id=ref.id))
    elif matched.startswith("ba_"):
        ref = parse_text_id("ba", matched)
        found = await dbs.cell(ref.cell).read(lambda tx: payments(tx, batch_id=ref.id))
    return Trace(story, tuple(found))
