"""Charges: whether one can go, opened, looked up, closed. What is said of them is proven by asking.

An order that nobody paid in time stays open until it is closed, and the answer to closing says
nothing: merchants have got it for numbers that never were. So each close is followed by a look-up.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import quote

from paymaster.kernel.errors import NeverSent, Problem, RailError, RailUnknown, Unprocessable
from paymaster.rails import meaning
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import RailDeps, setting
from paymaster.rails.meaning import Kind
from paymaster.rails.payin import Charge, ChargeOutcome, ChargeVerdict, Checkout
from paymaster.rails.wechat import calls, payin_codes, payin_old, payin_wire, wire
from paymaster.rails.wechat.payin_checkout import PREPAID_FOR, checkout
from paymaster.rails.wechat.payin_settings import Channel, Version, channel, methods, told_at
from paymaster.rails.wechat.payin_settings import version as api_version
from paymaster.rails.wechat.query import REMEMBERS
from paymaster.rails.yuan import BEIJING, CNY, UnreadableError, older_than, plain, text

TRANSACTIONS: Final = "/v3/pay/transactions"
ORDER, ORDER_QUERY, ORDER_CLOSE = "/pay/unifiedorder", "/pay/orderquery", "/pay/closeorder"

SHORTEST: Final = timedelta(minutes=1)
_DESCRIPTION_BYTES: Final = 127
_OPENID: Final = re.compile(r"[0-9A-Za-z_-]{1,128}\Z", re.ASCII)
_NOWHERE: Final = "127.0.0.1"


def check(account: RailAccount, charge: Charge) -> None:
    """See TakesPayments."""
    problems: list[Problem] = []
    method = methods(account).get(charge.method)
    if method is None:
        problems.append(Problem("/method", "This rail account does not offer the method."))
    if charge.amount.currency != CNY or account.currency != CNY:
        problems.append(Problem("/amount", "WeChat Pay takes CNY."))
    elif charge.amount.minor <= 0:
        problems.append(Problem("/amount", "The amount is not positive."))
    if not shortened(charge.description):
        problems.append(Problem("/description", "Write what is paid for, in words."))
    if not SHORTEST <= charge.expires_at - charge.created_at <= PREPAID_FOR:
        said = "WeChat Pay waits for a payment at least one minute, and two hours at most."
        problems.append(Problem("/expires_at", said))
    if method is not None and method.needs_payer and _OPENID.match(charge.payer or "") is None:
        problems.append(Problem("/payer", "Give the payer's openid in the account's app."))
    if charge.client_ip is not None and not _is_address(charge.client_ip):
        problems.append(Problem("/client_ip", "It is no IP address."))
    if problems:
        raise Unprocessable(
            "charge-refused", "WeChat Pay cannot be asked for this payment.", problems=problems
        )


def shortened(words: str, most: int = _DESCRIPTION_BYTES) -> str:
    """Words as the provider takes them. It does not say what it counts: bytes fit either way."""
    return plain(words, most).encode()[:most].decode(errors="ignore").strip()


async def open_charge(deps: RailDeps, account: RailAccount, charge: Charge) -> Checkout:
    """See TakesPayments."""
    api, way = api_version(account), channel(account, charge.method)
    opening = _open if api is Version.V3 else _open_old
    try:
        got = await opening(deps, account, charge, way)
    except UnreadableError as error:
        raise meaning.error(Kind.MALFORMED, f"The answer cannot be read: {error}.") from None
    try:
        return checkout(deps, account, charge, way, api, got)
    except NeverSent as error:
        # What lacks for the payer's side was not missed before the order had left.
        raise RailUnknown(error.slug, error.detail) from None


async def _open(deps: RailDeps, account: RailAccount, charge: Charge, way: Channel) -> str:
    body: dict[str, Any] = {
        "appid": setting(account, "appid"),
        "mchid": setting(account, "mchid"),
        "description": shortened(charge.description),
        "out_trade_no": charge.key,
        "time_expire": charge.expires_at.astimezone(BEIJING).isoformat(timespec="seconds"),
        "notify_url": told_at(account),
        "amount": {"total": charge.amount.minor, "currency": CNY},
        **({"payer": {"openid": charge.payer}} if way is Channel.JSAPI else {}),
    }
    target = f"{TRANSACTIONS}/{way.value}"
    said = await calls.ask(deps, account, "POST", target, wire.canonical(body))
    if not said.good:
        raise payin_codes.failure(said)
    return text(said.found, _gives(way))


async def _open_old(deps: RailDeps, account: RailAccount, charge: Charge, way: Channel) -> str:
    given = account.settings.get("client_ip", "").strip()
    fields = {
        "body": shortened(charge.description),
        "out_trade_no": charge.key,
        "total_fee": str(charge.amount.minor),
        "spbill_create_ip": charge.client_ip or given or _NOWHERE,
        "time_expire": charge.expires_at.astimezone(BEIJING).strftime("%Y%m%d%H%M%S"),
        "notify_url": told_at(account),
        "trade_type": way.value.upper(),
        **({"product_id": charge.key} if way is Channel.NATIVE else {}),
        **({"openid": charge.payer or ""} if way is Channel.JSAPI else {}),
    }
    said = await payin_old.done(deps, account, ORDER, fields)
    if said.get("trade_type") != fields["trade_type"]:
        raise UnreadableError("it is about another way to pay")
    return text(said, _gives(way))


def _gives(way: Channel) -> str:
    return "code_url" if way is Channel.NATIVE else "prepay_id"


async def find_charge(deps: RailDeps, account: RailAccount, key: str) -> ChargeOutcome:
    """See TakesPayments."""
    try:
        finding = _find if api_version(account) is Version.V3 else _find_old
        found = await finding(deps, account, key)
    except RailError as error:
        return ChargeOutcome.unknown(key, error.detail, error.extra.get("code"))
    except UnreadableError as error:
        return ChargeOutcome.unknown(key, str(error))
    if found.key != key:
        return ChargeOutcome.unknown(key, "it is about another charge")
    if found.verdict is ChargeVerdict.NOT_FOUND and older_than(key, REMEMBERS, deps.clock.now()):
        return ChargeOutcome.unknown(key, "too old to be found for sure", found.code)
    return found


async def _find(deps: RailDeps, account: RailAccount, key: str) -> ChargeOutcome:
    merchant = quote(setting(account, "mchid"), safe="")
    target = f"{TRANSACTIONS}/out-trade-no/{quote(key, safe='')}?mchid={merchant}"
    said = await calls.ask(deps, account, "GET", target)
    if payin_codes.absent(said, payin_codes.NO_CHARGE):
        return ChargeOutcome(key, ChargeVerdict.NOT_FOUND, code=said.code)
    if not said.good:
        raise payin_codes.failure(said)
    return payin_wire.transaction(said.found, account)


async def _find_old(deps: RailDeps, account: RailAccount, key: str) -> ChargeOutcome:
    said = await payin_old.ask(deps, account, ORDER_QUERY, {"out_trade_no": key})
    code = said.get("err_code") or None
    if said.get("result_code") == "FAIL" and code in payin_codes.NO_CHARGE:
        return ChargeOutcome(key, ChargeVerdict.NOT_FOUND, code=code)
    if said.get("result_code") != "SUCCESS":
        raise payin_codes.failure_old(code)
    return payin_wire.old_transaction(said, account, text(said, "trade_state"))


async def close_charge(deps: RailDeps, account: RailAccount, key: str) -> ChargeOutcome:
    """See TakesPayments. OPEN when it still is: its code says what closing met with."""
    met = await _ask_to_close(deps, account, key)
    found = await find_charge(deps, account, key)
    if found.verdict is ChargeVerdict.OPEN and met is not None:
        return replace(found, code=met)
    return found


async def _ask_to_close(deps: RailDeps, account: RailAccount, key: str) -> str | None:
    """Ask; what was said instead of yes is for people only."""
    try:
        if api_version(account) is Version.V2:
            await payin_old.done(deps, account, ORDER_CLOSE, {"out_trade_no": key})
            return None
        body = wire.canonical({"mchid": setting(account, "mchid")})
        target = f"{TRANSACTIONS}/out-trade-no/{quote(key, safe='')}/close"
        said = await calls.ask(deps, account, "POST", target, body)
    except RailError as error:
        return error.extra.get("code") or error.slug
    return None if said.good else said.code or str(said.status)


def _is_address(written: str) -> bool:
    try:
        ip_address(written)
    except ValueError:
        return False
    return True
