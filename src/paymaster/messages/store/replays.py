"""SQL of replays: stretches of old events that are owed again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from paymaster.db.tx import ReadTx, Writes


@dataclass(frozen=True, slots=True)
class Replay:
    """An open replay: events after `at_seq` up to `until_seq` are still to be looked at."""

    id: int
    endpoint_id: int
    since: datetime
    at_seq: int
    until_seq: int


async def insert(
    tx: Writes, endpoint_id: int, since: datetime, at_seq: int, until_seq: int
) -> None:
    """Ask for one."""
    await tx.execute(
        """
        INSERT INTO webhook_replay (id, endpoint_id, since, at_seq, until_seq, queued, created_at)
        VALUES (%s, %s, %s, %s, %s, 0, %s)
        """,
        (tx.id(), endpoint_id, since, at_seq, until_seq, tx.now),
    )


async def first(tx: ReadTx) -> Replay | None:
    """The oldest that is open."""
    return await tx.maybe(
        "SELECT id, endpoint_id, since, at_seq, until_seq FROM webhook_replay"
        " WHERE done_at IS NULL ORDER BY id LIMIT 1",
        None,
        Replay,
    )


async def advance(
    tx: Writes, replay_id: int, at_seq: int, queued: int, done_at: datetime | None
) -> None:
    """Remember how far it has come."""
    await tx.execute(
        "UPDATE webhook_replay SET at_seq = %s, queued = queued + %s, done_at = %s WHERE id = %s",
        (at_seq, queued, done_at, replay_id),
    )


async def forget(tx: Writes, before: datetime) -> int:
    """Delete those that were done before a moment."""
    return await tx.execute("DELETE FROM webhook_replay WHERE done_at < %s", (before,))
