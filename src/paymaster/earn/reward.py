"""Rewards: credited from the sponsor's budget, vested, matured, taken back.

A row is made under the lock of the user's task state, together with the numbers of all entries it
may ever post, so that whatever is retried posts the same entries. Its unique key lets one
occurrence be rewarded once, for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import msgspec

from paymaster.db import outbox, outbox_lines
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn import chargeback, policy, recall, reserve
from paymaster.earn import slice as slices
from paymaster.earn.machine import REWARD, RewardEvent, RewardState, TaskEvent
from paymaster.earn.states import States
from paymaster.earn.store import rewards as reward_store
from paymaster.earn.store.rewards import RewardMove, RewardRow, Waiting
from paymaster.earn.store.states import Fresh
from paymaster.earn.terms import Policy
from paymaster.earn.views import money
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Broken, Conflict, NotFound
from paymaster.kernel.ids import text_id
from paymaster.kernel.machine import Move
from paymaster.kernel.money import MAX_MINOR, Money
from paymaster.ledger import recipes
from paymaster.ledger.balance import owing
from paymaster.ledger.entry import Entry, Posted, Verdict
from paymaster.ledger.post import post

MAX_BATCH = 1000
MAX_CAMPAIGNS = 500
"""Campaigns with waiting rewards that are looked at in one go."""

EXHAUSTED = "budget-exhausted"


def amount_of(row: RewardRow) -> Money:
    """The reward's amount."""
    return Money(row.amount, row.asset)


async def _debtors(tx: CellRead, rows: Sequence[RewardRow]) -> set[tuple[int, str]]:
    found: set[tuple[int, str]] = set()
    for asset in sorted({row.asset for row in rows}):
        ids = sorted({row.user_id for row in rows if row.asset == asset})
        found |= {(user_id, asset) for user_id in await owing(tx, ids, asset)}
    return found


class Credit(NamedTuple):
    """The entries that credit rewards, made before anything is locked; `debtors` as seen then."""

    rows: Sequence[RewardRow]
    entries: list[Entry]
    debtors: set[tuple[int, str]]


async def prepare(tx: CellTx, rows: Sequence[RewardRow], names: Sequence[str]) -> Credit:
    """Make the credit of each row; what is past its vesting goes to available at once."""
    debtors = await _debtors(tx, [row for row in rows if row.matures_at <= tx.now])
    amounts: dict[tuple[int, str], tuple[Money, Money]] = {}
    entries: list[Entry] = []
    now = tx.now
    for row, name in zip(rows, names, strict=True):
        kind = row.amount, row.asset
        if kind not in amounts:
            amounts[kind] = amount_of(row), Money.zero(row.asset)
        amount, nothing = amounts[kind]
        postings = recipes.reward(
            row.campaign_id,
            row.user_id,
            amount,
            vests=row.matures_at > now,
            owes=bool(debtors) and (row.user_id, row.asset) in debtors,
            commission=nothing,
        )
        entries.append(Entry(row.entry_credit, "reward", name, postings))
    return Credit(rows, entries, debtors)


async def credit(tx: CellTx, made: Credit) -> list[Posted]:
    """Post credits; INSUFFICIENT is the only refusal. Raises Broken `reward-refused`."""
    posted = await post(tx, made.entries)
    credited: list[RewardRow] = []
    under_policy: list[RewardRow] = []
    now = tx.now
    for row, result in zip(made.rows, posted, strict=True):
        verdict = result.verdict
        if verdict is Verdict.POSTED or result.done:
            if row.policy_id is not None and verdict is Verdict.POSTED:
                under_policy.append(row)
            if row.matures_at <= now:
                credited.append(row)
        elif verdict is not Verdict.INSUFFICIENT:
            raise Broken(
                "reward-refused", f"Entry {result.entry_id} was refused: {result.verdict}."
            )
    await _recover_late(tx, credited, made.debtors)
    if under_policy:
        policies = await policy.applied(tx, {row.policy_id for row in under_policy})
        matured = [row for row in under_policy if row.matures_at <= now]
        await reserve.set_aside(tx, matured, policies)
        await chargeback.credited(tx, under_policy, policies)
    return posted


async def _recover_late(tx: CellTx, rows: Sequence[RewardRow], known: set[tuple[int, str]]) -> None:
    """Pay back debt that a reversal made after `known` was read; its locks are ours by now."""
    if not rows:
        return
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


def move(row: RewardRow, event: RewardEvent, reason: str | None = None) -> RewardMove:
    """Move a row in place. Raises Conflict `illegal-move`."""
    before = row.state
    found = _STEPS.get((before, event)) or _step(REWARD.find(before, event))
    name, row.state, vests = found
    row.version = number = row.version + 1
    if vests:
        row.remaining, row.due_at = row.amount, row.matures_at
    else:
        row.remaining, row.due_at, row.waits_for = 0, None, None
    return RewardMove(row.id, number, before, name, row.state, reason)


def _step(one: Move) -> tuple[str, str, bool]:
    """The names of the event and of where it leads, and whether the reward vests there."""
    return one.event.value, one.target.value, RewardState(one.target) is RewardState.VESTING


def _names(tx: CellTx, rows: Sequence[RewardRow]) -> list[str]:
    return [text_id("rw", tx.cell, row.id) for row in rows]


_STEPS = {(one.source.value, one.event.value): _step(one) for one in REWARD.moves}


