"""Messages that changed nothing and should have: kept with their reason until somebody looks.

They stay in the inbox, done but with a slug in their result; an index over exactly those keeps
looking at them cheap. Who has looked lets one be tried again (`retry`), or ends it with a reason:
then it has no slug any more, and is still there with what it said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, LiteralString

from paymaster.db import audit, inbox
from paymaster.db.inbox import Incoming
from paymaster.db.tx import CellRead, CellTx, json
from paymaster.kernel.ids import Ref, parse_reference
from paymaster.settle import notice, payin_notice

SUFFIX: Final = ".unmatched"
"""Ends the topic of a message about a reference that no cell of the environment can have."""


class Kind(StrEnum):
    """What a message is about: money that we pay out, or money that comes in."""

    PAYOUT = "payout"
    PAYIN = "payin"


class State(StrEnum):
    """How a message stands."""

    WAITING = "waiting"
    APPLIED = "applied"
    LAID_ASIDE = "laid-aside"
    CLOSED = "closed"
    MOVED = "moved"


_TOPICS: Final = {
    Kind.PAYOUT: (notice.TOPIC, notice.TOPIC + SUFFIX),
    Kind.PAYIN: (payin_notice.TOPIC, payin_notice.TOPIC + SUFFIX),
}
TOPICS: Final = [topic for topics in _TOPICS.values() for topic in topics]
"""All messages of providers; other messages in an inbox are commands of our own."""

_APPLIED_HERE: Final = [notice.TOPIC, payin_notice.TOPIC]
_COLUMNS: LiteralString = """
    SELECT source, message_id, topic, payload, coalesce(result, '{}') AS result, tries, digest,
        received_at, done_at, trace_id
    FROM inbox
"""


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A message of a provider. `result` has `slug` and `detail` while it is laid aside."""

    source: str
    message_id: str
    topic: str
    payload: dict[str, Any] | None
    result: dict[str, Any]
    tries: int
    digest: bytes
    received_at: datetime
    done_at: datetime | None
    trace_id: str

    @property
    def kind(self) -> Kind:
        """What it is about."""
        return Kind.PAYIN if self.topic in _TOPICS[Kind.PAYIN] else Kind.PAYOUT

    @property
    def foreign(self) -> bool:
        """Whether it came about a reference that no cell of the environment could have."""
        return self.topic.endswith(SUFFIX)

    @property
    def rail_account_id(self) -> int | None:
        """The account whose provider said it."""
        return (self.payload or {}).get("rail_account")

    @property
    def reference(self) -> str | None:
        """The reference that it names, if it has the form of ours; of an order, or a payment."""
        said = self.payload or {}
        named = said.get("batch_key") or said.get("key")
        return named if isinstance(named, str) and parse_reference(named) else None

    @property
    def about(self) -> Ref | None:
        """The cell and id in that reference."""
        return parse_reference(self.reference or "")

    @property
    def state(self) -> State:
        """How it stands."""
        if self.done_at is None:
            return State.WAITING
        for member, state in _SAYS.items():
            if self.result.get(member) is not None:
                return state
        return State.APPLIED


_SAYS: Final = {"slug": State.LAID_ASIDE, "closed": State.CLOSED, "moved_to": State.MOVED}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which messages are to be listed; None is any."""

    rail_account_id: int | None = None
    kind: Kind | None = None
    slug: str | None = None


@dataclass(frozen=True, slots=True)
class Before:
    """A place in the list over all cells: time, then cell, then digest, all from above."""

    at: datetime
    cell: int
    digest: bytes

    def bound(self, cell: int) -> bytes:
        """What the digests of a cell's messages of that moment must be below."""
        if cell == self.cell:
            return self.digest
        return b"" if cell > self.cell else b"\xff" * 33


async def keep(tx: CellTx, messages: Sequence[Incoming], slug: str, detail: str) -> int:
    """Keep messages as not applicable; how many were new."""
    new = await inbox.receive(tx, messages)
    for message in messages:
        await inbox.done(tx, message.source, message.message_id, {"slug": slug, "detail": detail})
    return new


