"""Pay-in over WeChat's sandbox: opened, paid, told of, closed, given back; over both its APIs."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from tests.contract.sandboxes import Outside, outside
from tests.contract.wechat_payin import VERSIONS, Till
from tests.contract.wechat_world import APPID

from paymaster.kernel.errors import NeverSent, RailUnknown, Unauthenticated
from paymaster.kernel.ids import reference
from paymaster.kernel.money import Money
from paymaster.rails.payin import (
    ChargeVerdict,
    Checkout,
    RefundOutcome,
    RefundVerdict,
    Shows,
    TakesPayments,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Outside]:
    async with outside(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tills(found: Outside) -> dict[str, Till]:
    return {name: await Till.open(found, name, at) for at, name in enumerate(VERSIONS, 1)}


@pytest_asyncio.fixture(loop_scope="module", params=list(VERSIONS))
async def till(request: pytest.FixtureRequest, tills: dict[str, Till]) -> Till:
    made = tills[request.param]
    await made.reset()
    made.deliveries()
    return made


async def test_the_rail_takes_payments(till: Till) -> None:
    assert isinstance(till.rail, TakesPayments)
    assert set(till.rail.pay_methods(till.account)) == {
        "wechat-native", "wechat-jsapi", "wechat-app",
    }  # fmt: skip
    till.rail.check_account(till.account)


async def test_a_code_is_shown_paid_and_told_of(till: Till) -> None:
    before = till.balance()
    charge = till.charge()
    shown = await till.rail.open_charge(till.account, charge)
    assert (shown.shows, shown.expires_at) == (Shows.QR, charge.expires_at)
    assert shown.content is not None
    assert shown.content.startswith("weixin://")
    asked = await till.rail.find_charge(till.account, charge.key)
    assert (asked.verdict, asked.provider_id, asked.code) == (ChargeVerdict.OPEN, None, None)
    await till.pay(charge.key)
    paid = await till.rail.find_charge(till.account, charge.key)
    assert (paid.verdict, paid.amount) == (ChargeVerdict.PAID, charge.amount)
    assert paid.provider_id
    assert paid.occurred_at is not None
    assert abs(paid.occurred_at - till.harness.now()) < timedelta(minutes=1)
    assert await till.told(charge.key) == paid
    assert till.balance() == before + 1234 - 7


async def test_the_same_number_is_the_same_charge(till: Till) -> None:
    charge = till.charge()
    first = await till.rail.open_charge(till.account, charge)
    assert await till.make_rail().open_charge(till.account, charge) == first
    assert till.orders(charge.key) == 1
    with pytest.raises(RailUnknown) as caught:
        await till.rail.open_charge(till.account, replace(charge, amount=Money(1, "CNY")))
    assert caught.value.extra["code"] in {"INVALID_REQUEST", "OUT_TRADE_NO_USED"}
    await till.pay(charge.key)
    with pytest.raises(RailUnknown) as caught:
        await till.rail.open_charge(till.account, charge)
    assert caught.value.extra["code"] in {"ORDER_PAID", "ORDERPAID"}
    said = await till.rail.find_charge(till.account, charge.key)
    assert (said.verdict, said.amount) == (ChargeVerdict.PAID, charge.amount)


def _digest(till: Till, fields: Mapping[str, str]) -> str:
    """The digest of APIv2, written once more."""
    key = till.harness.kept["apiv2"]
    words = "&".join(f"{name}={fields[name]}" for name in sorted(fields)) + f"&key={key}"
    if till.account.settings.get("payin_sign") == "MD5":
        return hashlib.md5(words.encode(), usedforsecurity=False).hexdigest().upper()
    return hmac.new(key.encode(), words.encode(), hashlib.sha256).hexdigest().upper()


def _verify(till: Till, message: str, signature: str) -> None:
    """Raises if it is not the merchant's signature of APIv3."""
    private = serialization.load_pem_private_key(till.harness.kept["private"].encode(), None)
    assert isinstance(private, RSAPrivateKey)
    raw = base64.b64decode(signature, validate=True)
    private.public_key().verify(raw, message.encode(), padding.PKCS1v15(), hashes.SHA256())


async def test_what_the_script_is_given(till: Till) -> None:
    payee = till.harness.add_user(next(till.outside.numbers))
    openid = payee.details["openid"]
    charge = till.charge("wechat-jsapi", payer=openid)
    shown = await till.rail.open_charge(till.account, charge)
    given = dict(shown.parameters)
    assert (shown.shows, shown.content, given["appId"]) == (Shows.PARAMETERS, None, APPID)
    assert given["package"].startswith("prepay_id=wx")
    signature = given.pop("paySign")
    assert set(given) == {"appId", "timeStamp", "nonceStr", "package", "signType"}
    if till.version == "v3":
        assert given["signType"] == "RSA"
        lines = (given["appId"], given["timeStamp"], given["nonceStr"], given["package"], "")
        _verify(till, "\n".join(lines), signature)
    else:
        assert given["signType"] == till.account.settings.get("payin_sign", "HMAC-SHA256")
        assert signature == _digest(till, given)
    await till.pay(charge.key)
    said = await till.rail.find_charge(till.account, charge.key)
    assert said.verdict is ChargeVerdict.PAID


