"""Lines that are a side of one of our own transfers between accounts.

The two statements come in any order; each side is posted once by the transfer itself. A line that
came back before the one that went out waits in suspense and is woken when that one arrives.
"""

from __future__ import annotations

from collections.abc import Sequence

from paymaster.db.tx import CellTx, ReadTx
from paymaster.dispatch import outcome, transfer
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.rails.base import Outcome, Verdict
from paymaster.reconcile.breaks import Kind
from paymaster.reconcile.conclude import Doubted, Proven
from paymaster.reconcile.decide import Doubt, Side, Transfer, TransferRow
from paymaster.reconcile.store import LineRow

_ORDER = [Side.OUT, Side.IN, Side.BACK]


async def find(tx: ReadTx, keys: Sequence[str]) -> dict[str, TransferRow]:
    """Transfers by the keys of their attempts."""
    rows = await tx.fetch(
        """
        SELECT a.key, t.id AS transfer_id, a.id AS attempt_id, t.from_account_id, t.to_account_id,
            t.amount, t.asset
        FROM attempt a JOIN transfer t ON t.id = a.transfer_id WHERE a.key = ANY(%s)
        """,
        (list(keys),),
        TransferRow,
    )
    return {row.key: row for row in rows}


async def book(
    tx: CellTx, sides: Sequence[tuple[LineRow, Transfer]]
) -> list[Proven | Doubted]:
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
        await tx.execute(
            "UPDATE attempt SET booked_on = %s, booked_line = %s, version = version + 1"
            " WHERE id = %s",
            (line.booked_on, name, row.attempt_id),
        )
        await tx.execute(
            "UPDATE statement_line SET due_at = %s, version = version + 1"
            " WHERE rail_account_id = %s AND state = 'break' AND reference = %s AND id <> %s",
            (tx.now, line.rail_account_id, row.key, line.id),
        )
    elif side is Side.BACK:
        await tx.execute(
            "UPDATE attempt SET returned_on = %s, returned_line = %s, version = version + 1"
            " WHERE id = %s",
            (line.booked_on, name, row.attempt_id),
        )
