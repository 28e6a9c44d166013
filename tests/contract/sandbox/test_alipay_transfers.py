"""Transfers of the Alipay sandbox: paid once, refused strictly, and never sure before the query."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from tests.contract.sandbox.alipay_client import (
    ADA,
    BOB,
    CARD,
    SELLER,
    Customer,
    card_order,
    open_customer,
    order,
    sn,
)
from tests.contract.sandbox.support import Client

from paymaster_sandbox import World
from paymaster_sandbox.alipay.certificates import Certificates

PATH = "/fund/trans/uni/transfer"


async def test_a_transfer_to_an_account_is_through_at_once(
    customer: Customer, client: Client
) -> None:
    made = await customer.transfer("R1")
    assert made.status == 200
    assert made.body["status"] == "SUCCESS"
    found = (await customer.query("R1")).body
    assert found["status"] == "SUCCESS"
    assert found["trans_amount"] == "12.34"
    assert found["order_id"] == made.body["order_id"]
    by_order = await customer.call(
        "GET", "/fund/trans/common/query", order_id=made.body["order_id"]
    )
    assert by_order.body["out_biz_no"] == "R1"
    assert await customer.balance() == "9987.66"
    books = await client.books()
    assert books["payees"][ADA] == {
        "paid": 1, "paid_minor": 1234, "returned": 0, "returned_minor": 0
    }  # fmt: skip
    assert books["references"] == {"R1": 1}
    assert books["paid_minor"] == {"CNY": 1234}
    assert books["alipay"][customer.app_id]["balance_minor"] == 998_766
    assert books["proven"]


async def test_the_same_number_and_content_is_the_same_transfer(
    customer: Customer, client: Client
) -> None:
    first = await customer.transfer("R1")
    again = await asyncio.gather(*(customer.transfer("R1") for _ in range(5)))
    assert {answer.body["order_id"] for answer in again} == {first.body["order_id"]}
    assert {answer.body["trans_date"] for answer in again} == {first.body["trans_date"]}
    assert (await client.books())["references"] == {"R1": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"trans_amount": "12.35"},
        {"order_title": "工资 {二月}"},
        {"payee_info": {"identity": BOB, "identity_type": "ALIPAY_USER_ID", "name": "鲍勃"}},
        {"remark": "a"},
    ],
)
async def test_the_same_number_with_other_content_is_refused(
    customer: Customer, client: Client, change: dict[str, Any]
) -> None:
    await customer.transfer("R1")
    other = await customer.call("POST", PATH, **{**order("R1"), **change})
    assert (other.status, other.body["code"]) == (400, "PAYMENT_INFO_INCONSISTENCY")
    assert (await client.books())["references"] == {"R1": 1}


async def test_the_same_number_for_another_product_is_refused(customer: Customer) -> None:
    await customer.transfer("R1")
    other = await customer.call("POST", PATH, **card_order("R1"))
    assert other.body["code"] == "BIZ_UNIQUE_EXCEPTION"


async def test_another_number_pays_again(customer: Customer, client: Client) -> None:
    await customer.transfer("R1")
    await customer.transfer("R2")
    assert (await client.books())["payees"][ADA]["paid_minor"] == 2468


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"out_biz_no": ""}, "MISSING_OUT_BIZ_NO"),
        ({"out_biz_no": "R" * 65}, "INVALID_PARAMETER"),
        ({"out_biz_no": "R 1"}, "INVALID_PARAMETER"),
        ({"trans_amount": 12.34}, "INVALID_PARAMETER"),
        ({"trans_amount": "12.345"}, "INVALID_PARAMETER"),
        ({"trans_amount": "-1.00"}, "INVALID_PARAMETER"),
        ({"trans_amount": "0.09"}, "EXCEED_LIMIT_SM_MIN_AMOUNT"),
        ({"trans_amount": "100000000.01"}, "MEMO_REQUIRED_IN_TRANSFER_ERROR"),
        ({"trans_amount": "100000000.01", "remark": "x"}, "EXCEED_LIMIT_SM_AMOUNT"),
        ({"trans_amount": "50000.00"}, "MEMO_REQUIRED_IN_TRANSFER_ERROR"),
        ({"trans_amount": "50000.01", "remark": "x"}, "EXCEED_LIMIT_PERSONAL_SM_AMOUNT"),
        ({"trans_amount": "10000.01"}, "PAYER_BALANCE_NOT_ENOUGH"),
        ({"product_code": "TRANS_SOMETHING"}, "INVALID_PARAMETER"),
        ({"biz_scene": "OTHER"}, "INVALID_PARAMETER"),
        ({"order_title": ""}, "MISSING_ORDER_TITLE"),
        ({"order_title": "t" * 129}, "INVALID_PARAMETER"),
        ({"remark": "赌博"}, "REMARK_HAS_SENSITIVE_WORD"),
        ({"payee_info": None}, "MISSING_PAYEE_INFO"),
        ({"payee_info": {"identity": ADA, "identity_type": "OTHER"}}, "INVALID_PARAMETER"),
        (
            {"payee_info": {"identity": "ada@example.com", "identity_type": "ALIPAY_LOGON_ID"}},
            "MISSING_NAME",
        ),
        (
            {"payee_info": {"identity": "2088000000000999", "identity_type": "ALIPAY_USER_ID"}},
            "PAYEE_NOT_EXIST",
        ),
        (
            {"payee_info": {"identity": ADA, "identity_type": "ALIPAY_USER_ID", "name": "鲍勃"}},
            "PAYEE_USER_INFO_ERROR",
        ),
        (
            {"payee_info": {"identity": ADA, "identity_type": "ALIPAY_OPEN_ID"}},
            "PAYEE_NOT_EXIST",
        ),
        ({"transfer_scene_name": "别的"}, "TRANSFER_SCENE_NOT_SIGN"),
        (
            {
                "transfer_scene_name": "佣金报酬",
                "transfer_scene_report_infos": [{"info_type": "岗位类型", "info_content": "x"}],
            },
            "TRANSFER_SCENE_INFO_ERROR",
        ),
        ({"surprise": "x"}, "INVALID_PARAMETER"),
    ],
)
async def test_refusals_pay_nothing_and_do_not_use_the_number_up(
    customer: Customer, client: Client, change: dict[str, Any], code: str
) -> None:
    wanted = {key: value for key, value in {**order("R1"), **change}.items() if value is not None}
    refused = await customer.call("POST", PATH, **wanted)
    assert (refused.status, refused.body["code"]) == (400, code)
    assert (await client.books())["references"] == {}
    assert (await customer.transfer("R1")).body["status"] == "SUCCESS"


async def test_scenes_are_demanded_of_who_has_some(world: World, client: Client) -> None:
    customer = await open_customer(
        client.http, world.http_url, world.alipay_url, scenes=["佣金报酬"]
    )
    without = await customer.transfer("R1")
    assert without.body["code"] == "MISSING_TRANSFER_SCENE_NAME"
    infos = [
        {"info_type": "岗位类型", "info_content": "骑手"},
        {"info_type": "报酬说明", "info_content": "一月"},
    ]
    right = await customer.transfer(
        "R1", transfer_scene_name="佣金报酬", transfer_scene_report_infos=infos
    )
    assert right.status == 200
    other = await customer.transfer(
        "R2", transfer_scene_name="现金营销", transfer_scene_report_infos=infos
    )
    assert other.body["code"] == "TRANSFER_SCENE_NOT_SIGN"


async def test_payees_by_open_id_and_logon_id(customer: Customer, client: Client) -> None:
    user = {"user_id": BOB, "logon_id": "13800000002", "name": "鲍勃", "app_id": customer.app_id}
    open_id = (await client.control("alipay/users", **user))["open_id"]
    for number, payee in (
        ("R1", {"identity": open_id, "identity_type": "ALIPAY_OPEN_ID"}),
        ("R2", {"identity": "13800000002", "identity_type": "ALIPAY_LOGON_ID", "name": "鲍勃"}),
    ):
        assert (await customer.transfer(number, payee_info=payee)).body["status"] == "SUCCESS"
    assert (await client.books())["payees"][BOB]["paid"] == 2


async def test_blocked_and_unverified_people(customer: Customer, client: Client) -> None:
    ada = {"user_id": ADA, "logon_id": "ada@example.com", "name": "艾达"}
    await client.control("alipay/users", **ada, verified=False)
    assert (await customer.transfer("R1", "1000.00")).status == 200
    more = await customer.transfer("R2", "0.10")
    assert more.body["code"] == "EXCEED_LIMIT_UNRN_DM_AMOUNT"
    await client.control("clock", advance_seconds=86_400)
    assert (await customer.transfer("R2", "0.10")).status == 200
    await client.control("alipay/users", **ada, blocked=True)
    assert (await customer.transfer("R3")).body["code"] == "BLOCK_USER_FORBBIDEN_RECIEVE"


async def test_daily_limits(world: World, client: Client) -> None:
    customer = await open_customer(
        client.http, world.http_url, world.alipay_url, day_limit_minor=3000,
        payee_day_limit_minor=2000,
    )  # fmt: skip
    assert (await customer.transfer("R1", "15.00")).status == 200
    assert (await customer.transfer("R2", "5.01")).body["code"] == "EXCEED_LIMIT_DC_RECEIVED"
    bob = {"identity": BOB, "identity_type": "ALIPAY_USER_ID"}
    assert (await customer.transfer("R3", "15.00", payee_info=bob)).status == 200
    assert (await customer.transfer("R4", "0.10", payee_info=bob)).body["code"] == (
        "EXCEED_LIMIT_DM_AMOUNT"
    )
    quota = await customer.call(
        "GET", "/fund/quota/query", product_code="TRANS_ACCOUNT_NO_PWD", biz_scene="DIRECT_TRANSFER"
    )
    assert quota.body["to_private_daily_available_amount"] == "0.00"


async def test_the_balance_can_run_out_and_be_filled_up(customer: Customer, client: Client) -> None:
    assert (await customer.transfer("R1", "10000.00")).status == 200
    assert (await customer.transfer("R2", "0.10")).body["code"] == "PAYER_BALANCE_NOT_ENOUGH"
    await client.control("alipay/top-up", app_id=customer.app_id, amount_minor=10)
    assert (await customer.transfer("R2", "0.10")).status == 200
    assert await customer.balance() == "0.00"


async def test_a_card_is_dealt_with_and_may_come_back(customer: Customer, client: Client) -> None:
    await client.control("faults", paid_after_seconds=60)
    made = await customer.call("POST", PATH, **card_order("R1"))
    assert made.body["status"] == "DEALING"
    asked = {"product_code": "TRANS_BANKCARD_NO_PWD"}
    assert (await customer.query("R1", **asked)).body["status"] == "DEALING"
    assert (await client.books())["pending"] == 1
    await client.control("clock", advance_seconds=61)
    assert (await customer.query("R1", **asked)).body["status"] == "SUCCESS"
    back = await client.control("alipay/return", app_id=customer.app_id, out_biz_no="R1")
    assert back == {"returned": True}
    found = (await customer.query("R1", **asked)).body
    assert (found["status"], found["error_code"]) == ("REFUND", "PAYEE_CARD_REFUND")
    assert "pay_date" in found
    assert await customer.balance() == "10000.00"
    books = await client.books()
    assert books["payees"][CARD] == {
        "paid": 1, "paid_minor": 1234, "returned": 1, "returned_minor": 1234
    }  # fmt: skip
    assert books["paid_minor"] == {"CNY": 0}
    again = await client.control("alipay/return", app_id=customer.app_id, out_biz_no="R1")
    assert again == {"returned": False}


async def test_fates_of_payees(customer: Customer, client: Client) -> None:
    await client.control("oracle", payee=CARD, outcome="fail", code="PAYEE_CARD_INFO_ERROR")
    assert (await customer.call("POST", PATH, **card_order("R1"))).body["status"] == "DEALING"
    await client.control("clock", advance_seconds=1)
    found = (await customer.query("R1", product_code="TRANS_BANKCARD_NO_PWD")).body
    assert (found["status"], found["error_code"]) == ("FAIL", "PAYEE_CARD_INFO_ERROR")
    await client.control("oracle", payee=ADA, outcome="reject", code="USER_RISK_FREEZE")
    assert (await customer.transfer("R2")).body["code"] == "USER_RISK_FREEZE"
    assert (await customer.transfer("R2")).body["status"] == "SUCCESS"
    await client.control("oracle", payee=ADA, outcome="closed")
    assert (await customer.transfer("R3")).body["code"] == "PAYEE_NOT_EXIST"
    await client.control("oracle", payee=ADA, outcome="slow", after_seconds=3600)
    assert (await customer.transfer("R4")).body["status"] == "DEALING"
    await client.control("clock", advance_seconds=3601)
    assert (await customer.query("R4")).body["status"] == "SUCCESS"
    assert (await client.books())["payees"].keys() == {ADA}


async def test_a_card_that_gives_back_does_so_days_later(
    customer: Customer, client: Client
) -> None:
    await client.control("oracle", payee=CARD, outcome="return", after_seconds=172_800)
    await customer.call("POST", PATH, **card_order("R1"))
    await client.control("clock", advance_seconds=86_400)
    asked = {"product_code": "TRANS_BANKCARD_NO_PWD"}
    assert (await customer.query("R1", **asked)).body["status"] == "SUCCESS"
    await client.control("clock", advance_seconds=172_900)
    assert (await customer.query("R1", **asked)).body["status"] == "REFUND"


async def test_what_is_not_known_is_not_found(customer: Customer, client: Client) -> None:
    assert (await customer.query("R1")).body["code"] == "ORDER_NOT_EXIST"
    await client.control("alipay/faults", not_found_lag_seconds=60)
    await customer.transfer("R1")
    assert (await customer.query("R1")).body["code"] == "ORDER_NOT_EXIST"
    await client.control("clock", advance_seconds=61)
    assert (await customer.query("R1")).body["status"] == "SUCCESS"
    other = await customer.query("R1", product_code="TRANS_BANKCARD_NO_PWD")
    assert other.body["code"] == "ORDER_NOT_EXIST"


async def test_others_balances_are_not_shown(customer: Customer) -> None:
    other = await customer.call("GET", "/fund/account/query", alipay_user_id=ADA)
    assert other.body["code"] == "NO_PERMISSION_ACCOUNT"
    mine = await customer.call("GET", "/fund/account/query", alipay_user_id=SELLER)
    assert mine.body == {"available_amount": "10000.00", "freeze_amount": "0.00"}


async def test_a_product_without_a_contract_is_refused(world: World, client: Client) -> None:
    customer = await open_customer(
        client.http, world.http_url, world.alipay_url, products=["bills"]
    )
    assert (await customer.transfer("R1")).body["code"] == "PRODUCT_NOT_SIGN"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda h: {**h, "Authorization": h["Authorization"][:-8] + "AAAAAAA="}, "SIGNATURE"),
        (lambda h: {**h, "Authorization": "Bearer x"}, "SIGNATURE"),
        (lambda h: {**h, "alipay-root-cert-sn": "0" * 32}, "ROOT_CERT_SN"),
        (lambda h: {k: v for k, v in h.items() if k != "alipay-root-cert-sn"}, "ROOT_CERT_SN"),
        (lambda h: {**h, "Authorization": h["Authorization"].replace("app_cert_sn=", "x=")},
         "APP_CERT_SN"),
        (lambda h: {**h, "Authorization": h["Authorization"].replace("app_id=2", "app_id=3")},
         "APP_ID"),
    ],
)  # fmt: skip
async def test_who_cannot_prove_itself_is_nobody(
    customer: Customer, client: Client, spoil: Any, code: str
) -> None:
    body = json.dumps(order("R1")).encode()
    headers = spoil(customer.headers("POST", f"/v3/alipay{PATH}", body))
    answer = await customer.http.post(
        f"{customer.url}/v3/alipay{PATH}", content=body, headers=headers
    )
    assert answer.status_code == 401
    assert code in answer.json()["code"]
    assert "alipay-signature" not in answer.headers
    assert (await client.books())["references"] == {}


async def test_a_changed_body_or_address_breaks_the_signature(customer: Customer) -> None:
    uri = "/v3/alipay/fund/account/query?alipay_user_id=1"
    headers = customer.headers("GET", uri, b"")
    other = await customer.http.get(customer.url + uri + "2", headers=headers)
    assert other.status_code == 401
    headers = customer.headers("POST", f"/v3/alipay{PATH}", b"{}")
    other = await customer.http.post(
        f"{customer.url}/v3/alipay{PATH}", content=b"{} ", headers=headers
    )
    assert other.status_code == 401


async def test_a_nonce_is_good_once_and_time_must_be_near(customer: Customer) -> None:
    uri = f"/v3/alipay/fund/account/query?alipay_user_id={SELLER}"
    headers = customer.headers("GET", uri, b"", nonce="once-and-never-again")
    assert (await customer.http.get(customer.url + uri, headers=headers)).status_code == 200
    replayed = await customer.http.get(customer.url + uri, headers=headers)
    assert (replayed.status_code, replayed.json()["code"]) == (401, "NONCE_REPLAYED")
    old = customer.headers("GET", uri, b"", at=time.time() - 86_400 * 400)
    answer = await customer.http.get(customer.url + uri, headers=old)
    assert (answer.status_code, answer.json()["code"]) == (401, "INVALID_TIMESTAMP")


async def test_only_listed_addresses_may_call(world: World, client: Client) -> None:
    customer = await open_customer(client.http, world.http_url, world.alipay_url, ips=["192.0.2.1"])
    answer = await customer.raw("POST", PATH, **order("R1"))
    assert answer.status_code == 403


async def test_the_first_certificates_stay_through_a_restart(world: World) -> None:
    first = world.alipay.ring.certificates
    again = Certificates(first._folder)
    assert again.roots == first.roots
    assert again.root_sn == first.root_sn
    assert again.root_sn.count("_") == 1, "the root that is not of RSA does not count"
    assert again.certificate(1) == first.certificate(1)


async def test_rotation_keeps_old_certificates_to_ask_for(
    customer: Customer, client: Client
) -> None:
    before = set(customer.alipay)
    fresh = (await client.control("alipay/rotate"))["certificate"]
    customer.alipay[sn(fresh)] = fresh
    made = await customer.transfer("R1")
    assert made.headers["alipay-sn"] == sn(fresh)
    assert made.headers["alipay-sn"] not in before
    for number in customer.alipay:
        found = await customer.call("GET", "/open/app/alipaycert/download", alipay_cert_sn=number)
        assert found.body["alipay_cert_content"] == customer.alipay[number]
    await client.control("alipay/faults", old_certificate_permille=500)
    serials = {(await customer.query("R1")).headers["alipay-sn"] for _ in range(30)}
    assert serials == set(customer.alipay)


async def test_without_a_server_the_same_application_answers(world: World, client: Client) -> None:
    transport = httpx.ASGITransport(app=world.alipay.app)
    async with httpx.AsyncClient(transport=transport) as inside:
        known = await open_customer(client.http, world.http_url, "http://127.0.0.1:1")
        known.http = inside
        assert (await known.transfer("R1")).body["status"] == "SUCCESS"
