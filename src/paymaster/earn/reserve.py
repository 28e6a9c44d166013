"""The rolling reserve: a share of each matured reward stays aside until its date.

A row a reward; the balance of a user's reserve account is the sum of what is left of the rows.
Whoever changes them holds the lock of the user's available account or takes it next: every recipe
that touches the one touches the other, and available comes first in the order of locks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from paymaster.db import outbox
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn.store import reserves as store
from paymaster.earn.store.reserves import ReserveRow
from paymaster.earn.store.rewards import RewardRow
from paymaster.earn.terms import Policy, share
from paymaster.earn.views import money
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.balance import owing
from paymaster.ledger.entry import Entry, Posted
from paymaster.ledger.post import post

LISTED = 100
"""How many are listed; the balance of the reserve account is the total of all."""

Purse = tuple[int, str]
"""A user's money in one currency."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Part of a reward that stays aside until `releases_at`."""

    amount: Money
    releases_at: datetime
    reward_id: int


async def set_aside(tx: CellTx, rows: Sequence[RewardRow], policies: Mapping[int, Policy]) -> None:
    """Keep the share of rewards that became available in this transaction, as their policy says.

    What paid back a debt a moment ago is not there any more: of that nothing is kept.
    """
    parts: list[tuple[RewardRow, int, datetime]] = []
    for row in rows:
        found = policies.get(row.policy_id or 0)
        rule = found.terms.reserve if found is not None else None
        part = 0 if rule is None else share(row.rest, rule.ppm)
        if rule is not None and part:
            parts.append((row, part, tx.now + timedelta(seconds=rule.seconds)))
    if not parts:
        return
    ids = iter(tx.ids(2 * len(parts)))
    entries = [
        Entry(
            next(ids),
            "reserve",
            text_id("rw", tx.cell, row.id),
            recipes.reserve(row.user_id, Money(part, row.asset)),
        )
        for row, part, _ in parts
    ]
    posted = await post(tx, entries)
    _all_done(posted)
    made = [
        ReserveRow(
            row.id, row.user_id, row.asset, moved, moved, releases_at, releases_at,
            result.entry_id, next(ids), part, 0, tx.now, None, 1,
        )
        for (row, part, releases_at), result in zip(parts, posted, strict=True)
        if (moved := sum(result.moved))
    ]  # fmt: skip
    if made:
        await store.insert(tx, made)


async def release_due(tx: CellTx, limit: int = 1000) -> int:
    """Make available what was kept aside until now; how many parts."""
    rows = await store.claim_due(tx, limit)
    if not rows:
        return 0
    known = await owing_of(tx, [(row.user_id, row.asset) for row in rows])
    entries = [
        Entry(
            row.entry_release,
            "reserve_release",
            text_id("rw", tx.cell, row.reward_id),
            recipes.reserve_release(
                row.user_id,
                Money(row.remaining, row.asset),
                owes=(row.user_id, row.asset) in known,
            ),
        )
        for row in rows
    ]
    _all_done(await post(tx, entries))
    await _recover_late(tx, rows, known)
    told = [_released(tx, row) for row in rows]
    for row in rows:
        row.released, row.remaining = row.remaining, 0
        row.due_at, row.released_at = None, tx.now
    await store.update(tx, rows)
    await outbox.put(tx, told)
    return len(rows)


def _released(tx: CellTx, row: ReserveRow) -> outbox.Message:
    user = text_id("us", tx.cell, row.user_id)
    payload = {
        "user": user,
        "reward": text_id("rw", tx.cell, row.reward_id),
        "amount": money(Money(row.remaining, row.asset)),
    }
    return outbox.Message("reserve.released", user, payload)


async def _recover_late(tx: CellTx, rows: Sequence[ReserveRow], known: set[Purse]) -> None:
    """Pay back debt that was made after `known` was read; its locks are ours by now."""
    late = await owing_of(tx, [(row.user_id, row.asset) for row in rows]) - known
    entries = [
        Entry(
            tx.id(),
            "recover",
            text_id("rw", tx.cell, row.reward_id),
            (recipes.recover(row.user_id, Money(row.remaining, row.asset)),),
        )
        for row in rows
        if (row.user_id, row.asset) in late
    ]
    _all_done(await post(tx, entries))


async def owing_of(tx: CellRead, purses: Iterable[Purse]) -> set[Purse]:
    """Those of the purses in which something is owed."""
    wanted = set(purses)
    found: set[Purse] = set()
    for asset in sorted({asset for _, asset in wanted}):
        ids = sorted(user_id for user_id, other in wanted if other == asset)
        found |= {(user_id, asset) for user_id in await owing(tx, ids, asset)}
    return found


async def lock(tx: CellTx, user_ids: Sequence[int]) -> None:
    """Lock what users have in reserve, before their accounts: as those who release it do."""
    await store.lock_of(tx, user_ids)


async def drain(tx: CellTx, taken: Sequence[tuple[Purse, int, int]]) -> None:
    """Write off the rows what the books took from reserves: purse, amount, reward to begin with.

    After that reward's own part comes the oldest. The accounts are locked by now, so that no part
    can be added. Raises Broken `reserve-rows` when the rows do not hold as much.
    """
    wanted = [one for one in taken if one[1]]
    if not wanted:
        return
    rows = await store.lock_of(tx, [purse[0] for purse, _, _ in wanted])
    changed: dict[int, ReserveRow] = {}
    for purse, amount, first in wanted:
        mine = [row for row in rows if (row.user_id, row.asset) == purse]
        left = amount
        for row in sorted(mine, key=lambda row: row.reward_id != first):
            part = min(left, row.remaining)
            if part:
                row.remaining -= part
                left -= part
                changed[row.reward_id] = row
                if not row.remaining:
                    row.due_at = None
        if left:
            raise Broken("reserve-rows", f"User {purse[0]} has less in reserve than the books say.")
    await store.update(tx, list(changed.values()))


async def of_user(tx: CellRead, user_id: int) -> list[Kept]:
    """What is kept aside, the soonest to be released first."""
    return [
        Kept(Money(row.remaining, row.asset), row.releases_at, row.reward_id)
        for row in await store.of_user(tx, user_id, LISTED)
    ]


def _all_done(posted: Sequence[Posted]) -> None:
    for result in posted:
        if not result.done:
            raise Broken(
                "reserve-refused", f"Entry {result.entry_id} was refused: {result.verdict}."
            )
