"""A login of the staff: what the browser carries on the way, and whose session it becomes.

Between leaving and coming back the browser holds a signed cookie with the state, the nonce and the
PKCE verifier: an answer is only taken from the browser that asked, once, for ten minutes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from paymaster.db import audit
from paymaster.db.cells import Environment
from paymaster.db.tx import Actor, ControlTx
from paymaster.kernel.clock import milliseconds
from paymaster.kernel.errors import Forbidden, PaymasterError, Refusal, Unauthenticated
from paymaster.people import sessions, staff
from paymaster.people import staff_store as store
from paymaster.people.sessions import Lifetimes
from paymaster.people.staff_oidc import Sent
from paymaster.people.staff_providers import Provider
from paymaster.people.staff_roles import Role
from paymaster.people.staff_store import PersonRow
from paymaster.secrets.local import HmacSigner

LOGIN_TIME = timedelta(minutes=10)
"""How long somebody may take at the provider."""

REMEMBERED = timedelta(days=1)
"""How long answers that were taken are remembered; longer than any may be taken."""

MAX_COOKIE_CHARACTERS, MAX_RETURN_CHARACTERS = 3000, 512
HOME = "/v1/me"
"""Where a login leads when nobody says so."""

_KEY, _PURPOSE = "cursor", b"paymaster staff login 1\0"
_LOCAL = re.compile(r"/(?![/\\])[!-\[\]-~]*\Z", re.ASCII)


class Carried(msgspec.Struct, frozen=True):
    """What the browser carries through a login."""

    state: str
    nonce: str
    verifier: str
    provider: int
    environment: int
    return_to: str
    begun_ms: int

    def sent(self, redirect_uri: str) -> Sent:
        """What of it the provider was told, or is told now."""
        return Sent(redirect_uri, self.state, self.nonce, self.verifier)


def new(provider: Provider, environment: Environment, return_to: str, now: datetime) -> Carried:
    """A new login. Raises Refusal `return-address`."""
    return Carried(
        secrets.token_urlsafe(32),
        secrets.token_urlsafe(32),
        secrets.token_urlsafe(48),
        provider.id,
        environment.id,
        local_path(return_to),
        milliseconds(now),
    )


def local_path(text: str) -> str:
    """A path on this host, and nothing that a browser could take for another one.

    Raises Refusal `return-address`.
    """
    if len(text) > MAX_RETURN_CHARACTERS or not _LOCAL.match(text):
        raise Refusal("return-address", "return_to is a path on this host, such as /v1/me.")
    return text


def sealed(carried: Carried, signer: HmacSigner) -> str:
    """The cookie's value."""
    payload = msgspec.json.encode(carried)
    raw = signer.sign(_KEY, _PURPOSE + payload) + payload
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def opened(cookie: str | None, state: str, signer: HmacSigner, now: datetime) -> Carried:
    """What the browser carried, if the answer with this state is for it.

    Raises Unauthenticated `login-state` when it is not, `login-expired` when it took too long.
    """
    carried = _opened(cookie or "", signer)
    if carried is None or not hmac.compare_digest(carried.state.encode(), state.encode()):
        raise Unauthenticated("login-state", "This login was not begun in this browser.")
    age = milliseconds(now) - carried.begun_ms
    if not 0 <= age < LOGIN_TIME // timedelta(milliseconds=1):
        raise Unauthenticated("login-expired", "The login took too long: begin it again.")
    return carried


