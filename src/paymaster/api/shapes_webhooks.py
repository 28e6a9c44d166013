"""What answers about webhooks look like, for the OpenAPI document; see `shapes`."""

from __future__ import annotations

from typing import Any

from paymaster.api.shapes import Shape, Time


class EndpointOut(Shape):
    """Where an app is told of events."""

    id: str
    url: str
    description: str
    types: list[str]
    ordered: bool
    state: str
    disabled_reason: str | None
    failing_since: Time | None
    created_at: Time
    version: int


class NewEndpointOut(EndpointOut):
    """The same with its secret, which is shown this once."""

    secret: str


class EventOut(Shape):
    """An event as it is sent; `id` is its `webhook-id`."""

    id: str
    type: str
    timestamp: Time
    mode: str
    data: dict[str, Any]
    trace_id: str


class FollowedOut(Shape):
    """What has happened since; `cursor` asks for what comes after it."""

    data: list[EventOut]
    cursor: str
    mode: str


class DeliveryOut(Shape):
    """One event and one endpoint: `status` and `outcome` are of the last try."""

    event: str
    endpoint: str
    type: str
    state: str
    tries: int
    next_try_at: Time | None
    status: int | None
    outcome: str | None
    duration_ms: int | None
    tried_at: Time | None
    queued_at: Time


class QueuedOut(Shape):
    """Whether it is sent again, at once; false while it is under way, or waits behind others."""

    queued: bool


class EventFieldOut(Shape):
    """A field of a type's `data`; `maybe` says that it may be null."""

    name: str
    kind: str
    meaning: str
    maybe: bool


class EventTypeOut(Shape):
    """A type of event."""

    name: str
    meaning: str
    fields: list[EventFieldOut]


class EventTypesOut(Shape):
    """All types."""

    data: list[EventTypeOut]
