"""The events of an environment, backwards for people and forwards for followers.

An environment's events are in several schemas, each with its own order. A position is one seq for
each of them, in the order of `places_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from operator import attrgetter
from typing import Any, Generic, TypeVar

from paymaster.db.cells import Databases
from paymaster.db.tx import ReadTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound, Refusal
from paymaster.messages import catalogue
from paymaster.messages.endpoints import name_of
from paymaster.messages.event import PublicEvent, public
from paymaster.messages.place import Place, locate, places_of
from paymaster.messages.store import deliveries, endpoints, events
from paymaster.messages.store.deliveries import DeliveryRow

T = TypeVar("T")

NEWEST, EXHAUSTED = 2**62, -1
COMMITS, WINDOWS = 2000, 10
"""A page looks at so many commits at a time, so many times at most: it may be short, or empty."""


@dataclass(frozen=True, slots=True)
class _Part(Generic[T]):
    """What one place contributes, newest first as `(time, seq, item)`, and where to go on."""

    place: int
    items: Sequence[tuple[datetime, int, T]]
    resume: int


def topics_of(subscriptions: Sequence[str] | None) -> list[str]:
    """The types that these names mean; all for none. Raises Refusal `webhook-types-unknown`."""
    if not subscriptions:
        return list(catalogue.TYPES)
    unknown = [name for name in subscriptions if not catalogue.is_subscription(name)]
    if unknown:
        raise Refusal("webhook-types-unknown", f"There is no type {unknown[0][:100]!r}.")
    wanted = frozenset(subscriptions)
    return [topic for topic in catalogue.TYPES if catalogue.covers(wanted, topic)]


def start(dbs: Databases, environment_id: int, given: Sequence[int] | None) -> list[int]:
    """A position to begin with. Raises Refusal `cursor-invalid` for one of other places."""
    places = places_of(dbs, environment_id)
    if given is None:
        return [NEWEST] * len(places)
    if len(given) != len(places):
        raise Refusal("cursor-invalid", "Start again without a cursor.")
    return list(given)


async def backwards(
    dbs: Databases,
    environment_id: int,
    topics: Sequence[str],
    position: Sequence[int],
    limit: int,
    kept: timedelta,
) -> tuple[list[PublicEvent], list[int] | None]:
    """The events before a position, newest first, and the position after them."""
    parts: list[_Part[PublicEvent]] = []
    oldest = dbs.clock.now() - kept
    for index, place in enumerate(places_of(dbs, environment_id)):
        before, found = position[index], list[tuple[datetime, int, PublicEvent]]()
        for _ in range(WINDOWS):
            if before == EXHAUSTED or len(found) >= limit:
                break

            async def window(
                tx: ReadTx, seq: int = before
            ) -> tuple[int | None, list[events.Event]]:
                return await events.before(tx, seq, COMMITS, topics, oldest, limit)

            low, rows = await place.read(window)
            before = EXHAUSTED if low is None else low
            made = [public(place, row) for row in rows]
            found += [
                (one.row.created_at, one.row.seq, one)
                for one in made
                if one is not None and one.environment_id == environment_id
            ]
        parts.append(_Part(index, found, before))
    return _merged(parts, position, limit)


def _merged(
    parts: Sequence[_Part[T]], position: Sequence[int], limit: int
) -> tuple[list[T], list[int] | None]:
    """The newest of all parts, and the position after them; None at the end."""
    every = [
        (at, seq, part.place, item)
        for part in parts
        # Within a place the order is that of `seq`; times may differ from it a little.
        for at, (_, seq, item) in zip(
            accumulate((one[0] for one in part.items), min), part.items, strict=True
        )
    ]
    every.sort(key=lambda one: (one[0], one[1]), reverse=True)
    shown, after = every[:limit], list(position)
    for part in parts:
        mine = [seq for _, seq, place, _ in shown if place == part.place]
        if len(mine) == len(part.items):
            after[part.place] = part.resume
        elif mine:
            after[part.place] = mine[-1]
    return [item for *_, item in shown], None if set(after) == {EXHAUSTED} else after


async def forwards(
    dbs: Databases,
    environment_id: int,
    topics: Sequence[str],
    position: Sequence[int],
    limit: int,
) -> tuple[list[PublicEvent], list[int]]:
    """The events after a position, in order within each place, and the position after them."""
    found: list[PublicEvent] = []
    after = list(position)
    for index, place in enumerate(places_of(dbs, environment_id)):
        room = limit - len(found)
        if room <= 0:
            break

        async def read(
            tx: ReadTx, seq: int = position[index], most: int = room
        ) -> tuple[int, list[events.Event]]:
            until = await events.reach(tx, seq, NEWEST, COMMITS)
            if until is None:
                return seq, []
            told = await events.told(tx, seq, until, topics)
            # The first commit may have been shown in part.
            seqs = [one.seq for one in told if one.seq > seq]
            rows = sorted(await events.events(tx, seqs[:most]), key=attrgetter("seq"))
            return (until if len(seqs) <= most else rows[-1].seq), rows

        after[index], rows = await place.read(read)
        made = [public(place, row) for row in rows]
        found += [one for one in made if one is not None and one.environment_id == environment_id]
    return found, after


async def get(dbs: Databases, environment_id: int, event: str) -> tuple[Place, PublicEvent]:
    """One event by its text id. Raises NotFound."""
    place, seq = locate(dbs, environment_id, event)
    rows = await place.read(lambda tx: events.events(tx, [seq]))
    found = public(place, rows[0]) if rows else None
    if found is None or found.environment_id != environment_id:
        raise NotFound("not-found", "There is no such event.")
    return place, found


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A delivery as the API shows it."""

    event: str
    endpoint: str
    row: DeliveryRow

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        row = self.row
        waits = row.state == "waiting" and row.due_at is not None
        return {
            "event": self.event,
            "endpoint": self.endpoint,
            "type": row.topic,
            "state": row.state,
            "tries": row.tries,
            "next_try_at": rfc3339(row.due_at) if waits and row.due_at else None,
            "status": row.status,
            "outcome": row.outcome,
            "duration_ms": row.duration_ms,
            "tried_at": None if row.tried_at is None else rfc3339(row.tried_at),
            "queued_at": rfc3339(row.created_at),
        }


