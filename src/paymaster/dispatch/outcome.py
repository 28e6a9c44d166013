"""The one place where an answer from outside changes an attempt and what it pays.

Answers come from the call itself, from queries, webhooks, bank reports and statements: twice, late,
in any order, or not at all. Each is judged against the attempt as it stands, so that the order does
not matter: a return that overtakes the payment posts the payment first; what repeats or trails
changes nothing; what contradicts what is known is not applied but reported, because money that was
given back and is nevertheless paid needs a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from paymaster.db import outbox_lines
from paymaster.db.outbox_lines import Line
from paymaster.db.tx import CellRead, CellTx
from paymaster.dispatch import confirmation, failures, proof, store, transfer
from paymaster.dispatch.failures import Category
from paymaster.dispatch.machine import ATTEMPT, AttemptEvent, AttemptState, TransferEvent
from paymaster.dispatch.policy import MOST_ORDERS
from paymaster.dispatch.proof import Proof, ProofKind
from paymaster.dispatch.store import AttemptChange, AttemptRow
from paymaster.dispatch.told import contradicted, moved_on, returned_too
from paymaster.dispatch.wording import impersonal
from paymaster.kernel.ids import text_id
from paymaster.rails.base import Confirmation, Outcome, Verdict
from paymaster.secrets.sealing import Sealer
from paymaster.withdraw import moves, pinned
from paymaster.withdraw.failing import pause_failing

ASK_UNKNOWN_AFTER: Final = timedelta(seconds=2)
"""How soon an attempt without an answer is asked about for the first time."""

ASK_SENT_AFTER: Final = timedelta(seconds=30)
"""How long an accepted attempt waits for the provider's message before it is asked about."""

ASK_AWAITING_AFTER: Final = timedelta(minutes=1)
"""How long a payee is left alone before the provider is asked for the first time."""

TIME_MAY_HELP: Final = frozenset({ProofKind.NEVER_SENT, ProofKind.NOT_FOUND})
"""Proofs of orders that were given up unpaid, for no fault of anybody's."""

ABOUT_THE_ACCOUNT: Final = frozenset({Category.FUNDS, Category.OURS, Category.PROVIDER})
"""Whose refusals say nothing against the payee: another account of ours may pay."""

_REQUEUE_AFTER: Final = timedelta(minutes=10)
_MAX_DETAIL: Final = 200

BREAKS: Final = frozenset({
    "outcome-contradicts", "outcome-amount-differs", "attempt-foreign", "withdrawal-stuck",
})  # fmt: skip
"""Slugs that a person has to look at."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What one answer did. `done`: something changed. `state` is the attempt's afterwards.

    Slugs of what changed nothing: `already` (the same is known), `superseded` (more is known),
    `not-found-proves-nothing`, `attempt-unknown`, and those in BREAKS.
    """

    key: str
    done: bool
    state: str | None
    slug: str | None
    detail: str | None = None
    attempt_id: int | None = None
    withdrawal_id: int | None = None
    transfer_id: int | None = None

    @property
    def is_break(self) -> bool:
        """Whether a person has to look at it."""
        return self.slug in BREAKS


_EVENTS: dict[Verdict, AttemptEvent] = {
    Verdict.ACCEPTED: AttemptEvent.ACCEPT,
    Verdict.AWAITING: AttemptEvent.AWAIT,
    Verdict.PAID: AttemptEvent.PAY,
    Verdict.REJECTED: AttemptEvent.REJECT,
    Verdict.RETURNED: AttemptEvent.RETURN,
    Verdict.UNKNOWN: AttemptEvent.LOSE,
}
_CONTRADICTIONS: frozenset[tuple[str, Verdict]] = frozenset({
    (AttemptState.REJECTED, Verdict.PAID),
    (AttemptState.REJECTED, Verdict.RETURNED),
    (AttemptState.PAID, Verdict.REJECTED),
})  # fmt: skip


@dataclass(slots=True)
class _Book:
    """The locked attempts as they change in memory, and what will be written."""

    rows: dict[str, AttemptRow]
    evidence: Sequence[str]
    changes: dict[int, AttemptChange] = field(default_factory=dict[int, AttemptChange])
    told: list[Line] = field(default_factory=list[Line])
    dead: dict[int, str] = field(default_factory=dict[int, str])
    failing: list[int] = field(default_factory=list[int])
    proofs: list[Proof] = field(default_factory=list[Proof])

    def ended(self) -> list[int]:
        """The attempts with their end that had something kept for their payee."""
        return [
            row.id
            for row in self.rows.values()
            if row.confirms and row.id in self.changes and row.state in _ENDED
        ]


