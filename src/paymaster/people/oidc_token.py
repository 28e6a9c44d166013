"""JSON Web Tokens (RFC 7519, RFC 8725), read strictly before any key is looked for.

A token is three parts of JWS and nothing else. What names a key of its own (`jwk`, `jku`, `x5u`,
`x5c`), asks for extensions (`crit`), is encrypted or nested is refused; so is a member that occurs
twice, which two readers would understand in two ways. The algorithm is never taken from the token
alone: it must be one that the issuer's row allows, and fit the key.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Never, cast

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from paymaster.kernel.errors import Unauthenticated

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

ALGORITHMS: dict[str, type[PublicKey]] = {
    "RS256": RSAPublicKey,
    "ES256": EllipticCurvePublicKey,
    "EdDSA": Ed25519PublicKey,
}
"""What signatures may be made with, and the kind of key that each needs."""

SKEW = timedelta(seconds=60)
"""How far the clocks of an issuer and ours may be apart."""

MAX_CHARACTERS = 8192
"""A longer token is not looked at."""

TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
"""`typ` of the tokens of other issuers; it may be missing."""

_PARTS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\Z", re.ASCII)
_MAX_KID_CHARACTERS = 256
_MAX_AUDIENCES = 20
_REFUSED = frozenset({
    "crit", "b64", "zip", "cty", "jwk", "jku", "x5u", "x5c",
    "enc", "epk", "apu", "apv", "iv", "tag", "p2s", "p2c",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Token:
    """A token that reads well. Nobody has looked at its signature: believe nothing yet."""

    text: str = field(repr=False)
    header: Mapping[str, Any]
    claims: Mapping[str, Any] = field(repr=False)

    @property
    def algorithm(self) -> str:
        """`alg`, as the token says."""
        return cast("str", self.header["alg"])

    @property
    def kid(self) -> str | None:
        """Which key it says to be signed with."""
        return cast("str | None", self.header.get("kid"))

    @property
    def issuer(self) -> str:
        """`iss`, exactly as it stands."""
        return cast("str", self.claims["iss"])

    @property
    def audiences(self) -> tuple[str, ...]:
        """`aud` as a list."""
        found: str | list[str] = self.claims["aud"]
        return (found,) if isinstance(found, str) else tuple(found)

    def text_claim(self, name: str) -> str:
        """A claim that must be text. Raises Unauthenticated `token-invalid`."""
        found = self.claims.get(name)
        if not isinstance(found, str) or not found:
            raise invalid(f"The claim {name!r} is missing, or is no text.")
        return found


def looks_like(text: str) -> bool:
    """Whether this is a token rather than an API key."""
    return text.startswith("eyJ") or "." in text


def invalid(detail: str) -> Unauthenticated:
    """The refusal of a token."""
    return Unauthenticated("token-invalid", detail)


def read(text: str) -> Token:
    """Take a token apart. Raises Unauthenticated `token-invalid`; verifies nothing."""
    if len(text) > MAX_CHARACTERS:
        raise invalid(f"A token has {MAX_CHARACTERS} characters at most.")
    parts = _PARTS.match(text)
    if parts is None:
        raise invalid("A token has three parts in base64url: header, claims, signature.")
    header, claims = _json(parts[1], "header"), _json(parts[2], "claims")
    if not isinstance(header.get("alg"), str):
        raise invalid("The header lacks `alg`.")
    refused = sorted(_REFUSED & header.keys())
    if refused:
        raise invalid(f"A header with {refused[0]!r} is not accepted.")
    kid = header.get("kid")
    if kid is not None and not (isinstance(kid, str) and 1 <= len(kid) <= _MAX_KID_CHARACTERS):
        raise invalid("The header's `kid` is no text of a usable length.")
    if not isinstance(claims.get("iss"), str):
        raise invalid("The claim 'iss' is missing, or is no text.")
    _check_audiences(claims.get("aud"))
    return Token(text, header, claims)


def _check_audiences(found: object) -> None:
    listed: list[object] = cast("list[object]", found) if isinstance(found, list) else [found]
    if not 1 <= len(listed) <= _MAX_AUDIENCES or not all(isinstance(one, str) for one in listed):
        raise invalid("The claim 'aud' is missing, or names no audiences.")


def _json(part: str, what: str) -> dict[str, Any]:
    """A part as a JSON object, no member of which occurs twice."""
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        found: object = json.loads(
            raw.decode(), object_pairs_hook=_members, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        raise invalid(f"The {what} of the token cannot be read.") from None
    if not isinstance(found, dict):
        raise invalid(f"The {what} of the token is no JSON object.")
    return cast("dict[str, Any]", found)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member occurs twice")
    return found


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")


def check_type(token: Token, types: Collection[str], *, needed: bool = False) -> None:
    """Whether `typ` is one of these (small letters). Raises Unauthenticated `token-invalid`.

    RFC 8725, 3.11: what was made for one use must not pass for another.
    """
    found = token.header.get("typ")
    if found is None and not needed:
        return
    if not isinstance(found, str) or found.lower() not in types:
        raise invalid("The token is of a type that is not taken here.")


def check_signature(token: Token, key: PublicKey, algorithm: str) -> None:
    """Whether the owner of `key` signed it by `algorithm`. Raises Unauthenticated `token-invalid`.

    A key of another kind than the algorithm's is refused before it is used.
    """
    kind = ALGORITHMS.get(algorithm)
    if kind is None or token.algorithm != algorithm or not isinstance(key, kind):
        raise invalid("The token is signed by an algorithm that is not accepted.")
    try:
        jwt.PyJWS(algorithms=[algorithm]).decode_complete(token.text, key, algorithms=[algorithm])
    except (jwt.PyJWTError, ValueError):
        raise invalid("The signature of the token is wrong.") from None


def check_times(token: Token, now: datetime) -> None:
    """`exp` (required), `nbf` and `iat`, allowing for `SKEW`.

    Raises Unauthenticated `token-expired` or `token-invalid`.
    """
    moment, skew = now.timestamp(), SKEW.total_seconds()
    expires = _time(token, "exp")
    if expires is None:
        raise invalid("The claim 'exp' is missing.")
    if expires + skew <= moment:
        raise Unauthenticated("token-expired", "The token has expired; get a new one.")
    for name in ("nbf", "iat"):
        found = _time(token, name)
        if found is not None and found > moment + skew:
            raise invalid(f"The claim {name!r} lies in the future.")


def _time(token: Token, name: str) -> float | None:
    if name not in token.claims:
        return None
    found = token.claims[name]
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise invalid(f"The claim {name!r} is no number of seconds.")
    return float(found)
