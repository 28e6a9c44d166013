"""A client that others wrote works too, so that ours and the sandbox do not share one error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from tests.contract.sandbox.support import Receiver, eventually
from tests.contract.sandbox.test_wechat_bills import at_noon, parsed, ready
from tests.contract.sandbox.wechat_support import APPID, MCHID, SCENE, Merchant
from wechatpayv3 import WeChatPay, WeChatPayType

from paymaster_sandbox import World

Call = Callable[..., Any]


def theirs(merchant: Merchant, folder: Path, kind: str, notify_url: str) -> WeChatPay:
    """Their client, with the platform's certificate or with its public key."""
    key = merchant.private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    by_kind = {serial.startswith("PUB_KEY_ID_"): serial for serial in merchant.platform}
    more: dict[str, Any] = {}
    if kind == "public-key":
        more = {"public_key_id": by_kind[True], "public_key": merchant.platform[by_kind[True]]}
    else:
        (folder / f"{by_kind[False]}.pem").write_text(merchant.platform[by_kind[False]])
        more = {"cert_dir": str(folder)}
    client = WeChatPay(
        wechatpay_type=WeChatPayType.NATIVE, mchid=MCHID, private_key=key, appid=APPID,
        cert_serial_no=merchant.serial, apiv3_key=merchant.apiv3_key, notify_url=notify_url,
        timeout=10, proxy={"http": "", "https": ""}, **more,
    )  # fmt: skip
    client._core._gate_way = str(merchant.http.base_url).rstrip("/")
    return client


async def said(call: Call, *given: Any, **more: Any) -> dict[str, Any]:
    """What a call of theirs, which blocks and verifies the answer, came back with."""
    status, text = await asyncio.to_thread(call, *given, **more)
    assert 200 <= status < 300, text
    return json.loads(text) if text else {}


@pytest.mark.filterwarnings("ignore:Properties that return a na:UserWarning")
@pytest.mark.parametrize("kind", ["certificate", "public-key"])
async def test_a_transfer_from_the_first_call_to_the_notice(
    merchant: Merchant, receiver: Receiver, tmp_path: Path, kind: str
) -> None:
    client = theirs(merchant, tmp_path, kind, receiver.url)
    openid = await merchant.user()
    made = await said(
        client.mch_transfer_bills, out_bill_no="A1", transfer_scene_id="1000", openid=openid,
        transfer_amount=1234, transfer_remark="新人奖励", user_name="张三",
        transfer_scene_report_infos=SCENE,
    )  # fmt: skip
    assert made["state"] == "WAIT_USER_CONFIRM"
    await merchant.act("A1")

    async def paid() -> dict[str, Any] | None:
        found = await said(client.mch_transfer_bills_query, out_bill_no="A1")
        return found if found["state"] == "SUCCESS" else None

    found = await eventually(paid)
    assert client.decrypt(found["user_name"]) == "张三"
    await eventually(lambda: receiver.heard)
    heard = receiver.heard[0]
    told: Any = await asyncio.to_thread(client.callback, heard.headers, heard.body)
    assert told["event_type"] == "MCHTRANSFER.BILL.FINISHED"
    assert (told["resource"]["out_bill_no"], told["resource"]["state"]) == ("A1", "SUCCESS")
    receipt = await said(client.mch_transfer_elecsign, out_bill_no="A1")
    assert receipt["state"] in ("GENERATING", "FINISHED")


async def test_it_cancels(merchant: Merchant, receiver: Receiver, tmp_path: Path) -> None:
    client = theirs(merchant, tmp_path, "public-key", receiver.url)
    openid = await merchant.user()
    await merchant.transfer("A1", openid)
    assert (await said(client.mch_transfer_bills_cancel, "A1"))["state"] == "CANCELING"

    async def gone() -> bool:
        return await merchant.state("A1") == "CANCELLED"

    await eventually(gone)


async def test_after_a_rotation_it_fetches_the_new_certificate(
    merchant: Merchant, receiver: Receiver, tmp_path: Path
) -> None:
    client = theirs(merchant, tmp_path, "certificate", receiver.url)
    openid = await merchant.user()
    await merchant.transfer("A1", openid)
    await merchant.knob("keys", kind="certificate")
    found = await said(client.mch_transfer_bills_query, out_bill_no="A1")
    assert found["state"] == "WAIT_USER_CONFIRM"
    assert len(client._core._certificates) == 2


async def test_it_refuses_what_is_signed_wrongly(
    merchant: Merchant, receiver: Receiver, tmp_path: Path
) -> None:
    client = theirs(merchant, tmp_path, "public-key", receiver.url)
    openid = await merchant.user()
    await merchant.transfer("A1", openid)
    await merchant.mishap("transfer.query", "bad_signature")
    with pytest.raises(Exception, match="failed to verify the signature"):
        await said(client.mch_transfer_bills_query, out_bill_no="A1")


async def test_orders_refunds_and_bills(
    merchant: Merchant, receiver: Receiver, world: World, tmp_path: Path
) -> None:
    client = theirs(merchant, tmp_path, "public-key", receiver.url)
    day = await at_noon(world)
    made = await said(client.pay, description="茶", out_trade_no="ORDER1", amount={"total": 100})
    assert made["code_url"].startswith("weixin://")
    await merchant.act("ORDER1", "pay", kind="order")
    assert (await said(client.query, out_trade_no="ORDER1"))["trade_state"] == "SUCCESS"
    back = await said(
        client.refund, out_refund_no="R1", out_trade_no="ORDER1",
        amount={"refund": 50, "total": 100, "currency": "CNY"},
    )  # fmt: skip
    assert back["status"] in ("PROCESSING", "SUCCESS")
    await said(client.pay, description="茶", out_trade_no="ORDER2", amount={"total": 100})
    assert await said(client.close, out_trade_no="ORDER2") == {}
    await ready(world, day)
    bill = await said(client.trade_bill, bill_date=str(day), tar_type="")
    _, body = await asyncio.to_thread(client.download_bill, bill["download_url"])
    rows, _ = parsed(body)
    assert [row["交易状态"] for row in rows] == ["SUCCESS", "REFUND"]
