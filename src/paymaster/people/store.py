"""SQL of users, their sealed data and destinations (cell), and of the directory (control)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from paymaster.db.tx import CellRead, CellTx, ControlRead, ControlTx


@dataclass(frozen=True, slots=True)
class DirectoryRow:
    """Where a user lives."""

    external_id: str
    cell: int
    user_id: int


@dataclass(frozen=True, slots=True)
class UserRow:
    """A row of `app_user`."""

    id: int
    external_id: str
    status: str
    status_reason: str | None
    created_at: datetime
    version: int


@dataclass(frozen=True, slots=True)
class SealedRow:
    """Something sealed under a user's key, with that key still wrapped."""

    user_id: int
    wrapped: bytes
    kek_id: str
    sealed: bytes | None


@dataclass(frozen=True, slots=True)
class DestinationRow:
    """A row of `destination` without its sealed details."""

    id: int
    user_id: int
    kind: str
    currency: str
    mask: str
    fingerprint: bytes
    state: str
    closed_reason: str | None
    usable_at: datetime
    created_at: datetime
    version: int
    paused_code: str | None = None
    paused_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PayeeRow:
    """What is needed to open a destination."""

    id: int
    user_id: int
    kind: str
    sealed: bytes
    wrapped: bytes
    kek_id: str


