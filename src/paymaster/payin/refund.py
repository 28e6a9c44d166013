"""Money that is given back to a payer: set aside first, and what then became known of it.

As with payouts it is the provider's definite word alone that frees the money again; what it has
given back is gone from what was set aside, once. What contradicts an end that is known is not
applied, but reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from paymaster.db import audit
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Broken, Conflict, NotFound, Unprocessable
from paymaster.kernel.ids import reference, text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry, Verdict
from paymaster.ledger.post import post
from paymaster.payin import refund_store, store
from paymaster.payin.machine import REFUND, ChargeState, RefundEvent, RefundState
from paymaster.payin.moves import move_refund, tell_refund
from paymaster.payin.outcome import Applied, not_done
from paymaster.payin.refund_store import RefundRow
from paymaster.payin.store import ChargeRow
from paymaster.rails.payin import RefundOutcome, RefundVerdict
from paymaster.withdraw import holds

BREAKS: Final = frozenset({"refund-unknown", "refund-foreign", "refund-contradicted"})
"""Slugs of what a person has to look at."""

LONGEST: Final = timedelta(days=365)
"""So long after it was paid providers give a payment back."""

_EVENTS: Final = {
    RefundVerdict.PROCESSING: RefundEvent.ACCEPT,
    RefundVerdict.STUCK: RefundEvent.STICK,
    RefundVerdict.DONE: RefundEvent.FINISH,
    RefundVerdict.FAILED: RefundEvent.FAIL,
}
_REACHED: Final = {
    RefundVerdict.PROCESSING: RefundState.PROCESSING,
    RefundVerdict.STUCK: RefundState.STUCK,
    RefundVerdict.DONE: RefundState.DONE,
    RefundVerdict.FAILED: RefundState.FAILED,
}


async def left_of(tx: CellTx, charge_id: int) -> Money | None:
    """What of a charge was not given back, and is not about to be; it stays locked."""
    charge = (await store.lock_ids(tx, [charge_id])).get(charge_id)
    return None if charge is None else Money(charge.amount - charge.refunded, charge.asset)


async def request(tx: CellTx, charge_id: int, amount: Money | None, reason: str) -> RefundRow:
    """Give a paid charge back, or part of it; without an amount all that is left. Audited.

    Raises NotFound, Conflict `topup-not-paid` or `held-by-order`, Unprocessable `refund-currency`,
    `refund-amount`, `refund-too-much`, `refund-too-late`, or `refund-insufficient` when it was
    spent.
    """
    charge = (await store.lock_ids(tx, [charge_id])).get(charge_id)
    if charge is None:
        raise NotFound("not-found", "There is no such top-up.")
    if charge.state != ChargeState.PAID:
        raise Conflict("topup-not-paid", "What was not paid cannot be given back.")
    if charge.purpose == "user":
        await holds.require_free_user(tx, charge.target_id)
    left = Money(charge.amount - charge.refunded, charge.asset)
    wanted = left if amount is None else amount
    if wanted.currency != charge.asset:
        raise Unprocessable("refund-currency", f"It was paid in {charge.asset}.")
    if wanted > left or not left:
        raise Unprocessable("refund-too-much", f"Of it {left.text()} can still be given back.")
    if wanted.minor <= 0:
        raise Unprocessable("refund-amount", "Write an amount above zero.")
    if charge.paid_at is not None and tx.now > charge.paid_at + LONGEST:
        raise Unprocessable("refund-too-late", "Providers give back what was paid within a year.")
    row = _new(tx, charge, wanted, reason)
    name = text_id("tf", tx.cell, row.id)
    postings = recipes.payin_refund_request(charge.rail_account_id, charge.target, wanted)
    entry = Entry(row.entry_held, "payin_refund_request", name, postings)
    (posted,) = await post(tx, [entry])
    if posted.verdict is Verdict.INSUFFICIENT:
        raise Unprocessable("refund-insufficient", "The money is not there any more.")
    if not posted.done:
        raise Broken("refund-refused", f"The books refuse a refund: {posted.verdict.value}.")
    await refund_store.insert(tx, row)
    await store.set_refunded(tx, charge.id, charge.refunded + wanted.minor)
    detail = {
        "topup": text_id("tp", tx.cell, charge.id),
        "amount": wanted.text(),
        "currency": wanted.currency,
    }
    await audit.record(tx, [audit.Act("topup.refund", name, reason, detail)])
    await tell_refund(tx, charge, row, None)
    return row


def _new(tx: CellTx, charge: ChargeRow, amount: Money, reason: str) -> RefundRow:
    number, held, done, back = tx.ids(4)
    return RefundRow(
        id=number,
        key=reference(tx.cell, number),
        charge_id=charge.id,
        rail_account_id=charge.rail_account_id,
        amount=amount.minor,
        asset=amount.currency,
        reason=reason,
        state=REFUND.initial.value,
        maybe_there=False,
        found=None,
        provider_id=None,
        code=None,
        detail=None,
        entry_held=held,
        entry_done=done,
        entry_back=back,
        created_at=tx.now,
        ended_at=None,
        booked_on=None,
        booked_line=None,
        due_at=tx.now,
        tries=0,
        lease_token=0,
        actor=tx.actor.name,
        trace_id=tx.trace_id,
    )


async def apply(
    tx: CellTx, rail_account_id: int, said: Sequence[RefundOutcome], *, evidence: str
) -> list[Applied]:
    """Apply what one of our accounts said; a result for each, in order.

    Slugs: `already`, `superseded`, `no-news`, and those of `BREAKS`.
    """
    keys = [each.key for each in said]
    owners = await refund_store.charges_of(tx, keys)
    charges = await store.lock_ids(tx, list(owners.values()))
    rows = await refund_store.lock(tx, keys)
    results: list[Applied] = []
    for each in said:
        row = rows.get(each.key)
        if row is None:
            results.append(not_done(each.key, None, "refund-unknown", "We have no such refund."))
        elif row.rail_account_id != rail_account_id:
            detail = "The refund was ordered through another account."
            results.append(not_done(each.key, row.state, "refund-foreign", detail))
        else:
            rows[each.key], result = await _apply(tx, charges[row.charge_id], row, each, evidence)
            if rows[each.key].state == RefundState.FAILED and result.done:
                charges = await store.lock_ids(tx, list(charges))
            results.append(result)
    return results


async def _apply(
    tx: CellTx, charge: ChargeRow, row: RefundRow, said: RefundOutcome, evidence: str
) -> tuple[RefundRow, Applied]:
    event, reached = _EVENTS.get(said.verdict), _REACHED.get(said.verdict)
    if event is None or reached is None:
        return row, not_done(row.key, row.state, "no-news")
    if said.amount is not None and said.amount != row.money:
        told = f"Ordered {row.money.text()}, told of {said.amount.text()} by {evidence}."
        return row, not_done(row.key, row.state, "refund-contradicted", told)
    if not REFUND.allows(row.state, event):
        return row, _trailing(row, said, reached)
    if event in (RefundEvent.FINISH, RefundEvent.FAIL):
        moved = await finish(tx, charge, row, event, said, evidence)
        return moved, Applied(row.key, True, moved.state)
    moved = await move_refund(
        tx,
        charge,
        row,
        event,
        # What the provider has taken in is asked about, from time to time, until it has its end.
        due_at=tx.now + _SOON,
        code=said.code,
        detail=said.detail,
        provider_id=said.provider_id or row.provider_id,
        tries=0,
    )
    return moved, Applied(row.key, True, moved.state)


_SOON: Final = timedelta(seconds=30)


def _trailing(row: RefundRow, said: RefundOutcome, reached: RefundState) -> Applied:
    """What is said again, what has been overtaken, and what cannot be."""
    if row.state == reached:
        return not_done(row.key, row.state, "already")
    if said.verdict in (RefundVerdict.DONE, RefundVerdict.FAILED):
        told = f"It is {row.state}, and the provider says {said.verdict.value}."
        return not_done(row.key, row.state, "refund-contradicted", told)
    return not_done(row.key, row.state, "superseded")


async def finish(
    tx: CellTx,
    charge: ChargeRow,
    row: RefundRow,
    event: RefundEvent,
    said: RefundOutcome,
    evidence: str,
) -> RefundRow:
    """Give a refund its end, with what it means for the books. Both rows are locked."""
    await _post(tx, charge, row, event, said, evidence)
    moved = await move_refund(
        tx,
        charge,
        row,
        event,
        code=said.code,
        detail=said.detail,
        provider_id=said.provider_id or row.provider_id,
        tries=0,
    )
    if moved.state == RefundState.FAILED:
        await store.set_refunded(tx, charge.id, charge.refunded - row.amount)
    return moved


async def _post(
    tx: CellTx,
    charge: ChargeRow,
    row: RefundRow,
    event: RefundEvent,
    said: RefundOutcome,
    evidence: str,
) -> None:
    account, name = row.rail_account_id, text_id("tf", tx.cell, row.id)
    if event is RefundEvent.FINISH:
        number, kind = row.entry_done, "payin_refund_done"
        postings = recipes.payin_refund_done(account, row.money)
    else:
        number, kind = row.entry_back, "payin_refund_failed"
        postings = recipes.payin_refund_failed(account, charge.target, row.money)
    told = {"key": row.key, "provider_id": said.provider_id, "by": evidence}
    entry = Entry(number, kind, name, postings, evidence=told, trace_id=row.trace_id)
    (posted,) = await post(tx, [entry])
    if not posted.done:
        raise Broken("refund-refused", f"The books refuse a refund: {posted.verdict.value}.")
