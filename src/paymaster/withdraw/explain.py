"""Why a withdrawal stands as it does: what happened, where the money is, who acts next.

The same facts make two accounts. The earner's has no words that somebody of the staff typed, no
names, no codes of the provider, and nothing of an order by an authority: whoever stopped it, he
reads that it is under review. The staff's has all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from paymaster.db.tx import CellRead
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.ids import text_id
from paymaster.kernel.language import Language, Words
from paymaster.kernel.money import Money
from paymaster.rails import failures
from paymaster.rails.failures import Failure, Who
from paymaster.withdraw import holds, view, view_store, words
from paymaster.withdraw.fees import readable
from paymaster.withdraw.machine import State
from paymaster.withdraw.view import Summary
from paymaster.withdraw.view_store import AttemptRow, EntryRow, MoveRow
from paymaster.withdraw.words import ANSWERED, UNDER_REVIEW, StateWords

_OVER: Final = frozenset({State.FAILED, State.RETURNED})
_WITH_THE_RAIL: Final = frozenset({State.SENDING, State.UNKNOWN, State.SENT, State.AWAITING_PAYEE})
_TO_BE_SENT: Final = frozenset({State.APPROVED, State.QUEUED})
_SETTLED: Final = frozenset({"with-payee", "back"})
_SAID_ONCE: Final = frozenset({"checking", "under-review"})
"""Stages of which the earner is told once, however often it goes to and fro inside."""

_PEOPLE: Final = ("person:", "key:", "cli")
"""Whose outcomes are not a provider's: the beginnings of actors."""

_HIS_DESTINATION: Final = frozenset({"destination-paused", "destination-closed"})
"""Reasons for a review that are the earner's own business."""

_APPS: Final = frozenset({"wechat", "alipay"})
"""Kinds of destinations whose payees accept a payment in an app that has a name."""

_OURS: Final = frozenset({"no-route", "waiting-for-funds"})
"""Reasons to wait that end when somebody of ours connects an account, or sends money there."""


@dataclass(frozen=True, slots=True)
class Expected:
    """When it should be with the payee, at the latest; None where nobody can tell."""

    by: datetime | None
    now: datetime

    @property
    def late(self) -> bool:
        """Whether that time has passed."""
        return self.by is not None and self.by < self.now

    def wire(self, language: Language, *, over: bool = False) -> dict[str, Any]:
        """For JSON. `over`: it was paid, or the money is back."""
        kind = "over" if over else "unknown" if self.by is None else "late" if self.late else "by"
        said = words.common("expected", kind).text(language)
        written = None if self.by is None else f"{self.by:%Y-%m-%d %H:%M} UTC"
        return {
            "by": None if self.by is None else rfc3339(self.by),
            "late": self.late,
            "message": said.replace("{by}", written or ""),
        }