async def test_what_a_mobile_app_is_given(till: Till) -> None:
    shown = await till.rail.open_charge(till.account, till.charge("wechat-app"))
    given = dict(shown.parameters)
    signature = given.pop("sign")
    assert set(given) == {"appid", "partnerid", "prepayid", "package", "noncestr", "timestamp"}
    assert (given["partnerid"], given["package"]) == (till.mchid, "Sign=WXPay")
    if till.version == "v3":
        lines = (given["appid"], given["timestamp"], given["noncestr"], given["prepayid"], "")
        _verify(till, "\n".join(lines), signature)
    else:
        assert signature == _digest(till, given)


async def test_what_nobody_paid_is_closed(till: Till) -> None:
    charge = await till.opened()
    said = await till.rail.close_charge(till.account, charge.key)
    assert (said.verdict, said.code) == (ChargeVerdict.CLOSED, "CLOSED")
    assert (await till.rail.close_charge(till.account, charge.key)).verdict is said.verdict
    with pytest.raises(RailUnknown) as caught:
        await till.rail.open_charge(till.account, charge)
    assert caught.value.extra["code"] in {"ORDER_CLOSED", "ORDERCLOSED"}


async def test_who_was_quicker_has_paid(till: Till) -> None:
    charge = await till.paid()
    said = await till.rail.close_charge(till.account, charge.key)
    assert (said.verdict, said.amount) == (ChargeVerdict.PAID, charge.amount)


async def test_a_number_that_never_was_is_not_found(till: Till) -> None:
    key = till.key()
    for asking in (till.rail.find_charge, till.rail.close_charge):
        assert (await asking(till.account, key)).verdict is ChargeVerdict.NOT_FOUND
    ancient = await till.rail.find_charge(till.account, reference(1, 1_000_000))
    assert ancient.verdict is ChargeVerdict.UNKNOWN


async def test_money_goes_back_once(till: Till) -> None:
    charge = await till.paid(fen=10_000)
    before = till.balance()
    order = till.back(charge, 4_000)
    said = await till.rail.refund(till.account, order)
    assert (said.verdict, said.amount) == (RefundVerdict.PROCESSING, order.amount)
    again = await till.make_rail().refund(till.account, order)
    assert (again.verdict, again.provider_id) == (said.verdict, said.provider_id)
    done = await till.refunded(order)
    assert (done.verdict, done.amount) == (RefundVerdict.DONE, order.amount)
    assert (done.provider_id, done.code) == (said.provider_id, None)
    assert done.occurred_at is not None
    assert till.balance() == before - 4_000 + 24
    told = await till.told(order.key)
    if till.version == "v3":
        assert told == done
    else:
        assert isinstance(told, RefundOutcome)
        assert (told.verdict, told.amount) == (RefundVerdict.UNKNOWN, None)
    still = await till.rail.find_charge(till.account, charge.key)
    assert (still.verdict, still.amount) == (ChargeVerdict.PAID, charge.amount)


async def test_a_second_part_too_soon_is_unknown_and_not_there(till: Till) -> None:
    charge = await till.paid(fen=10_000)
    await till.rail.refund(till.account, till.back(charge, 1))
    second = till.back(charge, 2)
    with pytest.raises(RailUnknown) as caught:
        await till.rail.refund(till.account, second)
    assert caught.value.extra["code"] == "FREQUENCY_LIMITED"
    said = await till.rail.find_refund(till.account, second)
    assert said.verdict is RefundVerdict.NOT_FOUND
    old = replace(second, key=reference(1, 1_000_000))
    assert (await till.rail.find_refund(till.account, old)).verdict is RefundVerdict.UNKNOWN


async def test_too_much_does_not_go_back(till: Till) -> None:
    charge = await till.paid(fen=10_000)
    order = till.back(charge, 10_001)
    with pytest.raises(RailUnknown):
        await till.rail.refund(till.account, order)
    assert till.orders(order.key) == 0


