"""Charges and refunds as other packages read them."""

from __future__ import annotations

from paymaster.db.tx import CellRead
from paymaster.payin import refund_store, store
from paymaster.payin.refund_store import RefundRow
from paymaster.payin.store import ChargeRow

__all__ = ["ChargeRow", "RefundRow", "charge", "charges", "refund", "refunds"]


async def charge(tx: CellRead, charge_id: int) -> ChargeRow | None:
    """A charge by id."""
    return await store.find(tx, charge_id)


async def charges(
    tx: CellRead,
    purpose: str | None = None,
    target_id: int | None = None,
    state: str | None = None,
    *,
    before: int | None = None,
    limit: int = 50,
) -> list[ChargeRow]:
    """Charges, newest first: of a target, in a state, or all; those older than `before`."""
    return await store.listing(tx, purpose, target_id, state, before, min(limit, 200))


async def refund(tx: CellRead, refund_id: int) -> RefundRow | None:
    """A refund by id."""
    return await refund_store.find(tx, refund_id)


async def refunds(tx: CellRead, charge_id: int) -> list[RefundRow]:
    """The refunds of a charge, oldest first."""
    return await refund_store.of_charge(tx, charge_id)