async def apply(
    tx: CellTx,
    rail_account_id: int,
    outcomes: Sequence[Outcome],
    *,
    evidence: str | Sequence[str],
    sealer: Sealer | None = None,
) -> list[Applied]:
    """Apply what a rail account's provider says; one answer each, in order.

    `evidence` names where it was said (`send`, `query`, `webhook:ev_1`, `statement:sl_...`), for
    all outcomes or for each. With `sealer`, what a payee needs to accept a payment is kept.
    """
    if not outcomes:
        return []
    said_in = [evidence] * len(outcomes) if isinstance(evidence, str) else evidence
    rows = await store.lock_attempts(tx, [outcome.key for outcome in outcomes])
    book = _Book(rows, said_in)
    results: dict[int, Applied] = {}
    waiting = list(enumerate(outcomes))
    while waiting:
        wave: dict[str, tuple[int, Outcome]] = {}
        later = [item for item in waiting if wave.setdefault(item[1].key, item) != item]
        results.update(await _wave(tx, book, rail_account_id, list(wave.values())))
        waiting = later
    if book.changes:
        await store.write_attempts(tx, list(book.changes.values()))
    await proof.write(tx, book.proofs)
    await outbox_lines.put(tx, book.told)
    await confirmation.drop(tx, book.ended())
    if sealer is not None:
        await confirmation.keep(tx, sealer, _confirmations(book, outcomes))
    await _close_dead(tx, book.dead)
    await pause_failing(tx, book.failing)
    return [results[index] for index in range(len(outcomes))]


def _confirmations(book: _Book, outcomes: Sequence[Outcome]) -> dict[int, Confirmation]:
    """What came for attempts that wait for their payee now, by attempt; the last word counts."""
    found: dict[int, Confirmation] = {}
    for one in outcomes:
        row = book.rows.get(one.key)
        waits = row is not None and row.state == AttemptState.AWAITING
        if row is not None and waits and one.confirmation is not None:
            found[row.id] = one.confirmation
    return found


async def _close_dead(tx: CellTx, dead: Mapping[int, str]) -> None:
    """Close the destinations of withdrawals whose payment the provider called dead."""
    if not dead:
        return
    targets = await store.destinations_of(tx, list(dead))
    reasons = {targets[withdrawal_id]: reason for withdrawal_id, reason in dead.items()}
    for destination_id, reason in sorted(reasons.items()):
        await pinned.close_dead(tx, destination_id, reason)


async def payments_of(tx: CellRead, batch_key: str) -> list[str]:
    """The keys of the payments of an order, for answers that speak of it as a whole."""
    return await store.keys_of_batch(tx, batch_key)


async def _wave(
    tx: CellTx, book: _Book, rail_account_id: int, wave: Sequence[tuple[int, Outcome]]
) -> dict[int, Applied]:
    """At most one outcome for each attempt; a return takes two steps where none was paid."""
    results: dict[int, Applied] = {}
    first: list[tuple[int, Outcome, AttemptEvent]] = []
    for index, outcome in wave:
        row = book.rows.get(outcome.key)
        judged = _judge(row, rail_account_id, outcome)
        if isinstance(judged, AttemptEvent):
            first.append((index, outcome, judged))
        else:
            results[index] = judged
            if judged.is_break and row is not None:
                book.told.append(contradicted(tx, row, outcome, judged.slug, book.evidence[index]))
    results.update(await _step(tx, book, first))
    second = [
        (index, returned_too(outcome), AttemptEvent.RETURN)
        for index, outcome, event in first
        if event is AttemptEvent.PAY
        and results[index].done
        and (outcome.verdict is Verdict.RETURNED or book.rows[outcome.key].came_back)
    ]
    results.update(await _step(tx, book, second))
    return results


