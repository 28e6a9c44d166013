"""What a rail account at Alipay is configured with, read and checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from paymaster.kernel.errors import Problem
from paymaster.rails import meaning, rsa
from paymaster.rails.alipay.certificates import Keyring, app_serial, keyring, root_serial
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import RailDeps, refuse_incomplete, secret, setting
from paymaster.rails.meaning import Kind
from paymaster.rails.yuan import CNY, TOPUPS, report_infos

T = TypeVar("T")

PRODUCT: Final = "TRANS_ACCOUNT_NO_PWD"
SCENE: Final = "DIRECT_TRANSFER"
MODES: Final = ("v3", "gateway")
STATEMENTS: Final = ("log", "csv")
PAY_IN: Final = ("none", "on")
METHODS: Final = ("qr", "page")
_PAY_IN_NEEDS: Final = ("seller_id", "notify_url")
_APP_ID: Final = re.compile(r"[0-9]{16,32}\Z", re.ASCII)
_SELLER: Final = re.compile(r"2088[0-9]{12}\Z", re.ASCII)
_MOST_INFOS: Final = 10


@dataclass(frozen=True, slots=True)
class App:
    """What signs and verifies, for one call: a rotated secret counts from the next one on."""

    app_id: str
    certificate: str
    root: str
    key: RSAPrivateKey = field(repr=False)
    keyring: Keyring = field(repr=False)


def app(deps: RailDeps, account: RailAccount) -> App:
    """Raises NeverSent `rail-account-invalid` or `rail-secret-missing`."""
    return App(
        setting(account, "app_id"),
        _usable(deps, account, "app_certificate", app_serial),
        _usable(deps, account, "alipay_root_certificate", root_serial),
        _usable(deps, account, "private_key", rsa.private_key),
        keys(deps, account),
    )


def keys(deps: RailDeps, account: RailAccount) -> Keyring:
    """The provider's keys. Raises NeverSent `rail-secret-missing`."""
    return _usable(deps, account, "alipay_certificates", keyring)


def mode(account: RailAccount) -> str:
    """`v3` or `gateway`. Raises NeverSent `rail-account-invalid`."""
    found = account.settings.get("mode", "").strip() or MODES[0]
    if found not in MODES:
        raise meaning.error(Kind.ACCOUNT, f"The mode of {account.name} is neither v3 nor gateway.")
    return found


def takes_payments(account: RailAccount) -> bool:
    """Whether the account is set up to take money in."""
    return account.settings.get("payin", "").strip() == PAY_IN[1]


def offered(account: RailAccount) -> tuple[str, ...]:
    """The ways to pay that the app has contracts for, as the account names them; all by default."""
    written = account.settings.get("payin_methods", "").strip()
    return tuple(one.strip() for one in written.split(",")) if written else METHODS


def scene_infos(account: RailAccount) -> list[dict[str, str]]:
    """What is reported about a transfer; empty without a scene. Raises ValueError."""
    written = account.settings.get("scene_infos", "").strip()
    return report_infos(written, _MOST_INFOS) if written else []


def check(account: RailAccount) -> None:
    """See ChecksAccounts."""
    problems: list[Problem] = []
    given = account.settings
    if account.currency != CNY:
        problems.append(Problem("/currency", "Alipay pays CNY."))
    if given.get("url") and not given["url"].startswith(("https://", "http://")):
        problems.append(Problem("/settings/url", "Write an address, beginning with http."))
    if given.get("app_id") and _APP_ID.match(given["app_id"].strip()) is None:
        problems.append(Problem("/settings/app_id", "An app's number has 16 to 32 digits."))
    if given.get("mode", MODES[0]) not in MODES:
        problems.append(Problem("/settings/mode", f"Modes are: {', '.join(MODES)}."))
    if given.get("product", PRODUCT) != PRODUCT:
        problems.append(Problem("/settings/product", f"The product is {PRODUCT}."))
    if given.get("statement", STATEMENTS[0]) not in STATEMENTS:
        problems.append(Problem("/settings/statement", f"Statements are: {', '.join(STATEMENTS)}."))
    if given.get("topups", TOPUPS[0]) not in TOPUPS:
        problems.append(Problem("/settings/topups", f"Choices are: {', '.join(TOPUPS)}."))
    try:
        infos = scene_infos(account)
    except ValueError as error:
        problems.append(Problem("/settings/scene_infos", f"Please {error}."))
    else:
        if bool(infos) != bool(given.get("scene_name", "").strip()):
            problems.append(
                Problem("/settings/scene_infos", "scene_name and scene_infos go together.")
            )
    problems += _pay_in_problems(account)
    needed = ("url", "app_id", *(_PAY_IN_NEEDS if takes_payments(account) else ()))
    secrets = ("private_key", "app_certificate", "alipay_root_certificate", "alipay_certificates")
    refuse_incomplete(account, needed, secrets, problems)


def _pay_in_problems(account: RailAccount) -> list[Problem]:
    problems: list[Problem] = []
    given = account.settings
    if not set(offered(account)) <= set(METHODS):
        problems.append(
            Problem("/settings/payin_methods", f"Methods are: {', '.join(METHODS)}; with commas.")
        )
    if given.get("payin", "").strip() not in {"", *PAY_IN}:
        problems.append(Problem("/settings/payin", f"It is one of: {', '.join(PAY_IN)}."))
    seller = given.get("seller_id", "").strip()
    if seller and _SELLER.match(seller) is None:
        problems.append(Problem("/settings/seller_id", "It is 2088 and twelve digits."))
    address = given.get("notify_url", "").strip()
    if address and not address.startswith(("https://", "http://")):
        problems.append(Problem("/settings/notify_url", "Write an address, beginning with http."))
    return problems


def _usable(deps: RailDeps, account: RailAccount, name: str, read: Callable[[str], T]) -> T:
    """What is read from a secret. Raises NeverSent `rail-secret-missing` if it is no such thing."""
    try:
        return read(secret(deps, account, name))
    except rsa.UnusableError as error:
        raise meaning.error(
            Kind.SECRET, f"The secret {name!r} of {account.name} cannot be used: {error}."
        ) from None
