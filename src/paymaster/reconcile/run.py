"""The balance proof of one account and one day, and what never came.

    ledger + outstanding + difference = the statement's closing balance

`ledger` is the account's cash in the books without what later statements brought; `outstanding` are
lines of statements up to the day that are not in the books yet. Any other difference is money that
moved in the books without a statement, or on a statement without the books: a break, unless a later
statement brings the line that was missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from paymaster.db import outbox
from paymaster.db.cells import Databases
from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.clock import start_of_day
from paymaster.kernel.errors import Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.payin import booking
from paymaster.rails.base import RailAccount
from paymaster.reconcile import book_store, breaks, run_store
from paymaster.reconcile.breaks import MISSING, Kind, NewBreak
from paymaster.reconcile.run_store import Run, Sums

LISTED = 10_000
"""So many overdue payments of an account are named, the oldest of each cell."""


@dataclass(frozen=True, slots=True)
class Unbooked:
    """What was confirmed and no statement shows: a payment or return, a charge or refund.

    `kind` is what it is called when it is overdue.
    """

    attempt: str
    amount: Money
    came_in: bool
    since: datetime
    kind: Kind = Kind.MISSING_PAYOUT
    said_by: str = "the provider"


_SAID = {
    Kind.MISSING_PAYOUT: "Paid",
    Kind.MISSING_RETURN: "Money that comes back",
    Kind.MISSING_PAYIN: "Paid to us",
    Kind.MISSING_REFUND: "Given back",
}


def cut_off(day: date, time_zone: str, allowed: timedelta) -> datetime:
    """What was confirmed before this moment should be on a statement up to `day`."""
    return start_of_day(day + timedelta(days=1), time_zone) - allowed


async def unbooked(
    tx: CellRead, rail_account_id: int, before: datetime, limit: int = LISTED
) -> list[Unbooked]:
    """In one payouts' cell: confirmed before a moment, on no statement, oldest first."""
    found = [
        Unbooked(
            text_id("at", tx.cell, row.id),
            Money(row.amount, row.asset),
            row.is_return,
            row.since,
            Kind.MISSING_RETURN if row.is_return else Kind.MISSING_PAYOUT,
            "a person" if row.by_hand else "the provider",
        )
        for row in await book_store.unbooked(tx, rail_account_id, before, limit)
    ]
    return found + [
        Unbooked(
            row.subject,
            row.amount,
            not row.is_refund,
            row.since,
            Kind.MISSING_REFUND if row.is_refund else Kind.MISSING_PAYIN,
        )
        for row in await booking.unbooked(tx, rail_account_id, before, limit)
    ]


async def unbooked_everywhere(
    dbs: Databases, environment_id: int, rail_account_id: int, before: datetime
) -> list[Unbooked]:
    """The same over all cells of an environment, each from a snapshot of its own."""
    found: list[Unbooked] = []
    for cell in dbs.cells(environment_id):
        found += await dbs.cell(cell.number).read(lambda tx: unbooked(tx, rail_account_id, before))
    return found


async def run(tx: CellTx, account: RailAccount, day: date, overdue: Sequence[Unbooked] = ()) -> Run:
    """Prove an account's balance at the end of a day. In the treasury cell only.

    `overdue` comes from `unbooked_everywhere`. Run again whenever something has changed: breaks
    that are gone clear themselves. Raises Unprocessable `statement-missing`.
    """
    bounds = await run_store.bounds(tx, account.id, day)
    if bounds is None:
        raise Unprocessable(
            "statement-missing", f"{account.name} has no statement of {day.isoformat()} yet."
        )
    await _overdue(tx, account, day, overdue)
    sums = await run_store.sums(tx, account.id, account.currency, day)
    ledger = await run_store.ledger(tx, account.id, day, bounds.closing, sums)
    row = Run(
        id=tx.id(),
        rail_account_id=account.id,
        day=day,
        asset=account.currency,
        opening=bounds.opening,
        closing=bounds.closing,
        ledger=ledger,
        outstanding=sums.outstanding,
        difference=bounds.closing - ledger - sums.outstanding,
        lines=sums.lines,
        matched=sums.matched,
        breaks=sums.breaks,
        as_of_seq=sums.seq,
        started_at=tx.now,
        actor=tx.actor.name,
    )
    await run_store.insert(tx, row)
    await _balance(tx, account, row)
    await _announce(tx, account, row, sums)
    return row


async def _overdue(
    tx: CellTx, account: RailAccount, day: date, overdue: Sequence[Unbooked]
) -> None:
    await breaks.open_all(
        tx,
        [
            NewBreak(
                account.id,
                day,
                each.kind,
                each.attempt,
                each.amount.currency,
                f"{_SAID[each.kind]}, as {each.said_by} said {each.since:%Y-%m-%d %H:%M} UTC, "
                "and on no statement since.",
                each.amount.minor if each.came_in else -each.amount.minor,
                0,
            )
            for each in overdue
        ],
    )
    if len(overdue) < LISTED:
        named = {each.attempt for each in overdue}
        still_open = await run_store.open_subjects(tx, account.id, sorted(MISSING), day)
        gone = [subject for subject in still_open if subject not in named]
        await breaks.clear(tx, gone, "It is no longer missing.", kinds=MISSING)


async def _balance(tx: CellTx, account: RailAccount, row: Run) -> None:
    subject = f"{text_id('ra', tx.cell, account.id)}/{row.day.isoformat()}"
    if not row.difference:
        reason = "The balances agree."
        await breaks.clear(tx, [subject], reason, kinds=[Kind.BALANCE_DIFFERS])
        gaps = [Kind.STATEMENT_GAP.value]
        gone = await run_store.open_subjects(tx, account.id, gaps, row.day)
        await breaks.clear(tx, gone, reason, kinds=[Kind.STATEMENT_GAP])
        return
    expected = row.ledger + row.outstanding
    detail = (
        f"The statement closes at {Money(row.closing, row.asset)}; the books and the outstanding "
        f"lines give {Money(expected, row.asset)}."
    )
    found = NewBreak(
        account.id,
        row.day,
        Kind.BALANCE_DIFFERS,
        subject,
        row.asset,
        detail,
        expected,
        row.closing,
    )
    await breaks.open_all(tx, [found])


async def _announce(tx: CellTx, account: RailAccount, row: Run, sums: Sums) -> None:
    name = text_id("ra", tx.cell, account.id)
    payload = {
        "run": text_id("rr", tx.cell, row.id),
        "rail_account": name,
        "day": row.day.isoformat(),
        "difference": {"amount": Money(row.difference, row.asset).text(), "currency": row.asset},
        "lines": row.lines,
        "matched": row.matched,
        "breaks": sums.breaks,
    }
    await outbox.put(tx, [outbox.Message("reconciliation.run", name, payload)])
