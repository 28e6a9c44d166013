"""Transfer bills: the user confirms, or does not; the money is locked, paid once, or given back."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract.sandbox.support import Receiver, eventually
from tests.contract.sandbox.wechat_support import BILLS, MCHID, SCENE, Merchant, clock

from paymaster_sandbox import World

DAY = 86_400


async def ended(merchant: Merchant, out_no: str, *states: str) -> str:
    """The bill's last state, once it has one."""

    async def final() -> str | None:
        found = await merchant.state(out_no)
        return found if found in (states or ("SUCCESS", "FAIL", "CANCELLED")) else None

    return await eventually(final)


async def held(merchant: Merchant) -> tuple[int, int]:
    """What is on the operating account, and what is locked."""
    books = (await merchant.books())["merchants"][MCHID]
    return books["OPERATION_fen"], books["held_fen"]


async def test_the_user_confirms_and_is_paid_once(merchant: Merchant, receiver: Receiver) -> None:
    openid = await merchant.user()
    made = (await merchant.transfer("A1", openid, 1234)).json()
    assert made["state"] == "WAIT_USER_CONFIRM"
    assert made["package_info"]
    assert set(made) == {
        "out_bill_no", "transfer_bill_no", "create_time", "state", "package_info"
    }  # fmt: skip
    assert await held(merchant) == (1_000_000 - 1234, 1234)
    assert receiver.heard == []
    assert await merchant.act("A1") == "TRANSFERING"
    assert await ended(merchant, "A1") == "SUCCESS"
    assert await held(merchant) == (1_000_000 - 1234, 0)
    books = await merchant.books()
    assert books["payees"] == {openid: {"paid": 1, "paid_fen": 1234}}
    assert books["references"] == {"A1": 1}
    assert books["proven"]
    await eventually(lambda: receiver.heard)
    told = merchant.told(receiver)[0]
    assert told == {
        "out_bill_no": "A1", "transfer_bill_no": made["transfer_bill_no"], "state": "SUCCESS",
        "mchid": MCHID, "transfer_amount": 1234, "openid": openid,
        "create_time": made["create_time"], "update_time": told["update_time"],
    }  # fmt: skip
    assert receiver.heard[0].event["event_type"] == "MCHTRANSFER.BILL.FINISHED"


async def test_both_queries_say_the_same(merchant: Merchant) -> None:
    openid = await merchant.user()
    made = (await merchant.transfer("A1", openid)).json()
    one = (await merchant.get(f"{BILLS}/out-bill-no/A1")).json()
    other = (await merchant.get(f"{BILLS}/transfer-bill-no/{made['transfer_bill_no']}")).json()
    assert one == other
    assert (one["mch_id"], one["openid"], one["transfer_amount"]) == (MCHID, openid, 100)
    assert one["create_time"].endswith("+08:00")


async def test_the_same_number_again_is_the_same_bill(merchant: Merchant) -> None:
    openid = await merchant.user()
    first = (await merchant.transfer("A1", openid)).json()
    assert (await merchant.transfer("A1", openid)).json() == first
    assert await held(merchant) == (999_900, 100)
    changes: list[dict[str, Any]] = [
        {"fen": 101},
        {"transfer_remark": "Another"},
        {"notify_url": "http://127.0.0.1/"},
    ]
    for change in changes:
        answer = await merchant.transfer("A1", openid, **change)
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
        assert answer.json()["message"] == "单号已存在但信息不一致"
    assert await held(merchant) == (999_900, 100)


async def test_a_sealed_name_is_compared_in_the_clear(merchant: Merchant) -> None:
    openid = await merchant.user(real_name="李四")
    made = []
    for serial in merchant.platform:
        sealed = merchant.encrypted("李四", serial)
        answer = await merchant.call("POST", BILLS, _named("A1", openid, sealed), asks_for=serial)
        assert answer.status_code == 200, answer.text
        made.append(answer.json()["transfer_bill_no"])
    assert made[0] == made[1]
    await merchant.act("A1")
    assert await ended(merchant, "A1") == "SUCCESS"


async def test_a_wrong_name_fails_late(merchant: Merchant, receiver: Receiver) -> None:
    openid = await merchant.user(real_name="李四", behaviour="confirm")
    serial = next(iter(merchant.platform))
    body = _named("A1", openid, merchant.encrypted("王五", serial))
    assert (await merchant.call("POST", BILLS, body, asks_for=serial)).status_code == 200
    assert await ended(merchant, "A1") == "FAIL"
    found = (await merchant.get(f"{BILLS}/out-bill-no/A1")).json()
    assert found["fail_reason"] == "NAME_NOT_CORRECT"
    assert await held(merchant) == (1_000_000, 0)
    await eventually(lambda: receiver.heard)
    assert merchant.told(receiver)[0]["fail_reason"] == "NAME_NOT_CORRECT"


