"""Whatever is sent to the address for messages about pay-in, or answered, is read or refused."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.support import deps
from tests.unit.test_wechat_payin import ACCOUNT, NOW, OLD, old, told

from paymaster.kernel.errors import Refusal, Unauthenticated
from paymaster.rails.alipay import notices as alipay_notices
from paymaster.rails.alipay import payin_wire as alipay
from paymaster.rails.wechat import payin_notices, payin_wire, v2
from paymaster.rails.yuan import UnreadableError, from_beijing

KEY = secrets.token_hex(16)
KEYED = replace(deps(), secret=lambda _: KEY)

words = st.one_of(
    st.text(max_size=20),
    st.sampled_from([
        "SUCCESS", "REFUND", "TRADE_SUCCESS", "TRADE_CLOSED", "REFUND_SUCCESS", "CNY", "USD",
        "0001-01-01 00:00:00", "9999-12-31T23:59:59-12:00", "20141030133525", "99999999999999",
        "1e400", "NaN", "-0.01", "0.001", "٣", "10.00",
    ]),
)  # fmt: skip
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
V3 = (
    "trade_state", "amount", "success_time", "transaction_id", "promotion_detail", "out_trade_no",
    "refund_status", "out_refund_no", "refund_id", "appid", "mchid",
)  # fmt: skip
ALIPAY = (
    "trade_status", "total_amount", "receipt_amount", "buyer_pay_amount", "refund_fee",
    "send_pay_date", "gmt_payment", "gmt_refund", "trade_no", "trans_currency", "refund_status",
    "out_request_no", "refund_amount", "gmt_refund_pay", "out_trade_no",
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(V3), values))
def test_wechats_words_in_any_shape(change: dict[str, Any]) -> None:
    found = told(**change)
    with suppress(UnreadableError):
        payin_wire.transaction(found, ACCOUNT)
    with suppress(UnreadableError):
        payin_wire.refund_told(found)


@given(
    st.dictionaries(st.sampled_from([*V3, "total_fee", "settlement_total_fee", "time_end"]), words)
)
def test_wechats_old_words_in_any_shape(change: dict[str, str]) -> None:
    with suppress(UnreadableError):
        payin_wire.old_transaction(old(**change), OLD, "SUCCESS")


@given(st.dictionaries(st.sampled_from(ALIPAY), values))
def test_alipays_words_in_any_shape(change: dict[str, Any]) -> None:
    found = {"out_trade_no": "1", "trade_status": "TRADE_SUCCESS", "total_amount": "1.00"} | change
    with suppress(UnreadableError):
        alipay.charge(found)
    with suppress(UnreadableError):
        alipay.refund(found, "1")


@given(
    st.binary(max_size=400) | st.text(max_size=200).map(lambda text: f"<xml>{text}</xml>".encode())
)
def test_an_old_notice_that_nobody_signed_is_refused(body: bytes) -> None:
    with pytest.raises((Refusal, Unauthenticated)):
        payin_notices.read(KEYED, OLD, {}, body, NOW)


ENCODINGS = [
    "no-such", "base64", "zlib", "rot13", "utf-7", "gbk", "idna", "punycode", "undefined", "mbcs",
]  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_xml_that_claims_an_odd_encoding_is_refused(encoding: str) -> None:
    body = f'<?xml version="1.0" encoding="{encoding}"?><xml><a>\x81</a></xml>'.encode("latin-1")
    with pytest.raises(UnreadableError):
        v2.read(body)
    with pytest.raises((Refusal, Unauthenticated)):
        payin_notices.read(KEYED, OLD, {}, body, NOW)


@given(
    st.binary(max_size=200)
    | st.sampled_from([*ENCODINGS, "%00", "x" * 5000, "..%2F..", "é", "%ff"]).map(
        lambda name: f"charset={name}&a=%81&b=%FF&sign=AA==&sign_type=RSA2".encode()
    )
)
def test_a_form_that_nobody_signed_is_refused(body: bytes) -> None:
    account = replace(ACCOUNT, rail="alipay")
    with pytest.raises((Refusal, Unauthenticated)):
        alipay_notices.signed_form(KEYED, account, body)
    with suppress(ValueError, LookupError):
        alipay_notices._params(body)


@pytest.mark.parametrize(
    "written", ["0001-01-01 00:00:00", "0001-01-01T00:00:00+08:00", "9999-12-31T23:59:59-12:00"]
)
def test_a_time_that_no_calendar_holds_is_no_time(written: str) -> None:
    assert from_beijing(written) is None
