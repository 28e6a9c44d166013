"""Lines of statements that show charges and refunds, in the cell of the charge.

A line is proof: a charge whose notice was lost is credited by it, a refund is given back by it.
Then the money leaves `incoming` towards the treasury cell, where the account is. Each charge and
each refund is booked once; the same line asked again gets the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Final

from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.clock import start_of_day
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.payin import booking_store, outcome, refund, refund_store, store
from paymaster.payin.machine import ChargeState, RefundState
from paymaster.payin.refund_store import RefundRow
from paymaster.payin.store import ChargeRow
from paymaster.rails.payin import ChargeOutcome, ChargeVerdict, RefundOutcome, RefundVerdict

UNKNOWN: Final = "unknown"
TWICE: Final = "twice"
AMOUNT: Final = "amount"
ACCOUNT: Final = "account"
CONTRADICTS: Final = "contradicts"

_NOT_GIVEN: Final = frozenset({RefundState.REQUESTED.value, RefundState.FAILED.value})
_KNOWN: Final = frozenset({ChargeState.PAID.value, RefundState.DONE.value})


def _confirmed(row: ChargeRow | RefundRow) -> bool:
    """Whether the provider has said that it happened, and nothing that contradicts its amount."""
    unmeasured = row.state == ChargeState.DISPUTED and row.code == outcome.AMOUNT_MISSING
    return unmeasured or row.state in _KNOWN


@dataclass(frozen=True, slots=True)
class BillLine:
    """A line with a number of ours, its amount positive.

    `accepted`: book our own amount anyway, of what the provider has confirmed before.
    """

    name: str
    key: str
    amount: Money
    came_in: bool
    day: date
    accepted: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """What became of a line: what was booked, or why not (`fault`, one of the five above)."""

    subject: str = ""
    booked: Money | None = None
    fault: str | None = None
    detail: str = ""
    expected: Money | None = None


@dataclass(frozen=True, slots=True)
class _Page:
    """Where the lines stand."""

    rail_account_id: int
    treasury_cell: int
    statement: str


async def knows(tx: CellRead, keys: Sequence[str]) -> frozenset[str]:
    """Which of these numbers are of charges or refunds here."""
    return await booking_store.known(tx, keys)


async def book(
    tx: CellTx, rail_account_id: int, treasury_cell: int, statement: str, lines: Sequence[BillLine]
) -> dict[str, Shown]:
    """Book lines of one account, each as far as it proves something; by the line's name."""
    page = _Page(rail_account_id, treasury_cell, statement)
    keys = [line.key for line in lines]
    owners = await refund_store.charges_of(tx, keys)
    charges = await store.lock(tx, keys)
    by_id = await store.lock_ids(
        tx, [*owners.values(), *(charge.id for charge in charges.values())]
    )
    refunds = await refund_store.lock(tx, keys)
    found: dict[str, Shown] = {}
    for line in lines:
        refunded = refunds.get(line.key)
        if refunded is None and line.key in charges and not line.came_in:
            # Some bills name the payment and not what was given back of it.
            refunded = await _refund_of(tx, charges[line.key], line)
        if line.came_in and line.key in charges:
            charge = by_id[charges[line.key].id]
            found[line.name], by_id[charge.id] = await _charge(tx, page, charge, line)
        elif not line.came_in and refunded is not None:
            shown, refunds[refunded.key] = await _refund(tx, page, refunded, line)
            found[line.name] = shown
        else:
            found[line.name] = Shown(fault=UNKNOWN, detail="We asked nobody for such a payment.")
    return found


async def _refund_of(tx: CellTx, charge: ChargeRow, line: BillLine) -> RefundRow | None:
    """The refund of a charge that a line may show: by itself, or the oldest over its amount.

    First those that the provider said are done; never one that has not left us: what was given
    back without our order ends none of our orders.
    """
    rows = await refund_store.of_charge(tx, charge.id)
    own = [row for row in rows if row.booked_line == line.name]
    free = [
        row
        for row in rows
        if row.booked_line is None and row.money == line.amount and row.state not in _NOT_GIVEN
    ]
    done = [row for row in free if row.state == RefundState.DONE]
    chosen = next(iter([*own, *done, *free]), None)
    return None if chosen is None else (await refund_store.lock(tx, [chosen.key]))[chosen.key]


