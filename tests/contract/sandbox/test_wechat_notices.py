"""Notices of WeChat Pay: sealed and signed, repeated on its timetable, and never to be trusted."""

from __future__ import annotations

import json

import pytest
from tests.contract.sandbox.support import Receiver, eventually
from tests.contract.sandbox.wechat_support import MCHID, Merchant, clock

from paymaster_sandbox import World


async def pay(merchant: Merchant, out_no: str = "A1") -> None:
    openid = await merchant.user(behaviour="confirm")
    assert (await merchant.transfer(out_no, openid)).status_code == 200

    async def paid() -> bool:
        return await merchant.state(out_no) == "SUCCESS"

    await eventually(paid)


async def tries(merchant: Merchant) -> list[int | str]:
    """What was answered to every try that the sandbox has written down."""
    found = await merchant.control.get("/_control/events", params={"kind": "webhook.sent"})
    return [event["answer"] for event in found.json()["events"]]


async def test_every_try_is_signed_anew_over_the_same_bytes(
    merchant: Merchant, receiver: Receiver, world: World
) -> None:
    receiver.status = 500
    await pay(merchant)

    async def tried(wanted: int) -> bool:
        return len(await tries(merchant)) == wanted

    await eventually(lambda: tried(1))
    await clock(world, 16)
    await eventually(lambda: tried(2))
    first, second = receiver.heard
    assert first.body == second.body
    assert first.headers["wechatpay-nonce"] != second.headers["wechatpay-nonce"]
    assert merchant.genuine(first)
    assert merchant.genuine(second)
    receiver.status = 204
    await clock(world, 16)
    await eventually(lambda: len(receiver.heard) == 3)
    await clock(world, 100_000)
    books = (await merchant.control.get("/_control/books")).json()
    assert books["notices_pending"] == 0
    assert len(receiver.heard) == 3


async def test_it_gives_up_after_its_timetable(
    merchant: Merchant, receiver: Receiver, world: World
) -> None:
    receiver.status = 503
    await pay(merchant)
    for number in range(1, 65):

        async def tried(wanted: int = number) -> bool:
            return len(await tries(merchant)) == wanted

        await eventually(tried)
        await clock(world, 1801)
    await eventually(lambda: len(receiver.heard) == 65)

    async def given_up() -> bool:
        books = (await merchant.control.get("/_control/books")).json()
        return books["notices_pending"] == 0

    await eventually(given_up)


async def test_lost_late_and_repeated(merchant: Merchant, receiver: Receiver, world: World) -> None:
    await merchant.mishap("notice", "lost")
    await pay(merchant, "LOST")
    await merchant.mishap("notice", "late", seconds=600)
    await pay(merchant, "LATE")
    await merchant.mishap("notice", "copies", number=3)
    await pay(merchant, "THRICE")
    await eventually(lambda: len(receiver.heard) == 3)
    assert [told["out_bill_no"] for told in merchant.told(receiver)] == ["THRICE"] * 3
    await clock(world, 601)
    await eventually(lambda: len(receiver.heard) == 4)
    assert merchant.told(receiver)[-1]["out_bill_no"] == "LATE"


@pytest.mark.parametrize(
    "kind", ["bad_signature", "unknown_serial", "stale", "signtest", "tampered"]
)
async def test_false_notices_beside_the_true_one(
    merchant: Merchant, receiver: Receiver, kind: str
) -> None:
    await merchant.mishap("notice", kind)
    await pay(merchant)
    await eventually(lambda: len(receiver.heard) == 2)
    assert sorted(merchant.genuine(heard) for heard in receiver.heard) == [False, True]
    if kind == "signtest":
        probe = next(heard for heard in receiver.heard if not merchant.genuine(heard))
        assert probe.headers["wechatpay-signature"].startswith("WECHATPAY/SIGNTEST/")


async def test_an_old_notice_comes_again(merchant: Merchant, receiver: Receiver) -> None:
    await pay(merchant, "A1")
    await eventually(lambda: len(receiver.heard) == 1)
    await merchant.mishap("notice", "replayed")
    await pay(merchant, "A2")
    await eventually(lambda: len(receiver.heard) == 3)
    replayed = [heard for heard in receiver.heard[1:] if heard.body == receiver.heard[0].body]
    assert len(replayed) == 1
    assert not merchant.genuine(replayed[0])


async def test_a_notice_for_another_merchant_is_signed_and_still_not_ours(
    merchant: Merchant, receiver: Receiver
) -> None:
    await merchant.mishap("notice", "wrong_mchid")
    await pay(merchant)
    await eventually(lambda: len(receiver.heard) == 2)
    told = merchant.told(receiver)
    assert sorted(one["mchid"] == MCHID for one in told) == [False, True]


async def test_while_keys_change_notices_are_mixed(merchant: Merchant, receiver: Receiver) -> None:
    await merchant.register(notify_url=receiver.url, mixed_percent=50)
    for number in range(8):
        await pay(merchant, f"A{number}")
    await eventually(lambda: len(receiver.heard) == 8)
    serials = {heard.headers["wechatpay-serial"] for heard in receiver.heard}
    assert serials == set(merchant.platform)
    assert len(merchant.told(receiver)) == 8


async def test_the_bills_own_address_counts_first(merchant: Merchant, receiver: Receiver) -> None:
    other = Receiver()
    await other.up()
    openid = await merchant.user(behaviour="confirm")
    await merchant.transfer("A1", openid, notify_url=other.url)
    await eventually(lambda: other.heard)
    await other.down()
    assert receiver.heard == []
    envelope = json.loads(other.heard[0].body)
    assert envelope["resource"]["algorithm"] == "AEAD_AES_256_GCM"
    assert set(envelope) == {
        "id", "create_time", "resource_type", "event_type", "summary", "resource",
    }  # fmt: skip


async def test_no_notice_leaves_this_machine(merchant: Merchant) -> None:
    openid = await merchant.user(behaviour="confirm")
    await merchant.transfer("A1", openid, notify_url="https://merchant.example/notify")

    async def tried() -> bool:
        return await tries(merchant) == ["no receiver"]

    await eventually(tried)
