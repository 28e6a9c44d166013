"""Screening wants the user to prove who they are: asked, reminded of, answered, given up.

The proof is a step-up bound to the amount and the destination of this very withdrawal, and used up
by it. Then the rules judge again, knowing that it was given. Who does not answer in time is denied:
the money is available again, and nothing has left.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from paymaster.db import audit, outbox
from paymaster.db.tx import CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.people.factors import proof
from paymaster.people.factors.binding import Purpose
from paymaster.screen import store
from paymaster.screen.decide import pass_challenge
from paymaster.screen.store import Asked
from paymaster.withdraw import checks, moves
from paymaster.withdraw.machine import Event, State, Who
from paymaster.withdraw.moves import Step

UNANSWERED = "challenge-unanswered"
"""The reason of a withdrawal that was denied because nobody answered."""


async def answer(
    tx: CellTx, withdrawal_id: int, step_up: str | None, *, user_id: int | None = None
) -> None:
    """Give the proof; only if the withdrawal is `user_id`'s, where given. Twice is harmless.

    Raises NotFound `not-found`, Conflict `illegal-move` when nothing is asked, Conflict
    `held-by-order`, and what `proof.require` raises.
    """
    await moves.lock(tx, withdrawal_id)
    found = await store.asked(tx, [withdrawal_id])
    if not found or user_id not in (None, found[0].user_id):
        raise NotFound("not-found", "There is no such withdrawal.")
    this = found[0]
    if this.state != State.CHALLENGED:
        raise await checks.too_late(tx, withdrawal_id)
    if this.passed:
        return
    await checks.require_free(tx, [withdrawal_id])
    name, payee = text_id("wd", tx.cell, this.id), text_id("de", tx.cell, this.destination_id)
    act = proof.Act(Purpose.WITHDRAWAL, [payee], this.money)
    number = await proof.require(tx, this.user_id, act, proof.Shown(True, step_up))
    await pass_challenge(tx, withdrawal_id)
    await proof.use(tx, number, name)
    await audit.record(tx, [audit.Act("withdrawal.prove", name, detail={"step_up": step_up})])


async def end_due(tx: CellTx, after: timedelta, limit: int) -> int:
    """Deny what was not answered for so long; how many."""
    ids = await store.take_unanswered(tx, State.CHALLENGED.value, tx.now - after, _ANY_TRIES, limit)
    steps = [Step(one, Event.DENY, UNANSWERED, by=Who.WORKER) for one in ids]
    await moves.move(tx, steps)
    return len(ids)


async def remind_due(tx: CellTx, after: timedelta, given_up_after: timedelta, limit: int) -> int:
    """Tell of what has waited for its answer for so long, once each; how many."""
    ids = await store.take_unanswered(tx, State.CHALLENGED.value, tx.now - after, 0, limit)
    if ids:
        await store.count_try(tx, ids)
        found = await store.asked(tx, ids)
        await outbox.put(tx, [_reminder(tx, one, given_up_after) for one in found])
    return len(ids)


_ANY_TRIES = 2**31 - 1


def _reminder(tx: CellTx, one: Asked, given_up_after: timedelta) -> outbox.Message:
    user = text_id("us", tx.cell, one.user_id)
    asked_at: datetime = one.asked_at or tx.now
    payload = {
        "id": text_id("wd", tx.cell, one.id),
        "user": user,
        "destination": text_id("de", tx.cell, one.destination_id),
        "amount": _wire(one.money),
        "fee": _wire(Money(one.fee, one.asset)),
        "state": one.state,
        "number": one.number,
        "asked_at": rfc3339(asked_at),
        "answer_by": rfc3339(asked_at + given_up_after),
        "trace_id": one.trace_id,
    }
    return outbox.Message("withdrawal.challenge_reminder", user, payload, trace_id=one.trace_id)


def _wire(money: Money) -> dict[str, str]:
    return {"amount": money.text(), "currency": money.currency}
