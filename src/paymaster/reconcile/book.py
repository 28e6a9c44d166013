"""In the payout's cell: the payment or return that a statement line proves.

Money leaves clearing towards the treasury cell only here. A bank's line is proof that the payment
was executed, so the attempt is moved on to paid or returned first; then it is booked. Each attempt
is booked out once and back once: a second line for the same is refused, the same line asked again
gets the same answer. A bank that books a whole order as one sum is understood when the sum fits.

A line that says only that money was set apart is booked all the same and moves no attempt:
clearing is below zero by it, until the provider says paid or a line gives the money back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from paymaster.db import outbox
from paymaster.db.outbox import Outgoing
from paymaster.db.tx import CellTx
from paymaster.dispatch import outcome
from paymaster.dispatch.machine import AttemptState
from paymaster.kernel.clock import start_of_day
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import parse_text_id, text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.rails.base import Outcome, Verdict
from paymaster.reconcile import book_store, wire
from paymaster.reconcile.book_store import AttemptRow
from paymaster.reconcile.breaks import Kind
from paymaster.reconcile.payins import book as book_payins
from paymaster.reconcile.wire import Answer, Question

_KINDS: dict[str, Kind] = {
    "outcome-contradicts": Kind.ATTEMPT_CONTRADICTS,
    "withdrawal-stuck": Kind.ATTEMPT_CONTRADICTS,
    "outcome-amount-differs": Kind.AMOUNT_DIFFERS,
    "attempt-foreign": Kind.ACCOUNT_DIFFERS,
    "attempt-unknown": Kind.REFERENCE_UNKNOWN,
}
_PAID = frozenset({AttemptState.PAID, AttemptState.RETURNED})
_KNOWN_ALREADY = frozenset({None, "already", "superseded"})


@dataclass(slots=True)
class _Booking:
    """A line with the attempts that it would book."""

    question: Question
    attempts: list[AttemptRow]
    matched: str


@dataclass(slots=True)
class _Work:
    """One command while it is carried out."""

    rail_account_id: int
    treasury_cell: int
    statement: str
    answers: dict[str, Answer] = field(default_factory=dict[str, Answer])
    bookings: list[_Booking] = field(default_factory=list[_Booking])
    claimed: dict[tuple[int, bool], str] = field(default_factory=dict[tuple[int, bool], str])
    """By attempt and whether it comes back, the line of this command that is going to book it."""

    def line(self, question: Question, attempt: AttemptRow) -> str | None:
        """The line that has proved the same of this attempt before."""
        stored = attempt.returned_line if question.is_return else attempt.booked_line
        return stored or self.claimed.get((attempt.id, question.is_return))


async def book(tx: CellTx, source_cell: int, message: Outgoing) -> dict[str, int]:
    """Carry out `line.book` and answer with `line.booked`."""
    payload = message.payload
    questions = [Question.read(row) for row in payload["lines"]]
    account = parse_text_id("ra", payload["rail_account"])
    work = _Work(account.id, source_cell, payload["statement"])
    payins = await book_payins(tx, account.id, source_cell, work.statement, questions)
    work.answers.update(payins)
    found = await _attempts(tx, [one for one in questions if one.line not in payins])
    for question in questions:
        if question.line in payins:
            continue
        _judge(tx, work, question, found.get(question.key))
    await _apply(tx, work)
    await _post(tx, work)
    answers = [work.answers[question.line] for question in questions]
    command = outbox.Message(
        wire.BOOKED,
        payload["rail_account"],
        {"lines": [answer.write() for answer in answers]},
        target_cell=source_cell,
    )
    await outbox.put(tx, [command])
    return {"lines": len(answers), "refused": sum(not answer.ok for answer in answers)}


async def _attempts(
    tx: CellTx, questions: Sequence[Question]
) -> dict[str, tuple[str, list[AttemptRow]]]:
    """By key: what it names as text, and its attempts; one lock for all."""
    keys = [question.key for question in questions]
    batches = await book_store.find_batches(tx, keys)
    rows = await book_store.lock_attempts(tx, keys, list(batches))
    found: dict[str, tuple[str, list[AttemptRow]]] = {
        key: (text_id("ba", tx.cell, batch_id), [r for r in rows if r.batch_id == batch_id])
        for key, batch_id in batches.items()
    }
    wanted = frozenset(keys)
    found |= {r.key: (text_id("at", tx.cell, r.id), [r]) for r in rows if r.key in wanted}
    return found


def _judge(
    tx: CellTx, work: _Work, question: Question, found: tuple[str, list[AttemptRow]] | None
) -> None:
    """Answer what cannot be booked, or was booked by this very line; leave the rest as bookings."""
    matched, attempts = found or ("", [])
    same = [attempt for attempt in attempts if work.line(question, attempt) == question.line]
    if same:
        work.answers[question.line] = _done(tx, question, matched, same)
        return
    free = [attempt for attempt in attempts if work.line(question, attempt) is None]
    if matched.startswith("ba_") and question.proves:
        free = [attempt for attempt in free if attempt.state != "rejected"]
    if not attempts:
        _refuse(work, question, Kind.REFERENCE_UNKNOWN, "We have no payment of this reference.")
    elif not free:
        by = work.line(question, attempts[0])
        _refuse(work, question, Kind.BOOKED_TWICE, f"{matched} was booked already, by {by}.")
    elif any(attempt.withdrawal_id is None for attempt in free):
        said = f"{matched} holds a treasury transfer and cannot be booked as one sum."
        _refuse(work, question, Kind.REFERENCE_UNKNOWN, said)
    elif any(attempt.rail_account_id != work.rail_account_id for attempt in free):
        said = f"{matched} was ordered through another account."
        _refuse(work, question, Kind.ACCOUNT_DIFFERS, said)
    elif len({attempt.asset for attempt in free}) > 1 or free[0].asset != question.amount.currency:
        _refuse(work, question, Kind.AMOUNT_DIFFERS, f"{matched} is in another currency.")
    else:
        _judge_amount(work, question, matched, free)


def _judge_amount(
    work: _Work, question: Question, matched: str, attempts: list[AttemptRow]
) -> None:
    total = Money(sum(attempt.amount for attempt in attempts), question.amount.currency)
    accepted = question.accepted and matched.startswith("at_")
    if total != question.amount and not accepted:
        _refuse(work, question, Kind.AMOUNT_DIFFERS, f"{matched} is over {total}.", total)
        return
    for attempt in attempts:
        work.claimed[attempt.id, question.is_return] = question.line
    work.bookings.append(_Booking(question, attempts, matched))


def _refuse(
    work: _Work, question: Question, kind: Kind, detail: str, expected: Money | None = None
) -> None:
    work.answers[question.line] = Answer(
        question.line, False, kind.value, detail, expected=expected
    )


def _done(tx: CellTx, question: Question, matched: str, attempts: Sequence[AttemptRow]) -> Answer:
    return Answer(
        question.line,
        True,
        booked=Money(sum(a.amount for a in attempts), attempts[0].asset),
        matched=matched,
        subjects=[text_id("at", tx.cell, a.id) for a in attempts],
    )


def _is_apart(question: Question, attempt: AttemptRow) -> bool:
    """Whether the line says nothing about the payee, who may still have to accept the payment.

    What comes back after it was paid has been returned, whichever line says so.
    """
    if question.is_return and attempt.state in _PAID:
        return False
    return not question.proves or attempt.state == AttemptState.AWAITING


async def _apply(tx: CellTx, work: _Work) -> None:
    """Tell dispatch what the lines prove; what contradicts is refused, and not booked."""
    told: list[tuple[_Booking, Outcome]] = []
    for booking in work.bookings:
        question = booking.question
        verdict = Verdict.RETURNED if question.is_return else Verdict.PAID
        for attempt in booking.attempts:
            if _is_apart(question, attempt):
                attempt.apart = True
                continue
            amount = Money(attempt.amount, attempt.asset)
            code = question.code if verdict is Verdict.RETURNED else None
            told.append((booking, Outcome(attempt.key, verdict, code=code, amount=amount)))
    applied = await outcome.apply(
        tx,
        work.rail_account_id,
        [each for _, each in told],
        evidence=f"statement:{work.statement}",
    )
    for (booking, _), result in zip(told, applied, strict=True):
        if result.slug not in _KNOWN_ALREADY:
            kind = _KINDS.get(result.slug or "")
            if kind is None:
                raise Broken("outcome-slug", f"Dispatch answered {result.slug!r} to a booked line.")
            _refuse(work, booking.question, kind, result.detail or f"{booking.matched} refuses it.")


async def _post(tx: CellTx, work: _Work) -> None:
    """Post and mark what was not refused."""
    entries: list[Entry] = []
    booked: list[AttemptRow] = []
    ids = iter(tx.ids(sum(len(booking.attempts) for booking in work.bookings)))
    for booking in work.bookings:
        question = booking.question
        if question.line in work.answers:
            continue
        entries.extend(_entry(tx, work, next(ids), question, a) for a in booking.attempts)
        for attempt in booking.attempts:
            _mark(question, attempt)
            booked.append(attempt)
        work.answers[question.line] = _done(tx, question, booking.matched, booking.attempts)
    for result in await post(tx, entries):
        if not result.done:
            raise Broken("booking-refused", f"Clearing refused a booking: {result.verdict.value}.")
    await book_store.write_bookings(tx, list({row.id: row for row in booked}.values()))


def _mark(question: Question, attempt: AttemptRow) -> None:
    if question.is_return:
        attempt.returned_on, attempt.returned_line = question.booked_on, question.line
    else:
        attempt.booked_on, attempt.booked_line = question.booked_on, question.line


def _entry(
    tx: CellTx, work: _Work, entry_id: int, question: Question, attempt: AttemptRow
) -> Entry:
    amount = Money(attempt.amount, attempt.asset)
    recipe = recipes.unbooked_out if question.is_return else recipes.booked_out
    evidence: Mapping[str, str] = {"line": question.line, "statement": work.statement}
    return Entry(
        entry_id,
        "unbooked" if question.is_return else "booked",
        text_id("at", tx.cell, attempt.id),
        recipe(work.rail_account_id, work.treasury_cell, amount),
        effective_at=start_of_day(question.booked_on, tx.time_zone),
        evidence=evidence,
    )
