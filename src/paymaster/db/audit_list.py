"""The audit trail read: acts of an environment, from the directory and all its cells.

The newest act stands first. Ids of commits grow with time, in every schema, so that one order holds
over all of them: by commit, then by schema (0 is the directory), then by place in the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

from paymaster.db.audit import ENVIRONMENT
from paymaster.db.tx import CellRead, ControlRead
from paymaster.kernel.clock import milliseconds, rfc3339
from paymaster.kernel.ids import reference, text_id, time_floor

DIRECTORY = 0
"""The directory's place among the cells."""

PAGE_LIMIT = 200
_SLACK = timedelta(days=1)
"""How far the time in the id of a commit may be from the time of its acts."""

_PERSON = "person:"
_LAST_ID, _LAST_ORDINAL = 2**63 - 1, 2**31 - 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look for; None means all. `since` is included, `until` is not."""

    actor: str | None = None
    subject: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where an act stands in the order."""

    commit_id: int
    cell: int
    ordinal: int


@dataclass(frozen=True, slots=True)
class Entry:
    """An act as it was recorded, with its place."""

    commit_id: int
    ordinal: int
    actor: str
    action: str
    subject: str
    reason: str | None
    detail: dict[str, Any]
    origin: str | None
    trace_id: str
    acted_at: datetime
    cell: int

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.commit_id, self.cell, self.ordinal)

    def wire(self) -> dict[str, Any]:
        """For JSON. The id names the act; it is not an address."""
        detail = {name: value for name, value in self.detail.items() if name != ENVIRONMENT}
        return {
            "id": f"{text_id('au', self.cell, self.commit_id)}.{self.ordinal}",
            "actor": self.actor,
            "action": self.action,
            "subject": self.subject,
            "reason": self.reason,
            "detail": detail,
            "origin": self.origin,
            "trace_id": self.trace_id,
            "acted_at": rfc3339(self.acted_at),
        }


_COLUMNS: LiteralString = """
    SELECT commit_id, ordinal, actor, action, subject, reason, detail, origin, trace_id, acted_at,
        %(cell)s::int AS cell FROM audit
    WHERE (commit_id, ordinal) < (%(commit_id)s, %(ordinal)s) AND commit_id >= %(low)s
        AND (%(actor)s::text IS NULL OR actor = %(actor)s)
        AND (%(action)s::text IS NULL OR action = %(action)s)
        AND (%(subject)s::text IS NULL OR subject = %(subject)s)
        AND (%(since)s::timestamptz IS NULL OR acted_at >= %(since)s)
        AND (%(until)s::timestamptz IS NULL OR acted_at < %(until)s)
"""
_NEWEST: LiteralString = " ORDER BY commit_id DESC, ordinal DESC LIMIT %(limit)s"
# The partial index on acts of persons, and that on subjects, are only used if the statement names
# what they are about.
_OF_PERSON: LiteralString = " AND actor LIKE 'person:%%'"
_OF_SUBJECT: LiteralString = " AND subject = %(subject)s"
# Acts from before they named their environment are found by the cell in their subject's id.
_OF_ENVIRONMENT: LiteralString = """
    AND (detail ->> 'environment_id' = %(environment)s::text
        OR detail ->> 'environment_id' IS NULL AND (
            substr(subject, strpos(subject, '_') + 1, 2) = ANY(%(pairs)s)
                AND subject ~ '^[a-z]{2}_[0-9A-Z]{15}$'
            OR subject IN (SELECT prefix FROM credential
                WHERE environment_id = %(environment)s::bigint)))
"""


async def in_cell(tx: CellRead, wanted: Wanted, before: Place | None, limit: int) -> list[Entry]:
    """Acts in a cell, newest first."""
    given = _parameters(tx.cell, wanted, before, limit)
    if wanted.subject is not None:
        return await tx.fetch(_COLUMNS + _OF_SUBJECT + _NEWEST, given, Entry)
    if (wanted.actor or "").startswith(_PERSON):
        return await tx.fetch(_COLUMNS + _OF_PERSON + _NEWEST, given, Entry)
    return await tx.fetch(_COLUMNS + _NEWEST, given, Entry)


async def in_directory(
    tx: ControlRead,
    environment_id: int,
    cells: Sequence[int],
    wanted: Wanted,
    before: Place | None,
    limit: int,
) -> list[Entry]:
    """Acts in the directory on what is of one environment, whose cells are named; newest first."""
    given = _parameters(DIRECTORY, wanted, before, limit)
    given |= {
        "environment": environment_id,
        "pairs": [reference(cell, 0)[:2] for cell in cells],
    }
    if (wanted.actor or "").startswith(_PERSON):
        return await tx.fetch(_COLUMNS + _OF_PERSON + _OF_ENVIRONMENT + _NEWEST, given, Entry)
    return await tx.fetch(_COLUMNS + _OF_ENVIRONMENT + _NEWEST, given, Entry)


def merged(parts: Sequence[Sequence[Entry]], limit: int) -> list[Entry]:
    """One page out of the pages of all schemas."""
    rows = [row for part in parts for row in part]
    rows.sort(key=lambda row: (row.commit_id, row.cell, row.ordinal), reverse=True)
    return rows[:limit]


def _parameters(cell: int, wanted: Wanted, before: Place | None, limit: int) -> dict[str, Any]:
    commit_id, ordinal = _LAST_ID, _LAST_ORDINAL
    if wanted.until is not None:
        commit_id, ordinal = time_floor(milliseconds(wanted.until + _SLACK)), -1
    if before is not None:
        # Of the same commit id, acts in higher cells stood before.
        place = before.ordinal if cell == before.cell else _LAST_ORDINAL
        commit_id, ordinal = before.commit_id, -1 if cell > before.cell else place
    low = 0 if wanted.since is None else time_floor(milliseconds(wanted.since - _SLACK))
    return {
        "cell": cell,
        "commit_id": commit_id,
        "ordinal": ordinal,
        "low": low,
        "actor": wanted.actor,
        "action": wanted.action,
        "subject": wanted.subject,
        "since": wanted.since,
        "until": wanted.until,
        "limit": min(limit, PAGE_LIMIT),
    }
