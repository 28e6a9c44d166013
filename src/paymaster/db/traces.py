"""Everything that was written under one trace id, commit by commit.

The commit carries the trace id; what people did (audit) and what was announced (outbox) hang on
the commit, so that one index answers the whole question. A commit that carries the work of several
callers has a trace of its own; `link` notes whose work it is, and a caller is shown only its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from paymaster.db.tx import ReadTx, Writes

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


async def link(tx: Writes, trace_ids: Iterable[str]) -> None:
    """Note the callers' traces whose work this transaction carries under its own trace."""
    others = sorted(set(trace_ids) - {tx.trace_id})
    if others:
        await tx.send(
            "INSERT INTO trace_commit (trace_id, commit_id) SELECT t, %s FROM unnest(%s::text[]) t",
            (tx.commit_id, others),
        )


async def find(tx: ReadTx, trace_id: str) -> Traced:
    """What this schema has under a trace id, oldest first."""
    commits = await tx.fetch(
        """
        SELECT id, last_seq, recorded_at, actor FROM commit WHERE trace_id = %(trace)s
        UNION
        SELECT c.id, c.last_seq, c.recorded_at, c.actor
        FROM trace_commit t JOIN commit c ON c.id = t.commit_id WHERE t.trace_id = %(trace)s
        ORDER BY last_seq LIMIT %(limit)s
        """,
        {"trace": trace_id, "limit": LISTED},
        Commit,
    )
    if not commits:
        return Traced([], [], [])
    asked = {"ids": [commit.id for commit in commits], "trace": trace_id, "limit": LISTED}
    acts = await tx.fetch(
        """
        SELECT a.commit_id, a.ordinal, a.action AS name, a.subject, a.detail
        FROM commit c JOIN audit a ON a.commit_id = c.id
        WHERE c.id = ANY(%(ids)s) AND %(trace)s IN (a.trace_id, c.trace_id)
        ORDER BY a.commit_id, a.ordinal LIMIT %(limit)s
        """,
        asked,
        Said,
    )
    messages = await tx.fetch(
        """
        SELECT o.commit_id, o.ordinal, o.topic AS name, o.key AS subject, o.payload AS detail
        FROM commit c JOIN outbox o ON o.commit_id = c.id
        WHERE c.id = ANY(%(ids)s) AND %(trace)s IN (o.trace_id, c.trace_id)
        ORDER BY o.commit_id, o.ordinal LIMIT %(limit)s
        """,
        asked,
        Said,
    )
    return Traced(commits, acts, messages)
