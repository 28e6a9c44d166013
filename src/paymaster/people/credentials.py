"""API keys of the app's servers: `pk_test_1a2b3c4d_<secret>`.

Only the SHA-256 of the secret is stored. It has 256 random bits, so a slow hash would protect
nothing. The part before the last underscore is public: it names the key in audit and logs.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from paymaster.db import audit
from paymaster.db.cells import Databases
from paymaster.db.tx import Actor, ControlRead, ControlTx
from paymaster.kernel.errors import (
    Broken,
    Forbidden,
    NotFound,
    Problem,
    Refusal,
    Unauthenticated,
    Unprocessable,
)
from paymaster.kernel.ids import Ref, text_id
from paymaster.people.factors import policy
from paymaster.people.factors.policy import Policy
from paymaster.people.principal import Principal
from paymaster.people.scopes import SCOPES
from paymaster.people.views import CredentialView

_PREFIX = re.compile(r"pk_(?:test|live)_[0-9a-f]{8}\Z", re.ASCII)
_KEY = re.compile(r"(pk_(?:test|live)_[0-9a-f]{8})_([A-Za-z0-9_-]{43})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credential:
    """A verified key."""

    id: int
    environment_id: int
    name: str
    prefix: str
    scopes: frozenset[str]
    last_used_on: date | None = field(default=None, compare=False)
    person_id: int | None = None

    @property
    def actor(self) -> str:
        """Names the key as an actor."""
        return f"key:{self.prefix}"

    @property
    def principal(self) -> Principal:
        """The server that holds this key."""
        return Principal(
            "server", self.environment_id, self.id, self.actor, self.scopes, self.person_id
        )

    def narrowed(self, scopes: frozenset[str]) -> Principal:
        """The same server with a token for some of the key's scopes."""
        return replace(self.principal, scopes=self.scopes & scopes)


@dataclass(frozen=True, slots=True)
class Issued:
    """A new key. `key` is shown once and cannot be had again."""

    view: CredentialView
    key: str = field(repr=False)


_COLUMNS = (
    "id, environment_id, prefix, secret_hash, name, scopes, created_at, expires_at, revoked_at,"
    " last_used_on, person_id"
)


@dataclass(frozen=True, slots=True)
class _Row:
    id: int
    environment_id: int
    prefix: str
    secret_hash: bytes
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_on: date | None
    person_id: int | None = None

    def view(self) -> CredentialView:
        return CredentialView(
            self.id,
            self.environment_id,
            self.prefix,
            self.name,
            tuple(self.scopes),
            self.created_at,
            self.expires_at,
            self.revoked_at,
            self.last_used_on,
            self.person_id,
        )


async def issue(
    tx: ControlTx,
    environment_id: int,
    name: str,
    scopes: Sequence[str],
    expires_at: datetime | None = None,
    person_id: int | None = None,
) -> Issued:
    """Make a key, of a person where one owns it. Raises Unprocessable `credential-invalid`."""
    problems = [
        Problem(f"/scopes/{index}", f"Scopes are: {', '.join(SCOPES)}.")
        for index, scope in enumerate(scopes)
        if scope not in SCOPES
    ]
    if not scopes:
        problems.append(Problem("/scopes", "Name at least one scope."))
    if not 1 <= len(name) <= 100 or not name.isprintable():
        problems.append(Problem("/name", "Write 1 to 100 printable characters."))
    if expires_at is not None and expires_at <= tx.now:
        problems.append(Problem("/expires_at", "Choose a moment in the future."))
    if problems:
        raise Unprocessable("credential-invalid", "No such key can be made.", problems=problems)
    mode = await tx.value("SELECT mode FROM environment WHERE id = %s", (environment_id,))
    if mode is None:
        raise Broken("environment-unknown", f"No environment {environment_id}.")
    prefix = f"pk_{mode}_{secrets.token_hex(4)}"
    secret = secrets.token_urlsafe(32)
    row = _Row(
        tx.id(),
        environment_id,
        prefix,
        _hash(secret),
        name,
        sorted(set(scopes)),
        tx.now,
        expires_at,
        None,
        None,
        person_id,
    )
    await tx.execute(
        "INSERT INTO credential (id, environment_id, prefix, secret_hash, name, scopes,"
        " created_at, expires_at, person_id) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            row.id,
            environment_id,
            prefix,
            row.secret_hash,
            name,
            row.scopes,
            tx.now,
            expires_at,
            person_id,
        ),
    )
    detail: dict[str, Any] = {"scopes": row.scopes, "name": name}
    if person_id is not None:
        detail["owner"] = text_id("pe", 0, person_id)
    await audit.record(tx, [audit.Act("credential.issue", prefix, detail=detail)])
    return Issued(row.view(), f"{prefix}_{secret}")


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


