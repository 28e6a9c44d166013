"""Callers' keys: the same key and body gets the first answer again, byte for byte.

The row is inserted in the transaction of the effect, before it. A concurrent duplicate waits on
the unique key until the first has committed, then replays. Decisions are stored; what may turn out
differently next time (400, 401, 429, 503) is not, because it raises and rolls back.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from psycopg import errors

from paymaster.db.tx import Writes
from paymaster.kernel.errors import Conflict, Unprocessable


@dataclass(frozen=True, slots=True)
class Key:
    """A caller's key: who used it, where, for which body."""

    credential_id: int
    route: str
    key_hash: bytes
    body_hash: bytes

    @classmethod
    def of(cls, credential_id: int, route: str, key: str, body: bytes) -> Key:
        """Hash key (128 bits) and body (256 bits)."""
        return cls(
            credential_id,
            route,
            hashlib.sha256(key.encode()).digest()[:16],
            hashlib.sha256(body).digest(),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What the first caller was told."""

    status: int
    answer: bytes
    replayed: bool = field(default=False, compare=False)
    """Whether it was read from the store, not made by this call."""


@dataclass(frozen=True, slots=True)
class _Stored:
    body_hash: bytes
    status: int | None
    answer: bytes | None


async def claim(tx: Writes, key: Key) -> None:
    """Note in the directory which body a key belongs to, before the cell of the effect is known.

    Two bodies under one key may name users of two cells, where neither sees the other's row.
    Raises Unprocessable `idempotency-key-reused`, Conflict `in-progress`.
    """
    try:
        created = await _insert(tx, key)
    except errors.LockNotAvailable:
        raise Conflict("in-progress", "The first request with this key is still running.") from None
    if not created:
        body_hash = await tx.value(
            "SELECT body_hash FROM idempotency"
            " WHERE credential_id = %s AND route = %s AND key_hash = %s",
            (key.credential_id, key.route, key.key_hash),
        )
        _same_body(key, body_hash)


async def _insert(tx: Writes, key: Key) -> int:
    return await tx.execute(
        """
        INSERT INTO idempotency (credential_id, route, key_hash, body_hash, created_at)
        VALUES (%s, %s, %s, %s, %s) ON CONFLICT (credential_id, route, key_hash) DO NOTHING
        """,
        (key.credential_id, key.route, key.key_hash, key.body_hash, tx.now),
    )


def _same_body(key: Key, body_hash: bytes) -> None:
    if body_hash != key.body_hash:
        raise Unprocessable(
            "idempotency-key-reused",
            "This Idempotency-Key was used with another body; take a new key.",
        )


async def begin(tx: Writes, key: Key) -> Answer | None:
    """None when this is the first use; otherwise the stored answer.

    Raises Unprocessable `idempotency-key-reused` for another body, Conflict `in-progress` when the
    first is still running after the lock timeout.
    """
    try:
        created = await _insert(tx, key)
    except errors.LockNotAvailable:
        raise Conflict("in-progress", "The first request with this key is still running.") from None
    if created:
        return None
    stored = await tx.maybe(
        "SELECT body_hash, status, answer FROM idempotency"
        " WHERE credential_id = %s AND route = %s AND key_hash = %s",
        (key.credential_id, key.route, key.key_hash),
        _Stored,
    )
    if stored is None or stored.status is None or stored.answer is None:
        raise Conflict("in-progress", "The first request with this key is still running.")
    _same_body(key, stored.body_hash)
    return Answer(stored.status, stored.answer, replayed=True)


async def finish(tx: Writes, key: Key, answer: Answer) -> None:
    """Store the answer with the effect."""
    await tx.execute(
        "UPDATE idempotency SET status = %s, answer = %s"
        " WHERE credential_id = %s AND route = %s AND key_hash = %s",
        (answer.status, answer.answer, key.credential_id, key.route, key.key_hash),
    )


async def forget(tx: Writes, before: datetime, limit: int) -> int:
    """Delete at most `limit` keys older than `before`; how many went."""
    return await tx.execute(
        """
        DELETE FROM idempotency WHERE (credential_id, route, key_hash) IN (
            SELECT credential_id, route, key_hash FROM idempotency WHERE created_at < %s
            ORDER BY created_at LIMIT %s
        )
        """,
        (before, limit),
    )
