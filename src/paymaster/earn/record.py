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
from datetime import date, datetime
from functools import partial
from typing import NamedTuple, NoReturn

from paymaster.db.tx import CellTx
from paymaster.earn import grant, verify
from paymaster.earn.catalogue import Catalogue
from paymaster.earn.dead_letter import bury
from paymaster.earn.event import Event, EventOutcome, Fault, Status
from paymaster.earn.grant import Grant, Granted
from paymaster.earn.machine import RewardState, TaskEvent
from paymaster.earn.resolve import BEGUN, COUNTS, IGNORED, RIGHT, SUBMITTED, WRONG, Item, resolve
from paymaster.earn.states import States
from paymaster.earn.store import events as store
from paymaster.earn.store import reversals
from paymaster.earn.store import states as state_store
from paymaster.earn.store.events import EventRow, Span
from paymaster.earn.store.states import Fresh, Pair
from paymaster.earn.turns import Turn
from paymaster.kernel.clock import business_day
from paymaster.kernel.errors import Broken
from paymaster.people import users
from paymaster.people.machine import Status as UserStatus
from paymaster.secrets.sealing import Sealer

MAX_BATCH = 2000
"""Events in one transaction; larger batches are split."""

MAX_STEPS = 10_000
"""How many events of one pattern are looked at in one judgement; older ones are left out."""


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
    await _check_users(tx, sealer, items)
    first: dict[tuple[str, str], Item] = {}
    good = [item for item in items if item.outcome is None]
    again = [item for item in good if first.setdefault(item.key, item) is not item]
    digests = {key: item.event.digest for key, item in first.items()}
    fresh = await _dedupe(tx, first, digests)
    states = await _lock(tx, fresh)
    turn = turn or Turn()
    turn.holds()
    before = await _before(tx, states, fresh)
    await turn.writes()
    if fresh:
        fresh = await _keep(tx, fresh, digests, careful=how.careful)
    for item in again:
        _end_again(item, digests[item.key])
    turn.wrote()
    await _judge(tx, catalogue, states, fresh, before, how, turn)
    done = [one if isinstance(one, EventOutcome) else one.outcome or _lost(one) for one in found]
    rejected = Status.REJECTED
    await bury(
        tx,
        sealer,
        [
            (event.source, Fault(event.line, o.slug or "", o.detail or "", event.raw, o.event_id))
            for event, o in zip(events, done, strict=True)
            if o.status is rejected and o.slug != "budget-exhausted"
        ],
    )
    return done


def _lost(item: Item) -> NoReturn:
    raise Broken("event-forgotten", f"Line {item.event.line} came to no end.")


async def _check_users(tx: CellTx, sealer: Sealer, items: Sequence[Item]) -> None:
    """Reject events of users who are not active, or whose profile does not fit the task."""
    if not items:
        return
    barred = await users.not_active(tx, {item.user_id for item in items})
    if barred:
        _bar(items, barred)
    selective = [item for item in items if item.outcome is None and item.offer.selective]
    if not selective:
        return
    begun = await state_store.states(tx, sorted({item.pair for item in selective}))
    doubtful = [item for item in selective if item.pair not in begun]
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


async def _dedupe(
    tx: CellTx, first: Mapping[tuple[str, str], Item], digests: dict[tuple[str, str], bytes]
) -> list[Item]:
    """End events that were taken in before; the others. `digests` becomes what is kept."""
    known = await store.known_events(tx, first)
    digests |= known
    await _end_known(tx, first, known)
    return [item for key, item in first.items() if key not in known] if known else [*first.values()]


async def _lock(tx: CellTx, items: Sequence[Item]) -> States:
    """The states of the users' tasks that events may change."""
    wanted: dict[Pair, Fresh] = {}
    made: dict[int, Fresh] = {}
    for item in items:
        if item.shows is IGNORED or item.pair in wanted:
            continue
        offer = item.offer
        fresh = made.get(offer.id)
        if fresh is None:
            fresh = made[offer.id] = Fresh(offer.home_cell, offer.closes_at)
        wanted[item.pair] = fresh
    return await States.lock(tx, wanted)


async def _keep(
    tx: CellTx, items: list[Item], digests: dict[tuple[str, str], bytes], *, careful: bool
) -> list[Item]:
    """Write the events; those of them that are new."""
    rows = [_event_row(item, item.event) for item in items]
    if not careful:
        await store.write_events(tx, rows)
        return items
    new = await store.insert_events(tx, rows)
    late = [item for item in items if item.key not in new]
    known = await store.known_events(tx, [item.key for item in late])
    digests |= known
    if len(known) < len(late):
        raise Broken("event-vanished", "An event that was there is gone.")
    await _end_known(tx, {item.key: item for item in late}, known)
    return [item for item in items if item.key in new]


