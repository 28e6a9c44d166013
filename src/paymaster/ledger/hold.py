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
from paymaster.ledger.entry import Entry, Posted, Verdict
from paymaster.ledger.post import post

Final = Literal["captured", "released", "expired"]


@dataclass(frozen=True, slots=True)
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


async def reserve(tx: CellTx, commands: Sequence[Reserve]) -> list[Posted]:
    """Make holds; those whose verdict is POSTED exist afterwards."""
    for command in commands:
        kinds = [(p.source.kind, p.destination.kind) for p in command.entry.postings]
        if kinds != [("available", "held")]:
            raise Broken("hold-entry", "A hold is made by one posting from available to held.")
    results = await post(tx, [command.entry for command in commands])
    made = [c for c, r in zip(commands, results, strict=True) if r.verdict is Verdict.POSTED]
    if made:
        wanted = {a for c in made for p in c.entry.postings for a in (p.source, p.destination)}
        accounts = await store.lock_accounts(tx, list(wanted))
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
    for command in commands:
        out = sum(p.amount.minor for p in command.entry.postings if p.source.kind == "held")
        if out != command.amount.minor:
            raise Broken("hold-amount", "The entry does not move what is taken out of the hold.")
    holds = await store.lock_holds(tx, sorted({command.hold_id for command in commands}))
    known = await store.known_entries(tx, [command.entry.id for command in commands])
    remaining = {h.id: h.remaining if h.state == "open" else 0 for h in holds.values()}
    verdicts: dict[int, Posted] = {}
    chosen: list[tuple[int, Settle]] = []
    for index, command in enumerate(commands):
        digest = known.get(command.entry.id)
        if digest is not None:
            same = digest == command.entry.digest()
            verdict = Verdict.DUPLICATE if same else Verdict.CONFLICT
            verdicts[index] = Posted(command.entry.id, verdict)
        elif remaining.get(command.hold_id, 0) < command.amount.minor:
            verdicts[index] = Posted(command.entry.id, Verdict.HOLD)
        else:
            remaining[command.hold_id] -= command.amount.minor
            chosen.append((index, command))
    results = await post(tx, [command.entry for _, command in chosen])
    left: dict[int, tuple[int, str]] = {}
    for (index, command), result in zip(chosen, results, strict=True):
        verdicts[index] = result
        if result.verdict is Verdict.POSTED:
            before = left.get(command.hold_id, (holds[command.hold_id].remaining, "open"))[0]
            after = before - command.amount.minor
            left[command.hold_id] = (after, command.final if after == 0 else "open")
    if left:
        await store.update_holds(tx, [(i, r, s) for i, (r, s) in sorted(left.items())])
    return [verdicts[index] for index in range(len(commands))]
