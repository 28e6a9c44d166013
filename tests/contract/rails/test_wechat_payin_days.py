"""What WeChat's bill of a day says about charges and refunds, and a client that others wrote."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from tests.contract.checking import patiently
from tests.contract.harness import Delivery
from tests.contract.sandboxes import Outside, outside
from tests.contract.wechat_payin import Till
from tests.contract.wechat_world import APPID
from wechatpayv3 import WeChatPay, WeChatPayType

from paymaster.kernel.errors import RailRefused
from paymaster.kernel.money import Money
from paymaster.rails.base import LineKind, StatementLine
from paymaster.rails.payin import ChargeVerdict, RefundVerdict

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Outside]:
    async with outside(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def till(found: Outside) -> Till:
    return await Till.open(found, "v3", 1)


def theirs(till: Till) -> WeChatPay:
    """Their client, for the same merchant, with the provider's public key."""
    kept, settings = till.harness.kept, till.account.settings
    name = next(name for name in till.platform if name.startswith("PUB_KEY_ID_"))
    client = WeChatPay(
        wechatpay_type=WeChatPayType.NATIVE, mchid=till.mchid, private_key=kept["private"],
        appid=APPID, cert_serial_no=settings["merchant_serial"], apiv3_key=kept["apiv3"],
        notify_url=settings["notify_url"], timeout=10, proxy={"http": "", "https": ""},
        public_key_id=name, public_key=till.platform[name],
    )  # fmt: skip
    client._core._gate_way = settings["url"]
    return client


async def said(call: Callable[..., Any], **given: Any) -> dict[str, Any]:
    """What a call of theirs, which blocks and verifies the answer, came back with."""
    status, text = await asyncio.to_thread(call, **given)
    assert 200 <= status < 300, text
    return json.loads(text) if text else {}


@pytest.mark.filterwarnings("ignore:Properties that return a na:UserWarning")
async def test_their_client_signs_and_reads_the_same(till: Till) -> None:
    client = theirs(till)
    payee = till.harness.add_user(next(till.outside.numbers))
    charge = till.charge("wechat-jsapi", payer=payee.details["openid"])
    shown = await till.rail.open_charge(till.account, charge)
    given = shown.parameters
    signed = ("appId", "timeStamp", "nonceStr", "package")
    assert client.sign([given[name] for name in signed]) == given["paySign"]
    app = (await till.rail.open_charge(till.account, till.charge("wechat-app"))).parameters
    signed = ("appid", "timestamp", "noncestr", "prepayid")
    assert client.sign([app[name] for name in signed]) == app["sign"]

    assert (await said(client.query, out_trade_no=charge.key))["trade_state"] == "NOTPAY"
    till.deliveries()
    await till.pay(charge.key)
    came: list[Delivery] = []

    async def heard() -> bool:
        came.extend(till.deliveries())
        return bool(came)

    await patiently(heard, "no notice came")
    theirs_read: Any = await asyncio.to_thread(
        client.callback, {name.title(): text for name, text in came[0].headers.items()},
        came[0].body,
    )  # fmt: skip
    (ours,) = till.read(came[0])
    assert (theirs_read["id"], theirs_read["event_type"]) == (ours.event_id, "TRANSACTION.SUCCESS")
    resource = theirs_read["resource"]
    assert (resource["out_trade_no"], resource["transaction_id"]) == (
        ours.about.key, ours.about.provider_id,
    )  # fmt: skip
    assert Money(resource["amount"]["total"], "CNY") == ours.about.amount == charge.amount

    order = till.back(charge, 34)
    await till.rail.refund(till.account, order)
    assert (await till.refunded(order)).verdict is RefundVerdict.DONE
    back = await said(client.query_refund, out_refund_no=order.key)
    assert (back["status"], back["amount"]["refund"]) == ("SUCCESS", 34)


@pytest.mark.filterwarnings("ignore:Properties that return a na:UserWarning")
async def test_what_their_client_opened_is_ours_to_look_up_and_close(till: Till) -> None:
    client, charge = theirs(till), till.charge()
    amount = {"total": charge.amount.minor}
    made = await said(client.pay, description="x", out_trade_no=charge.key, amount=amount)
    assert made["code_url"]
    found = await till.rail.find_charge(till.account, charge.key)
    assert (found.verdict, found.amount) == (ChargeVerdict.OPEN, charge.amount)
    assert (await till.rail.close_charge(till.account, charge.key)).verdict is ChargeVerdict.CLOSED
    assert (await said(client.query, out_trade_no=charge.key))["trade_state"] == "CLOSED"


async def test_the_bill_names_every_charge_and_refund(till: Till) -> None:
    charge = await till.paid(fen=10_000)
    order = till.back(charge, 4_000)
    await till.rail.refund(till.account, order)
    assert (await till.refunded(order)).verdict is RefundVerdict.DONE
    seen, lines = set[str](), list[StatementLine]()
    for _ in range(3):
        await till.harness.close_day()
        for one in await till.rail.fetch(till.account, frozenset(seen)):
            seen.add(one.name)
            for statement in till.rail.read_file(till.account, one.name, one.body)[1]:
                assert not statement.difference
                lines += statement.lines
    about = {
        (line.reference, line.kind, line.amount.minor)
        for line in lines
        if line.reference in {charge.key, order.key}
    }
    assert about == {
        (charge.key, LineKind.INCOMING, 10_000),
        (charge.key, LineKind.FEE, -60),
        (order.key, LineKind.INCOMING, -4_000),
        (order.key, LineKind.FEE, 24),
    }


async def test_an_account_for_taking_in_pays_nothing_out(till: Till) -> None:
    item, *_ = till.harness.instructions(1)
    with pytest.raises(RailRefused) as caught:
        till.rail.prepare(till.account, item.key, [item], till.harness.now())
    assert [one.pointer for one in caught.value.problems] == [f"/{item.key}"]
    asked = await till.rail.query(till.account, item.key)
    assert asked.verdict == "unknown"
    without = {name: one for name, one in till.account.secrets.items() if name != "platform_keys"}
    assert not await till.rail.fetch(replace(till.account, secrets=without), frozenset())
