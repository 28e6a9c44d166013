"""APIv3's envelope: what is not signed by the merchant, now and once, is not even looked at."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.contract.sandbox.wechat_support import BILLS, MCHID, Merchant, bill

from paymaster_sandbox import World


async def test_a_signed_request_gets_a_signed_answer(merchant: Merchant) -> None:
    answer = await merchant.transfer("A1", await merchant.user())
    assert answer.status_code == 200, answer.text
    assert merchant.genuine(answer)
    missing = await merchant.get(f"{BILLS}/out-bill-no/NONE")
    assert (missing.status_code, missing.json()["code"]) == (404, "NOT_FOUND")
    assert merchant.genuine(missing)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"timestamp": "old"}, 401, "SIGN_ERROR"),
        ({"timestamp": "early"}, 401, "SIGN_ERROR"),
        ({"serial": "0" * 40}, 401, "SIGN_ERROR"),
        ({"signature": "c2lnbmF0dXJl"}, 401, "SIGN_ERROR"),
        ({"signature": "not base64"}, 401, "SIGN_ERROR"),
        ({"mchid": "1900000009"}, 500, "SYSTEM_ERROR"),
    ],
)
async def test_wrong_envelopes_are_refused(
    merchant: Merchant, change: dict[str, str], status: int, code: str
) -> None:
    openid = await merchant.user()
    if "timestamp" in change:
        change = {
            "timestamp": str(int(time.time()) + {"old": -301, "early": 310}[change["timestamp"]])
        }
    answer = await merchant.call("POST", BILLS, bill("A1", openid), **change)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await merchant.books())["merchants"][MCHID]["bills"] == {}


async def test_the_signature_covers_the_exact_bytes_and_the_query(merchant: Merchant) -> None:
    openid = await merchant.user()
    body = json.dumps(bill("A1", openid)).encode()
    headers = merchant.headers("POST", BILLS, body)
    spaced = await merchant.http.post(BILLS, content=body + b" ", headers=headers)
    assert spaced.status_code == 401
    detail = spaced.json()["detail"]["sign_information"]
    assert (detail["method"], detail["url"]) == ("POST", BILLS)
    asked = merchant.headers("GET", "/v3/certificates", b"")
    other = await merchant.http.get("/v3/certificates?a=1", headers=asked)
    assert other.status_code == 401


async def test_a_nonce_works_once(merchant: Merchant) -> None:
    headers = merchant.headers("GET", "/v3/certificates", b"")
    assert (await merchant.http.get("/v3/certificates", headers=headers)).status_code == 200
    again = await merchant.http.get("/v3/certificates", headers=headers)
    assert (again.status_code, again.json()["code"]) == (401, "SIGN_ERROR")


async def test_another_key_is_not_the_merchants(merchant: Merchant) -> None:
    merchant.private = rsa.generate_private_key(65537, 2048)
    assert (await merchant.get("/v3/certificates")).status_code == 401


async def test_the_certificates_are_sealed_with_the_merchants_key(merchant: Merchant) -> None:
    answer = await merchant.get("/v3/certificates")
    entries = answer.json()["data"]
    for entry in entries:
        text = merchant.opened(entry["encrypt_certificate"]).decode()
        certificate = x509.load_pem_x509_certificate(text.encode())
        assert f"{certificate.serial_number:040X}" == entry["serial_no"]
        assert merchant.platform[entry["serial_no"]] == text
    assert len(entries) == 1


async def test_a_merchant_with_a_public_key_has_no_certificates(merchant: Merchant) -> None:
    await merchant.register(platform="public-key")
    answer = await merchant.get("/v3/certificates")
    assert (answer.status_code, answer.json()["code"]) == (404, "RESOURCE_NOT_EXISTS")
    assert answer.headers["wechatpay-serial"].startswith("PUB_KEY_ID_")
    assert merchant.genuine(answer)


async def test_the_answer_is_signed_with_the_kind_of_key_that_was_asked_for(
    merchant: Merchant,
) -> None:
    for serial in merchant.platform:
        answer = await merchant.get("/v3/certificates", asks_for=serial)
        assert answer.headers["wechatpay-serial"] == serial
        assert merchant.genuine(answer)
    assert {serial.startswith("PUB_KEY_ID_") for serial in merchant.platform} == {True, False}


async def test_after_a_rotation_the_new_key_signs_and_both_are_listed(merchant: Merchant) -> None:
    before = set(merchant.platform)
    fresh = (await merchant.knob("keys", kind="certificate"))["serial"]
    answer = await merchant.get("/v3/certificates")
    assert answer.headers["wechatpay-serial"] == fresh
    assert not merchant.genuine(answer)
    merchant.platform = (await merchant.read(f"merchants/{MCHID}"))["platform_keys"]
    assert merchant.genuine(answer)
    assert set(merchant.platform) == before | {fresh}
    assert len(answer.json()["data"]) == 2


async def test_a_merchant_registered_again_keeps_its_certificate_and_money(
    merchant: Merchant,
) -> None:
    before = merchant.certificate
    again = await merchant.register(product="batches")
    assert (again["created"], again["certificate"]) == (False, before)
    assert again["balances_fen"]["OPERATION"] == 1_000_000


async def test_a_merchant_from_elsewhere_is_refused(merchant: Merchant) -> None:
    await merchant.register(addresses=["192.0.2.1"])
    answer = await merchant.transfer("A1", await merchant.user())
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("bad_signature", {}),
        ("no_signature", {}),
        ("unknown_serial", {}),
        ("stale", {}),
        ("signtest", {}),
    ],
)
async def test_answers_that_must_not_be_believed_have_still_done_it(
    merchant: Merchant, kind: str, more: dict[str, Any]
) -> None:
    openid = await merchant.user(behaviour="confirm")
    await merchant.mishap("transfer.create", kind, **more)
    answer = await merchant.transfer("A1", openid)
    assert answer.status_code == 200
    assert not merchant.genuine(answer)
    assert await merchant.state("A1") in ("WAIT_USER_CONFIRM", "TRANSFERING", "SUCCESS")


@pytest.mark.parametrize(
    ("kind", "more", "status", "code"),
    [
        ("error_before", {}, 500, "SYSTEM_ERROR"),
        ("error_before", {"number": 502}, 502, "SERVICE_UNAVAILABLE"),
        ("limited_before", {}, 429, "FREQUENCY_LIMITED"),
        ("limited_before", {"text": "RATELIMIT_EXCEEDED"}, 429, "RATELIMIT_EXCEEDED"),
        ("code_before", {}, 400, "NEVER_HEARD_OF"),
        ("error_after", {}, 500, "SYSTEM_ERROR"),
        ("limited_after", {}, 429, "FREQUENCY_LIMITED"),
        ("code_after", {"text": "ODD"}, 400, "ODD"),
        ("lied_no", {}, 400, "PARAM_ERROR"),
        ("lied_short", {}, 403, "NOT_ENOUGH"),
    ],
)
async def test_errors_come_before_or_after_it_was_done(
    merchant: Merchant, kind: str, more: dict[str, Any], status: int, code: str
) -> None:
    openid = await merchant.user()
    await merchant.mishap("transfer.create", kind, **more)
    answer = await merchant.transfer("A1", openid)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert merchant.genuine(answer)
    done = (await merchant.books())["merchants"][MCHID]["bills"]
    assert done == ({} if kind.endswith("before") else {"WAIT_USER_CONFIRM": 1})
    again = await merchant.transfer("A1", openid)
    assert (again.status_code, again.json()["state"]) == (200, "WAIT_USER_CONFIRM")
    books = await merchant.books()
    assert books["merchants"][MCHID]["held_fen"] == 100


async def test_cut_connections(merchant: Merchant) -> None:
    openid = await merchant.user()
    for number, (kind, made) in enumerate((("cut_before", 404), ("cut_after", 200))):
        await merchant.mishap("transfer.*", kind)
        with pytest.raises(httpx.RemoteProtocolError):
            await merchant.transfer(f"A{number}", openid)
        assert (await merchant.get(f"{BILLS}/out-bill-no/A{number}")).status_code == made


async def test_202_says_nothing_and_the_same_request_works_afterwards(merchant: Merchant) -> None:
    openid = await merchant.user()
    for number, kind in enumerate(("accepted_before", "accepted_after")):
        await merchant.mishap("transfer.create", kind)
        first = await merchant.transfer(f"A{number}", openid)
        assert (first.status_code, first.content) == (202, b"")
        assert (await merchant.transfer(f"A{number}", openid)).status_code == 200
    assert (await merchant.books())["merchants"][MCHID]["held_fen"] == 200


async def test_spoilt_and_odd_bodies(merchant: Merchant) -> None:
    openid = await merchant.user()
    for number, kind in enumerate(("truncated", "garbled")):
        await merchant.mishap("transfer.create", kind)
        answer = await merchant.transfer(f"A{number}", openid)
        assert merchant.genuine(answer)
        with pytest.raises((json.JSONDecodeError, UnicodeDecodeError)):
            answer.json()
    for number, kind in enumerate(("reordered", "extra_fields")):
        await merchant.mishap("transfer.create", kind)
        answer = await merchant.transfer(f"B{number}", openid)
        assert merchant.genuine(answer)
        assert answer.json()["state"] == "WAIT_USER_CONFIRM"
        assert ("added_later" in answer.json()) == (kind == "extra_fields")


async def test_slow_answers_have_done_it(merchant: Merchant) -> None:
    openid = await merchant.user()
    await merchant.mishap("transfer.create", "slow", seconds=5)
    with pytest.raises(httpx.ReadTimeout):
        await merchant.http.post(
            BILLS, content=(body := json.dumps(bill("A1", openid)).encode()),
            headers=merchant.headers("POST", BILLS, body), timeout=0.3,
        )  # fmt: skip
    assert await merchant.state("A1") == "WAIT_USER_CONFIRM"


async def test_a_share_of_calls_fails_by_the_seed(merchant: Merchant) -> None:
    openid = await merchant.user()
    await merchant.mishap("transfer.create", "error_before", percent=50, times=None)
    codes = [(await merchant.transfer(f"A{n}", openid)).status_code for n in range(30)]
    assert 5 < codes.count(500) < 25
    await merchant.control.request("DELETE", "/_control/wechat/mishaps")
    assert (await merchant.transfer("LAST", openid)).status_code == 200


async def test_a_wrong_clock_makes_honest_requests_old(merchant: Merchant, world: World) -> None:
    await merchant.knob("settings", clock_skew_seconds=400)
    answer = await merchant.get("/v3/certificates")
    assert (answer.status_code, answer.json()["code"]) == (401, "SIGN_ERROR")
    assert not merchant.genuine(answer)
