"""Payouts that nobody asks for each time: the earner's choice, and carrying it out.

`run` makes ordinary withdrawals, as if the earner had asked: with the same checks, limits, fees and
holds. A payout and its key (`auto:<user>:<currency>:<day>`) are one transaction, and the database
takes no key twice: whoever crashes or runs beside, a period is paid once. What is not paid has a
note that says why; it is told once, until the reason is another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from paymaster.db import audit, outbox
from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.people import destinations, users
from paymaster.people.factors import policy, proof
from paymaster.people.factors.binding import Purpose
from paymaster.people.factors.proof import Shown
from paymaster.withdraw import automatic_store as store
from paymaster.withdraw.automatic_schedule import Plan, all_of, check, next_due, period
from paymaster.withdraw.automatic_store import Due, Note, Row, Wanted
from paymaster.withdraw.fee_plans import NO_PLANS, Plans
from paymaster.withdraw.request import Requested, request
from paymaster.withdraw.request_checks import Limits, RequestWithdrawal

__all__ = [
    "Choice", "Row", "Rules", "adopt", "choose", "conform", "forget", "listing", "reached",
    "run_reached", "run_scheduled",
]  # fmt: skip

LOOKED_AT: Final = 5000
"""Thresholds, or accounts, that are looked at in one statement."""

_SMALL: Final = "automatic-below-minimum"
_NOWHERE: Final = "automatic-no-destination"
_UNPROVEN: Final = "automatic-unproven"
_CAME_BACK: Final = "automatic-came-back"


@dataclass(frozen=True, slots=True)
class Choice:
    """What an earner wants in a currency, and where it goes."""

    plan: Plan
    destination_id: int | None


@dataclass(frozen=True, slots=True)
class Rules:
    """What requests are held against: limits by currency, fee plans, and the step-up policy."""

    limits: Mapping[str, Limits] = field(default_factory=dict[str, Limits])
    plans: Plans = NO_PLANS
    steps: policy.Policy = policy.NONE


async def choose(tx: CellTx, user_id: int, choice: Choice, shown: Shown) -> Row:
    """Put an earner's own choice in the place of what there was. Safe to repeat.

    `shown` is the proof of a second factor, for `at_most` to this destination: as much can go
    there at once without being asked again. Raises Unprocessable `automatic-invalid`,
    `automatic-at-most-missing`, `destination-closed`, `currency-mismatch`, `user-suspended`,
    `user-closed` and what `proof.require` raises; NotFound `user-unknown`, `destination-unknown`.
    """
    plan, asset = choice.plan, choice.plan.minimum.currency
    check(plan)
    await users.require_active(tx, user_id)
    proven = False
    if plan.mode != "off":
        await _usable(tx, user_id, choice.destination_id, asset)
        proven = await _proven(tx, user_id, choice, shown)
    wanted = Wanted(
        user_id,
        asset,
        plan.mode,
        None if plan.mode == "off" else choice.destination_id,
        plan.minimum.minor,
        None if plan.at_most is None else plan.at_most.minor,
        plan.every,
        plan.on_day,
        own=True,
        proven=proven,
        due_at=tx.now if plan.mode == "threshold" else next_due(plan, tx.time_zone, tx.now),
    )
    await store.put(tx, wanted)
    detail = {"asset": asset, "mode": plan.mode, "minimum": plan.minimum.text()}
    await audit.record(
        tx, [audit.Act("automatic_payout.choose", text_id("us", tx.cell, user_id), None, detail)]
    )
    (row,) = await store.of_user(tx, user_id, asset)
    return row


async def _usable(tx: CellTx, user_id: int, destination_id: int | None, asset: str) -> None:
    named = text_id("de", tx.cell, destination_id or 0)
    for one in await destinations.listing(tx, user_id):
        if one.id != named:
            continue
        if one.state == "closed":
            raise Unprocessable("destination-closed", "The destination is closed; add another one.")
        if one.currency != asset:
            raise Unprocessable(
                "currency-mismatch",
                f"The destination takes {one.currency}; what is automatic is not exchanged.",
            )
        return
    raise NotFound("destination-unknown", "The user has no such destination.")


async def _proven(tx: CellTx, user_id: int, choice: Choice, shown: Shown) -> bool:
    """Use up the proof, if one is asked for or was given; whether there was one."""
    if not shown.matters:
        return False
    if choice.plan.at_most is None:
        raise Unprocessable(
            "automatic-at-most-missing",
            "A second factor confirms an amount: say how much may go at most at once.",
        )
    payee = text_id("de", tx.cell, choice.destination_id or 0)
    act = proof.Act(Purpose.WITHDRAWAL, [payee], choice.plan.at_most)
    number = await proof.require(tx, user_id, act, shown)
    if number is not None:
        await proof.use(tx, number, f"automatic:{payee}")
    return number is not None


async def forget(tx: CellTx, user_id: int, asset: str) -> None:
    """The earner's own choice ends; the environment's default holds again, if there is one.

    Raises NotFound `not-found` when there was no choice.
    """
    rows = await store.of_user(tx, user_id, asset)
    if not rows or not rows[0].own:
        raise NotFound("not-found", "Nothing was chosen in this currency.")
    row = rows[0]
    off = Wanted(
        user_id, asset, "off", None, row.minimum, None, None, None, own=False, proven=False,
        due_at=None,
    )  # fmt: skip
    await store.put(tx, off)
    detail = {"asset": asset}
    await audit.record(
        tx, [audit.Act("automatic_payout.forget", text_id("us", tx.cell, user_id), None, detail)]
    )


async def listing(tx: CellRead, user_id: int) -> list[Row]:
    """What is automatic for a user, by currency."""
    return await store.of_user(tx, user_id)


async def run_scheduled(tx: CellTx, rules: Rules, limit: int) -> int:
    """Carry out schedules that are due, oldest first; how many there were."""
    return await _run(tx, rules, await store.take_scheduled(tx, limit))


async def reached(
    tx: CellRead, after: tuple[int, str]
) -> tuple[list[tuple[int, str]], tuple[int, str] | None]:
    """Thresholds after a place that are reached, and the place to go on from; None at the end."""
    rows = await store.look_at_thresholds(tx, after, LOOKED_AT)
    ready = [(user, asset) for user, asset, is_reached in rows if is_reached]
    return ready, (rows[-1][0], rows[-1][1]) if len(rows) == LOOKED_AT else None


async def run_reached(tx: CellTx, rules: Rules, keys: Sequence[tuple[int, str]]) -> int:
    """Pay out what has reached its threshold, if it still has; how many there were."""
    return await _run(tx, rules, await store.take_reached(tx, keys))


async def _run(tx: CellTx, rules: Rules, due: Sequence[Due]) -> int:
    if not due:
        return 0
    keys = [_key(tx, one) for one in due]
    before = await store.made_before(tx, keys)
    asking: list[tuple[Due, str, RequestWithdrawal]] = []
    notes: list[tuple[Due, Note]] = []
    for one, key in zip(due, keys, strict=True):
        command = _command(one, rules)
        if key in before:
            notes.append((one, _note(tx, one, None, None, None)))
        elif isinstance(command, RequestWithdrawal):
            asking.append((one, key, command))
        else:
            notes.append((one, _note(tx, one, *command, None)))
    outcomes = await request(
        tx, [each[2] for each in asking], limits=rules.limits, plans=rules.plans
    )
    made: dict[str, int] = {}
    for (one, key, _), outcome in zip(asking, outcomes, strict=True):
        if outcome.withdrawal_id is not None:
            made[key] = outcome.withdrawal_id
        notes.append((one, _outcome_note(tx, one, outcome)))
    await store.keep(tx, made)
    await store.note(tx, [note for _, note in notes])
    await _tell(tx, notes)
    return len(due)


def _key(tx: CellTx, one: Due) -> str:
    """The period of a schedule is the day it was due on, of a threshold the day it is."""
    moment = one.due_at if one.mode == "schedule" else tx.now
    user = text_id("us", tx.cell, one.user_id)
    return f"auto:{user}:{one.asset}:{period(tx.time_zone, moment)}"


def _command(one: Due, rules: Rules) -> RequestWithdrawal | tuple[str, str]:
    """The request to make, or why there is none."""
    balance = Money(one.balance, one.asset)
    minimum = Money(one.minimum, one.asset)
    if balance < minimum:
        return _SMALL, f"{balance} are available, and the minimum is {minimum}."
    if one.destination_id is None or one.destinations != 1:
        return _NOWHERE, "There is not exactly one destination to which it could go: choose one."
    if one.came_back:
        return _CAME_BACK, "The last two payments to this destination came back: choose another."
    within = rules.limits.get(one.asset, Limits())
    own_most = None if one.at_most is None else Money(one.at_most, one.asset)
    at_most = min((each for each in (own_most, within.maximum) if each), default=None)
    amount = all_of(balance, at_most, one.kind or "", rules.plans)
    asks = rules.steps.requires(Purpose.WITHDRAWAL, "users", one.asset, amount.minor)
    if asks and not one.proven:
        return _UNPROVEN, "This much needs a second factor: confirm the automatic payout with one."
    return RequestWithdrawal(one.user_id, one.destination_id, amount)


def _outcome_note(tx: CellTx, one: Due, outcome: Requested) -> Note:
    if outcome.withdrawal_id is not None:
        return _note(tx, one, None, None, outcome.withdrawal_id)
    return _note(tx, one, outcome.slug, outcome.detail, None)


def _note(
    tx: CellTx, one: Due, slug: str | None, detail: str | None, withdrawal_id: int | None
) -> Note:
    minimum = Money(one.minimum, one.asset)
    plan = Plan(one.mode, minimum, None, one.every, one.on_day)  # type: ignore[arg-type]
    due_at = next_due(plan, tx.time_zone, max(tx.now, one.due_at)) or tx.now
    said = None if slug is None else f"Skipped because: {detail}"
    return Note(one.user_id, one.asset, due_at, slug, said, withdrawal_id)


async def _tell(tx: CellTx, notes: Sequence[tuple[Due, Note]]) -> None:
    """Subscribers hear of what was skipped, once for a reason."""
    messages: list[outbox.Message] = []
    for one, note in notes:
        if note.slug is None or note.slug == one.last_slug:
            continue
        user = text_id("us", tx.cell, one.user_id)
        payload: dict[str, Any] = {
            "user": user,
            "currency": one.asset,
            "reason": note.slug,
            "message": note.detail,
            "at": rfc3339(tx.now),
            "next_at": rfc3339(note.due_at),
        }
        messages.append(outbox.Message("automatic_payout.skipped", user, payload))
    await outbox.put(tx, messages)


async def adopt(tx: CellTx, plan: Plan, after: int) -> int | None:
    """Give the environment's default to users after one who have no choice of their own.

    The last one looked at; None at the end.
    """
    looked, last = await store.adopt(tx, _default(tx, plan), after, LOOKED_AT)
    return last if looked == LOOKED_AT else None


async def conform(tx: CellTx, plans: Mapping[str, Plan], limit: int) -> int:
    """Let those who follow the default follow what it says now; how many rows were changed."""
    changed = 0
    for asset in sorted({*plans, *await store.followers(tx)}):
        plan = plans.get(asset) or Plan("off", Money(1, asset))
        changed += await store.conform(tx, _default(tx, plan), limit)
    return changed


def _default(tx: CellTx, plan: Plan) -> Wanted:
    return Wanted(
        0,
        plan.minimum.currency,
        plan.mode,
        None,
        plan.minimum.minor,
        None if plan.at_most is None else plan.at_most.minor,
        plan.every,
        plan.on_day,
        own=False,
        proven=False,
        due_at=tx.now if plan.mode == "threshold" else next_due(plan, tx.time_zone, tx.now),
    )
