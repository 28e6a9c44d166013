"""Lines that are a side of one of our own transfers between accounts.

The two statements come in any order; each side is posted once by the transfer itself. A line that
came back before the one that went out waits in suspense and is woken when that one arrives.
"""

from __future__ import annotations

from collections.abc import Sequence

from paymaster.db.tx import CellTx
from paymaster.dispatch import outcome, transfer
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.rails.base import Outcome, Verdict
from paymaster.reconcile import book_store, store
from paymaster.reconcile.breaks import Kind
from paymaster.reconcile.conclude import Doubted, Proven
from paymaster.reconcile.decide import Doubt, Side, Transfer, TransferRow
from paymaster.reconcile.store import LineRow

_ORDER = [Side.OUT, Side.IN, Side.BACK]


async def book(tx: CellTx, sides: Sequence[tuple[LineRow, Transfer]]) -> list[Proven | Doubted]:
    """Book sides, those that left first. Transfers are few: one after the other."""
    found: list[Proven | Doubted] = []
    for line, side in sorted(sides, key=lambda item: _ORDER.index(item[1].side)):
        found.append(await _book(tx, line, side))
    return found


async def _book(tx: CellTx, line: LineRow, decision: Transfer) -> Proven | Doubted:
    row, side = decision.row, decision.side
    name = text_id("tr", tx.cell, row.transfer_id)
    evidence = text_id("sl", tx.cell, line.id)
    amount = Money(row.amount, row.asset)
    if side is Side.OUT:
        said = Outcome(row.key, Verdict.PAID, amount=amount)
        await outcome.apply(tx, line.rail_account_id, [said], evidence=f"statement:{evidence}")
    booking = transfer.Booking(row.transfer_id, side.value, amount, evidence)
    (moved,) = await transfer.book(tx, [booking])
    if not moved.done:
        if moved.slug == "already":
            return Doubted(line, Doubt(Kind.BOOKED_TWICE, f"{name} was booked {side} already."))
        detail = f"{name} is {moved.state} and cannot be booked {side}: {moved.slug}."
        return Doubted(line, Doubt(Kind.ATTEMPT_CONTRADICTS, detail))
    await _mark(tx, line, row, side)
    stored = await transfer.find(tx, row.transfer_id)
    entries = {Side.OUT: stored.entry_out, Side.IN: stored.entry_in, Side.BACK: stored.entry_back}
    return Proven(line, "topup", (), name, posted_id=entries[side])


async def _mark(tx: CellTx, line: LineRow, row: TransferRow, side: Side) -> None:
    """Write the booking on the attempt, and wake what waited for it."""
    name = text_id("sl", tx.cell, line.id)
    if side is Side.OUT:
        await book_store.mark_booked(tx, row.attempt_id, line.booked_on, name)
        await store.wake(tx, line.rail_account_id, row.key, line.id)
    elif side is Side.BACK:
        await book_store.mark_returned(tx, row.attempt_id, line.booked_on, name)