async def verify(dbs: Databases, key: str) -> Credential:
    """Who this key is. Notes its use, at most once a day.

    Raises Unauthenticated `credential-invalid` (unknown or mistyped), `credential-expired` or
    `credential-revoked`.
    """
    [found] = await dbs.control.read(lambda tx: verified(tx, [key]))
    if isinstance(found, Unauthenticated):
        raise found
    await note_use(dbs, found)
    return found


async def verified(tx: ControlRead, keys: Sequence[str]) -> list[Credential | Unauthenticated]:
    """For each key who it is, or the refusal; see `verify`."""
    parts = [_KEY.match(key) for key in keys]
    rows = await tx.fetch(
        f"SELECT {_COLUMNS} FROM credential WHERE prefix = ANY(%s)",
        (sorted({match[1] for match in parts if match is not None}),),
        _Row,
    )
    known = {row.prefix: row for row in rows}
    return [
        _judged(None if match is None else known.get(match[1]), match, tx.now) for match in parts
    ]


def _judged(
    row: _Row | None, match: re.Match[str] | None, now: datetime
) -> Credential | Unauthenticated:
    if row is None or match is None or not hmac.compare_digest(row.secret_hash, _hash(match[2])):
        return Unauthenticated("credential-invalid", "This is not a valid API key.")
    return _good(row, now)


def _good(row: _Row, now: datetime) -> Credential | Unauthenticated:
    if row.revoked_at is not None:
        return Unauthenticated("credential-revoked", "This API key was revoked.")
    if row.expires_at is not None and row.expires_at <= now:
        return Unauthenticated("credential-expired", "This API key has expired.")
    return Credential(
        row.id,
        row.environment_id,
        row.name,
        row.prefix,
        frozenset(row.scopes),
        row.last_used_on,
        row.person_id,
    )


async def by_prefix(
    tx: ControlRead, prefix: str, *, expired: bool = False
) -> Credential | Unauthenticated:
    """The key that a token of ours stands on, or why it is good for nothing any more.

    With `expired` a key whose time is over will do.
    """
    row = await tx.maybe(f"SELECT {_COLUMNS} FROM credential WHERE prefix = %s", (prefix,), _Row)
    if row is None:
        return Unauthenticated("credential-invalid", "This is not a valid API key.")
    return _good(row, datetime.min.replace(tzinfo=UTC) if expired else tx.now)


@dataclass(frozen=True, slots=True)
class Caller:
    """A verified key, and where the users named with it live; unknown ones are missing.

    `rules_version` is that of its environment's rule set in force, None where there never was one,
    `plans_revision` that of its fee plans; `steps` says which withdrawals need a second factor.
    """

    credential: Credential
    refs: Mapping[str, Ref]
    rules_version: int | None
    steps: Policy = policy.NONE
    plans_revision: int | None = None


async def callers(
    tx: ControlRead, named: Mapping[str, Collection[str]]
) -> dict[str, Caller | Unauthenticated]:
    """Who each key is, or the refusal (see `verify`), and the users named with it, at one look."""
    parts = {key: _KEY.match(key) for key in named}
    asked = [(at[1], name) for key, at in parts.items() if at for name in sorted(named[key])]
    rows = await tx.only(
        """
        SELECT c.id, c.environment_id, c.prefix, c.secret_hash, c.name, c.scopes, c.created_at,
            c.expires_at, c.revoked_at, c.last_used_on, c.person_id, n.names, n.cells, n.users,
            (SELECT max(r.version) FROM rule_set r WHERE r.environment_id = c.environment_id),
            (SELECT jsonb_agg(jsonb_build_array(p.purpose, p.currency, p.above_minor, p.applies_to))
                FROM step_up_policy p
                WHERE p.environment_id = c.environment_id AND p.purpose = 'withdrawal'),
            (SELECT max(f.revision) FROM fee_plan f WHERE f.environment_id = c.environment_id)
        FROM credential c CROSS JOIN LATERAL (
            SELECT array_agg(d.external_id), array_agg(d.cell), array_agg(d.user_id)
            FROM unnest(%s::text[], %s::text[]) AS u (prefix, name)
                JOIN directory d
                    ON d.environment_id = c.environment_id AND d.external_id = u.name
            WHERE u.prefix = c.prefix
        ) AS n (names, cells, users)
        WHERE c.prefix = ANY(%s)
        """,
        (
            [prefix for prefix, _ in asked],
            [name for _, name in asked],
            sorted({match[1] for match in parts.values() if match}),
        ),
    )
    known = {row[2]: (_Row(*row[:11]), row[11:]) for row in rows}
    found: dict[str, Caller | Unauthenticated] = {}
    for key, match in parts.items():
        row, (names, cells, users, version, steps, plans) = known.get(
            match[1] if match else "", _NOBODY
        )
        judged = _judged(row, match, tx.now)
        if isinstance(judged, Credential):
            refs = zip(names or (), map(Ref, cells or (), users or ()), strict=True)
            judged = Caller(judged, dict(refs), version, policy.read(steps), plans)
        found[key] = judged
    return found


