"""The SQL of persons and their roles. Private to the package; one statement a function."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from paymaster.db.tx import ControlRead, ControlTx


@dataclass(frozen=True, slots=True)
class PersonRow:
    """A person."""

    id: int
    tenant: str
    email: str
    name: str
    state: str
    version: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RoleRow:
    """A person's role in an environment, and what was lent to the person there for a while."""

    environment_id: int
    person_id: int
    role: str


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A person with a role in an environment, for lists."""

    id: int
    email: str
    name: str
    state: str
    role: str
    created_at: datetime
    last_login_at: datetime | None


async def insert(tx: ControlTx, row: PersonRow) -> bool:
    """Insert a person; False when the tenant has one of this address."""
    count = await tx.execute(
        "INSERT INTO person (id, tenant, email, name, state, version, created_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (tenant, email) DO NOTHING",
        (row.id, row.tenant, row.email, row.name, row.state, row.version, row.created_at),
    )
    return count == 1


async def by_email(tx: ControlRead, tenant: str, email: str) -> PersonRow | None:
    """The person of an address."""
    return await tx.maybe(
        "SELECT id, tenant, email, name, state, version, created_at FROM person"
        " WHERE tenant = %s AND email = %s",
        (tenant, email),
        PersonRow,
    )


async def by_id(tx: ControlRead, person_id: int) -> PersonRow | None:
    """A person."""
    return await tx.maybe(
        "SELECT id, tenant, email, name, state, version, created_at FROM person WHERE id = %s",
        (person_id,),
        PersonRow,
    )


async def lock(tx: ControlTx, person_id: int) -> PersonRow | None:
    """A person, held until the end of the transaction."""
    return await tx.maybe(
        "SELECT id, tenant, email, name, state, version, created_at FROM person WHERE id = %s"
        " FOR UPDATE",
        (person_id,),
        PersonRow,
    )


async def set_state(tx: ControlTx, person_id: int, state: str) -> None:
    """Change whether a person may log in."""
    await tx.execute(
        "UPDATE person SET state = %s, version = version + 1 WHERE id = %s", (state, person_id)
    )


async def put_role(tx: ControlTx, environment_id: int, person_id: int, role: str) -> None:
    """Give a role; it takes the place of the one before."""
    await tx.execute(
        "INSERT INTO person_role (environment_id, person_id, role, given_at)"
        " VALUES (%s, %s, %s, %s) ON CONFLICT (environment_id, person_id)"
        " DO UPDATE SET role = excluded.role, given_at = excluded.given_at",
        (environment_id, person_id, role, tx.now),
    )


async def drop_role(tx: ControlTx, environment_id: int, person_id: int) -> None:
    """Take the role away."""
    await tx.execute(
        "DELETE FROM person_role WHERE environment_id = %s AND person_id = %s",
        (environment_id, person_id),
    )


async def roles(tx: ControlRead, person_id: int) -> list[RoleRow]:
    """A person's roles in all environments."""
    return await tx.fetch(
        "SELECT environment_id, person_id, role FROM person_role WHERE person_id = %s"
        " ORDER BY environment_id",
        (person_id,),
        RoleRow,
    )


async def keys_of(tx: ControlRead, person_id: int, environment_id: int | None = None) -> list[str]:
    """The prefixes of a person's keys that are good still, in one environment or in all."""
    rows = await tx.tuples(
        "SELECT prefix FROM credential WHERE person_id = %s AND revoked_at IS NULL"
        " AND (expires_at IS NULL OR expires_at > %s)"
        " AND (%s::bigint IS NULL OR environment_id = %s) ORDER BY id",
        (person_id, tx.now, environment_id, environment_id),
    )
    return [row[0] for row in rows]


async def lock_admins(tx: ControlTx, environment_id: int) -> list[int]:
    """Who is an active admin of an environment; their persons and roles are held until the end."""
    rows = await tx.tuples(
        "SELECT p.id FROM person_role r JOIN person p ON p.id = r.person_id"
        " WHERE r.environment_id = %s AND r.role = 'admin' AND p.state = 'active'"
        " ORDER BY p.id FOR UPDATE OF r, p",
        (environment_id,),
    )
    return [row[0] for row in rows]


async def members(tx: ControlRead, environment_id: int) -> list[MemberRow]:
    """Everybody with a role in an environment, the first first."""
    return await tx.fetch(
        """
        SELECT p.id, p.email, p.name, p.state, r.role, p.created_at,
            (SELECT max(i.last_login_at) FROM person_identity i WHERE i.person_id = p.id)
                AS last_login_at
        FROM person_role r JOIN person p ON p.id = r.person_id
        WHERE r.environment_id = %s ORDER BY p.id
        """,
        (environment_id,),
        MemberRow,
    )


async def person_of_identity(tx: ControlRead, tenant: str, issuer: str, subject: str) -> int | None:
    """Who logs in by this account at this issuer."""
    return await tx.value(
        "SELECT person_id FROM person_identity WHERE tenant = %s AND issuer = %s AND subject = %s",
        (tenant, issuer, subject),
    )


async def bind(tx: ControlTx, tenant: str, issuer: str, subject: str, person_id: int) -> bool:
    """Note by which account a person logs in; False when the person has another one there."""
    count = await tx.execute(
        "INSERT INTO person_identity (tenant, issuer, subject, person_id, bound_at, last_login_at)"
        " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (tenant, issuer, subject, person_id, tx.now, tx.now),
    )
    return count == 1


async def logged_in(tx: ControlTx, tenant: str, issuer: str, subject: str) -> None:
    """Note when this account was last used."""
    await tx.execute(
        "UPDATE person_identity SET last_login_at = %s"
        " WHERE tenant = %s AND issuer = %s AND subject = %s",
        (tx.now, tenant, issuer, subject),
    )


async def unbind(tx: ControlTx, person_id: int) -> int:
    """Forget by which accounts a person logs in; how many there were."""
    return await tx.execute("DELETE FROM person_identity WHERE person_id = %s", (person_id,))
