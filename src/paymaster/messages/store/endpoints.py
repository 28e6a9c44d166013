"""SQL of endpoints and their secrets, in the directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from paymaster.db.tx import ControlTx, ReadTx, json


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """A row of `webhook_endpoint`."""

    id: int
    environment_id: int
    url: str = field(repr=False)
    description: str
    types: list[str]
    ordered: bool
    state: str
    disabled_reason: str | None
    starts_after: dict[str, int]
    failing_since: datetime | None
    created_at: datetime
    version: int


@dataclass(frozen=True, slots=True)
class SecretRow:
    """A row of `webhook_secret`."""

    id: int
    endpoint_id: int
    sealed: bytes = field(repr=False)
    created_at: datetime
    expires_at: datetime | None


async def insert(tx: ControlTx, row: EndpointRow) -> None:
    """A new endpoint."""
    await tx.execute(
        """
        INSERT INTO webhook_endpoint (id, environment_id, url, description, types, ordered, state,
            disabled_reason, starts_after, failing_since, created_at, version)
        VALUES (%s, %s, %s, %s, %s, %s, %s, NULL, %s, NULL, %s, 1)
        """,
        (
            row.id,
            row.environment_id,
            row.url,
            row.description,
            row.types,
            row.ordered,
            row.state,
            json(row.starts_after),
            row.created_at,
        ),
    )


async def of_environment(tx: ReadTx, environment_id: int) -> list[EndpointRow]:
    """All that were not deleted, oldest first."""
    return await tx.fetch(
        """
        SELECT id, environment_id, url, description, types, ordered, state, disabled_reason,
            starts_after, failing_since, created_at, version
        FROM webhook_endpoint WHERE environment_id = %s AND state <> 'deleted' ORDER BY id
        """,
        (environment_id,),
        EndpointRow,
    )


async def enabled(tx: ReadTx, environment_ids: Sequence[int]) -> list[EndpointRow]:
    """Those of some environments that are to be told."""
    return await tx.fetch(
        """
        SELECT id, environment_id, url, description, types, ordered, state, disabled_reason,
            starts_after, failing_since, created_at, version
        FROM webhook_endpoint WHERE environment_id = ANY(%s) AND state = 'enabled' ORDER BY id
        """,
        (list(environment_ids),),
        EndpointRow,
    )


async def states(tx: ReadTx) -> list[tuple[str, int]]:
    """How many endpoints are in each state, deleted ones apart."""
    rows = await tx.tuples(
        "SELECT state, count(*) FROM webhook_endpoint WHERE state <> 'deleted' GROUP BY state"
    )
    return [(row[0], row[1]) for row in rows]


async def find(tx: ReadTx, environment_id: int, endpoint_id: int) -> EndpointRow | None:
    """One that was not deleted."""
    return await tx.maybe(
        """
        SELECT id, environment_id, url, description, types, ordered, state, disabled_reason,
            starts_after, failing_since, created_at, version
        FROM webhook_endpoint WHERE id = %s AND environment_id = %s AND state <> 'deleted'
        """,
        (endpoint_id, environment_id),
        EndpointRow,
    )


async def lock(tx: ControlTx, endpoint_id: int) -> None:
    """Let nobody else change it until this transaction ends."""
    await tx.tuples("SELECT id FROM webhook_endpoint WHERE id = %s FOR UPDATE", (endpoint_id,))


async def count(tx: ControlTx, environment_id: int) -> int:
    """How many endpoints of an environment there are, deleted ones apart."""
    return await tx.value(
        "SELECT count(*) FROM webhook_endpoint WHERE environment_id = %s AND state <> 'deleted'",
        (environment_id,),
    )


async def change(
    tx: ControlTx, endpoint_id: int, url: str, description: str, types: Sequence[str]
) -> None:
    """What an app may change."""
    await tx.execute(
        "UPDATE webhook_endpoint SET url = %s, description = %s, types = %s, version = version + 1"
        " WHERE id = %s",
        (url, description, list(types), endpoint_id),
    )


async def set_state(tx: ControlTx, endpoint_id: int, state: str, reason: str | None) -> int:
    """Enable, disable or delete; whether that is another state."""
    return await tx.execute(
        """
        UPDATE webhook_endpoint SET state = %(state)s, disabled_reason = %(reason)s,
            failing_since = NULL, version = version + 1
        WHERE id = %(id)s AND state <> %(state)s AND state <> 'deleted'
        """,
        {"id": endpoint_id, "state": state, "reason": reason},
    )


async def set_failing(tx: ControlTx, endpoint_id: int, since: datetime | None) -> None:
    """Since when nothing has arrived there; None when something has."""
    await tx.execute(
        """
        UPDATE webhook_endpoint SET failing_since = %(since)s
        WHERE id = %(id)s AND (failing_since IS NULL) <> (%(since)s::timestamptz IS NULL)
        """,
        {"id": endpoint_id, "since": since},
    )


async def add_secret(tx: ControlTx, secret_id: int, endpoint_id: int, sealed: bytes) -> None:
    """A key that signs from now on."""
    await tx.execute(
        "INSERT INTO webhook_secret (id, endpoint_id, sealed, created_at) VALUES (%s, %s, %s, %s)",
        (secret_id, endpoint_id, sealed, tx.now),
    )


async def expire_secrets(tx: ControlTx, endpoint_id: int, at: datetime) -> None:
    """Older keys sign until then, none longer than it was going to; those past it go."""
    await tx.execute(
        "UPDATE webhook_secret SET expires_at = least(expires_at, %s) WHERE endpoint_id = %s",
        (at, endpoint_id),
    )
    await tx.execute(
        "DELETE FROM webhook_secret WHERE endpoint_id = %s AND expires_at <= %s",
        (endpoint_id, tx.now),
    )


async def secrets(tx: ReadTx, endpoint_ids: Sequence[int]) -> list[SecretRow]:
    """The keys that sign now, newest first."""
    return await tx.fetch(
        "SELECT id, endpoint_id, sealed, created_at, expires_at FROM webhook_secret"
        " WHERE endpoint_id = ANY(%s) AND (expires_at IS NULL OR expires_at > %s) ORDER BY id DESC",
        (list(endpoint_ids), tx.now),
        SecretRow,
    )