@dataclass(frozen=True, slots=True)
class Explained:
    """The facts, from one snapshot. `order` is the reference of a regulatory hold on it.

    `repayment`: what of the money that came back paid what its user owed.
    """

    summary: Summary
    moves: Sequence[MoveRow]
    attempts: Sequence[AttemptRow]
    order: str | None
    repayment: EntryRow | None = None

    @property
    def attempt(self) -> AttemptRow | None:
        """The latest order to a provider."""
        return self.attempts[-1] if self.attempts else None

    @property
    def sent_at(self) -> datetime | None:
        """When the latest order was made."""
        return None if self.attempt is None else self.attempt.created_at

    @property
    def repaid(self) -> Money:
        """How much of what came back paid what its user owed, and is not in the balance."""
        minor = None if self.repayment is None else self.repayment.repaid
        return Money(minor or 0, self.summary.row.asset)

    def where(self, language: Language) -> dict[str, Any]:
        """Where the money is, for JSON."""
        place, repaid = self.stands.money, self.repaid
        return {
            "where": place,
            "message": self._all_of(words.common("money", place), language),
            "repaid": _money(repaid) if repaid else None,
        }

    def _all_of(self, back: Words, language: Language) -> str:
        """Words that say that money is back, and how much of it is not in the balance."""
        if not self.repaid:
            return back.text(language)
        said = back.and_then(words.common("debt", "repaid")).text(language)
        return said.replace("{amount}", str(self.repaid))

    @property
    def stands(self) -> StateWords:
        """How it stands for its earner: what is frozen before it left is under review."""
        answered = self.summary.challenge == "answered"
        own = words.of(ANSWERED if answered else self.summary.row.state)
        return words.of(UNDER_REVIEW) if self._frozen else own

    @property
    def _frozen(self) -> bool:
        return self.order is not None and words.of(self.summary.row.state).money == "set-aside"

    def now(self, language: Language) -> str:
        """How it stands in words; of what waits for its payee, until when and where."""
        attempt, row = self.attempt, self.summary.row
        if row.state != State.AWAITING_PAYEE or attempt is None:
            return self.stands.now.text(language)
        if attempt.cancel_at is not None:
            return words.common("accept", "taken-back").text(language)
        if attempt.accept_by is None:
            return self.stands.now.text(language)
        kind = row.destination_kind if row.destination_kind in _APPS else "app"
        said = words.common("accept", "by").text(language)
        said = said.replace("{app}", words.common("accept", kind).text(language))
        return said.replace("{until}", f"{attempt.accept_by:%Y-%m-%d %H:%M} UTC")

    def failure(self, rail: str | None) -> Failure | None:
        """What went wrong, if something did that the earner may know of."""
        row = self.summary.row
        last = self.moves[-1] if self.moves else None
        if row.state in _OVER and last is not None and last.actor.startswith(_PEOPLE):
            return failures.find("decided-by-hand", rail)
        if row.state in _OVER:
            # A person's reason is words; the provider's code is with the order that it was about.
            coded = self.attempt is not None and self.attempt.code and self._is_provider(last)
            return failures.find(self.attempt.code if coded and self.attempt else row.reason, rail)
        if row.state == State.QUEUED and last is not None and last.source in _WITH_THE_RAIL:
            return failures.find(row.reason, rail)
        if row.state == State.IN_REVIEW and row.reason in _HIS_DESTINATION:
            return failures.find(row.reason, rail)
        return None

    def _is_provider(self, last: MoveRow | None) -> bool:
        code = (last.reason if last is not None else None) or ""
        return self.attempt is not None and code.partition(":")[0] == self.attempt.code

    def next(self, failure: Failure | None) -> Who:
        """Who acts next."""
        if self.summary.row.state in _OVER:
            return "user" if failure is not None and failure.who == "user" else "nobody"
        if failure is not None and self.summary.row.state == State.QUEUED:
            return failure.who if failure.who != "user" else "paymaster"
        row = self.summary.row
        if row.state == State.AWAITING_PAYEE and self.attempt and self.attempt.cancel_at:
            return "provider"
        if row.state in _TO_BE_SENT and (row.reason or "").partition(";")[0] in _OURS:
            return "operator"
        return self.stands.next

    def wire(
        self, language: Language, *, staff: bool, rail: str | None, expected: Expected
    ) -> dict[str, Any]:
        """For JSON, for the earner or for the staff."""
        summary, stands, failure = self.summary, self.stands, self.failure(rail)
        who, row = self.next(failure), self.summary.row
        moved: dict[str, Any] = {
            "withdrawal": summary.id,
            "user": text_id("us", summary.ref.cell, row.user_id),
            "destination": text_id("de", summary.ref.cell, row.destination_id),
            "stage": stands.stage,
            "message": self.now(language),
            "challenge": None if self._frozen and not staff else summary.challenge,
            "money": self.where(language),
            "next": {"who": who, "message": words.common("next", who).text(language)},
            "expected": expected.wire(language, over=stands.money in _SETTLED),
            "failure": None if failure is None else failure.wire(language, staff=staff),
            "history": [self._step(one, language, staff=staff) for one in self._steps(staff)],
            "receipt": self.receipt(),
        }
        return {**moved, "staff": self._staff(language, rail) if staff else None}

    def _staff(self, language: Language, rail: str | None) -> dict[str, Any]:
        row, cell = self.summary.row, self.summary.ref.cell
        stands = ANSWERED if self.summary.challenge == "answered" else row.state
        return {
            "state": row.state,
            "message": words.of(stands).staff.text(language),
            "reason": row.reason,
            "order": self.order,
            "rail": rail,
            "destination_state": row.destination_state,
            "attempts": [
                {
                    "id": text_id("at", cell, one.id),
                    "key": one.key,
                    "state": one.state,
                    "code": one.code,
                    "detail": one.detail,
                    "operator": failures.find(one.code, rail).operator.text(language)
                    if one.code
                    else None,
                    "routed": one.routed,
                    "proof": one.proof_kind,
                    "created_at": rfc3339(one.created_at),
                    "resolved_at": _time(one.resolved_at),
                }
                for one in self.attempts
            ],
        }

    def _steps(self, staff: bool) -> Iterator[MoveRow | None]:
        """The request, as None, and the moves; for the earner without what says nothing new."""
        yield None
        shown = words.of(State.REQUESTED).stage
        for one in self.moves:
            stage = words.of(one.target).stage
            if staff or stage != shown or stage not in _SAID_ONCE:
                yield one
            shown = stage

    def _step(self, one: MoveRow | None, language: Language, *, staff: bool) -> dict[str, Any]:
        if one is None:
            said = words.of(State.REQUESTED)
            step = {"at": rfc3339(self.summary.row.requested_at), "stage": said.stage}
            told: dict[str, Any] = {**step, "message": said.then.text(language)}
            return {**told, "state": State.REQUESTED.value} if staff else told
        said = words.of(one.target)
        then, ends = _then(one, said), said.money == "back"
        told = {
            "at": rfc3339(one.moved_at),
            "stage": said.stage,
            "message": self._all_of(then, language) if ends else then.text(language),
        }
        if not staff:
            return told
        return {
            **told,
            "state": one.target,
            "event": one.event,
            "actor": one.actor,
            "reason": one.reason,
            "trace_id": one.trace_id,
        }

    def receipt(self) -> dict[str, Any]:
        """Amounts, references and dates, as far as there are any yet."""
        summary, attempt = self.summary, self.attempt
        when = {one.target: one.moved_at for one in self.moves}
        return {
            "reference": None if attempt is None else attempt.key,
            "provider_id": None if attempt is None else attempt.provider_id,
            "amount": _money(summary.amount),
            "fee": _money(summary.fee),
            "fee_payer": summary.row.fee_payer,
            "total": _money(summary.total),
            "payout": _money(summary.payout),
            "rate": None if summary.row.rate is None else readable(summary.row.rate),
            "requested_at": rfc3339(summary.row.requested_at),
            "sent_at": _time(self.sent_at),
            "paid_at": _time(when.get(State.PAID)),
            "booked_on": attempt.booked_on.isoformat() if attempt and attempt.booked_on else None,
            "returned_at": _time(when.get(State.RETURNED)),
        }


def _then(move: MoveRow, said: StateWords) -> Words:
    if move.target == State.REQUESTED:
        return words.common("then", "again")
    if move.target == State.QUEUED and move.source in _WITH_THE_RAIL:
        return words.common("then", "resent")
    return said.then


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def _money(money: Money) -> dict[str, str]:
    return {"amount": money.text(), "currency": money.currency}


async def gather(tx: CellRead, withdrawal_id: int, *, user_id: int | None = None) -> Explained:
    """The facts about a withdrawal; only if it is `user_id`'s, where given.

    Raises NotFound `not-found`.
    """
    summary = await view.one(tx, withdrawal_id, user_id=user_id)
    frozen = await holds.frozen(tx, [summary.row])
    repaid = await view_store.repayments(tx, [withdrawal_id])
    return Explained(
        summary,
        await view_store.moves(tx, withdrawal_id),
        await view_store.attempts(tx, withdrawal_id),
        frozen.get(withdrawal_id),
        repaid.get(withdrawal_id),
    )
