"""Money that goes back to a payer: the same number gives back once, however often it is sent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

from paymaster.kernel.errors import RailError
from paymaster.rails import meaning
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import RailDeps
from paymaster.rails.meaning import Kind
from paymaster.rails.payin import RefundOrder, RefundOutcome, RefundVerdict
from paymaster.rails.wechat import calls, payin_codes, payin_old, payin_wire, wire
from paymaster.rails.wechat.payin import shortened
from paymaster.rails.wechat.payin_settings import Version, told_at
from paymaster.rails.wechat.payin_settings import version as api_version
from paymaster.rails.wechat.query import REMEMBERS
from paymaster.rails.yuan import CNY, UnreadableError, older_than, text

REFUNDS: Final = "/v3/refund/domestic/refunds"
REFUND, REFUND_QUERY = "/secapi/pay/refund", "/pay/refundquery"
_REASON_BYTES: Final = 80


async def refund(deps: RailDeps, account: RailAccount, order: RefundOrder) -> RefundOutcome:
    """See TakesPayments. The answer says that it is taken in, and nothing of its end."""
    asking = _refund if api_version(account) is Version.V3 else _refund_old
    try:
        found = await asking(deps, account, order)
    except UnreadableError as error:
        raise meaning.error(Kind.MALFORMED, f"The answer cannot be read: {error}.") from None
    return replace(found, verdict=RefundVerdict.PROCESSING, code=None, occurred_at=None)


async def _refund(deps: RailDeps, account: RailAccount, order: RefundOrder) -> RefundOutcome:
    reason = shortened(order.reason, _REASON_BYTES)
    body: dict[str, Any] = {
        "out_trade_no": order.charge_key,
        "out_refund_no": order.key,
        "notify_url": told_at(account),
        "amount": {"refund": order.amount.minor, "total": order.charged.minor, "currency": CNY},
        **({"reason": reason} if reason else {}),
    }
    said = await calls.ask(deps, account, "POST", REFUNDS, wire.canonical(body))
    if not said.good:
        raise payin_codes.failure(said)
    return payin_wire.refund(said.found, order)


async def _refund_old(deps: RailDeps, account: RailAccount, order: RefundOrder) -> RefundOutcome:
    reason = shortened(order.reason, _REASON_BYTES)
    fields = {
        "out_trade_no": order.charge_key,
        "out_refund_no": order.key,
        "total_fee": str(order.charged.minor),
        "refund_fee": str(order.amount.minor),
        "notify_url": told_at(account),
        **({"refund_desc": reason} if reason else {}),
    }
    said = await payin_old.done(deps, account, REFUND, fields, certified=True)
    same = ("out_trade_no", "out_refund_no", "total_fee", "refund_fee")
    if any(text(said, name) != fields[name] for name in same):
        raise UnreadableError("it is about another refund")
    number = text(said, "refund_id")
    return RefundOutcome(order.key, RefundVerdict.PROCESSING, number, amount=order.amount)


async def find_refund(deps: RailDeps, account: RailAccount, order: RefundOrder) -> RefundOutcome:
    """See TakesPayments."""
    key = order.key
    try:
        finding = _find if api_version(account) is Version.V3 else _find_old
        found = await finding(deps, account, order)
    except RailError as error:
        return RefundOutcome.unknown(key, error.detail, error.extra.get("code"))
    except UnreadableError as error:
        return RefundOutcome.unknown(key, str(error))
    if found.verdict is RefundVerdict.NOT_FOUND and older_than(key, REMEMBERS, deps.clock.now()):
        return RefundOutcome.unknown(key, "too old to be found for sure", found.code)
    return found


async def _find(deps: RailDeps, account: RailAccount, order: RefundOrder) -> RefundOutcome:
    said = await calls.ask(deps, account, "GET", f"{REFUNDS}/{quote(order.key, safe='')}")
    if payin_codes.absent(said, payin_codes.NO_REFUND):
        return RefundOutcome(order.key, RefundVerdict.NOT_FOUND, code=said.code)
    if not said.good:
        raise payin_codes.failure(said)
    return payin_wire.refund(said.found, order)


async def _find_old(deps: RailDeps, account: RailAccount, order: RefundOrder) -> RefundOutcome:
    said = await payin_old.ask(deps, account, REFUND_QUERY, {"out_refund_no": order.key})
    code = said.get("err_code") or None
    if said.get("result_code") == "FAIL" and code in payin_codes.NO_REFUND:
        return RefundOutcome(order.key, RefundVerdict.NOT_FOUND, code=code)
    if said.get("result_code") != "SUCCESS":
        raise payin_codes.failure_old(code)
    return payin_wire.old_refund(said, account, order)
