"""Lines about money that came in, or was given back to a payer: put to `paymaster.payin`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from paymaster.db.tx import CellTx
from paymaster.payin import booking
from paymaster.payin.booking import BillLine, Shown
from paymaster.reconcile.breaks import Kind
from paymaster.reconcile.wire import Answer, Question

_SHOW: Final = frozenset({"incoming", "payout"})
"""What came in, and what left. Money that is set apart, or comes back, is neither paid to us nor
given back to a payer, whatever number it carries."""

_KINDS: Final = {
    booking.UNKNOWN: Kind.REFERENCE_UNKNOWN,
    booking.TWICE: Kind.BOOKED_TWICE,
    booking.AMOUNT: Kind.AMOUNT_DIFFERS,
    booking.ACCOUNT: Kind.ACCOUNT_DIFFERS,
    booking.CONTRADICTS: Kind.ATTEMPT_CONTRADICTS,
}


_NEITHER: Final = Shown(
    fault=booking.UNKNOWN, detail="A line of this kind is no payment to us and no refund."
)


async def book(
    tx: CellTx,
    rail_account_id: int,
    treasury_cell: int,
    statement: str,
    questions: Sequence[Question],
) -> dict[str, Answer]:
    """The answers to those of the questions that are about charges or refunds, by line."""
    known = await booking.knows(tx, [question.key for question in questions])
    ours = [one for one in questions if one.key in known or one.kind == "incoming"]
    if not ours:
        return {}
    lines = [
        BillLine(one.line, one.key, one.amount, one.kind == "incoming", one.booked_on, one.accepted)
        for one in ours
        if one.kind in _SHOW
    ]
    shown = await booking.book(tx, rail_account_id, treasury_cell, statement, lines)
    return {one.line: _answer(one, shown.get(one.line) or _NEITHER) for one in ours}


def _answer(question: Question, shown: Shown) -> Answer:
    if shown.fault is None:
        subject = shown.subject
        return Answer(question.line, True, booked=shown.booked, matched=subject, subjects=[subject])
    kind = _KINDS[shown.fault]
    return Answer(question.line, False, kind.value, shown.detail, expected=shown.expected)
