"""`move`: the only way by which a withdrawal changes its state.

Rows are locked in order of id, each step is judged by the table in `machine.py`, the money of the
legal ones is posted, and then state, move, and message are written - all in the caller's
transaction. What may not happen is a value with a slug, so one bad step never stops a batch.

A step that carries a lease token is judged against the token in the row: a worker that was stopped
past its lease and resumed changes nothing. A step without one ends whatever lease there was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from paymaster.db import audit, outbox
from paymaster.db.tx import CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Broken, Conflict, NotFound, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.kernel.machine import Move
from paymaster.ledger import recipes
from paymaster.ledger.balance import owing
from paymaster.ledger.entry import Entry
from paymaster.ledger.hold import Settle, settle
from paymaster.ledger.post import post
from paymaster.withdraw import machine, store
from paymaster.withdraw.machine import WITHDRAWAL, Event, State
from paymaster.withdraw.store import Change, Withdrawal

__all__ = [
    "Event", "Moved", "State", "Step", "act", "approve", "cancel", "deny", "hold", "move",
    "release", "reverse",
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


@dataclass(frozen=True, slots=True)
class _Plan:
    """A step that the table allows; `slug` is set when it was turned into a review."""

    index: int
    row: Withdrawal
    step: Step
    move: Move
    reason: str | None
    slug: str | None = None


async def move(tx: CellTx, steps: Sequence[Step]) -> list[Moved]:
    """Do what of the steps may be done; one answer each, in order.

    Steps for one withdrawal happen one after the other. Slugs of what was not done: `not-found`,
    `lease-lost`, `already` (this event has led here before), `illegal-move`, `under-screening`,
    `reason-missing`, `rail-account-missing`, `rail-account-differs`, `user-suspended`,
    `user-closed`, `destination-closed`, `books-refused`.
    """
    if not steps:
        return []
    rows = await store.lock(tx, [step.withdrawal_id for step in steps])
    standing = (
        await store.standing(tx, list(rows))
        if any(step.event in machine.TOWARDS_THE_RAIL for step in steps)
        else {}
    )
    faults = {key: fault for key, row in standing.items() if (fault := _fault(row))}
    results: dict[int, Moved] = {}
    waiting = list(enumerate(steps))
    while waiting:
        wave: dict[int, tuple[int, Step]] = {}
        later = [item for item in waiting if wave.setdefault(item[1].withdrawal_id, item) != item]
        results.update(await _wave(tx, rows, faults, list(wave.values())))
        waiting = later
    return [results[index] for index in range(len(steps))]


async def _wave(
    tx: CellTx,
    rows: dict[int, Withdrawal],
    faults: dict[int, str],
    wave: Sequence[tuple[int, Step]],
) -> dict[int, Moved]:
    """One step for each withdrawal; `rows` then shows them as they are after it."""
    results: dict[int, Moved] = {}
    plans: list[_Plan] = []
    for index, step in wave:
        row = rows.get(step.withdrawal_id)
        judged = _judge(index, row, step, faults.get(step.withdrawal_id))
        if isinstance(judged, _Plan):
            plans.append(judged)
        else:
            results[index] = Moved(step.withdrawal_id, False, row.state if row else "", judged)
    booked = await _book(tx, plans)
    done = [plan for plan in plans if booked.get(plan.index, True)]
    for plan in plans:
        if not booked.get(plan.index, True):
            results[plan.index] = Moved(plan.row.id, False, plan.row.state, "books-refused")
    changes = [_change(tx, plan) for plan in done]
    if changes:
        await store.write_states(tx, changes)
        await store.write_moves(tx, WITHDRAWAL.name, changes)
        await outbox.put(tx, [_message(tx, p.row, c) for p, c in zip(done, changes, strict=True)])
    for plan, change in zip(done, changes, strict=True):
        rows[plan.row.id] = replace(
            plan.row,
            state=change.target,
            number=change.number,
            rail_account_id=change.rail_account_id,
            lease_token=change.lease_token,
            version=change.version + 1,
        )
        diverted = plan.slug is not None
        results[plan.index] = Moved(plan.row.id, not diverted, change.target, plan.slug, diverted)
    return results


def _fault(row: store.Standing) -> str | None:
    if row.user_status != "active":
        return f"user-{row.user_status}"
    return "destination-closed" if row.destination_state != "active" else None


def _judge(index: int, row: Withdrawal | None, step: Step, fault: str | None) -> _Plan | str:
    """The plan for a step, or the slug that says why there is none."""
    if row is None:
        return "not-found"
    if step.lease_token is not None and step.lease_token != row.lease_token:
        return "lease-lost"
    if not WITHDRAWAL.allows(row.state, step.event):
        been = row.number > 0 and machine.entered_by(row.state) == step.event
        return "already" if been else "illegal-move"
    if (row.state, step.event) in machine.LEASED and step.lease_token is None:
        return "under-screening"
    if machine.needs_reason(row.state, step.event) and not (step.reason or "").strip():
        return "reason-missing"
    if step.event in machine.TOWARDS_THE_RAIL and fault is not None:
        if not WITHDRAWAL.allows(row.state, Event.REVIEW):
            return fault
        return _Plan(index, row, step, WITHDRAWAL.find(row.state, Event.REVIEW), fault, fault)
    if step.event not in machine.CHOOSES_RAIL:
        if step.rail_account_id not in (None, row.rail_account_id):
            return "rail-account-differs"
    elif step.event == Event.SEND and step.rail_account_id is None and row.rail_account_id is None:
        return "rail-account-missing"
    return _Plan(index, row, step, WITHDRAWAL.find(row.state, step.event), step.reason)


async def _book(tx: CellTx, plans: Sequence[_Plan]) -> dict[int, bool]:
    """Post the money of each plan that has some: whether the books took it, by index."""
    out_of_hold: list[tuple[int, Settle]] = []
    back: list[tuple[int, Entry]] = []
    for plan in plans:
        row, index = plan.row, plan.index
        match plan.move.recipe:
            case "release":
                postings = recipes.release(row.user_id, row.total)
                entry = _entry(tx, plan, row.entry_release, postings)
                out_of_hold.append((index, Settle(row.hold_id, entry, row.total, "released")))
            case "paid":
                postings = recipes.paid(row.user_id, _rail(row), row.net, row.fees)
                entry = _entry(tx, plan, row.entry_paid, postings)
                out_of_hold.append((index, Settle(row.hold_id, entry, row.total, "captured")))
            case "returned":
                postings = recipes.returned(row.user_id, _rail(row), row.net)
                back.append((index, _entry(tx, plan, row.entry_returned, postings)))
            case None:
                pass
            case other:
                raise Broken("recipe-unknown", f"No withdrawal posts {other!r}.")
    verdicts = await settle(tx, [command for _, command in out_of_hold])
    verdicts += await post(tx, [entry for _, entry in back])
    indexes = [index for index, _ in out_of_hold] + [index for index, _ in back]
    done = {index: posted.done for index, posted in zip(indexes, verdicts, strict=True)}
    await _recover(tx, [plan for plan in plans if done.get(plan.index)])
    return done


async def _recover(tx: CellTx, plans: Sequence[_Plan]) -> None:
    """Money that is available again first pays back what was owed since it was set aside.

    The look-up comes after the postings: their locks keep a reversal from getting in between.
    """
    back = [plan for plan in plans if plan.move.recipe in ("release", "returned")]
    owed: set[tuple[int, str]] = set()
    for asset in sorted({plan.row.asset for plan in back}):
        users = sorted({plan.row.user_id for plan in back if plan.row.asset == asset})
        owed |= {(user, asset) for user in await owing(tx, users, asset)}
    entries: list[Entry] = []
    for plan in back:
        row = plan.row
        if (row.user_id, row.asset) in owed:
            most = row.total if plan.move.recipe == "release" else row.net
            subject = text_id("wd", tx.cell, row.id)
            posting = recipes.recover(row.user_id, most)
            entries.append(Entry(tx.id(), "recover", subject, (posting,)))
    for posted in await post(tx, entries):
        if not posted.done:
            raise Broken("books-refused", f"Debt was not paid back: {posted.verdict}.")


def _entry(tx: CellTx, plan: _Plan, entry_id: int, postings: recipes.Postings) -> Entry:
    return Entry(
        entry_id,
        plan.move.recipe or "",
        text_id("wd", tx.cell, plan.row.id),
        postings,
        evidence={
            "event": plan.move.event.value,
            "reason": plan.reason,
            "trace_id": plan.row.trace_id,
        },
    )


def _rail(row: Withdrawal) -> int:
    """The rail account that was chosen. Raises Broken when a paid withdrawal has none."""
    if row.rail_account_id is None:
        raise Broken("rail-account-missing", f"Withdrawal {row.id} was sent without an account.")
    return row.rail_account_id


def _change(tx: CellTx, plan: _Plan) -> Change:
    row, step, target = plan.row, plan.step, plan.move.target
    due_at = step.due_at if plan.slug is None else None
    if due_at is None and target in machine.DUE_AT_ONCE:
        due_at = tx.now
    chosen = step.rail_account_id if step.event in machine.CHOOSES_RAIL else None
    return Change(
        id=row.id,
        version=row.version,
        number=row.number + 1,
        source=row.state,
        event=plan.move.event.value,
        target=target.value,
        reason=plan.reason,
        rail_account_id=chosen if chosen is not None else row.rail_account_id,
        due_at=due_at,
        lease_token=step.lease_token or 0,
    )


def _message(tx: CellTx, row: Withdrawal, change: Change) -> outbox.Message:
    user = text_id("us", tx.cell, row.user_id)
    return outbox.Message(
        f"withdrawal.{change.target}",
        user,
        {
            "id": text_id("wd", tx.cell, row.id),
            "user": user,
            "destination": text_id("de", tx.cell, row.destination_id),
            "amount": {"amount": row.net.text(), "currency": row.asset},
            "fee": {"amount": row.fees.text(), "currency": row.asset},
            "state": change.target,
            "previous_state": change.source,
            "number": change.number,
            "reason": change.reason,
            "at": rfc3339(tx.now),
            "trace_id": row.trace_id,
        },
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
    "books-refused": "The books refused the posting; `paymaster prove` names the reason.",
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
