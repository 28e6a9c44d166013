"""A genuine answer of Alipay's to another question, and refusals that nobody signed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import httpx
import pytest
import pytest_asyncio
from tests.contract.alipay_paying import Shop
from tests.contract.http_server import Answering, Reply
from tests.contract.sandboxes import Outside, outside

from paymaster.kernel.errors import RailUnknown
from paymaster.rails.alipay.rail import AlipayRail
from paymaster.rails.deps import RailDeps
from paymaster.rails.http import new_client
from paymaster.rails.payin import ChargeVerdict, RefundVerdict

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Replaying(httpx.AsyncBaseTransport):
    """Keeps the first answer, and gives it to whatever is asked afterwards."""

    def __init__(self) -> None:
        self._real = httpx.AsyncHTTPTransport()
        self._kept: tuple[int, httpx.Headers, bytes] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._kept is None:
            answer = await self._real.handle_async_request(request)
            self._kept = answer.status_code, answer.headers, await answer.aread()
            await answer.aclose()
        status, headers, body = self._kept
        return httpx.Response(status, headers=headers, content=body)

    async def aclose(self) -> None:
        await self._real.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Outside]:
    async with outside(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["v3", "gateway"])
async def shop(found: Outside, request: pytest.FixtureRequest) -> Shop:
    return await Shop.open(found, request.param, 1 + (request.param == "v3"))


@pytest_asyncio.fixture(loop_scope="module")
async def rail(shop: Shop) -> AsyncGenerator[AlipayRail]:
    """One whose second question gets the answer to the first."""
    async with new_client(Replaying()) as http:
        yield AlipayRail(RailDeps(http, shop.harness.kept.__getitem__, shop.harness.clock))


async def test_a_payment_of_another_charge_pays_nothing(shop: Shop, rail: AlipayRail) -> None:
    paid, open_one = await shop.paid(), await shop.opened()
    first = await rail.find_charge(shop.account, paid.key)
    assert first.verdict is ChargeVerdict.PAID
    second = await rail.find_charge(shop.account, open_one.key)
    assert (second.key, second.verdict) == (open_one.key, ChargeVerdict.UNKNOWN)


async def test_another_charge_that_was_closed_closes_nothing(shop: Shop, rail: AlipayRail) -> None:
    one, other = await shop.opened(), await shop.opened()
    assert (await rail.close_charge(shop.account, one.key)).verdict is ChargeVerdict.CLOSED
    outcome = await rail.close_charge(shop.account, other.key)
    assert (outcome.key, outcome.verdict) == (other.key, ChargeVerdict.UNKNOWN)


async def test_the_code_of_another_charge_is_not_shown(shop: Shop, rail: AlipayRail) -> None:
    assert (await rail.open_charge(shop.account, shop.charge())).content
    with pytest.raises(RailUnknown):
        await rail.open_charge(shop.account, shop.charge())


async def test_a_refund_of_another_charge_is_none_of_this_one(shop: Shop, rail: AlipayRail) -> None:
    one, other = await shop.paid(), await shop.paid()
    said = await rail.refund(shop.account, shop.back(one, 100))
    assert said.verdict is RefundVerdict.PROCESSING
    with pytest.raises(RailUnknown):
        await rail.refund(shop.account, shop.back(other, 100))


async def test_a_refund_of_that_number_of_another_charge_is_not_this_one(
    shop: Shop, rail: AlipayRail
) -> None:
    charge, other = await shop.paid(), await shop.paid()
    made = shop.back(charge, 100)
    await shop.rail.refund(shop.account, made)
    assert (await rail.find_refund(shop.account, made)).verdict is RefundVerdict.DONE
    outcome = await rail.find_refund(shop.account, replace(made, charge_key=other.key))
    assert outcome.verdict is RefundVerdict.UNKNOWN


@pytest.mark.parametrize("code", ["TRADE_NOT_EXIST", "TRADE_HAS_CLOSE", "TRADE_STATUS_ERROR"])
async def test_a_refusal_that_nobody_signed_says_nothing(shop: Shop, code: str) -> None:
    inner = {"code": "40004", "msg": "Business Failed", "sub_code": f"ACQ.{code}"}
    names = ("trade_query", "trade_close", "trade_fastpay_refund_query")
    whole = {f"alipay_{name}_response": inner for name in names}
    new = shop.account.settings["mode"] == "v3"
    said = Reply.json(400, {"code": f"ACQ.{code}"}) if new else Reply.json(200, whole)
    charge = await shop.paid()
    async with Answering(lambda _: said).running() as server:
        account = replace(shop.account, settings={**shop.account.settings, "url": server.url})
        found = await shop.rail.find_charge(account, charge.key)
        closed = await shop.rail.close_charge(account, charge.key)
        refund = await shop.rail.find_refund(account, shop.back(charge, 1))
    assert (found.verdict, found.code) == (ChargeVerdict.UNKNOWN, code)
    assert (closed.verdict, closed.code) == (ChargeVerdict.UNKNOWN, code)
    assert (refund.verdict, refund.code) == (RefundVerdict.UNKNOWN, code)


@pytest.mark.parametrize("same_charge", [True, False])
async def test_another_refund_that_was_made_makes_none(
    shop: Shop, rail: AlipayRail, same_charge: bool
) -> None:
    charge = await shop.paid()
    made = shop.back(charge, 100)
    await shop.rail.refund(shop.account, made)
    assert (await rail.find_refund(shop.account, made)).verdict is RefundVerdict.DONE
    order = shop.back(charge if same_charge else await shop.paid(), 100)
    outcome = await rail.find_refund(shop.account, order)
    assert (outcome.key, outcome.verdict) == (order.key, RefundVerdict.UNKNOWN)
