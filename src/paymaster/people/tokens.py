"""Tokens of our own: of an earner, minted by the app's server, and of a server, for its key.

Both are JWTs signed by Ed25519 with the secret `user-token`, and good for minutes. Each names in
`aud` the environment that it is for and in `typ` what it is, so that neither passes for the other.
They carry nothing that is not looked up anew: a user who is suspended, or a key that is revoked,
is refused by the next request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from paymaster.db.cells import Databases, Environment
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound
from paymaster.kernel.ids import Ref, parse_text_id, text_id
from paymaster.people.oidc_token import Token, check_signature, check_times, check_type, invalid

KEY_NAME = "user-token"
"""The name of the signing key."""

ISSUER = "urn:paymaster"
"""`iss` of our own tokens. No issuer of others can be named so: theirs are addresses."""

LIFETIME = timedelta(minutes=15)
USER_TYPE, ACCESS_TYPE = "user+jwt", "at+jwt"
_ALGORITHM = "EdDSA"


class TokenSigner(Protocol):
    """Signs with a key that only it knows, and tells the public keys."""

    def sign(self, key_id: str, message: bytes) -> bytes:
        """The signature by the newest version."""
        ...

    def public_keys(self, key_id: str) -> Sequence[bytes]:
        """The raw public keys of all versions, newest first."""
        ...


@dataclass(frozen=True, slots=True)
class Minted:
    """A token and when it ends. It is shown once."""

    token: str = field(repr=False)
    expires_at: datetime

    def wire(self, user: str) -> dict[str, Any]:
        """For JSON."""
        return {"user": user, "token": self.token, "expires_at": rfc3339(self.expires_at)}


@dataclass(frozen=True, slots=True)
class UserToken:
    """What a verified token of an earner says.

    `prefix` is of the key that minted it, `scopes` are those that it was minted with.
    """

    environment: Environment
    user: Ref
    prefix: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What a verified token of a server says: on which key it stands, and for which scopes."""

    environment: Environment
    prefix: str
    scopes: frozenset[str]


def audience(environment: Environment) -> str:
    """The name of an environment in tokens."""
    return f"{ISSUER}:{environment.tenant}:{environment.mode}"


def mint_user(
    signer: TokenSigner,
    environment: Environment,
    user: Ref,
    prefix: str,
    scopes: Collection[str],
    now: datetime,
) -> Minted:
    """A token for an earner, minted for the key of this prefix by who has these scopes of it."""
    name = text_id("us", user.cell, user.id)
    claims = {"sub": name, "azp": prefix, "scope": " ".join(sorted(scopes))}
    return _mint(signer, environment, USER_TYPE, claims, now)


def mint_access(
    signer: TokenSigner,
    environment: Environment,
    prefix: str,
    scopes: Collection[str],
    now: datetime,
) -> Minted:
    """A token for the server that holds the key of this prefix (RFC 9068)."""
    claims = {"sub": prefix, "client_id": prefix, "scope": " ".join(sorted(scopes))}
    return _mint(signer, environment, ACCESS_TYPE, claims, now)


def _mint(
    signer: TokenSigner,
    environment: Environment,
    kind: str,
    claims: Mapping[str, str],
    now: datetime,
) -> Minted:
    issued = now.replace(microsecond=0)
    expires = issued + LIFETIME
    header = {"alg": _ALGORITHM, "typ": kind, "kid": key_id(signer.public_keys(KEY_NAME)[0])}
    whole = {
        "iss": ISSUER,
        "aud": audience(environment),
        **claims,
        "iat": int(issued.timestamp()),
        "exp": int(expires.timestamp()),
        "jti": secrets.token_urlsafe(12),
    }
    signed = f"{_encoded(header)}.{_encoded(whole)}"
    return Minted(f"{signed}.{_base64url(signer.sign(KEY_NAME, signed.encode()))}", expires)


def key_id(public_key: bytes) -> str:
    """The `kid` of one of our keys."""
    return _base64url(hashlib.sha256(public_key).digest()[:9])


def _encoded(part: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(part, separators=(",", ":")).encode())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def verify(
    signer: TokenSigner, dbs: Databases, token: Token, now: datetime
) -> UserToken | AccessToken:
    """What one of our tokens says. Whether its user and key are still good is for the caller.

    Raises Unauthenticated `token-invalid` or `token-expired`.
    """
    if token.issuer != ISSUER:
        raise invalid("The token is not one of ours.")
    check_type(token, (USER_TYPE, ACCESS_TYPE), needed=True)
    check_signature(token, _key(signer, token.kid), _ALGORITHM)
    check_times(token, now)
    environment = _environment(dbs, token)
    scopes = frozenset(token.text_claim("scope").split())
    if token.header["typ"] == USER_TYPE:
        user = _user(dbs, environment, token.text_claim("sub"))
        return UserToken(environment, user, token.text_claim("azp"), scopes)
    if token.header["typ"] == ACCESS_TYPE:
        return AccessToken(environment, token.text_claim("client_id"), scopes)
    raise invalid("The token is of a type that is not taken here.")


def _key(signer: TokenSigner, kid: str | None) -> Ed25519PublicKey:
    for raw in signer.public_keys(KEY_NAME):
        if key_id(raw) == kid:
            return Ed25519PublicKey.from_public_bytes(raw)
    raise invalid("The token is signed by a key that is not ours.")


def _environment(dbs: Databases, token: Token) -> Environment:
    """The environment that `aud` names: one text, no list."""
    for environment in dbs.environments():
        if token.claims["aud"] == audience(environment):
            return environment
    raise invalid("No environment takes tokens of this issuer for this audience.")


def _user(dbs: Databases, environment: Environment, text: str) -> Ref:
    with suppress(NotFound):
        found = parse_text_id("us", text)
        if dbs.environment_of(found.cell).id == environment.id:
            return found
    raise invalid("The token names no user of its environment.")
