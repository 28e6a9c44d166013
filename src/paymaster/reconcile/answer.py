"""Back in the treasury cell: what a payout's cell answered about lines that it was asked about."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from paymaster.db.outbox import Outgoing
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import parse_text_id, text_id
from paymaster.ledger import recipes
from paymaster.reconcile import breaks, store
from paymaster.reconcile.breaks import MISSING, Kind
from paymaster.reconcile.conclude import Doubted, Proven, conclude
from paymaster.reconcile.decide import Doubt
from paymaster.reconcile.store import Concluded, LineRow
from paymaster.reconcile.wire import Answer

LOOK_AGAIN = timedelta(hours=6)
"""So much later a line is put again whose payment had no end yet."""


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
    later = [line.id for line in lines if answers[line.id].later]
    await store.look_later(tx, later, tx.now + LOOK_AGAIN)
    await _undo(tx, [line.id for line in lines if answers[line.id].undone])
    return {"matched": len(matched), "in_doubt": len(lines) - len(matched)}


async def _undo(tx: CellTx, ids: Sequence[int]) -> None:
    """Match lines of payments that were never made with those by which their money came back.

    Both were put into suspense, each on its own day, so nothing is left there to be posted.
    """
    pairs = await store.pairs(tx, ids)
    rows = [
        Concluded(one, "matched", posted_id, text_id("sl", tx.cell, other))
        for out, out_posted, back, back_posted in pairs
        for one, posted_id, other in ((out, out_posted, back), (back, back_posted, out))
    ]
    await store.mark_concluded(tx, rows)
    names = [text_id("sl", tx.cell, row.line_id) for row in rows]
    await breaks.clear(tx, names, "What was set apart came back.")


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
    return Proven(line, "unbooked" if came_in else "booked", postings, answer.matched, evidence)


def _doubted(line: LineRow, answer: Answer) -> Doubted:
    expected = None if answer.expected is None else answer.expected.minor
    if expected is not None and line.amount < 0:
        expected = -expected
    detail = answer.detail or "The payment's cell refuses the line."
    return Doubted(line, Doubt(Kind(answer.slug or ""), detail, expected))
