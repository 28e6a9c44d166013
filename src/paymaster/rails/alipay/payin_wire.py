"""Trades and refunds as the provider describes them, into our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from paymaster.kernel.money import Money
from paymaster.rails.payin import ChargeOutcome, ChargeVerdict, RefundOutcome, RefundVerdict
from paymaster.rails.yuan import CNY, UnreadableError, from_beijing, some_text, text, yuan

REFUNDED: Final = "REFUND_SUCCESS"
_CLOSED: Final = "TRADE_CLOSED"
_STATUS: Final[Mapping[str, ChargeVerdict]] = {
    "WAIT_BUYER_PAY": ChargeVerdict.OPEN,
    "TRADE_SUCCESS": ChargeVerdict.PAID,
    "TRADE_FINISHED": ChargeVerdict.PAID,
    _CLOSED: ChargeVerdict.CLOSED,
}
_PAID_AT: Final = ("send_pay_date", "gmt_payment")
_GIVEN_BACK_AT: Final = ("gmt_refund",)
_PAID: Final = ("receipt_amount", "buyer_pay_amount", "refund_fee")


def charge(found: Mapping[str, object]) -> ChargeOutcome:
    """A trade, from a query or a message. Raises UnreadableError.

    TRADE_CLOSED is said of a trade that nobody paid, and of one that was paid and given back in
    full: what shows that it was paid makes the difference. A status that is not in the provider's
    list proves nothing.
    """
    key, status = text(found, "out_trade_no"), text(found, "trade_status")
    verdict = _STATUS.get(status, ChargeVerdict.UNKNOWN)
    if status == _CLOSED and _was_paid(found):
        verdict = ChargeVerdict.PAID
    said_at = next((at for name in _PAID_AT if (at := some_text(found, name))), None)
    if verdict is ChargeVerdict.CLOSED:
        said_at = some_text(found, "gmt_close")
    asked_for = _asked_for(found)
    return ChargeOutcome(
        key=key,
        verdict=verdict,
        provider_id=some_text(found, "trade_no"),
        amount=asked_for,
        code=status if verdict is ChargeVerdict.UNKNOWN else None,
        detail=None if asked_for else "we are to get less than was asked for",
        occurred_at=from_beijing(said_at),
    )


def refund(found: Mapping[str, object], key: str) -> RefundOutcome:
    """What the look-up of a refund says; with no status there is none yet. Raises UnreadableError.

    An answer that has the number but no status is not taken as done.
    """
    status, number = some_text(found, "refund_status"), some_text(found, "out_request_no")
    if status is None:
        verdict = RefundVerdict.PROCESSING if number else RefundVerdict.NOT_FOUND
        return RefundOutcome(key, verdict, detail="the provider says nothing of it")
    if number != key:
        return RefundOutcome.unknown(key, "it is about another refund")
    done = status == REFUNDED
    return RefundOutcome(
        key=key,
        verdict=RefundVerdict.DONE if done else RefundVerdict.UNKNOWN,
        provider_id=some_text(found, "trade_no"),
        amount=amount(found, "refund_amount"),
        code=None if done else status,
        occurred_at=from_beijing(some_text(found, "gmt_refund_pay")),
    )


def amount(found: Mapping[str, object], name: str) -> Money | None:
    """Yuan, as a text or, as the new interface's own examples have it, a number.

    Raises UnreadableError.
    """
    value = found.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UnreadableError(f"{name} is no amount")
    money = yuan(value if isinstance(value, str) else repr(value))
    if money.minor < 0:
        raise UnreadableError(f"{name} is negative")
    return money


def _asked_for(found: Mapping[str, object]) -> Money | None:
    """The whole amount; None if we are to get less of it, as with a coupon that we bear."""
    currency = some_text(found, "trans_currency")
    if currency not in {None, CNY}:
        raise UnreadableError(f"the amount is in {str(currency)[:8]}")
    total = amount(found, "total_amount")
    if total is None:
        raise UnreadableError("it has no total_amount")
    received = amount(found, "receipt_amount")
    short = received is not None and received.minor and received.minor < total.minor
    return None if short else total


def _was_paid(found: Mapping[str, object]) -> bool:
    if any(some_text(found, name) for name in (*_PAID_AT, *_GIVEN_BACK_AT)):
        return True
    sums = (amount(found, name) for name in _PAID)
    return any(money is not None and money.minor > 0 for money in sums)
