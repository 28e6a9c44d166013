"""The events themselves: listed, followed, looked at, sent again."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field, StringConstraints

from paymaster.api.context import Call, Reads
from paymaster.api.door import Door
from paymaster.api.models import Body, Reply, Text
from paymaster.api.models import listing as listed
from paymaster.api.positions import Positions, next_position, positions
from paymaster.api.shapes import Page
from paymaster.api.shapes_webhooks import (
    DeliveryOut,
    EventOut,
    EventTypesOut,
    FollowedOut,
    QueuedOut,
)
from paymaster.api.webhooks import Webhooks, endpoint_of
from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import NotFound
from paymaster.messages import catalogue, endpoints, listing, replay
from paymaster.messages.event import PublicEvent
from paymaster.messages.place import Place, places_of

router = APIRouter(route_class=Door, tags=["webhooks"])
LIST = "/v1/webhook-events"
LOOK_SECONDS = 0.5
MAX_WAIT_SECONDS = 20
EventPath = Annotated[str, Path(max_length=40, description="`ev_...` or `ec_...`")]
Types = Annotated[
    str | None,
    Query(max_length=1000, description="Types, `group.*` or `*`, separated by commas."),
]
Wait = Annotated[
    int,
    Query(
        ge=0, le=MAX_WAIT_SECONDS, description="How long to wait for an event when there is none."
    ),
]


class ResendEvent(Body):
    """To which endpoint; whether it subscribes to this type does not matter."""

    endpoint: Annotated[
        Text, StringConstraints(max_length=40), Field(examples=["we_0100000000000ZZ"])
    ]


@router.get("/v1/webhook-event-types", response_model=EventTypesOut)
async def list_event_types(_: Reads) -> Reply:
    """Every type of event with its fields."""
    return Reply(
        {
            "data": [
                {
                    "name": one.name,
                    "meaning": one.meaning,
                    "fields": [asdict(field) for field in one.fields],
                }
                for one in catalogue.TYPES.values()
            ]
        }
    )


@router.get(LIST, response_model=Page[EventOut])
async def list_events(call: Reads, page: Positions, types: Types = None) -> Reply:
    """The events, newest first. A page may hold fewer than asked for, and still not be the last.

    Those of regulatory holds are for callers with the scope `holds:read`.
    """
    kept = timedelta(days=call.deps.settings.webhooks.retention_days)
    found, after = await listing.backwards(
        call.deps.dbs,
        call.environment.id,
        _topics(call, types),
        positions(call, page),
        page.limit,
        kept,
    )
    return listed([one.wire() for one in found], next_position(after))


def _topics(call: Call, types: str | None) -> list[str]:
    names = [name.strip() for name in (types or "").split(",") if name.strip()]
    return [topic for topic in listing.topics_of(names) if _may_know(call, topic)]


def _may_know(call: Call, topic: str) -> bool:
    """Whether events of a type are for the caller: those of holds tell what nobody may pass on."""
    return call.principal.reads_holds or not topic.startswith("hold.")


async def _one(call: Call, event: str) -> tuple[Place, PublicEvent]:
    """An event that the caller may know of. Raises NotFound."""
    place, found = await listing.get(call.deps.dbs, call.environment.id, event)
    if not _may_know(call, found.row.topic):
        raise NotFound("not-found", "There is no such event.")
    return place, found


@router.get(f"{LIST}/next", response_model=FollowedOut)
async def follow_events(
    call: Reads, request: Request, page: Positions, types: Types = None, wait_seconds: Wait = 0
) -> Reply:
    """What has happened since a cursor, oldest first; without one, where to begin from now on."""
    dbs, environment_id, topics = call.deps.dbs, call.environment.id, _topics(call, types)
    heads = await endpoints.heads(dbs, environment_id)
    now = [heads[place.name] for place in places_of(dbs, environment_id)]
    if page.cursor is None:
        return _followed(call, [], now)
    position, until = positions(call, page), monotonic_seconds() + wait_seconds
    while True:
        found, position = await listing.forwards(dbs, environment_id, topics, position, page.limit)
        left = until - monotonic_seconds()
        if found or left <= 0 or await request.is_disconnected():
            return _followed(call, [one.wire() for one in found], position)
        await asyncio.sleep(min(LOOK_SECONDS, left))


def _followed(call: Call, data: list[dict[str, object]], position: list[int]) -> Reply:
    cursor, mode = next_position(position), call.environment.mode
    return Reply({"data": data, "cursor": cursor, "mode": mode})


@router.get(f"{LIST}/{{event}}", response_model=EventOut)
async def get_event(call: Reads, event: EventPath) -> Reply:
    """One event, as it is sent."""
    _, found = await _one(call, event)
    return Reply(found.wire())


@router.get(f"{LIST}/{{event}}/deliveries", response_model=Page[DeliveryOut])
async def list_event_deliveries(call: Reads, event: EventPath) -> Reply:
    """To which endpoints it was owed, and what became of it."""
    dbs, environment_id = call.deps.dbs, call.environment.id
    place, found = await _one(call, event)
    rows = await listing.deliveries_of_event(dbs, environment_id, place, found)
    return listed([row.wire() for row in rows])


@router.post(f"{LIST}/{{event}}/resend", status_code=202, response_model=QueuedOut)
async def resend_event(call: Webhooks, event: EventPath, body: ResendEvent) -> Reply:
    """Send one event to one endpoint again, under the same id."""
    place, found = await _one(call, event)
    view = await endpoint_of(call, body.endpoint)
    endpoints.require_enabled(view)
    queued = await replay.resend(place, call.actor, found.row.seq, view.row)
    return Reply({"queued": queued}, 202)
