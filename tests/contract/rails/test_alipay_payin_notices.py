"""Messages about charges at Alipay: forged, foreign, late ones; what an account must have."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
import pytest_asyncio
from tests.contract.alipay_paying import Shop
from tests.contract.checking import patiently
from tests.contract.harness import Delivery
from tests.contract.sandboxes import Outside, outside

from paymaster.kernel.errors import Refusal, Unauthenticated, Unprocessable
from paymaster.kernel.money import Money
from paymaster.rails.payin import (
    ChargeOutcome,
    ChargeVerdict,
    PayInNotice,
    RefundOutcome,
    RefundVerdict,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


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


async def messages(shop: Shop, count: int) -> list[Delivery]:
    """The next so many."""
    came: list[Delivery] = []

    async def enough() -> bool:
        came.extend(await shop.told())
        return len(came) >= count

    await patiently(enough, f"there were not {count} messages")
    return came


def read(shop: Shop, sent: Delivery, later: timedelta = timedelta(0)) -> Sequence[PayInNotice]:
    return shop.rail.read_payin_webhook(shop.account, sent.headers, sent.body, sent.at + later)


async def test_a_payment_is_told_with_its_amount(shop: Shop) -> None:
    charge = await shop.paid()
    (sent,) = await messages(shop, 1)
    (notice,) = read(shop, sent)
    assert isinstance(notice.about, ChargeOutcome)
    assert (notice.about.key, notice.about.verdict) == (charge.key, ChargeVerdict.PAID)
    assert notice.about.amount == charge.amount
    known = await shop.rail.find_charge(shop.account, charge.key)
    assert notice.about.provider_id == known.provider_id
    assert notice.event_id == dict(parse_qsl(sent.body.decode()))["notify_id"]
    assert shop.rail.payin_answer(True).body == b"success"
    assert (shop.rail.payin_answer(True).status, shop.rail.payin_answer(False).status) == (200, 400)
    assert shop.rail.payin_answer(False).body != b"success"


async def test_copies_have_the_number_of_the_first(shop: Shop) -> None:
    await shop.faults(notice_copies=3)
    await shop.paid()
    told = [read(shop, sent) for sent in await messages(shop, 3)]
    assert len(told) == 3
    assert len({one.event_id for notices in told for one in notices}) == 1


async def test_a_closed_charge_is_told_as_closed(shop: Shop) -> None:
    charge = await shop.opened()
    await shop.rail.close_charge(shop.account, charge.key)
    (sent,) = await messages(shop, 1)
    (notice,) = read(shop, sent)
    assert (notice.about.key, notice.about.verdict) == (charge.key, ChargeVerdict.CLOSED)


@pytest.mark.parametrize("minor", [1, 1234], ids=["in part", "whole"])
async def test_a_refund_is_told_beside_its_charge_which_stays_paid(shop: Shop, minor: int) -> None:
    charge = await shop.paid()
    await messages(shop, 1)
    order = shop.back(charge, minor)
    await shop.rail.refund(shop.account, order)
    (sent,) = await messages(shop, 1)
    of_charge, of_refund = read(shop, sent)
    assert of_charge.event_id != of_refund.event_id
    assert (of_charge.about.key, of_charge.about.verdict) == (charge.key, ChargeVerdict.PAID)
    assert isinstance(of_refund.about, RefundOutcome)
    assert (of_refund.about.key, of_refund.about.verdict) == (order.key, RefundVerdict.DONE)
    assert of_refund.about.amount is None


@pytest.mark.parametrize("knob", ["notice_forge", "notice_tamper", "notice_wrong_app"])
async def test_a_planted_message_is_not_believed(shop: Shop, knob: str) -> None:
    await shop.faults(**{knob: 1})
    charge = await shop.paid()
    believed, refused = list[PayInNotice](), list[str]()
    for sent in await messages(shop, 2):
        try:
            believed += read(shop, sent)
        except (Refusal, Unauthenticated) as error:
            refused.append(error.slug)
    assert [(one.about.key, one.about.verdict) for one in believed] == [
        (charge.key, ChargeVerdict.PAID)
    ]
    wrong = {"notice_wrong_app": "webhook-malformed"}
    assert refused == [wrong.get(knob, "webhook-signature")]


async def test_every_changed_form_is_refused(shop: Shop) -> None:
    await shop.paid()
    (sent,) = await messages(shop, 1)
    assert read(shop, sent)
    fields = parse_qsl(sent.body.decode())
    forms = [sent.body + b" ", sent.body[:-1], sent.body + b"&x=y", sent.body + b"&app_id=1", b""]
    for place, (name, value) in enumerate(fields):
        changed = [*fields[:place], (name, value + "1"), *fields[place + 1 :]]
        forms.append(urlencode(changed).encode())
        forms.append(urlencode(fields[:place] + fields[place + 1 :]).encode())
    for form in forms:
        with pytest.raises(Unauthenticated) as caught:
            read(shop, replace(sent, body=form))
        assert caught.value.slug == "webhook-signature"
    with pytest.raises(Refusal) as large:
        read(shop, replace(sent, body=sent.body + b"&x=" + b"y" * 70_000))
    assert large.value.slug == "webhook-malformed"


async def test_a_message_for_another_merchant_is_refused(
    shop: Shop, shops: dict[str, Shop]
) -> None:
    await shop.paid()
    (sent,) = await messages(shop, 1)
    other = shops["gateway" if shop is shops["v3"] else "v3"]
    for account in (
        other.account,
        *(
            replace(shop.account, settings={**shop.account.settings, name: value})
            for name, value in (
                ("app_id", "2099999999999999"),
                ("seller_id", "2088999999999999"),
                ("seller_id", ""),
            )
        ),
    ):
        with pytest.raises(Refusal) as caught:
            shop.rail.read_payin_webhook(account, sent.headers, sent.body, sent.at)
        assert caught.value.slug == "webhook-malformed"


async def test_a_late_try_is_believed_and_one_of_another_day_is_not(shop: Shop) -> None:
    await shop.paid()
    (sent,) = await messages(shop, 1)
    assert read(shop, sent, timedelta(hours=25))
    for distance in (timedelta(hours=-1), timedelta(hours=27)):
        with pytest.raises(Unauthenticated) as caught:
            read(shop, sent, distance)
        assert caught.value.slug == "webhook-stale"


async def test_a_message_about_a_transfer_says_nothing_of_a_charge(shop: Shop) -> None:
    """Whoever gives the app's message address this one is not believed for it."""
    harness = shop.harness
    await harness.deliveries()
    (item,) = harness.instructions(1)
    prepared = shop.rail.prepare(shop.account, item.key, [item], harness.now())
    await shop.rail.send(shop.account, prepared)
    came: list[Delivery] = []

    async def enough() -> bool:
        came.extend(await harness.deliveries())
        return bool(came)

    await patiently(enough, "no message came")
    with pytest.raises((Refusal, Unauthenticated)):
        read(shop, came[0])


