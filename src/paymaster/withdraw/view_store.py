"""The SQL of what people are shown. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, LiteralString

from paymaster.db.tx import CellRead
from paymaster.kernel.ids import text_id


@dataclass(frozen=True, slots=True)
class Shown:
    """A withdrawal with what people are shown beside it.

    `has_proof`: it is challenged, and its user has given the proof: it is judged again soon.
    """

    id: int
    user_id: int
    external_id: str
    destination_id: int
    destination_kind: str
    mask: str
    amount: int
    fee: int
    asset: str
    state: str
    reason: str | None
    rail_account_id: int | None
    requested_at: datetime
    trace_id: str
    version: int
    payout_amount: int
    payout_asset: str
    fee_payer: str
    quote_id: int | None
    rate: str | None
    fee_back: bool
    destination_state: str
    has_proof: bool


_SHOWN: LiteralString = """
    SELECT w.id, w.user_id, u.external_id, w.destination_id, d.kind AS destination_kind, d.mask,
        w.amount, w.fee, w.asset, w.state, w.reason, w.rail_account_id, w.requested_at, w.trace_id,
        w.version, w.payout_amount, w.payout_asset, w.fee_payer, w.quote_id, w.rate, w.fee_back,
        d.state AS destination_state,
        w.state = 'challenged' AND w.due_at IS NOT NULL AS has_proof
    FROM withdrawal w JOIN app_user u ON u.id = w.user_id
        JOIN destination d ON d.id = w.destination_id
"""


async def shown(tx: CellRead, ids: Sequence[int]) -> list[Shown]:
    """Withdrawals by id, newest first."""
    return await tx.fetch(_SHOWN + "WHERE w.id = ANY(%s) ORDER BY w.id DESC", (list(ids),), Shown)


async def shown_of_user(tx: CellRead, user_id: int, below: int, limit: int) -> list[Shown]:
    """A user's withdrawals with ids below a bound, newest first."""
    return await tx.fetch(
        _SHOWN + "WHERE w.user_id = %s AND w.id < %s ORDER BY w.id DESC LIMIT %s",
        (user_id, below, limit),
        Shown,
    )


async def shown_in_state(tx: CellRead, state: str, below: int, limit: int) -> list[Shown]:
    """The withdrawals in a state with ids below a bound, newest first."""
    return await tx.fetch(
        _SHOWN + "WHERE w.state = %s AND w.id < %s ORDER BY w.id DESC LIMIT %s",
        (state, below, limit),
        Shown,
    )


async def shown_all(tx: CellRead, below: int, limit: int) -> list[Shown]:
    """All withdrawals with ids below a bound, newest first."""
    return await tx.fetch(
        _SHOWN + "WHERE w.id < %s ORDER BY w.id DESC LIMIT %s", (below, limit), Shown
    )


async def count_by_state(tx: CellRead) -> dict[str, int]:
    """How many withdrawals are in each state that has some."""
    return dict(await tx.tuples("SELECT state, count(*) FROM withdrawal GROUP BY state"))


@dataclass(frozen=True, slots=True)
class MoveRow:
    """A move as it was recorded."""

    number: int
    source: str
    event: str
    target: str
    actor: str
    reason: str | None
    moved_at: datetime
    seq: int
    trace_id: str


