"""What the Alipay sandbox tells: signed forms, again and again until the answer is `success`."""

from __future__ import annotations

import json
import time
from urllib.parse import parse_qs

from tests.contract.sandbox.alipay_client import (
    ADA,
    CARD,
    Customer,
    card_order,
    sn,
    sorted_params,
    verified,
)
from tests.contract.sandbox.support import Client, Heard, Receiver, eventually

CHANGED = "alipay.fund.trans.order.changed"
WAITS = (240, 600, 600, 3600, 7200, 21_600, 54_000)


def opened(heard: Heard) -> dict[str, str]:
    """The form, decoded as it says it is."""
    charset = heard.headers["content-type"].split("charset=")[1]
    fields = parse_qs(
        heard.body.decode("ascii"), strict_parsing=True, keep_blank_values=True, encoding=charset,
        errors="strict",
    )  # fmt: skip
    return {name: value for name, (value,) in fields.items()}


def proven(customer: Customer, form: dict[str, str]) -> bool:
    """What every customer does: neither the signature nor its kind is signed."""
    message = sorted_params(form, "sign", "sign_type").encode(form["charset"])
    return any(verified(pem, message, form["sign"]) for pem in customer.alipay.values())


async def heard_forms(receiver: Receiver, number: int) -> list[dict[str, str]]:
    await eventually(lambda: len(receiver.heard) >= number)
    return [opened(heard) for heard in receiver.heard]


async def test_a_transfer_is_announced_in_gbk(customer: Customer, receiver: Receiver) -> None:
    receiver.status, receiver.words = 200, b"success"
    made = await customer.transfer("R1")
    (form,) = await heard_forms(receiver, 1)
    assert form["charset"] == "GBK"
    assert form["msg_method"] == CHANGED
    assert form["app_id"] == customer.app_id
    assert proven(customer, form)
    content = json.loads(form["biz_content"])
    assert content["out_biz_no"] == "R1"
    assert content["order_id"] == made.body["order_id"]
    assert (content["status"], content["trans_amount"]) == ("SUCCESS", "12.34")
    assert content["action_type"] == "FINISH"


async def test_a_message_shows_the_machines_time_on_any_day(
    customer: Customer, receiver: Receiver, client: Client
) -> None:
    """Who gets it refuses what is old, by a clock that nobody moved."""
    receiver.status, receiver.words = 200, b"success"
    await client.control("clock", advance_seconds=5 * 86_400)
    await customer.transfer("R1")
    (form,) = await heard_forms(receiver, 1)
    assert abs(int(form["utc_timestamp"]) / 1000 - time.time()) < 60
    await client.control("alipay/faults", skew_seconds=3600)
    await customer.transfer("R2")
    _, form = await heard_forms(receiver, 2)
    assert abs(int(form["utc_timestamp"]) / 1000 - time.time() - 3600) < 60


async def test_chinese_in_a_message_is_really_gbk(
    customer: Customer, receiver: Receiver, client: Client
) -> None:
    receiver.status, receiver.words = 200, b"success"
    await client.control("oracle", payee=CARD, outcome="fail", code="PAYEE_CARD_INFO_ERROR")
    await customer.call("POST", "/fund/trans/uni/transfer", **card_order("R1"))
    await client.control("clock", advance_seconds=10)
    (form,) = await heard_forms(receiver, 1)
    assert json.loads(form["biz_content"])["fail_reason"] == "收款方信息有误"
    assert proven(customer, form)
    assert b"%CA%D5" in receiver.heard[0].body.upper(), "the character 收 in GBK"


async def test_only_the_word_counts_and_the_number_stays(
    customer: Customer, receiver: Receiver, client: Client
) -> None:
    receiver.status, receiver.words = 200, b"success\n"
    await customer.transfer("R1")
    await heard_forms(receiver, 1)
    for tries, wait in enumerate(WAITS, start=1):
        await _written(client, tries)
        await client.control("clock", advance_seconds=wait - 60)
        assert (await client.books())["notices_pending"] == 1
        assert len(receiver.heard) == tries, f"not before {wait} seconds"
        await client.control("clock", advance_seconds=60)
        await heard_forms(receiver, tries + 1)
    forms = await heard_forms(receiver, 8)
    assert len({form["notify_id"] for form in forms}) == 1
    assert all(proven(customer, form) for form in forms)
    await eventually(lambda: _none_pending(client))
    await client.control("clock", advance_seconds=1_000_000)
    await eventually(lambda: _none_pending(client))
    assert len(receiver.heard) == 8


