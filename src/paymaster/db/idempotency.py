"""Callers' keys: the same key and body gets the first answer again, byte for byte.

The row is inserted in the transaction of the effect: before it (`begin`, `finish`), where a
concurrent duplicate waits on the unique key until the first has committed, then replays; or, of a
batch, with its answer after it (`look`, `keep`), where duplicates wait on a lock. Decisions are
stored; what may turn out differently next time (400, 401, 429, 503) is not, because it raises and
rolls back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

import psycopg
from psycopg import errors

from paymaster.db.tx import Asked, Writes
from paymaster.kernel.errors import Conflict, PaymasterError, Unprocessable


@dataclass(slots=True)
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

    def name(self) -> tuple[int, str, bytes]:
        """What is unique: the key without its body."""
        return self.credential_id, self.route, self.key_hash


@dataclass(slots=True)
class Answer:
    """What the first caller was told."""

    status: int
    answer: bytes
    replayed: bool = field(default=False, compare=False)
    """Whether it was read from the store, not made by this call."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What is known of a key that was used before."""

    body_hash: bytes
    status: int | None
    answer: bytes | None

    def answer_to(self, key: Key) -> Answer | Conflict | Unprocessable:
        """What a later use is told: the answer, or the refusal that it gets."""
        if self.status is None or self.answer is None:
            return Conflict("in-progress", "The first request with this key is still running.")
        if self.body_hash != key.body_hash:
            return reused()
        return Answer(self.status, self.answer, replayed=True)


_GONE = b""
"""Stands for the body of a key that was forgotten while it was looked for."""


async def claim(tx: Writes, keys: Sequence[Key]) -> list[Unprocessable | None]:
    """Note in the directory which body a key belongs to, before the cell of the effect is known.

    Two bodies under one key may name users of two cells, where neither sees the other's row. For
    each key, in order of arrival: None, or Unprocessable `idempotency-key-reused`. Raises Conflict
    `in-progress`.
    """
    firsts = {key.name(): key for key in reversed(keys)}
    found = dict(zip(firsts, await begin_many(tx, list(firsts.values())), strict=True))
    refusals: list[Unprocessable | None] = []
    for key in keys:
        before = found[key.name()]
        body_hash = firsts[key.name()].body_hash if before is None else before.body_hash
        refusals.append(None if body_hash in (key.body_hash, _GONE) else reused())
    return refusals


async def _insert(tx: Writes, keys: Sequence[Key]) -> set[tuple[int, str, bytes]]:
    """Those of the keys that are new."""
    # Always in the same order, so that two transactions with the same keys do not deadlock.
    ordered = sorted(keys, key=Key.name)
    try:
        created = await tx.tuples(
            """
            INSERT INTO idempotency (credential_id, route, key_hash, body_hash, created_at)
            SELECT c, r, k, b, %s
            FROM unnest(%s::bigint[], %s::text[], %s::bytea[], %s::bytea[]) AS u (c, r, k, b)
            ON CONFLICT (credential_id, route, key_hash) DO NOTHING
            RETURNING credential_id, route, key_hash
            """,
            (
                tx.now,
                [key.credential_id for key in ordered],
                [key.route for key in ordered],
                [key.key_hash for key in ordered],
                [key.body_hash for key in ordered],
            ),
        )
    except errors.LockNotAvailable:
        raise Conflict("in-progress", "The first request with this key is still running.") from None
    return {(row[0], row[1], bytes(row[2])) for row in created}


async def begin(tx: Writes, key: Key) -> Answer | None:
    """None when this is the first use; otherwise the stored answer.

    Raises Unprocessable `idempotency-key-reused` for another body, Conflict `in-progress` when the
    first is still running after the lock timeout.
    """
    [stored] = await begin_many(tx, [key])
    if stored is None:
        return None
    told = stored.answer_to(key)
    if isinstance(told, PaymasterError):
        raise told
    return told


async def finish(tx: Writes, key: Key, answer: Answer) -> None:
    """Store the answer with the effect."""
    await finish_many(tx, [(key, answer)])


async def begin_many(tx: Writes, keys: Sequence[Key]) -> list[Stored | None]:
    """For each key None when this is its first use, otherwise what is known of it.

    No two of the keys are the same, whatever their bodies. Raises Conflict `in-progress` when one
    of them is in use by a transaction that does not end within the lock timeout.
    """
    fresh = await _insert(tx, keys)
    if len(fresh) == len(keys):
        return [None] * len(keys)
    used = await _stored(tx, [key for key in keys if key.name() not in fresh])
    gone = Stored(_GONE, None, None)
    return [None if key.name() in fresh else used.get(key.name(), gone) for key in keys]


