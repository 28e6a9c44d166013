"""The Alipay sandbox as a whole: through a kill, and through every fault at once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.calling import NOBODY
from tests.contract.sandbox.alipay_client import CARD, Customer, card_order, open_customer, order
from tests.contract.sandbox.support import Client, Process, Receiver, eventually, start
from tests.contract.sandbox.test_alipay_notices import heard_forms, proven

FAULTS = (
    "drop_requests", "drop_answers", "fail_before", "fail_after", "rate_limit", "processing",
    "unlisted_code", "bad_signature", "unsigned", "truncated", "garbled", "accepted",
)  # fmt: skip
PATH = "/fund/trans/uni/transfer"


@pytest.mark.slow
async def test_a_kill_loses_nothing_that_was_answered(
    tmp_path: Path, receiver: Receiver, processes: list[Process]
) -> None:
    receiver.status = 500
    first = await start(tmp_path / "world", "--date", "2026-01-05")
    processes.append(first)
    async with httpx.AsyncClient(trust_env=False, verify=NOBODY) as http:
        customer = await open_customer(
            http, first.ready["http"], first.ready["alipay"], gateway_url=receiver.url
        )
        made = await customer.transfer("R1")
        await heard_forms(receiver, 1)
        first.kill()
        receiver.status, receiver.words = 200, b"success"
        again = await start(tmp_path / "world")
        processes.append(again)
        assert again.ready["alipay"] == customer.url, "where it was before"
        found = await customer.query("R1")
        assert found.body["order_id"] == made.body["order_id"], "signed with the same certificate"
        assert (await customer.transfer("R1")).body == made.body
        control = httpx.AsyncClient(base_url=again.ready["http"], trust_env=False, verify=NOBODY)
        client = Client(control, "")
        await client.control("clock", advance_seconds=240)
        forms = await heard_forms(receiver, 2)
        assert all(proven(customer, form) for form in forms)
        assert forms[0]["notify_id"] == forms[-1]["notify_id"]
        assert (await client.books())["references"] == {"R1": 1}
        await client.http.aclose()


async def known(customer: Customer, number: str, product: str) -> str | None:
    """The state that a proven answer gives, or None if there is no proof now."""
    wanted = {"out_biz_no": number, "product_code": product, "biz_scene": "DIRECT_TRANSFER"}
    try:
        answer = await customer.raw("GET", "/fund/trans/common/query", **wanted)
        if answer.status_code == 200 and customer.proven(answer):
            return answer.json().get("status")
    except (httpx.HTTPError, KeyError, ValueError):
        return None
    return None


async def settle(customer: Customer, wanted: dict[str, Any]) -> str:
    """What a careful customer does: the same order under the same number until it has proof."""
    for _ in range(60):
        try:
            await customer.raw("POST", PATH, **wanted)
        except httpx.HTTPError:
            await asyncio.sleep(0)
        state = await known(customer, wanted["out_biz_no"], wanted["product_code"])
        if state is not None:
            return state
    return pytest.fail("no proof after sixty tries")


@pytest.mark.slow
async def test_under_every_fault_each_number_pays_once(
    customer: Customer, client: Client, receiver: Receiver
) -> None:
    receiver.status, receiver.words = 200, b"success"
    chances = {f"chance_{name}": 60 for name in FAULTS}
    lies = {f"chance_notice_{name}": 200 for name in ("lose", "late", "forge", "tamper", "replay")}
    await client.control("alipay/faults", **chances, **lies)
    wanted = [
        (card_order if number % 3 == 0 else order)(f"R{number}", f"{number + 1}.{number:02}")
        for number in range(40)
    ]
    states = [await settle(customer, each) for each in wanted]
    assert set(states) <= {"SUCCESS", "DEALING"}
    await client.control("clock", advance_seconds=3600)
    await eventually(lambda: _settled(client))
    calm = dict.fromkeys((*chances, *lies), 0)
    await client.control("alipay/faults", **calm)
    books = await client.books()
    assert books["references"] == {each["out_biz_no"]: 1 for each in wanted}
    assert books["duplicates"] == []
    assert books["proven"]
    paid = sum(int(each["trans_amount"].replace(".", "")) for each in wanted)
    assert books["paid_minor"] == {"CNY": paid}
    assert books["payees"][CARD]["paid"] == 14
    now = datetime.fromisoformat((await client.http.get("/_control/clock")).json()["now"])
    beijing = now.astimezone(UTC) + timedelta(hours=8)
    window = {
        "start_time": f"{beijing - timedelta(days=2):%Y-%m-%d} 00:00:00",
        "end_time": f"{beijing:%Y-%m-%d} 23:59:59",
    }
    log = (await customer.call("GET", "/data/bill/accountlog/query", **window)).body
    lines = [line for line in log["detail_list"] if line["type"] == "转账"]
    assert sorted(line["merchant_order_no"] for line in lines) == sorted(books["references"])
    assert f"{1_000_000 - paid:,}".replace(",", "") == (await customer.balance()).replace(".", "")
    events = (await client.http.get("/_control/events?kind=alipay.trouble&limit=9999")).json()
    struck = {event["knob"] for event in events["events"]}
    assert len(struck) >= 10, f"too few faults struck to prove anything: {struck}"


async def _settled(client: Client) -> bool:
    return (await client.books())["pending"] == 0
