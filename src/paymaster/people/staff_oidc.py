"""The staff's way to its OpenID provider and back: OpenID Connect Core 1.0, code flow with PKCE.

What is sent and what must come back; no database here. `Provider` rows say where. The answer must
name the issuer where the provider promises it (RFC 9207), so that one provider's code is never
taken to another; the ID token must be for our client and carry the nonce that we sent.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from urllib.parse import quote_plus, urlencode

import httpx

from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import Busy, RailError, Unauthenticated
from paymaster.observe import get_logger
from paymaster.people import oidc_token
from paymaster.people.oidc_keys import DISCOVERY, IssuerKeys, url_fault
from paymaster.people.staff_providers import Provider
from paymaster.rails.http import Answer, call

FRESH_SECONDS, CALL_SECONDS, MAX_BYTES = 300.0, 10.0, 65_536
SCOPE = "openid email profile"
_ALGORITHMS = frozenset(oidc_token.ALGORITHMS)
_TYPES = frozenset({"jwt"})
_OK, _CLIENT_ERROR, _SERVER_ERROR = 200, 400, 500

_log = get_logger("paymaster.staff")


@dataclass(frozen=True, slots=True)
class Published:
    """What a provider says about itself."""

    authorization_endpoint: str
    token_endpoint: str
    names_itself: bool
    takes_basic: bool


@dataclass(frozen=True, slots=True)
class Sent:
    """What went to the provider and must fit what comes back."""

    redirect_uri: str
    state: str
    nonce: str
    verifier: str


class StaffOidc:
    """One object a process: what providers publish is read again after a while."""

    def __init__(
        self, client: httpx.AsyncClient, seconds: Callable[[], float] = monotonic_seconds
    ) -> None:
        self._client = client
        self._seconds = seconds
        self._keys = IssuerKeys(client, seconds)
        self._known: dict[str, tuple[float, Published]] = {}

    async def address(self, provider: Provider, sent: Sent) -> str:
        """Where the browser shall go. Raises Busy `login-provider-unavailable`."""
        known = await self._published(provider.issuer)
        digest = hashlib.sha256(sent.verifier.encode()).digest()
        asked = {
            "response_type": "code",
            "client_id": provider.client_id,
            "redirect_uri": sent.redirect_uri,
            "scope": SCOPE,
            "state": sent.state,
            "nonce": sent.nonce,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        joint = "&" if "?" in known.authorization_endpoint else "?"
        return f"{known.authorization_endpoint}{joint}{urlencode(asked)}"

    async def check_issuer(self, provider: Provider, named: str | None) -> None:
        """Whether the answer is the provider's own (RFC 9207).

        Raises Unauthenticated `login-mixed-up`, Busy `login-provider-unavailable`.
        """
        promised = (await self._published(provider.issuer)).names_itself
        if named != provider.issuer and (promised or named is not None):
            raise Unauthenticated("login-mixed-up", "The answer is not of the provider asked.")

    async def claims(
        self, provider: Provider, secret: str | None, sent: Sent, code: str, now: datetime
    ) -> Mapping[str, Any]:
        """Who logged in: the claims of the ID token that the code is worth.

        Raises Unauthenticated `login-refused` (a code that is not good, or was used before),
        `token-invalid`, `token-expired`; Busy `login-provider-unavailable`, `issuer-unavailable`.
        """
        text = await self._exchanged(provider, secret, sent, code)
        token = oidc_token.read(text)
        oidc_token.check_type(token, _TYPES)
        if token.issuer != provider.issuer:
            raise oidc_token.invalid("The ID token is of another issuer.")
        self._check_audience(token, provider.client_id)
        if token.algorithm not in _ALGORITHMS:
            raise oidc_token.invalid("The token is signed by an algorithm that is not accepted.")
        key = await self._keys.key(provider.issuer, token.algorithm, token.kid)
        oidc_token.check_signature(token, key, token.algorithm)
        oidc_token.check_times(token, now)
        nonce = token.text_claim("nonce")
        if not hmac.compare_digest(nonce.encode(), sent.nonce.encode()):
            raise oidc_token.invalid("The ID token is of another login.")
        token.text_claim("sub")
        return token.claims

    @staticmethod
    def _check_audience(token: oidc_token.Token, client_id: str) -> None:
        """OpenID Connect Core, 3.1.3.7: for us, and where it is for others too, issued to us."""
        party = token.claims.get("azp")
        if client_id not in token.audiences or (party is not None and party != client_id):
            raise oidc_token.invalid("The ID token is for another client.")
        if len(token.audiences) > 1 and party is None:
            raise oidc_token.invalid("The ID token is for several clients.")

    async def _exchanged(
        self, provider: Provider, secret: str | None, sent: Sent, code: str
    ) -> str:
        known = await self._published(provider.issuer)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": sent.redirect_uri,
            "code_verifier": sent.verifier,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if secret is None:
            form["client_id"] = provider.client_id
        elif known.takes_basic:
            # RFC 6749, 2.3.1: both are form-encoded before they are joined.
            pair = f"{quote_plus(provider.client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": provider.client_id, "client_secret": secret}
        answer = await self._call("POST", known.token_endpoint, headers, urlencode(form).encode())
        if _CLIENT_ERROR <= answer.status < _SERVER_ERROR:
            _log.warning("login_code_refused", issuer=provider.issuer, status=answer.status)
            raise Unauthenticated("login-refused", "The provider does not take the code.")
        found = _object(answer)
        token = found.get("id_token")
        if not isinstance(token, str):
            raise Unauthenticated("login-refused", "The provider gave no ID token.")
        return token

    async def _published(self, issuer: str) -> Published:
        read_at, known = self._known.get(issuer, (float("-inf"), None))
        if known is not None and self._seconds() - read_at < FRESH_SECONDS:
            return known
        headers = {"Accept": "application/json"}
        answer = await self._call("GET", f"{issuer.rstrip('/')}{DISCOVERY}", headers, None)
        found = _object(answer)
        if found.get("issuer") != issuer:
            raise _unavailable("its discovery document names another issuer")
        places = [found.get("authorization_endpoint"), found.get("token_endpoint")]
        plain = issuer.startswith("http:")
        for place in places:
            if not isinstance(place, str) or url_fault(place.partition("?")[0], plain=plain):
                raise _unavailable("its discovery document names no usable endpoints")
        listed: object = found.get("token_endpoint_auth_methods_supported")
        basic = not isinstance(listed, list) or "client_secret_basic" in listed
        known = Published(
            cast("str", places[0]),
            cast("str", places[1]),
            found.get("authorization_response_iss_parameter_supported") is True,
            basic,
        )
        self._known[issuer] = (self._seconds(), known)
        return known

    async def _call(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await call(
                    self._client, method, url, headers=headers, body=body, max_bytes=MAX_BYTES
                )
        except (RailError, TimeoutError) as error:
            raise _unavailable(type(error).__name__) from error


def _object(answer: Answer) -> dict[str, object]:
    if answer.status != _OK:
        raise _unavailable(f"it answered with status {answer.status}")
    try:
        return answer.json_object()
    except ValueError:
        raise _unavailable("it answered with no JSON object") from None


def _unavailable(reason: str) -> Busy:
    _log.warning("login_provider_unavailable", reason=reason)
    return Busy(
        "login-provider-unavailable",
        "The identity provider cannot be used at the moment: begin the login again.",
        retry_after_seconds=5,
    )
