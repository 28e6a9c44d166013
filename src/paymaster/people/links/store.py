"""The SQL of links: ways and links in a user's cell, their owners in the directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from paymaster.db.tx import CellRead, CellTx, ControlTx


@dataclass(frozen=True, slots=True)
class WayRow:
    """A way to a provider and back. `slug` is how it failed, `link_id` what came of it."""

    id: int
    user_id: int
    provider: str
    secret_hash: bytes = field(repr=False)
    nonce_hash: bytes = field(repr=False)
    return_to: str | None
    state: str
    code_hash: bytes | None = field(repr=False)
    lease_until: datetime | None
    slug: str | None
    link_id: int | None
    expires_at: datetime
    version: int


async def insert_way(tx: CellTx, row: WayRow) -> None:
    """Open a way; those of the user that are long over go."""
    await tx.execute(
        "DELETE FROM link_way WHERE user_id = %s AND expires_at < %s",
        (row.user_id, tx.now - timedelta(days=1)),
    )
    await tx.execute(
        """
        INSERT INTO link_way (id, user_id, provider, secret_hash, nonce_hash, return_to, state,
            created_at, expires_at, version)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, 1)
        """,
        (
            row.id,
            row.user_id,
            row.provider,
            row.secret_hash,
            row.nonce_hash,
            row.return_to,
            row.state,
            tx.now,
            row.expires_at,
        ),
    )


async def open_ways(tx: CellRead, user_id: int) -> int:
    """How many ways of a user are still open."""
    return await tx.value(
        "SELECT count(*) FROM link_way WHERE user_id = %s AND state = 'open' AND expires_at > %s",
        (user_id, tx.now),
    )


async def way(tx: CellRead, way_id: int) -> WayRow | None:
    """A way, as it is now."""
    return await tx.maybe(
        "SELECT id, user_id, provider, secret_hash, nonce_hash, return_to, state, code_hash,"
        " lease_until, slug, link_id, expires_at, version FROM link_way WHERE id = %s",
        (way_id,),
        WayRow,
    )


async def lock_way(tx: CellTx, way_id: int) -> WayRow | None:
    """A way, locked."""
    return await tx.maybe(
        "SELECT id, user_id, provider, secret_hash, nonce_hash, return_to, state, code_hash,"
        " lease_until, slug, link_id, expires_at, version FROM link_way WHERE id = %s FOR UPDATE",
        (way_id,),
        WayRow,
    )


async def write_way(
    tx: CellTx,
    row: WayRow,
    state: str,
    *,
    code_hash: bytes | None = None,
    lease_until: datetime | None = None,
    slug: str | None = None,
    link_id: int | None = None,
) -> None:
    """Write what became of a locked way; the code that was brought stays."""
    await tx.execute(
        "UPDATE link_way SET state = %s, code_hash = coalesce(%s, code_hash), lease_until = %s,"
        " slug = %s, link_id = %s, version = version + 1 WHERE id = %s",
        (state, code_hash, lease_until, slug, link_id, row.id),
    )


@dataclass(frozen=True, slots=True)
class LinkRow:
    """A link, with how its destination is shown. `owner_id` is its id in the directory."""

    id: int
    user_id: int
    provider: str
    destination_id: int
    owner_id: int
    owner_version: int
    linked_at: datetime
    mask: str
    destination_state: str
    usable_at: datetime


async def links(tx: CellRead, user_id: int) -> list[LinkRow]:
    """The links of a user that hold, by provider."""
    return await tx.fetch(
        """
        SELECT l.id, l.user_id, l.provider, l.destination_id, l.owner_id, l.owner_version,
            l.linked_at, d.mask,
            d.state AS destination_state, d.usable_at
        FROM link l JOIN destination d ON d.id = l.destination_id
        WHERE l.user_id = %s AND l.state = 'active' ORDER BY l.provider
        """,
        (user_id,),
        LinkRow,
    )


async def lock_link(tx: CellTx, user_id: int, provider: str) -> LinkRow | None:
    """A user's link to a provider, locked."""
    return await tx.maybe(
        """
        SELECT l.id, l.user_id, l.provider, l.destination_id, l.owner_id, l.owner_version,
            l.linked_at, d.mask,
            d.state AS destination_state, d.usable_at
        FROM link l JOIN destination d ON d.id = l.destination_id
        WHERE l.user_id = %s AND l.provider = %s AND l.state = 'active' FOR UPDATE OF l
        """,
        (user_id, provider),
        LinkRow,
    )


