"""Everything that was written under one trace id, commit by commit.

The commit carries the trace id; what people did (audit) and what was announced (outbox) hang on
the commit, so that one index answers the whole question.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from paymaster.db.tx import ReadTx

LISTED = 200
"""Commits, acts and messages shown at most, the first of each."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction and its place in the order of commits."""

    id: int
    last_seq: int
    recorded_at: datetime
    actor: str


@dataclass(frozen=True, slots=True)
class Said:
    """An act (audit) or a message (outbox) of a commit; `subject` is a text id."""

    commit_id: int
    ordinal: int
    name: str
    subject: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Traced:
    """What one schema knows."""

    commits: list[Commit]
    acts: list[Said]
    messages: list[Said]


async def find(tx: ReadTx, trace_id: str) -> Traced:
    """What this schema has under a trace id, oldest first."""
    commits = await tx.fetch(
        "SELECT id, last_seq, recorded_at, actor FROM commit WHERE trace_id = %s"
        " ORDER BY last_seq LIMIT %s",
        (trace_id, LISTED),
        Commit,
    )
    ids = [commit.id for commit in commits]
    if not ids:
        return Traced([], [], [])
    acts = await tx.fetch(
        "SELECT commit_id, ordinal, action AS name, subject, detail FROM audit"
        " WHERE commit_id = ANY(%s) ORDER BY commit_id, ordinal LIMIT %s",
        (ids, LISTED),
        Said,
    )
    messages = await tx.fetch(
        "SELECT commit_id, ordinal, topic AS name, key AS subject, payload AS detail FROM outbox"
        " WHERE commit_id = ANY(%s) ORDER BY commit_id, ordinal LIMIT %s",
        (ids, LISTED),
        Said,
    )
    return Traced(commits, acts, messages)
