"""The company's own money between two of its accounts: asked for, sent, seen on both statements.

Transfers live in the treasury cell. They leave through the same batches and attempts as payouts,
to the IBAN by which the receiving account is funded (its settings `topup_iban` and `holder`). Only
statements move the books: what the provider says about a transfer is not yet money.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from paymaster.db import audit, outbox
from paymaster.db.tx import CellRead, CellTx
from paymaster.dispatch import transfer_store as store
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.machine import TRANSFER, TransferEvent, TransferState
from paymaster.dispatch.transfer_store import Change, Transfer
from paymaster.kernel.errors import Conflict, NotFound, PaymasterError, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.kernel.machine import Move
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.rails.base import Payee, Rail

Side = Literal["out", "in", "back"]
_BOOKS: dict[Side, TransferEvent] = {
    "out": TransferEvent.BOOK_OUT,
    "in": TransferEvent.BOOK_IN,
    "back": TransferEvent.BOOK_BACK,
}


@dataclass(frozen=True, slots=True)
class Order:
    """Move an amount from one of our accounts to another, for a reason."""

    from_account_id: int
    to_account_id: int
    amount: Money
    reason: str


@dataclass(frozen=True, slots=True)
class Requested:
    """What became of an order: the transfer's id, or why there is none."""

    transfer_id: int | None
    slug: str | None = None
    detail: str | None = None


async def request(
    tx: CellTx,
    accounts: Mapping[int, PayoutAccount],
    rails: Mapping[str, Rail],
    orders: Sequence[Order],
) -> list[Requested]:
    """Ask for transfers, each audited. In the treasury cell only.

    Slugs: `transfer-account-unknown`, `transfer-same-account`, `transfer-currency`,
    `transfer-amount`, `transfer-account-paused`, `transfer-rail`, `transfer-target`,
    `reason-missing`.
    """
    results: list[Requested] = []
    rows: list[store.NewRow] = []
    for order in orders:
        found = fault(order, accounts, rails)
        if found is not None:
            results.append(Requested(None, found.slug, found.detail))
            continue
        transfer_id, out, into, back = tx.ids(4)
        rows.append(
            store.NewRow(
                transfer_id,
                order.from_account_id,
                order.to_account_id,
                order.amount.minor,
                order.amount.currency,
                out,
                into,
                back,
                order.reason,
            )
        )
        results.append(Requested(transfer_id))
    if rows:
        await store.insert(tx, TRANSFER.initial.value, rows)
        await audit.record(
            tx,
            [
                audit.Act(
                    "transfer.request",
                    text_id("tr", tx.cell, row.id),
                    row.reason,
                    {"amount": Money(row.amount, row.asset).text(), "currency": row.asset},
                )
                for row in rows
            ],
        )
    return results


def fault(
    order: Order, accounts: Mapping[int, PayoutAccount], rails: Mapping[str, Rail]
) -> PaymasterError | None:
    """Why an order cannot be carried out; None when it can. Slugs as of `request`."""
    source, target = accounts.get(order.from_account_id), accounts.get(order.to_account_id)
    if source is None or target is None:
        return NotFound("transfer-account-unknown", "There is no such rail account here.")
    if source.id == target.id:
        return Unprocessable("transfer-same-account", "Name two different accounts.")
    currencies = {source.rail.currency, target.rail.currency, order.amount.currency}
    if len(currencies) != 1:
        return Unprocessable(
            "transfer-currency", "Both accounts and the amount must have one currency."
        )
    if order.amount.minor <= 0:
        return Unprocessable("transfer-amount", "The amount must be positive.")
    if not order.reason.strip():
        return Unprocessable("reason-missing", "Say why the money is moved.")
    if not source.active:
        return Unprocessable("transfer-account-paused", f"{source.rail.name} is paused.")
    rail = rails.get(source.rail.rail)
    if rail is None or "iban" not in rail.caps.destination_kinds:
        return Unprocessable("transfer-rail", f"{source.rail.name} cannot pay to an IBAN.")
    if payee(target) is None:
        return Unprocessable(
            "transfer-target",
            f"{target.rail.name} has no settings topup_iban and holder to be funded by.",
        )
    return None


def payee(target: PayoutAccount) -> Payee | None:
    """By which account number the receiving account is funded; None when it does not say."""
    iban = target.rail.settings.get("topup_iban", "").strip()
    holder = target.rail.settings.get("holder", "").strip()
    return Payee("iban", {"iban": iban, "holder": holder}) if iban and holder else None


async def cancel(tx: CellTx, transfer_id: int, reason: str) -> Transfer:
    """Take back a transfer that has not been sent. Raises NotFound, Conflict `illegal-move`."""
    (moved,) = await move(tx, [Step(transfer_id, TransferEvent.CANCEL, reason)])
    if moved.slug == "not-found":
        raise NotFound("not-found", "There is no transfer of this id.")
    if not moved.done and moved.slug != "already":
        raise Conflict(
            "illegal-move", f"A transfer that is {moved.state} cannot be cancelled any more."
        )
    if moved.done:
        subject = text_id("tr", tx.cell, transfer_id)
        await audit.record(tx, [audit.Act("transfer.cancel", subject, reason)])
    return await find(tx, transfer_id)


