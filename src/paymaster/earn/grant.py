"""Rewards made: the row, its moves, its message, and the credit from the budget.

Usually the budget is far larger than what one batch takes. Then everything but the credit itself is
written before the budget's account is locked (`ahead`), so that the lock, for which all batches of
a campaign queue, is held for the posting only. Should the money not reach after all, the whole
transaction is run again the other way (`make`): post first, then write what came of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from paymaster.db import outbox_lines
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn import maturity, recall, reward
from paymaster.earn import slice as slices
from paymaster.earn.catalogue import Offer
from paymaster.earn.machine import REWARD, RewardEvent, RewardState, TaskEvent
from paymaster.earn.maturity import Clearing
from paymaster.earn.reward import Credit
from paymaster.earn.states import States
from paymaster.earn.store import rewards as reward_store
from paymaster.earn.store.rewards import RewardMove, RewardRow
from paymaster.earn.store.states import Pair
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import MAX_MINOR
from paymaster.ledger.balance import account_balance
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Posted

AMPLE = 4
"""A budget that holds so many times what a batch takes is not asked first."""


class Grant(NamedTuple):
    """A user has earned an occurrence of a task; the event that brought it is evidence."""

    offer: Offer
    user_id: int
    occurrence: str
    source: str
    event_id: str


class Granted(NamedTuple):
    """The reward that was made, `name` its text id."""

    name: str
    state: RewardState


class BudgetShort(Exception):
    """The money that was taken for granted is not there: run the work again with `make`."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """Rewards that are written; their money is still to be moved, by `settle`."""

    made: list[Granted]
    credit: Credit

    async def settle(self, tx: CellTx) -> None:
        """Move the money. Raises BudgetShort, upon which the transaction must be rolled back."""
        posted = await reward.credit(tx, self.credit)
        if not all(result.done for result in posted):
            raise BudgetShort


async def make(tx: CellTx, grants: Sequence[Grant], *, slice_rewards: int) -> list[Granted]:
    """Make rewards and credit them as far as the budgets in this cell reach.

    The caller holds the locks of the users' task states and knows that no reward of these
    occurrences exists. Raises Broken when the books refuse for another reason than the budget.
    """
    if not grants:
        return []
    rows, names = _rows(tx, grants, await maturity.clearings(tx, grants))
    posted = await reward.credit(tx, await reward.prepare(tx, rows, names))
    short = {
        one.offer.campaign_id: one.offer.when_exhausted == "refuse"
        for one, result in zip(grants, posted, strict=True)
        if not result.done and one.offer.home_cell == tx.cell
    }
    out = frozenset[int]()
    if short:
        await recall.note_policy(tx, short)
        out = await recall.out(tx, list(short))
    events = [
        _event(tx, row, one.offer, result, elsewhere=row.campaign_id in out)
        for row, one, result in zip(rows, grants, posted, strict=True)
    ]
    await recall.recall(tx, sorted(out))
    made = await _write(tx, rows, names, events)
    await _ask(tx, rows, grants, slice_rewards)
    return made


async def ahead(tx: CellTx, grants: Sequence[Grant]) -> Ahead | None:
    """Write the rewards as if they were credited already; None unless the budgets are ample.

    The caller holds what `make` asks for, and calls `settle` in the same transaction.
    """
    if not grants or not await _ample(tx, grants):
        return None
    rows, names = _rows(tx, grants, await maturity.clearings(tx, grants))
    credit = await reward.prepare(tx, rows, names)
    made = await _write(tx, rows, names, [_credited(tx, row) for row in rows])
    return Ahead(made, credit)


async def _ample(tx: CellTx, grants: Sequence[Grant]) -> bool:
    offers = {one.offer.id: one.offer for one in grants}
    needs: dict[Account, int] = {}
    for number, count in Counter([one.offer.id for one in grants]).items():
        offer = offers[number]
        budget = Account("budget", offer.campaign_id, offer.reward.currency)
        needs[budget] = needs.get(budget, 0) + count * offer.reward.minor
    for budget, needed in needs.items():
        if await account_balance(tx, budget) < AMPLE * needed:
            return False
    return True


async def _write(
    tx: CellTx, rows: Sequence[RewardRow], names: Sequence[str], events: Sequence[RewardEvent]
) -> list[Granted]:
    moves: list[RewardMove] = [
        reward.move(row, event) for row, event in zip(rows, events, strict=True)
    ]
    await reward_store.write(tx, rows)
    await reward_store.write_moves(tx, REWARD.name, moves)
    await outbox_lines.put(tx, reward.messages(tx, rows, names))
    return [Granted(name, _STATES[row.state]) for name, row in zip(names, rows, strict=True)]


_STATES = {state.value: state for state in RewardState}


def tell(states: States, pair: Pair, made: Granted, *, once: bool) -> None:
    """Move the user's task to where the reward leaves it. `once`: it can be earned once only."""
    if made.state is RewardState.AWAITING_FUNDS:
        states.move(pair, TaskEvent.VERIFY)
    elif made.state is not RewardState.REFUSED:
        states.move(pair, TaskEvent.REWARD)
    elif once:
        states.move(pair, TaskEvent.VERIFY)
        states.move(pair, TaskEvent.REJECT, reward.EXHAUSTED)
    else:
        states.move(pair, TaskEvent.PROGRESS)