def _judge(
    row: AttemptRow | None, rail_account_id: int, outcome: Outcome
) -> AttemptEvent | Applied:
    """The next event, or why there is none."""
    if row is None:
        return Applied(outcome.key, False, None, "attempt-unknown", "We have no such reference.")
    if row.rail_account_id != rail_account_id:
        return _refused(row, "attempt-foreign", "Another rail account made this payment.")
    if outcome.verdict is Verdict.NOT_FOUND:
        return _refused(row, "not-found-proves-nothing", None)
    if outcome.amount is not None and outcome.amount != row.money:
        said = f"We ordered {row.money}, the provider speaks of {outcome.amount}."
        return _refused(row, "outcome-amount-differs", said)
    if (row.state, outcome.verdict) in _CONTRADICTIONS:
        said = f"The attempt is {row.state}; now it is said to be {outcome.verdict.value}."
        return _refused(row, "outcome-contradicts", said)
    event = _EVENTS[outcome.verdict]
    if ATTEMPT.allows(row.state, event):
        return event
    if event is AttemptEvent.RETURN and ATTEMPT.allows(row.state, AttemptEvent.PAY):
        return AttemptEvent.PAY
    same = any(m.target.value == row.state and m.event.value == event.value for m in ATTEMPT.moves)
    return _refused(row, "already" if same else "superseded", None)


def _refused(row: AttemptRow, slug: str, detail: str | None) -> Applied:
    return Applied(
        row.key, False, row.state, slug, detail, row.id, row.withdrawal_id, row.transfer_id
    )


async def _step(
    tx: CellTx, book: _Book, events: Sequence[tuple[int, Outcome, AttemptEvent]]
) -> dict[int, Applied]:
    """Move withdrawals and transfers, and with each of them its attempt."""
    refusals = await _move_withdrawals(tx, book, events) | await _move_transfers(tx, book, events)
    results: dict[int, Applied] = {}
    for index, outcome, event in events:
        row = book.rows[outcome.key]
        refusal = refusals.get(index)
        if refusal is not None:
            refused = _refused(row, "withdrawal-stuck", refusal)
            book.told.append(contradicted(tx, row, outcome, refused.slug, book.evidence[index]))
            results[index] = refused
            continue
        target = ATTEMPT.find(row.state, event).target.value
        changed = _change(tx, target, row, outcome, book.changes.get(row.id))
        if event is AttemptEvent.REJECT:
            said_in = book.evidence[index]
            book.proofs.append(proof.of(row.id, outcome, said_in))
            if _goes_on(row, outcome, said_in):
                changed = changed._replace(due_at=tx.now)
        book.changes[row.id] = changed
        moved = row._replace(state=target)
        book.rows[outcome.key] = moved
        book.told.append(moved_on(tx, moved, outcome, row.state, book.evidence[index]))
        _note_dead_destination(book, moved, outcome)
        results[index] = Applied(
            row.key, True, target, None, None, row.id, row.withdrawal_id, row.transfer_id
        )
    return results


async def _move_withdrawals(
    tx: CellTx, book: _Book, events: Sequence[tuple[int, Outcome, AttemptEvent]]
) -> dict[int, str]:
    """Move what the attempts pay: the reason of each refusal, by index."""
    chosen: list[tuple[int, moves.Step]] = []
    for index, outcome, event in events:
        row = book.rows[outcome.key]
        if row.withdrawal_id is not None:
            step = _withdrawal_step(tx, row, outcome, event, book.evidence[index])
            chosen.append((index, step))
    moved = await moves.move(tx, [step for _, step in chosen])
    return {
        index: f"The withdrawal is {one.state}: {one.slug}."
        for (index, _), one in zip(chosen, moved, strict=True)
        if not one.done and one.slug != "already"
    }


_FOLLOWS: dict[AttemptEvent, moves.Event] = {
    AttemptEvent.ACCEPT: moves.Event.ACCEPT,
    AttemptEvent.AWAIT: moves.Event.AWAIT,
    AttemptEvent.PAY: moves.Event.SETTLE,
    AttemptEvent.REJECT: moves.Event.REJECT,
    AttemptEvent.RETURN: moves.Event.RETURN,
    AttemptEvent.LOSE: moves.Event.LOSE,
}
"""What an attempt's event is for the withdrawal that it pays."""


def _goes_on(row: AttemptRow, outcome: Outcome, evidence: str) -> bool:
    """Whether a rejected order leaves its withdrawal in the queue; `failover` then decides."""
    if row.withdrawal_id is None or row.number >= MOST_ORDERS or row.cancels:
        return False
    if outcome.code == proof.AGAIN or proof.kind_of(evidence) in TIME_MAY_HELP:
        return True
    return failures.find(outcome.code).category in ABOUT_THE_ACCOUNT


