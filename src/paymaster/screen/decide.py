"""Withdrawals judged in batches: claimed, looked at, decided, moved.

    tx 1  claim    due ones -> `screening`, under a lease
          (between the two the caller may ask the directory how many users share a destination)
    tx 2  decide   facts from the cell, verdict by the pure rules, verdict row, move: all or nothing

A worker that dies in between loses its lease and another one claims again; one that was stopped
past its lease and goes on is refused by the fence. Windows are measured back from the moment of
the request, not of the judgement: a long queue does not let a burst of requests pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

import msgspec

from paymaster.db import lease
from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.clock import business_day, start_of_day
from paymaster.kernel.errors import Broken, PaymasterError
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.people import kyc
from paymaster.people.kyc import UNKNOWN, Known
from paymaster.screen import store
from paymaster.screen.facts import (
    Act,
    DestinationFacts,
    Facts,
    Figure,
    KycLevel,
    Scope,
    Standing,
    UserFacts,
    Window,
)
from paymaster.screen.judge import evaluate, replay
from paymaster.screen.rule_set import RuleSet
from paymaster.screen.store import NewVerdict, Span, Stored, Subject
from paymaster.screen.verdict import Outcome, Verdict
from paymaster.withdraw.machine import WITHDRAWAL, Event, State, posted
from paymaster.withdraw.moves import Moved, Step, Withdrawal, move, take_due

LEASE = timedelta(seconds=60)
"""How long a claimed batch is left to its claimer."""

MAX_CLAIMS = 5
"""A withdrawal that was claimed more often without a verdict goes to a person."""

EVENTS: dict[Outcome, Event] = {
    Outcome.APPROVED: Event.APPROVE,
    Outcome.CHALLENGE: Event.CHALLENGE,
    Outcome.REVIEW: Event.REVIEW,
    Outcome.DENIED: Event.DENY,
}
"""What each outcome does to a withdrawal."""

VOID = tuple(state for state in sorted(WITHDRAWAL.states()) if "release" in posted(state))
"""States of withdrawals that do not count towards a limit: their money went back."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A withdrawal that is ours to judge until the lease runs out."""

    withdrawal_id: int
    destination_id: int
    tries: int
    lease_token: int


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of a claimed withdrawal.

    `outcome` is None where nothing was decided: `lease-lost`, `illegal-move` (cancelled or held
    meanwhile), or `screening-failed` (no rule could judge it: it went to a person).
    """

    withdrawal_id: int
    outcome: Outcome | None
    state: str
    slug: str | None


async def claim(tx: CellTx, limit: int, length: timedelta = LEASE) -> list[Claimed]:
    """Take at most `limit` withdrawals that are due for screening; lost ones first."""
    token, until = tx.id(), tx.now + length
    again = await store.claim_again(tx, State.SCREENING.value, limit, until, token)
    claimed = [Claimed(row, destination, tries, token) for row, destination, tries in again]
    taken: list[Withdrawal] = []
    for state in WITHDRAWAL.sources(Event.SCREEN):
        room = limit - len(claimed) - len(taken)
        if room > 0:
            taken += await take_due(tx, State(state), room)
    moved = await move(
        tx,
        [Step(row.id, Event.SCREEN, due_at=until, lease_token=token) for row in taken],
        locked=[row._replace(lease_token=token) for row in taken],
    )
    return claimed + [
        Claimed(row.id, row.destination_id, row.tries + 1, token)
        for row, one in zip(taken, moved, strict=True)
        if one.done  # not what a regulatory hold keeps where it is
    ]


async def decide(
    tx: CellTx,
    claimed: Sequence[Claimed],
    rule_set: RuleSet,
    shared: Mapping[int, int] | None = None,
    prints: Mapping[int, Sequence[bytes]] | None = None,
) -> list[Decided]:
    """Judge claimed withdrawals and move them. `shared`: users in all cells, by destination id.

    `prints`, by destination id too: fingerprints under every version of the key; while it is
    rotated, rows of one destination are under different ones.
    Raises Broken `rule-set-differs` when this cell has judged by another set of this version.
    """
    if not claimed:
        return []
    await lease.permit(tx)
    if not await store.keep_rule_set(tx, rule_set.version, rule_set.data()):
        raise Broken("rule-set-differs", f"Rule set {rule_set.version} is kept with other rules.")
    facts = await gather(tx, claimed, rule_set.windows(), shared or {}, prints or {})
    verdicts: dict[int, Verdict] = {}
    steps: list[Step] = []
    for one in claimed:
        verdict = _judge(one, facts.get(one.withdrawal_id), rule_set)
        if isinstance(verdict, Verdict):
            verdicts[one.withdrawal_id] = verdict
            event, reason = EVENTS[verdict.outcome], _reason(verdict)
        else:
            event, reason = Event.REVIEW, verdict
        steps.append(Step(one.withdrawal_id, event, reason, lease_token=one.lease_token))
    moved = await move(tx, steps)
    told = [m for m in moved if (m.done or m.diverted) and m.withdrawal_id in verdicts]
    await store.insert_verdicts(
        tx,
        rule_set.version,
        [
            _row(one.withdrawal_id, verdicts[one.withdrawal_id], facts[one.withdrawal_id])
            for one in told
        ],
    )
    return [_decided(one, verdicts.get(one.withdrawal_id)) for one in moved]


def _judge(one: Claimed, facts: Facts | None, rule_set: RuleSet) -> Verdict | str:
    """The verdict, or the reason why a person must look."""
    if facts is None or one.tries > MAX_CLAIMS:
        return "screening-failed"
    try:
        return evaluate(facts, rule_set)
    except PaymasterError as error:
        return f"screening-failed: {error.slug}"


def _reason(verdict: Verdict) -> str | None:
    """The rules that led to the outcome, by their ids."""
    ids = [reason.rule for reason in verdict.reasons if reason.outcome is verdict.outcome]
    return ", ".join(dict.fromkeys(ids)) or None


def _decided(moved: Moved, verdict: Verdict | None) -> Decided:
    if not (moved.done or moved.diverted):
        return Decided(moved.withdrawal_id, None, moved.state, moved.slug)
    if verdict is None:
        return Decided(moved.withdrawal_id, None, moved.state, "screening-failed")
    return Decided(moved.withdrawal_id, verdict.outcome, moved.state, moved.slug)


def _row(withdrawal_id: int, verdict: Verdict, facts: Facts) -> NewVerdict:
    return NewVerdict(
        withdrawal_id,
        verdict.outcome.value,
        msgspec.json.encode(verdict.reasons),
        facts.canonical(),
        hashlib.sha256(verdict.canonical()).digest(),
    )


def check(stored: Stored) -> Verdict:
    """Reach a stored verdict again from its stored facts and rules.

    Raises Broken `verdict-differs` when it is not the same to the byte.
    """
    verdict = replay(stored.facts, stored.rules)
    if hashlib.sha256(verdict.canonical()).digest() != stored.digest:
        raise Broken("verdict-differs", f"The verdict on {stored.withdrawal_id} is another now.")
    return verdict


async def pass_challenge(tx: CellTx, withdrawal_id: int) -> bool:
    """The user has proven what was asked: the rules judge again, knowing it. False if not asked."""
    return await store.due_now(tx, withdrawal_id, State.CHALLENGED.value)


async def gather(
    tx: CellRead,
    claimed: Sequence[Claimed],
    windows: frozenset[Window],
    shared: Mapping[int, int],
    prints: Mapping[int, Sequence[bytes]] | None = None,
) -> dict[int, Facts]:
    """The facts of each claimed withdrawal: a statement for all subjects, one for each scope.

    What is known of who a user is counts as it is now: evidence that has expired since the request
    no longer counts, evidence that came since does.
    """
    subjects = await store.subjects(tx, [one.withdrawal_id for one in claimed])
    ordered = sorted(windows, key=lambda window: (window.scope, window.seconds or 0))
    nothing = [Figure(window, 0) for window in ordered]
    targets = {one.withdrawal_id: one.destination_id for one in claimed}
    known_as = {
        subject.id: {subject.fingerprint, *(prints or {}).get(targets[subject.id], ())}
        for subject in subjects
    }
    found: dict[int, list[store.Sum]] = {}
    for scope in Scope:
        spans = [
            Span(subject, index, _since(window, subject.requested_at, tx.time_zone), of)
            for index, window in enumerate(ordered)
            if window.scope is scope
            for subject in subjects
            for of in ([subject.user_id] if scope is Scope.USER else known_as[subject.id])
        ]
        for row in await store.sums(tx, scope, spans, VOID) if spans else []:
            found.setdefault(row.withdrawal_id, []).append(row)
    known = await kyc.known(tx, [subject.user_id for subject in subjects])
    in_cell = await store.users_of_fingerprints(tx, [p for each in known_as.values() for p in each])
    return {
        subject.id: _facts(
            tx.cell,
            subject,
            known.get(subject.user_id, UNKNOWN),
            _figures(nothing, found[subject.id]) if subject.id in found else nothing,
            max(
                sum(in_cell.get(one, 0) for one in known_as[subject.id]) or 1,
                shared.get(targets[subject.id], 1),
            ),
        )
        for subject in subjects
    }


def _since(window: Window, at: datetime, zone: str) -> datetime:
    if window.seconds is None:
        return _day_begun(at.replace(second=0, microsecond=0), zone)
    return at - timedelta(seconds=window.seconds)


@lru_cache(maxsize=4096)
def _day_begun(minute: datetime, zone: str) -> datetime:
    """When the business day of a minute began; no zone's day begins within one."""
    return start_of_day(business_day(minute, zone), zone)


