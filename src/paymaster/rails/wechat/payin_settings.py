"""What a rail account takes money in with: which version of the API, which ways to pay, where to.

Pay-in is a product of its own: an account may have it beside any way of paying out, or without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from paymaster.kernel.errors import Problem
from paymaster.rails import meaning
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import setting
from paymaster.rails.meaning import Kind
from paymaster.rails.payin import Method, Shows

DIGESTS: Final = ("HMAC-SHA256", "MD5")
"""What keys the messages of APIv2, the better one first."""

LONGEST_URL: Final = 256
PAID_INTO: Final = "BASIC"
"""The merchant's account at the provider where what users pay lies, and what goes back comes from:
only its bill can be held against charges."""

TOLD_AT: Final = "/payins"
"""Notices about charges and refunds come to the account's `notify_url` and this."""


class Version(StrEnum):
    """Which API charges go through."""

    NONE = "none"
    V3 = "v3"
    V2 = "v2"


class Channel(StrEnum):
    """A way to pay, as the provider calls it; each is a product that a merchant applies for."""

    NATIVE = "native"
    JSAPI = "jsapi"
    APP = "app"


METHODS: Final[Mapping[str, tuple[Channel, Method]]] = {
    "wechat-native": (Channel.NATIVE, Method("wechat-native", Shows.QR)),
    "wechat-jsapi": (Channel.JSAPI, Method("wechat-jsapi", Shows.PARAMETERS, needs_payer=True)),
    "wechat-app": (Channel.APP, Method("wechat-app", Shows.PARAMETERS)),
}


@dataclass(frozen=True, slots=True)
class Needs:
    """What an account must have, and what is wrong with what it has."""

    settings: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


_NEEDS: Final[Mapping[Version, Needs]] = {
    Version.NONE: Needs(),
    Version.V3: Needs(
        ("url", "mchid", "appid", "merchant_serial", "notify_url"),
        ("private_key", "apiv3_key", "platform_keys"),
    ),
    Version.V2: Needs(
        ("url", "url_tls", "mchid", "appid", "notify_url"), ("apiv2_key", "client_identity")
    ),
}


def _named(account: RailAccount) -> str:
    return account.settings.get("payin", "").strip() or Version.NONE.value


def version(account: RailAccount) -> Version:
    """Which API, V3 or V2. Raises NeverSent `rail-account-invalid`."""
    named = _named(account)
    if named not in (Version.V3, Version.V2):
        raise meaning.error(
            Kind.ACCOUNT, f"The rail account {account.name} takes no money in at WeChat Pay."
        )
    return Version(named)


def methods(account: RailAccount) -> Mapping[str, Method]:
    """The ways to pay that the account is set up for."""
    if _named(account) not in (Version.V3, Version.V2):
        return {}
    wanted = _channels(account)
    return {name: one for name, (channel, one) in METHODS.items() if channel.value in wanted}


def channel(account: RailAccount, method: str) -> Channel:
    """Which product a method is. Raises NeverSent `rail-account-invalid`."""
    if method not in methods(account):
        raise meaning.error(
            Kind.ACCOUNT, f"The rail account {account.name} offers no method {method[:40]!r}."
        )
    return METHODS[method][0]


def digest_method(account: RailAccount) -> str:
    """What keys the messages of APIv2. Raises NeverSent `rail-account-invalid`."""
    found = account.settings.get("payin_sign", "").strip() or DIGESTS[0]
    if found not in DIGESTS:
        raise meaning.error(
            Kind.ACCOUNT, f"The rail account {account.name} names no digest of APIv2."
        )
    return found


def told_at(account: RailAccount) -> str:
    """The address of notices. Raises NeverSent `rail-account-invalid`."""
    return setting(account, "notify_url").rstrip("/") + TOLD_AT


def needs(account: RailAccount) -> Needs:
    """What pay-in asks of the account's settings; nothing when it has none."""
    named = _named(account)
    if named not in set(Version):
        said = f"Money comes in over: {', '.join(Version)}."
        return Needs(problems=(Problem("/settings/payin", said),))
    found = _NEEDS[Version(named)]
    if named == Version.NONE.value:
        return found
    return Needs(found.settings, found.secrets, tuple(_problems(account)))


def _problems(account: RailAccount) -> list[Problem]:
    found: list[Problem] = []
    unknown = _channels(account) - set(Channel)
    if unknown:
        said = f"Methods are: {', '.join(Channel)}, divided by commas."
        found.append(Problem("/settings/payin_methods", said))
    if (account.settings.get("payin_sign", "").strip() or DIGESTS[0]) not in DIGESTS:
        found.append(Problem("/settings/payin_sign", f"Digests are: {', '.join(DIGESTS)}."))
    if account.settings.get("bill_account", "").strip() != PAID_INTO:
        said = f"Write {PAID_INTO}: what users pay comes there, and this bill is compared with it."
        found.append(Problem("/settings/bill_account", said))
    address = account.settings.get("notify_url", "").strip()
    if "?" in address or "#" in address:
        said = "The provider takes no address with a query."
        found.append(Problem("/settings/notify_url", said))
    elif len(address.rstrip("/") + TOLD_AT) > LONGEST_URL:
        said = f"With {TOLD_AT} it has at most {LONGEST_URL} characters."
        found.append(Problem("/settings/notify_url", said))
    return found


def _channels(account: RailAccount) -> set[str]:
    given = account.settings.get("payin_methods", "")
    return {one.strip() for one in given.split(",") if one.strip()} or set(Channel)
