"""Persons of the staff: invited by address, given a role, disabled. They log in at their provider.

A person belongs to a tenant and has at most one role in each of its environments. Nobody can take
away the last active admin of an environment: there would be no one left to give it back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from paymaster.db import audit, outbox
from paymaster.db.cells import Environment
from paymaster.db.tx import ControlRead, ControlTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Conflict, Forbidden, NotFound, Problem, Unprocessable
from paymaster.kernel.ids import parse_text_id, text_id
from paymaster.people import break_glass, sessions
from paymaster.people import staff_store as store
from paymaster.people.break_glass import Lent
from paymaster.people.staff_roles import Role, scopes_of
from paymaster.people.staff_store import MemberRow, PersonRow

DIRECTORY = 0
"""Persons are in the directory: their ids carry no cell."""

_EMAIL = re.compile(r"[^\s@\x00-\x1f]{1,64}@[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+\Z")
_MAX_EMAIL, _MAX_NAME = 254, 100


@dataclass(frozen=True, slots=True)
class Member:
    """A person as an environment knows one; `lent` is what break-glass gives at the moment."""

    row: MemberRow
    lent: tuple[Lent, ...] = ()

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        row = self.row
        return {
            "id": person_text(row.id),
            "email": row.email,
            "name": row.name,
            "state": row.state,
            "role": row.role,
            "created_at": rfc3339(row.created_at),
            "last_login_at": _when(row.last_login_at),
            "break_glass": [one.wire() for one in self.lent],
        }


def _when(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def person_text(person_id: int) -> str:
    """The text id of a person: `pe_...`."""
    return text_id("pe", DIRECTORY, person_id)


def person_number(text: str) -> int:
    """The id of a person. Raises NotFound `not-found`."""
    found = parse_text_id("pe", text)
    if found.cell != DIRECTORY:
        raise NotFound("not-found", "There is nothing of this id.")
    return found.id


def checked_email(text: str) -> str:
    """An address in small letters. Raises Unprocessable `staff-invalid`."""
    email = text.strip().lower()
    if len(email) > _MAX_EMAIL or not _EMAIL.match(email):
        raise _invalid("/email", "Write an e-mail address.")
    return email


def _invalid(pointer: str, detail: str) -> Unprocessable:
    return Unprocessable(
        "staff-invalid", "No such person can be invited.", problems=[Problem(pointer, detail)]
    )


async def add(
    tx: ControlTx, environment: Environment, email: str, name: str, role: Role, reason: str
) -> Member:
    """Invite a person, or give one of the tenant a role in this environment as well.

    The first login with this verified address binds the account used to the person. Raises
    Unprocessable `staff-invalid`; Conflict `staff-exists` for one who has a role here,
    `person-disabled`.
    """
    address, shown = checked_email(email), name.strip()
    if not 1 <= len(shown) <= _MAX_NAME or not shown.isprintable():
        raise _invalid("/name", "Write 1 to 100 printable characters.")
    row = PersonRow(tx.id(), environment.tenant, address, shown, "active", 1, tx.now)
    if await store.insert(tx, row):
        await _told(tx, environment, row.id, "staff.add", reason, {"role": role.value})
    else:
        known = await store.by_email(tx, environment.tenant, address)
        row = await _locked(tx, environment, known.id if known else 0)
        if row.state != "active":
            raise Conflict("person-disabled", "This person is disabled; enable the person first.")
        if await role_in(tx, environment.id, row.id) is not None:
            raise Conflict("staff-exists", "This person has a role here: change that.")
        await _told(tx, environment, row.id, "staff.role", reason, {"role": role.value})
    await store.put_role(tx, environment.id, row.id, role.value)
    return await get(tx, environment, row.id)


async def set_role(
    tx: ControlTx, environment: Environment, person_id: int, role: Role, reason: str
) -> Member:
    """Change what a person may do in this environment; the sessions there end.

    Raises NotFound `person-unknown`, Conflict `last-admin`.
    """
    before = await _member(tx, environment, person_id)
    if before != role:
        if before == Role.ADMIN:
            await _not_the_last(tx, environment.id, person_id)
        await store.put_role(tx, environment.id, person_id, role.value)
        await sessions.end_all(tx, person_id, "role-changed", environment.id)
        detail = {"role": role.value, "before": before}
        await _told(tx, environment, person_id, "staff.role", reason, detail)
    return await get(tx, environment, person_id)


async def remove_role(tx: ControlTx, environment: Environment, person_id: int, reason: str) -> None:
    """A person has no role in this environment any more; the sessions there end.

    Raises NotFound `person-unknown`, Conflict `last-admin`.
    """
    before = await _member(tx, environment, person_id)
    if before == Role.ADMIN:
        await _not_the_last(tx, environment.id, person_id)
    await break_glass.end_all(tx, person_id, environment.id)
    await store.drop_role(tx, environment.id, person_id)
    await sessions.end_all(tx, person_id, "role-removed", environment.id)
    keys = await store.keys_of(tx, person_id, environment.id)
    detail = {"before": before, "keys": keys}
    await _told(tx, environment, person_id, "staff.role_removed", reason, detail)


async def disable(
    tx: ControlTx,
    environment: Environment,
    person_id: int,
    reason: str,
    *,
    by: int | None = None,
    everywhere: bool = False,
) -> None:
    """End a person's access to every environment of the tenant, at once.

    Keys that the person owns go on as keys of servers (see `scopes_now`); the audit names them.

    Unless `everywhere`, whoever does it (`by`, None for a key) must be an admin of each environment
    where the person has a role. Raises NotFound `person-unknown`; Conflict `last-admin`; Forbidden
    `staff-elsewhere`.
    """
    await _locked(tx, environment, person_id)
    if not everywhere:
        await _may_decide(tx, environment, person_id, by)
    for row in await store.roles(tx, person_id):
        if row.role == Role.ADMIN:
            await _not_the_last(tx, row.environment_id, person_id)
    await store.set_state(tx, person_id, "disabled")
    await break_glass.end_all(tx, person_id)
    await sessions.end_all(tx, person_id, "disabled")
    keys = await store.keys_of(tx, person_id)
    await _told(tx, environment, person_id, "staff.disable", reason, {"keys": keys})


async def _may_decide(
    tx: ControlRead, environment: Environment, person_id: int, by: int | None
) -> None:
    await _member(tx, environment, person_id)
    for row in await store.roles(tx, person_id):
        if row.environment_id != environment.id:
            own = None if by is None else await role_in(tx, row.environment_id, by)
            if own != Role.ADMIN:
                raise Forbidden(
                    "staff-elsewhere",
                    "The person has a role in another environment, of which you are no admin:"
                    " change the role here instead.",
                )


async def enable(
    tx: ControlTx,
    environment: Environment,
    person_id: int,
    reason: str,
    *,
    by: int | None = None,
    everywhere: bool = False,
) -> None:
    """Let a disabled person log in again, with the roles as they were. Raises as `disable` does."""
    row = await _locked(tx, environment, person_id)
    if not everywhere:
        await _may_decide(tx, environment, person_id, by)
    if row.state != "active":
        await store.set_state(tx, person_id, "active")
        await _told(tx, environment, person_id, "staff.enable", reason, {})


async def forget_logins(
    tx: ControlTx, environment: Environment, person_id: int, reason: str
) -> None:
    """Unbind a person from the accounts used so far: the next login by the address binds anew.

    For whoever runs the installation, because it concerns every environment. Raises NotFound
    `person-unknown`.
    """
    await _locked(tx, environment, person_id)
    count = await store.unbind(tx, person_id)
    await sessions.end_all(tx, person_id, "unbound")
    await _told(tx, environment, person_id, "staff.unbind", reason, {"accounts": count})


async def _locked(tx: ControlTx, environment: Environment, person_id: int) -> PersonRow:
    row = await store.lock(tx, person_id)
    if row is None or row.tenant != environment.tenant:
        raise _unknown()
    return row


def _unknown() -> NotFound:
    return NotFound("person-unknown", "There is no such person here.")


async def _member(tx: ControlRead, environment: Environment, person_id: int) -> str:
    """The role of a person who has one here. Raises NotFound `person-unknown`."""
    role = await role_in(tx, environment.id, person_id)
    if role is None:
        raise _unknown()
    return role


async def _not_the_last(tx: ControlTx, environment_id: int, person_id: int) -> None:
    if await store.lock_admins(tx, environment_id) == [person_id]:
        raise Conflict(
            "last-admin", "This is the last active admin: give somebody else the role first."
        )


async def _told(
    tx: ControlTx,
    environment: Environment,
    person_id: int,
    action: str,
    reason: str,
    detail: Mapping[str, Any],
) -> None:
    """Audit, and tell subscribers: who may what is nothing that changes quietly."""
    subject = person_text(person_id)
    await audit.record(tx, [audit.Act(action, subject, reason, detail)])
    payload = {
        "id": subject,
        "act": action,
        "by": tx.actor.name,
        "tenant": environment.tenant,
        "mode": environment.mode,
        audit.ENVIRONMENT: environment.id,
        **detail,
    }
    await outbox.put(tx, [outbox.Message("security.staff_changed", subject, payload)])


async def role_in(tx: ControlRead, environment_id: int, person_id: int) -> str | None:
    """A person's role in an environment."""
    rows = await store.roles(tx, person_id)
    return next((row.role for row in rows if row.environment_id == environment_id), None)


