"""Pay-in of both versions: ordered once, paid once, refunded in parts, and told about."""

from __future__ import annotations

import base64
import hashlib
import secrets
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from tests.contract.sandbox.support import Receiver, eventually
from tests.contract.sandbox.test_wechat_enterprise import message, post, read, trusting
from tests.contract.sandbox.wechat_support import APPID, MCHID, Merchant, clock

from paymaster_sandbox import World
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.wechat.times import packed

PAY = "/v3/pay/transactions"
REFUND = "/v3/refund/domestic/refunds"
DAY = 86_400


def order(out_no: str, receiver: Receiver, total: int = 10_000, **more: Any) -> dict[str, Any]:
    return {
        "appid": APPID, "mchid": MCHID, "description": "Coffee", "out_trade_no": out_no,
        "notify_url": receiver.url, "amount": {"total": total}, **more,
    }  # fmt: skip


async def balance(merchant: Merchant) -> int:
    return (await merchant.books())["merchants"][MCHID]["BASIC_fen"]


async def state(merchant: Merchant, out_no: str) -> str:
    answer = await merchant.get(f"{PAY}/out-trade-no/{out_no}?mchid={MCHID}")
    assert answer.status_code == 200, answer.text
    return answer.json()["trade_state"]


async def paid(merchant: Merchant, receiver: Receiver, out_no: str = "ORDER1") -> str:
    await merchant.call("POST", f"{PAY}/native", order(out_no, receiver))
    await merchant.act(out_no, "pay", kind="order")
    found = await merchant.get(f"{PAY}/out-trade-no/{out_no}?mchid={MCHID}")
    return found.json()["transaction_id"]


async def refund(merchant: Merchant, out_no: str, fen: int, **more: Any) -> httpx.Response:
    body = {
        "out_trade_no": "ORDER1", "out_refund_no": out_no,
        "amount": {"refund": fen, "total": 10_000, "currency": "CNY"}, **more,
    }  # fmt: skip
    return await merchant.call("POST", REFUND, body)


@pytest.mark.parametrize(
    ("channel", "more", "field"),
    [
        ("jsapi", {}, "prepay_id"),
        ("native", {}, "code_url"),
        ("app", {}, "prepay_id"),
        (
            "h5",
            {"scene_info": {"payer_client_ip": "127.0.0.1", "h5_info": {"type": "Wap"}}},
            "h5_url",
        ),
    ],
)
async def test_each_way_to_pay(
    merchant: Merchant, receiver: Receiver, channel: str, more: dict[str, Any], field: str
) -> None:
    if channel == "jsapi":
        more = {"payer": {"openid": await merchant.user()}}
    body = order("ORDER1", receiver, **more)
    first = await merchant.call("POST", f"{PAY}/{channel}", body)
    assert list(first.json()) == [field]
    assert merchant.genuine(first)
    assert (await merchant.call("POST", f"{PAY}/{channel}", body)).json() == first.json()
    assert await state(merchant, "ORDER1") == "NOTPAY"
    assert await merchant.act("ORDER1", "pay", kind="order") == "SUCCESS"
    await eventually(lambda: receiver.heard)
    told = merchant.told(receiver)[0]
    assert receiver.heard[0].event["event_type"] == "TRANSACTION.SUCCESS"
    assert (told["out_trade_no"], told["trade_state"], told["amount"]["total"]) == (
        "ORDER1", "SUCCESS", 10_000,
    )  # fmt: skip
    by_id = await merchant.get(f"{PAY}/id/{told['transaction_id']}?mchid={MCHID}")
    assert by_id.json() == told
    assert await balance(merchant) == 10_000 - 60


async def test_an_order_number_stands_for_one_order(merchant: Merchant, receiver: Receiver) -> None:
    await merchant.call("POST", f"{PAY}/native", order("ORDER1", receiver))
    other = await merchant.call("POST", f"{PAY}/native", order("ORDER1", receiver, 1))
    assert (other.status_code, other.json()["code"]) == (400, "INVALID_REQUEST")
    await merchant.act("ORDER1", "pay", kind="order")
    again = await merchant.call("POST", f"{PAY}/native", order("ORDER1", receiver))
    assert again.json()["code"] == "ORDER_PAID"
    twice = await merchant.control.post(
        "/_control/wechat/act",
        json={"kind": "order", "act": "pay", "mchid": MCHID, "reference": "ORDER1"},
    )
    assert twice.status_code == 404
    assert await balance(merchant) == 10_000 - 60