@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({"method": "wechat-native"}, "/method"),
        ({"amount": Money(0, "CNY")}, "/amount"),
        ({"amount": Money(10**10 + 1, "CNY")}, "/amount"),
        ({"amount": Money(100, "EUR")}, "/amount"),
        ({"lasts": timedelta(seconds=59)}, "/expires_at"),
        ({"lasts": timedelta(days=15, seconds=1)}, "/expires_at"),
        ({"back_to": "app.example.com"}, "/back_to"),
        ({"back_to": "https://app.example.com/" + "x" * 256}, "/back_to"),
    ],
)
async def test_what_cannot_be_asked_for_is_named(
    shop: Shop, more: dict[str, Any], pointer: str
) -> None:
    charge = shop.charge()
    shop.rail.check_charge(shop.account, charge)
    lasts = more.get("lasts")
    wrong = {"expires_at": charge.created_at + lasts} if isinstance(lasts, timedelta) else more
    with pytest.raises(Unprocessable) as caught:
        shop.rail.check_charge(shop.account, replace(charge, **wrong))
    assert caught.value.slug == "charge-refused"
    assert [problem.pointer for problem in caught.value.problems] == [pointer]


@pytest.mark.parametrize(
    ("settings", "pointer"),
    [
        ({"payin": "yes"}, "/settings/payin"),
        ({"seller_id": ""}, "/settings/seller_id"),
        ({"seller_id": "2088"}, "/settings/seller_id"),
        ({"notify_url": ""}, "/settings/notify_url"),
        ({"notify_url": "hooks"}, "/settings/notify_url"),
        ({"payin_methods": "qr,app"}, "/settings/payin_methods"),
        ({"payin_methods": ","}, "/settings/payin_methods"),
    ],
)
async def test_a_wrong_account_is_named_field_by_field(
    shop: Shop, settings: dict[str, str], pointer: str
) -> None:
    shop.rail.check_account(shop.account)
    wrong = replace(shop.account, settings={**shop.account.settings, **settings})
    with pytest.raises(Unprocessable) as caught:
        shop.rail.check_account(wrong)
    assert pointer in {problem.pointer for problem in caught.value.problems}


async def test_an_account_that_only_pays_out_needs_nothing_more(shop: Shop) -> None:
    kept = {
        name: value
        for name, value in shop.account.settings.items()
        if name not in {"payin", "seller_id", "notify_url"}
    }
    shop.rail.check_account(replace(shop.account, settings=kept))