def _figures(nothing: Sequence[Figure], sums: Sequence[store.Sum]) -> list[Figure]:
    """One figure for each window: what was found in it, or nothing."""
    found = list(nothing)
    for row in sums:
        before = found[row.window]
        amounts = (*before.amounts, Money(row.amount, row.asset))
        found[row.window] = Figure(before.window, before.count + row.requests, amounts)
    return found


def _facts(
    cell: int, subject: Subject, known: Known, figures: Sequence[Figure], users: int
) -> Facts:
    return Facts(
        act=Act.WITHDRAWAL,
        at=subject.requested_at,
        user=UserFacts(
            text_id("us", cell, subject.user_id),
            Standing(subject.user_status),
            KycLevel(known.level),
            subject.user_created_at,
            known.jurisdiction or msgspec.UNSET,
        ),
        amount=Money(subject.amount, subject.asset),
        destination=DestinationFacts(
            subject.destination_kind,
            subject.fingerprint.hex(),
            subject.destination_created_at,
            users,
        ),
        figures=tuple(figures),
        challenge_passed=subject.challenge_passed,
    )


async def stored_verdicts(tx: CellRead, withdrawal_id: int) -> list[Stored]:
    """The verdicts on a withdrawal with their facts and rules, oldest first, for `check`."""
    return await store.stored_verdicts(tx, withdrawal_id)
