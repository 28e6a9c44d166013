"""SQL of letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from paymaster.db.tx import ReadTx, Writes


@dataclass(frozen=True, slots=True)
class NewMail:
    """A letter to be written; `user_id` None is one to the operators."""

    seq: int
    template: str
    user_id: int | None


@dataclass(frozen=True, slots=True)
class ClaimedMail:
    """A letter under a lease. `tries` counts this one."""

    seq: int
    template: str
    user_id: int | None
    tries: int
    lease_token: int
    created_at: datetime


async def insert(tx: Writes, mails: Sequence[NewMail]) -> None:
    """Letters of events; those that are there stay as they are."""
    if not mails:
        return
    await tx.execute(
        """
        INSERT INTO mail (seq, template, user_id, state, tries, due_at, lease_token, created_at)
        SELECT s, t, u, 'waiting', 0, %s, 0, %s
        FROM unnest(%s::bigint[], %s::text[], %s::bigint[]) AS n (s, t, u)
        ON CONFLICT (seq) DO NOTHING
        """,
        (
            tx.now,
            tx.now,
            [one.seq for one in mails],
            [one.template for one in mails],
            [one.user_id for one in mails],
        ),
    )


async def claim(tx: Writes, limit: int, until: datetime) -> list[ClaimedMail]:
    """Take letters that are due until the lease ends, oldest first."""
    return await tx.fetch(
        """
        WITH free AS (
            SELECT seq FROM mail WHERE due_at <= %(now)s ORDER BY due_at LIMIT %(limit)s
            FOR UPDATE SKIP LOCKED
        )
        UPDATE mail m SET state = 'sending', tries = m.tries + 1, due_at = %(until)s,
            lease_token = m.lease_token + 1
        FROM free WHERE m.seq = free.seq
        RETURNING m.seq, m.template, m.user_id, m.tries, m.lease_token, m.created_at
        """,
        {"now": tx.now, "limit": limit, "until": until},
        ClaimedMail,
    )


async def record(
    tx: Writes, mail: ClaimedMail, state: str, due_at: datetime | None, outcome: str
) -> int:
    """What became of a try whose lease still holds; whether it did."""
    return await tx.execute(
        "UPDATE mail SET state = %s, due_at = %s, outcome = %s, tried_at = %s"
        " WHERE seq = %s AND lease_token = %s AND state = 'sending'",
        (state, due_at, outcome, tx.now, mail.seq, mail.lease_token),
    )


async def due(tx: ReadTx) -> int:
    """How many letters are due."""
    return await tx.value("SELECT count(*) FROM mail WHERE due_at <= %s", (tx.now,))


async def forget(tx: Writes, before: datetime, limit: int) -> int:
    """Delete at most `limit` letters that were queued before a moment; how many."""
    return await tx.execute(
        "DELETE FROM mail WHERE seq IN (SELECT seq FROM mail WHERE created_at < %s"
        " ORDER BY seq LIMIT %s)",
        (before, limit),
    )
