"""The one place where it becomes known that a charge was paid, and where that is credited.

The provider's word comes from a look-up, a notice, or a statement: twice, late, in any order, or
not at all. Each is judged against the charge as it stands, under its lock, and the state moves in
the transaction that posts the credit: so it is credited once or not at all. It must be our number,
through the account that was asked, over exactly the amount that was asked for. Anything else
credits nobody; the charge is `disputed`, and a person has to look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from paymaster.db.tx import CellTx
from paymaster.kernel.ids import text_id
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.payin import store
from paymaster.payin.machine import CHARGE, ChargeEvent, ChargeState
from paymaster.payin.moves import move
from paymaster.payin.store import ChargeRow
from paymaster.rails.payin import ChargeOutcome, ChargeVerdict

LOOK_AGAIN: Final = timedelta(seconds=30)
"""After which the provider is asked about a charge of which it told something odd."""

LOOK_UP: Final = "query"
"""The evidence of an outcome that was asked for: there is nobody else to ask."""

AMOUNT_MISSING: Final = "amount-missing"
"""The code of a charge that was paid, and nobody says how much of it."""

BREAKS: Final = frozenset({
    "charge-unknown", "charge-foreign", "charge-disputed",
})  # fmt: skip
"""Slugs of what a person has to look at."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of an outcome: the state after it, and why not if it was not `done`.

    Slugs: `already`, `superseded` (something stronger is known), `no-news`, `amount-missing` (it
    is looked up), and those of `BREAKS`.
    """

    key: str
    done: bool
    state: str | None
    slug: str | None = None
    detail: str | None = None


async def apply(
    tx: CellTx, rail_account_id: int, said: Sequence[ChargeOutcome], *, evidence: str
) -> list[Applied]:
    """Apply what one of our accounts said; a result for each, in order."""
    rows = await store.lock(tx, [each.key for each in said])
    results: list[Applied] = []
    for each in said:
        row = rows.get(each.key)
        if row is None:
            results.append(not_done(each.key, None, "charge-unknown", "We have no such charge."))
        elif row.rail_account_id != rail_account_id:
            detail = "The charge was opened through another account."
            results.append(not_done(each.key, row.state, "charge-foreign", detail))
        else:
            rows[each.key], result = await _apply(tx, row, each, evidence)
            results.append(result)
    return results


def not_done(key: str, state: str | None, slug: str, detail: str | None = None) -> Applied:
    """What changed nothing, and why."""
    return Applied(key, False, state, slug, detail)


async def _apply(
    tx: CellTx, row: ChargeRow, said: ChargeOutcome, evidence: str
) -> tuple[ChargeRow, Applied]:
    match said.verdict:
        case ChargeVerdict.PAID:
            return await _paid(tx, row, said, evidence)
        case ChargeVerdict.CLOSED if CHARGE.allows(row.state, ChargeEvent.CLOSE):
            moved = await move(
                tx, row, ChargeEvent.CLOSE, code=said.code, provider_id=_id(row, said)
            )
            return moved, Applied(row.key, True, moved.state)
        case ChargeVerdict.CLOSED:
            slug = "already" if row.state == ChargeState.CLOSED else "superseded"
            return row, not_done(row.key, row.state, slug)
        case _:
            return row, not_done(row.key, row.state, "no-news")


async def _paid(
    tx: CellTx, row: ChargeRow, said: ChargeOutcome, evidence: str
) -> tuple[ChargeRow, Applied]:
    if said.amount is None:
        return await _paid_somehow(tx, row, said, evidence)
    if said.amount != row.money:
        asked, told = row.money, said.amount
        detail = (
            f"Asked for {asked.text()} {asked.currency},"
            f" told of {told.text()} {told.currency} by {evidence}."
        )
        return await _dispute(tx, row, said, "amount-differs", detail)
    if row.state == ChargeState.PAID:
        return row, not_done(row.key, row.state, "already")
    entry = Entry(
        row.entry_id,
        "paid_in",
        text_id("tp", tx.cell, row.id),
        recipes.paid_in(row.rail_account_id, row.target, row.money),
        evidence={"key": row.key, "provider_id": said.provider_id, "by": evidence},
        trace_id=row.trace_id,
    )
    (posted,) = await post(tx, [entry])
    if not posted.done:
        detail = f"The books refuse the credit: {posted.verdict.value}."
        return await _dispute(tx, row, said, "credit-refused", detail)
    moved = await move(
        tx,
        row,
        ChargeEvent.PAY,
        provider_id=_id(row, said),
        # A time that cannot be would make a refund impossible, or possible for ever.
        paid_at=max(row.created_at, min(said.occurred_at or tx.now, tx.now)),
    )
    return moved, Applied(row.key, True, moved.state)


async def _paid_somehow(
    tx: CellTx, row: ChargeRow, said: ChargeOutcome, evidence: str
) -> tuple[ChargeRow, Applied]:
    """Paid, and not known in full: a notice is looked up, the answer to that is a dispute."""
    if row.state == ChargeState.PAID:
        return row, not_done(row.key, row.state, "already")
    if evidence != LOOK_UP:
        return row, not_done(row.key, row.state, AMOUNT_MISSING)
    detail = f"Told that it was paid, and not that in full: {said.detail or 'without a reason'}."
    return await _dispute(tx, row, said, AMOUNT_MISSING, detail)


async def _dispute(
    tx: CellTx, row: ChargeRow, said: ChargeOutcome, code: str, detail: str
) -> tuple[ChargeRow, Applied]:
    """A person has to look; whoever was credited already stays so."""
    if CHARGE.allows(row.state, ChargeEvent.DISPUTE):
        row = await move(
            tx,
            row,
            ChargeEvent.DISPUTE,
            due_at=tx.now + LOOK_AGAIN,
            code=code,
            detail=detail,
            provider_id=_id(row, said),
        )
    return row, not_done(row.key, row.state, "charge-disputed", detail)


def _id(row: ChargeRow, said: ChargeOutcome) -> str | None:
    return said.provider_id or row.provider_id
