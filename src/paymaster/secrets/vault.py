"""HashiCorp Vault, or OpenBao, as a source of secrets: the KV engine of version 2.

A secret is the entry `<mount>/<prefix>/<name>` whose field `value` is the value; the versions of
the entry are the versions of the secret. A version that is deleted or destroyed there is not used
here any more. Source: Vault HTTP API, "KV secrets engine - version 2", "Kubernetes auth method",
"Token auth method".
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx

from paymaster.kernel.clock import WallClock, monotonic_seconds
from paymaster.kernel.errors import Broken, Busy, PaymasterError
from paymaster.kernel.guard import forbid_network
from paymaster.secrets.port import SecretVersion, decoded, is_name
from paymaster.secrets.warm import EntryRefused
from paymaster.settings import VaultSettings

_CONNECT_SECONDS, _ANSWER_SECONDS = 5.0, 15.0
_RENEW_AT = 2 / 3
_AGAIN = frozenset({412, 429, 472, 473})
"""Statuses that say "not now": a lagging replica, a limit, a standby."""
_WALL = WallClock()
_NANOSECONDS = re.compile(r"\.(\d{6})\d*")


@dataclass(slots=True)
class _Login:
    """A token of Vault, and when it must be renewed (monotonic seconds)."""

    token: str
    renew_at: float
    renewable: bool

    def __repr__(self) -> str:
        return "_Login(...)"


class VaultSource:
    """One engine of one Vault. `token` gives the token of the setting `vault.auth = "token"`."""

    kind = "vault"

    def __init__(
        self,
        settings: VaultSettings,
        token: Callable[[], str],
        *,
        seconds: Callable[[], float] = monotonic_seconds,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._set = settings
        self._given_token = token
        self._seconds = seconds
        self._login: _Login | None = None
        self._http = httpx.AsyncClient(
            base_url=settings.address.rstrip("/") + "/v1/",
            verify=_trusted(settings.ca_file),
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )

    async def names(self) -> Sequence[str] | None:
        """See Source."""
        answer = await self._ask("GET", self._path("metadata", ""), params={"list": "true"})
        if answer.status_code == 403:
            return None
        if answer.status_code == 404:
            return []
        keys = cast("list[object]", self._data(answer).get("keys", []))
        return [key for key in keys if isinstance(key, str) and is_name(key)]

    async def versions(
        self, name: str, known: Mapping[str, SecretVersion]
    ) -> Sequence[SecretVersion]:
        """See Source."""
        answer = await self._ask("GET", self._path("metadata", name))
        if answer.status_code == 404:
            return []
        facts = cast("dict[str, dict[str, Any]]", self._data(answer).get("versions", {}))
        numbers = sorted((int(number) for number in facts), reverse=True)
        found = [await self._version(name, n, facts[str(n)], known) for n in numbers]
        return [version for version in found if version is not None]

    async def _version(
        self, name: str, number: int, facts: Mapping[str, Any], known: Mapping[str, SecretVersion]
    ) -> SecretVersion | None:
        """None for one that is deleted, destroyed or past its time."""
        ends = _moment(facts.get("deletion_time"))
        if facts.get("destroyed") or (ends is not None and ends <= _WALL.now()):
            return None
        created, before = _moment(facts.get("created_time")), known.get(str(number))
        if before is not None and before.created_at == created and before.expires_at == ends:
            return before
        answer = await self._ask("GET", self._path("data", name), params={"version": str(number)})
        if answer.status_code == 404:
            return None
        fields = cast("dict[str, object]", self._data(answer).get("data") or {})
        value = fields.get("value")
        if not isinstance(value, str):
            raise Broken(
                "secret-malformed", f"The entry {name!r} in Vault has no field `value` of text."
            )
        return SecretVersion(
            str(number), decoded(value.encode(), name), created, ends, store=self.kind
        )

    async def close(self) -> None:
        """See Source."""
        await self._http.aclose()

    # ------------------------------------------------------------------------------ tokens

    async def _logged_in(self) -> _Login:
        """A token that is not due to be renewed. Raises what `_ask` raises."""
        login = self._login
        if self._set.auth == "token":
            given = self._given_token()
            if login is None or login.token != given:
                login = await self._look_up(given)
        elif login is None:
            login = await self._log_in()
        if login.renewable and self._seconds() >= login.renew_at:
            login = await self._renew(login)
        self._login = login
        return login

    async def _log_in(self) -> _Login:
        """Kubernetes: the pod's own token, read anew because the cluster replaces it."""
        try:
            jwt = self._set.jwt_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise Broken(
                "secret-store-refused",
                f"The service account's token {self._set.jwt_file} cannot be read:"
                f" {error.strerror}.",
            ) from error
        body = {"role": self._set.role, "jwt": jwt}
        answer = await self._send("POST", f"auth/{self._set.auth_mount}/login", None, json=body)
        return self._granted(answer, "the login")

    async def _renew(self, login: _Login) -> _Login:
        answer = await self._send("POST", "auth/token/renew-self", login.token, json={})
        if answer.status_code in (400, 403) and self._set.auth == "kubernetes":
            return await self._log_in()
        return self._granted(answer, "the renewal of the token")

    async def _look_up(self, token: str) -> _Login:
        answer = await self._send("GET", "auth/token/lookup-self", token)
        if answer.status_code != 200:
            raise _refused(answer, "the token")
        data = self._data(answer)
        seconds = cast("float", data.get("ttl") or 0)
        renewable = bool(data.get("renewable")) and seconds > 0
        return _Login(token, self._seconds() + seconds * _RENEW_AT, renewable)

    def _granted(self, answer: httpx.Response, what: str) -> _Login:
        if answer.status_code != 200:
            raise _refused(answer, what)
        auth = cast("dict[str, Any]", _json(answer).get("auth") or {})
        token, seconds = auth.get("client_token"), auth.get("lease_duration") or 0
        if not isinstance(token, str) or not token:
            raise _refused(answer, what)
        renew_at = self._seconds() + seconds * _RENEW_AT
        return _Login(token, renew_at, bool(auth.get("renewable")) and seconds > 0)

    # ------------------------------------------------------------------------------- calls

    async def _ask(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """200, 403 of a list, or 404. A token that is not taken any more is replaced once.

        Raises Busy `secret-store-down`, Broken `secret-store-refused`.
        """
        answer = await self._send(method, path, (await self._logged_in()).token, params=params)
        if answer.status_code == 403 and not await self._still_taken():
            self._login = None
            login = await self._logged_in()
            answer = await self._send(method, path, login.token, params=params)
        listing = params is not None and "list" in params
        if answer.status_code in (200, 404) or (listing and answer.status_code == 403):
            return answer
        if answer.status_code == 403:
            raise EntryRefused("secret-store-refused", f"Vault refused {path}: status 403.")
        raise _refused(answer, path)

    async def _still_taken(self) -> bool:
        """Whether a 403 was about the path and not about the token."""
        login = self._login
        if login is None:
            return False
        answer = await self._send("GET", "auth/token/lookup-self", login.token)
        return answer.status_code == 200

    async def _send(
        self,
        method: str,
        path: str,
        token: str | None,
        *,
        params: Mapping[str, str] | None = None,
        json: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        forbid_network()
        headers = {"X-Vault-Request": "true"}
        if token is not None:
            headers["X-Vault-Token"] = token
        if self._set.namespace:
            headers["X-Vault-Namespace"] = self._set.namespace
        try:
            answer = await self._http.request(
                method, path, headers=headers, params=params, json=json
            )
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            raise Busy(
                "secret-store-down", f"Vault did not answer: {type(error).__name__}."
            ) from None
        if answer.status_code >= 500 or answer.status_code in _AGAIN:
            raise Busy("secret-store-down", f"Vault answered {answer.status_code}.")
        return answer

    def _path(self, kind: str, name: str) -> str:
        parts = [self._set.mount, kind, *self._set.prefix.split("/"), name]
        return "/".join(part for part in parts if part)

    def _data(self, answer: httpx.Response) -> dict[str, Any]:
        return cast("dict[str, Any]", _json(answer).get("data") or {})


def _json(answer: httpx.Response) -> dict[str, Any]:
    """Raises Busy `secret-store-down`: what does not speak the API is not Vault."""
    try:
        found: object = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Busy("secret-store-down", "What answers at `vault.address` is not Vault.")
    return cast("dict[str, Any]", found)


def _refused(answer: httpx.Response, what: str) -> PaymasterError:
    """Without Vault's own words: they may repeat what was sent."""
    return Broken("secret-store-refused", f"Vault refused {what}: status {answer.status_code}.")


def _moment(text: object) -> datetime | None:
    """RFC 3339 with nanoseconds; an empty text is no moment."""
    if not isinstance(text, str) or not text:
        return None
    return datetime.fromisoformat(_NANOSECONDS.sub(r".\1", text)).astimezone(UTC)


def _trusted(ca_file: Path | None) -> ssl.SSLContext:
    """TLS 1.2 at least, trusting the system's authorities or, if set, only the given ones.

    Raises Broken `secret-store-refused` for a file that is none.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise Broken(
            "secret-store-refused", f"`vault.ca_file` {ca_file} is no file of certificates."
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