async def moves(tx: CellRead, withdrawal_id: int) -> list[MoveRow]:
    """The moves of a withdrawal, oldest first."""
    return await tx.fetch(
        """
        SELECT m.number, m.source, m.event, m.target, m.actor, m.reason, m.moved_at,
            c.first_seq + m.ordinal AS seq, c.trace_id
        FROM withdrawal_move m JOIN commit c ON c.id = m.commit_id
        WHERE m.withdrawal_id = %s ORDER BY m.number
        """,
        (withdrawal_id,),
        MoveRow,
    )


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An order to a provider; with `proof_`, why it is known that it pays nobody.

    `accept_by` is until when its payee can accept it, `cancel_at` since when it is to be taken
    back.
    """

    id: int
    number: int
    rail_account_id: int
    key: str
    batch_key: str
    state: str
    provider_id: str | None
    code: str | None
    detail: str | None
    tries: int
    created_at: datetime
    resolved_at: datetime | None
    booked_on: date | None
    returned_on: date | None
    routed: str | None = None
    proof_kind: str | None = None
    proof_evidence: str | None = None
    proven_at: datetime | None = None
    accept_by: datetime | None = None
    cancel_at: datetime | None = None


async def attempts(tx: CellRead, withdrawal_id: int) -> list[AttemptRow]:
    """The attempts to pay a withdrawal, oldest first."""
    return await tx.fetch(
        """
        SELECT a.id, a.number, a.rail_account_id, a.key, b.batch_key, a.state, a.provider_id,
            a.code, a.detail, a.tries, a.created_at, a.resolved_at, a.booked_on, a.returned_on,
            a.routed, p.kind AS proof_kind, p.evidence AS proof_evidence, p.proven_at,
            c.expires_at AS accept_by, a.cancel_at
        FROM attempt a JOIN batch b ON b.id = a.batch_id
            LEFT JOIN attempt_proof p ON p.attempt_id = a.id
            LEFT JOIN confirmation c ON c.attempt_id = a.id
        WHERE a.withdrawal_id = %s ORDER BY a.number
        """,
        (withdrawal_id,),
        AttemptRow,
    )


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """What screening said; `reasons` as stored."""

    id: int
    rule_set_version: int
    outcome: str
    reasons: list[dict[str, Any]]
    decided_at: datetime


async def verdicts(tx: CellRead, withdrawal_id: int) -> list[VerdictRow]:
    """The verdicts on a withdrawal, oldest first."""
    return await tx.fetch(
        "SELECT id, rule_set_version, outcome, reasons, decided_at FROM verdict"
        " WHERE withdrawal_id = %s ORDER BY id",
        (withdrawal_id,),
        VerdictRow,
    )


@dataclass(frozen=True, slots=True)
class EntryRow:
    """An entry in the books made for a withdrawal; `repaid` is what one moved that paid a debt."""

    id: int
    kind: str
    effective_at: datetime
    repaid: int | None = None


async def entries(tx: CellRead, withdrawal_id: int) -> list[EntryRow]:
    """The entries of a withdrawal in the order in which they were made."""
    return await tx.fetch(
        """
        SELECT e.id, e.kind, e.effective_at
        FROM withdrawal w JOIN entry e ON e.id = ANY(
                ARRAY[w.entry_request, w.entry_release, w.entry_paid, w.entry_returned])
            JOIN commit c ON c.id = e.commit_id
        WHERE w.id = %s ORDER BY c.first_seq + e.ordinal
        """,
        (withdrawal_id,),
        EntryRow,
    )


async def repayments(tx: CellRead, ids: Sequence[int]) -> dict[int, EntryRow]:
    """The entries by which money that came free paid back what was owed, by withdrawal.

    They are of the commit in which it came free.
    """
    rows = await tx.tuples(
        """
        SELECT n.id, r.id, r.kind, r.effective_at, p.amount
        FROM unnest(%s::bigint[], %s::text[]) AS n (id, subject)
            JOIN withdrawal w ON w.id = n.id
            JOIN entry e ON e.id = ANY(ARRAY[w.entry_release, w.entry_returned])
            JOIN entry r ON r.commit_id = e.commit_id AND r.kind = 'recover'
                AND r.subject = n.subject
            JOIN posting p ON p.id BETWEEN r.first_posting_id AND r.last_posting_id
                AND p.entry_id = r.id
        WHERE p.amount > 0
        """,
        (list(ids), [text_id("wd", tx.cell, one) for one in ids]),
    )
    return {row[0]: EntryRow(*row[1:]) for row in rows}