def _rows(
    tx: CellTx, grants: Sequence[Grant], clearings: Sequence[Clearing]
) -> tuple[list[RewardRow], list[str]]:
    """The rows with the numbers of all that they will ever post, and their text ids."""
    numbers = iter(tx.ids(4 * len(grants)))
    now, trace_id, due = tx.now, tx.trace_id, RewardState.DUE.value
    rows = [
        RewardRow(
            number,
            offer.campaign_id,
            offer.home_cell,
            offer.id,
            user_id,
            occurrence,
            offer.reward.minor,
            offer.reward.currency,
            due,
            0,
            matures_at,
            entry_credit,
            entry_mature,
            entry_reverse,
            source,
            event_id,
            None,
            now,
            trace_id,
            0,
            None if policy is None else policy.id,
        )
        for (offer, user_id, occurrence, source, event_id), (matures_at, policy), (
            number,
            entry_credit,
            entry_mature,
            entry_reverse,
        ) in zip(
            grants, clearings, zip(numbers, numbers, numbers, numbers, strict=True), strict=True
        )
    ]
    return rows, [text_id("rw", tx.cell, row.id) for row in rows]


def _credited(tx: CellRead, row: RewardRow) -> RewardEvent:
    return RewardEvent.FUND if row.matures_at > tx.now else RewardEvent.CREDIT


def _event(
    tx: CellTx, row: RewardRow, offer: Offer, result: Posted, *, elsewhere: bool
) -> RewardEvent:
    """`elsewhere`: other cells may hold some of the budget, so it is not proven exhausted."""
    if result.done:
        return _credited(tx, row)
    if offer.when_exhausted == "refuse" and offer.home_cell == tx.cell and not elsewhere:
        return RewardEvent.REFUSE
    return RewardEvent.WAIT


async def _ask(
    tx: CellTx, rows: Sequence[RewardRow], grants: Sequence[Grant], slice_rewards: int
) -> None:
    """Ask the home cells for what was missing."""
    needs: dict[int, slices.Need] = {}
    for row, one in zip(rows, grants, strict=True):
        offer = one.offer
        if row.state != RewardState.AWAITING_FUNDS or offer.home_cell == tx.cell:
            continue
        usual = min(offer.reward.minor * slice_rewards, MAX_MINOR)
        need = needs.get(offer.campaign_id)
        needs[offer.campaign_id] = slices.Need(
            offer.campaign_id,
            offer.home_cell,
            offer.when_exhausted,
            offer.reward.currency,
            min((need.missing if need else 0) + row.amount, MAX_MINOR),
            max(usual, need.usual if need else 0),
            min(row.amount, need.least if need else row.amount),
        )
    await slices.ask(tx, list(needs.values()))