async def _end_known(
    tx: CellTx, items: Mapping[tuple[str, str], Item], known: Mapping[tuple[str, str], bytes]
) -> None:
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


def _event_row(item: Item, event: Event) -> EventRow:
    return (
        event.source,
        event.event_id,
        item.offer.id,
        item.user_id,
        event.type,
        event.occurred_at,
        event.digest,
        event.stored,
        item.shows,
    )


async def _judge(
    tx: CellTx,
    catalogue: Catalogue,
    states: States,
    items: Sequence[Item],
    before: Mapping[Pair, Sequence[verify.Step]],
    how: How,
    turn: Turn,
) -> None:
    """State, verification, rewards; ends every item."""
    working = [item for item in items if item.shows is not IGNORED]
    _advance(states, working)
    earned = await _right_answers(tx, states, working)
    earned += _patterns(tx, states, working, before)
    recorded = Status.RECORDED
    for item in items:
        if item.outcome is None:
            item.outcome = EventOutcome(item.event.line, item.key[1], recorded)
    grants = [Grant(item.offer, item.user_id, occurrence, *item.key) for item, occurrence in earned]
    written = await grant.ahead(tx, grants) if how.ahead else None
    if written is None:
        await turn.goes_on()
        made = await grant.make(tx, grants, slice_rewards=catalogue.slice_rewards)
    else:
        made = written.made
    _rewarded(states, earned, made)
    await states.write(tx)
    if written is not None:
        await turn.goes_on()
        await written.settle(tx)


def _advance(states: States, items: Iterable[Item]) -> None:
    moves = {
        BEGUN: TaskEvent.START,
        SUBMITTED: TaskEvent.SUBMIT,
        WRONG: TaskEvent.PROGRESS,
        COUNTS: TaskEvent.PROGRESS,
    }
    for item in items:
        event = moves.get(item.shows)
        if event is not None:
            states.move(item.pair, event)


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


async def _before(
    tx: CellTx, states: States, items: Sequence[Item]
) -> dict[Pair, list[verify.Step]]:
    """What users did towards their patterns before this batch, where it can matter."""
    runs: dict[Pair, list[Item]] = {}
    for item in items:
        if item.shows is COUNTS and states.counts(item.pair):
            runs.setdefault(item.pair, []).append(item)
    if not runs:
        return {}
    found: dict[Pair, list[verify.Step]] = {}
    spans = [_span(run) for run in runs.values()]
    for task_id, user_id, occurred_at, kind in await store.counted(tx, spans, MAX_STEPS):
        found.setdefault((user_id, task_id), []).append(verify.Step(occurred_at, kind))
    return found


def _patterns(
    tx: CellTx,
    states: States,
    items: Sequence[Item],
    before: Mapping[Pair, Sequence[verify.Step]],
) -> list[tuple[Item, str]]:
    """The last new event of each pattern that is complete now, with its occurrence."""
    counting: dict[Pair, list[Item]] = {}
    for item in items:
        if item.shows is COUNTS and states.open(item.pair):
            counting.setdefault(item.pair, []).append(item)
    day = partial(_day, tx.time_zone, {})
    earned: list[tuple[Item, str]] = []
    for pair, run in counting.items():
        rule, known = run[0].offer.rule, before.get(pair, ())
        if not isinstance(rule, verify.Count) or len(known) + len(run) < rule.count:
            continue
        if verify.complete(rule, [*map(_step, run), *known], day):
            earned.append((run[-1], verify.ONCE))
    return earned


def _day(zone: str, cache: dict[datetime, date], moment: datetime) -> date:
    """The business day; looked up once for each quarter of an hour, the finest zone offset."""
    quarter = moment.replace(minute=moment.minute // 15 * 15, second=0, microsecond=0)
    if quarter not in cache:
        cache[quarter] = business_day(quarter, zone)
    return cache[quarter]


def _step(item: Item) -> verify.Step:
    return verify.Step(item.event.occurred_at, item.event.type)


def _span(run: Sequence[Item]) -> Span:
    rule = run[0].offer.rule
    if not isinstance(rule, verify.Count):
        raise Broken("rule-kind", "Only counts are judged over time.")
    least = max(rule.count - len(run), 0)
    if rule.within_seconds is None:
        return Span(run[0].offer.id, run[0].user_id, None, None, least)
    times = [item.event.occurred_at for item in run]
    first, last = verify.reach(rule, min(times), max(times))
    return Span(run[0].offer.id, run[0].user_id, first, last, least)


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
