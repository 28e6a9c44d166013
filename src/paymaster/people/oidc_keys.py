"""The keys of issuers: found by OpenID Connect Discovery 1.0, kept for a while, renewed in time.

A token signed by a key that is not known yet makes us look again, so that issuers rotate their keys
without telling us. How often that happens has a limit: made-up key ids must not make us hammer
anybody. When an issuer cannot be reached, the keys it had last are good for a while longer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import Busy, RailError
from paymaster.observe import get_logger
from paymaster.people.oidc_token import PublicKey, invalid
from paymaster.rails.http import call

FRESH_SECONDS = 300.0
"""Keys are used this long without asking again; a key that its issuer withdrew is then refused."""

STALE_SECONDS = 6 * 3600.0
"""Keys of an issuer that cannot be reached are used this long after they were read."""

LOOKS, LOOK_SECONDS = 3, 20.0
"""At most this many looks at once, and one more each so many seconds: for one issuer."""

FETCH_SECONDS = 5.0
MAX_DOCUMENT_BYTES, MAX_KEYS_BYTES, MAX_KEYS = 65_536, 262_144, 100
MAX_URL_CHARACTERS = 500
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
DISCOVERY = "/.well-known/openid-configuration"
_OK = 200

_log = get_logger("paymaster.oidc")
_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}


@dataclass(frozen=True, slots=True)
class Key:
    """A public key and the one algorithm that it is used with."""

    kid: str | None
    algorithm: str
    public: PublicKey


class _Unusable(Exception):
    """What an issuer published cannot be used; the text says why, for the log."""


@dataclass(slots=True)
class _Issuer:
    """What is known of one issuer."""

    keys: Sequence[Key] = ()
    read_at: float | None = None
    looks: float = float(LOOKS)
    looked_at: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class IssuerKeys:
    """The keys of all issuers of a process."""

    def __init__(
        self, client: httpx.AsyncClient, seconds: Callable[[], float] = monotonic_seconds
    ) -> None:
        self._client = client
        self._seconds = seconds
        self._issuers: dict[str, _Issuer] = {}

    async def key(self, url: str, algorithm: str, kid: str | None) -> PublicKey:
        """The key of an issuer that a token names; without a name, the only one that fits.

        Raises Unauthenticated `token-invalid`, Busy `issuer-unavailable`, and Broken
        `network-inside-transaction`.
        """
        issuer = self._issuers.setdefault(url, _Issuer())
        known = _fitting(issuer.keys, algorithm, kid)
        if known is None or (self._age(issuer) >= FRESH_SECONDS and not issuer.lock.locked()):
            async with issuer.lock:
                # Somebody may have looked while this one waited.
                known = _fitting(issuer.keys, algorithm, kid)
                if known is None or self._age(issuer) >= FRESH_SECONDS:
                    await self._look(url, issuer)
            known = _fitting(issuer.keys, algorithm, kid)
        if self._age(issuer) >= STALE_SECONDS:
            raise Busy("issuer-unavailable", "The keys of the token's issuer cannot be read now.")
        if known is None:
            raise invalid("The token is signed by a key that its issuer does not publish.")
        return known

    def _age(self, issuer: _Issuer) -> float:
        return float("inf") if issuer.read_at is None else self._seconds() - issuer.read_at

    async def _look(self, url: str, issuer: _Issuer) -> None:
        """Read the keys anew, unless that was done too often. A failure leaves them as they are."""
        now = self._seconds()
        gained = (now - issuer.looked_at) / LOOK_SECONDS
        issuer.looks, issuer.looked_at = min(float(LOOKS), issuer.looks + gained), now
        if issuer.looks < 1:
            return
        issuer.looks -= 1
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                issuer.keys = await self._published(url)
        except (_Unusable, RailError, TimeoutError) as error:
            _log.warning("issuer_keys_unreadable", issuer=url, reason=str(error)[:200])
            return
        issuer.read_at = self._seconds()

    async def _published(self, url: str) -> list[Key]:
        found = await self._get(f"{url.rstrip('/')}{DISCOVERY}", MAX_DOCUMENT_BYTES)
        if found.get("issuer") != url:
            raise _Unusable("its discovery document names another issuer")
        place = found.get("jwks_uri")
        if not isinstance(place, str) or _bad_place(url, place):
            raise _Unusable("its discovery document names no usable address of keys")
        return parse_keys(await self._get(place, MAX_KEYS_BYTES))

    async def _get(self, url: str, most: int) -> dict[str, object]:
        headers = {"Accept": "application/json"}
        answer = await call(self._client, "GET", url, headers=headers, max_bytes=most)
        if answer.status != _OK:
            raise _Unusable(f"{httpx.URL(url).host} answered with status {answer.status}")
        try:
            return answer.json_object()
        except ValueError:
            raise _Unusable(f"{httpx.URL(url).host} answered with no JSON object") from None


def _bad_place(url: str, place: str) -> bool:
    """Whether keys may not be read there: never by plain http for an issuer that is https."""
    return url_fault(place, plain=url.startswith("http:"), query=True) is not None


def _fitting(keys: Sequence[Key], algorithm: str, kid: str | None) -> PublicKey | None:
    fits = [key for key in keys if key.algorithm == algorithm and kid in (None, key.kid)]
    return fits[0].public if len(fits) == 1 else None


def url_fault(url: str, *, plain: bool, query: bool = False) -> str | None:
    """What is wrong with the address of an issuer or of its keys; None when it may be asked.

    It is https, or http where `plain` says so. The name of an issuer has no query (OpenID Connect
    Discovery 1.0, section 3), the address of its keys may have one.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        return "Write an address such as https://login.example.com."
    if not parsed.host or len(url) > MAX_URL_CHARACTERS or not url.isascii():
        return "Write an address such as https://login.example.com."
    if parsed.userinfo or "#" in url or ("?" in url and not query):
        return "The address has no user, query or fragment."
    if parsed.scheme == "https" or (plain and parsed.scheme == "http"):
        return None
    return "The address begins with https://."


