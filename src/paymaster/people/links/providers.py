"""Where users link their accounts, and as which app we ask: data of an environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from paymaster.db import audit
from paymaster.db.cells import Environment
from paymaster.db.tx import ControlRead, ControlTx, json
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound, Problem, Unprocessable
from paymaster.kernel.money import exponent
from paymaster.people.oidc_keys import is_loopback, url_fault

WECHAT: Final = "wechat"
ALIPAY: Final = "alipay"
MAX_RETURN_TO: Final = 20


@dataclass(frozen=True, slots=True)
class _Needs:
    """What a provider needs; `defaults` are settings that need not be given."""

    scopes: frozenset[str]
    secrets: frozenset[str]
    defaults: Mapping[str, str]


NEEDS: Final[Mapping[str, _Needs]] = {
    WECHAT: _Needs(
        frozenset({"snsapi_base", "snsapi_userinfo", "snsapi_login"}),
        frozenset({"app_secret"}),
        {
            "authorize_url": "https://open.weixin.qq.com/connect/oauth2/authorize",
            "api_url": "https://api.weixin.qq.com",
            "scope": "snsapi_base",
        },
    ),
    ALIPAY: _Needs(
        frozenset({"auth_base", "auth_user"}),
        frozenset({
            "private_key", "app_certificate", "alipay_root_certificate", "alipay_certificates",
        }),
        {
            "authorize_url": "https://openauth.alipay.com/oauth2/publicAppAuthorize.htm",
            "api_url": "https://openapi.alipay.com",
            "scope": "auth_base",
        },
    ),
}  # fmt: skip
"""Which providers there are."""


@dataclass(frozen=True, slots=True)
class NewProvider:
    """What is asked for. `secrets` maps our names to names in the secret store."""

    settings: Mapping[str, str]
    secrets: Mapping[str, str]
    currency: str = "CNY"
    return_to: Sequence[str] = ()
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class LinkProvider:
    """A provider of an environment. `return_to`: where browsers may be sent afterwards."""

    environment_id: int
    provider: str
    settings: dict[str, str]
    secrets: dict[str, str]
    currency: str
    return_to: list[str]
    enabled: bool
    version: int
    changed_at: datetime

    def setting(self, name: str) -> str:
        """A setting, or its default."""
        return self.settings.get(name) or NEEDS[self.provider].defaults.get(name, "")

    def wire(self) -> dict[str, Any]:
        """For JSON; secrets go by their names."""
        given = {name: self.setting(name) for name in NEEDS[self.provider].defaults}
        return {
            "provider": self.provider,
            "settings": {**given, **self.settings},
            "secrets": self.secrets,
            "currency": self.currency,
            "return_to": self.return_to,
            "enabled": self.enabled,
            "version": self.version,
            "changed_at": rfc3339(self.changed_at),
        }


def _address_fault(environment: Environment, url: str) -> str | None:
    try:
        local = is_loopback(httpx.URL(url).host)
    except (httpx.InvalidURL, ValueError):
        local = False
    return url_fault(url, plain=local and environment.mode == "test")


def _return_fault(environment: Environment, url: str) -> str | None:
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        return "Write it without query and fragment."
    return _address_fault(environment, url)


def _faults(environment: Environment, name: str, new: NewProvider) -> list[Problem]:
    needs, problems = NEEDS[name], list[Problem]()
    for given in new.settings:
        if given not in {"app_id", *needs.defaults}:
            problems.append(Problem(f"/settings/{given}", "No such setting."))
    app_id = new.settings.get("app_id", "")
    if not 1 <= len(app_id) <= 64 or not app_id.isalnum() or not app_id.isascii():
        problems.append(Problem("/settings/app_id", "Write the app's id with the provider."))
    for place in ("authorize_url", "api_url"):
        fault = _address_fault(environment, new.settings.get(place) or needs.defaults[place])
        if fault is not None:
            problems.append(Problem(f"/settings/{place}", fault))
    if new.settings.get("scope", needs.defaults["scope"]) not in needs.scopes:
        problems.append(
            Problem("/settings/scope", f"Scopes are: {', '.join(sorted(needs.scopes))}.")
        )
    for missing in sorted(needs.secrets - new.secrets.keys()):
        problems.append(Problem(f"/secrets/{missing}", "Name the secret that holds this value."))
    for other in sorted(new.secrets.keys() - needs.secrets):
        problems.append(Problem(f"/secrets/{other}", "No such secret."))
    if len(new.return_to) > MAX_RETURN_TO:
        problems.append(Problem("/return_to", f"At most {MAX_RETURN_TO} addresses."))
    for index, url in enumerate(new.return_to):
        fault = _return_fault(environment, url)
        if fault is not None:
            problems.append(Problem(f"/return_to/{index}", fault))
    return problems


async def put(tx: ControlTx, environment: Environment, name: str, new: NewProvider) -> LinkProvider:
    """Let users of an environment link there, or change how.

    Raises NotFound `link-provider-unknown`, Unprocessable `link-provider-invalid`, Refusal
    `currency-unknown`.
    """
    if name not in NEEDS:
        raise unknown()
    exponent(new.currency)
    problems = _faults(environment, name, new)
    if problems:
        raise Unprocessable(
            "link-provider-invalid", "Nobody can link there as it stands.", problems=problems
        )
    await tx.execute(
        """
        INSERT INTO link_provider (environment_id, provider, settings, secrets, currency, return_to,
            enabled, version, changed_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, 1, %s)
        ON CONFLICT (environment_id, provider) DO UPDATE SET settings = excluded.settings,
            secrets = excluded.secrets, currency = excluded.currency,
            return_to = excluded.return_to, enabled = excluded.enabled,
            version = link_provider.version + 1, changed_at = excluded.changed_at
        """,
        (
            environment.id,
            name,
            json(dict(new.settings)),
            json(dict(new.secrets)),
            new.currency,
            list(new.return_to),
            new.enabled,
            tx.now,
        ),
    )
    made = await _one(tx, environment.id, name)
    assert made is not None
    detail = {"settings": made.settings, "secrets": made.secrets, "enabled": made.enabled}
    await audit.record(tx, [audit.Act("link_provider.put", f"{name}", detail=detail)])
    return made


async def listing(tx: ControlRead, environment_id: int) -> list[LinkProvider]:
    """The providers of an environment, by name."""
    return await tx.fetch(
        "SELECT environment_id, provider, settings, secrets, currency, return_to, enabled, version,"
        " changed_at FROM link_provider WHERE environment_id = %s ORDER BY provider",
        (environment_id,),
        LinkProvider,
    )


async def _one(tx: ControlRead, environment_id: int, name: str) -> LinkProvider | None:
    return await tx.maybe(
        "SELECT environment_id, provider, settings, secrets, currency, return_to, enabled, version,"
        " changed_at FROM link_provider WHERE environment_id = %s AND provider = %s",
        (environment_id, name),
        LinkProvider,
    )


async def usable(tx: ControlRead, environment_id: int, name: str) -> LinkProvider:
    """One where users may link now. Raises NotFound `link-provider-unknown`."""
    found = await _one(tx, environment_id, name)
    if found is None or not found.enabled:
        raise unknown()
    return found


def unknown() -> NotFound:
    """There is no such provider here, or nobody may link there at the moment."""
    return NotFound("link-provider-unknown", "Nobody links to such a provider here.")
