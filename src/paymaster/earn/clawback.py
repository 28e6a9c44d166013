"""Claw-backs: a partner takes back what an event of theirs brought, in whatever order they come.

One that comes before its event makes the event's row, as taken back: an event has one row for
ever, so that of the two exactly one is first, and the event that comes later earns nothing. One of
a part of a reward waits for the reward, and is tried again until it is there. One of a user under a
regulatory hold waits until that is lifted: what is frozen stays where it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from paymaster.db import audit
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn import reversal
from paymaster.earn.reversal import Reverse
from paymaster.earn.store import reversals as store
from paymaster.earn.store.reversals import EarlyRow
from paymaster.kernel.errors import Conflict, Unprocessable
from paymaster.kernel.money import Money

__all__ = [
    "ClawBack",
    "EarlyRow",
    "Fate",
    "Taken",
    "apply_due",
    "hold_back",
    "keep",
    "reward_of",
    "take",
    "try_again",
    "waiting",
]

Frozen = Callable[[CellTx, Sequence[int]], Awaitable[Collection[int]]]
"""Which of these users nothing may be taken from, as it is until the transaction ends."""

SOONEST, LATEST = timedelta(minutes=1), timedelta(hours=1)
"""Between tries of one that waits for its reward."""


@dataclass(frozen=True, slots=True)
class ClawBack:
    """Take back what `(source, event_id)` brought; `amount` None is all of it.

    A part needs a `reference`, so that the same one told again takes nothing more.
    """

    source: str
    event_id: str
    user_id: int
    reason: str
    amount: Money | None = None
    reference: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What names the event."""
        return self.source, self.event_id


class Fate(StrEnum):
    """What became of a claw-back."""

    REVERSED = "reversed"
    KEPT = "kept"
    """Its event or reward has not come; when it comes, this is applied. Or the event is part of a
    pattern that is not complete: it never will be."""


@dataclass(frozen=True, slots=True)
class Taken:
    """`reward_id` is the reward that was taken back, if it was there."""

    fate: Fate
    reward_id: int | None = None


async def reward_of(tx: CellRead, source: str, event_id: str) -> int | None:
    """The reward that an event brought; None when it brought none, or never came."""
    found = await reversal.of_events(tx, [(source, event_id)])
    return found.get((source, event_id))


async def take(tx: CellTx, command: ClawBack) -> Taken:
    """Take back what is there, or keep the claw-back until it is.

    Raises what `keep` and `reversal.reverse_one` do.
    """
    number = await keep(tx, command)
    if number is None:
        return Taken(Fate.KEPT)
    await reversal.reverse_one(tx, number, command.reason, command.amount, command.reference)
    return Taken(Fate.REVERSED, number)


async def keep(tx: CellTx, command: ClawBack) -> int | None:
    """Keep a claw-back whose reward is not there; else nothing is done: the reward to take back.

    Raises Unprocessable `event-earned-nothing` for an event that is there and brought no reward,
    `event-of-another` for another user's, `reversal-reference` for a part without one.
    """
    number = await reward_of(tx, *command.key)
    if number is None and command.amount is None:
        if await store.forestall(tx, *command.key, command.user_id):
            return await _keep(tx, command, None)
        # Whoever was taking the event in at this moment has committed by now.
        number = await reward_of(tx, *command.key)
    if number is not None:
        if (await reversal.get(tx, number)).user_id != command.user_id:
            raise Unprocessable("event-of-another", "The event is another user's.")
        return number
    if await store.forestalled(tx, *command.key) is False:
        if command.amount is None and await store.bar(tx, *command.key, command.user_id):
            return await _keep(tx, command, None, tx.now)
        raise Unprocessable(
            "event-earned-nothing", "The event is there and brought no reward to take back."
        )
    _require_reference(command)
    return await _keep(tx, command, tx.now if command.amount is not None else None)


async def hold_back(tx: CellTx, command: ClawBack) -> None:
    """Keep one whose reward is there, and whose user nothing may be taken from now.

    Raises Unprocessable `reversal-reference`.
    """
    _require_reference(command)
    await _keep(tx, command, tx.now + SOONEST)


def _require_reference(command: ClawBack) -> None:
    if command.amount is not None and command.reference is None:
        raise Unprocessable(
            "reversal-reference", "Name the partner's reference of a reversal of a part."
        )


async def _keep(
    tx: CellTx, command: ClawBack, due_at: datetime | None, met_at: datetime | None = None
) -> None:
    amount = command.amount
    row = EarlyRow(
        command.source,
        command.event_id,
        command.reference or "",
        command.user_id,
        None if amount is None else amount.minor,
        None if amount is None else amount.currency,
        command.reason,
        tx.actor.name,
        tx.now,
        due_at,
        met_at,
    )
    if await store.keep_early(tx, row):
        subject = f"{command.source}/{command.event_id}"
        await audit.record(tx, [audit.Act("reversal.keep", subject, command.reason)])


async def _nobody(_: CellTx, __: Sequence[int]) -> Collection[int]:
    return ()


async def apply_due(tx: CellTx, limit: int = 1000, frozen: Frozen = _nobody) -> int:
    """Try again those that wait for their reward, or for their user; how many were applied.

    Holds are known further down the way of the money: who calls says who is `frozen`.
    """
    rows = await store.claim_early(tx, limit)
    still = await frozen(tx, sorted({row.user_id for row in rows})) if rows else ()
    found = await reversal.of_events(tx, [(row.source, row.event_id) for row in rows])
    tried: list[EarlyRow] = []
    met = 0
    for row in rows:
        number = found.get((row.source, row.event_id))
        if number is None or row.user_id in still:
            pause = min(max((tx.now - row.received_at) / 4, SOONEST), LATEST)
            tried.append(row._replace(due_at=tx.now + pause))
            continue
        await _meet(tx, row, number)
        tried.append(row._replace(due_at=None, met_at=tx.now))
        met += 1
    if tried:
        await store.tried_early(tx, tried)
    return met


async def try_again(tx: CellTx, user_id: int) -> None:
    """Let what waits be tried at once: nothing is frozen any more."""
    await store.due_now(tx, user_id)


async def _meet(tx: CellTx, row: EarlyRow, reward_id: int) -> None:
    """Take the part back; of a reward that is smaller by now, all that is left."""
    reference = row.reference or None
    amount = None if row.amount is None or row.asset is None else Money(row.amount, row.asset)
    try:
        await reversal.reverse_one(tx, reward_id, row.reason, amount, reference)
    except (Conflict, Unprocessable) as refused:
        if refused.slug == "reversal-too-large":
            await reversal.reverse(tx, [Reverse(reward_id, row.reason, None, reference)])
        detail = {"slug": refused.slug, "reference": row.reference}
        subject = f"{row.source}/{row.event_id}"
        await audit.record(tx, [audit.Act("reversal.late", subject, row.reason, detail)])


async def waiting(
    tx: CellRead, after: tuple[str, str, str] | None, limit: int
) -> Sequence[EarlyRow]:
    """Those whose event or reward never came, by source, event and reference."""
    return await store.open_early(tx, after, min(limit, 200))
