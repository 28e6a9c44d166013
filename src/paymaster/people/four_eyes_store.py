"""The SQL of four eyes: limits in the directory, approvals there and in cells. One a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from paymaster.db.tx import ControlRead, ControlTx, ReadTx, Writes, json
from paymaster.kernel.money import Money


@dataclass(frozen=True, slots=True)
class LimitRow:
    """Above `minor` an act in this currency needs a second person."""

    act: str
    currency: str
    minor: int
    changed_at: datetime

    @property
    def money(self) -> Money:
        """The limit as money."""
        return Money(self.minor, self.currency)


@dataclass(frozen=True, slots=True)
class Approval:
    """An act that waits for a second person, or waited. `proposer` and `decider` name actors."""

    id: int
    environment_id: int
    act: str
    subject: str
    amount: int | None
    asset: str | None
    body: dict[str, Any]
    digest: bytes
    reason: str
    state: str
    proposer: str
    proposer_id: int
    origin: str | None
    trace_id: str
    proposed_at: datetime
    expires_at: datetime
    decider: str | None = None
    decider_id: int | None = None
    decided_at: datetime | None = None
    decision_reason: str | None = None

    @property
    def money(self) -> Money | None:
        """How much it is about; None when it is not about money."""
        return None if self.amount is None else Money(self.amount, self.asset or "")


async def limits(tx: ControlRead, environment_id: int) -> list[LimitRow]:
    """All limits of an environment."""
    return await tx.fetch(
        "SELECT act, currency, minor, changed_at FROM four_eyes_limit WHERE environment_id = %s"
        " ORDER BY act, currency",
        (environment_id,),
        LimitRow,
    )


async def put_limit(tx: ControlTx, environment_id: int, limit: LimitRow) -> None:
    """Set a limit."""
    await tx.execute(
        "INSERT INTO four_eyes_limit (environment_id, act, currency, minor, version, changed_at)"
        " VALUES (%s, %s, %s, %s, 1, %s) ON CONFLICT (environment_id, act, currency) DO UPDATE"
        " SET minor = excluded.minor, version = four_eyes_limit.version + 1,"
        " changed_at = excluded.changed_at",
        (environment_id, limit.act, limit.currency, limit.minor, limit.changed_at),
    )


async def drop_limit(tx: ControlTx, environment_id: int, act: str, currency: str) -> int:
    """Remove a limit; how many there were."""
    return await tx.execute(
        "DELETE FROM four_eyes_limit WHERE environment_id = %s AND act = %s AND currency = %s",
        (environment_id, act, currency),
    )


async def insert(tx: Writes, row: Approval) -> bool:
    """Insert a proposal; False when this act on this subject waits already."""
    count = await tx.execute(
        """
        INSERT INTO approval (id, environment_id, act, subject, amount, asset, body, digest, reason,
            state, proposer, proposer_id, origin, trace_id, proposed_at, expires_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (environment_id, act, subject) WHERE state = 'proposed' DO NOTHING
        """,
        (
            row.id,
            row.environment_id,
            row.act,
            row.subject,
            row.amount,
            row.asset,
            json(row.body),
            row.digest,
            row.reason,
            row.state,
            row.proposer,
            row.proposer_id,
            row.origin,
            row.trace_id,
            row.proposed_at,
            row.expires_at,
        ),
    )
    return count == 1


async def waiting(tx: ReadTx, environment_id: int, act: str, subject: str) -> int | None:
    """The proposal of this act on this subject that waits."""
    return await tx.value(
        "SELECT id FROM approval WHERE environment_id = %s AND act = %s AND subject = %s"
        " AND state = 'proposed'",
        (environment_id, act, subject),
    )


async def lock(tx: Writes, environment_id: int, approval_id: int) -> Approval | None:
    """An approval, held until the end of the transaction."""
    return await tx.maybe(
        """
        SELECT id, environment_id, act, subject, amount, asset, body, digest, reason, state,
            proposer, proposer_id, origin, trace_id, proposed_at, expires_at, decider, decider_id,
            decided_at, decision_reason
        FROM approval WHERE environment_id = %s AND id = %s FOR UPDATE
        """,
        (environment_id, approval_id),
        Approval,
    )


async def find(tx: ReadTx, environment_id: int, approval_id: int) -> Approval | None:
    """An approval."""
    return await tx.maybe(
        """
        SELECT id, environment_id, act, subject, amount, asset, body, digest, reason, state,
            proposer, proposer_id, origin, trace_id, proposed_at, expires_at, decider, decider_id,
            decided_at, decision_reason
        FROM approval WHERE environment_id = %s AND id = %s
        """,
        (environment_id, approval_id),
        Approval,
    )


async def decided(
    tx: Writes,
    approval_id: int,
    state: str,
    decider: str,
    decider_id: int | None,
    reason: str | None,
) -> None:
    """Write what became of an approval that this transaction holds."""
    await tx.execute(
        "UPDATE approval SET state = %s, decider = %s, decider_id = %s, decided_at = %s,"
        " decision_reason = %s WHERE id = %s",
        (state, decider, decider_id, tx.now, reason, approval_id),
    )


async def page(
    tx: ReadTx, environment_id: int, state: str | None, before_id: int | None, limit: int
) -> list[Approval]:
    """Approvals, newest first."""
    return await tx.fetch(
        """
        SELECT id, environment_id, act, subject, amount, asset, body, digest, reason, state,
            proposer, proposer_id, origin, trace_id, proposed_at, expires_at, decider, decider_id,
            decided_at, decision_reason
        FROM approval WHERE environment_id = %s AND (%s::text IS NULL OR state = %s)
            AND (%s::bigint IS NULL OR id < %s) ORDER BY id DESC LIMIT %s
        """,
        (environment_id, state, state, before_id, before_id, limit),
        Approval,
    )


async def take_expired(tx: Writes, limit: int) -> Sequence[Approval]:
    """Those that waited too long, held until the end of the transaction."""
    return await tx.fetch(
        """
        SELECT id, environment_id, act, subject, amount, asset, body, digest, reason, state,
            proposer, proposer_id, origin, trace_id, proposed_at, expires_at, decider, decider_id,
            decided_at, decision_reason
        FROM approval WHERE state = 'proposed' AND expires_at <= %s ORDER BY expires_at, id
        LIMIT %s FOR UPDATE SKIP LOCKED
        """,
        (tx.now, limit),
        Approval,
    )