async def test_closing_and_running_out(
    merchant: Merchant, receiver: Receiver, world: World
) -> None:
    for number in ("ORDER1", "ORDER2"):
        await merchant.call("POST", f"{PAY}/native", order(number, receiver))
    close = f"{PAY}/out-trade-no/ORDER1/close"
    answer = await merchant.call("POST", close, {"mchid": MCHID})
    assert (answer.status_code, answer.content) == (204, b"")
    assert merchant.genuine(answer)
    assert await state(merchant, "ORDER1") == "CLOSED"
    reopened = await merchant.call("POST", f"{PAY}/native", order("ORDER1", receiver))
    assert reopened.json()["code"] == "ORDER_CLOSED"
    await clock(world, 7201)
    assert await state(merchant, "ORDER2") == "NOTPAY"
    assert (await merchant.read("waiting"))["waiting"] == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"out_trade_no": "SHORT"}, "PARAM_ERROR"),
        ({"mchid": "1900000009"}, "PARAM_ERROR"),
        ({"appid": "wxffffffffffffffff"}, "APPID_MCHID_NOT_MATCH"),
        ({"amount": {"total": 0}}, "PARAM_ERROR"),
        ({"amount": {"total": 1, "currency": "USD"}}, "PARAM_ERROR"),
        ({"time_expire": "yesterday"}, "PARAM_ERROR"),
        ({"time_expire": "2020-01-01T00:00:00+08:00"}, "PARAM_ERROR"),
    ],
)
async def test_wrong_orders(
    merchant: Merchant, receiver: Receiver, change: dict[str, Any], code: str
) -> None:
    body = {**order("ORDER1", receiver), **change}
    answer = await merchant.call("POST", f"{PAY}/native", body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    missing = await merchant.get(f"{PAY}/out-trade-no/ORDER1?mchid={MCHID}")
    assert (missing.status_code, missing.json()["code"]) == (404, "ORDER_NOT_EXIST")
    unsaid = await merchant.get(f"{PAY}/out-trade-no/ORDER1")
    assert unsaid.json()["code"] == "PARAM_ERROR"


async def test_refunds_in_parts(merchant: Merchant, receiver: Receiver, world: World) -> None:
    await paid(merchant, receiver)
    first = await refund(merchant, "R1", 4000, notify_url=receiver.url)
    assert first.status_code == 200, first.text
    again = await refund(merchant, "R1", 4000, notify_url=receiver.url)
    assert again.json()["refund_id"] == first.json()["refund_id"]
    assert (await refund(merchant, "R1", 4001)).json()["code"] == "INVALID_REQUEST"
    quick = await refund(merchant, "R2", 6000)
    assert (quick.status_code, quick.json()["code"]) == (429, "FREQUENCY_LIMITED")
    await clock(world, 61)
    assert (await refund(merchant, "R2", 6001)).json()["code"] == "INVALID_REQUEST"
    await merchant.knob("balances", mchid=MCHID, account="BASIC", fen=1000)
    assert (await refund(merchant, "R2", 6000)).status_code == 200

    async def done() -> bool:
        return (await merchant.get(f"{REFUND}/R2")).json()["status"] == "SUCCESS"

    await eventually(done)
    assert await state(merchant, "ORDER1") == "REFUND"
    assert await balance(merchant) == 1000 - 60 + 24 + 36
    await eventually(lambda: len(receiver.heard) == 3)
    told = [one for one in merchant.told(receiver) if "out_refund_no" in one]
    assert [(one["out_refund_no"], one["refund_status"]) for one in told] == [
        ("R1", "SUCCESS"), ("R2", "SUCCESS"),
    ]  # fmt: skip
    assert receiver.heard[1].event["event_type"] == "REFUND.SUCCESS"


async def test_refunds_that_cannot_be(merchant: Merchant, receiver: Receiver, world: World) -> None:
    unknown = await refund(merchant, "R1", 100)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "RESOURCE_NOT_EXISTS")
    await paid(merchant, receiver)
    await merchant.knob("balances", mchid=MCHID, account="BASIC", fen=9000, take=True)
    poor = await refund(merchant, "R1", 10_000)
    assert (poor.status_code, poor.json()["code"]) == (403, "NOT_ENOUGH")
    assert (await merchant.get(f"{REFUND}/R1")).status_code == 404
    await clock(world, 366 * DAY)
    assert (await refund(merchant, "R1", 100)).json()["code"] == "INVALID_REQUEST"


