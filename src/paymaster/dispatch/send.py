"""The network, outside any transaction; then transaction 2: what the provider said.

    yes        outcomes, applied one by one; a payment that the answer leaves out is unknown
    never      nothing left this machine: the same order is due again, with the same bytes
    no         the order was refused: all its payments are, if no earlier try may have been taken
    doubted    it was refused, or put off, by a provider whose no has to be borne out: unknown
    unknown    everything else: silence, a broken answer, a fault of ours, the end of this process

Transaction 2 writes only under the lease of transaction 1. A process that was stopped past its
lease and wakes up finds another token in the row and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

from paymaster.db.tx import CellTx
from paymaster.dispatch import batch_store, failover, outcome
from paymaster.dispatch.batch_store import BatchChange
from paymaster.dispatch.desk import Desk, Order, Pace
from paymaster.dispatch.failures import Category, find, waits_for_funds
from paymaster.dispatch.machine import AttemptState
from paymaster.dispatch.wording import impersonal
from paymaster.kernel.clock import Clock
from paymaster.kernel.errors import NeverSent, PaymasterError, RailDoubted, RailPutOff, RailRefused
from paymaster.observe import get_logger
from paymaster.rails import meaning
from paymaster.rails.base import Outcome, Rail, Verdict
from paymaster.rails.meaning import Kind
from paymaster.secrets.sealing import Sealer

_log = get_logger(__name__)
_CALL_TIMEOUT, _RAIL_FAULT = meaning.OF[Kind.CALL_TIMEOUT].slug, meaning.OF[Kind.RAIL_FAULT].slug


class Answer(StrEnum):
    """How a call to a provider ended."""

    ANSWERED = "answered"
    NEVER = "never"
    REFUSED = "refused"
    DOUBTED = "doubted"
    """It said no, and has to say as well that it does not know the order: unknown until then."""
    PUT_OFF = "put_off"
    """It said "not now", which has to be borne out in the same way."""
    UNKNOWN = "unknown"
    LATE = "late"
    """The lease had run out before anything was sent: somebody else may have the order now."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What one call brought."""

    order: Order
    answer: Answer
    outcomes: tuple[Outcome, ...] = ()
    code: str | None = None
    detail: str | None = None
    given_up: bool = False
    """Nothing left, and nothing shall: see `failover`."""

    @property
    def healthy(self) -> bool:
        """Whether this speaks for the provider: it answered, and not that our money is short.

        Nor that it is not now, unless for the payee's sake alone.
        """
        if self.answer in {Answer.REFUSED, Answer.DOUBTED}:
            return not waits_for_funds(self.code)
        if self.answer is Answer.PUT_OFF:
            return find(self.code).category is Category.PAYEE
        return self.answer is Answer.ANSWERED


async def call(rail: Rail, order: Order, pace: Pace, clock: Clock) -> Sent:
    """Send an order; never raises but for being cancelled. Not inside a transaction."""
    if clock.now() >= order.until:
        return Sent(order, Answer.LATE)
    try:
        async with asyncio.timeout(pace.call.total_seconds()):
            outcomes = await rail.send(order.account.rail, order.prepared)
    except NeverSent as error:
        return _failed(order, Answer.NEVER, error)
    except RailRefused as error:
        return _failed(order, Answer.REFUSED, error)
    except RailPutOff as error:
        return _failed(order, Answer.PUT_OFF, error)
    except RailDoubted as error:
        return _failed(order, Answer.DOUBTED, error)
    except PaymasterError as error:
        return _failed(order, Answer.UNKNOWN, error)
    except TimeoutError:
        return Sent(order, Answer.UNKNOWN, (), _CALL_TIMEOUT, "No answer in time.")
    except Exception as error:  # noqa: BLE001 - whatever it was, the order may be under way
        _log.error("send_failed", batch=order.prepared.batch_key, error=type(error).__name__)
        return Sent(order, Answer.UNKNOWN, (), _RAIL_FAULT, type(error).__name__)
    return Sent(order, Answer.ANSWERED, tuple(outcomes))


def _failed(order: Order, answer: Answer, error: PaymasterError) -> Sent:
    return Sent(order, answer, (), error.extra.get("code") or error.slug, error.detail)


