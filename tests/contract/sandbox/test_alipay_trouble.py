"""The Alipay sandbox misbehaves as it is told: it pays or not, and the answer may say nothing."""

from __future__ import annotations

import json
import time

import httpx
import pytest
from tests.contract.sandbox.alipay_client import ADA, Customer, order
from tests.contract.sandbox.support import Client

PATH = "/fund/trans/uni/transfer"
METHOD = "alipay.fund.trans.uni.transfer"


async def paid(client: Client) -> int:
    return sum((await client.books())["references"].values())


@pytest.mark.parametrize(("knob", "times"), [("drop_requests", 0), ("drop_answers", 1)])
@pytest.mark.parametrize("interface", ["v3", "gateway"])
async def test_a_cut_connection_says_nothing(
    customer: Customer, client: Client, knob: str, times: int, interface: str
) -> None:
    await client.control("alipay/faults", **{knob: 1})
    call = customer.transfer("R1") if interface == "v3" else customer.gateway(METHOD, order("R1"))
    with pytest.raises(httpx.RemoteProtocolError):
        await call
    assert await paid(client) == times
    assert (await customer.transfer("R1")).body["status"] == "SUCCESS"
    assert await paid(client) == 1


@pytest.mark.parametrize(
    ("knob", "status", "code", "times"),
    [
        ("fail_before", 500, "UNKNOW_ERROR", 0),
        ("fail_after", 500, "SYSTEM_ERROR", 1),
        ("rate_limit", 429, "APP_CALL_LIMITED", 0),
        ("processing", 400, "REQUEST_PROCESSING", 1),
        ("refuse_unlisted", 400, "SANDBOX_NEVER_HEARD_OF", 0),
        ("unlisted_code", 400, "SANDBOX_NEVER_HEARD_OF", 1),
        ("lied_no", 400, "PAYEE_NOT_EXIST", 1),
        ("lied_short", 400, "PAYER_BALANCE_NOT_ENOUGH", 1),
    ],
)
async def test_refusals_that_may_have_paid(
    customer: Customer, client: Client, knob: str, status: int, code: str, times: int
) -> None:
    await client.control("alipay/faults", **{knob: 1})
    answer = await customer.transfer("R1")
    assert (answer.status, answer.body["code"]) == (status, code)
    assert await paid(client) == times
    assert (await customer.transfer("R1")).body["status"] == "SUCCESS"
    assert await paid(client) == 1


@pytest.mark.parametrize(
    ("knob", "code", "sub_code", "times"),
    [
        ("fail_before", "20000", "isp.unknow-error", 0),
        ("fail_after", "40004", "SYSTEM_ERROR", 1),
        ("rate_limit", "40005", "isv.app-call-limited", 0),
        ("processing", "40004", "REQUEST_PROCESSING", 1),
        ("unlisted_code", "40004", "SANDBOX_NEVER_HEARD_OF", 1),
        ("lied_no", "40004", "PAYEE_NOT_EXIST", 1),
    ],
)
async def test_the_same_at_the_gateway(
    customer: Customer, client: Client, knob: str, code: str, sub_code: str, times: int
) -> None:
    await client.control("alipay/faults", **{knob: 1})
    answer = await customer.gateway(METHOD, order("R1"))
    assert (answer["code"], answer["sub_code"]) == (code, sub_code)
    assert await paid(client) == times


async def test_an_accepted_transfer_is_asked_for_again(customer: Customer, client: Client) -> None:
    await client.control("alipay/faults", accepted=1)
    answer = await customer.raw("POST", PATH, **order("R1"))
    assert (answer.status_code, answer.content) == (202, b"")
    assert customer.proven(answer)
    assert await paid(client) == 1


@pytest.mark.parametrize("knob", ["bad_signature", "truncated", "garbled"])
async def test_answers_that_prove_nothing(customer: Customer, client: Client, knob: str) -> None:
    await client.control("alipay/faults", **{knob: 1})
    answer = await customer.raw("POST", PATH, **order("R1"))
    assert answer.status_code == 200
    assert not customer.proven(answer)
    assert await paid(client) == 1