def _named(out_no: str, openid: str, sealed: str, fen: int = 100) -> dict[str, Any]:
    from tests.contract.sandbox.wechat_support import bill

    return bill(out_no, openid, fen, user_name=sealed)


async def test_a_name_sealed_for_nobody_is_refused(merchant: Merchant) -> None:
    openid = await merchant.user()
    one, other = merchant.platform
    sealed = merchant.encrypted("张三", one)
    for serial in (other, "ABC", ""):
        answer = await merchant.call("POST", BILLS, _named("A1", openid, sealed), asks_for=serial)
        assert (answer.status_code, answer.json()["code"]) == (400, "PARAM_ERROR")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"out_bill_no": "A-1"}, "PARAM_ERROR"),
        ({"out_bill_no": "A" * 33}, "PARAM_ERROR"),
        ({"transfer_amount": 0}, "PARAM_ERROR"),
        ({"transfer_amount": 1.5}, "PARAM_ERROR"),
        ({"transfer_amount": "100"}, "PARAM_ERROR"),
        ({"transfer_amount": 200_000}, "PARAM_ERROR"),
        ({"transfer_amount": 50_000_001}, "INVALID_REQUEST"),
        ({"transfer_remark": "a" * 33}, "PARAM_ERROR"),
        ({"transfer_remark": "hello 😀"}, "PARAM_ERROR"),
        ({"transfer_scene_id": "9999"}, "PARAM_ERROR"),
        ({"transfer_scene_id": "1005"}, "PARAM_ERROR"),
        ({"transfer_scene_report_infos": SCENE[:1]}, "PARAM_ERROR"),
        ({"transfer_scene_report_infos": []}, "PARAM_ERROR"),
        ({"transfer_scene_report_infos": [*SCENE, SCENE[0]]}, "PARAM_ERROR"),
        ({"user_recv_perception": "劳务报酬"}, "INVALID_REQUEST"),
        ({"user_recv_style": {"type": "RED_PACKET"}, "transfer_amount": 20_001}, "PARAM_ERROR"),
        ({"appid": "wxffffffffffffffff"}, "INVALID_REQUEST"),
        ({"openid": "oNOBODY"}, "INVALID_REQUEST"),
        ({"surprise": 1}, "PARAM_ERROR"),
        ({"notify_url": "x" * 257}, "PARAM_ERROR"),
    ],
)
async def test_wrong_parameters_are_refused_and_nothing_moves(
    merchant: Merchant, change: dict[str, Any], code: str
) -> None:
    from tests.contract.sandbox.wechat_support import bill

    openid = await merchant.user()
    answer = await merchant.call("POST", BILLS, {**bill("A1", openid), **change})
    assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
    assert await held(merchant) == (1_000_000, 0)
    good = {"user_recv_perception": "现金奖励", "user_recv_style": {"type": "RED_PACKET"}}
    assert (await merchant.transfer("A1", openid, **good)).status_code == 200


async def test_null_and_doubled_names_are_refused(merchant: Merchant) -> None:
    import json

    from tests.contract.sandbox.wechat_support import bill

    openid = await merchant.user()
    whole = json.dumps(bill("A1", openid))
    for body in (whole[:-1] + ', "notify_url": null}', whole[:-1] + ', "openid": "x"}', "[]", "{"):
        raw = body.encode()
        headers = merchant.headers("POST", BILLS, raw)
        answer = await merchant.http.post(BILLS, content=raw, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "PARAM_ERROR")


async def test_an_amount_below_the_name_limit_takes_no_name(merchant: Merchant) -> None:
    openid = await merchant.user()
    serial = next(iter(merchant.platform))
    body = _named("A1", openid, merchant.encrypted("张三", serial), fen=29)
    answer = await merchant.call("POST", BILLS, body, asks_for=serial)
    assert (answer.status_code, answer.json()["code"]) == (400, "PARAM_ERROR")


