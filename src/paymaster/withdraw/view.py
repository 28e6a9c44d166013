"""What people are shown: one withdrawal with its whole story, and lists of them.

Lists are paged by key, newest first. A cell answers for itself; the list of a whole environment is
the merge of its cells' pages, and one cursor of it holds for every cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from typing import Any, Literal

from paymaster.db import audit
from paymaster.db.traces import Traced
from paymaster.db.tx import CellRead
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound
from paymaster.kernel.ids import Ref, parse_text_id, text_id
from paymaster.kernel.money import Money
from paymaster.withdraw import holds, request, view_store
from paymaster.withdraw.machine import WAITING, State
from paymaster.withdraw.view_store import AttemptRow, EntryRow, MoveRow, Shown, VerdictRow

MAX_PAGE = 500
"""Rows of one page."""

_ABOVE_ALL = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Summary:
    """A withdrawal as a line of a list. `external_id` is the app's name of the user.

    `frozen`: a regulatory hold is on it; told to nobody, but its earner sees a review.
    """

    ref: Ref
    row: Shown
    frozen: bool = False

    @property
    def id(self) -> str:
        """The text id."""
        return text_id("wd", self.ref.cell, self.ref.id)

    @property
    def amount(self) -> Money:
        """What the user gives for it, without the fee."""
        return Money(self.row.amount, self.row.asset)

    @property
    def payout(self) -> Money:
        """What the payee gets, in the currency of the destination."""
        return Money(self.row.payout_amount, self.row.payout_asset)

    @property
    def fee(self) -> Money:
        """What is kept beside it."""
        return Money(self.row.fee, self.row.asset)

    @property
    def total(self) -> Money:
        """What is set aside for it."""
        return self.amount + self.fee

    @property
    def came_back(self) -> Money:
        """What its user has again when it comes back after it was paid."""
        return self.total if self.row.fee_back else self.amount

    @property
    def challenge(self) -> Literal["asked", "answered"] | None:
        """Whether a proof is asked of its user; `answered` until the rules have judged again."""
        if self.row.state != State.CHALLENGED:
            return None
        return "answered" if self.row.has_proof else "asked"

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        row, cell = self.row, self.ref.cell
        return {
            "id": self.id,
            "user": text_id("us", cell, row.user_id),
            "external_id": row.external_id,
            "destination": text_id("de", cell, row.destination_id),
            "destination_kind": row.destination_kind,
            "destination_mask": row.mask,
            "amount": _wire(self.amount),
            "fee": _wire(self.fee),
            "fee_payer": row.fee_payer,
            "payout": _wire(self.payout),
            "rate": row.rate,
            "quote": None if row.quote_id is None else text_id("qt", cell, row.quote_id),
            "state": row.state,
            "challenge": self.challenge,
            "reason": row.reason,
            "requested_at": rfc3339(row.requested_at),
            "trace_id": row.trace_id,
            "version": row.version,
        }

    def wire_own(self) -> dict[str, Any]:
        """For JSON, for the user: without the reason, which may be words of the staff."""
        waits = self.frozen and self.row.state in WAITING
        told = {**self.wire(), "reason": None}
        return {**told, "state": State.IN_REVIEW.value, "challenge": None} if waits else told


@dataclass(frozen=True, slots=True)
class Act:
    """What a person or a key did to it."""

    actor: str
    action: str
    reason: str | None
    acted_at: datetime
    trace_id: str


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that happened to one withdrawal, oldest first in each list."""

    summary: Summary
    moves: Sequence[MoveRow]
    attempts: Sequence[AttemptRow]
    verdicts: Sequence[VerdictRow]
    entries: Sequence[EntryRow]
    acts: Sequence[Act]

    def wire(self, *, holds: bool = True) -> dict[str, Any]:
        """For JSON, for staff: actors, reasons and the provider's own words are in it.

        `holds`: with what was done by order of an authority, for who may know of that.
        """
        cell = self.summary.ref.cell
        return {
            **self.summary.wire(),
            "moves": [_move(row) for row in self.moves],
            "attempts": [self._attempt(row) for row in self.attempts],
            "verdicts": [_verdict(cell, row) for row in self.verdicts],
            "entries": [self._entry(row) for row in self.entries],
            "acts": [
                {
                    "actor": row.actor,
                    "action": row.action,
                    "reason": row.reason,
                    "at": rfc3339(row.acted_at),
                    "trace_id": row.trace_id,
                }
                for row in self.acts
                if holds or not row.action.startswith("hold.")
            ],
        }

    def wire_own(self) -> dict[str, Any]:
        """For JSON, for the user: which way it went and when, without anybody else's words."""
        moves = [
            {
                "number": row.number,
                "from": row.source,
                "to": row.target,
                "at": rfc3339(row.moved_at),
            }
            for row in self.moves
        ]
        nothing: dict[str, Any] = {"attempts": [], "verdicts": [], "entries": [], "acts": []}
        return {**self.summary.wire_own(), "moves": moves, **nothing}

    def _attempt(self, row: AttemptRow) -> dict[str, Any]:
        return {
            "id": text_id("at", self.summary.ref.cell, row.id),
            "number": row.number,
            "key": row.key,
            "batch_key": row.batch_key,
            "state": row.state,
            "provider_id": row.provider_id,
            "code": row.code,
            "detail": row.detail,
            "tries": row.tries,
            "created_at": rfc3339(row.created_at),
            "resolved_at": rfc3339(row.resolved_at) if row.resolved_at else None,
            "booked_on": _day(row.booked_on),
            "returned_on": _day(row.returned_on),
            "routed": row.routed,
            "proof": row.proof_kind
            and {
                "kind": row.proof_kind,
                "evidence": row.proof_evidence,
                "at": rfc3339(row.proven_at) if row.proven_at else None,
            },
        }

    def _entry(self, row: EntryRow) -> dict[str, Any]:
        summary = self.summary
        moved = summary.total
        if row.kind == "returned":
            moved = summary.came_back
        elif row.repaid is not None:
            moved = Money(row.repaid, summary.row.asset)
        return {
            "id": text_id("en", summary.ref.cell, row.id),
            "kind": row.kind,
            "amount": _wire(moved),
            "effective_at": rfc3339(row.effective_at),
        }


