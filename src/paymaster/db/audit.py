"""The audit trail: who did what to which thing, why, from where; never changed afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from paymaster.db.tx import ReadTx, Writes, json


@dataclass(frozen=True, slots=True)
class Act:
    """`subject` is a text id; `detail` holds ids and numbers, never personal data."""

    action: str
    subject: str
    reason: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])


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
    """Record acts of the transaction's actor."""
    if not acts:
        return
    first = tx.append(len(acts))
    await tx.execute(
        """
        INSERT INTO audit (commit_id, ordinal, actor, action, subject, reason, detail, origin,
            trace_id, acted_at)
        SELECT %s, o, %s, a, s, r, d, %s, %s, %s
        FROM unnest(%s::int[], %s::text[], %s::text[], %s::text[], %s::jsonb[])
            AS u (o, a, s, r, d)
        """,
        (
            tx.commit_id,
            tx.actor.name,
            tx.actor.origin,
            tx.trace_id,
            tx.now,
            list(range(first, first + len(acts))),
            [act.action for act in acts],
            [act.subject for act in acts],
            [act.reason for act in acts],
            [json(dict(act.detail)) for act in acts],
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