def is_loopback(host: str) -> bool:
    """Whether a host of an address is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_keys(document: Mapping[str, object]) -> list[Key]:
    """The usable signing keys of a JWK set (RFC 7517): others are passed over.

    Raises `_Unusable` for what is no set. Of each key only its public members are looked at.
    """
    listed = document.get("keys")
    if not isinstance(listed, list) or len(cast("list[object]", listed)) > MAX_KEYS:
        raise _Unusable(f"it publishes no list of at most {MAX_KEYS} keys")
    jwks = [
        cast("dict[str, Any]", one) for one in cast("list[object]", listed) if isinstance(one, dict)
    ]
    return [key for key in map(_key, jwks) if key is not None]


def _key(jwk: dict[str, Any]) -> Key | None:
    kind, kid = jwk.get("kty"), jwk.get("kid")
    operations: object = jwk.get("key_ops", ["verify"])
    if (
        not isinstance(kind, str)
        or kind not in _MEMBERS
        or jwk.get("use", "sig") != "sig"
        or not (kid is None or isinstance(kid, str))
        or not (isinstance(operations, list) and "verify" in operations)
    ):
        return None
    public = {"kty": kind, **{name: jwk.get(name) for name in _MEMBERS[kind]}}
    if not all(isinstance(value, str) for value in public.values()):
        return None
    try:
        made = _made(kind, json.dumps(public))
    except (PyJWTError, ValueError, TypeError):
        return None
    if made is None or jwk.get("alg", made[0]) not in (made[0], _NAMES.get(made[0])):
        return None
    return Key(kid, *made)


_NAMES = {"EdDSA": "Ed25519"}
"""The other name of an algorithm (RFC 9864), which keys may carry."""


def _made(kind: str, public: str) -> tuple[str, PublicKey] | None:
    if kind == "RSA":
        rsa = RSAAlgorithm.from_jwk(public)
        usable = isinstance(rsa, RSAPublicKey) and MIN_RSA_BITS <= rsa.key_size <= MAX_RSA_BITS
        return ("RS256", rsa) if isinstance(rsa, RSAPublicKey) and usable else None
    if kind == "EC":
        curve = ECAlgorithm.from_jwk(public)
        usable = isinstance(curve, EllipticCurvePublicKey) and curve.curve.name == "secp256r1"
        return ("ES256", curve) if isinstance(curve, EllipticCurvePublicKey) and usable else None
    edwards = OKPAlgorithm.from_jwk(public)
    return ("EdDSA", edwards) if isinstance(edwards, Ed25519PublicKey) else None
