"""The page at the sandbox's main address: the books, and a hand to play the people."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from tests.contract.sandbox.alipay_client import ADA, Customer
from tests.contract.sandbox.support import Client, eventually
from tests.contract.sandbox.test_alipay_trades import precreate, state
from tests.contract.sandbox.wechat_support import Merchant


class Forms(HTMLParser):
    """Every form of a page: where it goes, what it sends, what its button says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[dict[str, Any]] = []
        self.tags: set[str] = set()
        self._in_button = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        if tag == "form":
            self.forms.append({"to": given["action"], "sends": {}, "says": ""})
        if tag == "input":
            self.forms[-1]["sends"][given["name"]] = given["value"]
        self._in_button = tag == "button"

    def handle_data(self, data: str) -> None:
        if self._in_button:
            self.forms[-1]["says"] += data.strip()
            self._in_button = False


async def page(client: Client) -> tuple[str, Forms]:
    answer = await client.http.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    return answer.text, Forms(answer.text)


async def press(client: Client, forms: Forms, says: str, **headers: str) -> httpx.Response:
    """Press the only button that says so."""
    (form,) = [form for form in forms.forms if form["says"] == says]
    content = urlencode(form["sends"])
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    return await client.http.post(form["to"], content=content, headers={**kind, **headers})


async def test_it_shows_every_providers_books(client: Client, customer: Customer) -> None:
    await customer.transfer("R1", "12.34")
    await customer.transfer("R2", "1.00")
    text, forms = await page(client)
    assert "balance: 9986.66 CNY" in text, "Alipay's"
    assert "transfers: SUCCESS 2;" in text
    assert "transfers amount: SUCCESS 13.34 CNY" in text
    assert "10000.00 EUR" in text, "the bank's"
    assert "1000.00 EUR" in text, "the wallet's"
    assert "R1" in text
    assert "do not balance" not in text
    assert not forms.tags & {"script", "img", "link", "iframe"}


async def test_a_person_pays_an_order(client: Client, customer: Customer) -> None:
    await precreate(customer, subject='<img src=x onerror="alert(1)">')
    text, forms = await page(client)
    assert "&lt;img src=x" in text
    assert "img" not in forms.tags
    answer = await press(client, forms, "pay as 艾达")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert await state(customer) == "TRADE_SUCCESS"
    again = await press(client, forms, "pay as 艾达")
    assert again.status_code == 409
    _, after = await page(client)
    assert not [form for form in after.forms if form["to"] == "/play/alipay"]


async def test_time_goes_by(client: Client, customer: Customer) -> None:
    await precreate(customer, timeout_express="30m")
    _, forms = await page(client)
    assert (await press(client, forms, "1 hour later")).status_code == 303
    _, after = await page(client)
    assert not [form for form in after.forms if form["to"] == "/play/alipay"]
    wrong = await client.http.post("/play/clock", content="seconds=999999999999")
    assert wrong.status_code == 409


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://elsewhere.example"}, {"Host": "elsewhere.example"}]
)
async def test_other_sites_buttons_do_nothing(
    client: Client, customer: Customer, headers: dict[str, str]
) -> None:
    await precreate(customer)
    _, forms = await page(client)
    assert (await press(client, forms, "pay as 艾达", **headers)).status_code == 409
    assert await state(customer) == "ACQ.TRADE_NOT_EXIST"
    assert (await client.books())["payees"].get(ADA) is None


@pytest.mark.parametrize(("says", "state"), [("confirm", "SUCCESS"), ("refuse", "FAIL")])
async def test_a_person_takes_or_refuses_what_waits_at_wechat(
    merchant: Merchant, client: Client, says: str, state: str
) -> None:
    await merchant.transfer("A1", await merchant.user("Ada"), 1234)
    text, forms = await page(client)
    assert "12.34" in text
    assert "Ada" in text
    assert (await press(client, forms, says)).status_code == 303

    async def done() -> bool:
        return await merchant.state("A1") == state

    await eventually(done)
    late = await press(client, forms, says)
    assert late.status_code == 409
    _, after = await page(client)
    assert not [form for form in after.forms if form["to"] == "/play/wechat"]


async def test_whoever_waits_too_long_gets_nothing(merchant: Merchant, client: Client) -> None:
    await merchant.transfer("A1", await merchant.user(), 1234)
    for _ in range(3):
        _, forms = await page(client)
        await press(client, forms, "25 hours later")
    assert await merchant.state("A1") == "FAIL"
    assert (await client.books())["references"] == {}