async def test_a_refund_that_does_not_reach_its_payer(
    merchant: Merchant, receiver: Receiver
) -> None:
    await paid(merchant, receiver)
    body = {"payee": "oSOMEBODY", "outcome": "fail"}
    assert (await merchant.control.post("/_control/oracle", json=body)).is_success
    await merchant.knob("balances", mchid=MCHID, account="BASIC", fen=60)
    await refund(merchant, "R1", 10_000, notify_url=receiver.url)
    await eventually(lambda: len(receiver.heard) == 2)
    assert receiver.heard[1].event["event_type"] == "REFUND.ABNORMAL"
    assert (await merchant.get(f"{REFUND}/R1")).json()["status"] == "ABNORMAL"


def fields(merchant: Merchant, method: str, **more: str) -> dict[str, str]:
    found = {
        "appid": APPID, "mch_id": MCHID, "nonce_str": secrets.token_hex(16), "sign_type": method,
        **more,
    }  # fmt: skip
    return {**found, "sign": merchant.digest(found, method)}


def unified(merchant: Merchant, receiver: Receiver, method: str, **more: str) -> dict[str, str]:
    return fields(
        merchant, method,
        **{
            "body": "Coffee", "out_trade_no": "ORDER1", "total_fee": "10000",
            "spbill_create_ip": "127.0.0.1", "notify_url": receiver.url, "trade_type": "NATIVE",
            "product_id": "1", **more,
        },
    )  # fmt: skip


@pytest.mark.parametrize("method", ["MD5", "HMAC-SHA256"])
async def test_the_old_interface(merchant: Merchant, receiver: Receiver, method: str) -> None:
    receiver.words = b"<xml><return_code><![CDATA[SUCCESS]]></return_code></xml>"
    receiver.status = 200
    made = await post(merchant.http, "/pay/unifiedorder", unified(merchant, receiver, method))
    assert made["result_code"] == "SUCCESS", made
    assert made["code_url"].startswith("weixin://")
    assert made["sign"] == merchant.digest(made, method)
    ask = fields(merchant, method, out_trade_no="ORDER1")
    assert (await post(merchant.http, "/pay/orderquery", ask))["trade_state"] == "NOTPAY"
    await merchant.act("ORDER1", "pay", kind="order")
    found = await post(merchant.http, "/pay/orderquery", ask)
    assert (found["trade_state"], found["total_fee"]) == ("SUCCESS", "10000")
    await eventually(lambda: receiver.heard)
    told = read(receiver.heard[0].body)
    assert told["sign"] == merchant.digest(told, method)
    assert (told["out_trade_no"], told["transaction_id"]) == ("ORDER1", found["transaction_id"])
    again = await post(merchant.http, "/pay/unifiedorder", unified(merchant, receiver, method))
    assert again["err_code"] == "ORDERPAID"
    late = await post(merchant.http, "/pay/closeorder", ask)
    assert late["err_code"] == "ORDERPAID"


