"""A user asks for money: everything is checked, the money is set aside, the row exists - at once.

`request` takes a batch and answers each command with a value. What the API calls is one level up,
in `request_keyed`: there the request comes under a caller's key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from paymaster.db import audit, outbox, traces
from paymaster.db.tx import Actor, CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry, Verdict
from paymaster.ledger.hold import Reserve, reserve
from paymaster.withdraw import store
from paymaster.withdraw.machine import WITHDRAWAL

BATCH_LIMIT = 1000
"""Commands in one call."""

named = lru_cache(maxsize=8192)(text_id)
"""`text_id`; message, act and answer all name the same three things."""

moment = lru_cache(maxsize=16)(rfc3339)
"""`rfc3339`; all that a transaction makes is of one moment."""

ACT = "withdrawal.request"
"""What the audit trail calls a request."""


@dataclass(frozen=True, slots=True)
class RequestWithdrawal:
    """Pay `amount` to a destination of the user; `fee` is taken on top of it.

    `actor` and `trace_id` are the caller's where a transaction carries several callers' requests;
    None means the transaction's.
    """

    user_id: int
    destination_id: int
    amount: Money
    fee: Money | None = None
    actor: Actor | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The smallest and the largest amount of one request, in one currency."""

    minimum: Money | None = None
    maximum: Money | None = None


@dataclass(frozen=True, slots=True)
class Requested:
    """The withdrawal, or `slug` and `detail` that say why there is none."""

    command: RequestWithdrawal
    withdrawal_id: int | None
    requested_at: datetime
    slug: str | None = None
    detail: str | None = None


async def request(
    tx: CellTx,
    commands: Sequence[RequestWithdrawal],
    *,
    limits: Mapping[str, Limits] | None = None,
) -> list[Requested]:
    """Check each command and set its money aside; refusals are values.

    `limits` by currency, from the rule set in force. Slugs: `user-not-found`, `user-suspended`,
    `user-closed`, `destination-not-found`, `destination-closed`, `destination-not-usable-yet`,
    `currency-mismatch`, `amount-not-positive`, `amount-below-minimum`, `amount-above-maximum`,
    `debt-open`, `insufficient-funds`, `balance-closed`.
    """
    decided = await decide(tx, commands, [limits or {}] * len(commands))
    async with tx.pipeline():
        await write(tx, decided)
    return decided.results


@dataclass(frozen=True, slots=True)
class Decided:
    """Outcomes whose money is set aside; `write` makes the rows that belong to it."""

    results: list[Requested]
    made: list[tuple[RequestWithdrawal, store.NewRow]]


async def decide(
    tx: CellTx, commands: Sequence[RequestWithdrawal], limits: Sequence[Mapping[str, Limits]]
) -> Decided:
    """Check commands, each within limits of its own, and set their money aside.

    In the same transaction `write` must follow.
    """
    if len(commands) > BATCH_LIMIT:
        raise Broken("batch-limit", f"{len(commands)} requests in one call; split them.")
    faults = await _faults(tx, commands, limits)
    sound = [c for c, fault in zip(commands, faults, strict=True) if fault is None]
    reserved = iter(await _reserve(tx, sound))
    decided = Decided([], [])
    for command, fault in zip(commands, faults, strict=True):
        if fault is not None:
            decided.results.append(Requested(command, None, tx.now, *fault))
            continue
        row, refused = next(reserved)
        if refused is not None:
            decided.results.append(Requested(command, None, tx.now, *refused))
            continue
        decided.results.append(Requested(command, row.id, tx.now))
        decided.made.append((command, row))
    return decided


async def write(tx: CellTx, decided: Decided) -> None:
    """Withdrawals, their messages and audit records; nothing is asked back."""
    if decided.made:
        rows = [row for _, row in decided.made]
        await store.insert(tx, WITHDRAWAL.initial.value, rows)
        await outbox.put(tx, [_message(tx, *made) for made in decided.made])
        await audit.record(tx, [_act(tx, *made) for made in decided.made])
        await traces.link(tx, [row.trace_id for row in rows])


_Fault = tuple[str, str]


async def _faults(
    tx: CellTx, commands: Sequence[RequestWithdrawal], limits: Sequence[Mapping[str, Limits]]
) -> list[_Fault | None]:
    """What stands against each command, apart from its balance."""
    known = await store.asked(
        tx,
        [c.user_id for c in commands],
        [c.destination_id for c in commands],
        [c.amount.currency for c in commands],
    )
    return [
        _user_fault(found.user_status)
        or _destination_fault(command, found, tx.now)
        or _amount_fault(command, within.get(command.amount.currency))
        or (_DEBT if found.owes else None)
        for command, found, within in zip(commands, known, limits, strict=True)
    ]


_DEBT = ("debt-open", "Something is owed in this currency; later earnings pay it back first.")