async def finish(
    tx: CellTx, desk: Desk, sent: Sequence[Sent], random: Random
) -> list[outcome.Applied]:
    """Transaction 2 for calls that have ended: orders whose lease is still theirs are written."""
    held = await batch_store.lock_held(
        tx, [(each.order.batch_id, each.order.lease_token) for each in sent]
    )
    for each in sent:
        if each.order.batch_id not in held:
            _log.warning("lease_lost", batch=each.order.prepared.batch_key)
    mine = [each for each in sent if each.order.batch_id in held]
    mine = await _give_up(tx, desk, mine)
    applied: dict[int, list[outcome.Applied]] = {each.order.batch_id: [] for each in mine}
    for account_id in sorted({each.order.account.id for each in mine}):
        here = [each for each in mine if each.order.account.id == account_id]
        told = [(each, said) for each in here for said in _outcomes(each)]
        await _tell(tx, desk.sealer, account_id, told, applied)
        # What could not be applied (another amount, "not found") leaves open whether it was paid.
        unclear = [
            (each, Outcome(result.key, Verdict.UNKNOWN))
            for each in here
            for result in applied[each.order.batch_id]
            if result.state == AttemptState.SENDING and each.answer is Answer.ANSWERED
        ]
        await _tell(tx, desk.sealer, account_id, unclear, applied)
    await batch_store.write(
        tx, [_change(tx, desk, each, applied[each.order.batch_id], random) for each in mine]
    )
    return [result for each in mine for result in applied[each.order.batch_id]]


async def _give_up(tx: CellTx, desk: Desk, sent: Sequence[Sent]) -> list[Sent]:
    """Orders of which nothing ever left, and of which nothing shall: another account pays."""
    never = [each for each in sent if each.answer is Answer.NEVER and not each.order.replay]
    leaving: set[int] = set()
    for account in {each.order.account.id: each.order.account for each in never}.values():
        tries = {e.order.batch_id: e.order.tries for e in never if e.order.account is account}
        # As it is known now: the order may be older than what was read of its account since.
        leaving |= await failover.given_up(tx, desk, desk.accounts.get(account.id, account), tries)
    return [
        replace(each, given_up=True) if each.order.batch_id in leaving else each for each in sent
    ]


async def _tell(
    tx: CellTx,
    sealer: Sealer,
    account_id: int,
    told: Sequence[tuple[Sent, Outcome]],
    applied: dict[int, list[outcome.Applied]],
) -> None:
    """Apply outcomes of several orders at once, and sort the results by order."""
    evidence = [f"send:{each.answer}" for each, _ in told]
    results = await outcome.apply(
        tx, account_id, [said for _, said in told], evidence=evidence, sealer=sealer
    )
    for (each, _), result in zip(told, results, strict=True):
        applied[each.order.batch_id].append(result)


def _outcomes(sent: Sent) -> list[Outcome]:
    """What is known about each payment of the order."""
    order, keys = sent.order, sent.order.prepared.keys
    match sent.answer:
        case Answer.ANSWERED:
            said = {each.key: each for each in sent.outcomes if each.key in keys}
            missing = [
                Outcome(key, Verdict.UNKNOWN, detail="the answer does not name it")
                for key in keys
                if key not in said
            ]
            return [*said.values(), *missing]
        case Answer.REFUSED:
            proven = order.absent if order.replay else frozenset(keys)
            return [
                Outcome(key, Verdict.REJECTED, code=sent.code, detail=sent.detail)
                for key in keys
                if key in proven
            ]
        case Answer.NEVER if sent.given_up:
            return [
                Outcome(key, Verdict.REJECTED, code=sent.code, detail=sent.detail) for key in keys
            ]
        case Answer.UNKNOWN | Answer.DOUBTED | Answer.PUT_OFF if not order.replay:
            return [
                Outcome(key, Verdict.UNKNOWN, code=sent.code, detail=sent.detail) for key in keys
            ]
        case _:
            return []


def _change(
    tx: CellTx,
    desk: Desk,
    sent: Sent,
    results: Sequence[outcome.Applied],
    random: Random,
) -> BatchChange:
    """The order's own state, and when it is looked at again."""
    order, pace = sent.order, desk.pace
    # A refused second copy tells nothing about the first: do not press, the report will tell.
    pressing = sent.answer is not Answer.REFUSED
    pause = pace.send_again.delay(order.tries, random) if pressing else pace.after_refused_copy
    again = tx.now + pause
    unclear = {AttemptState.SENDING.value, AttemptState.UNKNOWN.value}
    latest = {each.key: each.state for each in results}
    unknown = any(state in unclear for state in latest.values())
    if sent.answer is Answer.ANSWERED and not unknown:
        state, due_at = "sent", None
    elif sent.given_up or (
        sent.answer is Answer.REFUSED
        and (not order.replay or order.absent >= set(order.prepared.keys))
    ):
        state, due_at = "refused", None
    elif sent.answer in {Answer.NEVER, Answer.LATE} and not order.replay:
        # Still ours, and nothing has ever left: it is as it was before it was claimed.
        state, due_at = "prepared", again
    else:
        state, due_at = "unknown", again
    put_off = sent.answer is Answer.PUT_OFF
    no = sent.code if put_off or sent.answer is Answer.DOUBTED else None
    went = sent.answer not in {Answer.NEVER, Answer.LATE}
    return BatchChange(order.batch_id, state, due_at, _detail(sent), True, went, no, put_off)


def _detail(sent: Sent) -> str | None:
    said = ": ".join(part for part in (sent.code, impersonal(sent.detail)) if part)
    return said[:200] or None