async def test_it_stops_when_it_was_heard(
    customer: Customer, receiver: Receiver, client: Client
) -> None:
    receiver.status = 500
    await customer.transfer("R1")
    await heard_forms(receiver, 1)
    await _written(client, 1)
    receiver.status, receiver.words = 200, b"success"
    await client.control("clock", advance_seconds=240)
    await heard_forms(receiver, 2)
    await eventually(lambda: _none_pending(client))


async def test_notices_may_be_lost_late_and_many(
    customer: Customer, receiver: Receiver, client: Client
) -> None:
    receiver.status, receiver.words = 200, b"success"
    await client.control("alipay/faults", notice_lose=1)
    await customer.transfer("R1")
    await eventually(lambda: _none_pending(client))
    assert receiver.heard == []
    await client.control("alipay/faults", notice_copies=3)
    await customer.transfer("R2")
    forms = await heard_forms(receiver, 3)
    assert len({form["notify_id"] for form in forms}) == 1
    await client.control("alipay/faults", notice_copies=1, notice_late=1, notice_late_seconds=900)
    await customer.transfer("R3")
    await customer.transfer("R4")
    forms = await heard_forms(receiver, 4)
    assert json.loads(forms[3]["biz_content"])["out_biz_no"] == "R4", "before the earlier one"
    await client.control("clock", advance_seconds=901)
    forms = await heard_forms(receiver, 5)
    assert json.loads(forms[4]["biz_content"])["out_biz_no"] == "R3"


async def test_planted_lies_do_not_verify(
    customer: Customer, receiver: Receiver, client: Client
) -> None:
    receiver.status, receiver.words = 200, b"success"
    await client.control("alipay/faults", notice_forge=1, notice_tamper=1)
    await customer.transfer("R1")
    forms = await heard_forms(receiver, 3)
    true = [form for form in forms if proven(customer, form)]
    assert len(true) == 1
    assert json.loads(true[0]["biz_content"])["status"] == "SUCCESS"
    lies = [json.loads(form["biz_content"]) for form in forms if form not in true]
    assert {(lie["status"], lie["trans_amount"]) for lie in lies} == {
        ("FAIL", "12.34"),
        ("SUCCESS", "912.34"),
    }


async def test_another_apps_and_old_notices_verify_and_must_be_seen_through(
    customer: Customer, receiver: Receiver, client: Client
) -> None:
    receiver.status, receiver.words = 200, b"success"
    await customer.transfer("R1")
    await heard_forms(receiver, 1)
    await client.control("alipay/faults", notice_wrong_app=1, notice_replay=1)
    await customer.transfer("R2")
    forms = await heard_forms(receiver, 4)
    assert all(proven(customer, form) for form in forms)
    assert [form["app_id"] for form in forms].count(customer.app_id) == 3
    assert [json.loads(form["biz_content"])["out_biz_no"] for form in forms].count("R1") == 2


async def test_retries_are_signed_with_the_new_certificate(
    customer: Customer, receiver: Receiver, client: Client
) -> None:
    receiver.status = 500
    await customer.transfer("R1")
    await heard_forms(receiver, 1)
    await _written(client, 1)
    fresh = (await client.control("alipay/rotate"))["certificate"]
    receiver.status, receiver.words = 200, b"success"
    await client.control("clock", advance_seconds=240)
    forms = await heard_forms(receiver, 2)
    assert proven(customer, forms[0])
    assert not proven(customer, forms[1])
    customer.alipay[sn(fresh)] = fresh
    assert proven(customer, forms[1])


async def test_nobody_is_told_without_an_address(
    customer: Customer, receiver: Receiver, client: Client
) -> None:
    body = {
        "app_id": customer.app_id, "seller_id": "2088000000000001", "opening_minor": 1_000_000,
        "certificate": customer.app_certificate,
    }  # fmt: skip
    await client.control("alipay/apps", **body)
    await customer.transfer("R1")
    books = await client.books()
    assert (books["payees"][ADA]["paid"], books["notices_pending"]) == (1, 0)
    assert receiver.heard == []


async def _none_pending(client: Client) -> bool:
    return (await client.books())["notices_pending"] == 0


async def _written(client: Client, tries: int) -> None:
    """Wait until so many tries were written down; what is due next is sure only then."""

    async def done() -> bool:
        events = (await client.http.get("/_control/events?kind=webhook.sent")).json()["events"]
        return len(events) == tries

    await eventually(done)
