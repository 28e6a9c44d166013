"""People who let an app know who they are."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from tests.contract.sandbox.alipay_client import ADA, BOB, Answer, Customer, open_customer
from tests.contract.sandbox.support import Client

from paymaster_sandbox import World

BACK = "http://127.0.0.1:9/linked"


def page(customer: Customer, **more: str) -> str:
    query = {
        "app_id": customer.app_id, "scope": "auth_base", "redirect_uri": BACK, "state": "s & 1",
        **more,
    }  # fmt: skip
    return f"{customer.url}/oauth2/publicAppAuthorize.htm?{urlencode(query)}"


async def agreed(customer: Customer, who: str = ADA) -> str:
    answer = await customer.http.get(page(customer, user=who))
    assert answer.status_code == 302
    query = parse_qs(urlsplit(answer.headers["location"]).query)
    assert query["state"] == ["s & 1"]
    assert query["app_id"] == [customer.app_id]
    return query["auth_code"][0]


async def exchange(customer: Customer, code: str) -> Answer:
    return await customer.call(
        "POST", "/system/oauth/token", grant_type="authorization_code", code=code
    )


async def test_a_person_agrees_on_the_page(customer: Customer) -> None:
    shown = await customer.http.get(page(customer))
    assert shown.status_code == 200
    assert "艾达 (ada@example.com)" in shown.text
    answer = await customer.http.post(page(customer), content=f"user={ADA}")
    assert answer.headers["location"].startswith(BACK)
    foreign = await customer.http.post(
        page(customer), content=f"user={ADA}", headers={"Origin": "https://elsewhere.example"}
    )
    assert foreign.status_code == 403


async def test_a_code_is_good_once(customer: Customer) -> None:
    code = await agreed(customer)
    answers = await asyncio.gather(*(exchange(customer, code) for _ in range(3)))
    assert sorted(answer.status for answer in answers) == [200, 400, 400]
    (good,) = (answer.body for answer in answers if answer.status == 200)
    assert good["user_id"] == ADA
    assert {answer.body["code"] for answer in answers if answer.status == 400} == {"CODE_INVALID"}
    refreshed = await customer.call(
        "POST", "/system/oauth/token", grant_type="refresh_token",
        refresh_token=good["refresh_token"],
    )  # fmt: skip
    assert refreshed.body["open_id"] == good["open_id"]
    paid = await customer.transfer(
        "R1", payee_info={"identity": good["open_id"], "identity_type": "ALIPAY_OPEN_ID"}
    )
    assert paid.status == 200


async def test_codes_and_tokens_grow_old(customer: Customer, client: Client) -> None:
    code = await agreed(customer)
    await client.control("clock", advance_seconds=601)
    assert (await exchange(customer, code)).body["code"] == "CODE_INVALID"
    token = (await exchange(customer, await agreed(customer))).body["refresh_token"]
    await client.control("clock", advance_seconds=2_592_001)
    old = await customer.call(
        "POST", "/system/oauth/token", grant_type="refresh_token", refresh_token=token
    )
    assert old.body["code"] == "REFRESH_TOKEN_TIME_OUT"


async def test_the_gateway_exchanges_too(customer: Customer) -> None:
    code = await agreed(customer, BOB)
    got = await customer.gateway(
        "alipay.system.oauth.token", None, grant_type="authorization_code", code=code
    )
    assert got["user_id"] == BOB
    again = await customer.gateway(
        "alipay.system.oauth.token", None, grant_type="authorization_code", code=code
    )
    assert (again["code"], again["sub_code"]) == ("40002", "isv.code-invalid")


async def test_newer_apps_get_no_user_id(world: World, client: Client) -> None:
    customer = await open_customer(
        client.http, world.http_url, world.alipay_url, open_id_only=True, redirect_uris=[BACK]
    )
    got = (await exchange(customer, await agreed(customer))).body
    assert "user_id" not in got
    assert got["open_id"]


@pytest.mark.parametrize(
    "change",
    [
        {"app_id": "2021000000000000"},
        {"scope": "auth_everything"},
        {"redirect_uri": "http://127.0.0.1:9/other"},
        {"user": "2088000000000999"},
    ],
)
async def test_pages_for_nobody(world: World, client: Client, change: dict[str, str]) -> None:
    customer = await open_customer(
        client.http, world.http_url, world.alipay_url, redirect_uris=[BACK]
    )
    answer = await customer.http.get(page(customer, **change))
    assert (answer.status_code, "location" in answer.headers) == (400, False)


async def test_scripts_are_no_addresses(customer: Customer) -> None:
    answer = await customer.http.get(page(customer, redirect_uri="javascript:alert(1)", user=ADA))
    assert answer.status_code == 400
