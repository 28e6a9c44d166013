"""Rewards: credited from the sponsor's budget, vested, matured, taken back.

A row is made under the lock of the user's task state, together with the numbers of all entries it
may ever post, so that whatever is retried posts the same entries. Its unique key lets one
occurrence be rewarded once, for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from paymaster.db import outbox
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn import recall
from paymaster.earn import slice as slices
from paymaster.earn.catalogue import Offer
from paymaster.earn.machine import REWARD, RewardEvent, RewardState, TaskEvent
from paymaster.earn.states import States
from paymaster.earn.store import rewards as reward_store
from paymaster.earn.store.rewards import RewardMove, RewardRow
from paymaster.earn.store.states import Fresh, Pair
from paymaster.earn.views import money
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import MAX_MINOR, Money
from paymaster.ledger import recipes
from paymaster.ledger.balance import owing
from paymaster.ledger.entry import Entry, Posted, Verdict
from paymaster.ledger.post import post

MAX_BATCH = 1000
MAX_CAMPAIGNS = 500
"""Campaigns with waiting rewards that are looked at in one go."""

EXHAUSTED = "budget-exhausted"


@dataclass(frozen=True, slots=True)
class Grant:
    """A user has earned an occurrence of a task; the event that brought it is evidence."""

    offer: Offer
    user_id: int
    occurrence: str
    source: str
    event_id: str


@dataclass(frozen=True, slots=True)
class Granted:
    """The reward that was made."""

    reward_id: int
    state: RewardState


async def grant(tx: CellTx, grants: Sequence[Grant], *, slice_rewards: int) -> list[Granted]:
    """Make rewards and credit them as far as the budgets in this cell reach.

    The caller holds the locks of the users' task states and knows that no reward of these
    occurrences exists. Raises Broken when the books refuse for another reason than the budget.
    """
    if not grants:
        return []
    numbers = tx.ids(4 * len(grants))
    rows = [_row(tx, one, numbers[4 * at : 4 * at + 4]) for at, one in enumerate(grants)]
    posted = await _credit(tx, rows)
    short = {
        one.offer.campaign_id: one.offer.when_exhausted == "refuse"
        for one, result in zip(grants, posted, strict=True)
        if not result.done and one.offer.home_cell == tx.cell
    }
    out = frozenset[int]()
    if short:
        await recall.note_policy(tx, short)
        out = await recall.out(tx, list(short))
    moves: list[RewardMove] = []
    for row, one, result in zip(rows, grants, posted, strict=True):
        event = _event(tx, row, one.offer, result, elsewhere=row.campaign_id in out)
        moves.append(move(row, event))
    await recall.recall(tx, sorted(out))
    await reward_store.insert(tx, rows)
    await reward_store.insert_moves(tx, REWARD.name, moves)
    await outbox.put(tx, [_message(tx, row) for row in rows])
    await _ask(tx, rows, grants, slice_rewards)
    return [Granted(row.id, RewardState(row.state)) for row in rows]


def tell(states: States, pair: Pair, made: Granted, *, once: bool) -> None:
    """Move the user's task to where the reward leaves it. `once`: it can be earned once only."""
    if made.state is RewardState.AWAITING_FUNDS:
        states.move(pair, TaskEvent.VERIFY)
    elif made.state is not RewardState.REFUSED:
        states.move(pair, TaskEvent.REWARD)
    elif once:
        states.move(pair, TaskEvent.VERIFY)
        states.move(pair, TaskEvent.REJECT, EXHAUSTED)
    else:
        states.move(pair, TaskEvent.PROGRESS)


def _row(tx: CellTx, one: Grant, numbers: Sequence[int]) -> RewardRow:
    offer = one.offer
    return RewardRow(
        id=numbers[0],
        campaign_id=offer.campaign_id,
        home_cell=offer.home_cell,
        task_id=offer.id,
        user_id=one.user_id,
        occurrence=one.occurrence,
        amount=offer.reward.minor,
        asset=offer.reward.currency,
        state=RewardState.DUE.value,
        remaining=0,
        matures_at=tx.now + timedelta(seconds=offer.vesting_seconds),
        entry_credit=numbers[1],
        entry_mature=numbers[2],
        entry_reverse=numbers[3],
        source=one.source,
        event_id=one.event_id,
        due_at=None,
        created_at=tx.now,
        trace_id=tx.trace_id,
        version=0,
    )


