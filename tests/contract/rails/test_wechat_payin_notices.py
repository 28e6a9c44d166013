"""Notices of pay-in over WeChat's sandbox: what is believed, and what is planted beside it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
import pytest_asyncio
from tests.contract.checking import patiently
from tests.contract.harness import Delivery
from tests.contract.sandboxes import Outside, outside
from tests.contract.wechat_payin import VERSIONS, Till

from paymaster.kernel.errors import Refusal, Unauthenticated
from paymaster.rails.payin import ChargeOutcome, ChargeVerdict, RefundOutcome

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


async def test_another_app_or_merchant_is_not_ours(till: Till) -> None:
    charge = await till.paid()
    (delivery, *_) = await _delivered(till)
    for changed in ({"mchid": "1999999999"}, {"appid": "wxffffffffffffffff"}):
        settings = {**till.account.settings, **changed}
        other = replace(till.account, settings=settings)
        said = await till.rail.find_charge(other, charge.key)
        assert said.verdict is ChargeVerdict.UNKNOWN
        with pytest.raises(Refusal) as caught:
            till.rail.read_payin_webhook(other, delivery.headers, delivery.body, delivery.at)
        assert caught.value.slug == "webhook-malformed"


async def _delivered(till: Till) -> list[Delivery]:
    found: list[Delivery] = []

    async def came() -> bool:
        found.extend(till.deliveries())
        return bool(found)

    await patiently(came, "no notice came")
    return found


async def test_a_notice_that_comes_twice_and_late_says_the_same(till: Till) -> None:
    await till.harness.mishap("copies", "notice", number=3)
    charge = await till.paid()
    found: list[Delivery] = []

    async def thrice() -> bool:
        found.extend(till.deliveries())
        return len(found) >= 3

    await patiently(thrice, "the copies did not come")
    events = {notice.event_id for one in found for notice in till.read(one)}
    said = [notice.about for one in found for notice in till.read(one)]
    assert len(events) == 1
    assert {one.key for one in said} == {charge.key}


FORGED = {
    "v3": ["bad_signature", "unknown_serial", "stale", "signtest", "wrong_mchid", "tampered"],
    "v2": ["bad_signature"],
    "v2-md5": ["tampered"],
}


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, kinds in FORGED.items() for kind in kinds]
)
async def test_planted_notices_are_not_believed(
    tills: dict[str, Till], name: str, kind: str
) -> None:
    till = tills[name]
    await till.reset()
    till.deliveries()
    await till.harness.mishap(kind, "notice")
    charge = await till.paid()
    heard, refused = list[ChargeOutcome | RefundOutcome](), list[str]()

    async def both() -> bool:
        for each in till.deliveries():
            try:
                heard.extend(one.about for one in till.read(each))
            except (Refusal, Unauthenticated) as error:
                refused.append(error.slug)
        return bool(heard and refused)

    await patiently(both, "the true notice or the false one did not come")
    assert {(one.key, one.amount) for one in heard} == {(charge.key, charge.amount)}
    assert set(refused) <= {"webhook-signature", "webhook-stale", "webhook-malformed"}


async def test_notices_of_the_other_api_are_refused(tills: dict[str, Till]) -> None:
    """Whoever knows the weaker key cannot speak for an account that uses the stronger one."""
    for name, other in (("v2", "v3"), ("v3", "v2")):
        till = tills[name]
        await till.reset()
        till.deliveries()
        await till.paid()
        (delivery, *_) = await _delivered(till)
        settings = {**till.account.settings, "payin": other}
        account = replace(till.account, settings=settings)
        with pytest.raises((Refusal, Unauthenticated)):
            till.rail.read_payin_webhook(account, delivery.headers, delivery.body, delivery.at)


async def test_a_weaker_digest_than_asked_for_is_refused(tills: dict[str, Till]) -> None:
    weak = tills["v2-md5"]
    await weak.reset()
    weak.deliveries()
    await weak.paid()
    (delivery, *_) = await _delivered(weak)
    settings = {**weak.account.settings, "payin_sign": "HMAC-SHA256"}
    strict = replace(weak.account, settings=settings)
    with pytest.raises(Unauthenticated):
        weak.rail.read_payin_webhook(strict, delivery.headers, delivery.body, delivery.at)


async def test_what_the_provider_hears(till: Till) -> None:
    taken, refused = till.rail.payin_answer(True), till.rail.payin_answer(False)
    assert (taken.status, refused.status) == (200, 400)
    assert b"<return_code><![CDATA[SUCCESS]]></return_code>" in taken.body
    assert b"<return_code><![CDATA[FAIL]]></return_code>" in refused.body
