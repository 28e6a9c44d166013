"""One line's way: from the bank through the books to the withdrawals that it proves.

Texts that name people are opened here, for a single line, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from paymaster.db.cells import Databases
from paymaster.db.tx import CellRead
from paymaster.kernel.errors import NotFound
from paymaster.kernel.ids import Ref, parse_text_id, text_id
from paymaster.reconcile import breaks, view
from paymaster.reconcile.breaks import Break
from paymaster.reconcile.sealed import Note, read_note
from paymaster.reconcile.view import LineView, StatementView
from paymaster.secrets.sealing import Sealer

PAGE_LIMIT = 500
"""So many payments of one order are shown."""


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


@dataclass(frozen=True, slots=True)
class _Facts:
    statement_id: int
    rail_account_id: int
    line_id: str
    sealed: bytes | None
    entry_id: int
    entry_fee: int
    posted_id: int | None


async def line_story(tx: CellRead, sealer: Sealer, line_id: int) -> LineStory:
    """One line, with the texts that name people opened. Raises NotFound `not-found`."""
    facts = await tx.maybe(
        """
        SELECT statement_id, rail_account_id, line_id, sealed, entry_id, entry_fee, posted_id
        FROM statement_line WHERE id = %s
        """,
        (line_id,),
        _Facts,
    )
    if facts is None:
        raise NotFound("not-found", "There is no statement line of this id.")
    (line,) = await view.lines(tx, facts.statement_id, None, line_id - 1, 1)
    (statement,) = await view.statements(tx, facts.rail_account_id, None, facts.statement_id + 1, 1)
    entries = await tx.fetch(
        "SELECT id, kind, effective_day, trace_id FROM entry WHERE id = ANY(%s) ORDER BY id",
        ([facts.entry_id, facts.entry_fee, facts.posted_id],),
        EntryView,
    )
    return LineStory(
        line,
        statement,
        read_note(sealer, facts.rail_account_id, facts.line_id, facts.sealed),
        tuple(entries),
        tuple(await breaks.of_subject(tx, text_id("sl", tx.cell, line_id))),
    )


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