async def stands(tx: ControlRead, environment_id: int, person_id: int) -> bool:
    """Whether a person is active and has a role in this environment."""
    row = await store.by_id(tx, person_id)
    active = row is not None and row.state == "active"
    return active and await role_in(tx, environment_id, person_id) is not None


async def scopes_now(tx: ControlRead, environment_id: int, person_id: int) -> frozenset[str]:
    """What a person may do here at this moment; nothing for one who is disabled or has no role."""
    row = await store.by_id(tx, person_id)
    role = await role_in(tx, environment_id, person_id)
    if row is None or row.state != "active" or role is None:
        return frozenset()
    lent = await break_glass.active(tx, environment_id)
    return scopes_of(role, [one.role for one in lent if one.person_id == person_id])


async def find(tx: ControlRead, environment: Environment, name: str) -> int:
    """A person by address or id (`pe_...`). Raises NotFound `person-unknown`."""
    if name.startswith("pe_"):
        row = await store.by_id(tx, person_number(name))
    else:
        row = await store.by_email(tx, environment.tenant, name.strip().lower())
    if row is None or row.tenant != environment.tenant:
        raise _unknown()
    return row.id


async def get(tx: ControlRead, environment: Environment, person_id: int) -> Member:
    """A person with a role here. Raises NotFound `person-unknown`."""
    for member in await listing(tx, environment.id):
        if member.row.id == person_id:
            return member
    raise _unknown()


async def listing(tx: ControlRead, environment_id: int) -> list[Member]:
    """Everybody with a role in an environment, disabled persons too."""
    lent = await break_glass.active(tx, environment_id)
    return [
        Member(row, tuple(one for one in lent if one.person_id == row.id))
        for row in await store.members(tx, environment_id)
    ]
