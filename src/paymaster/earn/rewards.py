"""Rewards read: one, a user's, those that events brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paymaster.db.tx import CellRead, CellTx
from paymaster.earn import policy, reward
from paymaster.earn.store import rewards as reward_store
from paymaster.earn.store.rewards import RewardRow
from paymaster.earn.terms import Policy
from paymaster.earn.views import RewardView
from paymaster.kernel.errors import NotFound
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money


async def of_events(tx: CellRead, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """The rewards that events `(source, event id)` brought, for claw-backs that name events."""
    return await reward_store.of_events(tx, keys)


async def get(tx: CellRead, reward_id: int) -> RewardView:
    """One reward. Raises NotFound `reward-unknown`."""
    rows = await reward_store.by_id(tx, [reward_id])
    if not rows:
        raise NotFound("reward-unknown", "There is no such reward.")
    return view(tx, rows[0], await policy.applied(tx, {rows[0].policy_id}))


async def locked(tx: CellTx, reward_id: int) -> RewardView:
    """As `get`; it changes no more until this transaction ends, but by this one."""
    await reward_store.lock(tx, [reward_id])
    return await get(tx, reward_id)


async def listing(
    tx: CellRead, user_id: int, before: int | None = None, limit: int = 50
) -> list[RewardView]:
    """A page of a user's rewards, newest first; `before` is the number of the last one seen."""
    rows = await reward_store.of_user(tx, user_id, before, min(limit, 200))
    policies = await policy.applied(tx, {row.policy_id for row in rows})
    return [view(tx, row, policies) for row in rows]


def view(tx: CellRead, row: RewardRow, policies: Mapping[int, Policy]) -> RewardView:
    """As people see it."""
    found = policies.get(row.policy_id or 0)
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
        Money(row.taken, row.asset),
        row.waits_for,
        None if found is None else found.wire(),
    )
