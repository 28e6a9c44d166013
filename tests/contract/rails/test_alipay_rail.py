"""The Alipay rail over the sandbox: what each answer proves, forms that are forged, files."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta
from urllib.parse import parse_qsl, urlencode

import pytest
import pytest_asyncio
from tests.contract.alipay_world import AlipayHarness
from tests.contract.checking import patiently
from tests.contract.conformance import CHECKS
from tests.contract.harness import Delivery
from tests.contract.sandboxes import Outside, outside

from paymaster.kernel.errors import (
    RailDoubted,
    RailError,
    RailPutOff,
    RailUnknown,
    Refusal,
    Unauthenticated,
    Unprocessable,
)
from paymaster.kernel.ids import reference
from paymaster.rails.alipay import table
from paymaster.rails.alipay.rail import AlipayRail
from paymaster.rails.base import Cancels, Instruction, Payee, Prepared, Verdict

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Outside]:
    async with outside(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def apps(found: Outside) -> dict[str, AlipayHarness]:
    return {
        mode: await AlipayHarness.open(found, mode, number)
        for number, mode in enumerate(("v3", "gateway"), 1)
    }


MODES = pytest.mark.parametrize("mode", ["v3", "gateway"])


def order(harness: AlipayHarness, item: Instruction) -> tuple[AlipayRail, Prepared]:
    rail = harness.make_rail()
    assert isinstance(rail, AlipayRail)
    return rail, rail.prepare(harness.account, item.key, [item], harness.now())


async def proven(harness: AlipayHarness, item: Instruction | None = None) -> RailError | Verdict:
    """What the next order's answer means."""
    rail, prepared = order(harness, item or harness.instructions(1)[0])
    try:
        (said,) = await rail.send(harness.account, prepared)
    except RailError as error:
        return error
    return said.verdict


@MODES
@pytest.mark.parametrize(
    "knob",
    [
        "drop_requests", "drop_answers", "fail_before", "fail_after", "accepted", "processing",
        "unlisted_code", "refuse_unlisted", "bad_signature", "unsigned", "unknown_serial",
        "stale_timestamp", "truncated", "garbled",
    ],
)  # fmt: skip
async def test_what_proves_nothing_is_unknown(
    apps: dict[str, AlipayHarness], mode: str, knob: str
) -> None:
    await apps[mode].reset()
    await apps[mode].knob(**{knob: 1})
    assert type(await proven(apps[mode])) is RailUnknown


@MODES
async def test_an_answer_that_only_looks_unusual_is_understood(
    apps: dict[str, AlipayHarness], mode: str
) -> None:
    await apps[mode].reset()
    await apps[mode].knob(reordered=1)
    assert await proven(apps[mode]) is Verdict.ACCEPTED


@MODES
async def test_too_many_requests_are_asked_about(apps: dict[str, AlipayHarness], mode: str) -> None:
    await apps[mode].reset()
    await apps[mode].knob(rate_limit=1)
    said = await proven(apps[mode])
    assert type(said) is RailPutOff
    assert said.extra["code"] == "APP_CALL_LIMITED"


@MODES
async def test_a_wrong_key_of_ours_stops_the_rail(
    apps: dict[str, AlipayHarness], mode: str
) -> None:
    harness = apps[mode]
    await harness.reset()
    other = apps["gateway" if mode == "v3" else "v3"]
    ours = harness.kept["private"]
    harness.kept["private"] = other.kept["private"]
    try:
        said = await proven(harness)
    finally:
        harness.kept["private"] = ours
    assert type(said) is RailPutOff
    assert said.extra["code"] == "INVALID_SIGNATURE"


@MODES
async def test_nobody_of_that_number_has_to_be_borne_out(
    apps: dict[str, AlipayHarness], mode: str
) -> None:
    harness = apps[mode]
    await harness.reset()
    (item,) = harness.instructions(1)
    nobody = replace(item, payee=Payee("alipay", {"user_id": "2088999999999999"}))
    said = await proven(harness, nobody)
    assert type(said) is RailDoubted
    assert said.extra["code"] == "PAYEE_NOT_EXIST"


@MODES
async def test_another_content_under_the_number_is_unknown(
    apps: dict[str, AlipayHarness], mode: str
) -> None:
    harness = apps[mode]
    await harness.reset()
    (item,) = harness.instructions(1)
    assert await proven(harness, item) is Verdict.ACCEPTED
    said = await proven(harness, replace(item, purpose="another"))
    assert type(said) is RailUnknown
    assert said.extra["code"] == "PAYMENT_INFO_INCONSISTENCY"


