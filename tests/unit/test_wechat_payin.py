"""WeChat pay-in without a provider: what states mean, what is refused before anybody is asked."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paymaster.kernel.errors import Unprocessable
from paymaster.kernel.ids import reference
from paymaster.kernel.money import Money
from paymaster.rails.base import RailAccount
from paymaster.rails.payin import (
    Charge,
    ChargeVerdict,
    RefundOrder,
    RefundVerdict,
)
from paymaster.rails.wechat import (
    payin,
    payin_settings,
    payin_wire,
    settings,
)
from paymaster.rails.yuan import UnreadableError

NOW = datetime(2026, 3, 1, 4, 0, tzinfo=UTC)
APPID, MCHID = "wx0123456789abcdef", "1900000001"
OURS, BACK = reference(1, 77), reference(1, 78)
ACCOUNT = RailAccount(
    1, "till", "wechat-pay", "CNY",
    {
        "product": "none", "payin": "v3", "url": "https://pay.example", "mchid": MCHID,
        "url_tls": "https://pay.example", "appid": APPID, "merchant_serial": "AB12",
        "notify_url": "https://us.example/v1/hooks/acme/live/till", "bill_account": "BASIC",
    },
    {name: name for name in (
        "private_key", "apiv3_key", "platform_keys", "apiv2_key", "client_identity",
    )},
)  # fmt: skip
OLD = replace(ACCOUNT, settings={**ACCOUNT.settings, "payin": "v2"})


def told(**change: Any) -> dict[str, Any]:
    """A payment as APIv3 describes it."""
    return {
        "appid": APPID, "mchid": MCHID, "out_trade_no": OURS, "trade_state": "SUCCESS",
        "transaction_id": "42", "success_time": "2026-03-01T12:00:00+08:00",
        "amount": {"total": 1000, "payer_total": 1000, "currency": "CNY"}, **change,
    }  # fmt: skip


def old(**change: str) -> dict[str, str]:
    """The same in APIv2."""
    return {
        "appid": APPID, "mch_id": MCHID, "out_trade_no": OURS, "total_fee": "1000",
        "fee_type": "CNY", "transaction_id": "42", "time_end": "20260301120000", **change,
    }  # fmt: skip


STATES = {
    "SUCCESS": ChargeVerdict.PAID,
    "REFUND": ChargeVerdict.PAID,
    "NOTPAY": ChargeVerdict.OPEN,
    "USERPAYING": ChargeVerdict.OPEN,
    "PAYERROR": ChargeVerdict.OPEN,
    "CLOSED": ChargeVerdict.CLOSED,
    "REVOKED": ChargeVerdict.CLOSED,
    "ACCEPT": ChargeVerdict.UNKNOWN,
    "success": ChargeVerdict.UNKNOWN,
    "NEVER_HEARD_OF": ChargeVerdict.UNKNOWN,
}


@pytest.mark.parametrize("state", STATES)
def test_each_state_means_the_same_in_both_versions(state: str) -> None:
    new = payin_wire.transaction(told(trade_state=state), ACCOUNT)
    assert new == payin_wire.old_transaction(old(), ACCOUNT, state)
    assert (new.key, new.verdict, new.amount) == (OURS, STATES[state], Money(1000, "CNY"))
    assert (new.provider_id, new.occurred_at) == ("42", NOW)


def test_an_unpaid_charge_has_neither_number_nor_time() -> None:
    bare = {"mchid": MCHID, "out_trade_no": OURS, "trade_state": "NOTPAY"}
    said = payin_wire.transaction(bare, ACCOUNT)
    assert (said.verdict, said.amount, said.provider_id) == (ChargeVerdict.OPEN, None, None)


@pytest.mark.parametrize(
    "change",
    [
        {"mchid": "1900000002"},
        {"mchid": None},
        {"appid": "wxffffffffffffffff"},
        {"out_trade_no": ""},
        {"trade_state": None},
        {"amount": {"total": 1000, "currency": "USD"}},
        {"amount": {"total": "1000"}},
        {"amount": {"total": 10.5}},
        {"amount": {"total": True}},
        {"amount": {"total": -1}},
        {"amount": [1000]},
        {"promotion_detail": "NOCASH"},
    ],
)
def test_what_is_not_about_us_is_unreadable(change: dict[str, Any]) -> None:
    with pytest.raises(UnreadableError):
        payin_wire.transaction(told(**change), ACCOUNT)


@pytest.mark.parametrize(
    "change",
    [
        {"mch_id": "1900000002"},
        {"appid": "wxffffffffffffffff"},
        {"fee_type": "HKD"},
        {"total_fee": "10.00"},
        {"total_fee": "1e3"},
        {"total_fee": "-1"},
        {"out_trade_no": ""},
    ],
)
def test_what_is_not_about_us_is_unreadable_in_apiv2(change: dict[str, str]) -> None:
    with pytest.raises(UnreadableError):
        payin_wire.old_transaction(old(**change), ACCOUNT, "SUCCESS")


@pytest.mark.parametrize(
    ("voucher", "full"), [("CASH", True), ("NOCASH", False), (None, False), ("NEWER", False)]
)
def test_a_voucher_at_our_cost_is_not_a_payment_in_full(voucher: str | None, full: bool) -> None:
    detail = [{"type": "CASH", "amount": 1}, {"type": voucher, "amount": 100}]
    said = payin_wire.transaction(told(promotion_detail=detail), ACCOUNT)
    assert said.verdict is ChargeVerdict.PAID
    assert (said.amount == Money(1000, "CNY")) is full
    assert (said.detail is None) is full


@pytest.mark.parametrize(("settled", "full"), [("1000", True), ("900", False), ("", True)])
def test_what_is_settled_short_is_not_paid_in_full_in_apiv2(settled: str, full: bool) -> None:
    said = payin_wire.old_transaction(old(settlement_total_fee=settled), ACCOUNT, "SUCCESS")
    assert said.verdict is ChargeVerdict.PAID
    assert (said.amount == Money(1000, "CNY")) is full


ORDER = RefundOrder(BACK, OURS, Money(1000, "CNY"), Money(400, "CNY"), "closed")
REFUNDS = {
    "SUCCESS": ("SUCCESS", RefundVerdict.DONE),
    "PROCESSING": ("PROCESSING", RefundVerdict.PROCESSING),
    "ABNORMAL": ("CHANGE", RefundVerdict.STUCK),
    "CLOSED": ("REFUNDCLOSE", RefundVerdict.FAILED),
    "NEVER_HEARD_OF": ("NEVER_HEARD_OF", RefundVerdict.UNKNOWN),
}


def given_back(state: str, **change: Any) -> dict[str, Any]:
    return {
        "out_refund_no": BACK, "out_trade_no": OURS, "refund_id": "50", "status": state,
        "amount": {"total": 1000, "refund": 400, "currency": "CNY"}, **change,
    }  # fmt: skip


def listed(state: str, **change: str) -> dict[str, str]:
    return {
        **old(), "refund_count": "2", "out_refund_no_0": reference(1, 99), "refund_fee_0": "1",
        "refund_status_0": "SUCCESS", "out_refund_no_1": BACK, "refund_id_1": "50",
        "refund_fee_1": "400", "refund_status_1": state, **change,
    }  # fmt: skip


@pytest.mark.parametrize("state", REFUNDS)
def test_each_state_of_a_refund(state: str) -> None:
    theirs, verdict = REFUNDS[state]
    new = payin_wire.refund(given_back(state), ORDER)
    assert (new.key, new.verdict, new.provider_id) == (BACK, verdict, "50")
    assert new.amount == ORDER.amount
    before = payin_wire.old_refund(listed(theirs), ACCOUNT, ORDER)
    assert (before.key, before.verdict, before.provider_id) == (BACK, verdict, "50")
    assert before.amount == ORDER.amount


def test_the_other_spelling_of_closed() -> None:
    assert payin_wire.refund(given_back("CLOSE"), ORDER).verdict is RefundVerdict.FAILED


@pytest.mark.parametrize(
    "change",
    [
        {"out_refund_no": OURS},
        {"out_trade_no": BACK},
        {"amount": {"total": 1000, "refund": 401, "currency": "CNY"}},
        {"amount": {"total": 999, "refund": 400, "currency": "CNY"}},
        {"amount": {"total": 1000, "refund": 400, "currency": "USD"}},
        {"amount": None},
        {"status": None},
    ],
)
def test_a_refund_that_is_another_is_unreadable(change: dict[str, Any]) -> None:
    with pytest.raises(UnreadableError):
        payin_wire.refund(given_back("SUCCESS", **change), ORDER)


@pytest.mark.parametrize(
    "change",
    [
        {"out_refund_no_1": OURS},
        {"out_refund_no_0": BACK, "refund_fee_0": "400", "refund_status_0": "PROCESSING"},
        {"out_trade_no": BACK},
        {"mch_id": "1900000002"},
        {"refund_fee_1": "401"},
        {"refund_fee_1": ""},
        {"total_fee": "999"},
        {"fee_type": "USD"},
        {"refund_status_1": ""},
    ],
)
def test_a_refund_that_is_another_is_unreadable_in_apiv2(change: dict[str, str]) -> None:
    with pytest.raises(UnreadableError):
        payin_wire.old_refund(listed("SUCCESS", **change), ACCOUNT, ORDER)


def charge(**change: Any) -> Charge:
    given: dict[str, Any] = {
        "key": OURS, "amount": Money(1000, "CNY"), "method": "wechat-native",
        "description": "Budget", "created_at": NOW, "expires_at": NOW + timedelta(minutes=30),
        **change,
    }  # fmt: skip
    return Charge(**given)


GOOD = [
    {},
    {"expires_at": NOW + timedelta(minutes=1)},
    {"expires_at": NOW + timedelta(hours=2)},
    {"client_ip": "203.0.113.9"},
    {"client_ip": "2001:db8::1"},
    {"method": "wechat-jsapi", "payer": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"},
    {"method": "wechat-app"},
    {"description": "\U0001f44d thanks"},
]


@pytest.mark.parametrize("change", GOOD)
def test_what_can_be_asked_for(change: dict[str, Any]) -> None:
    payin.check(ACCOUNT, charge(**change))


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"method": "wechat-h5"}, "/method"),
        ({"amount": Money(1000, "EUR")}, "/amount"),
        ({"amount": Money(0, "CNY")}, "/amount"),
        ({"amount": Money(-1, "CNY")}, "/amount"),
        ({"description": " \U0001f44d\n"}, "/description"),
        ({"expires_at": NOW + timedelta(seconds=59)}, "/expires_at"),
        ({"expires_at": NOW + timedelta(hours=2, seconds=1)}, "/expires_at"),
        ({"method": "wechat-jsapi"}, "/payer"),
        ({"method": "wechat-jsapi", "payer": "o p"}, "/payer"),
        ({"method": "wechat-jsapi", "payer": "o" * 129}, "/payer"),
        ({"client_ip": "localhost"}, "/client_ip"),
    ],
)
def test_what_cannot_is_named_field_by_field(change: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        payin.check(ACCOUNT, charge(**change))
    assert caught.value.slug == "charge-refused"
    assert [problem.pointer for problem in caught.value.problems] == [pointer]


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        ("Budget  of\tMay\n", "Budget of May"),
        ("\U0001f44d ok", "ok"),
        ("x" * 200, "x" * 127),
        ("预算" * 40, "预算" * 21),
        ("a" + "预" * 60, "a" + "预" * 42),
    ],
)
def test_words_are_cut_to_what_the_provider_takes(words: str, sent: str) -> None:
    assert payin.shortened(words) == sent
    assert len(sent.encode()) <= 127


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"payin": "v4"}, "/settings/payin"),
        ({"payin_methods": "native,pigeon"}, "/settings/payin_methods"),
        ({"payin": "v2", "payin_sign": "SHA1"}, "/settings/payin_sign"),
        ({"notify_url": ""}, "/settings/notify_url"),
        ({"notify_url": "https://us.example/x?y=z"}, "/settings/notify_url"),
        ({"notify_url": "https://us.example/" + "x" * 240}, "/settings/notify_url"),
        ({"bill_account": ""}, "/settings/bill_account"),
        ({"bill_account": "OPERATION"}, "/settings/bill_account"),
        ({"merchant_serial": ""}, "/settings/merchant_serial"),
        ({"payin": "v2", "url_tls": ""}, "/settings/url_tls"),
        ({"payin": "none"}, "/settings/product"),
        ({"product": "transfer-bills"}, "/settings/scene_id"),
    ],
)
def test_a_wrong_account_is_named_field_by_field(change: dict[str, str], pointer: str) -> None:
    for right in (ACCOUNT, OLD):
        settings.check(right)
    with pytest.raises(Unprocessable) as caught:
        settings.check(replace(ACCOUNT, settings={**ACCOUNT.settings, **change}))
    assert pointer in {problem.pointer for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("api", "needed"),
    [
        ("v3", {"private_key", "apiv3_key", "platform_keys"}),
        ("v2", {"apiv2_key", "client_identity"}),
    ],
)
def test_each_version_needs_its_own_secrets(api: str, needed: set[str]) -> None:
    bare = replace(ACCOUNT, settings={**ACCOUNT.settings, "payin": api}, secrets={})
    with pytest.raises(Unprocessable) as caught:
        settings.check(bare)
    assert {one.pointer for one in caught.value.problems} == {f"/secrets/{one}" for one in needed}


def test_only_the_methods_that_the_merchant_has_are_offered() -> None:
    some = {**ACCOUNT.settings, "payin_methods": " native , app"}
    found = payin_settings.methods(replace(ACCOUNT, settings=some))
    assert set(found) == {"wechat-native", "wechat-app"}
    assert {name: one.name for name, one in found.items()} == {name: name for name in found}


def test_notices_come_to_an_address_of_their_own() -> None:
    assert payin_settings.told_at(ACCOUNT) == f"{ACCOUNT.settings['notify_url']}/payins"
    slash = {**ACCOUNT.settings, "notify_url": f"{ACCOUNT.settings['notify_url']}/"}
    assert payin_settings.told_at(replace(ACCOUNT, settings=slash)) == (
        payin_settings.told_at(ACCOUNT)
    )


def test_a_payer_is_not_in_what_is_logged() -> None:
    shown = repr(charge(payer="oUpF8uMuAJO_M2pxb1Q9zNjWeS6o", client_ip="203.0.113.9"))
    assert "oUpF8" not in shown
    assert "203.0.113.9" not in shown