async def test_an_old_order_lasts_as_long_as_it_says(
    merchant: Merchant, receiver: Receiver, world: World
) -> None:
    for wrong in ("tomorrow", "20200101000000", "20261332000000"):
        bad = unified(merchant, receiver, "MD5", time_expire=wrong)
        answer = await post(merchant.http, "/pay/unifiedorder", bad)
        assert answer["err_code"] == "PARAM_ERROR"
    with world.chassis.tx() as tx:
        until = packed(tx.now + 600 * SECOND)
    good = unified(merchant, receiver, "MD5", time_expire=until)
    assert (await post(merchant.http, "/pay/unifiedorder", good))["result_code"] == "SUCCESS"
    assert len((await merchant.read("waiting"))["waiting"]) == 1
    await clock(world, 601)
    assert (await merchant.read("waiting"))["waiting"] == []
    ask = fields(merchant, "MD5", out_trade_no="ORDER1")
    assert (await post(merchant.http, "/pay/orderquery", ask))["trade_state"] == "NOTPAY"


async def test_old_messages_without_a_right_sign_are_not_taken(
    merchant: Merchant, receiver: Receiver
) -> None:
    good = unified(merchant, receiver, "MD5")
    answer = await post(merchant.http, "/pay/unifiedorder", {**good, "total_fee": "1"})
    assert answer == {"return_code": "FAIL", "return_msg": "签名错误"}
    broken = await merchant.http.post("/pay/unifiedorder", content=b"<xml><a></xml>")
    assert read(broken.content)["return_code"] == "FAIL"
    await merchant.mishap("order2.create", "bad_signature")
    odd = await post(merchant.http, "/pay/unifiedorder", good)
    assert odd["sign"] != merchant.digest(odd)


async def test_old_notices_are_repeated_until_the_body_says_success(
    merchant: Merchant, receiver: Receiver, world: World
) -> None:
    receiver.status = 200
    await post(merchant.http, "/pay/unifiedorder", unified(merchant, receiver, "MD5"))
    await merchant.act("ORDER1", "pay", kind="order")

    async def pending() -> int:
        return (await merchant.control.get("/_control/books")).json()["notices_pending"]

    async def tried(wanted: int) -> bool:
        found = await merchant.control.get("/_control/events", params={"kind": "webhook.sent"})
        return len(found.json()["events"]) == wanted

    await eventually(lambda: tried(1))
    assert await pending() == 1
    receiver.words = b"<xml><return_code><![CDATA[SUCCESS]]></return_code></xml>"
    await clock(world, 16)
    await eventually(lambda: tried(2))
    assert await pending() == 0


async def test_old_refunds_need_the_certificate_and_are_told_sealed(
    merchant: Merchant, receiver: Receiver, world: World, tmp_path: Path
) -> None:
    await post(merchant.http, "/pay/unifiedorder", unified(merchant, receiver, "MD5"))
    await merchant.act("ORDER1", "pay", kind="order")
    body = fields(
        merchant, "MD5", out_trade_no="ORDER1", out_refund_no="R1", total_fee="10000",
        refund_fee="2500", notify_url=receiver.url,
    )  # fmt: skip
    bare = await merchant.http.post("/secapi/pay/refund", content=message(body))
    assert read(bare.content) == {"return_code": "FAIL", "return_msg": "证书校验失败"}
    context = trusting(world, merchant, tmp_path)
    async with httpx.AsyncClient(
        base_url=world.wechat_tls_url, verify=context, trust_env=False
    ) as client:
        made = await post(client, "/secapi/pay/refund", body)
    assert (made["result_code"], made["refund_fee"]) == ("SUCCESS", "2500")
    await eventually(lambda: len(receiver.heard) >= 2)
    outer = read(next(one.body for one in receiver.heard if b"req_info" in one.body))
    assert "sign" not in outer
    key = hashlib.md5(merchant.apiv2_key.encode(), usedforsecurity=False).hexdigest().encode()
    cipher = Cipher(algorithms.AES(key), modes.ECB()).decryptor()  # noqa: S305 - theirs
    plain = cipher.update(base64.b64decode(outer["req_info"])) + cipher.finalize()
    inner = read(plain[: -plain[-1]])
    assert (inner["out_refund_no"], inner["refund_status"]) == ("R1", "SUCCESS")
    ask = fields(merchant, "MD5", out_refund_no="R1")
    found = await post(merchant.http, "/pay/refundquery", ask)
    assert (found["refund_status_0"], found["refund_fee_0"]) == ("SUCCESS", "2500")
