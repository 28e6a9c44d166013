"""Regulatory holds: an authority orders that nothing moves, under its reference.

A hold is on a user, a destination (and all of the same account details in its cell) or a
withdrawal. It is no state and no amount: it is a flag that
the guarded move looks at after it has locked the withdrawal, so that one that was committed a
moment before is seen. While any hold is open,

*   no request is taken from a held user or to a held destination,
*   nothing that people or workers may do moves a withdrawal that is under it: it is not approved,
    not sent, not cancelled, not denied, and its destination cannot be closed,
*   nothing is taken from what a held user has: a partner's claw-back waits, a person's is refused,
*   what the provider says of a payment under way happens all the same, because it has happened.

Each of several holds must be lifted. Then the workers go on where they were stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final, Protocol

from paymaster.db import audit, outbox
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn import clawback
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Conflict, NotFound, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.withdraw import holds_store as store
from paymaster.withdraw.holds_store import HoldRow
from paymaster.withdraw.machine import WAITING, State

LOOK_AGAIN: Final = timedelta(minutes=15)
"""How long workers leave a held withdrawal alone; lifting the hold wakes it at once."""

PREFIXES: Final = {"us": "user", "de": "destination", "wd": "withdrawal"}
"""What can be held, by the prefix of its text id."""

MAX_PAGE = 500
MAX_COVERED = 100
"""So many other destinations are shown with a hold; all of them are frozen."""

_ABOVE_ALL = 2**63 - 1
_LEAVING: Final = (*WAITING, State.SENDING.value, State.UNKNOWN.value)
"""What may still leave: also an order that never left, or that would be sent once more."""
_WOKEN: Final = (
    State.REQUESTED.value,
    State.SCREENING.value,
    State.CHALLENGED.value,
    State.APPROVED.value,
    State.QUEUED.value,
)


class _Subject(Protocol):
    """A withdrawal as far as holds are concerned."""

    @property
    def id(self) -> int: ...
    @property
    def user_id(self) -> int: ...
    @property
    def destination_id(self) -> int: ...


def hold_text(cell: int, hold_id: int) -> str:
    """The text id of a hold."""
    return text_id("lh", cell, hold_id)


def subject_text(cell: int, row: HoldRow) -> str:
    """The text id of what is held."""
    prefix = next(prefix for prefix, kind in PREFIXES.items() if kind == row.subject_kind)
    return text_id(prefix, cell, row.subject_id)


async def wires(tx: CellRead, rows: Sequence[HoldRow]) -> list[dict[str, Any]]:
    """Holds for JSON, for the staff, with what else they cover; earners never see one."""
    named = [row.subject_id for row in rows if row.subject_kind == "destination"]
    others = dict(await store.covered(tx, named, MAX_COVERED) if named else ())
    return [_wire(tx.cell, row, others.get(row.subject_id, ())) for row in rows]


async def wire(tx: CellRead, row: HoldRow) -> dict[str, Any]:
    """One hold for JSON."""
    return (await wires(tx, [row]))[0]


def _wire(cell: int, row: HoldRow, others: Iterable[int]) -> dict[str, Any]:
    return {
        "id": hold_text(cell, row.id),
        "subject": subject_text(cell, row),
        "subject_kind": row.subject_kind,
        "covers": [text_id("de", cell, one) for one in others],
        "user": text_id("us", cell, row.user_id),
        "reference": row.reference,
        "reason": row.reason,
        "state": "open" if row.lifted_at is None else "lifted",
        "placed_by": row.placed_by,
        "placed_at": rfc3339(row.placed_at),
        "lifted_by": row.lifted_by,
        "lift_reason": row.lift_reason,
        "lifted_at": row.lifted_at and rfc3339(row.lifted_at),
        "trace_id": row.trace_id,
    }


async def frozen(tx: CellRead, rows: Iterable[_Subject]) -> dict[int, str]:
    """Which of these withdrawals are held, with a reference, by withdrawal id."""
    asked = list(rows)
    if not asked:
        return {}
    found = await store.standing(tx, [], [], subjects(asked))
    return by_withdrawal(asked, found.held)


def subjects(rows: Iterable[_Subject]) -> list[int]:
    """Everything whose hold freezes one of these withdrawals."""
    return sorted({one for row in rows for one in (row.id, row.user_id, row.destination_id)})


def by_withdrawal(rows: Iterable[_Subject], held: dict[int, str]) -> dict[int, str]:
    """References by withdrawal, out of references by subject."""
    if not held:
        return {}
    return {
        row.id: held[one]
        for row in rows
        for one in (row.id, row.destination_id, row.user_id)
        if one in held
    }


def refusal(reference: str) -> Conflict:
    """What is answered to somebody who would move what is held. Not for earners."""
    return Conflict(
        "held-by-order",
        f"It is frozen under the order {reference!r}: nothing moves until every hold is lifted.",
        extra={"reference": reference},
    )


async def require_free(tx: CellRead, subject_ids: Sequence[int]) -> None:
    """Raises Conflict `held-by-order` when one of these users, destinations, ... is held."""
    found = await store.standing(tx, [], [], subject_ids)
    for reference in found.held.values():
        raise refusal(reference)


async def held_users(tx: CellTx, user_ids: Sequence[int]) -> dict[int, str]:
    """Which of these users are held, with a reference; no others until this transaction ends."""
    return await store.held_users(tx, user_ids)


async def require_free_user(tx: CellTx, user_id: int) -> None:
    """Raises Conflict `held-by-order` when a user is held. Nobody is until the transaction ends."""
    for reference in (await store.held_users(tx, [user_id])).values():
        raise refusal(reference)


async def place(tx: CellTx, kind: str, subject_id: int, reference: str, reason: str) -> HoldRow:
    """Freeze a user, a destination or a withdrawal (`kind`), under the authority's reference.

    What is being moved at this moment is waited for: once this transaction is committed, nothing
    that it freezes leaves any more. Raises NotFound `not-found`, Unprocessable `reason-missing`,
    Conflict `hold-placed-already` for the same reference on the same subject.
    """
    if not reference.strip() or not reason.strip():
        raise Unprocessable("reason-missing", "Give the order's reference, and why it is obeyed.")
    user_id = await _locked(tx, kind, subject_id)
    if user_id is None:
        raise NotFound("not-found", f"There is no such {kind}.")
    row = HoldRow(
        id=tx.id(),
        subject_kind=kind,
        subject_id=subject_id,
        user_id=user_id,
        reference=reference.strip(),
        reason=reason,
        placed_by=tx.actor.name,
        placed_at=tx.now,
        lifted_by=None,
        lift_reason=None,
        lifted_at=None,
        trace_id=tx.trace_id,
        version=1,
    )
    if not await store.insert(tx, row):
        raise Conflict("hold-placed-already", "It is held under this reference already.")
    await _tell(tx, row, "placed", reason)
    return row


async def _locked(tx: CellTx, kind: str, subject_id: int) -> int | None:
    """Lock a subject with every withdrawal under it that may still leave; whose it is.

    Withdrawals first, as everybody locks them before anything else; then the subject, upon which
    requests wait; then what was requested in between.
    """
    match kind:
        case "user":
            await store.lock_of_user(tx, subject_id, _LEAVING)
            user_id = await store.lock_user(tx, subject_id)
            await store.lock_of_user(tx, subject_id, _LEAVING)
        case "destination":
            alike = await store.alike(tx, subject_id)
            await store.lock_of_destinations(tx, alike, _LEAVING)
            user_id = (await store.lock_destinations(tx, alike)).get(subject_id)
            await store.lock_of_destinations(tx, alike, _LEAVING)
        case _:
            user_id = await store.lock_withdrawal(tx, subject_id)
    return user_id


async def lift(tx: CellTx, hold_id: int, reason: str) -> HoldRow:
    """Lift a hold. What is under no other one goes on at once.

    Raises NotFound `not-found`, Unprocessable `reason-missing`, Conflict `hold-lifted`.
    """
    row = await store.lock(tx, hold_id)
    if row is None:
        raise NotFound("not-found", "There is no hold of this id.")
    if not reason.strip():
        raise Unprocessable("reason-missing", "Say why: this act is recorded with its reason.")
    if row.lifted_at is not None:
        raise Conflict(
            "hold-lifted",
            f"It was lifted by {row.lifted_by} at {rfc3339(row.lifted_at)}.",
            extra={"lifted_by": row.lifted_by or "", "lifted_at": rfc3339(row.lifted_at)},
        )
    await store.lifted(tx, hold_id, reason)
    await store.wake(tx, row.subject_id, _WOKEN)
    if row.subject_kind == "user":
        await clawback.try_again(tx, row.subject_id)
    await _tell(tx, row, "lifted", reason)
    return await get(tx, hold_id)


async def get(tx: CellRead, hold_id: int) -> HoldRow:
    """One hold. Raises NotFound `not-found`."""
    row = await store.find(tx, hold_id)
    if row is None:
        raise NotFound("not-found", "There is no hold of this id.")
    return row


async def listing(
    tx: CellRead,
    is_open: bool | None = None,
    *,
    subject_id: int | None = None,
    below: int | None = None,
    limit: int = 50,
) -> list[HoldRow]:
    """Holds of this cell, newest first: open ones, lifted ones, or all (None)."""
    before = _ABOVE_ALL if below is None else below
    return await store.page(tx, is_open, subject_id, before, max(1, min(limit, MAX_PAGE)))


async def open_of_user(tx: CellRead, user_id: int) -> list[HoldRow]:
    """The open holds on a user, and on the user's destinations and withdrawals."""
    return await store.of_user(tx, user_id)


async def _tell(tx: CellTx, row: HoldRow, what: str, reason: str) -> None:
    """Audit and event. The event is ordered by the hold and names no earner by itself."""
    name, subject = hold_text(tx.cell, row.id), subject_text(tx.cell, row)
    detail = {"hold": name, "reference": row.reference}
    await audit.record(tx, [audit.Act(f"hold.{what}", subject, reason, detail)])
    payload = {
        "id": name,
        "subject": subject,
        "subject_kind": row.subject_kind,
        "reference": row.reference,
        "by": tx.actor.name,
        "at": rfc3339(tx.now),
    }
    await outbox.put(tx, [outbox.Message(f"hold.{what}", name, payload)])
