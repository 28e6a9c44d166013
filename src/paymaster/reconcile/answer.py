"""Back in the treasury cell: what a payout's cell answered about lines that it was asked about."""

from __future__ import annotations

from typing import Final

from paymaster.db.outbox import Outgoing
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import parse_text_id
from paymaster.ledger import recipes
from paymaster.reconcile import breaks, store
from paymaster.reconcile.breaks import MISSING, Kind
from paymaster.reconcile.conclude import Doubted, Proven, conclude
from paymaster.reconcile.decide import Doubt
from paymaster.reconcile.store import LineRow
from paymaster.reconcile.wire import Answer

_KINDS: Final = {"tp_": "payin_booked", "tf_": "payin_refund_booked"}


async def booked(tx: CellTx, source_cell: int, message: Outgoing) -> dict[str, int]:
    """Carry out `line.booked`: match the lines, or open breaks for those that were refused.

    Only lines that are still asked are touched: an answer to an older question changes nothing.
    """
    answers = {
        parse_text_id("sl", row["line"]).id: Answer.read(row) for row in message.payload["lines"]
    }
    lines = [line for line in await store.lock_lines(tx, list(answers)) if line.state == "asked"]
    proven: list[Proven] = []
    doubted: list[Doubted] = []
    for line in lines:
        answer = answers[line.id]
        if answer.ok:
            proven.append(_proven(source_cell, line, answer))
        else:
            doubted.append(_doubted(line, answer))
    matched = await conclude(tx, proven, doubted)
    subjects = [each for line in lines if line.id in matched for each in answers[line.id].subjects]
    await breaks.clear(tx, subjects, "A statement shows it after all.", kinds=MISSING)
    return {"matched": len(matched), "in_doubt": len(lines) - len(matched)}


def _proven(cell: int, line: LineRow, answer: Answer) -> Proven:
    """Cash moves by what the payout's cell booked; an accepted difference is the rail's fee."""
    if answer.booked is None or answer.matched is None:
        raise Broken("answer-incomplete", f"Cell {cell} booked a line without saying what.")
    account, came_in = line.rail_account_id, line.amount > 0
    recipe = recipes.unbooked_cash if came_in else recipes.booked_cash
    postings = recipe(account, cell, answer.booked)
    # In minor units, positive when the account lost more (or got less) than was booked.
    lost = (answer.booked if came_in else -answer.booked) - line.money
    if lost.minor > 0:
        postings += recipes.rail_fee(account, lost)
    elif lost.minor < 0:
        postings += recipes.rail_fee_back(account, -lost)
    evidence = {"cell": cell, "key": line.reference}
    kind = _KINDS.get(answer.matched[:3], "unbooked" if came_in else "booked")
    return Proven(line, kind, postings, answer.matched, evidence)


def _doubted(line: LineRow, answer: Answer) -> Doubted:
    expected = None if answer.expected is None else answer.expected.minor
    if expected is not None and line.amount < 0:
        expected = -expected
    detail = answer.detail or "The payment's cell refuses the line."
    return Doubted(line, Doubt(Kind(answer.slug or ""), detail, expected))