def _opened(cookie: str, signer: HmacSigner) -> Carried | None:
    if not 0 < len(cookie) <= MAX_COOKIE_CHARACTERS:
        return None
    try:
        raw = base64.b64decode(cookie + "=" * (-len(cookie) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    signature, payload = raw[:32], raw[32:]
    if not signer.verify(_KEY, _PURPOSE + payload, signature):
        return None
    return msgspec.json.decode(payload, type=Carried)


async def take_once(tx: ControlTx, state: str) -> None:
    """An answer is taken once. Raises Unauthenticated `login-replayed`."""
    count = await tx.execute(
        "INSERT INTO login_used (state_hash, used_at) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        (hashlib.sha256(state.encode()).digest(), tx.now),
    )
    if not count:
        raise Unauthenticated("login-replayed", "This answer was taken before: begin again.")


async def forget(tx: ControlTx, limit: int) -> int:
    """Forget answers that are too old to be taken again; how many, `limit` at most."""
    return await tx.execute(
        """
        DELETE FROM login_used WHERE state_hash IN (
            SELECT state_hash FROM login_used WHERE used_at < %s ORDER BY used_at LIMIT %s)
        """,
        (tx.now - REMEMBERED, limit),
    )


def subject_of(issuer: str, subject: str) -> str:
    """By what failures of an account are counted: no personal data, the same for every login."""
    digest = hashlib.sha256(f"{issuer}\0{subject}".encode()).hexdigest()
    return f"account:{digest[:32]}"


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Who logged in, and what the browser shall hold."""

    person_id: int
    role: str
    cookie: str


async def finish(
    tx: ControlTx,
    environment: Environment,
    provider: Provider,
    claims: Mapping[str, Any],
    lifetimes: Lifetimes,
    before: str | None,
) -> LoggedIn:
    """Find the person of verified claims and begin a session; `before` is the browser's old one.

    Raises Forbidden `login-not-invited`, `login-email-unverified`, `person-disabled`,
    `login-other-account`.
    """
    subject = str(claims["sub"])
    number = await store.person_of_identity(tx, environment.tenant, provider.issuer, subject)
    mapped = None if provider.groups_claim is None else provider.role_of(claims)
    if provider.groups_claim is not None and mapped is None:
        raise _not_invited()
    if number is None:
        number = await _bound(tx, environment, provider, claims, mapped)
    person = await store.lock(tx, number)
    if person is None or person.state != "active":
        raise Forbidden("person-disabled", "This person is disabled: ask an admin.")
    role = await staff.role_in(tx, environment.id, number)
    if mapped is not None and mapped != role:
        await _follow_groups(tx, environment, person, role, mapped)
        role = mapped
    if role is None:
        raise _not_invited()
    await store.logged_in(tx, environment.tenant, provider.issuer, subject)
    cookie = await sessions.begin(tx, number, environment.id, lifetimes, before)
    name = staff.person_text(number)
    actor = Actor(f"person:{name}", tx.actor.origin, environment.id)
    detail = {"role": role, "provider": provider.text}
    act = audit.Act("staff.login", name, detail=detail, actor=actor)
    await audit.record(tx, [act])
    return LoggedIn(number, role, cookie)


def _not_invited() -> Forbidden:
    return Forbidden("login-not-invited", "Nobody has invited this account: ask an admin.")


async def _bound(
    tx: ControlTx,
    environment: Environment,
    provider: Provider,
    claims: Mapping[str, Any],
    mapped: Role | None,
) -> int:
    """The person whose invitation fits the verified address, who logs in so from now on."""
    email: object = claims.get("email")
    if not isinstance(email, str) or claims.get("email_verified") is not True:
        raise Forbidden(
            "login-email-unverified", "The provider does not vouch for the account's address."
        )
    try:
        address = staff.checked_email(email)
    except PaymasterError:
        raise _not_invited() from None
    if not provider.takes(address):
        raise _not_invited()
    person = await store.by_email(tx, environment.tenant, address)
    if person is None:
        if mapped is None:
            raise _not_invited()
        name: object = claims.get("name")
        shown = name if isinstance(name, str) and name.isprintable() and name else address
        reason = f"the groups of an account at {provider.issuer}"
        member = await staff.add(tx, environment, address, shown[:100], mapped, reason)
        number = member.row.id
    else:
        number = person.id
    subject = str(claims["sub"])
    if not await store.bind(tx, environment.tenant, provider.issuer, subject, number):
        raise Forbidden(
            "login-other-account",
            "The person logs in with another account there: ask an admin to unbind that one.",
        )
    act = audit.Act("staff.bind", staff.person_text(number), detail={"provider": provider.text})
    await audit.record(tx, [act])
    return number


async def _follow_groups(
    tx: ControlTx, environment: Environment, person: PersonRow, role: str | None, mapped: Role
) -> None:
    reason = "the groups at the identity provider"
    if role is None:
        await store.put_role(tx, environment.id, person.id, mapped.value)
        detail = {"role": mapped.value, "before": None}
        act = audit.Act("staff.role", staff.person_text(person.id), reason, detail)
        await audit.record(tx, [act])
    else:
        await staff.set_role(tx, environment, person.id, mapped, reason)