async def test_a_payer_who_cannot_be_reached(till: Till) -> None:
    payer = f"o{next(till.outside.numbers):027d}"
    fate = {"payee": payer, "outcome": "fail", "code": "X", "uses": None}
    await till.outside.control("/oracle", fate)
    charge = await till.opened()
    await till.pay(charge.key, payer)
    order = till.back(charge)
    await till.rail.refund(till.account, order)
    said = await till.refunded(order)
    assert (said.verdict, said.amount) == (RefundVerdict.STUCK, charge.amount)
    assert said.code == ("ABNORMAL" if till.version == "v3" else "CHANGE")


async def test_a_refund_of_another_charge_or_amount_is_not_believed(till: Till) -> None:
    charge = await till.paid(fen=10_000)
    order = till.back(charge, 4_000)
    await till.rail.refund(till.account, order)
    assert (await till.refunded(order)).verdict is RefundVerdict.DONE
    for other in (
        replace(order, charge_key=till.key()),
        replace(order, amount=Money(4_001, "CNY")),
        replace(order, charged=Money(10_001, "CNY")),
    ):
        said = await till.rail.find_refund(till.account, other)
        assert said.verdict is RefundVerdict.UNKNOWN


async def test_a_number_that_is_not_shown_yet_is_found_later(tills: dict[str, Till]) -> None:
    till = tills["v3"]
    await till.reset()
    charge = await till.opened()
    await till.outside.control("/wechat/settings", {"not_found_lag_seconds": 60})
    said = await till.rail.find_charge(till.account, charge.key)
    assert said.verdict is ChargeVerdict.NOT_FOUND
    await till.reset()
    assert (await till.rail.find_charge(till.account, charge.key)).verdict is ChargeVerdict.OPEN


async def test_a_provider_whose_clock_is_wrong_is_not_believed(tills: dict[str, Till]) -> None:
    till = tills["v3"]
    await till.reset()
    charge = await till.paid()
    await till.outside.control("/wechat/settings", {"clock_skew_seconds": 400})
    said = await till.rail.find_charge(till.account, charge.key)
    assert said.verdict is ChargeVerdict.UNKNOWN
    await till.reset()


async def test_a_certificate_of_ours_is_needed_to_give_back(tills: dict[str, Till]) -> None:
    till = tills["v2"]
    await till.reset()
    charge = await till.paid()
    sound = till.harness.kept["identity"]
    till.harness.kept["identity"] = "no certificate"
    try:
        with pytest.raises(NeverSent) as caught:
            await till.rail.refund(till.account, till.back(charge))
    finally:
        till.harness.kept["identity"] = sound
    assert caught.value.slug == "rail-secret-missing"


async def test_nothing_leaves_for_a_port_where_nobody_listens(till: Till) -> None:
    nowhere = replace(
        till.account, settings={**till.account.settings, **till.harness.unreachable().settings}
    )
    charge, paid = till.charge(), await till.paid()
    with pytest.raises(NeverSent):
        await till.rail.open_charge(nowhere, charge)
    with pytest.raises(NeverSent):
        await till.rail.refund(nowhere, till.back(paid))
    assert (await till.rail.find_charge(nowhere, paid.key)).verdict is ChargeVerdict.UNKNOWN
    assert (await till.rail.close_charge(nowhere, paid.key)).verdict is ChargeVerdict.UNKNOWN
    said = await till.rail.find_refund(nowhere, till.back(paid))
    assert said.verdict is RefundVerdict.UNKNOWN


async def test_keys_change_between_question_and_answer(tills: dict[str, Till]) -> None:
    till = tills["v3"]
    await till.reset()
    charge = await till.paid()
    before = len(till.platform)
    await till.outside.control("/wechat/keys", {"kind": "public-key"})
    said = await till.rail.find_charge(till.account, charge.key)
    assert said.verdict is ChargeVerdict.UNKNOWN
    for each in tills.values():
        await each.learn_keys()
    assert len(till.platform) > before
    said = await till.rail.find_charge(till.account, charge.key)
    assert said.verdict is ChargeVerdict.PAID


async def test_an_account_without_pay_in_offers_nothing(till: Till) -> None:
    settings = {**till.account.settings, "payin": "none"}
    without = replace(till.account, settings=settings)
    assert till.rail.pay_methods(without) == {}
    with pytest.raises(NeverSent):
        await till.rail.open_charge(without, till.charge())
    said = await till.rail.find_charge(without, till.key())
    assert said.verdict is ChargeVerdict.UNKNOWN
    with pytest.raises(Unauthenticated):
        till.rail.read_payin_webhook(without, {}, b"{}", till.harness.now())


async def test_what_is_shown_is_no_secret_of_the_merchant(till: Till) -> None:
    shown: Checkout = await till.rail.open_charge(till.account, till.charge("wechat-app"))
    for name in ("private", "apiv3", "apiv2"):
        assert till.harness.kept[name] not in repr(shown)