_NOBODY: tuple[_Row | None, tuple[Any, ...]] = (None, (None,) * 6)


async def note_use(dbs: Databases, credential: Credential) -> None:
    """Note that a key was used today, unless that is known."""
    today = dbs.clock.now().date()
    if credential.last_used_on is not None and credential.last_used_on >= today:
        return

    async def touch(tx: ControlTx) -> int:
        return await tx.execute(
            "UPDATE credential SET last_used_on = %s WHERE id = %s"
            " AND (last_used_on IS NULL OR last_used_on < %s)",
            (today, credential.id, today),
        )

    await dbs.control.run(Actor(credential.actor), "", touch)


async def revoke(tx: ControlTx, environment_id: int, prefix: str, reason: str) -> CredentialView:
    """Stop a key at once; a revoked one stays as it is. Raises NotFound `credential-unknown`."""
    row = await _lock(tx, environment_id, prefix)
    if row.revoked_at is None:
        await tx.execute("UPDATE credential SET revoked_at = %s WHERE id = %s", (tx.now, row.id))
        await audit.record(tx, [audit.Act("credential.revoke", prefix, reason)])
        row = await _lock(tx, environment_id, prefix)
    return row.view()


async def rotate(tx: ControlTx, environment_id: int, prefix: str, overlap: timedelta) -> Issued:
    """A new key with the same name, scopes and owner; the old one stops working after `overlap`.

    The new key expires when the old one would have. Raises NotFound `credential-unknown`,
    Unprocessable `credential-revoked` or `credential-expired`, Refusal `overlap-negative`.
    """
    if overlap < timedelta(0):
        raise Refusal("overlap-negative", "The overlap is a duration from zero on.")
    row = await _lock(tx, environment_id, prefix)
    if row.revoked_at is not None:
        raise Unprocessable("credential-revoked", "A revoked key cannot be rotated.")
    if row.expires_at is not None and row.expires_at <= tx.now:
        raise Unprocessable("credential-expired", "An expired key cannot be rotated.")
    issued = await issue(tx, environment_id, row.name, row.scopes, row.expires_at, row.person_id)
    ends = tx.now + overlap
    if row.expires_at is not None:
        ends = min(ends, row.expires_at)
    await tx.execute("UPDATE credential SET expires_at = %s WHERE id = %s", (ends, row.id))
    await audit.record(
        tx, [audit.Act("credential.rotate", prefix, detail={"successor": issued.view.prefix})]
    )
    return issued


async def _lock(tx: ControlTx, environment_id: int, prefix: str) -> _Row:
    row = await tx.maybe(
        f"SELECT {_COLUMNS} FROM credential WHERE environment_id = %s AND prefix = %s FOR UPDATE",
        (environment_id, prefix),
        _Row,
    )
    if row is None:
        raise NotFound("credential-unknown", "There is no key of this prefix.")
    return row


async def listing(tx: ControlRead, environment_id: int) -> list[CredentialView]:
    """All keys of an environment, oldest first."""
    rows = await tx.fetch(
        f"SELECT {_COLUMNS} FROM credential WHERE environment_id = %s ORDER BY id",
        (environment_id,),
        _Row,
    )
    return [row.view() for row in rows]


def is_prefix(text: str) -> bool:
    """Whether a text has the form of a key's visible part."""
    return _PREFIX.match(text) is not None


def check_owner(view: CredentialView, principal: Principal) -> None:
    """Raises Forbidden `key-of-another`: with a person's key its holder acts as that person."""
    if view.person_id not in (None, principal.person_id):
        raise Forbidden("key-of-another", "This key belongs to another person.")
