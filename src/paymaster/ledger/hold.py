"""Holds: money set aside under a reason, then captured, released or expired; two-phase.

The hold row and its posting available -> held are written together, so that the balance of a held
account always is the sum of `remaining` over its open holds. Ending a hold is a compare-and-set on
its row, locked before the accounts: of two that race, one wins and the other is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Broken
from paymaster.kernel.money import Money
from paymaster.ledger import store
from paymaster.ledger.chart import Account
from paymaster.ledger.decide import Draw, HoldRow
from paymaster.ledger.entry import Entry, Mode, Posted, Verdict
from paymaster.ledger.post import Ready, post_on

Final = Literal["captured", "released", "expired"]
_MISSING = HoldRow(0, Account("held", 0, ""), 0, "missing")


@dataclass(slots=True)
class Reserve:
    """Set aside what `entry` moves: exactly one posting, available -> held of one user."""

    hold_id: int
    entry: Entry
    reason: str
    subject: str
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Settle:
    """Move `amount` out of a hold by `entry`; `final` is its state when nothing remains."""

    hold_id: int
    entry: Entry
    amount: Money
    final: Final


async def reserve(
    tx: CellTx, commands: Sequence[Reserve], asked: Ready | None = None
) -> list[Posted]:
    """Make holds; those whose verdict is POSTED exist afterwards.

    `asked` is what `post.ready` has asked for their entries and maybe others.
    """
    for command in commands:
        kinds = [(p.source.kind, p.destination.kind, p.mode) for p in command.entry.postings]
        if kinds != [("available", "held", Mode.EXACT)]:
            raise Broken(
                "hold-entry", "A hold is made by one exact posting from available to held."
            )
    results, accounts = await post_on(tx, [command.entry for command in commands], asked=asked)
    made = [c for c, r in zip(commands, results, strict=True) if r.verdict is Verdict.POSTED]
    if made:
        await store.insert_holds(
            tx,
            [
                (
                    command.hold_id,
                    accounts[posting.source].id,
                    accounts[posting.destination].id,
                    posting.amount.minor,
                    command.reason,
                    command.subject,
                    command.expires_at,
                )
                for command in made
                for posting in command.entry.postings
            ],
        )
    return results


async def settle(tx: CellTx, commands: Sequence[Settle]) -> list[Posted]:
    """Capture, release or expire; verdict HOLD when the hold is not open or has too little."""
    if not commands:
        return []
    holds = await store.lock_holds(tx, sorted({command.hold_id for command in commands}))
    for command in commands:
        out = [posting for posting in command.entry.postings if posting.source.kind == "held"]
        hold = holds.get(command.hold_id, _MISSING)
        if (
            sum(posting.amount.minor for posting in out) != command.amount.minor
            or any(posting.mode is not Mode.EXACT for posting in out)
            or (hold is not _MISSING and any(posting.source != hold.held for posting in out))
        ):
            raise Broken("hold-amount", "The entry does not move what is taken out of the hold.")
    before = {hold.id: hold.remaining for hold in holds.values()}
    results, _ = await post_on(
        tx,
        [command.entry for command in commands],
        [Draw(holds.get(c.hold_id, _MISSING), c.amount.minor, c.final) for c in commands],
    )
    drawn = [hold for hold in holds.values() if hold.remaining != before[hold.id]]
    if drawn:
        await store.update_holds(tx, drawn)
    return results
