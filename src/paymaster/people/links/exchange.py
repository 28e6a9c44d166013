"""The code that a browser brought back, for who it is.

Codes are good once. A provider's definite no ends the way; what may be tried again with the same
code is Busy. Of the answer only the identity is taken: tokens are not even looked at, and nothing
of it is logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn
from urllib.parse import urlencode

import httpx
import msgspec

from paymaster.kernel.clock import Clock
from paymaster.kernel.errors import Busy, PaymasterError, RailError, Unprocessable
from paymaster.observe import get_logger
from paymaster.people.links.providers import ALIPAY, LinkProvider
from paymaster.rails.alipay.calls import Method, ask
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import RailDeps
from paymaster.rails.http import Answer, call

CALL_SECONDS: Final = 10.0
MAX_BYTES: Final = 65_536
_OK: Final = 200
_log = get_logger("paymaster.links")

_TOKEN: Final = Method("alipay.system.oauth.token", "POST")

_CODE_REFUSED: Final = frozenset({40029, 40163, 42003, 41008, 42007})
"""WeChat: the code is wrong, was used, has expired or is missing; or the user must agree anew."""

_TRY_AGAIN: Final = frozenset({-1, 45009, 45011})
"""WeChat: busy, or asked too often."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who it is with the provider: the details of a destination of that kind."""

    kind: str
    details: Mapping[str, str] = field(repr=False)

    @property
    def subject(self) -> str:
        """What is fingerprinted, so that one identity is one user's."""
        return "\0".join(f"{name}\0{value}" for name, value in sorted(self.details.items()))


@dataclass(frozen=True, slots=True)
class Exchanger:
    """What an exchange needs of the outside; `secret` gives the value of a named secret."""

    http: httpx.AsyncClient
    secret: Callable[[str], str]
    clock: Clock

    async def identify(self, provider: LinkProvider, code: str) -> Identity:
        """Exchange a code. Not inside a transaction.

        Raises Unprocessable `link-code-refused` or `link-snapshot-user`, Busy
        `link-provider-unavailable`.
        """
        try:
            async with asyncio.timeout(CALL_SECONDS):
                if provider.provider == ALIPAY:
                    return await self._alipay(provider, code)
                return await self._wechat(provider, code)
        except (RailError, TimeoutError) as error:
            raise unavailable(type(error).__name__) from error

    def _secret(self, provider: LinkProvider, name: str) -> str:
        try:
            return self.secret(provider.secrets[name])
        except (PaymasterError, LookupError, OSError, ValueError):
            raise unavailable(f"its secret {name} cannot be read") from None

    async def _wechat(self, provider: LinkProvider, code: str) -> Identity:
        asked = {
            "appid": provider.setting("app_id"),
            "secret": self._secret(provider, "app_secret"),
            "code": code,
            "grant_type": "authorization_code",
        }
        url = f"{provider.setting('api_url')}/sns/oauth2/access_token?{urlencode(asked)}"
        headers = {"accept": "application/json"}
        found = _object(await call(self.http, "GET", url, headers=headers, max_bytes=MAX_BYTES))
        _refuse_wechat(found.get("errcode"))
        if found.get("is_snapshotuser") in {1, "1"}:
            raise snapshot_user()
        openid = found.get("openid")
        if not isinstance(openid, str):
            raise unavailable("its answer names nobody")
        return Identity("wechat", {"appid": provider.setting("app_id"), "openid": openid})

    async def _alipay(self, provider: LinkProvider, code: str) -> Identity:
        settings = {
            "url": provider.setting("api_url"),
            "app_id": provider.setting("app_id"),
            "mode": "v3",
        }
        account = RailAccount(
            0, "link", provider.provider, provider.currency, settings, provider.secrets
        )
        asked = msgspec.json.encode({"grant_type": "authorization_code", "code": code})
        deps = RailDeps(self.http, self.secret, self.clock)
        said = await ask(deps, account, _TOKEN, asked)
        if not said.done:
            _refuse_alipay(said.code if said.genuine else None)
        for name in ("user_id", "open_id"):
            value = said.found.get(name)
            if isinstance(value, str) and value:
                return Identity("alipay", {name: value})
        raise unavailable("its answer names nobody")


def _refuse_wechat(errcode: object) -> None:
    if errcode in {None, 0}:
        return
    if errcode in _CODE_REFUSED:
        raise code_refused()
    if errcode not in _TRY_AGAIN:
        _log.error("link_provider_refuses_us", provider="wechat", errcode=str(errcode)[:20])
    raise unavailable("it answered with an error")


def _refuse_alipay(code: str | None) -> NoReturn:
    """`code` None: what came is not signed by Alipay, and says nothing."""
    if code is not None and "CODE" in code.split("_"):
        raise code_refused()
    if code is not None and code not in {"SYSTEM_ERROR", "UNKNOW_ERROR"}:
        _log.error("link_provider_refuses_us", provider="alipay", code=code[:40])
    raise unavailable("it answered with an error")


def _object(answer: Answer) -> dict[str, Any]:
    if answer.status != _OK:
        raise unavailable(f"it answered with status {answer.status}")
    try:
        return answer.json_object()
    except ValueError:
        raise unavailable("it answered with no JSON object") from None


def code_refused() -> Unprocessable:
    """The code is worth nothing (any more)."""
    return Unprocessable(
        "link-code-refused", "The provider does not take the code (any more): begin the link again."
    )


def snapshot_user() -> Unprocessable:
    """WeChat made up somebody for a page that was only looked at."""
    return Unprocessable(
        "link-snapshot-user",
        "WeChat showed the page to a made-up user: open the whole page there, and agree anew.",
    )


def unavailable(reason: str) -> Busy:
    """Nothing came of it, and the same code may be sent again."""
    _log.warning("link_provider_unavailable", reason=reason)
    return Busy(
        "link-provider-unavailable",
        "The provider cannot be asked at the moment: try again.",
        retry_after_seconds=2,
    )
