"""What an event names and shows, as far as the directory tells: the pure half of taking it in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from paymaster.earn import verify
from paymaster.earn.catalogue import Catalogue, Offer
from paymaster.earn.event import Event, EventOutcome, Status
from paymaster.earn.store.states import Pair
from paymaster.kernel.errors import Broken

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


class Item(msgspec.Struct, gc=False):
    """An event on its way: what it names, what it shows, what became of it."""

    event: Event
    key: tuple[str, str]
    user_id: int
    offer: Offer
    pair: Pair
    shows: str
    item: str | None = None
    outcome: EventOutcome | None = None

    def end(self, status: Status, slug: str | None = None, detail: str | None = None) -> None:
        """Say what became of it."""
        self.outcome = EventOutcome(self.event.line, self.event.event_id, status, slug, detail)


class _Naming(NamedTuple):
    """What all events of one campaign, task and type have in common; `slug`: why none is taken."""

    offer: Offer | None
    opens_at: datetime | None
    closes_at: datetime | None
    shows: str
    gold: verify.Gold | None = None
    slug: str | None = None
    detail: str = ""


def resolve(cell: int, catalogue: Catalogue, events: Sequence[Event]) -> list[Item | EventOutcome]:
    """Each event with what it names and shows, or why it is rejected.

    Raises Broken `wrong-cell` for a user of another cell.
    """
    namings: dict[tuple[str | None, str, str], _Naming] = {}
    found: list[Item | EventOutcome] = []
    places = catalogue.users
    for event in events:
        ref = places.get(event.user)
        if ref is None:
            found.append(_rejected(event, "user-unknown", "There is no user of this external id."))
            continue
        name = event.campaign, event.task, event.type
        naming = namings.get(name)
        if naming is None:
            naming = namings[name] = _naming(catalogue, event)
        if ref.cell != cell:
            raise Broken("wrong-cell", f"A user of cell {ref.cell} was sought in cell {cell}.")
        found.append(_against(catalogue, event, ref.id, naming))
    return found


def _rejected(event: Event, slug: str, detail: str) -> EventOutcome:
    return EventOutcome(event.line, event.event_id, Status.REJECTED, slug, detail)


def _naming(catalogue: Catalogue, event: Event) -> _Naming:
    offer = catalogue.offer(event)
    if offer is None:
        if event.campaign is not None and event.campaign not in catalogue.campaigns:
            return _none("campaign-unknown", "There is no such campaign.")
        return _none("task-unknown", "The campaign has no such task.")
    if not offer.active:
        return _none("task-not-active", "The campaign or the task is not active.")
    rule, gold = offer.rule, None
    if event.type != rule.event:
        if isinstance(rule, verify.Count) and event.type == rule.after:
            shows = COUNTS
        else:
            shows = BEGUN if event.type == STARTED else IGNORED
    elif isinstance(rule, verify.Count):
        shows = COUNTS
    elif isinstance(rule, verify.Review):
        shows = SUBMITTED
    else:
        shows, gold = WRONG, rule
    return _Naming(offer, offer.starts_at, offer.closes_at, shows, gold)


def _none(slug: str, detail: str) -> _Naming:
    return _Naming(None, None, None, IGNORED, None, slug, detail)


def _against(
    catalogue: Catalogue, event: Event, user_id: int, naming: _Naming
) -> Item | EventOutcome:
    offer, opens_at, closes_at, shows, gold, slug, detail = naming
    if offer is None or opens_at is None or slug is not None:
        return _rejected(event, slug or "", detail)
    moment = event.occurred_at
    if moment < opens_at or (closes_at is not None and moment >= closes_at):
        return _rejected(event, "outside-dates", "The task was not on offer when this occurred.")
    item = None
    if gold is not None:
        item = verify.as_text(event.payload.get(gold.item))
        answer = verify.as_text(event.payload.get(gold.answer))
        if item is None or answer is None:
            missing = gold.item if item is None else gold.answer
            return _rejected(event, "payload-incomplete", f"`payload.{missing}` is missing.")
        known = catalogue.gold.get((offer.id, item))
        if known is None:
            return _rejected(event, "item-unknown", "There is no known answer for this item.")
        if answer == known:
            shows = RIGHT
    return Item(
        event,
        (event.source, event.event_id),
        user_id,
        offer,
        (user_id, offer.id),
        shows,
        item,
    )
