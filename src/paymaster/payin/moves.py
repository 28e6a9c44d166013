"""`move`: the only way by which a charge or a refund changes its state, and is told of.

The row is locked by the caller. The table in `machine.py` judges; money is posted by whoever calls
for a move that has a recipe, in the same transaction.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from paymaster.db import outbox
from paymaster.db.tx import CellTx
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.payin import refund_store, store
from paymaster.payin.machine import CHARGE, REFUND, ChargeEvent, ChargeState, RefundEvent
from paymaster.payin.refund_store import RefundRow
from paymaster.payin.store import ChargeRow

MAX_DETAIL = 500
_ENDS = frozenset({ChargeState.PAID.value, ChargeState.CLOSED.value})


def wire(money: Money) -> dict[str, str]:
    """Money for JSON."""
    return {"amount": money.text(), "currency": money.currency}


async def move(
    tx: CellTx,
    row: ChargeRow,
    event: ChargeEvent,
    *,
    due_at: datetime | None = None,
    lease_token: int = 0,
    code: str | None = None,
    detail: str | None = None,
    **changes: Any,
) -> ChargeRow:
    """Move a locked charge, and tell. Raises Conflict `illegal-move`.

    With its end what names the payer and what opens the provider's page are forgotten.
    """
    made = CHARGE.find(row.state, event)
    ended = made.target.value in _ENDS
    moved = replace(
        row,
        state=made.target.value,
        due_at=due_at,
        lease_token=lease_token,
        code=code or row.code,
        detail=(detail or "")[:MAX_DETAIL] or row.detail,
        ended_at=tx.now if ended else None,
        **changes,
    )
    if ended:
        moved = replace(moved, sealed=None)
    await store.write(tx, moved)
    await tell(tx, moved, row.state)
    return moved


async def tell(tx: CellTx, row: ChargeRow, before: str | None) -> None:
    """Tell of a charge that moved or was made."""
    target = row.target_text(tx.cell)
    payload = {
        "topup": text_id("tp", tx.cell, row.id),
        "target": target,
        "amount": wire(row.money),
        "state": row.state,
        "previous_state": before,
        "code": row.code,
        "trace_id": row.trace_id,
    }
    await outbox.put(tx, [outbox.Message(f"topup.{row.state}", target, payload)])


async def move_refund(
    tx: CellTx,
    charge: ChargeRow,
    row: RefundRow,
    event: RefundEvent,
    *,
    due_at: datetime | None = None,
    lease_token: int = 0,
    code: str | None = None,
    detail: str | None = None,
    **changes: Any,
) -> RefundRow:
    """Move a locked refund, and tell. Raises Conflict `illegal-move`."""
    target = REFUND.find(row.state, event).target.value
    moved = replace(
        row,
        state=target,
        due_at=due_at,
        lease_token=lease_token,
        code=code or row.code,
        detail=(detail or "")[:MAX_DETAIL] or row.detail,
        ended_at=tx.now if target in REFUND.terminal() else None,
        **changes,
    )
    await refund_store.write(tx, moved)
    await tell_refund(tx, charge, moved, row.state)
    return moved


async def tell_refund(tx: CellTx, charge: ChargeRow, row: RefundRow, before: str | None) -> None:
    """Tell of a refund that moved or was made."""
    target = charge.target_text(tx.cell)
    payload = {
        "refund": text_id("tf", tx.cell, row.id),
        "topup": text_id("tp", tx.cell, charge.id),
        "target": target,
        "amount": wire(row.money),
        "state": row.state,
        "previous_state": before,
        "code": row.code,
        "trace_id": row.trace_id,
    }
    await outbox.put(tx, [outbox.Message(f"topup_refund.{row.state}", target, payload)])
