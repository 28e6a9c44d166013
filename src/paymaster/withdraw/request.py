"""A user asks for money: everything is checked, the money is set aside, the row exists - at once.

`request` takes a batch and answers each command with a value. What the API calls is one level up,
in `request_keyed`: there the request comes under a caller's key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from paymaster.db import audit, outbox, traces
from paymaster.db.tx import Actor, CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Broken, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry, Posted, Verdict
from paymaster.ledger.hold import Reserve, reserve
from paymaster.ledger.post import Ready, ready
from paymaster.people.factors import proof
from paymaster.people.factors.binding import Purpose
from paymaster.people.factors.proof import Shown
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


@dataclass(slots=True)
class RequestWithdrawal:
    """Pay `amount` to a destination of the user; `fee` is taken on top of it.

    `actor` and `trace_id` are the caller's where a transaction carries several callers' requests;
    None means the transaction's. `shown` is the proof of a second factor, where one is asked for or
    was given.
    """

    user_id: int
    destination_id: int
    amount: Money
    fee: Money | None = None
    actor: Actor | None = None
    trace_id: str | None = None
    shown: Shown | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The smallest and the largest amount of one request, in one currency."""

    minimum: Money | None = None
    maximum: Money | None = None


@dataclass(slots=True)
class Requested:
    """The withdrawal, or `slug` and `detail` that say why there is none, `extra` what to do."""

    command: RequestWithdrawal
    withdrawal_id: int | None
    requested_at: datetime
    slug: str | None = None
    detail: str | None = None
    extra: Mapping[str, str] | None = None


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
    `debt-open`, `insufficient-funds`, `balance-closed`, and those of `proof.require`.
    """
    asked = await ask(tx, commands, [limits or {}] * len(commands))
    decided = await decide(tx, asked, range(len(commands)))
    async with tx.pipeline():
        await write(tx, decided)
    return decided.results


@dataclass(frozen=True, slots=True)
class Decided:
    """Outcomes whose money is set aside; `write` makes the rows that belong to it."""

    results: list[Requested]
    made: list[tuple[RequestWithdrawal, store.NewRow]]


_Fault = tuple[str, str]


class _Draft(NamedTuple):
    """A withdrawal that may come to be, and how its money is set aside."""

    row: store.NewRow
    hold: Reserve


@dataclass(frozen=True, slots=True)
class Asked:
    """Commands, and everything that was asked for to decide on them, or on some of them."""

    commands: Sequence[RequestWithdrawal]
    _drafts: Sequence[_Draft | _Fault]
    _books: Ready
    _facts: store.Asked

    async def judged(self, tx: CellTx, places: Sequence[int]) -> list[_Draft | _Fault]:
        """What speaks against the commands at these places, apart from balance and proof."""
        facts = await store.facts(self._facts)
        return [
            _fault(self.commands[place], facts[place], self._drafts[place], tx.now)
            for place in places
        ]

    async def reserve(self, tx: CellTx, drafts: Sequence[_Draft]) -> list[Posted]:
        """Set the money of each aside, in order, where it is there."""
        return await reserve(tx, [draft.hold for draft in drafts], self._books) if drafts else []


async def ask(
    tx: CellTx, commands: Sequence[RequestWithdrawal], limits: Sequence[Mapping[str, Limits]]
) -> Asked:
    """Lock the accounts of commands, each within limits of its own, and ask who and whereto.

    The accounts come first: what is read under their locks is what the decision rests on.
    """
    if len(commands) > BATCH_LIMIT:
        raise Broken("batch-limit", f"{len(commands)} requests in one call; split them.")
    ids = iter(tx.ids(6 * len(commands)))
    drafts = [
        _amount_fault(command, within.get(command.amount.currency)) or _draft(tx, command, ids)
        for command, within in zip(commands, limits, strict=True)
    ]
    books = await ready(tx, [one.hold.entry for one in drafts if isinstance(one, _Draft)])
    facts = await store.ask_facts(
        tx,
        [c.user_id for c in commands],
        [c.destination_id for c in commands],
        [c.amount.currency for c in commands],
    )
    return Asked(commands, drafts, books, facts)


async def decide(tx: CellTx, asked: Asked, places: Sequence[int]) -> Decided:
    """Check the commands at these places, in order, and set their money aside.

    In the same transaction `write` must follow.
    """
    commands = [asked.commands[place] for place in places]
    judged = await asked.judged(tx, places)
    faults = [None if isinstance(one, _Draft) else one for one in judged]
    proofs, unproven = await _proofs(tx, commands, faults)
    sound = [
        one
        for one, fault in zip(judged, faults, strict=True)
        if isinstance(one, _Draft) and fault is None
    ]
    reserved = zip(sound, await asked.reserve(tx, sound), strict=True)
    decided = Decided([], [])
    for place, (command, fault) in enumerate(zip(commands, faults, strict=True)):
        if fault is not None:
            extra = unproven.get(place)
            decided.results.append(Requested(command, None, tx.now, *fault, extra))
            continue
        draft, posted = next(reserved)
        refused = _refused(posted)
        if refused is not None:
            decided.results.append(Requested(command, None, tx.now, *refused))
            continue
        decided.results.append(Requested(command, draft.row.id, tx.now))
        decided.made.append((command, draft.row))
        if place in proofs:
            await proof.use(tx, proofs[place], named("wd", tx.cell, draft.row.id))
    return decided


async def write(tx: CellTx, decided: Decided) -> None:
    """Withdrawals, their messages and audit records; nothing is asked back."""
    if decided.made:
        rows = [row for _, row in decided.made]
        await store.insert(tx, WITHDRAWAL.initial.value, rows)
        await outbox.put(tx, [_message(tx, *made) for made in decided.made])
        await audit.record(tx, [_act(tx, *made) for made in decided.made])
        await traces.link(tx, [row.trace_id for row in rows])


def _fault(
    command: RequestWithdrawal, found: store.Facts, draft: _Draft | _Fault, now: datetime
) -> _Draft | _Fault:
    """The first that stands against a command; its draft if nothing does."""
    fault = _user_fault(found.user_status) or _destination_fault(command, found, now)
    if fault is None and isinstance(draft, _Draft) and found.owes:
        fault = _DEBT
    return fault or draft


async def _proofs(
    tx: CellTx, commands: Sequence[RequestWithdrawal], faults: list[_Fault | None]
) -> tuple[dict[int, int], dict[int, Mapping[str, str]]]:
    """The step-ups to use up, by the place of their command; a lack of one becomes its fault.

    With what to do about it, for `Requested.extra`.
    """
    found: dict[int, int] = {}
    unproven: dict[int, Mapping[str, str]] = {}
    for place, command in enumerate(commands):
        if command.shown is None or faults[place] is not None:
            continue
        proven = await _proof(tx, command, command.shown)
        if isinstance(proven, Unprocessable):
            faults[place] = proven.slug, proven.detail
            unproven[place] = proven.extra
        elif proven in found.values():
            faults[place] = _USED
        elif proven is not None:
            found[place] = proven
    return found, unproven


async def _proof(
    tx: CellTx, command: RequestWithdrawal, shown: Shown
) -> int | Unprocessable | None:
    payee = named("de", tx.cell, command.destination_id)
    try:
        act = proof.Act(Purpose.WITHDRAWAL, [payee], command.amount)
        return await proof.require(tx, command.user_id, act, shown)
    except Unprocessable as refused:
        return refused


_USED = ("step-up-used", "The step-up was used already; each serves once.")
_DEBT = ("debt-open", "Something is owed in this currency; later earnings pay it back first.")


def _user_fault(status: str | None) -> _Fault | None:
    if status is None:
        return "user-not-found", "There is no such user."
    if status != "active":
        return f"user-{status}", f"The user is {status} and cannot withdraw."
    return None


def _destination_fault(
    command: RequestWithdrawal, found: store.Facts, now: datetime
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


def _refused(posted: Posted) -> _Fault | None:
    """Why the books said no. Raises Broken when they say what they cannot say."""
    if posted.verdict is Verdict.POSTED:
        return None
    if posted.verdict in _REFUSED:
        return _REFUSED[posted.verdict]
    raise Broken("withdrawal-hold", f"A new hold was answered {posted.verdict}.")


def _draft(tx: CellTx, command: RequestWithdrawal, ids: Iterator[int]) -> _Draft:
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
    return _Draft(row, Reserve(row.hold_id, entry, "withdrawal", subject))


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
    return {"amount": _text(money.minor, money.currency), "currency": money.currency}


@lru_cache(maxsize=4096)
def _text(minor: int, currency: str) -> str:
    """Message, act and answer all name the same amounts."""
    return Money(minor, currency).text()