async def listing(
    tx: CellRead, limit: int, wanted: Wanted | None = None, before: Before | None = None
) -> list[Unmatched]:
    """Messages of this cell that nobody could apply, newest first."""
    asked = wanted or Wanted()
    return await tx.fetch(
        _COLUMNS
        + """
        WHERE result ->> 'slug' IS NOT NULL AND topic = ANY(%(topics)s)
            AND (%(slug)s::text IS NULL OR result ->> 'slug' = %(slug)s)
            AND (%(account)s::bigint IS NULL
                OR (payload ->> 'rail_account')::bigint = %(account)s)
            AND (%(at)s::timestamptz IS NULL OR (received_at, digest) < (%(at)s, %(digest)s))
        ORDER BY received_at DESC, digest DESC LIMIT %(limit)s
        """,
        {
            "topics": TOPICS if asked.kind is None else list(_TOPICS[asked.kind]),
            "slug": asked.slug,
            "account": asked.rail_account_id,
            "at": before and before.at,
            "digest": before and before.bound(tx.cell),
            "limit": limit,
        },
        Unmatched,
    )


async def find(tx: CellRead, source: str, message_id: str) -> Unmatched | None:
    """A message of a provider in this cell, however it stands."""
    return await tx.maybe(
        _COLUMNS + "WHERE source = %s AND message_id = %s AND topic = ANY(%s)",
        (source, message_id, TOPICS),
        Unmatched,
    )


async def counts(tx: CellRead) -> dict[str, int]:
    """How many messages of this cell are laid aside, by the slug of why."""
    rows = await tx.tuples(
        "SELECT result ->> 'slug', count(*) FROM inbox"
        " WHERE result ->> 'slug' IS NOT NULL AND topic = ANY(%s) GROUP BY 1",
        (TOPICS,),
    )
    return {row[0]: row[1] for row in rows}


async def again(tx: CellTx, source: str, message_id: str, reason: str) -> bool:
    """Try a message once more, after its cause was put right; audited. False when there is none.

    One that came about nothing of ours cannot be tried where it is: see `retry`.
    """
    touched = await tx.execute(
        "UPDATE inbox SET due_at = %s, done_at = NULL, result = NULL, tries = 0, lease_token = 0"
        " WHERE source = %s AND message_id = %s AND topic = ANY(%s)"
        " AND coalesce(result ->> 'slug', result ->> 'closed') IS NOT NULL",
        (tx.now, source, message_id, _APPLIED_HERE),
    )
    return await _audited(tx, touched, "notice.again", source, message_id, reason)


async def close(tx: CellTx, source: str, message_id: str, reason: str) -> bool:
    """End a message that need not be applied; audited. False when it is not laid aside."""
    touched = await tx.execute(
        "UPDATE inbox SET result = (result - 'slug') || jsonb_build_object('closed',"
        " result -> 'slug') WHERE source = %s AND message_id = %s AND topic = ANY(%s)"
        " AND result ->> 'slug' IS NOT NULL",
        (source, message_id, TOPICS),
    )
    return await _audited(tx, touched, "notice.close", source, message_id, reason)


async def move(tx: CellTx, source: str, message_id: str, cell: int, reason: str) -> bool:
    """Mark a foreign message as taken over by its cell; audited. False when it is not laid aside.

    Its cell has it already, so that a process that dies in between loses nothing.
    """
    touched = await tx.execute(
        "UPDATE inbox SET result = %s WHERE source = %s AND message_id = %s AND topic = ANY(%s)"
        " AND coalesce(result ->> 'slug', result ->> 'closed') IS NOT NULL",
        (json({"moved_to": cell}), source, message_id, [each + SUFFIX for each in _APPLIED_HERE]),
    )
    return await _audited(tx, touched, "notice.again", source, message_id, reason)


async def sealed_of(tx: CellRead, source: str, message_id: str) -> bytes | None:
    """What a message said, under its seal."""
    sealed = await tx.value(
        "SELECT sealed FROM inbox WHERE source = %s AND message_id = %s", (source, message_id)
    )
    return None if sealed is None else bytes(sealed)


async def _audited(
    tx: CellTx, touched: int, action: str, source: str, message_id: str, reason: str
) -> bool:
    if touched:
        await audit.record(tx, [audit.Act(action, f"{source}#{message_id}", reason)])
    return bool(touched)
