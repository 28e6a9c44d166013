"""Sessions of the staff: what a browser holds after a login.

The browser holds 256 random bits, the database their SHA-256. A session ends when it was not used
for a while, after a fixed time however much it was used, at a logout, and at once when its person
is disabled or loses the role. The CSRF token is derived from the same bits, so that it needs no
store and is good for this session only.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from paymaster.db.cells import Databases
from paymaster.db.tx import Actor, ControlRead, ControlTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound, Unauthenticated
from paymaster.kernel.ids import new_trace_id, parse_text_id, text_id
from paymaster.people.principal import Principal
from paymaster.people.staff_roles import scopes_of

BYTES = 32
"""Random bytes of a session's id."""

KEPT = timedelta(days=30)
"""How long after its end a session can be looked up by operators."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}\Z", re.ASCII)
_CSRF = b"paymaster csrf 1"
_TOUCH = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long a session lives without use, and in all."""

    idle: timedelta
    absolute: timedelta


@dataclass(frozen=True, slots=True)
class Session:
    """A session without its secret."""

    id: int
    person_id: int
    environment_id: int
    origin: str | None
    started_at: datetime
    used_at: datetime
    expires_at: datetime

    def wire(self, *, current: bool) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": text_id("ss", 0, self.id),
            "origin": self.origin,
            "started_at": rfc3339(self.started_at),
            "used_at": rfc3339(self.used_at),
            "expires_at": rfc3339(self.expires_at),
            "current": current,
        }


@dataclass(frozen=True, slots=True)
class Resolved:
    """Whose session it is, and by which roles the person may do things now."""

    principal: Principal
    session: Session
    role: str
    lent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    id: int
    person_id: int
    environment_id: int
    origin: str | None
    started_at: datetime
    used_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    state: str
    role: str | None
    lent: list[str]


def session_number(text: str) -> int:
    """The id of a session. Raises NotFound `not-found`."""
    found = parse_text_id("ss", text)
    if found.cell != 0:
        raise NotFound("not-found", "There is nothing of this id.")
    return found.id