async def deliveries_of_event(
    dbs: Databases, environment_id: int, place: Place, event: PublicEvent
) -> list[DeliveryView]:
    """To whom an event was owed, and what became of it."""
    rows = await dbs.control.read(lambda tx: endpoints.of_environment(tx, environment_id))
    ids = [row.id for row in rows]
    found = await place.read(lambda tx: deliveries.of_event(tx, event.row.seq, ids))
    return [
        DeliveryView(event.id, name_of(dbs, environment_id, row.endpoint_id), row) for row in found
    ]


async def deliveries_of_endpoint(
    dbs: Databases,
    environment_id: int,
    endpoint_id: int,
    state: str | None,
    position: Sequence[int],
    limit: int,
) -> tuple[list[DeliveryView], list[int] | None]:
    """What was owed to an endpoint, newest event first, and the position after it."""
    name = name_of(dbs, environment_id, endpoint_id)
    parts: list[_Part[DeliveryView]] = []
    for index, place in enumerate(places_of(dbs, environment_id)):
        before = position[index]

        async def read(tx: ReadTx, seq: int = before) -> list[DeliveryRow]:
            return await deliveries.of_endpoint(tx, endpoint_id, state, seq, limit)

        rows = [] if before == EXHAUSTED else await place.read(read)
        items = [
            (
                row.created_at,
                row.seq,
                DeliveryView(_event_id(place, environment_id, row), name, row),
            )
            for row in rows
        ]
        parts.append(_Part(index, items, rows[-1].seq if len(rows) == limit else EXHAUSTED))
    return _merged(parts, position, limit)


def _event_id(place: Place, environment_id: int, row: DeliveryRow) -> str:
    return place.event_id(environment_id, row.seq)
