"""`move`: the only way by which a withdrawal changes its state.

Rows are locked in order of id, each step is judged by the table in `machine.py`, the money of the
legal ones is posted, and then state, move, and message are written - all in the caller's
transaction. What may not happen is a value with a slug, so one bad step never stops a batch.

A step that carries a lease token is judged against the token in the row: a worker that was stopped
past its lease and resumed changes nothing. A step without one ends whatever lease there was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from paymaster.db import audit, outbox_lines
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Conflict, NotFound, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.withdraw import machine, store
from paymaster.withdraw.booking import Plan, book
from paymaster.withdraw.machine import WITHDRAWAL, Event, State
from paymaster.withdraw.store import Change, Withdrawal
from paymaster.withdraw.told import told

__all__ = [
    "Event", "Moved", "State", "Step", "Withdrawal", "act", "approve", "cancel", "deny", "hold",
    "lock", "move", "release", "reverse", "take_due", "take_queued",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One event for one withdrawal.

    `rail_account_id` is the account chosen (`queue`, `send`) or the one whose answer this is.
    `due_at` is when a worker should look next; None means the machine's own choice. `lease_token`
    is the fence: with it, the step happens only while that lease is the row's.
    """

    withdrawal_id: int
    event: Event
    reason: str | None = None
    rail_account_id: int | None = None
    due_at: datetime | None = None
    lease_token: int | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of a step: the state after it, and why not if it was not `done`.

    `diverted` means that the withdrawal went to a person instead of to the rail, because `slug`
    says how its user or destination stands.
    """

    withdrawal_id: int
    done: bool
    state: str
    slug: str | None
    diverted: bool = False


async def lock(tx: CellTx, withdrawal_id: int) -> None:
    """Let a withdrawal change no more until this transaction ends, but by this one."""
    await store.lock(tx, [withdrawal_id])


async def take_due(tx: CellTx, state: State, limit: int) -> list[Withdrawal]:
    """Lock at most `limit` due withdrawals of a state, oldest first, to be given to `move`."""
    return await store.take_due(tx, state.value, limit)


async def take_queued(tx: CellTx, rail_account_id: int, limit: int) -> list[Withdrawal]:
    """Lock at most `limit` due withdrawals that wait for a rail account, oldest first."""
    return await store.take_queued(tx, rail_account_id, limit)


async def move(
    tx: CellTx, steps: Sequence[Step], *, locked: Sequence[Withdrawal] | None = None
) -> list[Moved]:
    """Do what of the steps may be done; one answer each, in order.

    Steps for one withdrawal happen one after the other. `locked` are the rows of all steps, if this
    transaction has taken them and not changed them since. Slugs of what was not done: `not-found`,
    `lease-lost`, `already` (this event has led here before), `illegal-move`, `under-screening`,
    `reason-missing`, `rail-account-missing`, `rail-account-differs`, `user-suspended`,
    `user-closed`, `destination-closed`, `books-refused`.
    """
    if not steps:
        return []
    if locked is None:
        rows = await store.lock(tx, [step.withdrawal_id for step in steps])
    else:
        rows = {row.id: row for row in locked}
    faults = await _faults(tx, rows, steps)
    results: dict[int, Moved] = {}
    waiting = list(enumerate(steps))
    while waiting:
        wave: dict[int, tuple[int, Step]] = {}
        later = [item for item in waiting if wave.setdefault(item[1].withdrawal_id, item) != item]
        results.update(await _wave(tx, rows, faults, list(wave.values()), last=not later))
        waiting = later
    return [results[index] for index in range(len(steps))]


async def _faults(
    tx: CellTx, rows: Mapping[int, Withdrawal], steps: Sequence[Step]
) -> dict[int, str]:
    """How user or destination of withdrawals on their way to the rail stand, if not well.

    Asked in a statement after the lock, so that it sees what was committed meanwhile.
    """
    onward = [
        rows[step.withdrawal_id]
        for step in steps
        if step.event in machine.TOWARDS_THE_RAIL and step.withdrawal_id in rows
    ]
    if not onward:
        return {}
    users, closed = await store.not_standing(
        tx, [row.user_id for row in onward], [row.destination_id for row in onward]
    )
    if not users and not closed:
        return {}
    return {
        row.id: f"user-{users[row.user_id]}" if row.user_id in users else "destination-closed"
        for row in onward
        if row.user_id in users or row.destination_id in closed
    }


async def _wave(
    tx: CellTx,
    rows: dict[int, Withdrawal],
    faults: Mapping[int, str],
    wave: Sequence[tuple[int, Step]],
    *,
    last: bool,
) -> dict[int, Moved]:
    """One step for each withdrawal; `rows` then shows them as they are after it, if not `last`."""
    results: dict[int, Moved] = {}
    plans: list[Plan] = []
    for index, step in wave:
        row = rows.get(step.withdrawal_id)
        judged = _judge(index, row, step, faults.get(step.withdrawal_id))
        if isinstance(judged, Plan):
            plans.append(judged)
        else:
            results[index] = Moved(step.withdrawal_id, False, row.state if row else "", judged)
    booked = await book(tx, plans)
    done = [plan for plan in plans if booked.get(plan.place, True)]
    for plan in plans if len(done) < len(plans) else ():
        if not booked.get(plan.place, True):
            results[plan.place] = Moved(plan.row.id, False, plan.row.state, "books-refused")
    changes = [_change(tx, plan) for plan in done]
    if changes:
        await store.write_states(tx, changes)
        await store.write_moves(tx, WITHDRAWAL.name, changes)
        await outbox_lines.put(tx, told(tx, [plan.row for plan in done], changes))
    for plan, change in zip(done, changes, strict=True):
        slug = plan.slug
        results[plan.place] = Moved(change.id, slug is None, change.target, slug, slug is not None)
        if not last:
            rows[change.id] = _after(plan.row, change)
    return results


def _after(row: Withdrawal, change: Change) -> Withdrawal:
    return row._replace(
        state=change.target,
        number=change.number,
        rail_account_id=change.rail_account_id,
        lease_token=change.lease_token,
        version=change.version + 1,
        tries=0,
    )


def _judge(index: int, row: Withdrawal | None, step: Step, fault: str | None) -> Plan | str:
    """The plan for a step, or the slug that says why there is none."""
    if row is None:
        return "not-found"
    if step.lease_token is not None and step.lease_token != row.lease_token:
        return "lease-lost"
    if not WITHDRAWAL.allows(row.state, step.event):
        been = row.number > 0 and machine.entered_by(row.state) == step.event
        return "already" if been else "illegal-move"
    if step.lease_token is None and (row.state, step.event) in machine.LEASED:
        return "under-screening"
    if machine.needs_reason(row.state, step.event) and not (step.reason or "").strip():
        return "reason-missing"
    if fault is not None and step.event in machine.TOWARDS_THE_RAIL:
        if not WITHDRAWAL.allows(row.state, Event.REVIEW):
            return fault
        return Plan(index, row, step, WITHDRAWAL.find(row.state, Event.REVIEW), fault, fault)
    if step.event not in machine.CHOOSES_RAIL:
        if step.rail_account_id not in (None, row.rail_account_id):
            return "rail-account-differs"
    elif step.event == Event.SEND and step.rail_account_id is None and row.rail_account_id is None:
        return "rail-account-missing"
    return Plan(index, row, step, WITHDRAWAL.find(row.state, step.event), step.reason)


def _change(tx: CellTx, plan: Plan) -> Change:
    row, step, target = plan.row, plan.step, plan.move.target
    due_at = step.due_at if plan.slug is None else None
    if due_at is None and target in machine.DUE_AT_ONCE:
        due_at = tx.now
    chosen = step.rail_account_id if step.event in machine.CHOOSES_RAIL else None
    return Change(
        row.id,
        row.version,
        row.number + 1,
        row.state,
        plan.move.event.value,
        target.value,
        plan.reason,
        chosen if chosen is not None else row.rail_account_id,
        due_at,
        step.lease_token or 0,
    )


async def act(tx: CellTx, steps: Sequence[Step]) -> list[Moved]:
    """`move` on behalf of a user or an operator: only what people may ask for, and audited.

    Further slug: `not-for-people`.
    """
    results: dict[int, Moved] = {
        index: Moved(step.withdrawal_id, False, "", "not-for-people")
        for index, step in enumerate(steps)
        if step.event not in machine.BY_PEOPLE
    }
    allowed = [(index, step) for index, step in enumerate(steps) if index not in results]
    moved = await move(tx, [step for _, step in allowed])
    results.update({index: one for (index, _), one in zip(allowed, moved, strict=True)})
    acts = [
        audit.Act(
            f"withdrawal.{step.event.value}",
            text_id("wd", tx.cell, step.withdrawal_id),
            step.reason,
            {"done": one.done, "state": one.state, "slug": one.slug},
        )
        for (_, step), one in zip(allowed, moved, strict=True)
        if one.slug != "not-found"
    ]
    await audit.record(tx, acts)
    return [results[index] for index in range(len(steps))]


async def cancel(tx: CellTx, user_id: int, withdrawal_id: int, reason: str | None = None) -> Moved:
    """The user takes the request back. Twice is harmless: `already`, nothing changed.

    Raises NotFound `not-found` (also for another user's), Conflict `illegal-move` once it is with
    the rail or over.
    """
    if await store.owner(tx, withdrawal_id) != user_id:
        raise NotFound("not-found", "There is no such withdrawal.")
    return await _one(tx, Step(withdrawal_id, Event.CANCEL, reason))


async def approve(tx: CellTx, withdrawal_id: int, reason: str | None = None) -> Moved:
    """An operator lets it go to the rail.

    Raises Conflict `under-screening`, `illegal-move`, `user-suspended`, `user-closed` or
    `destination-closed`; NotFound `not-found`.
    """
    return await _one(tx, Step(withdrawal_id, Event.APPROVE, reason))


async def deny(tx: CellTx, withdrawal_id: int, reason: str) -> Moved:
    """An operator refuses it; the money is available again. Raises as `approve` does."""
    return await _one(tx, Step(withdrawal_id, Event.DENY, reason))


async def hold(tx: CellTx, withdrawal_id: int, reason: str) -> Moved:
    """An operator freezes it. Raises Conflict `illegal-move` once it is with the rail."""
    return await _one(tx, Step(withdrawal_id, Event.HOLD, reason))


async def release(tx: CellTx, withdrawal_id: int, reason: str) -> Moved:
    """An operator lifts a hold; it is judged anew. Raises Conflict `illegal-move`."""
    return await _one(tx, Step(withdrawal_id, Event.RELEASE, reason))


async def reverse(tx: CellTx, withdrawal_id: int, reason: str) -> Moved:
    """An operator books a paid withdrawal as come back, on evidence named in `reason`.

    Raises Conflict `illegal-move` unless it is paid.
    """
    return await _one(tx, Step(withdrawal_id, Event.RETURN, reason))


_SAYS = {
    "illegal-move": "It is {state}; that cannot be done any more, or not yet.",
    "under-screening": "It is being screened at this moment; try again in a few seconds.",
    "user-suspended": "The user is suspended: lift that first, or deny the withdrawal.",
    "user-closed": "The user's account is closed: deny the withdrawal.",
    "destination-closed": "The destination is closed: deny the withdrawal, the money goes back.",
    "books-refused": "The books refused the posting; `paymaster ledger prove` names the reason.",
}


async def _one(tx: CellTx, step: Step) -> Moved:
    moved = (await act(tx, [step]))[0]
    match moved.slug:
        case None | "already":
            return moved
        case "not-found":
            raise NotFound("not-found", "There is no such withdrawal.")
        case "reason-missing":
            raise Unprocessable("reason-missing", "Say why: this act is recorded with its reason.")
        case slug:
            raise Conflict(slug, _SAYS.get(slug, slug).format(state=moved.state))
