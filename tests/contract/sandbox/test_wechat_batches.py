"""Batches: sums must match, each transfer stands for itself, and details show when it is done."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract.sandbox.support import Receiver, eventually
from tests.contract.sandbox.wechat_support import APPID, MCHID, Merchant, clock

from paymaster_sandbox import World

BATCHES = "/v3/transfer/batches"


@pytest.fixture
async def batching(merchant: Merchant, receiver: Receiver) -> Merchant:
    await merchant.register(product="batches", notify_url=receiver.url)
    return merchant


def detail(number: int, openid: str, fen: int = 100, **more: Any) -> dict[str, Any]:
    return {
        "out_detail_no": f"D{number}", "transfer_amount": fen, "transfer_remark": "Reward",
        "openid": openid, **more,
    }  # fmt: skip


def batch(out_no: str, details: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "appid": APPID, "out_batch_no": out_no, "batch_name": "January",
        "batch_remark": "Rewards", "transfer_scene_id": "1001",
        "total_amount": sum(one["transfer_amount"] for one in details),
        "total_num": len(details), "transfer_detail_list": details, **more,
    }  # fmt: skip


async def finished(merchant: Merchant, out_no: str, wanted: str = "FINISHED") -> dict[str, Any]:
    async def done() -> dict[str, Any] | None:
        target = f"{BATCHES}/out-batch-no/{out_no}?need_query_detail=true"
        found = (await merchant.get(target)).json()
        return found if found["transfer_batch"]["batch_status"] == wanted else None

    return await eventually(done)


async def test_each_transfer_stands_for_itself(batching: Merchant, receiver: Receiver) -> None:
    ada, eve = await batching.user("ada"), await batching.user("eve", real_name=None)
    serial = next(iter(batching.platform))
    named = detail(3, ada, user_name=batching.encrypted("张三", serial))
    body = batch("B1", [detail(1, ada), detail(2, eve, 200), named])
    answer = await batching.call("POST", BATCHES, body, asks_for=serial)
    assert (answer.status_code, answer.json()["batch_status"]) == (200, "ACCEPTED")
    found = await finished(batching, "B1")
    assert {name: found["transfer_batch"][name] for name in (
        "success_num", "success_amount", "fail_num", "fail_amount")} == {
        "success_num": 2, "success_amount": 200, "fail_num": 1, "fail_amount": 200,
    }  # fmt: skip
    states = {one["out_detail_no"]: one["detail_status"] for one in found["transfer_detail_list"]}
    assert states == {"D1": "SUCCESS", "D2": "FAIL", "D3": "SUCCESS"}
    base = f"{BATCHES}/out-batch-no/B1/details/out-detail-no"
    failed = (await batching.get(f"{base}/D2")).json()
    assert (failed["fail_reason"], failed["transfer_amount"]) == ("REAL_NAME_CHECK_FAIL", 200)
    by_id = f"{BATCHES}/batch-id/{failed['batch_id']}/details/detail-id/{failed['detail_id']}"
    assert (await batching.get(by_id)).json() == failed
    books = await batching.books()
    assert books["references"] == {"D1": 1, "D3": 1}
    assert books["merchants"][MCHID]["OPERATION_fen"] == 1_000_000 - 200
    assert books["merchants"][MCHID]["held_fen"] == 0
    await eventually(lambda: receiver.heard)
    told = batching.told(receiver)[0]
    assert (told["batch_status"], told["success_num"]) == ("FINISHED", 2)
    assert receiver.heard[0].event["event_type"] == "MCHTRANSFER.BATCH.FINISHED"


async def test_the_same_batch_again(batching: Merchant) -> None:
    ada = await batching.user()
    body = batch("B1", [detail(1, ada)])
    first = (await batching.call("POST", BATCHES, body)).json()
    again = (await batching.call("POST", BATCHES, body)).json()
    assert again["batch_id"] == first["batch_id"]
    other = await batching.call("POST", BATCHES, batch("B1", [detail(1, ada, 101)]))
    assert (other.status_code, other.json()["code"]) == (400, "INVALID_REQUEST")
    await finished(batching, "B1")
    assert (await batching.books())["references"] == {"D1": 1}


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"total_amount": 301}, 400, "PARAM_ERROR"),
        ({"total_num": 3}, 400, "PARAM_ERROR"),
        ({"transfer_detail_list": []}, 400, "PARAM_ERROR"),
        ({"batch_name": "x" * 33}, 400, "PARAM_ERROR"),
        ({"appid": "wxffffffffffffffff"}, 400, "INVALID_REQUEST"),
    ],
)
async def test_wrong_batches(
    batching: Merchant, change: dict[str, Any], status: int, code: str
) -> None:
    ada = await batching.user()
    body = {**batch("B1", [detail(1, ada), detail(2, ada, 200)]), **change}
    answer = await batching.call("POST", BATCHES, body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (
        await batching.get(f"{BATCHES}/out-batch-no/B1?need_query_detail=false")
    ).status_code == (404)


async def test_doubled_details_and_too_little_money(batching: Merchant) -> None:
    ada = await batching.user()
    doubled = batch("B1", [detail(1, ada), detail(1, ada)])
    assert (await batching.call("POST", BATCHES, doubled)).json()["code"] == "PARAM_ERROR"
    rich = batch("B2", [detail(number, ada, 199_999) for number in range(6)])
    answer = await batching.call("POST", BATCHES, rich)
    assert (answer.status_code, answer.json()["code"]) == (403, "NOT_ENOUGH")
    assert (await batching.books())["merchants"][MCHID]["held_fen"] == 0


async def test_details_are_hidden_until_the_batch_begins(batching: Merchant, world: World) -> None:
    await batching.knob("settings", accept_seconds=60)
    ada = await batching.user()
    await batching.call("POST", BATCHES, batch("B1", [detail(1, ada)]))
    hidden = await batching.get(f"{BATCHES}/out-batch-no/B1/details/out-detail-no/D1")
    assert hidden.status_code == 404
    await batching.knob("balances", mchid=MCHID, fen=1_000_000, take=True)
    await clock(world, 61)
    found = await finished(batching, "B1", "CLOSED")
    assert found["transfer_batch"]["close_reason"] == "OVERDUE_CLOSE"
    assert (await batching.books())["references"] == {}


async def test_pages_and_filters(batching: Merchant) -> None:
    ada = await batching.user()
    details = [detail(number, ada) for number in range(8)]
    await batching.call("POST", BATCHES, batch("B1", details))
    await finished(batching, "B1")
    base = f"{BATCHES}/out-batch-no/B1?need_query_detail=true"
    seen: set[str] = set()
    for offset in (0, 5):
        page = (await batching.get(f"{base}&offset={offset}&limit=5")).json()
        seen |= {one["out_detail_no"] for one in page["transfer_detail_list"]}
    assert seen == {f"D{number}" for number in range(8)}
    failed = (await batching.get(f"{base}&detail_status=FAIL")).json()
    assert failed["transfer_detail_list"] == []
    assert (await batching.get(f"{base}&limit=0")).status_code == 400
    assert (await batching.get(f"{BATCHES}/out-batch-no/B1")).status_code == 400
