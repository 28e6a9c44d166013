"""An event from outside, what became of it, and what is wrong with one that cannot be taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import msgspec

Scalar = str | int | float | bool | None


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something a user did.

    `user` is the app's own id; `task` a text id, or with `campaign` the app's own names of both.
    `payload` never carries an amount that counts: prices are the task's; `stored` is the JSON it
    is kept as. `line` is its place in the batch, `raw` the bytes it came as, `digest` tells bodies
    apart. (A struct: one is made for every line, and a frozen dataclass takes ten times as long.)
    """

    source: str
    event_id: str
    user: str
    campaign: str | None
    task: str
    type: str
    occurred_at: datetime
    payload: Mapping[str, Scalar]
    stored: bytes
    line: int
    raw: bytes
    digest: bytes

    def __repr__(self) -> str:
        return f"Event({self.source!r}, {self.event_id!r}, line={self.line})"


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that cannot become an event: why, and its bytes."""

    line: int
    slug: str
    detail: str
    raw: bytes = field(repr=False)
    event_id: str | None = None


class Status(StrEnum):
    """What became of an event."""

    RECORDED = "recorded"
    """Taken in; no reward came of it (`slug` may say why)."""
    REWARDED = "rewarded"
    AWAITING_FUNDS = "awaiting_funds"
    """Earned; credited as soon as the sponsor's budget allows."""
    DUPLICATE = "duplicate"
    """The same event was taken in before; nothing changed."""
    REJECTED = "rejected"
    """Not taken in, except for `budget-exhausted`; kept in the dead-letter list."""


class EventOutcome(msgspec.Struct, frozen=True, gc=False):
    """`reward_id` is the text id of the reward that the event brought."""

    line: int
    event_id: str | None
    status: Status
    slug: str | None = None
    detail: str | None = None
    reward_id: str | None = None