def csrf_token(cookie: str) -> str:
    """What a page sends back with every act of this session."""
    digest = hmac.digest(cookie.encode(), _CSRF, hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def csrf_fits(cookie: str, token: str) -> bool:
    """Whether the token is this session's."""
    return hmac.compare_digest(csrf_token(cookie).encode(), token.encode())


def _hash(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()


async def begin(
    tx: ControlTx,
    person_id: int,
    environment_id: int,
    lifetimes: Lifetimes,
    before: str | None = None,
) -> str:
    """Begin a session; what the browser shall hold. The one it held `before` ends."""
    if before is not None:
        await end(tx, before, "replaced")
    cookie = secrets.token_urlsafe(BYTES)
    await tx.execute(
        "INSERT INTO staff_session (id, hash, person_id, environment_id, origin, started_at,"
        " used_at, expires_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        (
            tx.id(),
            _hash(cookie),
            person_id,
            environment_id,
            tx.actor.origin,
            tx.now,
            tx.now,
            tx.now + lifetimes.absolute,
        ),
    )
    return cookie


async def resolve(dbs: Databases, cookie: str, lifetimes: Lifetimes) -> Resolved:
    """Whose session this is. Notes its use, at most once a minute.

    Nothing is cached: a role that is taken away is gone with the next request. Raises
    Unauthenticated `session-invalid`, `session-expired`, `session-ended`.
    """
    if not _TOKEN.match(cookie):
        raise Unauthenticated("session-invalid", "This is no session: log in.")
    found, now = await dbs.control.read(lambda tx: _find(tx, cookie))
    resolved = _judged(found, now, lifetimes)
    if now - resolved.session.used_at >= min(_TOUCH, lifetimes.idle / 4):
        number = resolved.session.id

        async def touch(tx: ControlTx) -> None:
            await tx.execute(
                "UPDATE staff_session SET used_at = %s WHERE id = %s AND used_at < %s",
                (now, number, now),
            )

        await dbs.control.run(Actor(resolved.principal.actor), new_trace_id(), touch)
    return resolved


async def _find(tx: ControlRead, cookie: str) -> tuple[_Row | None, datetime]:
    row = await tx.maybe(
        """
        SELECT s.id, s.person_id, s.environment_id, s.origin, s.started_at, s.used_at,
            s.expires_at, s.ended_at, p.state, r.role,
            ARRAY(SELECT b.role FROM break_glass b WHERE b.person_id = s.person_id
                AND b.environment_id = s.environment_id AND b.ended_at IS NULL
                AND b.started_at <= %(now)s AND b.ends_at > %(now)s) AS lent
        FROM staff_session s JOIN person p ON p.id = s.person_id
            LEFT JOIN person_role r
                ON r.person_id = s.person_id AND r.environment_id = s.environment_id
        WHERE s.hash = %(hash)s
        """,
        {"hash": _hash(cookie), "now": tx.now},
        _Row,
    )
    return row, tx.now


def _judged(row: _Row | None, now: datetime, lifetimes: Lifetimes) -> Resolved:
    if row is None:
        raise Unauthenticated("session-invalid", "This is no session: log in.")
    if row.ended_at is not None or row.state != "active" or row.role is None:
        raise Unauthenticated("session-ended", "The session was ended: log in again.")
    if now >= row.expires_at or now >= row.used_at + lifetimes.idle:
        raise Unauthenticated("session-expired", "The session is over: log in again.")
    session = Session(
        row.id,
        row.person_id,
        row.environment_id,
        row.origin,
        row.started_at,
        row.used_at,
        row.expires_at,
    )
    principal = Principal(
        "staff",
        row.environment_id,
        row.person_id,
        f"person:{text_id('pe', 0, row.person_id)}",
        scopes_of(row.role, row.lent),
        row.person_id,
    )
    return Resolved(principal, session, row.role, tuple(row.lent))


async def end(tx: ControlTx, cookie: str, why: str) -> bool:
    """End a session; False when there was none."""
    count = await tx.execute(
        "UPDATE staff_session SET ended_at = %s, ended_why = %s"
        " WHERE hash = %s AND ended_at IS NULL",
        (tx.now, why, _hash(cookie)),
    )
    return count == 1


async def end_one(tx: ControlTx, person_id: int, session_id: int, why: str) -> None:
    """End one of a person's sessions. Raises NotFound `not-found`."""
    count = await tx.execute(
        "UPDATE staff_session SET ended_at = %s, ended_why = %s"
        " WHERE id = %s AND person_id = %s AND ended_at IS NULL",
        (tx.now, why, session_id, person_id),
    )
    if not count:
        raise NotFound("not-found", "There is nothing of this id.")


async def end_all(
    tx: ControlTx, person_id: int, why: str, environment_id: int | None = None
) -> int:
    """End all sessions of a person, in one environment or everywhere; how many."""
    return await tx.execute(
        "UPDATE staff_session SET ended_at = %s, ended_why = %s WHERE person_id = %s"
        " AND ended_at IS NULL AND (%s::bigint IS NULL OR environment_id = %s)",
        (tx.now, why, person_id, environment_id, environment_id),
    )


async def listing(tx: ControlRead, person_id: int, lifetimes: Lifetimes) -> list[Session]:
    """A person's open sessions in all environments, the last used first."""
    return await tx.fetch(
        "SELECT id, person_id, environment_id, origin, started_at, used_at, expires_at"
        " FROM staff_session WHERE person_id = %s AND ended_at IS NULL AND expires_at > %s"
        " AND used_at > %s ORDER BY used_at DESC, id DESC LIMIT 100",
        (person_id, tx.now, tx.now - lifetimes.idle),
        Session,
    )


async def forget(tx: ControlTx, limit: int) -> int:
    """Delete sessions that ended long ago; how many went, `limit` at most."""
    return await tx.execute(
        """
        DELETE FROM staff_session WHERE id IN (
            SELECT id FROM staff_session WHERE expires_at < %s ORDER BY expires_at LIMIT %s)
        """,
        (tx.now - KEPT, limit),
    )
