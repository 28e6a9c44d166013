"""What Alipay's words about trades and refunds mean, in every shape in which they come."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, date, datetime
from typing import Any

import pytest

from paymaster.kernel.errors import NeverSent, RailUnknown
from paymaster.kernel.money import Money
from paymaster.rails.alipay import log, payin_codes, payin_wire
from paymaster.rails.alipay.calls import Said
from paymaster.rails.alipay.codes import DOOR
from paymaster.rails.base import LineKind, RailAccount
from paymaster.rails.failures import dictionary
from paymaster.rails.payin import ChargeVerdict, RefundVerdict
from paymaster.rails.yuan import UnreadableError

KEY = "01000WDFTJCD000"
OTHER = "01000WDFTJCD001"
TRADE = {"out_trade_no": KEY, "trade_no": "2026", "total_amount": "12.34"}


def trade(**more: Any) -> dict[str, Any]:
    return {**TRADE, **more}


@pytest.mark.parametrize(
    ("more", "verdict"),
    [
        ({"trade_status": "WAIT_BUYER_PAY"}, ChargeVerdict.OPEN),
        ({"trade_status": "TRADE_SUCCESS"}, ChargeVerdict.PAID),
        ({"trade_status": "TRADE_FINISHED"}, ChargeVerdict.PAID),
        ({"trade_status": "TRADE_CLOSED"}, ChargeVerdict.CLOSED),
        ({"trade_status": "TRADE_CLOSED", "receipt_amount": "0.00"}, ChargeVerdict.CLOSED),
        ({"trade_status": "TRADE_CLOSED", "send_pay_date": "2026-03-01 12:00:00"},
         ChargeVerdict.PAID),
        ({"trade_status": "TRADE_CLOSED", "gmt_payment": "2026-03-01 12:00:00"},
         ChargeVerdict.PAID),
        ({"trade_status": "TRADE_CLOSED", "gmt_refund": "2026-03-01 12:00:00.123"},
         ChargeVerdict.PAID),
        ({"trade_status": "TRADE_CLOSED", "buyer_pay_amount": "0.01"}, ChargeVerdict.PAID),
        ({"trade_status": "TRADE_CLOSED", "refund_fee": "12.34"}, ChargeVerdict.PAID),
        ({"trade_status": "TRADE_PENDING"}, ChargeVerdict.UNKNOWN),
        ({"trade_status": "trade_success"}, ChargeVerdict.UNKNOWN),
    ],
)  # fmt: skip
def test_a_status_and_what_is_beside_it(more: dict[str, Any], verdict: ChargeVerdict) -> None:
    outcome = payin_wire.charge(trade(**more))
    assert (outcome.key, outcome.verdict) == (KEY, verdict)
    assert (outcome.code is None) == (verdict is not ChargeVerdict.UNKNOWN)


@pytest.mark.parametrize("written", ["12.34", 12.34, "12.340"])
def test_an_amount_is_a_text_or_a_number(written: object) -> None:
    outcome = payin_wire.charge(trade(trade_status="TRADE_SUCCESS", total_amount=written))
    assert outcome.amount == Money(1234, "CNY")


def test_every_number_with_two_decimals_is_read_to_the_fen() -> None:
    fens = itertools.chain(range(20_000), range(10**10 - 500, 10**10 + 1))
    for fen in fens:
        found = json.loads(f'{{"sum": {fen // 100}.{fen % 100:02}}}')
        assert payin_wire.amount(found, "sum") == Money(fen, "CNY")


@pytest.mark.parametrize(
    "more",
    [
        {"total_amount": ""},
        {"total_amount": None},
        {"total_amount": "-12.34"},
        {"total_amount": "12.345"},
        {"total_amount": 12.345},
        {"total_amount": 1e300},
        {"total_amount": True},
        {"total_amount": ["12.34"]},
        {"total_amount": float("nan")},
        {"trans_currency": "USD"},
        {"receipt_amount": "much"},
        {"out_trade_no": ""},
        {"out_trade_no": 7},
        {"trade_status": None},
        {"trade_no": 7},
    ],
)
def test_what_cannot_be_read_is_not_guessed(more: dict[str, Any]) -> None:
    with pytest.raises(UnreadableError):
        payin_wire.charge(trade(**{"trade_status": "TRADE_SUCCESS", **more}))


@pytest.mark.parametrize(
    ("received", "amount"),
    [
        ("12.34", Money(1234, "CNY")),
        ("12.33", None),
        ("0.00", Money(1234, "CNY")),
        ("", Money(1234, "CNY")),
    ],
)
def test_what_we_get_less_of_is_not_paid_in_full(received: str, amount: Money | None) -> None:
    found = trade(trade_status="TRADE_SUCCESS", receipt_amount=received)
    outcome = payin_wire.charge(found)
    assert (outcome.verdict, outcome.amount) == (ChargeVerdict.PAID, amount)
    assert (outcome.detail is None) == (amount is not None)


def test_when_it_was_paid_is_beijings_time() -> None:
    found = trade(trade_status="TRADE_SUCCESS", send_pay_date="2026-03-01 12:00:00")
    assert payin_wire.charge(found).occurred_at == datetime(2026, 3, 1, 4, tzinfo=UTC)


REFUND = {"out_trade_no": KEY, "out_request_no": OTHER, "refund_amount": "1.00"}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ({**REFUND, "refund_status": "REFUND_SUCCESS"}, RefundVerdict.DONE),
        ({**REFUND, "refund_status": "REFUND_FAIL"}, RefundVerdict.UNKNOWN),
        ({**REFUND, "refund_status": "REFUND_SUCCESS", "out_request_no": KEY},
         RefundVerdict.UNKNOWN),
        ({**REFUND, "refund_status": "REFUND_SUCCESS", "out_request_no": None},
         RefundVerdict.UNKNOWN),
        (REFUND, RefundVerdict.PROCESSING),
        ({"out_trade_no": KEY}, RefundVerdict.NOT_FOUND),
        ({}, RefundVerdict.NOT_FOUND),
    ],
)  # fmt: skip
def test_a_refund_is_done_when_the_provider_says_so_of_this_one(
    found: dict[str, Any], verdict: RefundVerdict
) -> None:
    outcome = payin_wire.refund(found, OTHER)
    assert (outcome.key, outcome.verdict) == (OTHER, verdict)


@pytest.mark.parametrize("code", sorted(payin_codes.TURNED_AWAY))
def test_the_door_is_believed_unsigned_and_the_rest_only_signed(code: str) -> None:
    for written in (code, f"isv.{code.lower().replace('_', '-')}"):
        spelled = code if written == code else "ACQ." + code
        signed = Said(400, genuine=True, done=False, code=spelled, found={})
        assert isinstance(payin_codes.failure(signed), NeverSent)
    unsigned = Said(403, genuine=False, done=False, code=code, found={})
    wanted = NeverSent if code in DOOR else RailUnknown
    assert type(payin_codes.failure(unsigned)) is wanted


@pytest.mark.parametrize(
    "said",
    [
        Said(200, genuine=False, done=False, code=None, found={}),
        Said(202, genuine=True, done=False, code=None, found={}),
        Said(302, genuine=True, done=False, code=None, found={}),
        Said(400, genuine=True, done=False, code="ACQ.SELLER_BALANCE_NOT_ENOUGH", found={}),
        Said(400, genuine=True, done=False, code="ACQ.TRADE_HAS_FINISHED", found={}),
        Said(400, genuine=True, done=False, code="NEVER_HEARD_OF", found={}),
        Said(400, genuine=False, done=False, code=None, found={}),
        Said(401, genuine=False, done=False, code=None, found={}),
        Said(403, genuine=True, done=False, code=None, found={}),
        Said(429, genuine=False, done=False, code=None, found={}),
        Said(429, genuine=False, done=False, code="APP_CALL_LIMITED", found={}),
        Said(500, genuine=True, done=False, code="SYSTEM_ERROR", found={}),
        Said(503, genuine=False, done=False, code=None, found={}),
    ],
)
def test_no_other_answer_says_no(said: Said) -> None:
    assert type(payin_codes.failure(said)) is RailUnknown


def test_every_code_that_decides_something_has_words() -> None:
    known = dictionary("alipay").keys()
    quiet = {"REASON_ILLEGAL_STATUS", "REASON_TRADE_STATUS_INVALID"}
    """Only ever the reason for another look-up."""
    decides = payin_codes.NOT_FOUND | payin_codes.NOT_WAITING | payin_codes.TURNED_AWAY
    assert decides - known == quiet


LINE = {
    "account_log_id": "1", "trans_dt": "2026-03-01 12:00:00", "trans_amount": "1.00",
    "balance": "5.00", "direction": "支出", "merchant_order_no": KEY,
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "kind", "minor", "reference"),
    [
        ({"type": "在线支付", "direction": "收入"}, LineKind.INCOMING, 100, KEY),
        ({"type": "交易退款", "trans_memo": OTHER}, LineKind.INCOMING, -100, OTHER),
        ({"type": "交易退款", "trans_memo": "退款"}, LineKind.INCOMING, -100, KEY),
        ({"type": "交易退款"}, LineKind.INCOMING, -100, KEY),
        ({"type": "收费"}, LineKind.FEE, -100, KEY),
        ({"type": "转账", "trans_memo": OTHER}, LineKind.SET_APART, -100, KEY),
        (
            {"type": "交易退款", "direction": "收入", "trans_memo": "x"},
            LineKind.GIVEN_BACK,
            100,
            KEY,
        ),
    ],
)
def test_what_a_line_of_the_log_is(
    more: dict[str, str], kind: LineKind, minor: int, reference: str
) -> None:
    day, app_id = date(2026, 3, 1), "2021000000000001"
    account = RailAccount(1, "alipay", "alipay", "CNY", {"app_id": app_id})
    body = log.write(app_id, day, [{**LINE, **more}])
    (statement,) = log.statement(account, "x.json", day, log.entries(body, app_id, day))
    (line,) = statement.lines
    assert (line.kind, line.amount, line.reference) == (kind, Money(minor, "CNY"), reference)
