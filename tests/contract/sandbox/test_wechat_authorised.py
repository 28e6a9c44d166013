"""Users who have agreed are paid without asking; the agreement ends when either side wants it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract.sandbox.support import Receiver, eventually
from tests.contract.sandbox.wechat_support import APPID, BILLS, Merchant, bill, clock

from paymaster_sandbox import World

ASK = "/v3/fund-app/mch-transfer/user-confirm-authorization"
DAY = 86_400


@pytest.fixture
async def authorised(merchant: Merchant, receiver: Receiver) -> Merchant:
    await merchant.register(product="authorised", notify_url=receiver.url)
    return merchant


async def ask(merchant: Merchant, out_no: str, openid: str, receiver: Receiver, **more: Any) -> Any:
    body = {
        "out_authorization_no": out_no, "appid": APPID, "openid": openid,
        "transfer_scene_id": "1000", "user_display_name": "Ada",
        "authorization_notify_url": receiver.url, **more,
    }  # fmt: skip
    return await merchant.call("POST", ASK, body)


async def agreement(merchant: Merchant, out_no: str) -> dict[str, Any]:
    target = f"{ASK}/out-authorization-no/{out_no}?is_display_authorization=true"
    answer = await merchant.get(target)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def pay(merchant: Merchant, out_no: str, fen: int = 100, **more: Any) -> Any:
    body = bill(out_no, None, fen, **more)
    return await merchant.call("POST", f"{BILLS}/transfer", body)


async def state(merchant: Merchant, out_no: str, wanted: str) -> None:
    async def reached() -> bool:
        return await merchant.state(out_no) == wanted

    await eventually(reached)


async def test_once_agreed_payments_need_no_confirmation(
    authorised: Merchant, receiver: Receiver
) -> None:
    openid = await authorised.user()
    asked = (await ask(authorised, "Z1", openid, receiver)).json()
    assert asked["state"] == "WAIT_USER_CONFIRM"
    assert asked["package_info"]
    early = await pay(authorised, "A0", out_authorization_no="Z1")
    assert (early.status_code, early.json()["code"]) == (400, "INVALID_REQUEST")
    assert await authorised.act("Z1", kind="authorization") == "TAKING_EFFECT"
    await eventually(lambda: receiver.heard)
    told = authorised.told(receiver)[0]
    assert receiver.heard[0].event["event_type"] == "MCHTRANSFER.AUTHORIZATION.CONFIRMED"
    found = await agreement(authorised, "Z1")
    assert (told["state"], found["authorization_id"]) == ("TAKING_EFFECT", told["authorization_id"])
    names: list[dict[str, Any]] = [
        {"authorization_id": found["authorization_id"]},
        {"out_authorization_no": "Z1"},
    ]
    for number, named in enumerate(names):
        answer = await pay(authorised, f"A{number + 1}", **named)
        assert answer.json()["state"] in ("TRANSFERING", "SUCCESS")
        assert "package_info" not in answer.json()
        await state(authorised, f"A{number + 1}", "SUCCESS")
    assert (await authorised.books())["payees"][openid] == {"paid": 2, "paid_fen": 200}


async def test_closed_by_the_merchant_or_the_user(authorised: Merchant, receiver: Receiver) -> None:
    for number, reason in enumerate(("CLOSE_VIA_MCH_API", "USER_CLOSE")):
        openid = await authorised.user(f"user{number}", behaviour="confirm")
        out_no = f"Z{number}"
        await ask(authorised, out_no, openid, receiver)

        async def agreed(wanted: str = out_no) -> bool:
            return (await agreement(authorised, wanted))["state"] == "TAKING_EFFECT"

        await eventually(agreed)
        paid = (await pay(authorised, f"A{number}", out_authorization_no=out_no)).json()
        if reason == "USER_CLOSE":
            await authorised.act(out_no, "withdraw", kind="authorization")
        else:
            await authorised.call("POST", f"{ASK}/out-authorization-no/{out_no}/close")
        found = await agreement(authorised, out_no)
        assert (found["state"], found["close_info"]["close_reason"]) == ("CLOSED", reason)
        late = await pay(authorised, f"B{number}", out_authorization_no=out_no)
        assert late.status_code == 400
        again = await pay(authorised, f"A{number}", out_authorization_no=out_no)
        assert again.json()["transfer_bill_no"] == paid["transfer_bill_no"]
    assert (await authorised.books())["duplicates"] == []


async def test_one_agreement_for_a_user_and_a_scene(
    authorised: Merchant, receiver: Receiver, world: World
) -> None:
    openid = await authorised.user()
    first = (await ask(authorised, "Z1", openid, receiver)).json()
    assert (await ask(authorised, "Z1", openid, receiver)).json() == first
    other = await ask(authorised, "Z1", openid, receiver, user_display_name="Eve")
    assert other.json()["message"] == "单号已存在但信息不一致"
    assert (await ask(authorised, "Z2", openid, receiver)).json()["code"] == "INVALID_REQUEST"
    await clock(world, DAY + 1)
    found = await agreement(authorised, "Z1")
    assert found["close_info"]["close_reason"] == "USER_OVERDUE_UNCONFIRMED"
    assert (await ask(authorised, "Z1", openid, receiver)).status_code == 400
    assert (await ask(authorised, "Z2", openid, receiver)).status_code == 200


async def test_the_first_payment_and_the_agreement_in_one_step(
    authorised: Merchant, receiver: Receiver
) -> None:
    openid = await authorised.user()
    info = {
        "user_display_name": "Ada", "out_authorization_no": "Z1",
        "authorization_notify_url": receiver.url,
    }  # fmt: skip
    target = f"{BILLS}/pre-transfer-with-authorization"
    body = bill("A1", openid, authorization_info=info)
    made = (await authorised.call("POST", target, body)).json()
    assert (made["state"], made["out_authorization_no"]) == ("WAIT_USER_CONFIRM", "Z1")
    assert (await authorised.call("POST", target, body)).json() == made
    await authorised.act("A1")
    await state(authorised, "A1", "SUCCESS")
    assert (await agreement(authorised, "Z1"))["state"] == "TAKING_EFFECT"
    assert (await pay(authorised, "A2", out_authorization_no="Z1")).status_code == 200
    await state(authorised, "A2", "SUCCESS")


async def test_the_scene_must_be_the_agreed_one(authorised: Merchant, receiver: Receiver) -> None:
    openid = await authorised.user()
    await ask(authorised, "Z1", openid, receiver)
    await authorised.act("Z1", kind="authorization")
    answer = await pay(authorised, "A1", out_authorization_no="Z1", transfer_scene_id="1009")
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    unknown = await pay(authorised, "A1", out_authorization_no="NONE")
    assert unknown.status_code == 404
    neither = await pay(authorised, "A1")
    assert neither.json()["code"] == "PARAM_ERROR"


async def test_it_is_a_product_of_its_own(merchant: Merchant, receiver: Receiver) -> None:
    openid = await merchant.user()
    answer = await ask(merchant, "Z1", openid, receiver)
    assert (answer.status_code, answer.json()["code"]) == (403, "NO_AUTH")
