"""An event as it goes to the broker: CloudEvents 1.0 in JSON, structured mode.

The attributes are those of CloudEvents v1.0.2 with its documented extensions `sequence`,
`partitionkey` and `traceparent` (Distributed Tracing).
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Any

import msgspec

from paymaster.kernel.clock import rfc3339
from paymaster.messages import catalogue
from paymaster.messages.event import PublicEvent, public
from paymaster.messages.place import Place
from paymaster.messages.store.events import Event
from paymaster.settings import Broker

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
_TRACE = re.compile(r"(?!0{32})[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent: the same bytes at every try. `key` orders, `unique` is the same for ever."""

    seq: int
    id: str
    topic: str
    key: str
    unique: str
    subject: str
    body: bytes


def wanted(settings: Broker) -> list[str]:
    """The types that are published. Those to one webhook endpoint are nobody else's business."""
    types = frozenset(settings.types)
    return sorted(
        name for name in catalogue.TYPES if name != catalogue.TEST and catalogue.covers(types, name)
    )


def letter(place: Place, row: Event, settings: Broker) -> Letter | None:
    """The letter of a message; None for one that no environment's subscribers are told of."""
    event = public(place, row)
    if event is None:
        return None
    environment = place.dbs.environment(event.environment_id)
    source = f"/{settings.source}/{environment.tenant}/{environment.mode}/{place.name}"
    body = msgspec.json.encode(_cloud_event(event, source))
    subject = settings.subject.format(
        tenant=environment.tenant.replace(".", "_"),
        mode=environment.mode,
        cell=place.name,
        partition=partition(row.key, settings.partitions),
        type=row.topic,
    )
    return Letter(row.seq, event.id, row.topic, row.key, f"{source}/{event.id}", subject, body)


def partition(key: str, partitions: int) -> int:
    """Which partition a key belongs to: the CRC-32 of its UTF-8 bytes, modulo their number."""
    return zlib.crc32(key.encode()) % partitions


def _cloud_event(event: PublicEvent, source: str) -> dict[str, Any]:
    row = event.row
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": source,
        "type": row.topic,
        "time": rfc3339(row.created_at),
        "datacontenttype": "application/json",
        "sequence": f"{row.seq:019}",
        "mode": event.mode,
    }
    if row.key:
        attributes |= {"subject": row.key, "partitionkey": row.key}
    if _TRACE.match(row.trace_id):
        attributes |= {
            "traceid": row.trace_id,
            "traceparent": f"00-{row.trace_id}-{row.seq:016x}-01",
        }
    return attributes | {"data": event.data()}
