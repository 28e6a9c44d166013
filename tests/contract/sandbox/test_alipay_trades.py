"""Orders that people pay: announced, opened, paid once, closed, given back."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
from tests.contract.sandbox.alipay_client import ADA, BOB, SELLER, Customer, sorted_params, verified
from tests.contract.sandbox.support import Client, Receiver, eventually
from tests.contract.sandbox.test_alipay_notices import heard_forms, proven

NUMBER = "ORDER-1"


def wanted(**more: Any) -> dict[str, Any]:
    return {"out_trade_no": NUMBER, "total_amount": "88.80", "subject": "充值", **more}


async def precreate(customer: Customer, url: str = "", **more: Any) -> str:
    content = wanted(**more) | ({"notify_url": url} if url else {})
    answer = await customer.call("POST", "/trade/precreate", **content)
    assert answer.status == 200, answer.body
    return answer.body["qr_code"]


async def state(customer: Customer) -> str:
    found = await customer.call("POST", "/trade/query", out_trade_no=NUMBER)
    return found.body.get("trade_status") or found.body["code"]


async def pay(client: Client, customer: Customer, who: str | None = ADA) -> dict[str, Any]:
    return await client.control(
        "alipay/pay", app_id=customer.app_id, out_trade_no=NUMBER, user_id=who
    )


async def test_an_order_is_nowhere_until_it_is_opened(customer: Customer, client: Client) -> None:
    qr = await precreate(customer)
    assert await state(customer) == "ACQ.TRADE_NOT_EXIST"
    closed = await customer.call("POST", "/trade/close", out_trade_no=NUMBER)
    assert closed.body["code"] == "ACQ.TRADE_NOT_EXIST"
    assert (await customer.http.get(qr)).status_code == 200
    assert await state(customer) == "ACQ.TRADE_NOT_EXIST", "only looking at the code opens nothing"
    assert await pay(client, customer, None) == {"paid": False, "status": "WAIT_BUYER_PAY"}
    assert await state(customer) == "WAIT_BUYER_PAY"
    assert await pay(client, customer) == {"paid": True, "status": "TRADE_SUCCESS"}
    found = (await customer.call("POST", "/trade/query", out_trade_no=NUMBER)).body
    assert (found["trade_status"], found["total_amount"]) == ("TRADE_SUCCESS", "88.80")
    assert found["buyer_logon_id"] == "ada***om"
    books = await client.books()
    assert books["alipay"][customer.app_id]["received_minor"] == 8880
    assert await customer.balance() == "10088.27", "88.80 less 0.6 per cent"
    assert books["proven"]


async def test_an_order_is_paid_once(customer: Customer, client: Client) -> None:
    await precreate(customer)
    results = await asyncio.gather(*(pay(client, customer, who) for who in (ADA, BOB, ADA)))
    assert [result["paid"] for result in results].count(True) == 1
    again = await customer.call("POST", "/trade/precreate", **wanted())
    assert again.body["code"] == "ACQ.TRADE_HAS_SUCCESS"


async def test_the_same_order_again_is_the_same_and_another_is_refused(customer: Customer) -> None:
    first = await precreate(customer)
    assert await precreate(customer) == first
    other = await customer.call("POST", "/trade/precreate", **wanted(total_amount="88.81"))
    assert other.body["code"] == "ACQ.CONTEXT_INCONSISTENT"


@pytest.mark.parametrize(
    "change",
    [
        {"out_trade_no": "a b"},
        {"total_amount": "0.00"},
        {"total_amount": "1.001"},
        {"subject": ""},
        {"timeout_express": "soon"},
        {"timeout_express": "16d"},
        {"time_expire": "tomorrow"},
        {"time_expire": "2020-01-01 00:00:00"},
    ],
)
async def test_orders_are_checked(customer: Customer, change: dict[str, str]) -> None:
    answer = await customer.call("POST", "/trade/precreate", **wanted(**change))
    assert answer.status == 400
    assert await state(customer) == "ACQ.TRADE_NOT_EXIST"


async def test_payment_is_announced_until_heard(
    customer: Customer, client: Client, receiver: Receiver
) -> None:
    receiver.status, receiver.words = 200, b"fail"
    await precreate(customer, receiver.url, passback_params="user%3D7")
    await pay(client, customer)
    (form,) = await heard_forms(receiver, 1)
    assert proven(customer, form)
    assert form["notify_type"] == "trade_status_sync"
    assert (form["trade_status"], form["total_amount"]) == ("TRADE_SUCCESS", "88.80")
    assert (form["out_trade_no"], form["seller_id"]) == (NUMBER, SELLER)
    assert form["passback_params"] == "user%3D7"
    receiver.words = b"success"
    await client.control("clock", advance_seconds=240)
    forms = await heard_forms(receiver, 2)
    assert forms[0]["notify_id"] == forms[1]["notify_id"]


async def test_closing_and_lapsing(customer: Customer, client: Client, receiver: Receiver) -> None:
    receiver.status, receiver.words = 200, b"success"
    await precreate(customer, receiver.url)
    await pay(client, customer, None)
    closed = await customer.call("POST", "/trade/close", out_trade_no=NUMBER)
    assert closed.body["out_trade_no"] == NUMBER
    (form,) = await heard_forms(receiver, 1)
    assert form["trade_status"] == "TRADE_CLOSED"
    assert "gmt_payment" not in form
    assert await pay(client, customer) == {"paid": False, "status": "TRADE_CLOSED"}
    twice = await customer.call("POST", "/trade/close", out_trade_no=NUMBER)
    assert twice.body["code"] == "ACQ.TRADE_STATUS_ERROR"
    assert await customer.balance() == "10000.00"


async def test_an_order_that_nobody_opened_lapses_quietly(
    customer: Customer, client: Client, receiver: Receiver
) -> None:
    await precreate(customer, receiver.url, timeout_express="5m")
    await client.control("clock", advance_seconds=301)
    assert await state(customer) == "ACQ.TRADE_NOT_EXIST"
    assert await pay(client, customer) == {"paid": False, "status": "LAPSED"}
    again = await customer.call("POST", "/trade/precreate", **wanted(timeout_express="5m"))
    assert again.body["code"] == "ACQ.TRADE_HAS_CLOSE"
    assert receiver.heard == []


async def test_an_opened_order_closes_when_its_time_is_over(
    customer: Customer, client: Client
) -> None:
    await precreate(customer)
    await pay(client, customer, None)
    await client.control("clock", advance_seconds=7201)
    assert await state(customer) == "TRADE_CLOSED"


async def test_refunds_by_number(customer: Customer, client: Client, receiver: Receiver) -> None:
    receiver.status, receiver.words = 200, b"success"
    await precreate(customer, receiver.url)
    early = await refund(customer, "1.00", "F1")
    assert early["code"] == "ACQ.TRADE_NOT_EXIST"
    await pay(client, customer)
    assert (await refund(customer, "1.00"))["code"] == "MISSING_OUT_REQUEST_NO"
    first = await refund(customer, "30.00", "F1")
    assert (first["fund_change"], first["refund_fee"]) == ("Y", "30.00")
    again = await refund(customer, "30.00", "F1")
    assert (again["fund_change"], again["refund_fee"]) == ("N", "30.00")
    other = await refund(customer, "31.00", "F1")
    assert other["code"] == "ACQ.DISCORDANT_REPEAT_REQUEST"
    assert (await refund(customer, "58.81", "F2"))["code"] == "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL"
    assert await state(customer) == "TRADE_SUCCESS"
    last = await refund(customer, "58.80", "F2")
    assert last["refund_fee"] == "88.80"
    assert await state(customer) == "TRADE_CLOSED"
    assert (await refund(customer, "0.01", "F3"))["code"] == "ACQ.TRADE_HAS_CLOSE"
    found = await customer.call(
        "POST", "/trade/fastpay/refund/query", out_trade_no=NUMBER, out_request_no="F1"
    )
    assert (found.body["refund_amount"], found.body["refund_status"]) == ("30.00", "REFUND_SUCCESS")
    unknown = await customer.call(
        "POST", "/trade/fastpay/refund/query", out_trade_no=NUMBER, out_request_no="F9"
    )
    assert (unknown.status, unknown.body.get("refund_status")) == (200, None)
    forms = await heard_forms(receiver, 3)
    assert sorted((form["trade_status"], form.get("refund_fee", "")) for form in forms) == [
        ("TRADE_CLOSED", "88.80"), ("TRADE_SUCCESS", ""), ("TRADE_SUCCESS", "30.00"),
    ]  # fmt: skip
    assert (await client.books())["alipay"][customer.app_id]["refunded_minor"] == 8880


async def test_a_refund_needs_money(customer: Customer, client: Client) -> None:
    await precreate(customer)
    await pay(client, customer)
    await customer.transfer("R1", "10088.00")
    refused = await refund(customer, "88.80", "F1")
    assert refused["code"] == "ACQ.SELLER_BALANCE_NOT_ENOUGH"


async def test_a_year_later_an_order_is_finished(customer: Customer, client: Client) -> None:
    await precreate(customer)
    await pay(client, customer)
    await client.control("clock", advance_seconds=366 * 86_400)
    assert await state(customer) == "TRADE_FINISHED"
    assert (await refund(customer, "1.00", "F1"))["code"] == "ACQ.TRADE_HAS_FINISHED"


async def test_a_browser_pays_at_the_providers_page(
    customer: Customer, client: Client, receiver: Receiver
) -> None:
    receiver.status, receiver.words = 200, b"success"
    content = wanted(product_code="FAST_INSTANT_TRADE_PAY", subject="<script>充值")
    params = customer.gateway_params(
        "alipay.trade.page.pay", content, notify_url=receiver.url,
        return_url="http://127.0.0.1:9/back?to=7",
    )  # fmt: skip
    page = await customer.http.get(f"{customer.url}/gateway.do?{urlencode(params)}")
    assert page.status_code == 200
    assert "&lt;script&gt;充值" in page.text
    assert "<script" not in page.text
    assert await state(customer) == "ACQ.TRADE_NOT_EXIST"
    action = page.text.split('action="')[1].split('"')[0]
    button = f"user={ADA}"
    looked = await customer.http.post(customer.url + action, content="look=1")
    assert looked.status_code == 200
    assert await state(customer) == "WAIT_BUYER_PAY"
    paid = await customer.http.post(customer.url + action, content=button)
    assert paid.status_code == 303
    back = urlsplit(paid.headers["location"])
    given = dict(parse_qsl(back.query))
    assert given.pop("to") == "7"
    (pem,) = customer.alipay.values()
    assert verified(pem, sorted_params(given, "sign", "sign_type").encode(), given["sign"])
    assert (given["out_trade_no"], given["total_amount"]) == (NUMBER, "88.80")
    (form,) = await heard_forms(receiver, 1)
    assert form["subject"] == "<script>充值"
    again = await customer.http.post(customer.url + action, content=button)
    assert again.status_code == 409


async def test_a_page_that_nobody_signed_is_refused(customer: Customer) -> None:
    params = customer.gateway_params("alipay.trade.page.pay", wanted())
    params["biz_content"] = params["biz_content"].replace("88.80", "0.01")
    answer = await customer.http.get(f"{customer.url}/gateway.do?{urlencode(params)}")
    assert (answer.status_code, "invalid-signature" in answer.text) == (400, True)


async def test_forms_of_other_sites_do_nothing(customer: Customer, client: Client) -> None:
    qr = await precreate(customer)
    token = qr.rsplit("/", 1)[1]
    for headers in (
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Host": "elsewhere.example"},
    ):
        answer = await customer.http.post(
            f"{customer.url}/pay/{token}", content=f"user={ADA}", headers=headers
        )
        assert answer.status_code == 403
    assert await state(customer) == "ACQ.TRADE_NOT_EXIST"
    right = await customer.http.post(
        f"{customer.url}/pay/{token}", content=f"user={ADA}", headers={"Origin": customer.url}
    )
    assert right.status_code == 200
    await eventually(lambda: _paid(customer))


async def _paid(customer: Customer) -> bool:
    return await state(customer) == "TRADE_SUCCESS"


async def refund(customer: Customer, amount: str, number: str = "") -> dict[str, Any]:
    more = {"out_request_no": number} if number else {}
    answer = await customer.call(
        "POST", "/trade/refund", out_trade_no=NUMBER, refund_amount=amount, **more
    )
    return answer.body


async def test_codes_that_are_none(customer: Customer) -> None:
    answer: httpx.Response = await customer.http.get(f"{customer.url}/qr/none")
    assert answer.status_code == 404
