"""The old transfers: client certificate, MD5, XML; ambiguous answers mean the same number again."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
from tests.contract.sandbox.support import eventually
from tests.contract.sandbox.wechat_support import APPID, MCHID, Merchant, clock

from paymaster_sandbox import World

PAY = "/mmpaymkttransfers/promotion/transfers"
ASK = "/mmpaymkttransfers/gettransferinfo"
DAY = 86_400
Post = Callable[..., Awaitable[dict[str, str]]]


def message(fields: dict[str, str]) -> bytes:
    return (
        "<xml>" + "".join(f"<{k}><![CDATA[{v}]]></{k}>" for k, v in fields.items()) + "</xml>"
    ).encode()


def read(body: bytes) -> dict[str, str]:
    return {child.tag: child.text or "" for child in etree.fromstring(body)}


def trusting(world: World, merchant: Merchant | None, folder: Path) -> ssl.SSLContext:
    """A client's side of TLS, with the merchant's certificate or without one."""
    context = ssl.create_default_context(cadata=world.wechat_tls_ca)
    if merchant is not None:
        key = merchant.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        identity = folder / f"{merchant.mchid}.pem"
        identity.write_bytes(key + merchant.certificate.encode())
        context.load_cert_chain(identity)
    return context


@pytest.fixture
async def old(
    merchant: Merchant, world: World, tmp_path: Path
) -> AsyncGenerator[httpx.AsyncClient]:
    """The merchant on the old product, and a client that shows its certificate."""
    await merchant.register(product="transfers-v2")
    context = trusting(world, merchant, tmp_path)
    async with httpx.AsyncClient(
        base_url=world.wechat_tls_url, verify=context, trust_env=False
    ) as client:
        yield client


def order(
    merchant: Merchant, number: str, openid: str, fen: int = 100, **more: str
) -> dict[str, str]:
    fields = {
        "mch_appid": APPID, "mchid": merchant.mchid, "nonce_str": secrets.token_hex(16),
        "partner_trade_no": number, "openid": openid, "check_name": "NO_CHECK",
        "amount": str(fen), "desc": "活动奖励", "spbill_create_ip": "127.0.0.1", **more,
    }  # fmt: skip
    return {**fields, "sign": merchant.digest(fields)}


def question(merchant: Merchant, number: str) -> dict[str, str]:
    fields = {
        "appid": APPID, "mch_id": merchant.mchid, "nonce_str": secrets.token_hex(16),
        "partner_trade_no": number,
    }  # fmt: skip
    return {**fields, "sign": merchant.digest(fields)}


async def post(client: httpx.AsyncClient, path: str, fields: dict[str, str]) -> dict[str, str]:
    answer = await client.post(path, content=message(fields))
    assert answer.status_code == 200
    return read(answer.content)


async def test_paid_at_once_and_only_once(old: httpx.AsyncClient, merchant: Merchant) -> None:
    openid = await merchant.user()
    first = await post(old, PAY, order(merchant, "T1", openid))
    assert (first["return_code"], first["result_code"]) == ("SUCCESS", "SUCCESS")
    assert first["partner_trade_no"] == "T1"
    assert "sign" not in first
    again = await post(old, PAY, order(merchant, "T1", openid))
    assert (again["payment_no"], again["payment_time"]) == (
        first["payment_no"], first["payment_time"],
    )  # fmt: skip
    found = await post(old, ASK, question(merchant, "T1"))
    assert (found["status"], found["detail_id"], found["payment_amount"]) == (
        "SUCCESS", first["payment_no"], "100",
    )  # fmt: skip
    books = await merchant.books()
    assert books["references"] == {"T1": 1}
    assert books["merchants"][MCHID]["OPERATION_fen"] == 999_900


async def test_other_parameters_are_fatal(old: httpx.AsyncClient, merchant: Merchant) -> None:
    openid = await merchant.user()
    await post(old, PAY, order(merchant, "T1", openid))
    answer = await post(old, PAY, order(merchant, "T1", openid, 101))
    assert (answer["result_code"], answer["err_code"]) == ("FAIL", "FATAL_ERROR")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"partner_trade_no": "T-1"}, "PARAM_ERROR"),
        ({"openid": "oNOBODY"}, "OPENID_ERROR"),
        ({"check_name": "MAYBE"}, "PARAM_ERROR"),
        ({"check_name": "FORCE_CHECK"}, "PARAM_ERROR"),
        ({"check_name": "FORCE_CHECK", "re_user_name": "王五"}, "NAME_MISMATCH"),
        ({"amount": "9"}, "AMOUNT_LIMIT"),
        ({"amount": "1.00"}, "PARAM_ERROR"),
        ({"amount": "1000001"}, "NOTENOUGH"),
        ({"mch_appid": "wxffffffffffffffff"}, "PARAM_ERROR"),
        ({"sign_type": "HMAC-SHA256"}, "SIGN_ERROR"),
    ],
)
async def test_refusals_pay_nothing(
    old: httpx.AsyncClient, merchant: Merchant, more: dict[str, str], code: str
) -> None:
    openid = await merchant.user()
    given: dict[str, Any] = {"openid": openid, **more}
    answer = await post(old, PAY, order(merchant, "T1", **given))
    assert (answer["result_code"], answer["err_code"]) == ("FAIL", code)
    assert (await merchant.books())["references"] == {}
    good = await post(old, PAY, order(merchant, "T1", openid))
    assert good["result_code"] == "SUCCESS"


async def test_a_fate_is_used_up_by_the_refusal(old: httpx.AsyncClient, merchant: Merchant) -> None:
    openid = await merchant.user()
    body = {"payee": openid, "outcome": "fail", "code": "ACCOUNT_FROZEN"}
    assert (await merchant.control.post("/_control/oracle", json=body)).is_success
    refused = await post(old, PAY, order(merchant, "T1", openid))
    assert refused["err_code"] == "ACCOUNT_FROZEN"
    assert (await post(old, PAY, order(merchant, "T1", openid)))["result_code"] == "SUCCESS"


async def test_the_right_name_is_paid(old: httpx.AsyncClient, merchant: Merchant) -> None:
    openid = await merchant.user()
    fields = order(merchant, "T1", openid, check_name="FORCE_CHECK", re_user_name="张三")
    assert (await post(old, PAY, fields))["result_code"] == "SUCCESS"
    assert (await post(old, ASK, question(merchant, "T1")))["transfer_name"] == "张三"


async def test_wrong_signs_and_wrong_xml(old: httpx.AsyncClient, merchant: Merchant) -> None:
    openid = await merchant.user()
    wrong = {**order(merchant, "T1", openid), "amount": "200"}
    assert (await post(old, PAY, wrong))["err_code"] == "SIGN_ERROR"
    good = message(order(merchant, "T1", openid)).decode()
    entity = '<!DOCTYPE xml [<!ENTITY a "T1">]>'
    for body in (
        "<xml><a>",
        "<a/>",
        "{}",
        entity + good,
        good.replace("<xml>", "<xml><b><c/></b>"),
    ):
        answer = await old.post(PAY, content=body.encode())
        assert read(answer.content)["err_code"] == "XML_ERROR"
    assert (await merchant.books())["references"] == {}


async def test_without_a_certificate_nothing_is_answered(
    old: httpx.AsyncClient, merchant: Merchant, world: World, tmp_path: Path
) -> None:
    openid = await merchant.user()
    fields = order(merchant, "T1", openid)
    context = trusting(world, None, tmp_path)
    async with httpx.AsyncClient(
        base_url=world.wechat_tls_url, verify=context, trust_env=False
    ) as bare:
        with pytest.raises(httpx.TransportError):
            await bare.post(PAY, content=message(fields))
    assert (await post(merchant.http, PAY, fields))["err_code"] == "CA_ERROR"


async def test_another_merchants_certificate_is_refused(
    old: httpx.AsyncClient, merchant: Merchant, world: World, tmp_path: Path
) -> None:
    openid = await merchant.user()
    other = Merchant(merchant.http, merchant.control, merchant.private, "1900000002")
    await other.register(product="transfers-v2")
    context = trusting(world, other, tmp_path)
    async with httpx.AsyncClient(
        base_url=world.wechat_tls_url, verify=context, trust_env=False
    ) as client:
        answer = await post(client, PAY, order(merchant, "T1", openid))
    assert answer["err_code"] == "CA_ERROR"


async def test_systemerror_then_the_same_number(old: httpx.AsyncClient, merchant: Merchant) -> None:
    openid = await merchant.user()
    await merchant.mishap("enterprise.pay", "error_after")
    await merchant.mishap("enterprise.pay", "code_before", text="ODD_CODE")
    for code in ("SYSTEMERROR", "ODD_CODE"):
        answer = await post(old, PAY, order(merchant, "T1", openid))
        assert (answer["result_code"], answer["err_code"]) == ("FAIL", code)
    assert (await post(old, PAY, order(merchant, "T1", openid)))["result_code"] == "SUCCESS"
    assert (await merchant.books())["references"] == {"T1": 1}


async def test_spoilt_answers(old: httpx.AsyncClient, merchant: Merchant) -> None:
    openid = await merchant.user()
    await merchant.mishap("enterprise.pay", "error_after", number=502)
    answer = await old.post(PAY, content=message(order(merchant, "T1", openid)))
    assert answer.status_code == 502
    await merchant.mishap("enterprise.pay", "truncated")
    answer = await old.post(PAY, content=message(order(merchant, "T2", openid)))
    with pytest.raises(etree.XMLSyntaxError):
        read(answer.content)
    await merchant.mishap("enterprise.pay", "cut_after")
    with pytest.raises(httpx.RemoteProtocolError):
        await old.post(PAY, content=message(order(merchant, "T3", openid)))
    assert (await merchant.books())["references"] == {"T1": 1, "T2": 1, "T3": 1}


async def test_slow_payments_end_late(
    old: httpx.AsyncClient, merchant: Merchant, world: World
) -> None:
    await merchant.knob("settings", paid_seconds=600)
    openid = await merchant.user()
    answer = await post(old, PAY, order(merchant, "T1", openid))
    assert answer["err_code"] == "SYSTEMERROR"
    found = await post(old, ASK, question(merchant, "T1"))
    assert (found["status"], found.get("payment_time")) == ("PROCESSING", None)
    await merchant.user(real_name=None)
    await clock(world, 601)

    async def failed() -> bool:
        return (await post(old, ASK, question(merchant, "T1")))["status"] == "FAILED"

    await eventually(failed)
    found = await post(old, ASK, question(merchant, "T1"))
    assert found["reason"] == "V2_ACCOUNT_SIMPLE_BAN"
    assert (await merchant.books())["merchants"][MCHID]["OPERATION_fen"] == 1_000_000


async def test_the_windows_of_a_number(
    old: httpx.AsyncClient, merchant: Merchant, world: World
) -> None:
    openid = await merchant.user()
    await post(old, PAY, order(merchant, "T1", openid))
    await clock(world, 2 * DAY)
    assert (await post(old, PAY, order(merchant, "T1", openid)))["result_code"] == "SUCCESS"
    await clock(world, 2 * DAY)
    assert (await post(old, PAY, order(merchant, "T1", openid)))["err_code"] == "SEND_FAILED"
    assert (await post(old, ASK, question(merchant, "T1")))["status"] == "SUCCESS"
    await clock(world, 27 * DAY)
    assert (await post(old, ASK, question(merchant, "T1")))["err_code"] == "NOT_FOUND"
    await clock(world, 335 * DAY)
    assert (await post(old, PAY, order(merchant, "T1", openid)))["result_code"] == "SUCCESS"
    assert (await merchant.books())["duplicates"] == ["T1"]


async def test_the_query_lags_and_too_quick_repeats_are_refused(
    old: httpx.AsyncClient, merchant: Merchant
) -> None:
    await merchant.knob("settings", not_found_lag_seconds=60, retry_interval_seconds=1)
    openid = await merchant.user()
    await post(old, PAY, order(merchant, "T1", openid))
    assert (await post(old, ASK, question(merchant, "T1")))["err_code"] == "NOT_FOUND"
    assert (await post(old, PAY, order(merchant, "T1", openid)))["err_code"] == "FREQ_LIMIT"


async def test_merchants_of_the_new_product_may_not(
    old: httpx.AsyncClient, merchant: Merchant
) -> None:
    openid = await merchant.user()
    await merchant.register(product="transfer-bills")
    answer = await post(old, PAY, order(merchant, "T1", openid))
    assert answer["err_code"] == "NO_AUTH"