async def test_below_the_least_amount_fails_as_a_quota(merchant: Merchant) -> None:
    openid = await merchant.user(behaviour="confirm")
    assert (await merchant.transfer("A1", openid, 9)).status_code == 200
    assert await ended(merchant, "A1") == "FAIL"
    found = (await merchant.get(f"{BILLS}/out-bill-no/A1")).json()
    assert found["fail_reason"] == "TRANSFER_QUOTA_EXCEED"


@pytest.mark.parametrize(
    ("limits", "fens", "reason"),
    [
        ({"payee_day": 250}, (100, 150, 1), "DAY_RECEIVED_QUOTA_EXCEED"),
        ({"payee_day_count": 2, "least": 1}, (100, 100, 100), "DAY_RECEIVED_COUNT_EXCEED"),
        ({"merchant_day": 300}, (100, 200, 100), "TRANSFER_QUOTA_EXCEED"),
    ],
)
async def test_limits_of_the_day_and_the_next_day(
    merchant: Merchant, world: World, limits: dict[str, int], fens: tuple[int, ...], reason: str
) -> None:
    await merchant.register(**{"least": 1, **limits})
    openid = await merchant.user(behaviour="confirm")
    for number, fen in enumerate(fens):
        await merchant.transfer(f"A{number}", openid, fen)
        await ended(merchant, f"A{number}")
    assert [await merchant.state(f"A{n}") for n in range(3)] == ["SUCCESS", "SUCCESS", "FAIL"]
    assert (await merchant.get(f"{BILLS}/out-bill-no/A2")).json()["fail_reason"] == reason
    await clock(world, DAY)
    await merchant.transfer("B", openid, 100)
    assert await ended(merchant, "B") == "SUCCESS"


@pytest.mark.parametrize(
    ("user", "reason"),
    [({"snapshot": True}, "OPENID_INVALID"), ({"real_name": None}, "REAL_NAME_CHECK_FAIL")],
)
async def test_users_who_cannot_be_paid(
    merchant: Merchant, user: dict[str, Any], reason: str
) -> None:
    openid = await merchant.user(behaviour="confirm", **user)
    await merchant.transfer("A1", openid)
    assert await ended(merchant, "A1") == "FAIL"
    assert (await merchant.get(f"{BILLS}/out-bill-no/A1")).json()["fail_reason"] == reason


async def test_the_oracle_decides_the_reason(merchant: Merchant) -> None:
    openid = await merchant.user(behaviour="confirm")
    body = {"payee": openid, "outcome": "fail", "code": "ACCOUNT_FROZEN"}
    assert (await merchant.control.post("/_control/oracle", json=body)).is_success
    await merchant.transfer("A1", openid)
    assert await ended(merchant, "A1") == "FAIL"
    assert (await merchant.get(f"{BILLS}/out-bill-no/A1")).json()["fail_reason"] == "ACCOUNT_FROZEN"
    await merchant.transfer("A2", openid)
    assert await ended(merchant, "A2") == "SUCCESS"


async def test_the_user_refuses(merchant: Merchant) -> None:
    openid = await merchant.user()
    await merchant.transfer("A1", openid)
    assert await merchant.act("A1", "refuse", reason="PAYEE_ACCOUNT_ABNORMAL") == "FAIL"
    assert await held(merchant) == (1_000_000, 0)


async def test_nobody_confirms_and_it_closes_late(
    merchant: Merchant, world: World, receiver: Receiver
) -> None:
    await merchant.knob("settings", late_close_seconds=3600)
    openid = await merchant.user()
    made = (await merchant.transfer("A1", openid)).json()
    await clock(world, DAY + 60)
    assert await merchant.state("A1") == "WAIT_USER_CONFIRM"
    late = await merchant.control.post(
        "/_control/wechat/act",
        json={"kind": "transfer", "act": "confirm", "id": made["transfer_bill_no"]},
    )
    assert late.status_code == 409
    await clock(world, 3600)
    assert await ended(merchant, "A1") == "FAIL"
    found = (await merchant.get(f"{BILLS}/out-bill-no/A1")).json()
    assert found["fail_reason"] == "OVERDUE_CLOSE"
    assert await held(merchant) == (1_000_000, 0)
    await eventually(lambda: receiver.heard)
    assert merchant.told(receiver)[0]["fail_reason"] == "OVERDUE_CLOSE"