@MODES
async def test_an_empty_balance_waits_for_money(apps: dict[str, AlipayHarness], mode: str) -> None:
    harness = apps[mode]
    await harness.reset()
    poor = replace(harness.instructions(1)[0])
    amount = replace(poor.amount, minor=4_900_000)
    rich = [replace(one, amount=amount) for one in harness.instructions(25)]
    codes = set[str]()
    for one in rich:
        said = await proven(harness, one)
        if isinstance(said, RailError):
            assert type(said) is RailPutOff
            codes.add(said.extra["code"])
    assert codes == {"PAYER_BALANCE_NOT_ENOUGH"}
    await harness.outside.control(
        "/alipay/top-up",
        {"app_id": harness.account.settings["app_id"], "amount_minor": 10**8},
    )
    assert await proven(harness, poor) is Verdict.ACCEPTED


async def test_payees_by_each_of_their_names(apps: dict[str, AlipayHarness]) -> None:
    harness = apps["v3"]
    await harness.reset()
    (item,) = harness.instructions(1)
    number = int(item.payee.details["user_id"][4:])
    named = Payee("alipay", {"logon_id": f"p{number}@example.com", "name": "王小明"})
    assert await proven(harness, replace(item, payee=named)) is Verdict.ACCEPTED
    assert await harness.times_paid(item) == 1
    (other,) = harness.instructions(1)
    number = int(other.payee.details["user_id"][4:])
    wrong = Payee("alipay", {"logon_id": f"p{number}@example.com", "name": "李四"})
    said = await proven(harness, replace(other, payee=wrong))
    assert type(said) is RailDoubted
    assert said.extra["code"] == "PAYEE_USER_INFO_ERROR"


async def test_the_order_that_is_stored_is_the_content_that_is_sent(
    apps: dict[str, AlipayHarness],
) -> None:
    (item,) = apps["v3"].instructions(1, amounts=(1224,))
    _, prepared = order(apps["v3"], item)
    assert json.loads(prepared.body) == {
        "out_biz_no": item.key,
        "trans_amount": "12.34",
        "product_code": "TRANS_ACCOUNT_NO_PWD",
        "biz_scene": "DIRECT_TRANSFER",
        "order_title": "任务奖励",
        "remark": "任务奖励",
        "payee_info": {
            "identity": item.payee.details["user_id"], "identity_type": "ALIPAY_USER_ID",
        },
    }  # fmt: skip
    assert prepared.body == order(apps["gateway"], item)[1].body


@MODES
async def test_a_number_that_is_too_old_is_not_called_absent(
    apps: dict[str, AlipayHarness], mode: str
) -> None:
    await apps[mode].reset()
    rail = apps[mode].make_rail()
    (item,) = apps[mode].instructions(1)
    assert (await rail.query(apps[mode].account, item.key)).verdict is Verdict.NOT_FOUND
    ancient = await rail.query(apps[mode].account, reference(1, 1_000_000))
    assert ancient.verdict is Verdict.UNKNOWN


async def test_nothing_can_be_taken_back(apps: dict[str, AlipayHarness]) -> None:
    assert not isinstance(apps["v3"].make_rail(), Cancels)


async def told(
    harness: AlipayHarness, knob: str | None = None
) -> tuple[Instruction, list[Delivery]]:
    """Pay; the messages about it, the planted one among them."""
    await harness.reset()
    await harness.deliveries()
    if knob is not None:
        await harness.outside.control("/alipay/faults", {knob: 1})
    (item,) = harness.instructions(1)
    rail, prepared = order(harness, item)
    await rail.send(harness.account, prepared)
    came: list[Delivery] = []

    async def enough() -> bool:
        came.extend(await harness.deliveries())
        return len(came) > (knob is not None)

    await patiently(enough, "no message came")
    return item, came


@pytest.mark.parametrize(
    "knob", ["notice_forge", "notice_tamper", "notice_wrong_app", "notice_replay"]
)
async def test_planted_messages_are_not_believed(apps: dict[str, AlipayHarness], knob: str) -> None:
    harness = apps["v3"]
    item, came = await told(harness, knob)
    rail = harness.make_rail()
    heard, refused = list[tuple[str, Verdict]](), list[str]()
    for each in came:
        try:
            notices = rail.read_webhook(harness.account, each.headers, each.body, each.at)
        except (Refusal, Unauthenticated) as error:
            refused.append(error.slug)
        else:
            heard += [(one.outcome.key, one.outcome.verdict) for one in notices]
    assert (item.key, Verdict.PAID) in heard
    if knob == "notice_replay":
        assert len(heard) == 2
    else:
        assert (heard, len(refused)) == ([(item.key, Verdict.PAID)], 1)


