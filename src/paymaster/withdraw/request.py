"""A user asks for money: everything is checked, the money is set aside, the row exists - at once.

`request` takes a batch and answers each command with a value. What the API calls is one level up,
in `request_keyed`: there the request comes under a caller's key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from paymaster.db import audit, outbox, traces
from paymaster.db.tx import Asked as Answer
from paymaster.db.tx import CellTx
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
from paymaster.withdraw import quote_store, store
from paymaster.withdraw.fee_plans import NO_PLANS, Plans
from paymaster.withdraw.fees import Charge, Fault
from paymaster.withdraw.machine import WITHDRAWAL
from paymaster.withdraw.request_checks import (
    Limits,
    RequestWithdrawal,
    amount_fault,
    fault_of_facts,
    price,
    second_use,
)

BATCH_LIMIT = 1000
"""Commands in one call."""

named = lru_cache(maxsize=8192)(text_id)
"""`text_id`; message, act and answer all name the same three things."""

moment = lru_cache(maxsize=16)(rfc3339)
"""`rfc3339`; all that a transaction makes is of one moment."""

ACT = "withdrawal.request"
"""What the audit trail calls a request."""


@dataclass(slots=True)
class Requested:
    """The withdrawal, or `slug` and `detail` that say why there is none, `extra` what to do.

    `row` is the withdrawal with what it takes.
    """

    command: RequestWithdrawal
    withdrawal_id: int | None
    requested_at: datetime
    slug: str | None = None
    detail: str | None = None
    extra: Mapping[str, str] | None = None
    row: store.NewRow | None = None


async def request(
    tx: CellTx,
    commands: Sequence[RequestWithdrawal],
    *,
    limits: Mapping[str, Limits] | None = None,
    plans: Plans = NO_PLANS,
) -> list[Requested]:
    """Check each command and set its money aside; refusals are values.

    `limits` by currency, from the rule set in force, `plans` the fee plans in force. Slugs:
    `user-not-found`, `user-suspended`, `user-closed`, `destination-not-found`,
    `destination-closed`, `destination-paused`, `destination-not-usable-yet`,
    `account-under-review`, `amount-not-positive`, `amount-below-minimum`, `amount-above-maximum`,
    `debt-open`, `insufficient-funds`, `balance-closed`, those of `price` and of `proof.require`.
    """
    asked = await ask(tx, commands, [limits or {}] * len(commands), [plans] * len(commands))
    decided = await decide(tx, asked, range(len(commands)))
    async with tx.pipeline():
        await write(tx, decided)
    return decided.results


class _Draft(NamedTuple):
    """A withdrawal that may come to be, and how its money is set aside."""

    row: store.NewRow
    hold: Reserve


@dataclass(frozen=True, slots=True)
class Decided:
    """Outcomes whose money is set aside; `write` makes the rows that belong to it."""

    results: list[Requested]
    made: list[tuple[RequestWithdrawal, store.NewRow]]


@dataclass(frozen=True, slots=True)
class Asked:
    """Commands, and everything that was asked for to decide on them, or on some of them."""

    commands: Sequence[RequestWithdrawal]
    _plans: Sequence[Plans]
    _drafts: Sequence[_Draft | Fault]
    _quotes: Answer | None
    _books: Ready
    _facts: Answer

    async def judged(self, tx: CellTx, places: Sequence[int]) -> list[_Draft | Fault]:
        """What speaks against the commands at these places, apart from balance and proof."""
        quotes = await quote_store.locked(self._quotes)
        facts = await store.facts(self._facts)
        judged: list[_Draft | Fault] = []
        for place in places:
            command, draft = self.commands[place], self._drafts[place]
            fault = fault_of_facts(facts[place], tx.now)
            if fault is None and isinstance(draft, _Draft):
                priced = price(command, facts[place], quotes, self._plans[place], tx.now)
                judged.append(
                    _priced(draft, priced) if isinstance(priced, Charge) else priced or draft
                )
            else:
                judged.append(fault or draft)
        return judged

    async def reserve(self, tx: CellTx, drafts: Sequence[_Draft]) -> list[Posted]:
        """Set the money of each aside, in order, where it is there."""
        return await reserve(tx, [draft.hold for draft in drafts], self._books) if drafts else []


async def ask(
    tx: CellTx,
    commands: Sequence[RequestWithdrawal],
    limits: Sequence[Mapping[str, Limits]],
    plans: Sequence[Plans],
) -> Asked:
    """Lock quotes and accounts of commands, each with limits and plans of its own; ask for facts.

    The locks come first: what is read under them is what the decision rests on. Which accounts they
    are does not depend on what the withdrawal costs, so that is worked out when the facts are here.
    """
    if len(commands) > BATCH_LIMIT:
        raise Broken("batch-limit", f"{len(commands)} requests in one call; split them.")
    ids = iter(tx.ids(6 * len(commands)))
    drafts = [
        amount_fault(command, within.get(command.amount.currency)) or _draft(tx, command, ids)
        for command, within in zip(commands, limits, strict=True)
    ]
    named_quotes = [command.quote_id for command in commands if command.quote_id]
    quotes = await quote_store.ask_locked(tx, named_quotes) if named_quotes else None
    books = await ready(tx, [one.hold.entry for one in drafts if isinstance(one, _Draft)])
    facts = await store.ask_facts(
        tx,
        [c.user_id for c in commands],
        [c.destination_id for c in commands],
        [c.amount.currency for c in commands],
    )
    return Asked(commands, plans, drafts, quotes, books, facts)


async def decide(tx: CellTx, asked: Asked, places: Sequence[int]) -> Decided:
    """Check the commands at these places, in order, and set their money aside.

    In the same transaction `write` must follow.
    """
    commands = [asked.commands[place] for place in places]
    judged = await asked.judged(tx, places)
    faults = [None if isinstance(one, _Draft) else one for one in judged]
    proofs, unproven = await _proofs(tx, commands, faults)
    used = set[int]()
    for place, command in enumerate(commands):
        faults[place] = faults[place] or second_use(command, used)
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
        row = draft.row
        decided.results.append(Requested(command, row.id, tx.now, row=row))
        decided.made.append((command, row))
        if place in proofs:
            await proof.use(tx, proofs[place], named("wd", tx.cell, row.id))
    return decided


async def write(tx: CellTx, decided: Decided) -> None:
    """Withdrawals, their messages and audit records; nothing is asked back."""
    if decided.made:
        rows = [row for _, row in decided.made]
        used = [(row.quote_id, row.id) for row in rows if row.quote_id is not None]
        if used:
            await quote_store.use(tx, used)
        await store.insert(tx, WITHDRAWAL.initial.value, rows)
        await outbox.put(tx, [_message(tx, row) for row in rows])
        await audit.record(tx, [_act(tx, *made) for made in decided.made])
        await traces.link(tx, [row.trace_id for row in rows])


async def _proofs(
    tx: CellTx, commands: Sequence[RequestWithdrawal], faults: list[Fault | None]
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


_REFUSED: dict[Verdict, Fault] = {
    Verdict.INSUFFICIENT: ("insufficient-funds", "The available balance does not cover this."),
    Verdict.CLOSED: ("balance-closed", "The user's balance in this currency is closed."),
    Verdict.OVERFLOW: ("insufficient-funds", "The available balance does not cover this."),
}


def _refused(posted: Posted) -> Fault | None:
    """Why the books said no. Raises Broken when they say what they cannot say."""
    if posted.verdict is Verdict.POSTED:
        return None
    if posted.verdict in _REFUSED:
        return _REFUSED[posted.verdict]
    raise Broken("withdrawal-hold", f"A new hold was answered {posted.verdict}.")


def _draft(tx: CellTx, command: RequestWithdrawal, ids: Iterator[int]) -> _Draft:
    """A withdrawal as it is when it costs nothing."""
    minor, asset = command.amount.minor, command.amount.currency
    row = store.NewRow(
        next(ids),
        command.user_id,
        command.destination_id,
        minor,
        0,
        asset,
        next(ids),
        next(ids),
        next(ids),
        next(ids),
        next(ids),
        command.trace_id or tx.trace_id,
        minor,
        asset,
        quote_id=command.quote_id,
    )
    return _Draft(row, _hold(row, command.amount, named("wd", tx.cell, row.id)))


def _hold(row: store.NewRow, total: Money, subject: str) -> Reserve:
    postings = recipes.request(row.user_id, total)
    entry = Entry(row.entry_request, "request", subject, postings, trace_id=row.trace_id)
    return Reserve(row.hold_id, entry, "withdrawal", subject)


def _priced(draft: _Draft, charge: Charge) -> _Draft:
    """The withdrawal with what it costs."""
    row = draft.row._replace(
        amount=charge.amount,
        fee=charge.fee,
        payout_amount=charge.payout,
        payout_asset=charge.payout_asset,
        fee_payer=charge.payer,
        fee_back=charge.fee_back,
        fee_plan=charge.plan,
        rate=charge.rate,
    )
    return _Draft(row, _hold(row, charge.total, draft.hold.subject))


def _message(tx: CellTx, row: store.NewRow) -> outbox.Message:
    user = named("us", tx.cell, row.user_id)
    return outbox.Message(
        f"withdrawal.{WITHDRAWAL.initial.value}",
        user,
        {
            "id": named("wd", tx.cell, row.id),
            "user": user,
            "destination": named("de", tx.cell, row.destination_id),
            "amount": wired(row.amount, row.asset),
            "fee": wired(row.fee, row.asset),
            "payout": wired(row.payout_amount, row.payout_asset),
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
    detail: dict[str, Any] = {
        "user": named("us", tx.cell, row.user_id),
        "destination": named("de", tx.cell, row.destination_id),
        "amount": wire(command.amount),
    }
    if row.fee_plan is not None:
        detail |= {"fee": wired(row.fee, row.asset), "fee_plan": row.fee_plan}
    if row.quote_id is not None:
        payout = wired(row.payout_amount, row.payout_asset)
        detail |= {"quote": named("qt", tx.cell, row.quote_id), "payout": payout}
    return audit.Act(
        ACT,
        named("wd", tx.cell, row.id),
        detail=detail,
        actor=command.actor,
        trace_id=row.trace_id,
    )


def wire(money: Money) -> dict[str, str]:
    """Money as messages and answers write it."""
    return wired(money.minor, money.currency)


def wired(minor: int, currency: str) -> dict[str, str]:
    """Minor units of a currency as messages and answers write them."""
    return {"amount": _text(minor, currency), "currency": currency}


@lru_cache(maxsize=4096)
def _text(minor: int, currency: str) -> str:
    """Message, act and answer all name the same amounts."""
    return Money(minor, currency).text()