def messages(
    tx: CellTx, rows: Sequence[RewardRow], names: Sequence[str]
) -> list[outbox_lines.Line]:
    """What the app is told of each reward. Text ids, states and amounts need no escaping."""
    same: dict[tuple[int, int, str], str] = {}
    users: dict[int, str] = {}
    told: list[outbox_lines.Line] = []
    for row, name in zip(rows, names, strict=True):
        kind = row.task_id, row.amount, row.asset
        shared = same.get(kind)
        if shared is None:
            shared = same[kind] = _shared(row)
        user = users.get(row.user_id)
        if user is None:
            user = users[row.user_id] = text_id("us", tx.cell, row.user_id)
        payload = f'{{"reward": "{name}", "user": "{user}", "state": "{row.state}", {shared}}}'
        told.append(outbox_lines.Line(f"reward.{row.state}", user, payload))
    return told


def _shared(row: RewardRow) -> str:
    campaign = text_id("cp", row.home_cell, row.campaign_id)
    task = text_id("tk", row.home_cell, row.task_id)
    amount = msgspec.json.encode(money(amount_of(row))).decode()
    return f'"campaign": "{campaign}", "task": "{task}", "amount": {amount}'


async def lock_states(tx: CellTx, rows: Sequence[RewardRow]) -> States:
    """The users' tasks that rewards belong to; locked after the rewards, before the accounts."""
    return await States.lock(tx, {(row.user_id, row.task_id): Fresh(row.home_cell) for row in rows})


async def moved(tx: CellTx, rows: Sequence[RewardRow], moves: Sequence[RewardMove]) -> None:
    """Write moved rows, their moves and messages."""
    if rows:
        await reward_store.update(tx, rows)
        await reward_store.write_moves(tx, REWARD.name, moves)
        await outbox_lines.put(tx, messages(tx, rows, _names(tx, rows)))


async def mature_due(tx: CellTx, limit: int = MAX_BATCH) -> int:
    """Make vested rewards whose time has come available; how many."""
    claimed = await reward_store.claim_due(tx, limit)
    policies = await policy.applied(tx, {row.policy_id for row in claimed})
    rows = await _unless_held(tx, claimed, policies)
    if not rows:
        return len(claimed)
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
    await reserve.set_aside(tx, rows, policies)
    moves = [move(row, RewardEvent.MATURE) for row in rows]
    await moved(tx, rows, moves)
    return len(claimed)


async def _unless_held(
    tx: CellTx, rows: Sequence[RewardRow], policies: Mapping[int, Policy]
) -> list[RewardRow]:
    """Those that may mature; of the others too much was taken back, so they clear for longer."""
    asked = {row.id: chargeback.watch(row, policies) for row in rows if not row.exempt}
    bad = await chargeback.above(tx, [one for one in asked.values() if one is not None])
    held = [row for row in rows if asked.get(row.id) in bad]
    if not held:
        return list(rows)
    for row in held:
        one = asked[row.id]
        longer = None if one is None else one.rule.extra_seconds
        row.waits_for = chargeback.RATE
        row.due_at = None if longer is None else tx.now + timedelta(seconds=longer)
        row.matures_at = row.due_at or row.matures_at
    await reward_store.update(tx, held)
    await outbox.put(tx, [_postponed(tx, row) for row in held])
    return [row for row in rows if asked.get(row.id) not in bad]


def _postponed(tx: CellTx, row: RewardRow) -> outbox.Message:
    user = text_id("us", tx.cell, row.user_id)
    payload = {
        "reward": text_id("rw", tx.cell, row.id),
        "user": user,
        "reason": row.waits_for,
        "matures_at": None if row.due_at is None else rfc3339(row.due_at),
    }
    return outbox.Message("reward.postponed", user, payload)


async def let_mature(tx: CellTx, reward_id: int) -> RewardRow:
    """A person lets a reward mature that waits because much is taken back; due at once if it is.

    Raises NotFound `reward-unknown`, Conflict `reward-not-held`.
    """
    found = await reward_store.lock(tx, [reward_id])
    if not found:
        raise NotFound("reward-unknown", "There is no such reward.")
    [row] = found
    if row.state != RewardState.VESTING or (row.waits_for is None and not row.exempt):
        raise Conflict("reward-not-held", f"The reward is {row.state}, and nothing holds it back.")
    if not row.exempt:
        row.exempt, row.waits_for = True, None
        row.matures_at = row.due_at = tx.now
        await reward_store.update(tx, [row])
    return row


def all_done(posted: Sequence[Posted]) -> None:
    """Raises Broken `reward-refused` unless every entry is in the books."""
    for result in posted:
        if not result.done:
            raise Broken(
                "reward-refused", f"Entry {result.entry_id} was refused: {result.verdict}."
            )


async def _waiting(tx: CellTx, campaign_id: int | None) -> list[Waiting]:
    """The campaign, if rewards of it wait here; or else the next ones of the round over all."""
    if campaign_id is not None:
        found = await reward_store.waiting(tx, campaign_id - 1, 1)
        return [one for one in found if one.campaign_id == campaign_id]
    after = await reward_store.round_after(tx)
    found = await reward_store.waiting(tx, after, MAX_CAMPAIGNS)
    if after and not found:
        found = await reward_store.waiting(tx, 0, MAX_CAMPAIGNS)
    reached = found[-1].campaign_id if len(found) == MAX_CAMPAIGNS else 0
    if reached != after:
        await reward_store.go_round(tx, reached)
    return found


async def retry_awaiting(
    tx: CellTx, limit: int = MAX_BATCH, *, campaign_id: int | None = None
) -> int:
    """Credit waiting rewards, oldest first, where money has come; ask for more where it has not.

    Returns how many rewards moved. A campaign whose home cell said that nothing is left, and
    whose policy is to refuse, has those of its waiting rewards refused that are not too small for
    this to hold. Each call looks at the next MAX_CAMPAIGNS of all campaigns for which something
    waits, so that dry ones keep nobody waiting; or at `campaign_id` only.
    """
    waiting = await _waiting(tx, campaign_id)
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
    posted = await credit(tx, await prepare(tx, rows, _names(tx, rows)))
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