async def test_every_changed_form_is_refused(apps: dict[str, AlipayHarness]) -> None:
    harness = apps["v3"]
    _, (sent, *_) = await told(harness)
    rail = harness.make_rail()
    assert rail.read_webhook(harness.account, {}, sent.body, sent.at)
    fields = parse_qsl(sent.body.decode(), encoding="gbk")
    forms = [sent.body + b" ", sent.body[:-1], sent.body + b"&x=y", sent.body + b"&app_id=1", b""]
    for place, (name, value) in enumerate(fields):
        changed = [*fields[:place], (name, value + "1"), *fields[place + 1 :]]
        forms.append(urlencode(changed, encoding="gbk").encode())
        forms.append(urlencode(fields[:place] + fields[place + 1 :], encoding="gbk").encode())
    for form in forms:
        with pytest.raises(Unauthenticated) as caught:
            rail.read_webhook(harness.account, {}, form, sent.at)
        assert caught.value.slug == "webhook-signature"


async def test_a_late_try_is_believed_and_one_of_another_day_is_not(
    apps: dict[str, AlipayHarness],
) -> None:
    harness = apps["v3"]
    _, (sent, *_) = await told(harness)
    rail = harness.make_rail()
    assert rail.read_webhook(harness.account, {}, sent.body, sent.at + timedelta(hours=25))
    for distance in (timedelta(hours=-1), timedelta(hours=27)):
        with pytest.raises(Unauthenticated) as caught:
            rail.read_webhook(harness.account, {}, sent.body, sent.at + distance)
        assert caught.value.slug == "webhook-stale"


async def test_what_the_provider_hears(apps: dict[str, AlipayHarness]) -> None:
    rail = apps["v3"].make_rail()
    assert (rail.webhook_answer(True).status, rail.webhook_answer(True).body) == (200, b"success")
    assert rail.webhook_answer(False).body != b"success"


@pytest.mark.parametrize("old", [0, 1])
async def test_the_days_file_says_what_the_log_says(
    tmp_path_factory: pytest.TempPathFactory, old: int
) -> None:
    async with outside(tmp_path_factory.mktemp("world")) as world:
        files = await AlipayHarness.open(world, "v3", 7, statement="csv")
        await files.outside.control("/alipay/faults", {"bill_old_headers": old})
        await CHECKS["statement-equals-payments"](files)
        await CHECKS["truncated-file-is-refused"](files)
        await CHECKS["foreign-file-is-refused"](files)
        settings = {**files.account.settings, "statement": "log"}
        log = replace(files.account, settings=settings)
        rail = files.make_rail()
        by_csv = await rail.fetch(files.account, frozenset())
        by_log = await rail.fetch(log, frozenset())
        read = [
            [
                [(x.line_id, x.kind, x.amount, x.reference) for x in statement.lines]
                for one in got
                for statement in rail.read_file(files.account, one.name, one.body)[1]
            ]
            for got in (by_csv, by_log)
        ]
        assert read[0] == read[1]
        assert len(read[0]) >= 2


def spoilt() -> bytes:
    """An archive whose compressed bytes are not what they were."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", "x" * 5000)
    whole = bytearray(made.getvalue())
    whole[40:50] = b"\xff" * 10
    return bytes(whole)


@pytest.mark.parametrize("archive", [b"", b"PK", b"not an archive" * 10, spoilt()])
async def test_an_archive_that_is_none_is_refused(archive: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        table.unpacked(archive)
    assert caught.value.slug == "statement-malformed"


@pytest.mark.parametrize(
    ("settings", "pointer"),
    [
        ({"app_id": "12"}, "/settings/app_id"),
        ({"url": ""}, "/settings/url"),
        ({"url": "gateway"}, "/settings/url"),
        ({"mode": "v4"}, "/settings/mode"),
        ({"product": "STD_RED_PACKET"}, "/settings/product"),
        ({"statement": "paper"}, "/settings/statement"),
        ({"scene_name": "佣金报酬"}, "/settings/scene_infos"),
        ({"scene_name": "佣金报酬", "scene_infos": "{}"}, "/settings/scene_infos"),
    ],
)
async def test_a_wrong_account_is_named_field_by_field(
    apps: dict[str, AlipayHarness], settings: dict[str, str], pointer: str
) -> None:
    harness = apps["v3"]
    rail = harness.make_rail()
    rail.check_account(harness.account)
    wrong = replace(harness.account, settings={**harness.account.settings, **settings})
    with pytest.raises(Unprocessable) as caught:
        rail.check_account(wrong)
    assert pointer in {problem.pointer for problem in caught.value.problems}