async def test_cancelling(merchant: Merchant, receiver: Receiver) -> None:
    await merchant.knob("settings", cancel_seconds=60)
    openid = await merchant.user()
    made = (await merchant.transfer("A1", openid)).json()
    target = f"{BILLS}/out-bill-no/A1/cancel"
    answer = await merchant.call("POST", target)
    assert answer.json()["state"] == "CANCELING"
    assert (await merchant.call("POST", target)).json()["state"] == "CANCELING"
    gone = await merchant.control.post(
        "/_control/wechat/act",
        json={"kind": "transfer", "act": "confirm", "id": made["transfer_bill_no"]},
    )
    assert gone.status_code == 409
    await merchant.control.post("/_control/clock", json={"advance_seconds": 61})
    assert await ended(merchant, "A1") == "CANCELLED"
    assert await held(merchant) == (1_000_000, 0)
    await eventually(lambda: receiver.heard)
    assert merchant.told(receiver)[0]["state"] == "CANCELLED"
    assert (await merchant.call("POST", target)).json()["state"] == "CANCELLED"


async def test_what_is_paid_cannot_be_cancelled(merchant: Merchant) -> None:
    openid = await merchant.user(behaviour="confirm")
    await merchant.transfer("A1", openid)
    await ended(merchant, "A1")
    answer = await merchant.call("POST", f"{BILLS}/out-bill-no/A1/cancel")
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    with_body = await merchant.call("POST", f"{BILLS}/out-bill-no/A1/cancel", {})
    assert with_body.json()["code"] == "PARAM_ERROR"
    nothing = await merchant.call("POST", f"{BILLS}/out-bill-no/A9/cancel")
    assert nothing.status_code == 404


@pytest.mark.parametrize(("too_late", "last"), [(0, "CANCELLED"), (1, "SUCCESS")])
async def test_cancelling_while_the_money_moves(
    merchant: Merchant, world: World, too_late: int, last: str
) -> None:
    await merchant.knob("settings", paid_seconds=60, cancel_too_late=too_late)
    openid = await merchant.user()
    await merchant.transfer("A1", openid)
    await merchant.act("A1")
    assert await merchant.state("A1") == "TRANSFERING"
    answer = await merchant.call("POST", f"{BILLS}/out-bill-no/A1/cancel")
    assert answer.status_code == (400 if too_late else 200)
    await clock(world, 61)
    assert await ended(merchant, "A1") == last
    assert (await merchant.books())["references"] == ({"A1": 1} if too_late else {})


async def test_too_little_money(merchant: Merchant, world: World) -> None:
    openid = await merchant.user()
    await merchant.knob("balances", mchid=MCHID, fen=999_950, take=True)
    answer = await merchant.transfer("A1", openid)
    assert (answer.status_code, answer.json()["code"]) == (403, "NOT_ENOUGH")
    assert (await merchant.get(f"{BILLS}/out-bill-no/A1")).status_code == 404
    await merchant.knob("settings", accept_seconds=1)
    assert (await merchant.transfer("A1", openid)).json()["state"] == "ACCEPTED"
    await clock(world, 2)
    assert await merchant.state("A1") == "PROCESSING"
    await merchant.knob("balances", mchid=MCHID, fen=1000)
    await clock(world, 61)
    assert await merchant.state("A1") == "WAIT_USER_CONFIRM"
    again = (await merchant.transfer("A1", openid)).json()
    assert again["package_info"]


async def test_another_product_may_not(merchant: Merchant) -> None:
    openid = await merchant.user()
    await merchant.register(product="batches")
    answer = await merchant.transfer("A1", openid)
    assert (answer.status_code, answer.json()["code"]) == (403, "NO_AUTH")


async def test_queries_lag_and_end_after_thirty_days(merchant: Merchant, world: World) -> None:
    await merchant.knob("settings", not_found_lag_seconds=60)
    openid = await merchant.user(behaviour="confirm")
    await merchant.transfer("A1", openid)
    assert (await merchant.get(f"{BILLS}/out-bill-no/A1")).status_code == 404
    await clock(world, 61)
    assert await merchant.state("A1") == "SUCCESS"
    await clock(world, 30 * DAY)
    assert (await merchant.get(f"{BILLS}/out-bill-no/A1")).status_code == 404


async def test_another_merchant_sees_nothing(merchant: Merchant) -> None:
    made = (await merchant.transfer("A1", await merchant.user())).json()
    other = Merchant(merchant.http, merchant.control, merchant.private, "1900000002")
    await other.register()
    assert (await other.get(f"{BILLS}/out-bill-no/A1")).status_code == 404
    number = made["transfer_bill_no"]
    assert (await other.get(f"{BILLS}/transfer-bill-no/{number}")).status_code == 404