async def find(tx: CellRead, transfer_id: int) -> Transfer:
    """A transfer. Raises NotFound `not-found`."""
    row = await store.find(tx, transfer_id)
    if row is None:
        raise NotFound("not-found", "There is no transfer of this id.")
    return row


async def listing(tx: CellRead, before_id: int | None, limit: int) -> list[Transfer]:
    """Transfers, newest first."""
    return await store.page(tx, before_id, limit)


@dataclass(frozen=True, slots=True)
class Step:
    """One event for one transfer."""

    transfer_id: int
    event: TransferEvent
    reason: str | None = None
    due_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of a step: the state after it, and why not if it was not `done`."""

    transfer_id: int
    done: bool
    state: str
    slug: str | None = None


async def move(tx: CellTx, steps: Sequence[Step]) -> list[Moved]:
    """Do what of the steps may be done, in order. Slugs: `not-found`, `already`, `illegal-move`."""
    if not steps:
        return []
    rows = await store.lock(tx, [step.transfer_id for step in steps])
    results: list[Moved] = []
    changes: list[Change] = []
    for step in steps:
        row = rows.get(step.transfer_id)
        if row is None:
            results.append(Moved(step.transfer_id, False, "", "not-found"))
            continue
        found = _find(row.state, step.event)
        if found is None:
            results.append(Moved(row.id, False, row.state, _why_not(row.state, step.event)))
            continue
        change = _change(tx, row, found, step)
        changes.append(change)
        rows[row.id] = replace(row, state=change.target, number=change.number)
        results.append(Moved(row.id, True, change.target))
    if changes:
        await store.write(tx, TRANSFER.name, changes)
        await outbox.put(tx, [_message(tx, change) for change in changes])
    return results


def _find(state: str, event: TransferEvent) -> Move | None:
    return TRANSFER.find(state, event) if TRANSFER.allows(state, event) else None


def _why_not(state: str, event: TransferEvent) -> str:
    led_here = any(m.target.value == state and m.event.value == event.value for m in TRANSFER.moves)
    return "already" if led_here else "illegal-move"


def _change(tx: CellTx, row: Transfer, found: Move, step: Step) -> Change:
    due_at = step.due_at
    if found.target.value == TransferState.REQUESTED.value and due_at is None:
        due_at = tx.now
    return Change(
        row.id,
        row.number + 1,
        row.state,
        found.event.value,
        found.target.value,
        step.reason,
        due_at,
    )


def _message(tx: CellTx, change: Change) -> outbox.Message:
    subject = text_id("tr", tx.cell, change.id)
    return outbox.Message(
        f"transfer.{change.target}",
        subject,
        {
            "id": subject,
            "state": change.target,
            "previous_state": change.source,
            "reason": change.reason,
        },
    )


@dataclass(frozen=True, slots=True)
class Booking:
    """A statement shows the transfer: leaving (`out`), arriving (`in`), or coming back (`back`)."""

    transfer_id: int
    side: Side
    amount: Money
    evidence: str


async def book(tx: CellTx, bookings: Sequence[Booking]) -> list[Moved]:
    """Post what statements show, and move on. Each side of a transfer is posted once for ever.

    Slugs beyond those of `move`: `transfer-amount-differs`, `books-refused`.
    """
    results: list[Moved] = []
    for booking in bookings:
        rows = await store.lock(tx, [booking.transfer_id])
        row = rows.get(booking.transfer_id)
        if row is None:
            results.append(Moved(booking.transfer_id, False, "", "not-found"))
            continue
        event = _BOOKS[booking.side]
        if not TRANSFER.allows(row.state, event):
            again = await store.happened(tx, row.id, event.value)
            slug = "already" if again else "illegal-move"
            results.append(Moved(row.id, False, row.state, slug))
        elif booking.amount != row.money:
            results.append(Moved(row.id, False, row.state, "transfer-amount-differs"))
        else:
            (posted,) = await post(tx, [_entry(tx, row, booking)])
            if posted.done:
                results += await move(tx, [Step(row.id, event, booking.evidence)])
            else:
                results.append(Moved(row.id, False, row.state, "books-refused"))
    return results


def _entry(tx: CellTx, row: Transfer, booking: Booking) -> Entry:
    entry_id, kind, postings = {
        "out": (row.entry_out, "topup_out", recipes.topup_out(row.from_account_id, row.money)),
        "in": (row.entry_in, "topup_in", recipes.topup_in(row.to_account_id, row.money)),
        "back": (row.entry_back, "topup_back", recipes.topup_in(row.from_account_id, row.money)),
    }[booking.side]
    return Entry(
        entry_id,
        kind,
        text_id("tr", tx.cell, row.id),
        postings,
        evidence={"statement": booking.evidence},
    )
