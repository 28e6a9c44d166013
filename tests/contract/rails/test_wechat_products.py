"""Other products of WeChat: standing consents, old payments; and accounts that are wrong."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
import pytest_asyncio
from tests.contract.sandboxes import Outside, outside
from tests.contract.wechat_sending import proven, settled
from tests.contract.wechat_world import WeChatHarness

from paymaster.kernel.errors import (
    NeverSent,
    RailDoubted,
    RailError,
    RailPutOff,
    RailRefused,
    RailUnknown,
    Unprocessable,
)
from paymaster.kernel.ids import reference
from paymaster.rails.base import Payee, Verdict
from paymaster.rails.consent import ConsentState
from paymaster.rails.wechat.authorise import authorization_no

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Outside]:
    async with outside(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bills(found: Outside) -> WeChatHarness:
    return await WeChatHarness.open(found, "transfer-bills", 1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agreed(found: Outside) -> WeChatHarness:
    return await WeChatHarness.open(found, "authorised", 2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def old(found: Outside) -> WeChatHarness:
    return await WeChatHarness.open(found, "transfers-v2", 3)


async def test_other_products_cannot_be_taken_back(old: WeChatHarness) -> None:
    rail = old.make_rail()
    with pytest.raises(NeverSent):
        await rail.cancel(old.account, reference(1, 1))


async def test_a_consent_is_asked_for_given_used_and_closed(agreed: WeChatHarness) -> None:
    await agreed.reset()
    number = next(agreed.outside.numbers)
    payee = agreed.add_user(number)
    openid = payee.details["openid"]
    rail = agreed.make_rail()
    (item,) = agreed.instructions(1)
    item = replace(item, payee=payee)
    prepared = rail.prepare(agreed.account, item.key, [item], agreed.now())
    assert (await rail.consent(agreed.account, payee)).state is ConsentState.NONE
    with pytest.raises(RailRefused) as caught:
        await rail.send(agreed.account, prepared)
    assert caught.value.extra["code"] == "AUTHORIZATION_NOT_IN_EFFECT"
    asked = await rail.ask_consent(agreed.account, payee, "王小明")
    assert asked.state is ConsentState.WAITING
    assert asked.confirmation is not None
    assert asked.confirmation.package not in repr(asked)
    first = authorization_no(agreed.account, openid, 0)
    agreed.confirm_consent(first)
    assert (await rail.consent(agreed.account, payee)).state is ConsentState.IN_EFFECT
    (said,) = await rail.send(agreed.account, prepared)
    assert said.verdict is Verdict.ACCEPTED
    assert await settled(agreed, rail, item) is Verdict.PAID
    assert (await rail.end_consent(agreed.account, payee)).state is ConsentState.CLOSED
    assert (await rail.end_consent(agreed.account, payee)).state is ConsentState.NONE
    anew = await rail.ask_consent(agreed.account, payee, "王小明")
    assert anew.state is ConsentState.WAITING
    agreed.confirm_consent(authorization_no(agreed.account, openid, 1))
    assert (await rail.consent(agreed.account, payee)).state is ConsentState.IN_EFFECT


async def test_only_the_product_for_it_and_only_its_own_app_need_a_consent(
    agreed: WeChatHarness, old: WeChatHarness
) -> None:
    payee, rail = agreed.add_user(next(agreed.outside.numbers)), agreed.make_rail()
    assert rail.needs_consent(agreed.account, payee)
    assert not rail.needs_consent(old.account, payee)
    elsewhere = Payee("wechat", {**payee.details, "appid": "wxffffffffffffffff"})
    assert not rail.needs_consent(agreed.account, elsewhere)


V2_CODES = [
    ("NOTENOUGH", RailPutOff),
    ("NO_AUTH", RailPutOff),
    ("SIGN_ERROR", RailPutOff),
    ("OPENID_ERROR", RailDoubted),
    ("AMOUNT_LIMIT", RailDoubted),
    ("SYSTEMERROR", RailUnknown),
    ("SEND_FAILED", RailUnknown),
    ("FATAL_ERROR", RailUnknown),
    ("NEVER_HEARD_OF", RailUnknown),
]


@pytest.mark.parametrize(("code", "means"), V2_CODES)
async def test_what_the_old_codes_prove(
    old: WeChatHarness, code: str, means: type[RailError]
) -> None:
    await old.reset()
    await old.mishap("code_before", text=code)
    said = await proven(old)
    assert isinstance(said, RailError)
    assert type(said) is means
    assert said.extra["code"] == code


@pytest.mark.parametrize("code", ["RECEIVED_MONEY_LIMIT", "SENDNUM_LIMIT"])
async def test_a_payee_who_has_had_enough_today_is_put_off(old: WeChatHarness, code: str) -> None:
    await old.reset()
    await old.mishap("code_before", text=code)
    said = await proven(old)
    assert type(said) is RailPutOff
    assert said.extra["code"] == code


async def test_the_old_product_needs_our_certificate(old: WeChatHarness) -> None:
    await old.reset()
    sound = old.kept["identity"]
    stranger = await WeChatHarness.open(old.outside, "transfers-v2", 8)
    assert stranger.kept["identity"] != sound
    old.kept["identity"] = "no certificate"
    try:
        said = await proven(old)
    finally:
        old.kept["identity"] = sound
    assert type(said) is NeverSent
    assert said.slug == "rail-secret-missing"


@pytest.mark.parametrize(
    ("settings", "pointer"),
    [
        ({"product": "pigeon"}, "/settings/product"),
        ({"mchid": "abc"}, "/settings/mchid"),
        ({"mchid": ""}, "/settings/mchid"),
        ({"appid": "x"}, "/settings/appid"),
        ({"merchant_serial": "xyz"}, "/settings/merchant_serial"),
        ({"url": "pay.example"}, "/settings/url"),
        ({"scene_infos": "[]"}, "/settings/scene_infos"),
        ({"scene_infos": '[{"info_type": "a"}]'}, "/settings/scene_infos"),
        ({"bill_account": "SAVINGS"}, "/settings/bill_account"),
        ({"style": "GOLD"}, "/settings/style"),
    ],
)
async def test_a_wrong_account_is_named_field_by_field(
    bills: WeChatHarness, settings: dict[str, str], pointer: str
) -> None:
    rail = bills.make_rail()
    rail.check_account(bills.account)
    wrong = replace(bills.account, settings={**bills.account.settings, **settings})
    with pytest.raises(Unprocessable) as caught:
        rail.check_account(wrong)
    assert pointer in {problem.pointer for problem in caught.value.problems}
