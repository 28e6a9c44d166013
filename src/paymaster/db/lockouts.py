"""Who guessed wrong too often and must wait: keys, logins, one-time codes.

A row counts the failures of one kind against one subject (a key's prefix, a person, a user), where
it matters apart for each address they came from. `limit` failures within `window` lock it: for the
window the first time, twice as long each time after that, a day at most. Who locks out another by
failing in their name has won something too: count what is public (a key's prefix) per address.

    before the check    `locked`, or `attempt` where guesses may come side by side
    it was wrong        `failed`
    it was right        `succeeded`, never for an address alone: the guesser has an account as well
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from paymaster.db import audit, outbox
from paymaster.db.tx import Actor, ControlRead, ControlTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound
from paymaster.observe import get_logger
from paymaster.observe.metrics import LOCKOUTS

log = get_logger("paymaster.security")

LONGEST = timedelta(days=1)
"""No lock lasts longer."""

REMEMBERED = timedelta(days=7)
"""After this time without a failure a row is forgotten, and with it how often it was locked."""

TOPIC = "security.locked_out"
"""Topic of the event and action of the audit; of an alarm without a lock it is `ALARM`."""

ALARM = "security.guessing"

_DOUBLINGS = 20


@dataclass(frozen=True, slots=True)
class Lockout:
    """A row: `address` is '' where failures are counted from wherever they come."""

    kind: str
    subject: str
    address: str
    failures: int
    failed_at: datetime
    locks: int
    locked_until: datetime | None


@dataclass(frozen=True, slots=True)
class _Counted:
    failures: int
    locks: int
    locked_until: datetime | None


async def locked(tx: ControlRead, kind: str, subject: str, *, address: str = "") -> datetime | None:
    """Until when this is locked; None when it is not."""
    return await tx.value(
        "SELECT locked_until FROM lockout WHERE kind = %s AND subject = %s AND address = %s"
        " AND locked_until > %s",
        (kind, subject, address, tx.now),
    )


async def failed(
    tx: ControlTx,
    kind: str,
    subject: str,
    *,
    limit: int,
    window: timedelta,
    address: str = "",
    count: int = 1,
) -> datetime | None:
    """Count a wrong guess; until when it is locked now, None while it is not.

    Commit this transaction although the request is refused. `subject` is an id, never personal
    data: it goes into the audit trail and the event. Failures while it is locked change nothing.
    """
    counted = await _count(tx, kind, subject, address, count, limit, window)
    if counted is None:
        return await locked(tx, kind, subject, address=address)
    if counted.locked_until is not None:
        log.warning("locked_out", kind=kind, subject=subject, times=counted.locks)
        LOCKOUTS.labels(kind).inc()
        await _tell(tx, TOPIC, kind, subject, address, counted)
    return counted.locked_until


async def attempt(
    tx: ControlTx,
    kind: str,
    subject: str,
    *,
    limit: int,
    window: timedelta,
    address: str = "",
) -> datetime | None:
    """Count a guess before it is checked; None if it may be checked, else until when not.

    For short secrets: guesses that come side by side cannot be more than `limit`, because each is
    counted before its check. The one after them locks. Commit before you check, and call
    `succeeded` when it was right.
    """
    return await failed(tx, kind, subject, limit=limit + 1, window=window, address=address)


async def alarmed(
    tx: ControlTx, kind: str, subject: str, *, limit: int, window: timedelta, count: int = 1
) -> None:
    """Count wrong guesses from wherever they come, and only raise an alarm: nobody is locked out.

    Tells as `failed` does, as `security.guessing`; again after a time that grows in the same way.
    """
    name = f"{kind}-alarm"
    counted = await _count(tx, name, subject, "", count, limit, window)
    if counted is not None and counted.locked_until is not None:
        log.warning("guessing", kind=kind, subject=subject, times=counted.locks)
        LOCKOUTS.labels(name).inc()
        await _tell(tx, ALARM, kind, subject, "", counted)


async def succeeded(tx: ControlTx, kind: str, subject: str, *, address: str = "") -> None:
    """Forget the failures: the right one was there. How often it was locked stays for a week."""
    await tx.execute(
        "UPDATE lockout SET failures = 0, locked_until = NULL"
        " WHERE kind = %s AND subject = %s AND address = %s"
        " AND (failures > 0 OR locked_until IS NOT NULL)",
        (kind, subject, address),
    )


async def clear(tx: ControlTx, kind: str, subject: str, reason: str, *, address: str = "") -> None:
    """Unlock by hand and forget all failures. Raises NotFound `lockout-unknown`."""
    gone = await tx.execute(
        "DELETE FROM lockout WHERE kind = %s AND subject = %s AND address = %s",
        (kind, subject, address),
    )
    if not gone:
        raise NotFound("lockout-unknown", f"Nothing is counted against {kind} {subject!r}.")
    origin = address or tx.actor.origin
    act = audit.Act(
        "security.unlock", f"{kind}:{subject}", reason, actor=Actor(tx.actor.name, origin)
    )
    await audit.record(tx, [act])


async def listing(tx: ControlRead, *, only_locked: bool = True) -> list[Lockout]:
    """What is locked, or all that is counted; the last failure first, 1000 at most."""
    return await tx.fetch(
        "SELECT kind, subject, address, failures, failed_at, locks, locked_until FROM lockout"
        " WHERE NOT %s OR locked_until > %s ORDER BY failed_at DESC, kind, subject, address"
        " LIMIT 1000",
        (only_locked, tx.now),
        Lockout,
    )


async def locks_of(tx: ControlRead, kind: str, limit: int) -> dict[tuple[str, str], datetime]:
    """What is locked of one kind: (subject, address) to the time until when."""
    rows = await tx.tuples(
        "SELECT subject, address, locked_until FROM lockout WHERE kind = %s AND locked_until > %s"
        " ORDER BY locked_until DESC LIMIT %s",
        (kind, tx.now, limit),
    )
    return {(subject, address): until for subject, address, until in rows}


async def known_keys(tx: ControlRead, prefixes: Collection[str]) -> set[str]:
    """Those prefixes that belong to a key."""
    if not prefixes:
        return set()
    rows = await tx.tuples(
        "SELECT prefix FROM credential WHERE prefix = ANY(%s)", (sorted(prefixes),)
    )
    return {prefix for (prefix,) in rows}


async def sweep(tx: ControlTx, limit: int) -> int:
    """Forget what nobody failed at for `REMEMBERED`; how many rows went, `limit` at most."""
    return await tx.execute(
        """
        DELETE FROM lockout WHERE (kind, subject, address) IN (
            SELECT kind, subject, address FROM lockout WHERE failed_at < %s
            ORDER BY failed_at LIMIT %s)
        """,
        (tx.now - REMEMBERED, limit),
    )


async def _count(
    tx: ControlTx,
    kind: str,
    subject: str,
    address: str,
    count: int,
    limit: int,
    window: timedelta,
) -> _Counted | None:
    """One statement: whether it locks is decided under the row's lock. None: it was locked."""
    return await tx.maybe(
        """
        INSERT INTO lockout AS l (kind, subject, address, failures, counted_from, failed_at,
            locks, locked_until)
        SELECT %(kind)s, %(subject)s, %(address)s, CASE WHEN many THEN 0 ELSE %(count)s END,
            %(now)s, %(now)s, CASE WHEN many THEN 1 ELSE 0 END,
            CASE WHEN many
                THEN %(now)s::timestamptz + least(%(window)s::interval, %(longest)s::interval) END
        FROM (SELECT %(count)s::int >= %(limit)s::int) AS first (many)
        ON CONFLICT (kind, subject, address) DO UPDATE SET
            (failures, counted_from, failed_at, locks, locked_until) = (
                SELECT CASE WHEN n >= %(limit)s::int THEN 0 ELSE n END, since, %(now)s,
                    l.locks + CASE WHEN n >= %(limit)s::int THEN 1 ELSE 0 END,
                    CASE WHEN n >= %(limit)s::int THEN %(now)s::timestamptz + least(
                        %(longest)s::interval,
                        %(window)s::interval * (1 << least(l.locks, %(doublings)s::int))) END
                FROM (SELECT CASE WHEN over THEN 0 ELSE l.failures END + %(count)s::int,
                        CASE WHEN over THEN %(now)s::timestamptz ELSE l.counted_from END
                    FROM (SELECT l.failures = 0
                        OR l.counted_from + %(window)s::interval <= %(now)s) AS old (over)
                ) AS counted (n, since)
            )
        WHERE l.locked_until IS NULL OR l.locked_until <= %(now)s
        RETURNING failures, locks, locked_until
        """,
        {
            "kind": kind,
            "subject": subject,
            "address": address,
            "count": count,
            "limit": limit,
            "window": window,
            "longest": LONGEST,
            "doublings": _DOUBLINGS,
            "now": tx.now,
        },
        _Counted,
    )


async def _tell(
    tx: ControlTx, topic: str, kind: str, subject: str, address: str, counted: _Counted
) -> None:
    """Audit and event. The address stands only where addresses stand: at the act's origin."""
    told = {
        "kind": kind,
        "subject": subject,
        "times": counted.locks,
        "until": None if counted.locked_until is None else rfc3339(counted.locked_until),
    }
    actor = Actor(tx.actor.name, address or tx.actor.origin)
    name = f"{kind}:{subject}"
    await audit.record(tx, [audit.Act(topic, name, detail=told, actor=actor)])
    await outbox.put(tx, [outbox.Message(topic, name, told)])
