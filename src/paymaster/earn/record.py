"""`record`: a batch of events into state and money, in one transaction of one cell.

Set-based throughout: the number of statements does not depend on the number of events. What makes
it exactly once is a row in the same transaction as the effect: the event's, the answer's, the
state's lock, the reward's.

What is there already is looked up, what is new is written by COPY. Answers and what counts towards
a pattern are looked up under the lock of the user's task, so that nobody else can write the same.
Only an event id may come from two sides at the same moment: then the database refuses the second
batch, and it is taken in again, row by row where they meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, NoReturn

from paymaster.db.tx import CellTx
from paymaster.earn import grant, patterns, verify
from paymaster.earn.catalogue import Catalogue
from paymaster.earn.dead_letter import bury
from paymaster.earn.event import Event, EventOutcome, Fault, Status
from paymaster.earn.grant import Grant, Granted
from paymaster.earn.machine import RewardState, TaskEvent, TaskState
from paymaster.earn.patterns import Runs
from paymaster.earn.resolve import BEGUN, COUNTS, IGNORED, RIGHT, SUBMITTED, WRONG, Item, resolve
from paymaster.earn.states import STEPS, States
from paymaster.earn.store import events as store
from paymaster.earn.store import reversals
from paymaster.earn.store import states as state_store
from paymaster.earn.store.events import EventRow
from paymaster.earn.store.states import NONE, Fresh, Pair
from paymaster.earn.turns import Turn
from paymaster.kernel.errors import Broken
from paymaster.people import users
from paymaster.people.machine import Status as UserStatus
from paymaster.secrets.sealing import Sealer

MAX_BATCH = 6000
"""Events in one transaction; larger batches are split."""

_Key = tuple[str, str]


class How(NamedTuple):
    """Which shortcuts are taken.

    `careful` writes events one by one, as some may be there by now; `ahead` takes it for granted
    that an ample budget stays ample.
    """

    careful: bool = False
    ahead: bool = True


FIRST = How()


async def record(
    tx: CellTx,
    sealer: Sealer,
    catalogue: Catalogue,
    events: Sequence[Event],
    *,
    resolved: Sequence[Item | EventOutcome] | None = None,
    how: How = FIRST,
    turn: Turn | None = None,
) -> list[EventOutcome]:
    """Take in events of users of this cell; one outcome for each, in order.

    Events that name nothing that exists, or that come at the wrong time or from the wrong user,
    are rejected and kept in the dead-letter list; sending them again later is right. Raises Broken
    for more than MAX_BATCH events, and when an invariant of the books does not hold.

    What is done for speed may turn out wrong; then the whole is run again with another `how`:
    upon UniqueViolation `careful`, upon BudgetShort not `ahead`. `turn` is the place among the
    parts of a larger batch; raises Overtaken. `resolved` is what `resolve` made of the events,
    which is used up here.
    """
    if len(events) > MAX_BATCH:
        raise Broken("batch-limit", f"{len(events)} events in one call; split them.")
    found = resolve(tx.cell, catalogue, events) if resolved is None else resolved
    items = [one for one in found if isinstance(one, Item)]
    pairs = sorted({item.pair for item in items})
    items = await _check_users(tx, sealer, catalogue, items, pairs)
    first, again = _once_each(items)
    known = await store.known_events(tx, first)
    await _end_known(tx, first, known)
    fresh = (
        [item for key, item in first.items() if key not in known] if known else [*first.values()]
    )
    runs = patterns.runs_of(fresh)
    states = await _lock(tx, fresh, runs, pairs, careful=how.careful)
    turn = turn or Turn()
    turn.holds()
    ripe = patterns.ripe(states, runs)
    before = await patterns.before(tx, states, ripe)
    await turn.writes()
    if fresh:
        fresh = await _keep(tx, fresh, known, careful=how.careful)
    if how.careful:
        ripe = _count(states, fresh)
    for item in again:
        _end_again(item, known.get(item.key, first[item.key].event.digest))
    turn.wrote()
    _advance(states, fresh)
    earned = await _right_answers(tx, states, fresh) + patterns.complete(tx, states, ripe, before)
    await _judge(tx, catalogue, states, fresh, earned, how, turn)
    done = [one if isinstance(one, EventOutcome) else one.outcome or _lost(one) for one in found]
    await _bury_rejected(tx, sealer, events, done)
    return done


async def _bury_rejected(
    tx: CellTx, sealer: Sealer, events: Sequence[Event], done: Sequence[EventOutcome]
) -> None:
    rejected = Status.REJECTED
    faults = [
        (event.source, Fault(event.line, o.slug or "", o.detail or "", event.raw, o.event_id))
        for o, event in zip(done, events, strict=True)
        if o.status is rejected and o.slug != "budget-exhausted"
    ]
    await bury(tx, sealer, faults)


def _once_each(items: list[Item]) -> tuple[dict[_Key, Item], list[Item]]:
    """The first item of each event id, and those that come again."""
    first = {item.key: item for item in items}
    if len(first) == len(items):
        return first, []
    first.clear()
    again = [item for item in items if first.setdefault(item.key, item) is not item]
    return first, again


def _lost(item: Item) -> NoReturn:
    raise Broken("event-forgotten", f"Line {item.event.line} came to no end.")


async def _check_users(
    tx: CellTx, sealer: Sealer, catalogue: Catalogue, items: list[Item], pairs: Iterable[Pair]
) -> list[Item]:
    """Reject events of users who are not active, or whose profile does not fit the task.

    The others. `pairs` are those of all items, in order.
    """
    if not items:
        return items
    barred = await users.not_active(tx, dict.fromkeys([user_id for user_id, _ in pairs]))
    if barred:
        _bar(items, barred)
    choosy = {offer.id for offer in catalogue.offers if offer.selective}
    selective = [
        item for item in items if choosy and item.offer.id in choosy and item.outcome is None
    ]
    if selective:
        await _check_profiles(tx, sealer, selective)
    if barred or selective:
        return [item for item in items if item.outcome is None]
    return items


async def _check_profiles(tx: CellTx, sealer: Sealer, items: Sequence[Item]) -> None:
    """Who has begun a task goes on with it, whatever became of the profile."""
    begun = await state_store.states(tx, sorted({item.pair for item in items}))
    doubtful = [item for item in items if item.pair not in begun]
    profiles = await users.profiles(tx, sealer, sorted({item.user_id for item in doubtful}))
    for item in doubtful:
        profile = profiles.get(item.user_id)
        if not (
            item.offer.requirements.met_by(profile, tx.now.year)
            and item.offer.targeting.met_by(profile, tx.now.year)
        ):
            item.end(Status.REJECTED, "not-eligible", "The user's profile does not fit the task.")


def _bar(items: Sequence[Item], barred: Mapping[int, UserStatus | None]) -> None:
    for item in items:
        if item.user_id in barred:
            status = barred[item.user_id]
            if status is None:
                item.end(Status.REJECTED, "user-unknown", "The user was never completely made.")
            else:
                item.end(Status.REJECTED, f"user-{status}", f"The user is {status}.")


async def _lock(
    tx: CellTx, items: Iterable[Item], runs: Runs, pairs: Iterable[Pair], *, careful: bool
) -> States:
    """The states of the users' tasks that events may change; what counts is counted on the way.

    Made in the order of `pairs`, so that little is left to sort.
    """
    wanted: dict[Pair, Fresh] = {}
    ends: dict[int, datetime | None] = {}
    for pair in pairs:
        run = runs.get(pair)
        if run is not None:
            offer = run[0].offer
            if offer.id not in ends:
                ends[offer.id] = offer.closes_at
            counts = NONE if careful else patterns.counting(run)
            wanted[pair] = Fresh(offer.home_cell, ends[offer.id], counts, _MAKES[COUNTS])
    for item in items:
        shows = item.shows
        if shows is not COUNTS and shows is not IGNORED and item.pair not in wanted:
            offer = item.offer
            wanted[item.pair] = Fresh(offer.home_cell, offer.closes_at, NONE, _MAKES.get(shows))
    return await States.lock(tx, wanted)


_MAKES = {
    BEGUN: TaskState.STARTED.value,
    WRONG: TaskState.IN_PROGRESS.value,
    COUNTS: TaskState.IN_PROGRESS.value,
}
"""Where the first event leads."""


def _count(states: States, items: Iterable[Item]) -> Runs:
    """Count what was not counted by the lock; what of it may be complete now."""
    runs = patterns.runs_of(items)
    for pair, run in runs.items():
        states.count(pair, patterns.counting(run))
    return patterns.ripe(states, runs)


async def _keep(
    tx: CellTx, items: list[Item], known: dict[_Key, bytes], *, careful: bool
) -> list[Item]:
    """Write the events; those of them that are new. The others are added to `known`."""
    rows: list[EventRow] = [(item.key, item.pair, item.event, item.shows) for item in items]
    if not careful:
        await store.write_events(tx, rows)
        return items
    new = await store.insert_events(tx, rows)
    late = [item for item in items if item.key not in new]
    found = await store.known_events(tx, [item.key for item in late])
    known |= found
    if len(found) < len(late):
        raise Broken("event-vanished", "An event that was there is gone.")
    await _end_known(tx, {item.key: item for item in late}, found)
    return [item for item in items if item.key in new]


async def _end_known(tx: CellTx, items: Mapping[_Key, Item], known: Mapping[_Key, bytes]) -> None:
    """End events that are kept already. Some never came, but were taken back: they earn nothing."""
    early = [key for key, digest in known.items() if digest == reversals.FORESTALLED]
    news = await reversals.met_early(tx, early) if early else set[tuple[str, str]]()
    for key, digest in known.items():
        if key in news:
            items[key].end(Status.REJECTED, "event-reversed", "It was taken back before it came.")
        else:
            _end_again(items[key], digest)


def _end_again(item: Item, digest: bytes) -> None:
    """It was taken in before, with this digest."""
    if digest in (item.event.digest, reversals.FORESTALLED):
        item.end(Status.DUPLICATE)
    else:
        item.end(
            Status.REJECTED, "event-conflict", "This event id came before with another content."
        )


async def _judge(
    tx: CellTx,
    catalogue: Catalogue,
    states: States,
    items: Sequence[Item],
    earned: Sequence[tuple[Item, str]],
    how: How,
    turn: Turn,
) -> None:
    """Rewards for what is earned, with its occurrences; ends every item."""
    grants = [Grant(item.offer, item.user_id, occurrence, *item.key) for item, occurrence in earned]
    written = await grant.ahead(tx, grants) if how.ahead else None
    if written is None:
        await turn.goes_on()
        made = await grant.make(tx, grants, slice_rewards=catalogue.slice_rewards)
    else:
        made = written.made
    _rewarded(states, earned, made)
    recorded = Status.RECORDED
    for item in items:
        if item.outcome is None:
            item.outcome = EventOutcome(item.event.line, item.key[1], recorded)
    await states.write(tx)
    if written is not None:
        await turn.goes_on()
        await written.settle(tx)


def _advance(states: States, items: Iterable[Item]) -> None:
    leading, step = _ADVANCE.get, states.step
    for item in items:
        steps = leading(item.shows)
        if steps is not None:
            step(item.pair, steps)


_ADVANCE = {
    BEGUN: STEPS[TaskEvent.START],
    SUBMITTED: STEPS[TaskEvent.SUBMIT],
    WRONG: STEPS[TaskEvent.PROGRESS],
    COUNTS: STEPS[TaskEvent.PROGRESS],
}


def _capped(states: States, item: Item, pending: int) -> bool:
    cap = item.offer.user_cap
    return cap is not None and states.rewards(item.pair) + pending >= cap


async def _right_answers(
    tx: CellTx, states: States, items: Sequence[Item]
) -> list[tuple[Item, str]]:
    """Right first answers, with their occurrences."""
    answers: dict[tuple[int, int, str], Item] = {}
    for item in items:
        if item.item is not None:
            key = (item.offer.id, item.user_id, item.item)
            if key in answers:
                item.end(Status.RECORDED, "item-answered", "Only the first answer counts.")
            else:
                answers[key] = item
    if not answers:
        return []
    old = [key for key, item in answers.items() if not states.begins(item.pair)]
    known = await store.known_answers(tx, old) if old else frozenset[tuple[int, int, str]]()
    await store.write_answers(
        tx, [(key, item.key) for key, item in answers.items() if key not in known]
    )
    earned: list[tuple[Item, str]] = []
    pending: dict[Pair, int] = {}
    for key, item in answers.items():
        if key in known:
            item.end(Status.RECORDED, "item-answered", "Only the first answer counts.")
        elif item.shows is RIGHT:
            if _capped(states, item, pending.get(item.pair, 0)):
                item.end(Status.RECORDED, "user-cap", "The user has had all rewards of the task.")
            else:
                pending[item.pair] = pending.get(item.pair, 0) + 1
                earned.append((item, key[2]))
    return earned


def _rewarded(
    states: States, earned: Sequence[tuple[Item, str]], granted: Sequence[Granted]
) -> None:
    for (item, _), made in zip(earned, granted, strict=True):
        states.add_reward(item.pair)
        grant.tell(states, item.pair, made, once=not isinstance(item.offer.rule, verify.Gold))
        event = item.event
        item.outcome = EventOutcome(event.line, event.event_id, *_STATUS[made.state], made.name)


_STATUS: dict[RewardState, tuple[Status, str | None, str | None]] = {
    RewardState.VESTING: (Status.REWARDED, None, None),
    RewardState.CREDITED: (Status.REWARDED, None, None),
    RewardState.AWAITING_FUNDS: (Status.AWAITING_FUNDS, None, None),
    RewardState.REFUSED: (
        Status.REJECTED,
        "budget-exhausted",
        "The campaign's budget is used up, and its policy is to refuse.",
    ),
}