def _withdrawal_step(
    tx: CellTx, row: AttemptRow, outcome: Outcome, event: AttemptEvent, evidence: str
) -> moves.Step:
    assert row.withdrawal_id is not None
    if event is AttemptEvent.REJECT and _goes_on(row, outcome, evidence):
        attempt = text_id("at", tx.cell, row.id)
        said = outcome.code or proof.kind_of(evidence).value
        return moves.Step(
            row.withdrawal_id,
            moves.Event.QUEUE,
            reason=f"{said}: attempt {attempt} was refused",
            rail_account_id=row.rail_account_id,
            due_at=tx.now + (timedelta(0) if said == proof.AGAIN else _REQUEUE_AFTER),
        )
    return moves.Step(
        row.withdrawal_id,
        _FOLLOWS[event],
        reason=_reason(outcome, event),
        rail_account_id=row.rail_account_id,
    )


def _reason(outcome: Outcome, event: AttemptEvent) -> str | None:
    if event in {AttemptEvent.REJECT, AttemptEvent.RETURN}:
        return outcome.code or impersonal(outcome.detail) or outcome.verdict.value
    return outcome.code if event is AttemptEvent.LOSE else None


async def _move_transfers(
    tx: CellTx, book: _Book, events: Sequence[tuple[int, Outcome, AttemptEvent]]
) -> dict[int, str]:
    """Transfers follow orders; that they were paid or came back, only statements say."""
    follows = {
        AttemptEvent.ACCEPT: TransferEvent.ACCEPT,
        AttemptEvent.AWAIT: TransferEvent.ACCEPT,
        AttemptEvent.PAY: TransferEvent.ACCEPT,
        AttemptEvent.REJECT: TransferEvent.REJECT,
        AttemptEvent.LOSE: TransferEvent.LOSE,
    }
    chosen: list[tuple[int, AttemptEvent, transfer.Step]] = []
    for index, outcome, event in events:
        row = book.rows[outcome.key]
        if row.transfer_id is not None and event in follows:
            reason = _reason(outcome, event)
            chosen.append((index, event, transfer.Step(row.transfer_id, follows[event], reason)))
    moved = await transfer.move(tx, [step for _, _, step in chosen])
    return {
        index: f"The transfer is {one.state}: {one.slug}."
        for (index, event, _), one in zip(chosen, moved, strict=True)
        if not one.done and event is AttemptEvent.REJECT
    }


_WAITS: dict[str, timedelta] = {
    AttemptState.UNKNOWN: ASK_UNKNOWN_AFTER,
    AttemptState.SENT: ASK_SENT_AFTER,
    AttemptState.AWAITING: ASK_AWAITING_AFTER,
}
_ENDED: Final = frozenset({AttemptState.PAID, AttemptState.REJECTED, AttemptState.RETURNED})


def _change(
    tx: CellTx, target: str, row: AttemptRow, outcome: Outcome, earlier: AttemptChange | None
) -> AttemptChange:
    wait = _WAITS.get(target)
    due_at: datetime | None = tx.now + wait if wait is not None else None
    detail = impersonal((outcome.detail or "")[:_MAX_DETAIL])
    return AttemptChange(
        id=row.id,
        state=target,
        provider_id=outcome.provider_id or (earlier.provider_id if earlier else None),
        code=outcome.code or (earlier.code if earlier else None),
        detail=detail or (earlier.detail if earlier else None),
        due_at=due_at,
        resolved_at=None if wait is not None else tx.now,
    )


def _note_dead_destination(book: _Book, row: AttemptRow, outcome: Outcome) -> None:
    """A destination that the provider calls dead is closed: nobody should pay it again.

    One of which it says so again and again, but not that it is dead, is paused.
    """
    ended = {AttemptState.REJECTED, AttemptState.RETURNED}
    if row.state not in ended or row.withdrawal_id is None:
        return
    failure = failures.find(outcome.code)
    if failure.closes_destination:
        book.dead[row.withdrawal_id] = outcome.code or ""
    if failure.counts_against_destination:
        book.failing.append(row.withdrawal_id)
