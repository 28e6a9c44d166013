"""Leadership: one runner of a name at a time in a schema, fenced by a token.

The token goes into the WHERE clause of what the leader writes (`still_held`): a leader that was
stopped past its expiry and resumed finds another token there and cannot write.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg import errors

from paymaster.db.tx import Writes
from paymaster.db.worker import holder
from paymaster.kernel.errors import Busy, Conflict


@dataclass(frozen=True, slots=True)
class Lease:
    """A held lease."""

    name: str
    token: int
    expires_at: datetime


async def acquire(tx: Writes, name: str, length: timedelta, held: Lease | None) -> Lease | None:
    """Take or prolong the lease; None while another process holds it."""
    until = tx.now + length
    token = await tx.value(
        """
        INSERT INTO lease (name, holder, token, expires_at) VALUES (%(name)s, %(me)s, 1, %(until)s)
        ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at,
            token = lease.token + CASE WHEN lease.token = %(held)s
                AND lease.expires_at > %(now)s THEN 0 ELSE 1 END
        WHERE lease.expires_at <= %(now)s OR lease.token = %(held)s
        RETURNING token
        """,
        {
            "name": name,
            "me": holder(),
            "until": until,
            "now": tx.now,
            "held": held.token if held else -1,
        },
    )
    return None if token is None else Lease(name, token, until)


async def still_held(tx: Writes, lease: Lease) -> None:
    """Lock the lease row for this transaction. Raises Conflict `lease-lost` if it is not ours."""
    found = await tx.value(
        "SELECT 1 FROM lease WHERE name = %s AND token = %s AND expires_at > %s FOR UPDATE",
        (lease.name, lease.token, tx.now),
    )
    if found is None:
        raise Conflict("lease-lost", f"The lease {lease.name!r} went to another process.")


async def release(tx: Writes, lease: Lease) -> None:
    """Give the lease up, so that a successor need not wait."""
    await tx.execute(
        "UPDATE lease SET expires_at = %s WHERE name = %s AND token = %s",
        (tx.now, lease.name, lease.token),
    )


async def permit(tx: Writes) -> None:
    """Become one of the two batch-sized writers of this schema until the transaction ends.

    Raises Busy `database-slow` when neither has ended within 10 seconds, however short this
    transaction's patience with other locks is: waiting here is no command's fault.
    """
    number = tx.commit_id % 2 + 1
    await tx.ask(
        """
        WITH free AS (
            SELECT number FROM permit ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED
        ), awaited AS (
            SELECT number FROM permit WHERE number = %s AND NOT EXISTS (SELECT FROM free)
                AND set_config('lock_timeout', '10s', true) <> '' FOR UPDATE
        )
        SELECT number FROM free
        UNION ALL SELECT number FROM awaited WHERE set_config('lock_timeout', %s, true) <> ''
        """,
        (number, tx.patience),
        _not_free,
    )


def _not_free(error: psycopg.Error) -> Exception | None:
    if isinstance(error, errors.LockNotAvailable):
        return Busy("database-slow", "Batch writers hold the cell; retry.")
    return None