async def test_answers_without_or_with_a_strange_signature(
    customer: Customer, client: Client
) -> None:
    await client.control("alipay/faults", unsigned=1)
    bare = await customer.raw("POST", PATH, **order("R1"))
    assert "alipay-signature" not in bare.headers
    await client.control("alipay/faults", unknown_serial=1)
    strange = await customer.raw("POST", PATH, **order("R2"))
    assert strange.headers["alipay-sn"] not in customer.alipay
    await client.control("alipay/faults", stale_timestamp=1)
    stale = await customer.raw("POST", PATH, **order("R3"))
    assert customer.proven(stale)
    assert int(stale.headers["alipay-timestamp"]) / 1000 < time.time() - 3000
    await client.control("alipay/faults", skew_seconds=400)
    skewed = await customer.raw("POST", PATH, **order("R4"))
    assert int(skewed.headers["alipay-timestamp"]) / 1000 > time.time() + 300
    assert await paid(client) == 4


@pytest.mark.parametrize("knob", ["bad_signature", "truncated", "garbled", "unsigned"])
async def test_gateway_answers_that_prove_nothing(
    customer: Customer, client: Client, knob: str
) -> None:
    await client.control("alipay/faults", **{knob: 1})
    answer = await customer.post(customer.gateway_params(METHOD, order("R1")))
    with pytest.raises((AssertionError, ValueError, KeyError)):
        customer.opened(answer, METHOD)
    assert await paid(client) == 1


async def test_an_unusual_answer_is_still_right(customer: Customer, client: Client) -> None:
    await client.control("alipay/faults", reordered=2)
    answer = await customer.transfer("R1")
    assert answer.body["sandbox_extra"] == {"nested": ["}", '"sign":']}
    assert answer.body["status"] == "SUCCESS"
    again = await customer.gateway(METHOD, order("R1"))
    assert again["sandbox_empty"] is None
    assert again["order_id"] == answer.body["order_id"]


async def test_a_slow_answer_comes_after_the_payment(customer: Customer, client: Client) -> None:
    await client.control("alipay/faults", slow_seconds=3)
    uri, body = f"/v3/alipay{PATH}", json.dumps(order("R1")).encode()
    headers = customer.headers("POST", uri, body)
    with pytest.raises(httpx.ReadTimeout):
        await customer.http.post(customer.url + uri, content=body, headers=headers, timeout=0.5)
    assert await paid(client) == 1


async def test_late_states(customer: Customer, client: Client) -> None:
    await client.control("alipay/faults", late_seconds=7200)
    assert (await customer.transfer("R1")).body["status"] == "DEALING"
    assert await paid(client) == 0
    await client.control("clock", advance_seconds=7201)
    assert (await customer.query("R1")).body["status"] == "SUCCESS"
    assert (await client.books())["payees"].keys() == {ADA}


async def test_a_knob_may_be_for_one_method_only(customer: Customer, client: Client) -> None:
    await client.control("alipay/faults", **{f"fail_before@{METHOD}": 1})
    assert (await customer.query("R1")).body["code"] == "ORDER_NOT_EXIST"
    assert (await customer.transfer("R1")).status == 500
    assert (await customer.transfer("R1")).status == 200


async def test_chances_come_from_the_seed(customer: Customer, client: Client) -> None:
    await client.control("alipay/faults", chance_fail_before=300)
    failed = [
        number for number in range(40) if (await customer.transfer(f"R{number}")).status == 500
    ]
    assert 3 < len(failed) < 25
    assert await paid(client) == 40 - len(failed)


async def test_knobs_are_known_by_name(client: Client) -> None:
    wrong = await client.http.post("/_control/alipay/faults", json={"drop_answer": 1})
    assert wrong.status_code == 400
    set_to = await client.control("alipay/faults", drop_answers=2, slow_seconds=1)
    assert set_to["faults"]["drop_answers"] == 2
    assert set_to["faults"]["slow_seconds"] == 1
    shown = (await client.http.get("/_control/faults")).json()["faults"]
    assert shown["drop_answers"] == 0, "another provider's knobs are its own"