def amount_of(row: RewardRow) -> Money:
    """The reward's amount."""
    return Money(row.amount, row.asset)


async def _debtors(tx: CellRead, rows: Sequence[RewardRow]) -> set[tuple[int, str]]:
    found: set[tuple[int, str]] = set()
    for asset in sorted({row.asset for row in rows}):
        ids = sorted({row.user_id for row in rows if row.asset == asset})
        found |= {(user_id, asset) for user_id in await owing(tx, ids, asset)}
    return found


async def _credit(tx: CellTx, rows: Sequence[RewardRow]) -> list[Posted]:
    """Post the credit of each row; what is past its vesting goes to available at once."""
    debtors = await _debtors(tx, [row for row in rows if row.matures_at <= tx.now])
    entries = [
        Entry(
            row.entry_credit,
            "reward",
            text_id("rw", tx.cell, row.id),
            recipes.reward(
                row.campaign_id,
                row.user_id,
                amount_of(row),
                vests=row.matures_at > tx.now,
                owes=(row.user_id, row.asset) in debtors,
                commission=Money.zero(row.asset),
            ),
        )
        for row in rows
    ]
    posted = await post(tx, entries)
    for result in posted:
        if not result.done and result.verdict is not Verdict.INSUFFICIENT:
            raise Broken(
                "reward-refused", f"Entry {result.entry_id} was refused: {result.verdict}."
            )
    credited = [
        row
        for row, result in zip(rows, posted, strict=True)
        if result.done and row.matures_at <= tx.now
    ]
    await _recover_late(tx, credited, debtors)
    return posted


async def _recover_late(tx: CellTx, rows: Sequence[RewardRow], known: set[tuple[int, str]]) -> None:
    """Pay back debt that a reversal made after `known` was read; its locks are ours by now."""
    late = await _debtors(tx, rows) - known
    entries = [
        Entry(
            tx.id(),
            "recover",
            text_id("rw", tx.cell, row.id),
            (recipes.recover(row.user_id, amount_of(row)),),
        )
        for row in rows
        if (row.user_id, row.asset) in late
    ]
    all_done(await post(tx, entries))


def _event(
    tx: CellTx, row: RewardRow, offer: Offer, result: Posted, *, elsewhere: bool
) -> RewardEvent:
    """`elsewhere`: other cells may hold some of the budget, so it is not proven exhausted."""
    if result.done:
        return RewardEvent.FUND if row.matures_at > tx.now else RewardEvent.CREDIT
    if offer.when_exhausted == "refuse" and offer.home_cell == tx.cell and not elsewhere:
        return RewardEvent.REFUSE
    return RewardEvent.WAIT


def move(row: RewardRow, event: RewardEvent, reason: str | None = None) -> RewardMove:
    """Move a row in place."""
    step = REWARD.find(row.state, event)
    row.version += 1
    made = RewardMove(row.id, row.version, row.state, step.event.value, step.target.value, reason)
    row.state = step.target.value
    vests = row.state == RewardState.VESTING.value
    row.remaining = row.amount if vests else 0
    row.due_at = row.matures_at if vests else None
    return made


def _message(tx: CellTx, row: RewardRow) -> outbox.Message:
    user = text_id("us", tx.cell, row.user_id)
    payload = {
        "reward": text_id("rw", tx.cell, row.id),
        "user": user,
        "campaign": text_id("cp", row.home_cell, row.campaign_id),
        "task": text_id("tk", row.home_cell, row.task_id),
        "state": row.state,
        "amount": money(amount_of(row)),
    }
    return outbox.Message(f"reward.{row.state}", user, payload)


async def _ask(
    tx: CellTx, rows: Sequence[RewardRow], grants: Sequence[Grant], slice_rewards: int
) -> None:
    """Ask the home cells for what was missing."""
    needs: dict[int, slices.Need] = {}
    for row, one in zip(rows, grants, strict=True):
        offer = one.offer
        if row.state != RewardState.AWAITING_FUNDS.value or offer.home_cell == tx.cell:
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


