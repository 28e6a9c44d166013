"""Our accounts at WeChat Pay and Alipay, on both sides. Every key is made at the first run."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from paymaster.cli.demo import accounts, clocks
from paymaster.cli.demo.scene import ALIPAY, WECHAT, Story

MCHID: Final = "1900000109"
APPID: Final = "wx0123456789abcdef"
APP_ID: Final = "2021000000000109"
SELLER_ID: Final = "2088000000000109"
OLDEST_DAYS: Final = 14
"""So long before the payouts the merchants put their own money in: before the days whose bills
Paymaster asks for, as with accounts that are older than the installation."""

_OWN_MONEY_MAJOR: Final = 1000
_NO_LIMIT: Final = 10**12
_SCENE: Final = "1000"
_WECHAT_SECRETS: Final = {
    "private_key": "wechat-private-key",
    "apiv3_key": "wechat-apiv3-key",
    "platform_keys": "wechat-platform-keys",
}
_ALIPAY_SECRETS: Final = {
    "private_key": "alipay-private-key",
    "app_certificate": "alipay-app-certificate",
    "alipay_root_certificate": "alipay-root-certificate",
    "alipay_certificates": "alipay-certificates",
}
_SCENE_INFOS: Final = (("活动名称", "有奖任务"), ("奖励说明", "完成任务的奖励"))


async def open_accounts(story: Story) -> None:
    """The bank, where the sponsor pays in, and a merchant at each provider that pays out."""
    await accounts.set_rules(story)
    await accounts.open_bank(story)
    if WECHAT in story.rails:
        await _open_wechat(story)
    if ALIPAY in story.rails:
        await _open_alipay(story)
    await clocks.sandbox_to(story, clocks.beijing(date.fromisoformat(story.state.funding_day), 12))


def first_day(payout_day: date) -> date:
    """The sandbox's first day."""
    return payout_day - timedelta(days=OLDEST_DAYS)


async def _open_wechat(story: Story) -> None:
    private, own = _key(story, "wechat-private-key"), accounts.hook(story, WECHAT)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    app_secret = _kept(story, "wechat-app-secret", _random)
    shown = await story.sandbox.post(
        "/_control/wechat/merchants",
        {
            "mchid": MCHID,
            "public_key": public.decode(),
            "apiv3_key": _kept(story, "wechat-apiv3-key", _random),
            "apiv2_key": _kept(story, "wechat-apiv2-key", _random),
            "appids": [APPID],
            "product": "transfer-bills",
            "notify_url": own,
            "payee_day": _NO_LIMIT,
            "merchant_day": _NO_LIMIT,
            "balances": {"OPERATION": _float(story)},
        },
    )
    await story.sandbox.post("/_control/wechat/apps", {"appid": APPID, "secret": app_secret})
    _keep(story, "wechat-platform-keys", json.dumps(shown["platform_keys"]))
    infos = [{"info_type": kind, "info_content": text} for kind, text in _SCENE_INFOS]
    settings = {
        "product": "transfer-bills",
        "url": story.addresses.wechat,
        "mchid": MCHID,
        "appid": APPID,
        "merchant_serial": str(shown["serial"]),
        "notify_url": own,
        "scene_id": _SCENE,
        "scene_infos": json.dumps(infos, ensure_ascii=False),
        "perception": "现金奖励",
    }
    await _take_on(story, WECHAT, "wechat-pay", settings, _WECHAT_SECRETS)
    page, names = "/connect/oauth2/authorize", {"app_secret": "wechat-app-secret"}
    await _offer_links(story, WECHAT, story.addresses.wechat, page, APPID, names)


async def _open_alipay(story: Story) -> None:
    private = _key(story, "alipay-private-key")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Demo Rewards")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    pem = request.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    body: dict[str, Any] = {
        "app_id": APP_ID,
        "seller_id": SELLER_ID,
        "opening_minor": _float(story),
        "gateway_url": accounts.hook(story, ALIPAY),
        "day_limit_minor": _NO_LIMIT,
        "payee_day_limit_minor": _NO_LIMIT,
    }
    # The certificate that was issued stays: one that is made anew would be another one.
    issued = story.secrets / "alipay-app-certificate"
    body |= {"certificate": issued.read_text()} if issued.exists() else {"request": pem.decode()}
    shown = await story.sandbox.post("/_control/alipay/apps", body)
    _keep(story, "alipay-app-certificate", shown["app_certificate"])
    _keep(story, "alipay-root-certificate", shown["alipay_root_certificate"])
    _keep(story, "alipay-certificates", json.dumps([shown["alipay_certificate"]]))
    # The file of a day: it is there once the day is over for the sandbox, as the log need not be.
    settings = {"url": story.addresses.alipay, "app_id": APP_ID, "statement": "csv"}
    await _take_on(story, ALIPAY, "alipay", settings, _ALIPAY_SECRETS)
    page = "/oauth2/publicAppAuthorize.htm"
    await _offer_links(story, ALIPAY, story.addresses.alipay, page, APP_ID, _ALIPAY_SECRETS)


async def _take_on(
    story: Story, name: str, rail: str, settings: Mapping[str, str], names: Mapping[str, str]
) -> None:
    await story.operator.put(
        f"/v1/rail-accounts/{name}",
        {
            "rail": rail,
            "currency": story.currency,
            "time_zone": clocks.ZONE,
            "payout_window": "always",
            "settings": dict(settings),
            "secrets": dict(names),
        },
    )


async def _offer_links(
    story: Story, name: str, url: str, page: str, app_id: str, names: Mapping[str, str]
) -> None:
    """Users show on the provider's own page which account is theirs."""
    settings = {"app_id": app_id, "authorize_url": f"{url}{page}", "api_url": url}
    body = {"settings": settings, "secrets": dict(names), "currency": story.currency}
    await story.operator.put(f"/v1/link-providers/{name}", body)


def _float(story: Story) -> int:
    """More than all that may be earned: the owner's own money, in minor units."""
    earned = story.reward.minor * len(story.answers)
    return earned + story.major(_OWN_MONEY_MAJOR).minor


def _keep(story: Story, name: str, value: str) -> None:
    accounts.keep_secret(story.secrets, name, value.encode())


def _kept(story: Story, name: str, make: Callable[[], str]) -> str:
    """A secret that is made at the first run and stays."""
    path = story.secrets / name
    if not path.exists():
        _keep(story, name, make())
    return path.read_text(encoding="utf-8")


def _random() -> str:
    return secrets.token_hex(16)


def _new_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _key(story: Story, name: str) -> rsa.RSAPrivateKey:
    found = serialization.load_pem_private_key(_kept(story, name, _new_key).encode(), None)
    assert isinstance(found, rsa.RSAPrivateKey)
    return found
