"""The audit trail: who did what to which thing, why, from where; never changed afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from paymaster.db.tx import Actor, ReadTx, Writes, json


@dataclass(frozen=True, slots=True)
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


async def record(tx: Writes, acts: Sequence[Act]) -> None:
    """Record acts, each of its own actor or the transaction's."""
    if not acts:
        return
    first = tx.append(len(acts))
    actors = [act.actor or tx.actor for act in acts]
    await tx.execute(
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
            [act.reason for act in acts],
            [json(dict(act.detail)) for act in acts],
            [actor.origin for actor in actors],
            [act.trace_id or tx.trace_id for act in acts],
        ),
    )


async def of_subject(tx: ReadTx, subject: str) -> list[Recorded]:
    """All acts on one thing, oldest first."""
    return await tx.fetch(
        "SELECT actor, action, subject, reason, detail, origin, trace_id, acted_at"
        " FROM audit WHERE subject = %s ORDER BY commit_id, ordinal",
        (subject,),
        Recorded,
    )
