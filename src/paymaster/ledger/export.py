"""An account's statement as a file for people: CSV for spreadsheets, PDF for paper.

Oldest first, with the balance after each movement; amounts as decimal strings, never numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from fpdf import FPDF
from fpdf.enums import XPos, YPos

from paymaster.db.tx import ReadTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Refusal, Unprocessable
from paymaster.kernel.money import Money
from paymaster.ledger import statement
from paymaster.ledger.chart import KINDS, Account
from paymaster.ledger.statement import StatementRow

MOST_ROWS = 10_000
COLUMNS = ("recorded_at", "effective_at", "kind", "subject", "amount", "balance", "currency")
_WIDTHS = (38, 38, 24, 40, 25, 25)


@dataclass(frozen=True, slots=True)
class Export:
    """A statement to write: whose (a text id), which account, what happened, oldest first."""

    owner: str
    account: Account
    rows: Sequence[StatementRow]
    made_at: datetime


async def gather(
    tx: ReadTx,
    owner: str,
    account: Account,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Export:
    """What was recorded between the two moments; the whole history when none is given.

    At most 10,000 movements are held in memory. Raises Unprocessable `export-too-large` above that,
    Refusal `export-archived` when a part of them is in an archive, or as `statement.page_until`.
    """
    rows: list[StatementRow] = []
    if until is None:
        page = await statement.page(tx, account, None, statement.PAGE_LIMIT, since=since)
    else:
        page = await statement.page_until(tx, account, until, statement.PAGE_LIMIT, since=since)
    while True:
        rows += page.rows
        if len(rows) > MOST_ROWS:
            raise Unprocessable(
                "export-too-large",
                f"More than {MOST_ROWS} movements; export them by parts of their time.",
            )
        if page.archived:
            raise Refusal(
                "export-archived",
                f"What is older was archived ({page.archived.month:%Y-%m}); ask for a later time.",
            )
        if page.next_id is None:
            return Export(owner, account, rows[::-1], tx.now)
        page = await statement.page(tx, account, page.next_id, statement.PAGE_LIMIT, since=since)


def _cells(export: Export, row: StatementRow) -> tuple[str, ...]:
    sign, asset = KINDS[export.account.kind].shown, export.account.asset
    return (
        rfc3339(row.recorded_at),
        rfc3339(row.effective_at),
        row.kind,
        row.subject,
        Money(sign * row.amount, asset).text(),
        Money(sign * row.balance, asset).text(),
    )


def as_csv(export: Export) -> bytes:
    """RFC 4180, UTF-8, with a header line."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows((*_cells(export, row), export.account.asset) for row in export.rows)
    return text.getvalue().encode()


def as_pdf(export: Export) -> bytes:
    """A4, one line a movement."""
    page = FPDF(orientation="L", format="A4")
    page.set_creation_date(export.made_at)
    page.set_title(f"Statement of {export.owner}")
    page.set_auto_page_break(auto=True, margin=12)
    page.add_page()
    page.set_font("Helvetica", style="B", size=13)
    page.cell(
        text=f"Statement of {export.owner}: {export.account.kind}, {export.account.asset}",
        new_x=XPos.LMARGIN,
        new_y=YPos.NEXT,
    )
    page.set_font("Helvetica", size=8)
    page.cell(text=f"Made {rfc3339(export.made_at)}", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    page.ln(3)
    header = COLUMNS[: len(_WIDTHS)]
    for cells in (header, *(_cells(export, row) for row in export.rows)):
        for width, text, name in zip(_WIDTHS, cells, header, strict=True):
            align = "R" if name in ("amount", "balance") else "L"
            page.cell(width, 5, text, align=align)
        page.ln(5)
    return bytes(page.output())