def _move(row: MoveRow) -> dict[str, Any]:
    return {
        "number": row.number,
        "from": row.source,
        "event": row.event,
        "to": row.target,
        "actor": row.actor,
        "reason": row.reason,
        "at": rfc3339(row.moved_at),
        "seq": row.seq,
        "trace_id": row.trace_id,
    }


def _verdict(cell: int, row: VerdictRow) -> dict[str, Any]:
    return {
        "id": text_id("vd", cell, row.id),
        "outcome": row.outcome,
        "reasons": row.reasons,
        "rule_set_version": row.rule_set_version,
        "decided_at": rfc3339(row.decided_at),
    }


def _day(day: date | None) -> str | None:
    return day.isoformat() if day else None


def _wire(money: Money) -> dict[str, str]:
    return {"amount": money.text(), "currency": money.currency}


async def story(tx: CellRead, withdrawal_id: int, *, user_id: int | None = None) -> Story:
    """One withdrawal with all that happened to it; only if it is `user_id`'s, where given.

    Raises NotFound `not-found`.
    """
    summary = await one(tx, withdrawal_id, user_id=user_id)
    attempts = await view_store.attempts(tx, withdrawal_id)
    # What a person decided by hand is recorded under the attempt that it was about.
    about = [text_id("at", summary.ref.cell, row.id) for row in attempts]
    acts = await audit.of_subject(tx, summary.id, *about)
    repaid = await view_store.repayments(tx, [withdrawal_id])
    return Story(
        summary,
        await view_store.moves(tx, withdrawal_id),
        attempts,
        await view_store.verdicts(tx, withdrawal_id),
        [*await view_store.entries(tx, withdrawal_id), *repaid.values()],
        [Act(a.actor, a.action, a.reason, a.acted_at, a.trace_id) for a in acts],
    )


async def one(tx: CellRead, withdrawal_id: int, *, user_id: int | None = None) -> Summary:
    """One withdrawal; only if it is `user_id`'s, where given. Raises NotFound `not-found`."""
    rows = await view_store.shown(tx, [withdrawal_id])
    if not rows or user_id not in (None, rows[0].user_id):
        raise NotFound("not-found", "There is no such withdrawal.")
    return (await _summaries(tx, rows))[0]


async def of_trace(tx: CellRead, found: Traced, limit: int = 50) -> list[Story]:
    """The stories of the withdrawals that were asked for under a trace, oldest first."""
    asked = {parse_text_id("wd", act.subject).id for act in found.acts if act.name == request.ACT}
    return [await story(tx, one) for one in sorted(asked)[: _bounded(limit)]]


async def of_user(
    tx: CellRead, user_id: int, *, before: int | None = None, limit: int = 50
) -> list[Summary]:
    """A user's withdrawals, newest first; the next page starts before the last id shown."""
    below = _ABOVE_ALL if before is None else before
    return await _summaries(tx, await view_store.shown_of_user(tx, user_id, below, _bounded(limit)))


async def in_state(
    tx: CellRead, state: State | None, *, before: Ref | None = None, limit: int = 50
) -> list[Summary]:
    """This cell's part of an environment's list, of one state or of all; see `merge`.

    `before` is the last withdrawal shown, whichever cell it is in.
    """
    below = _ABOVE_ALL
    if before is not None:
        # The whole list is ordered by (id, cell): an equal id in a lower cell comes after it.
        below = before.id + 1 if tx.cell < before.cell else before.id
    if state is None:
        return _page(tx, await view_store.shown_all(tx, below, _bounded(limit)))
    return _page(tx, await view_store.shown_in_state(tx, state.value, below, _bounded(limit)))


def merge(pages: Iterable[Sequence[Summary]], limit: int = 50) -> list[Summary]:
    """The pages of several cells as one, newest first."""
    found = [summary for page in pages for summary in page]
    found.sort(key=lambda summary: (summary.ref.id, summary.ref.cell), reverse=True)
    return list(islice(found, limit))


async def counts(tx: CellRead) -> Mapping[str, int]:
    """How many withdrawals of this cell are in each state, states without any left out."""
    return await view_store.count_by_state(tx)


async def _summaries(tx: CellRead, rows: Sequence[Shown]) -> list[Summary]:
    frozen = await holds.frozen(tx, rows)
    return [Summary(Ref(tx.cell, row.id), row, row.id in frozen) for row in rows]


def _page(tx: CellRead, rows: Sequence[Shown]) -> list[Summary]:
    return [Summary(Ref(tx.cell, row.id), row) for row in rows]


def _bounded(limit: int) -> int:
    return max(1, min(limit, MAX_PAGE))