@dataclass(frozen=True, slots=True)
class Look:
    """Keys that were asked for; no other transaction uses them until this one has ended."""

    _keys: Sequence[Key]
    _answer: Asked

    async def stored(self) -> list[Stored | None]:
        """For each key None when this is its first use, otherwise what is known of it.

        Raises Conflict `in-progress` when one of them was in use for too long.
        """
        rows = await self._answer.rows()
        known = {(row[0], row[1], bytes(row[2])): Stored(*row[3:]) for row in rows}
        return [known.get(key.name()) for key in self._keys]


async def look(tx: Writes, keys: Sequence[Key]) -> Look:
    """Wait until nobody else uses these keys, then read what is known of them.

    No two of them are the same. Whoever uses this stores the answers with `keep`. The wait is on
    locks of their own, taken in one order, so that two transactions do not deadlock.
    """
    await tx.ask(
        "SELECT count(pg_advisory_xact_lock(k)) FROM unnest(%s::bigint[]) AS k",
        (sorted([_lock_of(key) for key in keys]),),
        _in_progress,
    )
    return Look(keys, await _ask_stored(tx, keys))


def _lock_of(key: Key) -> int:
    """64 bits; should two keys ever share them, one waits for the other."""
    number = int.from_bytes(key.key_hash[:8], signed=True)
    return number ^ key.credential_id ^ _route_bits(key.route)


@lru_cache(maxsize=64)
def _route_bits(route: str) -> int:
    return int.from_bytes(hashlib.sha256(route.encode()).digest()[:7])


def _in_progress(error: psycopg.Error) -> Exception | None:
    if isinstance(error, errors.LockNotAvailable):
        return Conflict("in-progress", "The first request with this key is still running.")
    return None


async def keep(tx: Writes, answers: Sequence[tuple[Key, Answer]]) -> None:
    """Store answers under keys that `look` found to be new."""
    await tx.send(
        """
        INSERT INTO idempotency (credential_id, route, key_hash, body_hash, status, answer,
            created_at)
        SELECT c, r, k, b, s, a, %s
        FROM unnest(%s::bigint[], %s::text[], %s::bytea[], %s::bytea[], %s::smallint[],
            %s::bytea[]) AS u (c, r, k, b, s, a)
        """,
        (
            tx.now,
            [key.credential_id for key, _ in answers],
            [key.route for key, _ in answers],
            [key.key_hash for key, _ in answers],
            [key.body_hash for key, _ in answers],
            [answer.status for _, answer in answers],
            [answer.answer for _, answer in answers],
        ),
    )


async def _stored(tx: Writes, keys: Sequence[Key]) -> dict[tuple[int, str, bytes], Stored]:
    rows = await (await _ask_stored(tx, keys)).rows()
    return {(row[0], row[1], bytes(row[2])): Stored(*row[3:]) for row in rows}


async def _ask_stored(tx: Writes, keys: Sequence[Key]) -> Asked:
    # Each by itself: as a join it was planned, while the table was small, as a walk through it all.
    return await tx.ask(
        """
        SELECT u.c, u.r, u.k, i.body_hash, i.status, i.answer
        FROM unnest(%s::bigint[], %s::text[], %s::bytea[]) AS u (c, r, k)
            CROSS JOIN LATERAL (
                SELECT o.body_hash, o.status, o.answer FROM idempotency o
                WHERE o.credential_id = u.c AND o.route = u.r AND o.key_hash = u.k LIMIT 1
            ) AS i
        """,
        (
            [key.credential_id for key in keys],
            [key.route for key in keys],
            [key.key_hash for key in keys],
        ),
    )


def reused() -> Unprocessable:
    """The refusal of a key that came with another body before."""
    return Unprocessable(
        "idempotency-key-reused",
        "This Idempotency-Key was used with another body; take a new key.",
    )


async def finish_many(tx: Writes, answers: Sequence[tuple[Key, Answer]]) -> None:
    """Store answers with their effects."""
    await tx.execute(
        """
        UPDATE idempotency i SET status = u.s, answer = u.a
        FROM unnest(%s::bigint[], %s::text[], %s::bytea[], %s::smallint[], %s::bytea[])
            AS u (c, r, k, s, a)
        WHERE i.credential_id = u.c AND i.route = u.r AND i.key_hash = u.k
        """,
        (
            [key.credential_id for key, _ in answers],
            [key.route for key, _ in answers],
            [key.key_hash for key, _ in answers],
            [answer.status for _, answer in answers],
            [answer.answer for _, answer in answers],
        ),
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
