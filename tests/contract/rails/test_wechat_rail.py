"""The WeChat rail over the sandbox: what each answer proves, and what only this rail does."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from tests.contract.checking import patiently
from tests.contract.sandboxes import Outside, outside
from tests.contract.wechat_sending import order, proven, settled
from tests.contract.wechat_world import WeChatHarness

from paymaster.kernel.errors import (
    RailDoubted,
    RailPutOff,
    RailRefused,
    RailUnknown,
    Refusal,
    Unauthenticated,
)
from paymaster.kernel.ids import reference
from paymaster.kernel.money import Money
from paymaster.rails.base import Verdict

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


UNKNOWN = [
    ("error_after", {"number": 500}),
    ("error_before", {"number": 503}),
    ("accepted_after", {}),
    ("accepted_before", {}),
    ("code_after", {"text": "NEVER_HEARD_OF"}),
    ("code_before", {"text": "INVALID_REQUEST"}),
    ("bad_signature", {}),
    ("no_signature", {}),
    ("unknown_serial", {}),
    ("stale", {}),
    ("signtest", {}),
    ("truncated", {}),
    ("garbled", {}),
    ("cut_after", {}),
    ("cut_before", {}),
]


@pytest.mark.parametrize(("kind", "more"), UNKNOWN)
async def test_what_proves_nothing_is_unknown(
    bills: WeChatHarness, kind: str, more: dict[str, Any]
) -> None:
    await bills.reset()
    await bills.mishap(kind, **more)
    assert type(await proven(bills)) is RailUnknown


@pytest.mark.parametrize("code", ["NOT_ENOUGH", "NO_AUTH", "FREQUENCY_LIMITED", "SIGN_ERROR"])
async def test_what_is_ours_to_mend_is_asked_about(bills: WeChatHarness, code: str) -> None:
    await bills.reset()
    await bills.mishap("code_before", text=code)
    said = await proven(bills)
    assert type(said) is RailPutOff
    assert (said.slug, said.extra["code"]) == ("provider-turned-away", code)


@pytest.mark.parametrize("when", ["code_before", "code_after"])
async def test_a_listed_no_has_to_be_borne_out(bills: WeChatHarness, when: str) -> None:
    """Also where it is a lie: the order was made all the same."""
    await bills.reset()
    await bills.mishap(when, text="PARAM_ERROR")
    (item,) = bills.instructions(1)
    rail, prepared = order(bills, item)
    with pytest.raises(RailDoubted) as caught:
        await rail.send(bills.account, prepared)
    assert caught.value.extra["code"] == "PARAM_ERROR"
    if when == "code_before":
        assert (await rail.query(bills.account, item.key)).verdict is Verdict.NOT_FOUND
    else:
        assert await settled(bills, rail, item) is Verdict.PAID


@pytest.mark.parametrize("kind", ["reordered", "extra_fields"])
async def test_an_answer_that_only_looks_unusual_is_understood(
    bills: WeChatHarness, kind: str
) -> None:
    await bills.reset()
    await bills.mishap(kind)
    assert await proven(bills) is Verdict.AWAITING


async def test_a_wrong_key_of_ours_stops_the_rail(bills: WeChatHarness) -> None:
    await bills.reset()
    stranger = await WeChatHarness.open(bills.outside, "transfer-bills", 9)
    bills_key = bills.kept["private"]
    bills.kept["private"] = stranger.kept["private"]
    try:
        said = await proven(bills)
    finally:
        bills.kept["private"] = bills_key
    assert type(said) is RailPutOff
    assert said.slug == "provider-turned-away"
    assert said.extra["code"] == "SIGN_ERROR"


async def test_the_payee_accepts_and_is_paid(bills: WeChatHarness) -> None:
    await bills.reset()
    (item,) = bills.instructions(1, behaviour="wait")
    rail, prepared = order(bills, item)
    (said,) = await rail.send(bills.account, prepared)
    assert said.verdict is Verdict.AWAITING
    assert said.confirmation is not None
    assert said.confirmation.package
    assert said.confirmation.package not in repr(said)
    assert said.confirmation.public == {
        "mchId": bills.account.settings["mchid"], "appId": bills.account.settings["appid"],
    }  # fmt: skip
    left = said.confirmation.expires_at - bills.now()
    assert 86_000 < left.total_seconds() <= 86_400
    asked = await rail.query(bills.account, item.key)
    assert (asked.verdict, asked.confirmation) == (Verdict.AWAITING, None)
    (again,) = await rail.send(bills.account, prepared)
    assert again.confirmation == said.confirmation
    await bills.outside.control(
        "/wechat/act",
        {"act": "confirm", "mchid": bills.account.settings["mchid"], "reference": item.key},
    )
    assert await settled(bills, rail, item) is Verdict.PAID
    assert await bills.times_paid(item) == 1


async def test_an_order_that_is_only_taken_in_awaits_and_has_nothing_to_show(
    bills: WeChatHarness,
) -> None:
    await bills.reset()
    await bills.outside.control("/wechat/settings", {"accept_seconds": 0.3})
    (item,) = bills.instructions(1, behaviour="wait")
    rail, prepared = order(bills, item)
    (said,) = await rail.send(bills.account, prepared)
    assert (said.verdict, said.confirmation) == (Verdict.AWAITING, None)

    async def shown() -> bool:
        (again,) = await rail.send(bills.account, prepared)
        return again.confirmation is not None

    await patiently(shown, "the same order again brings nothing to show")


async def test_what_waits_can_be_taken_back(bills: WeChatHarness) -> None:
    await bills.reset()
    (item,) = bills.instructions(1, behaviour="wait")
    rail, prepared = order(bills, item)
    await rail.send(bills.account, prepared)
    said = await rail.cancel(bills.account, item.key)
    assert said.verdict in {Verdict.ACCEPTED, Verdict.REJECTED}
    assert await settled(bills, rail, item) is Verdict.REJECTED
    last = await rail.cancel(bills.account, item.key)
    assert (last.verdict, last.code) == (Verdict.REJECTED, "MCH_CANCEL")
    assert await bills.times_paid(item) == 0


async def test_who_was_quicker_is_paid(bills: WeChatHarness) -> None:
    await bills.reset()
    (item,) = bills.instructions(1)
    rail, prepared = order(bills, item)
    await rail.send(bills.account, prepared)
    assert await settled(bills, rail, item) is Verdict.PAID
    said = await rail.cancel(bills.account, item.key)
    assert said.verdict is Verdict.PAID


async def test_a_number_that_is_too_old_is_not_called_absent(bills: WeChatHarness) -> None:
    await bills.reset()
    (item,) = bills.instructions(1)
    rail = bills.make_rail()
    fresh = await rail.query(bills.account, item.key)
    assert fresh.verdict is Verdict.NOT_FOUND
    ancient = await rail.query(bills.account, reference(1, 1_000_000))
    assert ancient.verdict is Verdict.UNKNOWN


async def test_names_are_sent_encrypted_where_they_may_be(bills: WeChatHarness) -> None:
    await bills.reset()
    (item,) = bills.instructions(1)
    payee = replace(item.payee, details={**item.payee.details, "name": "王小明"})
    rail, prepared = order(bills, replace(item, payee=payee))
    assert json.loads(prepared.body)["params"]["user_name"] == "王小明"
    await rail.send(bills.account, prepared)
    assert await settled(bills, rail, item) is Verdict.PAID
    _, small = order(bills, replace(item, payee=payee, amount=Money(29, "CNY")))
    assert "user_name" not in json.loads(small.body)["params"]
    with pytest.raises(RailRefused, match="name"):
        order(bills, replace(item, amount=Money(200_000, "CNY")))


async def test_another_name_is_told_of_later(bills: WeChatHarness) -> None:
    await bills.reset()
    (item,) = bills.instructions(1)
    payee = replace(item.payee, details={**item.payee.details, "name": "李四"})
    rail, prepared = order(bills, replace(item, payee=payee))
    await rail.send(bills.account, prepared)
    assert await settled(bills, rail, item) is Verdict.REJECTED
    assert (await rail.query(bills.account, item.key)).code == "NAME_NOT_CORRECT"


async def test_an_openid_of_another_app_is_refused(bills: WeChatHarness) -> None:
    (item,) = bills.instructions(1)
    other = {**item.payee.details, "appid": "wxffffffffffffffff"}
    with pytest.raises(RailRefused, match="another app"):
        order(bills, replace(item, payee=replace(item.payee, details=other)))


async def test_signs_of_four_bytes_do_not_leave(bills: WeChatHarness) -> None:
    (item,) = bills.instructions(1)
    _, prepared = order(bills, replace(item, purpose="Thank you \U0001f44d\n" + "x" * 40))
    remark = json.loads(prepared.body)["params"]["transfer_remark"]
    assert remark == "Thank you " + "x" * 22


async def test_keys_change_without_a_restart(bills: WeChatHarness, agreed: WeChatHarness) -> None:
    await bills.reset()
    rail = bills.make_rail()
    before = bills.kept["platform"]
    await bills.outside.control("/wechat/keys", {"kind": "public-key"})
    (item,) = bills.instructions(1)
    prepared = rail.prepare(bills.account, item.key, [item], bills.now())
    with pytest.raises(RailUnknown):
        await rail.send(bills.account, prepared)
    await agreed.learn_keys()
    await bills.learn_keys()
    assert len(json.loads(bills.kept["platform"])) > len(json.loads(before))
    assert await settled(bills, rail, item) is Verdict.PAID
    assert await bills.times_paid(item) == 1


NOTICES = ["bad_signature", "unknown_serial", "stale", "signtest", "wrong_mchid", "tampered"]


@pytest.mark.parametrize("kind", NOTICES)
async def test_planted_notices_are_not_believed(bills: WeChatHarness, kind: str) -> None:
    await bills.reset()
    await bills.deliveries()
    await bills.mishap(kind, "notice")
    (item,) = bills.instructions(1)
    rail, prepared = order(bills, item)
    await rail.send(bills.account, prepared)
    heard, refused = list[str](), list[str]()

    async def both() -> bool:
        for each in await bills.deliveries():
            try:
                notices = rail.read_webhook(bills.account, each.headers, each.body, each.at)
            except (Refusal, Unauthenticated) as error:
                refused.append(error.slug)
            else:
                heard.extend(one.outcome.key for one in notices)
        return bool(heard and refused)

    await patiently(both, "the true notice or the false one did not come")
    assert heard == [item.key]
    assert set(refused) <= {"webhook-signature", "webhook-stale", "webhook-malformed"}


async def test_what_the_provider_hears(bills: WeChatHarness) -> None:
    rail = bills.make_rail()
    assert rail.webhook_answer(True).status == 200
    assert rail.webhook_answer(False).status >= 400
    assert json.loads(rail.webhook_answer(True).body)["code"] == "SUCCESS"
