"""The audit trail: who did what to which thing, why, from where; never changed afterwards."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from paymaster.db.tx import Actor, ControlTx, ReadTx, Writes, json

ENVIRONMENT = "environment_id"
"""The detail that says to which environment an act in the directory belongs."""


@dataclass(slots=True)
class Act:
    """`subject` is a text id; `detail` holds ids and numbers, never personal data.

    `actor` (with its origin) and `trace_id` None mean the transaction's; a merged transaction
    carries the acts of several callers.
    """

    action: str
    subject: str
    reason: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])
    actor: Actor | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """An act as it was recorded."""

    actor: str
    action: str
    subject: str
    reason: str | None
    detail: dict[str, Any]
    origin: str | None
    trace_id: str
    acted_at: datetime


@dataclass(slots=True)
class Noted:
    """How many acts were recorded while somebody watched."""

    acts: int = 0


_watched: ContextVar[Noted | None] = ContextVar("audit_watched", default=None)


@contextmanager
def watched() -> Generator[Noted]:
    """Count the acts that are recorded inside, by this task and its children."""
    noted = Noted()
    token = _watched.set(noted)
    try:
        yield noted
    finally:
        _watched.reset(token)


async def record(tx: Writes, acts: Sequence[Act]) -> None:
    """Record acts, each of its own actor or the transaction's.

    In the directory each says of which environment it is, where its actor does.
    """
    if not acts:
        return
    noted = _watched.get()
    if noted is not None:
        noted.acts += len(acts)
    first = tx.append(len(acts))
    actors = [act.actor or tx.actor for act in acts]
    shared = isinstance(tx, ControlTx)
    await tx.send(
        """
        INSERT INTO audit (commit_id, ordinal, actor, action, subject, reason, detail, origin,
            trace_id, acted_at)
        SELECT %s, o, w, a, s, r, d, f, t, %s
        FROM unnest(%s::int[], %s::text[], %s::text[], %s::text[], %s::text[], %s::jsonb[],
            %s::text[], %s::text[]) AS u (o, w, a, s, r, d, f, t)
        """,
        (
            tx.commit_id,
            tx.now,
            list(range(first, first + len(acts))),
            [actor.name for actor in actors],
            [act.action for act in acts],
            [act.subject for act in acts],
            [act.reason or actor.reason for act, actor in zip(acts, actors, strict=True)],
            [json(_detail(a, w, shared=shared)) for a, w in zip(acts, actors, strict=True)],
            [actor.origin for actor in actors],
            [act.trace_id or tx.trace_id for act in acts],
        ),
    )


def _detail(act: Act, actor: Actor, *, shared: bool) -> dict[str, Any]:
    """What is stored of an act; in the directory with its environment."""
    if not shared or actor.environment_id is None:
        return dict(act.detail)
    return {**act.detail, ENVIRONMENT: actor.environment_id}


async def of_subject(tx: ReadTx, *subjects: str) -> list[Recorded]:
    """All acts on one thing, or on several, oldest first."""
    return await tx.fetch(
        "SELECT actor, action, subject, reason, detail, origin, trace_id, acted_at"
        " FROM audit WHERE subject = ANY(%s) ORDER BY commit_id, ordinal",
        (list(subjects),),
        Recorded,
    )
