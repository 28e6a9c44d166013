"""`move`: the only way by which a withdrawal changes its state.

Rows are locked in order of id, each step is judged by the table in `machine.py`, the money of the
legal ones is posted, and then state, move, and message are written - all in the caller's
transaction. What may not happen is a value with a slug, so one bad step never stops a batch.

A step that carries a lease token is judged against the token in the row: a worker that was stopped
past its lease and resumed changes nothing. A step without one ends whatever lease there was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from paymaster.db import audit, outbox_lines
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import NotFound, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.withdraw import holds, holds_store, machine, refused, store
from paymaster.withdraw.booking import Plan, book
from paymaster.withdraw.machine import WITHDRAWAL, Event, State, Who
from paymaster.withdraw.store import Change, Withdrawal
from paymaster.withdraw.told import told

__all__ = [
    "Event", "Moved", "State", "Step", "Who", "Withdrawal", "act", "approve", "ask_proof", "cancel",
    "deny", "hold", "lock", "move", "release", "reverse", "review", "take", "take_due",
    "take_queued", "waits",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One event for one withdrawal.

    `rail_account_id` is the account chosen (`queue`, `send`) or the one whose answer this is.
    `due_at` is when a worker should look next; None means the machine's own choice. `lease_token`
    is the fence: with it, the step happens only while that lease is the row's. `by` None is the
    course of work: a worker, or what the provider says.
    """

    withdrawal_id: int
    event: Event
    reason: str | None = None
    rail_account_id: int | None = None
    due_at: datetime | None = None
    lease_token: int | None = None
    by: Who | None = None

    @property
    def by_people(self) -> bool:
        """Whether a user or an operator asks for it."""
        return self.by in (Who.USER, Who.OPERATOR)


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of a step: the state after it, and why not if it was not `done`.

    `diverted` means that the withdrawal went to a person instead of to the rail, because `slug`
    says how its user or destination stands. `order` is the reference of the regulatory hold that
    stands in the way.
    """

    withdrawal_id: int
    done: bool
    state: str
    slug: str | None
    diverted: bool = False
    order: str | None = None


async def lock(tx: CellTx, withdrawal_id: int) -> None:
    """Let a withdrawal change no more until this transaction ends, but by this one."""
    await store.lock(tx, [withdrawal_id])


async def take(tx: CellTx, withdrawal_ids: Sequence[int]) -> list[Withdrawal]:
    """Lock these withdrawals, to be given to `move`; in their order."""
    rows = await store.lock(tx, withdrawal_ids)
    return [rows[number] for number in withdrawal_ids if number in rows]


async def take_due(tx: CellTx, state: State, limit: int) -> list[Withdrawal]:
    """Lock at most `limit` due withdrawals of a state, oldest first, to be given to `move`."""
    return await store.take_due(tx, state.value, limit)


async def take_queued(tx: CellTx, rail_account_id: int, limit: int) -> list[Withdrawal]:
    """Lock at most `limit` due withdrawals that wait for a rail account, oldest first."""
    return await store.take_queued(tx, rail_account_id, limit)


async def waits(tx: CellTx, rail_account_id: int) -> bool:
    """Whether anything due waits for a rail account, also what others have locked."""
    return await store.waits(tx, rail_account_id)


async def move(
    tx: CellTx, steps: Sequence[Step], *, locked: Sequence[Withdrawal] | None = None
) -> list[Moved]:
    """Do what of the steps may be done; one answer each, in order.

    Steps for one withdrawal happen one after the other. `locked` are the rows of all steps, if this
    transaction has taken them and not changed them since. Slugs of what was not done: `not-found`,
    `lease-lost`, `already` (this event has led here before), `illegal-move`, `under-screening`,
    `reason-missing`, `rail-account-missing`, `rail-account-differs`, `user-suspended`,
    `user-closed`, `destination-closed`, `destination-paused`, `held-by-order`, `books-refused`.
    """
    if not steps:
        return []
    if locked is None:
        rows = await store.lock(tx, [step.withdrawal_id for step in steps])
    else:
        rows = {row.id: row for row in locked}
    against = await _against(tx, rows, steps)
    results: dict[int, Moved] = {}
    waiting = list(enumerate(steps))
    while waiting:
        wave: dict[int, tuple[int, Step]] = {}
        later = [item for item in waiting if wave.setdefault(item[1].withdrawal_id, item) != item]
        results.update(await _wave(tx, rows, against, list(wave.values()), last=not later))
        waiting = later
    stopped = [
        one.withdrawal_id
        for index, one in results.items()
        if one.order is not None and not steps[index].by_people
    ]
    if stopped:
        await holds_store.postpone(tx, stopped, tx.now + holds.LOOK_AGAIN)
    return [results[index] for index in range(len(steps))]


@dataclass(frozen=True, slots=True)
class _Against:
    """What stands against steps, by withdrawal: a fault of user or destination; a hold."""

    faults: Mapping[int, str] = field(default_factory=dict[int, str])
    orders: Mapping[int, str] = field(default_factory=dict[int, str])


async def _against(tx: CellTx, rows: Mapping[int, Withdrawal], steps: Sequence[Step]) -> _Against:
    """How user or destination stand, of what is on its way to the rail; which ones are held.

    Asked in a statement after the lock, so that it sees what was committed meanwhile. What only
    says what the provider did is not asked about.
    """
    asked = {
        step.withdrawal_id: rows[step.withdrawal_id]
        for step in steps
        if step.withdrawal_id in rows and (step.by_people or step.event not in machine.FACTS)
    }
    if not asked:
        return _Against()
    towards = {step.withdrawal_id for step in steps if step.event in machine.TOWARDS_THE_RAIL}
    onward = [row for row in asked.values() if row.id in towards]
    users, destinations, held = await holds_store.standing(
        tx,
        [row.user_id for row in onward],
        [row.destination_id for row in onward],
        holds.subjects(asked.values()),
    )
    faults = {
        row.id: f"user-{users[row.user_id]}"
        if row.user_id in users
        else f"destination-{destinations[row.destination_id]}"
        for row in onward
        if row.user_id in users or row.destination_id in destinations
    }
    return _Against(faults, holds.by_withdrawal(asked.values(), held))


async def _wave(
    tx: CellTx,
    rows: dict[int, Withdrawal],
    against: _Against,
    wave: Sequence[tuple[int, Step]],
    *,
    last: bool,
) -> dict[int, Moved]:
    """One step for each withdrawal; `rows` then shows them as they are after it, if not `last`."""
    results: dict[int, Moved] = {}
    plans: list[Plan] = []
    for index, step in wave:
        row = rows.get(step.withdrawal_id)
        judged = _judge(index, row, step, against)
        if isinstance(judged, Plan):
            plans.append(judged)
        else:
            order = against.orders[step.withdrawal_id] if judged == _HELD else None
            state = row.state if row else ""
            results[index] = Moved(step.withdrawal_id, False, state, judged, order=order)
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


_HELD = "held-by-order"


def _judge(index: int, row: Withdrawal | None, step: Step, against: _Against) -> Plan | str:
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
    found = WITHDRAWAL.find(row.state, step.event)
    if step.by is not None and step.by not in found.by:
        return "illegal-move"
    if row.id in against.orders and (step.by_people or Who.PROVIDER not in found.by):
        return _HELD
    if machine.needs_reason(row.state, step.event) and not (step.reason or "").strip():
        return "reason-missing"
    fault = against.faults.get(row.id)
    if fault is not None and step.event in machine.TOWARDS_THE_RAIL:
        if not WITHDRAWAL.allows(row.state, Event.REVIEW):
            return fault
        return Plan(index, row, step, WITHDRAWAL.find(row.state, Event.REVIEW), fault, fault)
    if step.event not in machine.CHOOSES_RAIL:
        if step.rail_account_id not in (None, row.rail_account_id):
            return "rail-account-differs"
    elif step.event == Event.SEND and step.rail_account_id is None and row.rail_account_id is None:
        return "rail-account-missing"
    return Plan(index, row, step, found, step.reason)


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
    """The user takes the request back. Twice by one caller is harmless: `already`.

    Raises NotFound `not-found` (also for another user's), Conflict `illegal-move` once it is with
    the rail or over, or was cancelled by somebody else; Conflict `held-by-order`.
    """
    if await store.owner(tx, withdrawal_id) != user_id:
        raise NotFound("not-found", "There is no such withdrawal.")
    return await _one(tx, Step(withdrawal_id, Event.CANCEL, reason, by=Who.USER))


async def approve(tx: CellTx, withdrawal_id: int, reason: str | None = None) -> Moved:
    """An operator lets it go to the rail.

    Raises Conflict `under-screening`, `illegal-move`, `held-by-order`, `user-suspended`,
    `user-closed` or `destination-closed`; NotFound `not-found`. A conflict says who did what before
    and when.
    """
    return await _one(tx, Step(withdrawal_id, Event.APPROVE, reason, by=Who.OPERATOR))


async def deny(tx: CellTx, withdrawal_id: int, reason: str) -> Moved:
    """An operator refuses it; the money is available again. Raises as `approve` does."""
    return await _one(tx, Step(withdrawal_id, Event.DENY, reason, by=Who.OPERATOR))


async def review(tx: CellTx, withdrawal_id: int, reason: str) -> Moved:
    """An operator wants another look before it goes. Raises as `approve` does."""
    return await _one(tx, Step(withdrawal_id, Event.REVIEW, reason, by=Who.OPERATOR))


async def ask_proof(tx: CellTx, withdrawal_id: int, reason: str) -> Moved:
    """An operator who reviews it lets the user prove who they are. Raises as `approve` does."""
    return await _one(tx, Step(withdrawal_id, Event.CHALLENGE, reason, by=Who.OPERATOR))


async def hold(tx: CellTx, withdrawal_id: int, reason: str) -> Moved:
    """An operator freezes it. Raises as `approve` does; `illegal-move` once it is with the rail."""
    return await _one(tx, Step(withdrawal_id, Event.HOLD, reason, by=Who.OPERATOR))


async def release(tx: CellTx, withdrawal_id: int, reason: str) -> Moved:
    """An operator lifts a hold; it is judged anew. Raises as `approve` does."""
    return await _one(tx, Step(withdrawal_id, Event.RELEASE, reason, by=Who.OPERATOR))


async def reverse(tx: CellTx, withdrawal_id: int, reason: str) -> Moved:
    """An operator books a paid withdrawal as come back, on evidence named in `reason`.

    Raises as `approve` does; `illegal-move` unless it is paid.
    """
    return await _one(tx, Step(withdrawal_id, Event.RETURN, reason, by=Who.OPERATOR))


async def _one(tx: CellTx, step: Step) -> Moved:
    """One act; what it could not do is raised, and says what stood in its way."""
    moved = (await act(tx, [step]))[0]
    match moved.slug:
        case None:
            return moved
        case "not-found":
            raise NotFound("not-found", "There is no such withdrawal.")
        case "reason-missing":
            raise Unprocessable("reason-missing", "Say why: this act is recorded with its reason.")
        case "held-by-order":
            raise holds.refusal(moved.order or "")
        case slug:
            before = await holds_store.last_move(tx, step.withdrawal_id)
            if slug == "already" and before is not None and before.actor == tx.actor.name:
                return moved
            raise refused.because(slug, moved.state, before)