async def directory(
    tx: ControlRead, environment_id: int, external_ids: Iterable[str]
) -> list[tuple[str, int, int]]:
    """`(external id, cell, user)` of those that exist; plain tuples, for a batch asks for many."""
    rows = await tx.tuples(
        "SELECT external_id, cell, user_id FROM directory"
        " WHERE environment_id = %s AND external_id = ANY(%s)",
        (environment_id, sorted(set(external_ids))),
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def claim(tx: ControlTx, environment_id: int, rows: Sequence[DirectoryRow]) -> None:
    """Give each external id its place; the first to claim wins."""
    first = tx.append(len(rows))
    await tx.execute(
        """
        INSERT INTO directory (environment_id, external_id, cell, user_id, created_at, commit_id,
            ordinal)
        SELECT %s, e, c, u, %s, %s, o
        FROM unnest(%s::int[], %s::text[], %s::int[], %s::bigint[]) AS n (o, e, c, u)
        ORDER BY e
        ON CONFLICT (environment_id, external_id) DO NOTHING
        """,
        (
            environment_id,
            tx.now,
            tx.commit_id,
            list(range(first, first + len(rows))),
            [row.external_id for row in rows],
            [row.cell for row in rows],
            [row.user_id for row in rows],
        ),
    )


async def register_fingerprints(
    tx: ControlTx,
    environment_id: int,
    kind: str,
    fingerprints: Sequence[bytes],
    cell: int,
    user: int,
) -> None:
    """Say that a user uses something; harmless to repeat."""
    first = tx.append(len(fingerprints))
    await tx.execute(
        """
        INSERT INTO registry (environment_id, kind, fingerprint, cell, user_id, claimed_at,
            commit_id, ordinal)
        SELECT %s, %s, f, %s, %s, %s, %s, o
        FROM unnest(%s::int[], %s::bytea[]) AS n (o, f) ORDER BY f
        ON CONFLICT (environment_id, kind, fingerprint, cell, user_id) DO NOTHING
        """,
        (
            environment_id,
            kind,
            cell,
            user,
            tx.now,
            tx.commit_id,
            list(range(first, first + len(fingerprints))),
            list(fingerprints),
        ),
    )


async def count_users(
    tx: ControlRead, environment_id: int, kind: str, fingerprints: Sequence[Sequence[bytes]]
) -> list[int]:
    """For each group of fingerprints: how many users have claimed any of it."""
    groups = [index for index, group in enumerate(fingerprints) for _ in group]
    rows = await tx.tuples(
        """
        SELECT g, count(DISTINCT (r.cell, r.user_id))
        FROM unnest(%s::int[], %s::bytea[]) AS n (g, f)
        JOIN registry r ON r.environment_id = %s AND r.kind = %s AND r.fingerprint = n.f
        GROUP BY g
        """,
        (groups, [one for group in fingerprints for one in group], environment_id, kind),
    )
    counts: dict[int, int] = dict(rows)
    return [counts.get(index, 0) for index in range(len(fingerprints))]


async def insert_users(tx: CellTx, ids: Sequence[int], external_ids: Sequence[str]) -> set[int]:
    """Make the users that are missing, active; the ids of those made now."""
    rows = await tx.tuples(
        """
        INSERT INTO app_user (id, external_id, status, created_at, version)
        SELECT i, e, 'active', %s, 1 FROM unnest(%s::bigint[], %s::text[]) AS n (i, e) ORDER BY i
        ON CONFLICT DO NOTHING RETURNING id
        """,
        (tx.now, list(ids), list(external_ids)),
    )
    return {row[0] for row in rows}


async def users(tx: CellRead, ids: Iterable[int]) -> list[UserRow]:
    """Users by id."""
    return await tx.fetch(
        "SELECT id, external_id, status, status_reason, created_at, version FROM app_user"
        " WHERE id = ANY(%s) ORDER BY id",
        (sorted(set(ids)),),
        UserRow,
    )


async def not_active(tx: CellRead, ids: Sequence[int]) -> list[tuple[int, str | None]]:
    """`(user, status)` of those who are not active; None for one who is not in this cell.

    Nearly always nothing, so that a batch of thousands costs no rows. A probe of the key for each:
    as a join, a stale estimate can make it a scan of all users.
    """
    rows = await tx.tuples(
        """
        SELECT id, status FROM (
            SELECT n.id, (SELECT u.status FROM app_user u WHERE u.id = n.id) AS status
            FROM unnest(%s::bigint[]) AS n (id) OFFSET 0
        ) asked
        WHERE status IS DISTINCT FROM 'active'
        """,
        (list(ids),),
    )
    return [(row[0], row[1]) for row in rows]


async def lock_users(tx: CellTx, ids: Iterable[int]) -> list[UserRow]:
    """Users by id, locked in that order."""
    return await tx.fetch(
        "SELECT id, external_id, status, status_reason, created_at, version FROM app_user"
        " WHERE id = ANY(%s) ORDER BY id FOR UPDATE",
        (sorted(set(ids)),),
        UserRow,
    )


async def set_status(
    tx: CellTx, ids: Sequence[int], statuses: Sequence[str], reasons: Sequence[str | None]
) -> None:
    """Write new statuses."""
    await tx.execute(
        """
        UPDATE app_user u SET status = n.s, status_reason = n.r, version = u.version + 1
        FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS n (i, s, r) WHERE u.id = n.i
        """,
        (list(ids), list(statuses), list(reasons)),
    )


async def insert_keys(
    tx: CellTx, ids: Sequence[int], wrapped: Sequence[bytes], kek_ids: Sequence[str]
) -> None:
    """Store the wrapped keys of new users."""
    await tx.execute(
        "INSERT INTO data_key (user_id, wrapped, kek_id)"
        " SELECT * FROM unnest(%s::bigint[], %s::bytea[], %s::text[])",
        (list(ids), list(wrapped), list(kek_ids)),
    )


async def keys_with(tx: CellRead, ids: Iterable[int], kind: str) -> list[SealedRow]:
    """The wrapped keys of users, each with its sealed data of `kind` if there is any."""
    return await tx.fetch(
        "SELECT k.user_id, k.wrapped, k.kek_id, p.sealed FROM data_key k"
        " LEFT JOIN pii p ON p.user_id = k.user_id AND p.kind = %s WHERE k.user_id = ANY(%s)",
        (kind, sorted(set(ids))),
        SealedRow,
    )


async def put_sealed(tx: CellTx, kind: str, ids: Sequence[int], sealed: Sequence[bytes]) -> None:
    """Store sealed data of a kind, in place of what was there."""
    await tx.execute(
        """
        INSERT INTO pii (user_id, kind, sealed, updated_at)
        SELECT i, %s, b, %s FROM unnest(%s::bigint[], %s::bytea[]) AS n (i, b) ORDER BY i
        ON CONFLICT (user_id, kind) DO UPDATE
            SET sealed = excluded.sealed, updated_at = excluded.updated_at
        """,
        (kind, tx.now, list(ids), list(sealed)),
    )


async def insert_destination(tx: CellTx, row: DestinationRow, sealed: bytes) -> bool:
    """Store a destination; False when the user has it already, open or closed."""
    return bool(
        await tx.execute(
            """
            INSERT INTO destination (id, user_id, kind, currency, mask, fingerprint, sealed, state,
                usable_at, created_at, version)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 1)
            ON CONFLICT (user_id, kind, fingerprint, currency) DO NOTHING
            """,
            (
                row.id,
                row.user_id,
                row.kind,
                row.currency,
                row.mask,
                row.fingerprint,
                sealed,
                row.state,
                row.usable_at,
                row.created_at,
            ),
        )
    )


async def same_destination(
    tx: CellRead, user_id: int, kind: str, currency: str, fingerprints: Sequence[bytes]
) -> DestinationRow | None:
    """The user's destination of one of these fingerprints; an open one before a closed one."""
    rows = await tx.fetch(
        "SELECT id, user_id, kind, currency, mask, fingerprint, state, closed_reason, usable_at,"
        " created_at, version, paused_code, paused_at FROM destination"
        " WHERE user_id = %s AND kind = %s AND currency = %s AND fingerprint = ANY(%s)"
        " ORDER BY state, id LIMIT 1",
        (user_id, kind, currency, list(fingerprints)),
        DestinationRow,
    )
    return rows[0] if rows else None


async def destinations_of(tx: CellRead, user_id: int) -> list[DestinationRow]:
    """All destinations of a user, oldest first."""
    return await tx.fetch(
        "SELECT id, user_id, kind, currency, mask, fingerprint, state, closed_reason, usable_at,"
        " created_at, version, paused_code, paused_at FROM destination"
        " WHERE user_id = %s ORDER BY id",
        (user_id,),
        DestinationRow,
    )


async def destinations(tx: CellRead, ids: Iterable[int]) -> list[DestinationRow]:
    """Destinations by id."""
    return await tx.fetch(
        "SELECT id, user_id, kind, currency, mask, fingerprint, state, closed_reason, usable_at,"
        " created_at, version, paused_code, paused_at FROM destination"
        " WHERE id = ANY(%s) ORDER BY id",
        (sorted(set(ids)),),
        DestinationRow,
    )


async def lock_destination(tx: CellTx, destination_id: int) -> DestinationRow | None:
    """One destination, locked."""
    return await tx.maybe(
        "SELECT id, user_id, kind, currency, mask, fingerprint, state, closed_reason, usable_at,"
        " created_at, version, paused_code, paused_at FROM destination WHERE id = %s FOR UPDATE",
        (destination_id,),
        DestinationRow,
    )


async def close_destination(tx: CellTx, destination_id: int, state: str, reason: str) -> None:
    """Write the closed state."""
    await tx.execute(
        "UPDATE destination SET state = %s, closed_reason = %s, version = version + 1"
        " WHERE id = %s",
        (state, reason, destination_id),
    )


async def pause_destination(tx: CellTx, destination_id: int, state: str, code: str) -> None:
    """Write the paused state."""
    await tx.execute(
        "UPDATE destination SET state = %s, paused_code = %s, paused_at = %s, version = version + 1"
        " WHERE id = %s",
        (state, code, tx.now, destination_id),
    )


async def resume_destination(tx: CellTx, destination_id: int, state: str) -> None:
    """Write the active state; what failed before counts no more."""
    await tx.execute(
        "UPDATE destination SET state = %s, resumed_at = %s, version = version + 1 WHERE id = %s",
        (state, tx.now, destination_id),
    )


async def destination_fingerprints(tx: CellRead, ids: Iterable[int]) -> list[tuple[int, bytes]]:
    """The stored fingerprint of each destination."""
    rows = await tx.tuples(
        "SELECT id, fingerprint FROM destination WHERE id = ANY(%s)", (list(set(ids)),)
    )
    return [(row[0], row[1]) for row in rows]


async def stored_fingerprints(tx: CellRead, after: int, limit: int) -> list[tuple[int, int, bytes]]:
    """The next destinations after an id: id, user, fingerprint."""
    rows = await tx.tuples(
        "SELECT id, user_id, fingerprint FROM destination WHERE id > %s ORDER BY id LIMIT %s",
        (after, limit),
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def replace_fingerprints(
    tx: CellTx, ids: Sequence[int], old: Sequence[bytes], new: Sequence[bytes]
) -> int:
    """Put new fingerprints in the place of old ones; how many.

    Where the user has that destination under the new one as well, the older row keeps what it has.
    """
    return await tx.execute(
        """
        UPDATE destination d SET fingerprint = n.new
        FROM unnest(%s::bigint[], %s::bytea[], %s::bytea[]) AS n (id, old, new)
        WHERE d.id = n.id AND d.fingerprint = n.old AND NOT EXISTS (
            SELECT FROM destination o WHERE o.user_id = d.user_id AND o.kind = d.kind
                AND o.currency = d.currency AND o.fingerprint = n.new)
        """,
        (list(ids), list(old), list(new)),
    )


async def payees(tx: CellRead, ids: Iterable[int]) -> list[PayeeRow]:
    """Sealed destinations with the wrapped keys of their users; erased ones are missing."""
    return await tx.fetch(
        "SELECT d.id, d.user_id, d.kind, d.sealed, k.wrapped, k.kek_id FROM destination d"
        " JOIN data_key k ON k.user_id = d.user_id WHERE d.id = ANY(%s)",
        (sorted(set(ids)),),
        PayeeRow,
    )