def _judge(page: _Page, row: ChargeRow | RefundRow, line: BillLine, subject: str) -> Shown | None:
    """Why a line cannot book it, or that it has done so; None when it may.

    What differs from what was asked for proves nothing, whoever accepts it: a difference is
    accepted as the rail's fee only of what the provider itself has confirmed.
    """
    if row.rail_account_id != page.rail_account_id:
        return Shown(fault=ACCOUNT, detail=f"{subject} went through another account.")
    if row.booked_line == line.name:
        return Shown(subject, row.money)
    if row.booked_line is not None:
        return Shown(fault=TWICE, detail=f"{subject} was booked by {row.booked_line}.")
    if row.asset != line.amount.currency:
        return Shown(fault=AMOUNT, detail=f"{subject} is in another currency.")
    if row.money != line.amount and not (line.accepted and _confirmed(row)):
        return Shown(fault=AMOUNT, detail=f"{subject} is over {row.money}.", expected=row.money)
    return None


async def _charge(
    tx: CellTx, page: _Page, charge: ChargeRow, line: BillLine
) -> tuple[Shown, ChargeRow]:
    subject = text_id("tp", tx.cell, charge.id)
    told = _judge(page, charge, line, subject)
    if told is not None:
        return told, charge
    if charge.state != ChargeState.PAID:
        said = ChargeOutcome(charge.key, ChargeVerdict.PAID, amount=charge.money)
        evidence = f"statement:{page.statement}"
        (applied,) = await outcome.apply(tx, page.rail_account_id, [said], evidence=evidence)
        if not applied.done:
            return Shown(fault=CONTRADICTS, detail=applied.detail or subject), charge
    postings = recipes.payin_booked(page.rail_account_id, page.treasury_cell, charge.money)
    await _post(tx, page, line, "payin_booked", subject, postings)
    await store.mark_booked(tx, charge.id, line.day, line.name)
    booked = replace(charge, state="paid", booked_on=line.day, booked_line=line.name)
    return Shown(subject, charge.money), booked


async def _refund(
    tx: CellTx, page: _Page, row: RefundRow, line: BillLine
) -> tuple[Shown, RefundRow]:
    subject = text_id("tf", tx.cell, row.id)
    told = _judge(page, row, line, subject)
    if told is not None:
        return told, row
    if row.state != RefundState.DONE:
        said = RefundOutcome(row.key, RefundVerdict.DONE, amount=row.money)
        evidence = f"statement:{page.statement}"
        (applied,) = await refund.apply(tx, page.rail_account_id, [said], evidence=evidence)
        if not applied.done:
            return Shown(fault=CONTRADICTS, detail=applied.detail or subject), row
    postings = recipes.payin_refund_booked(page.rail_account_id, page.treasury_cell, row.money)
    await _post(tx, page, line, "payin_refund_booked", subject, postings)
    await refund_store.mark_booked(tx, row.id, line.day, line.name)
    booked = replace(row, state="done", booked_on=line.day, booked_line=line.name)
    return Shown(subject, row.money), booked


async def _post(
    tx: CellTx, page: _Page, line: BillLine, kind: str, subject: str, postings: recipes.Postings
) -> None:
    evidence: Mapping[str, str] = {"line": line.name, "statement": page.statement}
    at = start_of_day(line.day, tx.time_zone)
    entry = Entry(tx.id(), kind, subject, postings, effective_at=at, evidence=evidence)
    (posted,) = await post(tx, [entry])
    if not posted.done:
        raise Broken("booking-refused", f"The books refuse a booking: {posted.verdict.value}.")


@dataclass(frozen=True, slots=True)
class Unbooked:
    """A charge or refund that its provider confirmed, and that no statement shows."""

    subject: str
    amount: Money
    is_refund: bool
    since: datetime


async def unbooked(
    tx: CellRead, rail_account_id: int, before: datetime, limit: int
) -> list[Unbooked]:
    """Confirmed before a moment, on no statement; oldest first."""
    rows = await booking_store.unbooked(tx, rail_account_id, before, limit)
    return [
        Unbooked(
            text_id("tf" if row.is_refund else "tp", tx.cell, row.id),
            Money(row.amount, row.asset),
            row.is_refund,
            row.since,
        )
        for row in rows
    ]
