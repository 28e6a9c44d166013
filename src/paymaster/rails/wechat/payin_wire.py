"""Payments and refunds as the provider describes them, into our words.

A state that is not in a list proves nothing. What is about another merchant, app or number is
refused here; whether the amount is the right one the core decides, which knows what it asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from paymaster.kernel.money import Money
from paymaster.rails.base import RailAccount
from paymaster.rails.payin import (
    ChargeOutcome,
    ChargeVerdict,
    RefundOrder,
    RefundOutcome,
    RefundVerdict,
)
from paymaster.rails.wechat.wire import listed
from paymaster.rails.yuan import (
    CNY,
    UnreadableError,
    fen,
    from_beijing,
    members,
    some_text,
    text,
)

TRADE_STATES: Final[Mapping[str, ChargeVerdict]] = {
    "SUCCESS": ChargeVerdict.PAID,
    "REFUND": ChargeVerdict.PAID,
    "NOTPAY": ChargeVerdict.OPEN,
    "USERPAYING": ChargeVerdict.OPEN,
    # The bank refused; that nobody can try again is said by CLOSED alone.
    "PAYERROR": ChargeVerdict.OPEN,
    "CLOSED": ChargeVerdict.CLOSED,
    "REVOKED": ChargeVerdict.CLOSED,
}
_NO_CODE: Final = frozenset({"SUCCESS", "REFUND", "NOTPAY", "USERPAYING"})

REFUND_STATES: Final[Mapping[str, RefundVerdict]] = {
    "SUCCESS": RefundVerdict.DONE,
    "PROCESSING": RefundVerdict.PROCESSING,
    "ABNORMAL": RefundVerdict.STUCK,
    "CLOSED": RefundVerdict.FAILED,
    "CLOSE": RefundVerdict.FAILED,
}
OLD_REFUND_STATES: Final[Mapping[str, RefundVerdict]] = {
    "SUCCESS": RefundVerdict.DONE,
    "PROCESSING": RefundVerdict.PROCESSING,
    "CHANGE": RefundVerdict.STUCK,
    "REFUNDCLOSE": RefundVerdict.FAILED,
}
_QUIET: Final = frozenset({RefundVerdict.DONE, RefundVerdict.PROCESSING})

_NOT_SETTLED: Final = "a voucher was used for which the merchant is not paid"


def transaction(found: Mapping[str, object], account: RailAccount) -> ChargeOutcome:
    """A payment as APIv3 describes it, in an answer or a notice. Raises UnreadableError."""
    _ours(found, account, "mchid")
    state = text(found, "trade_state")
    given = found.get("amount")
    amount = None if given is None else _total(members(given, "amount"))
    vouchers = _has_unpaid_voucher(found)
    return _charge(
        text(found, "out_trade_no"),
        state,
        some_text(found, "transaction_id"),
        None if vouchers else amount,
        from_beijing(some_text(found, "success_time")),
        _NOT_SETTLED if vouchers else None,
    )


def old_transaction(found: Mapping[str, str], account: RailAccount, state: str) -> ChargeOutcome:
    """A payment as APIv2 describes it. Raises UnreadableError."""
    _ours(found, account, "mch_id")
    _yuan_only(found.get("fee_type"))
    total, settled = _digits(found, "total_fee"), _digits(found, "settlement_total_fee")
    short = settled is not None and settled != total
    return _charge(
        text(found, "out_trade_no"),
        state,
        found.get("transaction_id") or None,
        None if short else total,
        _packed(found.get("time_end")),
        _NOT_SETTLED if short else None,
    )


def refund(found: Mapping[str, object], order: RefundOrder) -> RefundOutcome:
    """A refund as APIv3 describes it when it is asked about. Raises UnreadableError."""
    said = refund_told(found, state="status")
    given = members(found.get("amount"), "amount")
    return _same(said, order, text(found, "out_trade_no"), fen(given, "total"))


def refund_told(found: Mapping[str, object], *, state: str = "refund_status") -> RefundOutcome:
    """A refund as a notice of APIv3 tells of it. Raises UnreadableError."""
    given = members(found.get("amount"), "amount")
    _yuan_only(some_text(given, "currency"))
    status = text(found, state)
    verdict = REFUND_STATES.get(status, RefundVerdict.UNKNOWN)
    return RefundOutcome(
        key=text(found, "out_refund_no"),
        verdict=verdict,
        provider_id=some_text(found, "refund_id"),
        amount=fen(given, "refund"),
        code=None if verdict in _QUIET else status,
        occurred_at=from_beijing(some_text(found, "success_time")),
    )


def old_refund(found: Mapping[str, str], account: RailAccount, order: RefundOrder) -> RefundOutcome:
    """The refund of that number among those that APIv2 lists. Raises UnreadableError."""
    _ours(found, account, "mch_id")
    _yuan_only(found.get("fee_type"))
    places = [
        name.rpartition("_")[2]
        for name, value in found.items()
        if name.startswith("out_refund_no_") and value == order.key
    ]
    if len(places) != 1:
        raise UnreadableError("it does not list this refund once")
    place = places[0]
    status = text(found, f"refund_status_{place}")
    verdict = OLD_REFUND_STATES.get(status, RefundVerdict.UNKNOWN)
    amount, total = _digits(found, f"refund_fee_{place}"), _digits(found, "total_fee")
    if amount is None or total is None:
        raise UnreadableError("it does not say how much was given back")
    said = RefundOutcome(
        key=order.key,
        verdict=verdict,
        provider_id=found.get(f"refund_id_{place}") or None,
        amount=amount,
        code=None if verdict in _QUIET else status,
        occurred_at=from_beijing(found.get(f"refund_success_time_{place}") or None),
    )
    return _same(said, order, text(found, "out_trade_no"), total)


def _charge(
    key: str,
    state: str,
    number: str | None,
    amount: Money | None,
    paid: datetime | None,
    detail: str | None,
) -> ChargeOutcome:
    return ChargeOutcome(
        key=key,
        verdict=TRADE_STATES.get(state, ChargeVerdict.UNKNOWN),
        provider_id=number,
        amount=amount,
        code=None if state in _NO_CODE else state,
        detail=detail,
        occurred_at=paid,
    )


def _same(said: RefundOutcome, order: RefundOrder, charge: str, total: Money) -> RefundOutcome:
    """What was said, if it is about this very refund."""
    if said.key != order.key or charge != order.charge_key:
        raise UnreadableError("it is about another refund")
    if said.amount != order.amount or total != order.charged:
        raise UnreadableError("it is about another amount")
    return said


def _ours(found: Mapping[str, object], account: RailAccount, merchant: str) -> None:
    if text(found, merchant) != account.settings.get("mchid", "").strip():
        raise UnreadableError("it is about another merchant")
    # Not every answer names the app: the merchant's number says enough.
    if some_text(found, "appid") not in {None, account.settings.get("appid", "").strip()}:
        raise UnreadableError("it is about another app")


def _total(given: Mapping[str, object]) -> Money:
    _yuan_only(some_text(given, "currency"))
    return fen(given, "total")


def _yuan_only(currency: str | None) -> None:
    if currency not in {None, "", CNY}:
        raise UnreadableError("it is in another currency")


def _has_unpaid_voucher(found: Mapping[str, object]) -> bool:
    """Whether a part of the price was waived at the merchant's cost: nobody pays that part."""
    if found.get("promotion_detail") is None:
        return False
    return any(one.get("type") != "CASH" for one in listed(found, "promotion_detail"))


def _digits(found: Mapping[str, str], name: str) -> Money | None:
    given = found.get(name)
    if not given:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 16):
        raise UnreadableError(f"{name} is not a number of fen")
    return Money(int(given), CNY)


def _packed(written: str | None) -> datetime | None:
    """`20141030133525`, Beijing."""
    return from_beijing(f"{written[:8]}T{written[8:]}") if written else None
