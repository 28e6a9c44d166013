"""`record`: a batch of events into state and money, in one transaction of one cell.

Set-based throughout: the number of statements does not depend on the number of events. What makes
it exactly once is a row in the same transaction as the effect: the event's, the answer's, the
state's lock, the reward's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial

from paymaster.db.tx import CellRead, CellTx
from paymaster.earn import reward, verify
from paymaster.earn.catalogue import Catalogue, Offer
from paymaster.earn.dead_letter import bury
from paymaster.earn.event import Event, EventOutcome, Fault, Status
from paymaster.earn.intake import payload_text
from paymaster.earn.machine import RewardState, TaskEvent
from paymaster.earn.reward import Grant
from paymaster.earn.states import States
from paymaster.earn.store import events as store
from paymaster.earn.store import states as state_store
from paymaster.earn.store.events import EventRow, ProgressRow, Span
from paymaster.earn.store.states import Fresh, Pair
from paymaster.kernel.clock import business_day
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import text_id
from paymaster.people import users
from paymaster.people.machine import Status as UserStatus
from paymaster.secrets.sealing import Sealer

MAX_BATCH = 1000
MAX_STEPS = 10_000
"""How many events of one pattern are looked at in one judgement; older ones are left out."""

STARTED = "started"
"""The type of event that only says that a user began."""

RIGHT, WRONG, COUNTS, SUBMITTED, BEGUN, IGNORED = (
    "right",
    "wrong",
    "counts",
    "submitted",
    "begun",
    "ignored",
)


@dataclass(slots=True)
class _Item:
    """An event on its way: what it names, what it shows, what became of it."""

    event: Event
    user_id: int
    offer: Offer
    shows: str
    item: str | None = None
    outcome: EventOutcome | None = None

    @property
    def pair(self) -> Pair:
        return self.user_id, self.offer.id

    @property
    def key(self) -> tuple[str, str]:
        return self.event.source, self.event.event_id

    def end(self, status: Status, slug: str | None = None, detail: str | None = None) -> None:
        self.outcome = EventOutcome(self.event.line, self.event.event_id, status, slug, detail)


async def record(
    tx: CellTx, sealer: Sealer, catalogue: Catalogue, events: Sequence[Event]
) -> list[EventOutcome]:
    """Take in events of users of this cell; one outcome for each, in order.

    Events that name nothing that exists, or that come at the wrong time or from the wrong user,
    are rejected and kept in the dead-letter list; sending them again later is right. Raises Broken
    for more than MAX_BATCH events, and when an invariant of the books does not hold.
    """
    if len(events) > MAX_BATCH:
        raise Broken("batch-limit", f"{len(events)} events in one call; split them.")
    outcomes: list[EventOutcome | None] = []
    items: list[_Item] = []
    for event in events:
        found = _resolve(tx, catalogue, event)
        if isinstance(found, _Item):
            items.append(found)
            outcomes.append(None)
        else:
            outcomes.append(found)
    await _check_users(tx, sealer, items)
    fresh = await _dedupe(tx, [item for item in items if item.outcome is None])
    await _judge(tx, catalogue, fresh)
    rest = iter(items)
    done = [outcome or _ended(next(rest)) for outcome in outcomes]
    await bury(
        tx,
        sealer,
        [
            (event.source, Fault(event.line, o.slug or "", o.detail or "", event.raw, o.event_id))
            for event, o in zip(events, done, strict=True)
            if o.status is Status.REJECTED and o.slug != "budget-exhausted"
        ],
    )
    return done


def _ended(item: _Item) -> EventOutcome:
    if item.outcome is None:
        raise Broken("event-forgotten", f"Line {item.event.line} came to no end.")
    return item.outcome


def _rejected(event: Event, slug: str, detail: str) -> EventOutcome:
    return EventOutcome(event.line, event.event_id, Status.REJECTED, slug, detail)


def _resolve(tx: CellRead, catalogue: Catalogue, event: Event) -> _Item | EventOutcome:
    """What the event names and shows, as far as the directory tells."""
    ref = catalogue.users.get(event.user)
    if ref is None:
        return _rejected(event, "user-unknown", "There is no user of this external id.")
    offer = catalogue.offer(event)
    if offer is None:
        if event.campaign is not None and event.campaign not in catalogue.campaigns:
            return _rejected(event, "campaign-unknown", "There is no such campaign.")
        return _rejected(event, "task-unknown", "The campaign has no such task.")
    if not offer.active:
        return _rejected(event, "task-not-active", "The campaign or the task is not active.")
    if not offer.covers(event.occurred_at):
        return _rejected(event, "outside-dates", "The task was not on offer when this occurred.")
    user_id = users.check_cell(tx, ref)
    rule = offer.rule
    if event.type != rule.event:
        if isinstance(rule, verify.Count) and event.type == rule.after:
            return _Item(event, user_id, offer, COUNTS)
        return _Item(event, user_id, offer, BEGUN if event.type == STARTED else IGNORED)
    if isinstance(rule, verify.Count):
        return _Item(event, user_id, offer, COUNTS)
    if isinstance(rule, verify.Review):
        return _Item(event, user_id, offer, SUBMITTED)
    return _against_gold(catalogue, event, user_id, offer, rule)


def _against_gold(
    catalogue: Catalogue, event: Event, user_id: int, offer: Offer, rule: verify.Gold
) -> _Item | EventOutcome:
    item = verify.as_text(event.payload.get(rule.item))
    answer = verify.as_text(event.payload.get(rule.answer))
    if item is None or answer is None:
        missing = rule.item if item is None else rule.answer
        return _rejected(event, "payload-incomplete", f"`payload.{missing}` is missing.")
    known = catalogue.gold.get((offer.id, item))
    if known is None:
        return _rejected(event, "item-unknown", "There is no known answer for this item.")
    return _Item(event, user_id, offer, RIGHT if answer == known else WRONG, item)


async def _check_users(tx: CellTx, sealer: Sealer, items: Sequence[_Item]) -> None:
    """Reject events of users who are not active, or whose profile does not fit the task."""
    if not items:
        return
    statuses = await users.statuses(tx, {item.user_id for item in items})
    for item in items:
        status = statuses.get(item.user_id)
        if status is None:
            item.end(Status.REJECTED, "user-unknown", "The user was never completely made.")
        elif status is not UserStatus.ACTIVE:
            item.end(Status.REJECTED, f"user-{status}", f"The user is {status}.")
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


async def _dedupe(tx: CellTx, items: Sequence[_Item]) -> list[_Item]:
    """Keep new events and end the others; the new ones."""
    first: dict[tuple[str, str], _Item] = {}
    again: list[_Item] = []
    for item in items:
        if item.key in first:
            again.append(item)
        else:
            first[item.key] = item
    if not first:
        return []
    new = await store.insert_events(tx, [_event_row(item) for item in first.values()])
    old = [item for key, item in first.items() if key not in new]
    known = await store.known_events(tx, [item.key for item in old]) if old else {}
    for item in old:
        before = known.get(item.key)
        if before is None:
            raise Broken("event-vanished", "An event that was there is gone.")
        _end_again(item, same=before.digest == item.event.digest)
    for item in again:
        _end_again(item, same=first[item.key].event.digest == item.event.digest)
    return [item for key, item in first.items() if key in new]


def _end_again(item: _Item, *, same: bool) -> None:
    if same:
        item.end(Status.DUPLICATE)
    else:
        item.end(
            Status.REJECTED, "event-conflict", "This event id came before with another content."
        )


def _event_row(item: _Item) -> EventRow:
    event = item.event
    return EventRow(
        event.source,
        event.event_id,
        item.offer.id,
        item.user_id,
        event.type,
        event.occurred_at,
        event.digest,
        payload_text(event.payload),
        item.shows,
    )


async def _judge(tx: CellTx, catalogue: Catalogue, items: Sequence[_Item]) -> None:
    """State, progress, verification, rewards; ends every item."""
    working = [item for item in items if item.shows != IGNORED]
    states = await States.lock(
        tx, {i.pair: Fresh(i.offer.home_cell, i.offer.closes_at) for i in working}
    )
    _advance(states, working)
    earned = await _right_answers(tx, states, working)
    earned += await _patterns(tx, states, working)
    for item in items:
        if item.outcome is None:
            item.end(Status.RECORDED)
    await _reward(tx, catalogue, states, earned)
    await states.write(tx)


def _advance(states: States, items: Iterable[_Item]) -> None:
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


def _capped(states: States, item: _Item, pending: int) -> bool:
    cap = item.offer.user_cap
    return cap is not None and states.rewards(item.pair) + pending >= cap


async def _right_answers(
    tx: CellTx, states: States, items: Sequence[_Item]
) -> list[tuple[_Item, str]]:
    """Right first answers, with their occurrences."""
    answers: dict[tuple[int, int, str], _Item] = {}
    for item in items:
        if item.item is not None:
            key = (item.offer.id, item.user_id, item.item)
            if key in answers:
                item.end(Status.RECORDED, "item-answered", "Only the first answer counts.")
            else:
                answers[key] = item
    if not answers:
        return []
    rows = [(*key, *item.key) for key, item in answers.items()]
    first = await store.insert_answers(tx, rows)
    earned: list[tuple[_Item, str]] = []
    pending: dict[Pair, int] = {}
    for key, item in answers.items():
        if key not in first:
            item.end(Status.RECORDED, "item-answered", "Only the first answer counts.")
        elif item.shows == RIGHT:
            if _capped(states, item, pending.get(item.pair, 0)):
                item.end(Status.RECORDED, "user-cap", "The user has had all rewards of the task.")
            else:
                pending[item.pair] = pending.get(item.pair, 0) + 1
                earned.append((item, key[2]))
    return earned


async def _patterns(tx: CellTx, states: States, items: Sequence[_Item]) -> list[tuple[_Item, str]]:
    """The last new event of each pattern that is complete now, with its occurrence."""
    counting: dict[Pair, list[_Item]] = {}
    for item in items:
        if item.shows == COUNTS and states.rewards(item.pair) == 0:
            counting.setdefault(item.pair, []).append(item)
    if not counting:
        return []
    await store.insert_progress(tx, [_step(item) for run in counting.values() for item in run])
    found: dict[Pair, list[verify.Step]] = {}
    spans = [_span(run) for run in counting.values()]
    for task_id, user_id, occurred_at, kind in await store.progress(tx, spans, MAX_STEPS):
        found.setdefault((user_id, task_id), []).append(verify.Step(occurred_at, kind))
    day = partial(_day, tx.time_zone, {})
    return [
        (run[-1], verify.ONCE)
        for pair, run in counting.items()
        if isinstance(run[0].offer.rule, verify.Count)
        and verify.complete(run[0].offer.rule, found.get(pair, []), day)
    ]


def _day(zone: str, cache: dict[datetime, date], moment: datetime) -> date:
    """The business day; looked up once for each quarter of an hour, the finest zone offset."""
    quarter = moment.replace(minute=moment.minute // 15 * 15, second=0, microsecond=0)
    if quarter not in cache:
        cache[quarter] = business_day(quarter, zone)
    return cache[quarter]


def _step(item: _Item) -> ProgressRow:
    event = item.event
    return ProgressRow(
        item.offer.id, item.user_id, event.occurred_at, event.source, event.event_id, event.type
    )


def _span(run: Sequence[_Item]) -> Span:
    rule = run[0].offer.rule
    times = [item.event.occurred_at for item in run]
    if not isinstance(rule, verify.Count):
        raise Broken("rule-kind", "Only counts are judged over time.")
    first, last = verify.reach(rule, min(times), max(times))
    return Span(run[0].offer.id, run[0].user_id, first, last)


async def _reward(
    tx: CellTx, catalogue: Catalogue, states: States, earned: Sequence[tuple[_Item, str]]
) -> None:
    granted = await reward.grant(
        tx,
        [Grant(item.offer, item.user_id, occurrence, *item.key) for item, occurrence in earned],
        slice_rewards=catalogue.slice_rewards,
    )
    for (item, _), made in zip(earned, granted, strict=True):
        states.add_reward(item.pair)
        reward.tell(states, item.pair, made, once=not isinstance(item.offer.rule, verify.Gold))
        item.outcome = EventOutcome(
            item.event.line,
            item.event.event_id,
            *_STATUS[made.state],
            reward_id=text_id("rw", tx.cell, made.reward_id),
        )


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
