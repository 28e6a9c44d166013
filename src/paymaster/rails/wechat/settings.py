"""What a rail account at WeChat Pay is configured with, read and checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from paymaster.kernel.errors import Problem
from paymaster.rails import meaning, rsa
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import RailDeps, refuse_incomplete, secret, setting
from paymaster.rails.meaning import Kind
from paymaster.rails.wechat import payin_settings
from paymaster.rails.wechat.crypto import Keyring, keyring
from paymaster.rails.yuan import CNY, TOPUPS, report_infos

T = TypeVar("T")

MOST_SCENE_INFOS: Final = 5
_DIGITS: Final = re.compile(r"[0-9]{1,32}\Z", re.ASCII)
_SERIAL: Final = re.compile(r"[0-9A-Fa-f]{1,64}\Z", re.ASCII)
_APPID: Final = re.compile(r"wx[0-9a-f]{16}\Z", re.ASCII)


class Product(StrEnum):
    """Which of the provider's ways to pay; a merchant has at most one of them.

    NONE is for an account that only takes money in.
    """

    NONE = "none"
    BILLS = "transfer-bills"
    AUTHORISED = "authorised"
    BATCHES = "batches"
    V2 = "transfers-v2"


BILL_ACCOUNTS: Final = ("BASIC", "OPERATION", "FEES")
STYLES: Final = ("CONFIRM_PAGE", "RED_PACKET")

_V3_SETTINGS: Final = ("url", "mchid", "appid", "merchant_serial")
_V3_SECRETS: Final = ("private_key", "apiv3_key", "platform_keys")
_NEEDS: Final[Mapping[Product, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    Product.NONE: ((), ()),
    Product.BILLS: ((*_V3_SETTINGS, "scene_id", "scene_infos"), _V3_SECRETS),
    Product.AUTHORISED: (
        (*_V3_SETTINGS, "scene_id", "scene_infos", "notify_url"),
        _V3_SECRETS,
    ),
    Product.BATCHES: (_V3_SETTINGS, _V3_SECRETS),
    Product.V2: (("url_tls", "mchid", "appid"), ("apiv2_key", "client_identity")),
}


@dataclass(frozen=True, slots=True)
class Merchant:
    """What signs and opens APIv3, for one call: a rotated secret counts from the next one on."""

    mchid: str
    serial: str
    key: RSAPrivateKey = field(repr=False)
    keyring: Keyring = field(repr=False)


def pays_out(account: RailAccount) -> bool:
    """Whether the account is for payouts at all."""
    return account.settings.get("product", Product.BILLS) != Product.NONE


def product(account: RailAccount) -> Product:
    """How the account pays out. Raises NeverSent `rail-account-invalid`."""
    named = account.settings.get("product", Product.BILLS)
    if named not in set(Product) or named == Product.NONE:
        raise meaning.error(
            Kind.ACCOUNT, f"The rail account {account.name} names no product of WeChat Pay."
        )
    return Product(named)


def merchant(deps: RailDeps, account: RailAccount) -> Merchant:
    """Raises NeverSent `rail-account-invalid` or `rail-secret-missing`."""
    return Merchant(
        setting(account, "mchid"),
        setting(account, "merchant_serial"),
        usable(
            account, "private_key", lambda: rsa.private_key(secret(deps, account, "private_key"))
        ),
        keys(deps, account),
    )


def keys(deps: RailDeps, account: RailAccount) -> Keyring:
    """The provider's keys. Raises NeverSent `rail-secret-missing`."""
    return usable(account, "platform_keys", lambda: keyring(secret(deps, account, "platform_keys")))


def apiv3_key(deps: RailDeps, account: RailAccount) -> str:
    """Raises NeverSent `rail-secret-missing`."""
    found = secret(deps, account, "apiv3_key").strip()
    if len(found.encode()) != 32:
        raise meaning.error(Kind.SECRET, f"The APIv3 key of {account.name} has not 32 bytes.")
    return found


def scene_infos(account: RailAccount) -> list[dict[str, str]]:
    """What is reported about a transfer. Raises ValueError with what is wrong."""
    return report_infos(account.settings.get("scene_infos", ""), MOST_SCENE_INFOS)


def check(account: RailAccount) -> None:
    """See ChecksAccounts."""
    problems: list[Problem] = []
    known = account.settings.get("product", Product.BILLS.value)
    needs: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    if known in set(Product):
        needs = _NEEDS[Product(known)]
    else:
        problems.append(Problem("/settings/product", f"Products are: {', '.join(Product)}."))
    if account.currency != CNY:
        problems.append(Problem("/currency", "WeChat Pay pays CNY."))
    for name in ("url", "url_tls", "notify_url"):
        given = account.settings.get(name, "")
        if given and not given.startswith(("https://", "http://")):
            problems.append(Problem(f"/settings/{name}", "Write an address, beginning with http."))
    for name, form, said in (
        ("mchid", _DIGITS, "A merchant's number has digits only."),
        ("merchant_serial", _SERIAL, "The certificate's serial number is hexadecimal."),
        ("appid", _APPID, "It is wx and 16 of 0-9 and a-f."),
    ):
        given = account.settings.get(name, "").strip()
        if given and form.match(given) is None:
            problems.append(Problem(f"/settings/{name}", said))
    if "scene_infos" in needs[0] and account.settings.get("scene_infos", "").strip():
        try:
            scene_infos(account)
        except ValueError as error:
            problems.append(Problem("/settings/scene_infos", f"Please {error}."))
    if account.settings.get("bill_account", BILL_ACCOUNTS[1]) not in BILL_ACCOUNTS:
        problems.append(
            Problem("/settings/bill_account", f"Accounts are: {', '.join(BILL_ACCOUNTS)}.")
        )
    if account.settings.get("topups", TOPUPS[0]) not in TOPUPS:
        problems.append(Problem("/settings/topups", f"Choices are: {', '.join(TOPUPS)}."))
    if account.settings.get("style", STYLES[0]) not in STYLES:
        problems.append(Problem("/settings/style", f"Styles are: {', '.join(STYLES)}."))
    more = payin_settings.needs(account)
    if known == Product.NONE and not more.settings:
        said = "An account that pays nothing out takes money in: name the API in `payin`."
        problems.append(Problem("/settings/product", said))
    names = dict.fromkeys((*needs[0], *more.settings))
    held = dict.fromkeys((*needs[1], *more.secrets))
    refuse_incomplete(account, names, held, [*problems, *more.problems])


def usable(account: RailAccount, name: str, read: Callable[[], T]) -> T:
    """What is read from a secret. Raises NeverSent `rail-secret-missing` if it is no such thing."""
    try:
        return read()
    except rsa.UnusableError as error:
        raise meaning.error(
            Kind.SECRET, f"The secret {name!r} of {account.name} cannot be used: {error}."
        ) from None
