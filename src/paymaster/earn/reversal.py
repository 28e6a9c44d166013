"""Rewards taken back, wholly or in part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from paymaster.db import outbox
from paymaster.db.tx import CellTx
from paymaster.earn import chargeback, policy, recall, reserve, reward
from paymaster.earn.machine import REWARD, RewardEvent, RewardState, TaskEvent
from paymaster.earn.rewards import get, listing, locked, of_events, view
from paymaster.earn.store import reversals as store
from paymaster.earn.store import rewards as reward_store
from paymaster.earn.store.reversals import ReversalRow
from paymaster.earn.store.rewards import RewardMove, RewardRow
from paymaster.earn.terms import Bearer, Policy
from paymaster.earn.views import RewardView, money
from paymaster.kernel.errors import Broken, Conflict, NotFound, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry, Posted, Verdict
from paymaster.ledger.post import post

__all__ = [
    "Reversal", "Reverse", "Took", "get", "listing", "locked", "of_events", "reverse",
    "reverse_one", "view",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reverse:
    """Take a reward back, for example after a partner's claw-back.

    `amount` None is all that is left of it. Part of it needs the partner's `reference`: the same
    one again changes nothing, however often it is told.
    """

    reward_id: int
    reason: str
    amount: Money | None = None
    reference: str | None = None


class Took(StrEnum):
    """What became of a reversal."""

    REVERSED = "reversed"
    ALREADY = "already"
    UNKNOWN = "unknown"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Reversal:
    """`slug` says why not.

    `reward-unknown`, `reward-not-paid`, `reversal-reference`, `reversal-too-large`,
    `reversal-conflict`.
    """

    reward_id: int
    result: Took
    slug: str | None = None


@dataclass(slots=True)
class _Plan:
    """A reversal that will be done: so much of a row."""

    row: RewardRow
    amount: int
    reason: str
    reference: str | None
    entry_id: int

    @property
    def whole(self) -> bool:
        return self.amount == self.row.rest

    @property
    def paid(self) -> bool:
        """Whether money goes back into the budget."""
        return self.row.state != RewardState.AWAITING_FUNDS.value


async def reverse(tx: CellTx, commands: Sequence[Reverse]) -> list[Reversal]:
    """Take rewards back: from what still vests, then available, then reserve; the rest is owed.

    A whole reward goes once; a repeated command answers ALREADY. Works after a withdrawal too: the
    debt is recovered from later earnings.
    """
    found = {row.id: row for row in await reward_store.lock(tx, [c.reward_id for c in commands])}
    told = await _told(tx, found, commands)
    plans: dict[int, _Plan] = {}
    outcomes: dict[int, Reversal] = {}
    later: list[int] = []
    for place, command in enumerate(commands):
        row = found.get(command.reward_id)
        if row is not None and row.id in plans:
            later.append(place)
            continue
        judged = _judge(tx, command, row, told)
        if isinstance(judged, _Plan):
            plans[judged.row.id] = judged
            judged = Reversal(command.reward_id, Took.REVERSED)
        outcomes[place] = judged
    await _carry_out(tx, list(plans.values()))
    if later:
        again = await reverse(tx, [commands[place] for place in later])
        outcomes |= dict(zip(later, again, strict=True))
    return [outcomes[place] for place in range(len(commands))]


async def _told(
    tx: CellTx, found: Mapping[int, RewardRow], commands: Sequence[Reverse]
) -> dict[tuple[int, str], int]:
    """What was taken back under references before, by reward and reference."""
    ids = [c.reward_id for c in commands if c.reference is not None and c.reward_id in found]
    rows = await store.of_rewards(tx, ids) if ids else []
    return {(r.reward_id, r.reference): r.amount for r in rows if r.reference is not None}


def _judge(
    tx: CellTx,
    command: Reverse,
    row: RewardRow | None,
    told: Mapping[tuple[int, str], int],
) -> _Plan | Reversal:
    if row is None:
        return Reversal(command.reward_id, Took.UNKNOWN, "reward-unknown")
    amount, reference = command.amount, command.reference
    before = told.get((row.id, reference)) if reference is not None else None
    if before is not None:
        if amount is None or amount == Money(before, row.asset):
            return Reversal(row.id, Took.ALREADY)
        return Reversal(row.id, Took.REFUSED, "reversal-conflict")
    if row.state == RewardState.REVERSED.value:
        return Reversal(row.id, Took.ALREADY)
    if not REWARD.allows(row.state, RewardEvent.REVERSE):
        return Reversal(row.id, Took.REFUSED, "reward-not-paid")
    if amount is None:
        return _Plan(row, row.rest, command.reason, reference, row.entry_reverse)
    if amount.currency != row.asset or not 0 < amount.minor <= row.rest:
        return Reversal(row.id, Took.REFUSED, "reversal-too-large")
    if reference is None and amount.minor < row.rest:
        return Reversal(row.id, Took.REFUSED, "reversal-reference")
    if amount.minor == row.rest:
        return _Plan(row, row.rest, command.reason, reference, row.entry_reverse)
    if not REWARD.allows(row.state, RewardEvent.REDUCE):
        return Reversal(row.id, Took.REFUSED, "reward-not-paid")
    return _Plan(row, amount.minor, command.reason, reference, tx.id())


async def _carry_out(tx: CellTx, plans: Sequence[_Plan]) -> None:
    if not plans:
        return
    rows = [plan.row for plan in plans]
    states = await reward.lock_states(tx, rows)
    paid = [plan for plan in plans if plan.paid]
    away = [plan.row for plan in paid if plan.row.home_cell != tx.cell]
    await recall.tell_idle(tx, {row.campaign_id: row.home_cell for row in away})
    policies = await policy.applied(tx, {row.policy_id for row in rows})
    debts = await _post(tx, paid, policies)
    whole = [plan for plan in plans if plan.whole]
    parts = [plan for plan in plans if not plan.whole]
    moves = [_whole(plan) for plan in whole]
    await reward.moved(tx, [plan.row for plan in whole], moves)
    if parts:
        reduced = [_part(plan) for plan in parts]
        await reward_store.update(tx, [plan.row for plan in parts])
        await reward_store.write_moves(tx, REWARD.name, reduced)
        await outbox.put(tx, [_reduced(tx, plan) for plan in parts])
    await outbox.put(tx, debts)
    for plan in whole:
        states.move((plan.row.user_id, plan.row.task_id), TaskEvent.REVERSE, plan.reason)
    await states.write(tx)


def _whole(plan: _Plan) -> RewardMove:
    """Move the row in place."""
    if plan.paid:
        plan.row.taken += plan.amount
    return reward.move(plan.row, RewardEvent.REVERSE, plan.reason)


def _part(plan: _Plan) -> RewardMove:
    """The same for part of a reward, which leaves it in its state."""
    row = plan.row
    step = REWARD.find(row.state, RewardEvent.REDUCE)
    row.version += 1
    row.taken += plan.amount
    row.remaining = max(row.remaining - plan.amount, 0)
    return RewardMove(
        row.id, row.version, row.state, step.event.value, step.target.value, plan.reason
    )


async def _post(
    tx: CellTx, plans: Sequence[_Plan], policies: Mapping[int, Policy]
) -> list[outbox.Message]:
    """The money, and what is kept of where it came from; messages for those who owe now."""
    if not plans:
        return []
    await reserve.lock(tx, [plan.row.user_id for plan in plans if not _all_vests(plan)])
    posted = await post(tx, [_entry(tx, plan) for plan in plans])
    reward.all_done(posted)
    made: list[ReversalRow] = []
    for plan, result in zip(plans, posted, strict=True):
        if result.verdict is Verdict.POSTED:
            made.append(_row(tx, plan, result, _bearer(plan.row, policies)))
    await reserve.drain(
        tx, [((one.user_id, one.asset), one.from_reserve, one.reward_id) for one in made]
    )
    if made:
        await store.insert(tx, made)
    await chargeback.reversed_(tx, [(plan.row, plan.amount) for plan in plans], policies)
    return [_owed(tx, one) for one in made if one.owed]


def _all_vests(plan: _Plan) -> bool:
    return plan.row.remaining >= plan.amount


def _entry(tx: CellTx, plan: _Plan) -> Entry:
    row = plan.row
    vesting = min(row.remaining, plan.amount)
    return Entry(
        plan.entry_id,
        "reverse",
        text_id("rw", tx.cell, row.id),
        recipes.reverse(
            row.campaign_id,
            row.user_id,
            Money(plan.amount, row.asset),
            Money(vesting, row.asset),
        ),
        reverses_id=row.entry_credit,
        evidence={"reason": plan.reason, "reference": plan.reference},
    )


def _row(tx: CellTx, plan: _Plan, result: Posted, bearer: Bearer) -> ReversalRow:
    row, moved = plan.row, list(result.moved)
    vesting = moved.pop(0) if row.remaining else 0
    available, kept, owed = moved or (0, 0, 0)
    if vesting + available + kept + owed != plan.amount:
        raise Broken("reward-reversal", f"Reward {row.id} was not taken back as asked.")
    return ReversalRow(
        row.id, row.version + 1, plan.reference, row.user_id, row.campaign_id, row.asset,
        plan.amount, vesting, available, kept, owed, bearer, plan.entry_id, plan.reason,
        tx.actor.name, tx.now,
    )  # fmt: skip


def _bearer(row: RewardRow, policies: Mapping[int, Policy]) -> Bearer:
    found = policies.get(row.policy_id or 0)
    return "platform" if found is None else found.terms.loss


def _reduced(tx: CellTx, plan: _Plan) -> outbox.Message:
    row = plan.row
    user = text_id("us", tx.cell, row.user_id)
    payload = {
        "reward": text_id("rw", tx.cell, row.id),
        "user": user,
        "state": row.state,
        "amount": money(reward.amount_of(row)),
        "taken_back": money(Money(row.taken, row.asset)),
    }
    return outbox.Message("reward.reduced", user, payload)


def _owed(tx: CellTx, one: ReversalRow) -> outbox.Message:
    user = text_id("us", tx.cell, one.user_id)
    payload = {
        "user": user,
        "reward": text_id("rw", tx.cell, one.reward_id),
        "amount": money(Money(one.owed, one.asset)),
    }
    return outbox.Message("debt.opened", user, payload)


_SAYS = {
    "reward-not-paid": "The reward was refused; nothing was paid.",
    "reversal-reference": "Name the partner's reference of a reversal of a part.",
    "reversal-too-large": "The reward has not as much left, or is in another currency.",
}


async def reverse_one(
    tx: CellTx,
    reward_id: int,
    reason: str,
    amount: Money | None = None,
    reference: str | None = None,
) -> RewardView:
    """Take one reward (or part of it) back, also a second time without effect.

    Raises NotFound `reward-unknown`, Unprocessable `reward-not-paid`, `reversal-reference`,
    `reversal-too-large`, Conflict `reversal-conflict`.
    """
    [outcome] = await reverse(tx, [Reverse(reward_id, reason, amount, reference)])
    if outcome.result is Took.UNKNOWN:
        raise NotFound("reward-unknown", "There is no such reward.")
    if outcome.slug == "reversal-conflict":
        raise Conflict(
            "reversal-conflict", "Another amount was taken back under this reference before."
        )
    if outcome.slug is not None:
        raise Unprocessable(outcome.slug, _SAYS[outcome.slug])
    return await get(tx, reward_id)