async def lock_states(tx: CellTx, rows: Sequence[RewardRow]) -> States:
    """The users' tasks that rewards belong to; locked after the rewards, before the accounts."""
    return await States.lock(tx, {(row.user_id, row.task_id): Fresh(row.home_cell) for row in rows})


async def moved(tx: CellTx, rows: Sequence[RewardRow], moves: Sequence[RewardMove]) -> None:
    """Write moved rows, their moves and messages."""
    if rows:
        await reward_store.update(tx, rows)
        await reward_store.insert_moves(tx, REWARD.name, moves)
        await outbox.put(tx, [_message(tx, row) for row in rows])


async def mature_due(tx: CellTx, limit: int = MAX_BATCH) -> int:
    """Make vested rewards whose time has come available; how many."""
    rows = await reward_store.claim_due(tx, limit)
    if not rows:
        return 0
    debtors = await _debtors(tx, rows)
    posted = await post(
        tx,
        [
            Entry(
                row.entry_mature,
                "mature",
                text_id("rw", tx.cell, row.id),
                recipes.mature(
                    row.user_id,
                    Money(row.remaining, row.asset),
                    owes=(row.user_id, row.asset) in debtors,
                ),
            )
            for row in rows
        ],
    )
    all_done(posted)
    await _recover_late(tx, rows, debtors)
    moves = [move(row, RewardEvent.MATURE) for row in rows]
    await moved(tx, rows, moves)
    return len(rows)


def all_done(posted: Sequence[Posted]) -> None:
    """Raises Broken `reward-refused` unless every entry is in the books."""
    for result in posted:
        if not result.done:
            raise Broken(
                "reward-refused", f"Entry {result.entry_id} was refused: {result.verdict}."
            )


async def retry_awaiting(tx: CellTx, limit: int = MAX_BATCH) -> int:
    """Credit waiting rewards, oldest first, where money has come; ask for more where it has not.

    Returns how many rewards moved. A campaign whose home cell said that nothing is left, and
    whose policy is to refuse, has those of its waiting rewards refused that are not too small for
    this to hold.
    """
    waiting = await reward_store.waiting(tx, MAX_CAMPAIGNS)
    last = await slices.last(tx, [one.campaign_id for one in waiting])
    numbers = [one.campaign_id for one in waiting]
    refusing = {number: row.least for number, row in last.items() if row.refuses}
    refusing |= dict.fromkeys(await recall.exhausted(tx, numbers), 1)
    able = {one.campaign_id: one.balance for one in waiting if one.balance > 0}
    able |= dict.fromkeys(refusing, MAX_MINOR)
    rows = await reward_store.claim_waiting(tx, able, max(limit // max(len(able), 1), 1))
    states = await lock_states(tx, rows)
    changed: list[RewardRow] = []
    moves: list[RewardMove] = []
    posted = await _credit(tx, rows)
    out = await recall.out(tx, numbers)
    for row, result in zip(rows, posted, strict=True):
        pair = row.user_id, row.task_id
        if result.done:
            vests = row.matures_at > tx.now
            moves.append(move(row, RewardEvent.FUND if vests else RewardEvent.CREDIT))
            states.move(pair, TaskEvent.REWARD)
        elif row.amount >= refusing.get(row.campaign_id, MAX_MINOR + 1) and (
            row.campaign_id not in out
        ):
            moves.append(move(row, RewardEvent.REFUSE, EXHAUSTED))
            states.move(pair, TaskEvent.REJECT, EXHAUSTED)
        else:
            continue
        changed.append(row)
    await moved(tx, changed, moves)
    await states.write(tx)
    await recall.recall(tx, sorted(out - {row.campaign_id for row in changed}))
    for before in last.values():
        missing, least = await reward_store.waiting_total(tx, before.campaign_id)
        if slices.may_ask(before, least, tx.now):
            await slices.ask_again(tx, before, missing, least)
    return len(changed)
