"""A person ends a refund of which the provider says nothing that could be believed.

The provider refuses it for good and knows nothing of it, or cannot reach the payer; somebody has
called there, or looked at its portal. As with payouts it is said with a proof, and stays said: a
refund that was ended by hand is never ordered again, and what contradicts it is a break.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from paymaster.db import audit
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Conflict, NotFound, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.payin import refund, refund_store, store
from paymaster.payin.machine import REFUND, RefundEvent, RefundState
from paymaster.payin.refund_store import RefundRow
from paymaster.rails.payin import RefundOutcome, RefundVerdict
from paymaster.withdraw import holds

BY_HAND: Final = "decided-by-hand"
"""The code of what a person found out."""


class Finding(StrEnum):
    """What the person found out."""

    DONE = "done"
    """The payer has got the money back."""
    NOT_DONE = "not_done"
    """He has not, and never will under this number."""


async def decide(tx: CellTx, refund_id: int, finding: Finding, proof: str) -> RefundRow:
    """End a refund by hand, audited with the proof. One that never left is dropped so as well.

    Raises NotFound, Unprocessable `reason-missing`, Conflict `refund-decided` when it has its end,
    `refund-in-work` while the provider is being told or asked, `held-by-order` for what is of a
    user whom an authority has frozen.
    """
    if not proof.strip():
        raise Unprocessable("reason-missing", "Say how it is known, for example who confirmed it.")
    charge, row = await _locked(tx, refund_id)
    if row.state in REFUND.terminal():
        raise Conflict("refund-decided", f"The refund is {row.state}: nothing to decide.")
    asked = row.lease_token != 0 and row.due_at is not None and row.due_at > tx.now
    if row.state == RefundState.SENDING or asked:
        raise Conflict("refund-in-work", "The provider is being asked: try again in a minute.")
    if charge.purpose == "user":
        await holds.require_free_user(tx, charge.target_id)
    if finding is Finding.DONE:
        event, verdict = RefundEvent.FINISH, RefundVerdict.DONE
    elif row.state == RefundState.REQUESTED:
        event, verdict = RefundEvent.DROP, RefundVerdict.FAILED
    else:
        event, verdict = RefundEvent.FAIL, RefundVerdict.FAILED
    said = RefundOutcome(row.key, verdict, code=BY_HAND)
    ended = await refund.finish(tx, charge, row, event, said, f"person:{tx.actor.name}")
    detail = {"finding": finding.value, "before": row.state}
    name = text_id("tf", tx.cell, row.id)
    await audit.record(tx, [audit.Act("topup_refund.decide", name, proof, detail)])
    return ended


async def at_stake(tx: CellTx, refund_id: int) -> Money | None:
    """What a refund is about; None when there is nothing to decide. It stays locked."""
    _, row = await _locked(tx, refund_id)
    return None if row.state in REFUND.terminal() else row.money


async def _locked(tx: CellTx, refund_id: int) -> tuple[store.ChargeRow, RefundRow]:
    """A refund and its charge, locked in the order in which everybody does."""
    found = await refund_store.find(tx, refund_id)
    if found is None:
        raise NotFound("not-found", "There is no such refund.")
    charges = await store.lock_ids(tx, [found.charge_id])
    rows = await refund_store.lock(tx, [found.key])
    return charges[found.charge_id], rows[found.key]
