"""One step of a refund: order it, or ask about it; as `work` does it for charges.

The same number is given back once, however often it is ordered. Even so it is asked about first
when an order brought no answer, and a "no" that an order brings is not believed until a look-up
says the same.
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
from paymaster.kernel.errors import Broken, NeverSent
from paymaster.payin import outcome, refund, refund_store, store
from paymaster.payin.machine import REFUND, RefundEvent, RefundState
from paymaster.payin.moves import move_refund
from paymaster.payin.pace import Pace
from paymaster.payin.refund_store import RefundRow
from paymaster.payin.step import Lost, called, next_try
from paymaster.payin.store import ChargeRow
from paymaster.rails.payin import (
    ChargeVerdict,
    RefundOrder,
    RefundOutcome,
    RefundVerdict,
    TakesPayments,
)
from paymaster.withdraw import holds

_TOLD = frozenset({
    RefundVerdict.PROCESSING, RefundVerdict.DONE, RefundVerdict.STUCK, RefundVerdict.FAILED,
})  # fmt: skip


class Step(StrEnum):
    """What to do with a refund next."""

    SEND = "send"
    ASK = "ask"
    LOSE = "lose"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Task:
    """A leased refund, and the order for it.

    `strange`: the account's settings were changed since the payment, perhaps to another merchant,
    who never got the money.
    """

    row: RefundRow
    step: Step
    order: RefundOrder
    strange: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """What a call brought."""

    task: Task
    found: RefundOutcome | Lost
    asked_at: datetime

    @property
    def healthy(self) -> bool:
        """Whether the provider answered."""
        found = self.found
        return isinstance(found, RefundOutcome) and found.verdict is not RefundVerdict.UNKNOWN


def next_step(row: RefundRow, account: PayoutAccount) -> Step:
    """What is to be done with a refund whose time has come."""
    if row.state == RefundState.SENDING:
        return Step.LOSE
    if row.state == RefundState.REQUESTED:
        return Step.SEND if account.active else Step.WAIT
    gone = row.state == RefundState.UNKNOWN and row.found == RefundVerdict.NOT_FOUND
    return Step.SEND if gone and account.active else Step.ASK


async def claim(tx: CellTx, account: PayoutAccount, room: int, pace: Pace) -> list[Task]:
    """Lease what is due at an account, at most `room`."""
    tasks: list[Task] = []
    for row in await refund_store.take_due(tx, account.id, room):
        charge = await _charge(tx, row)
        step = next_step(row, account)
        if step is Step.SEND and await _held(tx, charge):
            step = Step.WAIT if row.state == RefundState.REQUESTED else Step.ASK
        if step is Step.WAIT:
            await refund_store.write(tx, replace(row, due_at=tx.now + pace.paused))
        elif step is Step.LOSE:
            await move_refund(
                tx,
                charge,
                row,
                RefundEvent.LOSE,
                due_at=tx.now,
                code="lease-expired",
                maybe_there=True,
                found=None,
            )
        else:
            task = await _lease(tx, charge, row, step, pace)
            tasks.append(replace(task, strange=not account.knows(charge.created_at)))
    return tasks


async def _held(tx: CellTx, charge: ChargeRow) -> bool:
    """Whether the money is of a user whom an authority has frozen."""
    if charge.purpose != "user":
        return False
    return bool(await holds.held_users(tx, [charge.target_id]))


async def _charge(tx: CellTx, row: RefundRow) -> ChargeRow:
    charge = await store.find(tx, row.charge_id)
    if charge is None:
        raise Broken("charge-missing", f"Refund {row.key} is of no charge.")
    return charge


async def _lease(tx: CellTx, charge: ChargeRow, row: RefundRow, step: Step, pace: Pace) -> Task:
    token, until = tx.id(), tx.now + pace.lease
    if step is Step.SEND:
        leased = await move_refund(
            tx, charge, row, RefundEvent.SEND, due_at=until, lease_token=token, found=None
        )
    else:
        leased = replace(row, due_at=until, lease_token=token)
        await refund_store.write(tx, leased)
    order = RefundOrder(row.key, charge.key, charge.money, row.money, row.reason)
    return Task(leased, step, order)


async def call(
    rail: TakesPayments, account: PayoutAccount, task: Task, pace: Pace, clock: Clock
) -> Told:
    """Order or ask; never raises but for being cancelled. Not inside a transaction."""
    at, key = clock.now(), task.row.key
    found = await called(lambda: _asked(rail, account, task), task.row, pace)
    if isinstance(found, RefundOutcome) and found.key != key:
        found = RefundOutcome.unknown(key, "The answer names another refund.")
    return Told(task, found, at)


async def _asked(rail: TakesPayments, account: PayoutAccount, task: Task) -> RefundOutcome:
    if task.step is not Step.SEND:
        return await rail.find_refund(account.rail, task.order)
    await _require_merchant(rail, account, task)
    return await rail.refund(account.rail, task.order)


async def _require_merchant(rail: TakesPayments, account: PayoutAccount, task: Task) -> None:
    """Raises NeverSent unless who would be asked now is who got the money."""
    if not task.strange:
        return
    found = await rail.find_charge(account.rail, task.order.charge_key)
    if found.verdict is not ChargeVerdict.PAID or found.amount not in (None, task.order.charged):
        raise NeverSent("provider-unreachable", "The payment is not known under these settings.")


async def conclude(
    tx: CellTx, account: PayoutAccount, told: Sequence[Told], pace: Pace, random: Random
) -> None:
    """Write what calls have brought. Proof counts, whoever has the lease by now."""
    proven = [
        each.found for each in told if _proves(each) and isinstance(each.found, RefundOutcome)
    ]
    await refund.apply(tx, account.id, proven, evidence=outcome.LOOK_UP)
    charges = await store.lock_ids(tx, [each.task.row.charge_id for each in told])
    rows = await refund_store.lock(tx, [each.task.row.key for each in told])
    for each in told:
        row = rows[each.task.row.key]
        if row.lease_token != each.task.row.lease_token or row.state in REFUND.terminal():
            continue
        if each.task.step is Step.SEND:
            await _not_sent(tx, charges[row.charge_id], row, each.found, pace, random)
        else:
            await _later(tx, row, each.found, pace, random)


def _proves(told: Told) -> bool:
    """A definite no is believed when it is the answer to a question."""
    found = told.found
    if not isinstance(found, RefundOutcome) or found.verdict not in _TOLD:
        return False
    return found.verdict is not RefundVerdict.FAILED or told.task.step is Step.ASK


async def _not_sent(
    tx: CellTx,
    charge: ChargeRow,
    row: RefundRow,
    found: RefundOutcome | Lost,
    pace: Pace,
    random: Random,
) -> None:
    never = isinstance(found, Lost) and found.never_sent
    after = next_try(tx, row, pace, random, never_sent=never)
    await move_refund(
        tx,
        charge,
        row,
        RefundEvent.LOSE if after.maybe_there else RefundEvent.QUEUE,
        due_at=after.due_at,
        code=found.code,
        detail=found.detail,
        tries=after.tries,
        maybe_there=after.maybe_there,
    )


async def _later(
    tx: CellTx, row: RefundRow, found: RefundOutcome | Lost, pace: Pace, random: Random
) -> None:
    unknown = row.state == RefundState.UNKNOWN
    tries = row.tries + 1
    due = tx.now + (pace.ask_again if unknown else pace.settle).delay(tries, random)
    said = found.verdict.value if isinstance(found, RefundOutcome) else row.found
    await refund_store.write(tx, replace(row, tries=tries, due_at=due, lease_token=0, found=said))
