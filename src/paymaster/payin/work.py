"""One step of a charge: tell the provider of it, ask about it, have it closed.

`claim` leases what is due and says what to do; `call` does it, outside any transaction and without
raising; `conclude` writes what came of it. The row says before every call what may be under way, so
that a process that dies here leaves an `opening` whose lease runs out: it is unknown then, and is
asked about before the same number is sent again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from random import Random

from paymaster.db.tx import CellTx
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.kernel.clock import Clock
from paymaster.kernel.errors import Broken
from paymaster.observe import get_logger
from paymaster.payin import outcome, sealed, store
from paymaster.payin.machine import CHARGE, ChargeEvent, ChargeState
from paymaster.payin.moves import move
from paymaster.payin.pace import GIVES_UP, LAG, Pace
from paymaster.payin.request import CLOSES_AFTER
from paymaster.payin.step import Lost, called, next_try
from paymaster.payin.store import ChargeRow
from paymaster.rails.payin import (
    Charge,
    ChargeOutcome,
    ChargeVerdict,
    Checkout,
    TakesPayments,
)
from paymaster.secrets.sealing import Sealer

_log = get_logger(__name__)
_DECISIVE = frozenset({ChargeVerdict.PAID, ChargeVerdict.CLOSED})
_MAY_BE_SENT_AGAIN = frozenset({ChargeVerdict.OPEN.value, ChargeVerdict.NOT_FOUND.value})


class Step(StrEnum):
    """What to do with a charge next."""

    OPEN = "open"
    ASK = "ask"
    CLOSE = "close"
    GIVE_UP = "give_up"
    """It has expired before anything left."""
    LOSE = "lose"
    """Whoever was opening it has gone silent."""
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Task:
    """A leased charge and what this process alone does with it; `charge` is what is asked for."""

    row: ChargeRow
    step: Step
    charge: Charge


@dataclass(frozen=True, slots=True)
class Told:
    """What a call brought: what opens the page, an outcome, or nothing that proves anything."""

    task: Task
    found: Checkout | ChargeOutcome | Lost
    asked_at: datetime

    @property
    def healthy(self) -> bool:
        """Whether the provider answered."""
        found = self.found
        return isinstance(found, Checkout) or (
            isinstance(found, ChargeOutcome) and found.verdict is not ChargeVerdict.UNKNOWN
        )


def closable_at(row: ChargeRow) -> datetime:
    """From when on its provider may be asked to close it."""
    return (row.opened_at or row.created_at) + CLOSES_AFTER


def next_step(row: ChargeRow, account: PayoutAccount, now: datetime) -> Step:
    """What is to be done with a charge whose time has come."""
    over = row.close_at is not None or now >= row.expires_at
    if row.state == ChargeState.OPENING:
        return Step.LOSE
    if row.state == ChargeState.REQUESTED:
        if over:
            return Step.GIVE_UP
        return Step.OPEN if account.active else Step.WAIT
    if row.state == ChargeState.DISPUTED:
        return Step.ASK
    if over:
        return Step.CLOSE if now >= closable_at(row) else Step.ASK
    again = row.state == ChargeState.UNKNOWN and row.found in _MAY_BE_SENT_AGAIN
    # After a change of settings it may be another merchant who would be told of the number.
    if again and account.active and account.knows(row.created_at):
        return Step.OPEN
    return Step.ASK


async def claim(
    tx: CellTx, sealer: Sealer, account: PayoutAccount, room: int, pace: Pace
) -> list[Task]:
    """Lease what is due at an account, at most `room`; what needs no call is done at once."""
    tasks: list[Task] = []
    for row in await store.take_due(tx, account.id, room):
        step = next_step(row, account, tx.now)
        match step:
            case Step.GIVE_UP:
                await move(tx, row, ChargeEvent.CLOSE, code="expired")
            case Step.LOSE:
                await move(
                    tx,
                    row,
                    ChargeEvent.LOSE,
                    due_at=tx.now,
                    code="lease-expired",
                    maybe_there=True,
                    found=None,
                )
            case Step.WAIT:
                await store.write(tx, replace(row, due_at=tx.now + pace.paused))
            case _:
                task = await _lease(tx, sealer, row, step, pace)
                if task is not None:
                    tasks.append(task)
    return tasks


async def _lease(tx: CellTx, sealer: Sealer, row: ChargeRow, step: Step, pace: Pace) -> Task | None:
    try:
        secret = sealed.read(sealer, tx.cell, row.id, row.sealed)
    except Broken as error:
        _log.error("charge_unreadable", key=row.key, slug=error.slug)
        again = tx.now + pace.unreadable
        await store.write(tx, replace(row, due_at=again, code=error.slug))
        return None
    charge = Charge(
        row.key,
        row.money,
        row.method,
        row.description,
        row.created_at,
        row.expires_at,
        secret.payer,
        secret.client_ip,
        secret.back_to,
    )
    token, until = tx.id(), tx.now + pace.lease
    if step is Step.OPEN:
        leased = await move(tx, row, ChargeEvent.SEND, due_at=until, lease_token=token, found=None)
    else:
        leased = replace(row, due_at=until, lease_token=token)
        await store.write(tx, leased)
    return Task(leased, step, charge)


async def call(
    rail: TakesPayments, account: PayoutAccount, task: Task, pace: Pace, clock: Clock
) -> Told:
    """Do what is to be done; never raises but for being cancelled. Not inside a transaction."""
    at, key = clock.now(), task.row.key
    found = await called(lambda: _asked(rail, account, task), task.row, pace)
    if isinstance(found, ChargeOutcome) and found.key != key:
        found = ChargeOutcome.unknown(key, "The answer names another charge.")
    return Told(task, found, at)


async def _asked(
    rail: TakesPayments, account: PayoutAccount, task: Task
) -> Checkout | ChargeOutcome:
    """What opens it, or what is known of it. One that was just closed was not paid."""
    if task.step is Step.OPEN:
        return await rail.open_charge(account.rail, task.charge)
    if task.step is Step.CLOSE:
        closed = await rail.close_charge(account.rail, task.row.key)
        if closed.verdict is ChargeVerdict.CLOSED:
            return closed
    return await rail.find_charge(account.rail, task.row.key)


async def conclude(
    tx: CellTx,
    sealer: Sealer,
    account: PayoutAccount,
    told: Sequence[Told],
    pace: Pace,
    random: Random,
) -> None:
    """Write what calls have brought. Proof counts, whoever has the lease by now."""
    proven = [
        each.found
        for each in told
        if isinstance(each.found, ChargeOutcome) and each.found.verdict in _DECISIVE
    ]
    await outcome.apply(tx, account.id, proven, evidence=outcome.LOOK_UP)
    rows = await store.lock_ids(tx, [each.task.row.id for each in told])
    for each in told:
        row = rows[each.task.row.id]
        if (row.lease_token, row.state) != (each.task.row.lease_token, each.task.row.state):
            continue
        if isinstance(each.found, Checkout):
            await _opened(tx, sealer, row, each.found, pace, random)
        elif each.task.step is Step.OPEN and isinstance(each.found, Lost):
            await _not_opened(tx, row, each.found, pace, random)
        else:
            await _later(tx, account, row, each, pace, random)


async def _opened(
    tx: CellTx, sealer: Sealer, row: ChargeRow, found: Checkout, pace: Pace, random: Random
) -> None:
    secret = sealed.read(sealer, tx.cell, row.id, row.sealed).with_way(found)
    due = tx.now if row.close_at is not None else tx.now + pace.watch.delay(1, random)
    await move(
        tx,
        row,
        ChargeEvent.OPEN,
        due_at=due,
        sealed=sealed.close(sealer, tx.cell, row.id, secret),
        opened_at=tx.now,
        maybe_there=True,
        tries=0,
    )


async def _not_opened(tx: CellTx, row: ChargeRow, found: Lost, pace: Pace, random: Random) -> None:
    after = next_try(tx, row, pace, random, never_sent=found.never_sent)
    await move(
        tx,
        row,
        ChargeEvent.LOSE if after.maybe_there else ChargeEvent.QUEUE,
        due_at=after.due_at,
        code=found.code,
        detail=found.detail,
        tries=after.tries,
        maybe_there=after.maybe_there,
    )


async def _later(
    tx: CellTx, account: PayoutAccount, row: ChargeRow, told: Told, pace: Pace, random: Random
) -> None:
    """It is as it was: look again, or take it as closed when that is certain by now."""
    verdict = told.found.verdict if isinstance(told.found, ChargeOutcome) else None
    gone = verdict is ChargeVerdict.NOT_FOUND and account.knows(row.created_at)
    over = told.asked_at >= row.expires_at + LAG
    if gone and over and CHARGE.allows(row.state, ChargeEvent.CLOSE):
        await move(tx, row, ChargeEvent.CLOSE, code="not-found")
        return
    tries = row.tries + 1
    unknown = row.state == ChargeState.UNKNOWN
    often = pace.settle if row.state == ChargeState.DISPUTED else pace.watch
    delay = (pace.ask_again if unknown else often).delay(tries, random)
    due: datetime | None = tx.now + delay
    moments = [row.expires_at, closable_at(row)]
    due = min([due, *(each for each in moments if each > tx.now)])
    secret = row.sealed
    if tx.now > row.expires_at + GIVES_UP:
        # Who was asked to pay, and how, is of no use any more.
        due, secret = None, None
    found = verdict.value if unknown and verdict is not None else row.found
    later = replace(row, tries=tries, due_at=due, lease_token=0, found=found, sealed=secret)
    await store.write(tx, later)
