"""Rewards taken back, and rewards read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from paymaster.db.tx import CellRead, CellTx
from paymaster.earn import recall, reward
from paymaster.earn.machine import REWARD, RewardEvent, RewardState, TaskEvent
from paymaster.earn.store import rewards as reward_store
from paymaster.earn.store.rewards import RewardRow
from paymaster.earn.views import RewardView
from paymaster.kernel.errors import Broken, NotFound, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry, Verdict
from paymaster.ledger.post import post


@dataclass(frozen=True, slots=True)
class Reverse:
    """Take a reward back, for example after a partner's claw-back."""

    reward_id: int
    reason: str


class Took(StrEnum):
    """What became of a reversal."""

    REVERSED = "reversed"
    ALREADY = "already"
    UNKNOWN = "unknown"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Reversal:
    """`slug` says why not: `reward-unknown` or `reward-not-paid`."""

    reward_id: int
    result: Took
    slug: str | None = None


async def reverse(tx: CellTx, commands: Sequence[Reverse]) -> list[Reversal]:
    """Take rewards back: from what still vests, then from available; the rest is owed.

    Each goes once; a repeated command answers ALREADY. Works after a withdrawal too: the debt is
    recovered from later earnings.
    """
    found = {row.id: row for row in await reward_store.lock(tx, [c.reward_id for c in commands])}
    todo: dict[int, RewardRow] = {}
    reasons: dict[int, str] = {}
    outcomes: list[Reversal] = []
    for command in commands:
        row = found.get(command.reward_id)
        outcome = _may_reverse(command, row, todo)
        outcomes.append(outcome)
        if row is not None and outcome.result is Took.REVERSED:
            todo[row.id], reasons[row.id] = row, command.reason
    states = await reward.lock_states(tx, list(todo.values()))
    away = [row for row in _paid(todo.values()) if row.home_cell != tx.cell]
    await recall.tell_idle(tx, {row.campaign_id: row.home_cell for row in away})
    await _post_reversals(tx, list(todo.values()), reasons)
    moves = [reward.move(row, RewardEvent.REVERSE, reasons[row.id]) for row in todo.values()]
    await reward.moved(tx, list(todo.values()), moves)
    for row in todo.values():
        states.move((row.user_id, row.task_id), TaskEvent.REVERSE, reasons[row.id])
    await states.write(tx)
    return outcomes


def _may_reverse(
    command: Reverse, row: RewardRow | None, todo: Mapping[int, RewardRow]
) -> Reversal:
    if row is None:
        return Reversal(command.reward_id, Took.UNKNOWN, "reward-unknown")
    if row.id in todo or row.state == RewardState.REVERSED.value:
        return Reversal(row.id, Took.ALREADY)
    if not REWARD.allows(row.state, RewardEvent.REVERSE):
        return Reversal(row.id, Took.REFUSED, "reward-not-paid")
    return Reversal(row.id, Took.REVERSED)


def _paid(rows: Iterable[RewardRow]) -> list[RewardRow]:
    """Those of which money goes back into the budget."""
    return [row for row in rows if row.state != RewardState.AWAITING_FUNDS.value]


async def _post_reversals(
    tx: CellTx, rows: Sequence[RewardRow], reasons: Mapping[int, str]
) -> None:
    paid = _paid(rows)
    entries = [
        Entry(
            row.entry_reverse,
            "reverse",
            text_id("rw", tx.cell, row.id),
            recipes.reverse(
                row.campaign_id, row.user_id, reward.amount_of(row), Money(row.remaining, row.asset)
            ),
            reverses_id=row.entry_credit,
            evidence={"reason": reasons[row.id]},
        )
        for row in paid
    ]
    posted = await post(tx, entries)
    reward.all_done(posted)
    for row, result in zip(paid, posted, strict=True):
        if result.verdict is Verdict.POSTED and sum(result.moved) != row.amount:
            raise Broken("reward-reversal", f"Reward {row.id} was not taken back in full.")


async def reverse_one(tx: CellTx, reward_id: int, reason: str) -> RewardView:
    """Take one reward back, also a second time without effect.

    Raises NotFound `reward-unknown`, Unprocessable `reward-not-paid`.
    """
    [outcome] = await reverse(tx, [Reverse(reward_id, reason)])
    if outcome.result is Took.UNKNOWN:
        raise NotFound("reward-unknown", "There is no such reward.")
    if outcome.result is Took.REFUSED:
        raise Unprocessable("reward-not-paid", "The reward was refused; nothing was paid.")
    return await get(tx, reward_id)


async def of_events(tx: CellRead, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """The rewards that events `(source, event id)` brought, for claw-backs that name events."""
    return await reward_store.of_events(tx, keys)


async def get(tx: CellRead, reward_id: int) -> RewardView:
    """One reward. Raises NotFound `reward-unknown`."""
    rows = await reward_store.by_id(tx, [reward_id])
    if not rows:
        raise NotFound("reward-unknown", "There is no such reward.")
    return view(tx, rows[0])


async def locked(tx: CellTx, reward_id: int) -> RewardView:
    """As `get`; it changes no more until this transaction ends, but by this one."""
    await reward_store.lock(tx, [reward_id])
    return await get(tx, reward_id)


async def listing(
    tx: CellRead, user_id: int, before: int | None = None, limit: int = 50
) -> list[RewardView]:
    """A page of a user's rewards, newest first; `before` is the number of the last one seen."""
    rows = await reward_store.of_user(tx, user_id, before, min(limit, 200))
    return [view(tx, row) for row in rows]


def view(tx: CellRead, row: RewardRow) -> RewardView:
    """As people see it."""
    return RewardView(
        text_id("rw", tx.cell, row.id),
        row.id,
        row.user_id,
        text_id("cp", row.home_cell, row.campaign_id),
        text_id("tk", row.home_cell, row.task_id),
        row.occurrence,
        reward.amount_of(row),
        row.state,
        row.matures_at,
        row.created_at,
        row.trace_id,
    )