def _user_fault(status: str | None) -> _Fault | None:
    if status is None:
        return "user-not-found", "There is no such user."
    if status != "active":
        return f"user-{status}", f"The user is {status} and cannot withdraw."
    return None


def _destination_fault(
    command: RequestWithdrawal, found: store.Asked, now: datetime
) -> _Fault | None:
    if found.state is None or found.usable_at is None:
        return "destination-not-found", "The user has no such payout destination."
    if found.state != "active":
        return "destination-closed", "The payout destination is closed; add another one."
    if found.currency != command.amount.currency:
        return (
            "currency-mismatch",
            f"The destination takes {found.currency}, the request is in {command.amount.currency}.",
        )
    if found.usable_at > now:
        return (
            "destination-not-usable-yet",
            f"The destination is new; it can be used from {rfc3339(found.usable_at)}.",
        )
    return None


def _amount_fault(command: RequestWithdrawal, limits: Limits | None) -> _Fault | None:
    amount = command.amount
    if amount.minor <= 0 or (command.fee is not None and command.fee.minor < 0):
        return "amount-not-positive", "Ask for an amount above zero."
    if limits and limits.minimum is not None and amount < limits.minimum:
        return "amount-below-minimum", f"The smallest withdrawal is {limits.minimum}."
    if limits and limits.maximum is not None and amount > limits.maximum:
        return "amount-above-maximum", f"The largest withdrawal is {limits.maximum}."
    return None


_REFUSED: dict[Verdict, _Fault] = {
    Verdict.INSUFFICIENT: ("insufficient-funds", "The available balance does not cover this."),
    Verdict.CLOSED: ("balance-closed", "The user's balance in this currency is closed."),
    Verdict.OVERFLOW: ("insufficient-funds", "The available balance does not cover this."),
}


async def _reserve(
    tx: CellTx, commands: Sequence[RequestWithdrawal]
) -> list[tuple[store.NewRow, _Fault | None]]:
    """Set the money of each aside, in order; the row to insert, or why the books said no."""
    if not commands:
        return []
    ids = iter(tx.ids(6 * len(commands)))
    rows: list[store.NewRow] = []
    holds: list[Reserve] = []
    for command in commands:
        amount = command.amount
        fee = command.fee or Money.zero(amount.currency)
        row = store.NewRow(
            id=next(ids),
            user_id=command.user_id,
            destination_id=command.destination_id,
            amount=amount.minor,
            fee=fee.minor,
            asset=amount.currency,
            hold_id=next(ids),
            entry_request=next(ids),
            entry_release=next(ids),
            entry_paid=next(ids),
            entry_returned=next(ids),
            trace_id=command.trace_id or tx.trace_id,
        )
        subject = named("wd", tx.cell, row.id)
        postings = recipes.request(command.user_id, amount + fee)
        entry = Entry(row.entry_request, "request", subject, postings, trace_id=row.trace_id)
        rows.append(row)
        holds.append(Reserve(row.hold_id, entry, "withdrawal", subject))
    verdicts = await reserve(tx, holds)
    answers: list[tuple[store.NewRow, _Fault | None]] = []
    for row, posted in zip(rows, verdicts, strict=True):
        if posted.verdict is Verdict.POSTED:
            answers.append((row, None))
        elif posted.verdict in _REFUSED:
            answers.append((row, _REFUSED[posted.verdict]))
        else:
            raise Broken("withdrawal-hold", f"A new hold was answered {posted.verdict}.")
    return answers


def _message(tx: CellTx, command: RequestWithdrawal, row: store.NewRow) -> outbox.Message:
    user = named("us", tx.cell, row.user_id)
    return outbox.Message(
        f"withdrawal.{WITHDRAWAL.initial.value}",
        user,
        {
            "id": named("wd", tx.cell, row.id),
            "user": user,
            "destination": named("de", tx.cell, row.destination_id),
            "amount": wire(command.amount),
            "fee": wire(command.fee or Money.zero(row.asset)),
            "state": WITHDRAWAL.initial.value,
            "previous_state": None,
            "number": 0,
            "reason": None,
            "at": moment(tx.now),
            "trace_id": row.trace_id,
        },
        trace_id=row.trace_id,
    )


def _act(tx: CellTx, command: RequestWithdrawal, row: store.NewRow) -> audit.Act:
    return audit.Act(
        ACT,
        named("wd", tx.cell, row.id),
        detail={
            "user": named("us", tx.cell, row.user_id),
            "destination": named("de", tx.cell, row.destination_id),
            "amount": wire(command.amount),
        },
        actor=command.actor,
        trace_id=row.trace_id,
    )


def wire(money: Money) -> dict[str, str]:
    """Money as messages and answers write it."""
    return {"amount": money.text(), "currency": money.currency}
