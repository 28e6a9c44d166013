"""Money in over Alipay's sandbox: what each answer proves about a charge and a refund."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio
from tests.contract.alipay_paying import (
    CLOSE,
    DID_NOTHING,
    PAGE,
    PRECREATE,
    PROVES_NOTHING,
    QR,
    QUERY,
    REFUND,
    REFUND_QUERY,
    Shop,
)
from tests.contract.sandboxes import Outside, outside

from paymaster.kernel.errors import NeverSent, RailUnknown
from paymaster.kernel.ids import reference
from paymaster.kernel.money import Money
from paymaster.rails.payin import ChargeVerdict, RefundVerdict, Shows, TakesPayments

pytestmark = pytest.mark.asyncio(loop_scope="module")
FAULTS = pytest.mark.parametrize("knob", PROVES_NOTHING)
METHODS = pytest.mark.parametrize("method", [QR, PAGE])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Outside]:
    async with outside(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shops(found: Outside) -> dict[str, Shop]:
    return {
        mode: await Shop.open(found, mode, number)
        for number, mode in enumerate(("v3", "gateway"), 1)
    }


@pytest_asyncio.fixture(loop_scope="module", params=["v3", "gateway"])
async def shop(shops: dict[str, Shop], request: pytest.FixtureRequest) -> Shop:
    await shops[request.param].reset()
    return shops[request.param]


async def test_the_rail_takes_payments_where_the_account_says_so(shop: Shop) -> None:
    assert isinstance(shop.rail, TakesPayments)
    offered = shop.rail.pay_methods(shop.account)
    assert {name: one.shows for name, one in offered.items()} == {
        PAGE: Shows.PAGE, QR: Shows.QR,
    }  # fmt: skip
    assert not any(one.needs_payer for one in offered.values())
    only = replace(shop.account, settings={**shop.account.settings, "payin_methods": " page"})
    assert set(shop.rail.pay_methods(only)) == {PAGE}
    with pytest.raises(NeverSent):
        await shop.rail.open_charge(only, shop.charge(QR))
    for said in ("none", ""):
        settings = {**shop.account.settings, "payin": said}
        closed = replace(shop.account, settings=settings)
        assert not shop.rail.pay_methods(closed)
        with pytest.raises(NeverSent):
            await shop.rail.open_charge(closed, shop.charge())


@METHODS
async def test_a_charge_is_paid_once_somebody_paid_it(shop: Shop, method: str) -> None:
    charge = shop.charge(method)
    checkout = await shop.rail.open_charge(shop.account, charge)
    assert checkout.shows is shop.rail.pay_methods(shop.account)[method].shows
    assert checkout.expires_at <= charge.expires_at
    assert checkout.content is not None
    page = await shop.outside.client.get(checkout.content)
    assert page.status_code == 200
    assert charge.amount.text() in page.text
    nobody = await shop.rail.find_charge(shop.account, charge.key)
    assert nobody.verdict is ChargeVerdict.NOT_FOUND
    await shop.visit(charge)
    assert (await shop.rail.find_charge(shop.account, charge.key)).verdict is ChargeVerdict.OPEN
    before = shop.received()[0]
    assert await shop.pay(charge)
    outcome = await shop.rail.find_charge(shop.account, charge.key)
    assert (outcome.key, outcome.verdict) == (charge.key, ChargeVerdict.PAID)
    assert outcome.amount == charge.amount
    assert outcome.provider_id
    assert outcome.occurred_at is not None
    assert abs(outcome.occurred_at - shop.harness.now()) < timedelta(minutes=1)
    assert shop.received()[0] - before == charge.amount.minor


async def test_the_same_charge_again_is_the_same_charge(shop: Shop) -> None:
    charge = shop.charge()
    first = await shop.rail.open_charge(shop.account, charge)
    again = await shop.rail.open_charge(shop.account, charge)
    assert again.content == first.content
    await shop.visit(charge)
    assert await shop.pay(charge)
    assert not await shop.pay(charge)
    with pytest.raises(RailUnknown) as caught:
        await shop.rail.open_charge(shop.account, charge)
    assert caught.value.extra["code"] == "TRADE_HAS_SUCCESS"


async def test_another_content_under_the_number_is_no_charge_of_ours(shop: Shop) -> None:
    charge = shop.charge()
    await shop.rail.open_charge(shop.account, charge)
    other = replace(charge, amount=Money(charge.amount.minor + 1, "CNY"))
    with pytest.raises(RailUnknown) as caught:
        await shop.rail.open_charge(shop.account, other)
    assert caught.value.extra["code"] == "CONTEXT_INCONSISTENT"


async def test_an_address_can_be_signed_anew_for_the_same_trade(shop: Shop) -> None:
    charge = shop.charge(PAGE, back_to="https://app.example.com/done?x=1")
    first = await shop.rail.open_charge(shop.account, charge)
    second = await shop.rail.open_charge(shop.account, charge)
    for checkout in (first, second):
        assert checkout.content is not None
        assert (await shop.outside.client.get(checkout.content)).status_code == 200
        assert checkout.expires_at - shop.harness.now() <= timedelta(minutes=15)
    asked = parse_qs(urlsplit(str(first.content)).query)
    assert asked["return_url"] == [charge.back_to]
    assert asked["notify_url"][0].endswith(f"/{shop.account.settings['app_id']}/payins")
    changed = str(first.content).replace("12.34", "12.35")
    assert changed != first.content
    assert (await shop.outside.client.get(changed)).status_code == 400


@METHODS
async def test_the_provider_is_told_what_it_is_for_and_when_it_ends(
    shop: Shop, method: str
) -> None:
    end = datetime(2030, 1, 1, 16, 0, 59, 999_999, tzinfo=UTC)
    words = "Budget = 1/2 & \U0001f600 more\n" + "x" * 300
    charge = replace(shop.charge(method), expires_at=end, description=words)
    checkout = await shop.rail.open_charge(shop.account, charge)
    assert checkout.content is not None
    assert (await shop.outside.client.get(checkout.content)).status_code == 200
    told = shop.content(charge)
    assert told["time_expire"] == "2030-01-02 00:00:59"
    assert told["subject"] == ("Budget 1 2 more " + "x" * 300)[:256]
    empty = shop.charge(description="&/=")
    await shop.rail.open_charge(shop.account, empty)
    assert shop.content(empty)["subject"] == empty.key


async def test_a_code_that_nobody_scanned_can_be_paid_although_it_was_closed(shop: Shop) -> None:
    charge = shop.charge()
    await shop.rail.open_charge(shop.account, charge)
    outcome = await shop.rail.close_charge(shop.account, charge.key)
    assert (outcome.verdict, outcome.code) == (ChargeVerdict.NOT_FOUND, "TRADE_NOT_EXIST")
    assert await shop.pay(charge)
    assert (await shop.rail.find_charge(shop.account, charge.key)).verdict is ChargeVerdict.PAID


async def test_nobody_can_pay_a_charge_that_was_closed(shop: Shop) -> None:
    charge = await shop.opened()
    for _ in range(2):
        outcome = await shop.rail.close_charge(shop.account, charge.key)
        assert outcome.verdict is ChargeVerdict.CLOSED
    assert not await shop.pay(charge)
    assert (await shop.rail.find_charge(shop.account, charge.key)).verdict is ChargeVerdict.CLOSED
    with pytest.raises(RailUnknown) as caught:
        await shop.rail.open_charge(shop.account, charge)
    assert caught.value.extra["code"] == "TRADE_HAS_CLOSE"


async def test_closing_what_was_paid_says_that_it_was_paid(shop: Shop) -> None:
    charge = await shop.paid()
    outcome = await shop.rail.close_charge(shop.account, charge.key)
    assert (outcome.verdict, outcome.amount) == (ChargeVerdict.PAID, charge.amount)


async def test_what_is_given_back_in_full_stays_paid(shop: Shop) -> None:
    charge = await shop.paid(minor=500)
    order = shop.back(charge, 500)
    assert (await shop.rail.refund(shop.account, order)).verdict is RefundVerdict.PROCESSING
    outcome = await shop.rail.find_charge(shop.account, charge.key)
    assert (outcome.verdict, outcome.amount) == (ChargeVerdict.PAID, charge.amount)
    closed = await shop.rail.close_charge(shop.account, charge.key)
    assert closed.verdict is ChargeVerdict.PAID


async def test_a_refund_is_made_once_however_often_it_is_asked(shop: Shop) -> None:
    charge = await shop.paid()
    order = shop.back(charge, 234)
    absent = await shop.rail.find_refund(shop.account, order)
    assert absent.verdict is RefundVerdict.NOT_FOUND
    before = shop.received()[1]
    for _ in range(3):
        said = await shop.rail.refund(shop.account, order)
        assert said.verdict is RefundVerdict.PROCESSING
    done = await shop.rail.find_refund(shop.account, order)
    assert (done.key, done.verdict, done.amount) == (order.key, RefundVerdict.DONE, order.amount)
    rest = shop.back(charge, 1000)
    await shop.rail.refund(shop.account, rest)
    assert (await shop.rail.find_refund(shop.account, rest)).verdict is RefundVerdict.DONE
    assert shop.received()[1] - before == 1234
    more = shop.back(charge, 1)
    with pytest.raises(RailUnknown):
        await shop.rail.refund(shop.account, more)
    assert (await shop.rail.find_refund(shop.account, more)).verdict is RefundVerdict.NOT_FOUND


async def test_a_refund_of_another_amount_than_ours_is_not_called_done(shop: Shop) -> None:
    charge = await shop.paid()
    order = shop.back(charge, 234)
    await shop.rail.refund(shop.account, order)
    for changed in (
        replace(order, amount=Money(235, "CNY")),
        replace(order, charged=Money(1235, "CNY")),
    ):
        outcome = await shop.rail.find_refund(shop.account, changed)
        assert outcome.verdict is RefundVerdict.UNKNOWN
    with pytest.raises(RailUnknown) as caught:
        await shop.rail.refund(shop.account, replace(order, amount=Money(235, "CNY")))
    assert caught.value.extra["code"] == "DISCORDANT_REPEAT_REQUEST"


async def test_a_refund_of_what_nobody_paid_is_never_made(shop: Shop) -> None:
    charge = await shop.opened()
    order = shop.back(charge, 1234)
    with pytest.raises(RailUnknown) as caught:
        await shop.rail.refund(shop.account, order)
    assert caught.value.extra["code"] == "TRADE_STATUS_ERROR"
    nowhere = shop.back(shop.charge(), 1)
    assert (await shop.rail.find_refund(shop.account, nowhere)).verdict is RefundVerdict.UNKNOWN


@FAULTS
async def test_an_opening_that_proves_nothing_is_unknown(shop: Shop, knob: str) -> None:
    charge = shop.charge()
    await shop.knob(PRECREATE, knob)
    with pytest.raises(RailUnknown):
        await shop.rail.open_charge(shop.account, charge)
    checkout = await shop.rail.open_charge(shop.account, charge)
    assert checkout.content is not None
    assert (await shop.outside.client.get(checkout.content)).status_code == 200
    assert await shop.pay(charge)
    assert not await shop.pay(charge)


@FAULTS
@pytest.mark.parametrize("paid", [True, False], ids=["paid", "unpaid"])
async def test_a_look_up_that_proves_nothing_is_unknown(shop: Shop, knob: str, paid: bool) -> None:
    charge = await (shop.paid() if paid else shop.opened())
    await shop.knob(QUERY, knob)
    outcome = await shop.rail.find_charge(shop.account, charge.key)
    assert (outcome.key, outcome.verdict) == (charge.key, ChargeVerdict.UNKNOWN)
    truth = await shop.rail.find_charge(shop.account, charge.key)
    assert truth.verdict is (ChargeVerdict.PAID if paid else ChargeVerdict.OPEN)


@FAULTS
async def test_a_closing_that_proves_nothing_is_unknown(shop: Shop, knob: str) -> None:
    charge = await shop.opened()
    await shop.knob(CLOSE, knob)
    outcome = await shop.rail.close_charge(shop.account, charge.key)
    assert (outcome.key, outcome.verdict) == (charge.key, ChargeVerdict.UNKNOWN)
    truth = await shop.rail.find_charge(shop.account, charge.key)
    left = ChargeVerdict.OPEN if knob in DID_NOTHING else ChargeVerdict.CLOSED
    assert truth.verdict is left


@FAULTS
async def test_closing_what_was_paid_is_unknown_when_the_look_up_proves_nothing(
    shop: Shop, knob: str
) -> None:
    charge = await shop.paid()
    await shop.knob(QUERY, knob)
    outcome = await shop.rail.close_charge(shop.account, charge.key)
    assert outcome.verdict is ChargeVerdict.UNKNOWN


@FAULTS
async def test_a_refund_whose_answer_proves_nothing_is_unknown(shop: Shop, knob: str) -> None:
    charge = await shop.paid()
    order = shop.back(charge, 1000)
    before = shop.received()[1]
    await shop.knob(REFUND, knob)
    with pytest.raises(RailUnknown):
        await shop.rail.refund(shop.account, order)
    truth = await shop.rail.find_refund(shop.account, order)
    left = RefundVerdict.NOT_FOUND if knob in DID_NOTHING else RefundVerdict.DONE
    assert truth.verdict is left
    await shop.rail.refund(shop.account, order)
    assert (await shop.rail.find_refund(shop.account, order)).verdict is RefundVerdict.DONE
    assert shop.received()[1] - before == 1000


@FAULTS
@pytest.mark.parametrize("made", [True, False], ids=["made", "never-made"])
async def test_a_look_up_of_a_refund_that_proves_nothing_is_unknown(
    shop: Shop, knob: str, made: bool
) -> None:
    charge = await shop.paid()
    order = shop.back(charge, 1000)
    if made:
        await shop.rail.refund(shop.account, order)
    await shop.knob(REFUND_QUERY, knob)
    outcome = await shop.rail.find_refund(shop.account, order)
    assert (outcome.key, outcome.verdict) == (order.key, RefundVerdict.UNKNOWN)


@pytest.mark.parametrize("method", [PRECREATE, QUERY, CLOSE, REFUND, REFUND_QUERY])
async def test_too_many_calls_are_turned_away_or_unknown(shop: Shop, method: str) -> None:
    charge = await shop.paid()
    order = shop.back(charge, 1)
    await shop.knob(method, "rate_limit")
    rail, account = shop.rail, shop.account
    if method in {PRECREATE, REFUND}:
        with pytest.raises(NeverSent) as caught:
            await (
                rail.open_charge(account, shop.charge())
                if method == PRECREATE
                else rail.refund(account, order)
            )
        assert caught.value.extra["code"] == "APP_CALL_LIMITED"
        return
    said = {
        QUERY: lambda: rail.find_charge(account, charge.key),
        CLOSE: lambda: rail.close_charge(account, charge.key),
        REFUND_QUERY: lambda: rail.find_refund(account, order),
    }[method]
    assert (await said()).verdict in {ChargeVerdict.UNKNOWN, RefundVerdict.UNKNOWN}


async def test_answers_that_only_look_unusual_are_understood(shop: Shop) -> None:
    charge = shop.charge()
    await shop.knob(PRECREATE, "reordered")
    await shop.rail.open_charge(shop.account, charge)
    assert await shop.pay(charge)
    await shop.knob(QUERY, "reordered")
    assert (await shop.rail.find_charge(shop.account, charge.key)).verdict is ChargeVerdict.PAID
    order = shop.back(charge, 1)
    await shop.knob(REFUND, "reordered")
    await shop.rail.refund(shop.account, order)
    await shop.knob(REFUND_QUERY, "reordered")
    assert (await shop.rail.find_refund(shop.account, order)).verdict is RefundVerdict.DONE
    other = await shop.opened()
    await shop.knob(CLOSE, "reordered")
    assert (await shop.rail.close_charge(shop.account, other.key)).verdict is ChargeVerdict.CLOSED


async def test_a_wrong_key_of_ours_asks_for_nothing(shop: Shop, shops: dict[str, Shop]) -> None:
    charge, late = await shop.paid(), await shop.opened()
    other = shops["gateway" if shop is shops["v3"] else "v3"]
    kept = shop.harness.kept
    ours = kept["private"]
    kept["private"] = other.harness.kept["private"]
    try:
        for call in (
            lambda: shop.rail.open_charge(shop.account, shop.charge()),
            lambda: shop.rail.refund(shop.account, shop.back(charge, 1)),
        ):
            with pytest.raises(NeverSent) as caught:
                await call()
            assert caught.value.extra["code"] == "INVALID_SIGNATURE"
        found = await shop.rail.find_charge(shop.account, charge.key)
        closed = await shop.rail.close_charge(shop.account, late.key)
    finally:
        kept["private"] = ours
    assert {found.verdict, closed.verdict} == {ChargeVerdict.UNKNOWN}


async def test_nobody_listens(shop: Shop) -> None:
    nowhere = shop.harness.unreachable()
    charge = shop.charge()
    with pytest.raises(NeverSent):
        await shop.rail.open_charge(nowhere, charge)
    with pytest.raises(NeverSent):
        await shop.rail.refund(nowhere, shop.back(charge, 1))
    assert (await shop.rail.find_charge(nowhere, charge.key)).verdict is ChargeVerdict.UNKNOWN
    assert (await shop.rail.close_charge(nowhere, charge.key)).verdict is ChargeVerdict.UNKNOWN
    found = await shop.rail.find_refund(nowhere, shop.back(charge, 1))
    assert found.verdict is RefundVerdict.UNKNOWN


async def test_a_number_that_is_too_old_is_not_called_absent(shop: Shop) -> None:
    ancient = reference(1, 1_000_000)
    assert (await shop.rail.find_charge(shop.account, ancient)).verdict is ChargeVerdict.UNKNOWN
    assert (await shop.rail.close_charge(shop.account, ancient)).verdict is ChargeVerdict.UNKNOWN
