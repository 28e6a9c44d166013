"""What the payer's side is given: a code to show, or parameters that are signed for the app."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from paymaster.rails import rsa
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import RailDeps, secret, setting
from paymaster.rails.payin import Charge, Checkout, Shows
from paymaster.rails.wechat import v2
from paymaster.rails.wechat.payin_settings import Channel, Version, digest_method
from paymaster.rails.wechat.settings import merchant

PREPAID_FOR: Final = timedelta(hours=2)
"""How long what the provider gave out opens its page."""

_APP_PACKAGE: Final = "Sign=WXPay"


def checkout(
    deps: RailDeps, account: RailAccount, charge: Charge, channel: Channel, api: Version, got: str
) -> Checkout:
    """From what the provider gave out: a code's content, or a `prepay_id`.

    Raises NeverSent for settings or secrets that are missing.
    """
    until = min(charge.expires_at, charge.created_at + PREPAID_FOR)
    if channel is Channel.NATIVE:
        return Checkout(Shows.QR, until, content=got)
    nonce, at = secrets.token_hex(16), deps.clock.now()
    if api is Version.V3:
        given = _signed(deps, account, channel, got, nonce, at)
    else:
        given = _digested(deps, account, channel, got, nonce, at)
    return Checkout(Shows.PARAMETERS, until, parameters=given)


def script_message(appid: str, timestamp: str, nonce: str, package: str) -> bytes:
    """What APIv3 wants signed for WeChat's script: four lines."""
    return f"{appid}\n{timestamp}\n{nonce}\n{package}\n".encode()


def app_message(appid: str, timestamp: str, nonce: str, prepay_id: str) -> bytes:
    """The same for a mobile app: its last line is the bare number."""
    return f"{appid}\n{timestamp}\n{nonce}\n{prepay_id}\n".encode()


def _signed(
    deps: RailDeps, account: RailAccount, channel: Channel, prepay: str, nonce: str, at: datetime
) -> Mapping[str, str]:
    who, appid = merchant(deps, account), setting(account, "appid")
    if channel is Channel.APP:
        found = _for_app(account, prepay, nonce, at)
        message = app_message(appid, found["timestamp"], nonce, prepay)
        return {**found, "sign": rsa.sign(who.key, message)}
    found = _for_script(account, prepay, nonce, at, "RSA")
    message = script_message(appid, found["timeStamp"], nonce, found["package"])
    return {**found, "paySign": rsa.sign(who.key, message)}


def _digested(
    deps: RailDeps, account: RailAccount, channel: Channel, prepay: str, nonce: str, at: datetime
) -> Mapping[str, str]:
    key, method = secret(deps, account, "apiv2_key").strip(), digest_method(account)
    if channel is Channel.APP:
        found = _for_app(account, prepay, nonce, at)
        return {**found, "sign": v2.digest(found, key, method)}
    found = _for_script(account, prepay, nonce, at, method)
    return {**found, "paySign": v2.digest(found, key, method)}


def _for_script(
    account: RailAccount, prepay: str, nonce: str, at: datetime, method: str
) -> dict[str, str]:
    return {
        "appId": setting(account, "appid"),
        "timeStamp": str(int(at.timestamp())),
        "nonceStr": nonce,
        "package": f"prepay_id={prepay}",
        "signType": method,
    }


def _for_app(account: RailAccount, prepay: str, nonce: str, at: datetime) -> dict[str, str]:
    return {
        "appid": setting(account, "appid"),
        "partnerid": setting(account, "mchid"),
        "prepayid": prepay,
        "package": _APP_PACKAGE,
        "noncestr": nonce,
        "timestamp": str(int(at.timestamp())),
    }
