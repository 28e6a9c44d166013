"""Break-glass: a role lent to a person for minutes, when there is no time to ask. It is loud.

It tells at its start and its end: in the audit trail, in the log at error level, and as the event
`security.break_glass`; the metric `paymaster_break_glass_active` counts what is open. It ends by
itself: a lent role counts only until its time is over, whether or not anybody notes the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from paymaster.db import audit, outbox
from paymaster.db.cells import Environment
from paymaster.db.tx import ControlRead, ControlTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Conflict, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.observe import get_logger
from paymaster.people import staff_store
from paymaster.people.staff_roles import Role

log = get_logger("paymaster.security")

TOPIC = "security.break_glass"
MAX_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Lent:
    """A role lent to a person."""

    id: int
    environment_id: int
    person_id: int
    role: str
    reason: str
    started_by: str
    started_at: datetime
    ends_at: datetime

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": text_id("bg", 0, self.id),
            "role": self.role,
            "reason": self.reason,
            "started_by": self.started_by,
            "started_at": rfc3339(self.started_at),
            "ends_at": rfc3339(self.ends_at),
        }


async def start(
    tx: ControlTx,
    environment: Environment,
    person_id: int,
    reason: str,
    minutes: int,
    *,
    role: Role = Role.ADMIN,
    most: int = MAX_MINUTES,
) -> Lent:
    """Lend a role to an active person who has one here, for `minutes`, `most` at most.

    Raises Unprocessable `break-glass-minutes`, `reason-missing`, `person-without-role`; Conflict
    `break-glass-open`.
    """
    if not 1 <= minutes <= most:
        raise Unprocessable("break-glass-minutes", f"Choose 1 to {most} minutes.")
    if not reason.strip():
        raise Unprocessable("reason-missing", "Say why: break-glass is told to everybody.")
    row = await staff_store.lock(tx, person_id)
    roles = {one.environment_id for one in await staff_store.roles(tx, person_id)}
    if row is None or row.state != "active" or environment.id not in roles:
        raise Unprocessable(
            "person-without-role", "Break-glass is for an active person with a role here."
        )
    open_now = await active(tx, environment.id)
    if any(one.person_id == person_id and one.role == role for one in open_now):
        raise Conflict("break-glass-open", "This role is lent to the person already.")
    lent = Lent(
        tx.id(),
        environment.id,
        person_id,
        role.value,
        reason,
        tx.actor.name,
        tx.now,
        tx.now + timedelta(minutes=minutes),
    )
    await tx.execute(
        "INSERT INTO break_glass (id, environment_id, person_id, role, reason, started_by,"
        " started_at, ends_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        (
            lent.id,
            lent.environment_id,
            lent.person_id,
            lent.role,
            lent.reason,
            lent.started_by,
            lent.started_at,
            lent.ends_at,
        ),
    )
    await _tell(tx, "started", lent)
    return lent


async def _tell(tx: ControlTx, what: str, lent: Lent) -> None:
    person = text_id("pe", 0, lent.person_id)
    detail = {"role": lent.role, "ends_at": rfc3339(lent.ends_at), "id": text_id("bg", 0, lent.id)}
    log.error("break_glass", what=what, person=person, role=lent.role, by=tx.actor.name)
    act = audit.Act(
        f"break_glass.{what}",
        person,
        lent.reason,
        {**detail, audit.ENVIRONMENT: lent.environment_id},
    )
    await audit.record(tx, [act])
    payload = {
        **detail,
        "what": what,
        "person": person,
        "reason": lent.reason,
        "by": tx.actor.name,
        audit.ENVIRONMENT: lent.environment_id,
    }
    await outbox.put(tx, [outbox.Message(TOPIC, person, payload)])


async def active(tx: ControlRead, environment_id: int) -> list[Lent]:
    """What is lent in an environment at this moment."""
    return await tx.fetch(
        "SELECT id, environment_id, person_id, role, reason, started_by, started_at, ends_at"
        " FROM break_glass WHERE environment_id = %s AND ended_at IS NULL AND ends_at > %s"
        " ORDER BY id",
        (environment_id, tx.now),
        Lent,
    )


async def count(tx: ControlRead) -> dict[int, int]:
    """How many are open at this moment, by environment."""
    return dict(
        await tx.tuples(
            "SELECT environment_id, count(*)::int FROM break_glass"
            " WHERE ended_at IS NULL AND ends_at > %s GROUP BY environment_id",
            (tx.now,),
        )
    )


async def end_due(tx: ControlTx, limit: int) -> int:
    """Tell of those whose time is over; how many."""
    return await _end(
        tx,
        await tx.fetch(
            "SELECT id, environment_id, person_id, role, reason, started_by, started_at, ends_at"
            " FROM break_glass WHERE ended_at IS NULL AND ends_at <= %s ORDER BY id LIMIT %s"
            " FOR UPDATE SKIP LOCKED",
            (tx.now, limit),
            Lent,
        ),
    )


async def end_all(tx: ControlTx, person_id: int, environment_id: int | None = None) -> int:
    """End what is lent to a person, in one environment or all; how many."""
    return await _end(
        tx,
        await tx.fetch(
            "SELECT id, environment_id, person_id, role, reason, started_by, started_at, ends_at"
            " FROM break_glass WHERE ended_at IS NULL AND person_id = %s"
            " AND (%s::bigint IS NULL OR environment_id = %s) ORDER BY id FOR UPDATE",
            (person_id, environment_id, environment_id),
            Lent,
        ),
    )


async def _end(tx: ControlTx, ending: list[Lent]) -> int:
    await tx.execute(
        "UPDATE break_glass SET ended_at = %s WHERE id = ANY(%s)",
        (tx.now, [one.id for one in ending]),
    )
    for one in ending:
        await _tell(tx, "ended", one)
    return len(ending)
