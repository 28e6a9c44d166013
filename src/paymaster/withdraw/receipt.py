"""The receipt of a payment: what was asked for, what was paid, when, and under which reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from fpdf import FPDF
from fpdf.enums import XPos, YPos

from paymaster.kernel.ids import text_id
from paymaster.withdraw.explain import Explained
from paymaster.withdraw.machine import State

_PAID: Final = frozenset({State.PAID, State.RETURNED})
_LABEL_WIDTH, _LINE = 55, 7


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt. `made_at` is the last move of the withdrawal, so the same one is always the same.

    `mask` is the destination as people are shown it.
    """

    withdrawal: str
    user: str
    destination: str
    kind: str
    mask: str
    state: str
    made_at: datetime
    figures: dict[str, Any]

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "withdrawal": self.withdrawal,
            "user": self.user,
            "destination": self.destination,
            "destination_kind": self.kind,
            "destination_mask": self.mask,
            "state": self.state,
            **self.figures,
        }

    def _lines(self) -> Iterator[tuple[str, str]]:
        figures = self.figures
        yield "Withdrawal", self.withdrawal
        yield "Paid to", f"{_latin(self.mask)} ({self.kind})"
        yield "Payee gets", _money(figures["payout"])
        if figures["payout"]["currency"] != figures["amount"]["currency"]:
            yield "For", f"{_money(figures['amount'])} at {figures['rate']}"
        yield "Fee", f"{_money(figures['fee'])} (borne by the {figures['fee_payer']})"
        yield "Taken from the balance", _money(figures["total"])
        yield "Reference", figures["reference"] or ""
        if figures["provider_id"]:
            yield "Provider's id", _latin(figures["provider_id"])
        for label, name in (
            ("Asked for", "requested_at"),
            ("Sent", "sent_at"),
            ("Paid", "paid_at"),
            ("On the statement of", "booked_on"),
            ("Came back", "returned_at"),
        ):
            if figures[name]:
                yield label, figures[name]

    def pdf(self, test: bool = False) -> bytes:
        """A4, English. The fonts of PDF itself have no Chinese; the labels need none."""
        page = FPDF(format="A4")
        page.set_creation_date(self.made_at)
        page.set_title(f"Receipt {self.withdrawal}")
        page.add_page()
        page.set_font("Helvetica", style="B", size=16)
        title = "Receipt" if self.state == State.PAID else "Receipt of a payment that came back"
        page.cell(text=title, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        if test:
            page.set_font("Helvetica", style="I", size=10)
            page.cell(text="Test: no money was paid.", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        page.ln(4)
        page.set_font("Helvetica", size=11)
        for label, text in self._lines():
            page.cell(_LABEL_WIDTH, _LINE, label)
            page.cell(text=text, h=_LINE, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        return bytes(page.output())


def _money(amount: dict[str, str]) -> str:
    return f"{amount['amount']} {amount['currency']}"


def _latin(text: str) -> str:
    """What the fonts can write; a mask hides with other characters than these."""
    return "".join(char if char.isascii() and char.isprintable() else "*" for char in text)


def of(found: Explained) -> Receipt | None:
    """The receipt; None before it was paid."""
    row, cell = found.summary.row, found.summary.ref.cell
    if row.state not in _PAID or not found.moves:
        return None
    return Receipt(
        found.summary.id,
        text_id("us", cell, row.user_id),
        text_id("de", cell, row.destination_id),
        row.destination_kind,
        row.mask,
        row.state,
        found.moves[-1].moved_at,
        found.receipt(),
    )
