"""An event as the outside sees it: id, type, time, public data; the bytes that are signed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from paymaster.db import audit
from paymaster.kernel.clock import rfc3339
from paymaster.messages.catalogue import TYPES
from paymaster.messages.place import Place
from paymaster.messages.store import events as store


@dataclass(frozen=True, slots=True)
class PublicEvent:
    """An event of one environment."""

    id: str
    environment_id: int
    mode: str
    row: store.Event

    def data(self) -> dict[str, Any]:
        """The documented fields of the payload."""
        return TYPES[self.row.topic].data(self.row.payload)

    def body(self) -> bytes:
        """What is sent: the same bytes at every try."""
        return msgspec.json.encode(
            {
                "type": self.row.topic,
                "timestamp": rfc3339(self.row.created_at),
                "mode": self.mode,
                "data": self.data(),
            }
        )

    def wire(self) -> dict[str, Any]:
        """For the lists of the API."""
        return {
            "id": self.id,
            "type": self.row.topic,
            "timestamp": rfc3339(self.row.created_at),
            "mode": self.mode,
            "data": self.data(),
            "trace_id": self.row.trace_id,
        }


def public(place: Place, row: store.Event) -> PublicEvent | None:
    """The event that a message is; None for one that no environment's subscribers are told of."""
    if row.topic not in TYPES:
        return None
    environment_id = place.environment_of(row.key, row.payload.get(audit.ENVIRONMENT))
    if environment_id is None:
        return None
    mode = place.dbs.environment(environment_id).mode
    return PublicEvent(place.event_id(environment_id, row.seq), environment_id, mode, row)