async def insert_link(
    tx: CellTx, link_id: int, user_id: int, provider: str, destination_id: int, owner: OwnerRow
) -> bool:
    """Make a link; False when the user has one with this provider."""
    return bool(
        await tx.execute(
            """
            INSERT INTO link (id, user_id, provider, destination_id, owner_id, owner_version, state,
                linked_at, version)
            VALUES (%s, %s, %s, %s, %s, %s, 'active', %s, 1)
            ON CONFLICT (user_id, provider) WHERE state = 'active' DO NOTHING
            """,
            (link_id, user_id, provider, destination_id, owner.owner_id, owner.version, tx.now),
        )
    )


async def own_link(tx: CellTx, link_id: int, owner: OwnerRow) -> None:
    """How the directory knows a locked link now."""
    await tx.execute(
        "UPDATE link SET owner_id = %s, owner_version = %s, version = version + 1 WHERE id = %s",
        (owner.owner_id, owner.version, link_id),
    )


async def end_link(tx: CellTx, link_id: int) -> None:
    """A locked link holds no more."""
    await tx.execute(
        "UPDATE link SET state = 'unlinked', unlinked_at = %s, version = version + 1 WHERE id = %s",
        (tx.now, link_id),
    )


async def holds(tx: CellRead, user_id: int, owner_id: int) -> bool:
    """Whether a link of a user that the directory knows by this id holds."""
    return bool(
        await tx.value(
            "SELECT EXISTS (SELECT FROM link WHERE user_id = %s AND owner_id = %s"
            " AND state = 'active')",
            (user_id, owner_id),
        )
    )


async def reopen_destination(
    tx: CellTx, destination_id: int, state: str, usable_at: datetime
) -> None:
    """Open the locked destination of an account that is linked again."""
    await tx.execute(
        "UPDATE destination SET state = %s, closed_reason = NULL, usable_at = %s,"
        " version = version + 1 WHERE id = %s",
        (state, usable_at, destination_id),
    )


@dataclass(frozen=True, slots=True)
class OwnerRow:
    """Whose an identity is; `version` grows whenever its user links it again."""

    fingerprint: bytes
    cell: int
    user_id: int
    owner_id: int
    version: int
    bound_at: datetime


async def own(
    tx: ControlTx,
    environment_id: int,
    provider: str,
    fingerprints: Sequence[bytes],
    cell: int,
    user_id: int,
    owner_id: int,
) -> OwnerRow:
    """Note that an identity is this user's, unless it is another's already; the row there is now.

    `fingerprints` are of all versions of the key, newest first.
    """
    known = await tx.value(
        "SELECT fingerprint FROM link_owner WHERE environment_id = %s AND provider = %s"
        " AND fingerprint = ANY(%s) LIMIT 1",
        (environment_id, provider, list(fingerprints)),
    )
    [row] = await tx.fetch(
        """
        INSERT INTO link_owner (environment_id, provider, fingerprint, cell, user_id, owner_id,
            version, bound_at)
        VALUES (%s, %s, %s, %s, %s, %s, 1, %s)
        ON CONFLICT (environment_id, provider, fingerprint) DO UPDATE
            SET version = link_owner.version + ((link_owner.cell, link_owner.user_id)
                    = (excluded.cell, excluded.user_id))::int,
            bound_at = CASE WHEN (link_owner.cell, link_owner.user_id)
                    = (excluded.cell, excluded.user_id)
                THEN excluded.bound_at ELSE link_owner.bound_at END
        RETURNING fingerprint, cell, user_id, owner_id, version, bound_at
        """,
        (
            environment_id,
            provider,
            fingerprints[0] if known is None else known,
            cell,
            user_id,
            owner_id,
            tx.now,
        ),
        OwnerRow,
    )
    return row


async def take_over(
    tx: ControlTx,
    environment_id: int,
    provider: str,
    before: OwnerRow,
    cell: int,
    user_id: int,
    owner_id: int,
) -> bool:
    """An identity that was left behind becomes this user's; False if it has moved since."""
    return bool(
        await tx.execute(
            """
            UPDATE link_owner SET cell = %s, user_id = %s, owner_id = %s, version = 1, bound_at = %s
            WHERE environment_id = %s AND provider = %s AND fingerprint = %s AND owner_id = %s
                AND version = %s
            """,
            (
                cell,
                user_id,
                owner_id,
                tx.now,
                environment_id,
                provider,
                before.fingerprint,
                before.owner_id,
                before.version,
            ),
        )
    )


async def disown(tx: ControlTx, environment_id: int, owner_id: int, version: int) -> None:
    """An identity is nobody's any more, if it was not linked again since."""
    await tx.execute(
        "DELETE FROM link_owner WHERE environment_id = %s AND owner_id = %s AND version = %s",
        (environment_id, owner_id, version),
    )
