"""What a batch of events needs to know from the directory: users, tasks, gold answers.

Read anew for every part of a batch by a few set-based queries on one snapshot; nothing is kept but
what never changes, so a paused campaign or a new price counts for the next batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import msgspec

from paymaster.db.tx import ControlRead
from paymaster.earn import verify
from paymaster.earn.event import Event
from paymaster.earn.machine import OfferState
from paymaster.earn.places import Places
from paymaster.earn.requirements import Requirements
from paymaster.earn.store import offers
from paymaster.earn.store.offers import CampaignRow, TaskRow
from paymaster.earn.terms import NONE, Policies, Policy
from paymaster.kernel.errors import NotFound
from paymaster.kernel.ids import Ref, parse_text_id, text_id
from paymaster.kernel.money import Money

SLICE_REWARDS = 1000
"""How many rewards a slice of a budget is asked for, unless a setting says otherwise."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A task with what matters of its campaign."""

    id: int
    campaign_id: int
    home_cell: int
    reward: Money
    rule: verify.Rule
    requirements: Requirements
    targeting: Requirements
    user_cap: int | None
    starts_at: datetime
    ends_at: datetime | None
    expires_at: datetime | None
    active: bool
    when_exhausted: str
    vesting_seconds: int
    type: str = "custom"
    title: str = ""
    sponsor_id: int = 0
    policies: Policies = NONE

    @classmethod
    def of(cls, row: TaskRow, parent: CampaignRow, policies: Policies = NONE) -> Offer:
        """From the rows of task and campaign."""
        both = (parent.state, row.state)
        return cls(
            id=row.id,
            campaign_id=parent.id,
            home_cell=parent.home_cell,
            reward=Money(row.reward_minor, parent.currency),
            rule=verify.load(row.verification),
            requirements=msgspec.convert(row.requirements, Requirements),
            targeting=msgspec.convert(parent.targeting, Requirements),
            user_cap=row.user_cap,
            starts_at=max(row.starts_at, parent.starts_at),
            ends_at=parent.ends_at,
            expires_at=row.expires_at,
            active=both == (OfferState.ACTIVE.value, OfferState.ACTIVE.value),
            when_exhausted=parent.when_exhausted,
            vesting_seconds=parent.vesting_seconds,
            type=row.type,
            title=row.title,
            sponsor_id=parent.sponsor_id,
            policies=policies,
        )

    @property
    def closes_at(self) -> datetime | None:
        """When the task or the campaign is over."""
        ends = [moment for moment in (self.ends_at, self.expires_at) if moment is not None]
        return min(ends) if ends else None

    @property
    def selective(self) -> bool:
        """Whether the user's profile matters."""
        return bool(self.requirements) or bool(self.targeting)

    def covers(self, moment: datetime) -> bool:
        """Whether the task was on offer then."""
        closes_at = self.closes_at
        return self.starts_at <= moment and (closes_at is None or moment < closes_at)

    def policy(self, source: str) -> Policy | None:
        """What counts for a reward that an event of this source brings."""
        return self.policies.of(self.campaign_id, self.sponsor_id, self.type, source)

    @property
    def task_name(self) -> str:
        """The text id of the task."""
        return text_id("tk", self.home_cell, self.id)

    @property
    def campaign_name(self) -> str:
        """The text id of the campaign."""
        return text_id("cp", self.home_cell, self.campaign_id)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What was found. `campaigns` has the names of campaigns that exist, for a better answer."""

    users: Mapping[str, Ref]
    named: Mapping[tuple[str, str], Offer]
    numbered: Mapping[str, Offer]
    campaigns: frozenset[str]
    gold: Mapping[tuple[int, str], str] = field(repr=False)
    slice_rewards: int = SLICE_REWARDS

    @property
    def offers(self) -> Iterator[Offer]:
        """All that were found."""
        yield from self.named.values()
        yield from self.numbered.values()

    def offer(self, event: Event) -> Offer | None:
        """The task that an event speaks of."""
        if event.campaign is None:
            return self.numbered.get(event.task)
        return self.named.get((event.campaign, event.task))


async def load(
    tx: ControlRead,
    environment_id: int,
    events: Sequence[Event],
    places: Places,
    *,
    slice_rewards: int = SLICE_REWARDS,
) -> Catalogue:
    """Look up what the events name; what does not exist is missing."""
    refs = await places.find(tx, environment_id, [event.user for event in events])
    said = {(event.campaign, event.task) for event in events}
    names = sorted([(campaign, task) for campaign, task in said if campaign is not None])
    numbers = _numbers([task for campaign, task in said if campaign is None])
    found_parents, in_force = await offers.parents_named(
        tx, environment_id, sorted({name[0] for name in names})
    )
    parents = {row.external_id: row for row in found_parents}
    policies = Policies(in_force) if in_force else NONE
    rows = await offers.tasks_by_name(tx, environment_id, names) if names else []
    by_id = {row.id: row for row in parents.values()}
    named = {
        (by_id[row.campaign_id].external_id, row.external_id): Offer.of(
            row, by_id[row.campaign_id], policies
        )
        for row in rows
    }
    numbered = {
        offer.task_name: offer
        for offer in (await by_number(tx, environment_id, list(numbers.values()))).values()
    }
    found = Catalogue(refs, named, numbered, frozenset(parents), {}, slice_rewards)
    items = _items(found, events)
    if not items:
        return found
    return replace(found, gold=await offers.gold(tx, sorted(items)))


def _numbers(texts: Iterable[str]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for text in texts:
        try:
            numbers[text] = parse_text_id("tk", text).id
        except NotFound:
            continue
    return numbers


def _items(catalogue: Catalogue, events: Sequence[Event]) -> set[tuple[int, str]]:
    rules: dict[tuple[str | None, str], tuple[int, str] | None] = {}
    wanted: set[tuple[int, str]] = set()
    if not any(isinstance(one.rule, verify.Gold) for one in catalogue.offers):
        return wanted
    for event in events:
        name = event.campaign, event.task
        if name not in rules:
            offer = catalogue.offer(event)
            rules[name] = None
            if offer is not None and isinstance(offer.rule, verify.Gold):
                rules[name] = offer.id, offer.rule.item
        rule = rules[name]
        if rule is not None:
            item = verify.as_text(event.payload.get(rule[1]))
            if item is not None:
                wanted.add((rule[0], item))
    return wanted


async def by_number(
    tx: ControlRead, environment_id: int, numbers: Sequence[int]
) -> dict[int, Offer]:
    """Offers of the environment by the task's number; unknown ones are missing."""
    if not numbers:
        return {}
    rows = await offers.tasks_by_id(tx, environment_id, numbers)
    return await _with_parents(tx, environment_id, rows)


async def live(
    tx: ControlRead, environment_id: int, now: datetime, limit: int = 500
) -> list[Offer]:
    """What is on offer now, oldest first."""
    rows = await offers.live_tasks(tx, environment_id, now, limit)
    return list((await _with_parents(tx, environment_id, rows)).values())


async def _with_parents(
    tx: ControlRead, environment_id: int, rows: Sequence[TaskRow]
) -> dict[int, Offer]:
    numbers = sorted({row.campaign_id for row in rows})
    found, in_force = await offers.parents_by_id(tx, environment_id, numbers)
    parents = {row.id: row for row in found}
    policies = Policies(in_force) if in_force else NONE
    return {row.id: Offer.of(row, parents[row.campaign_id], policies) for row in rows}
