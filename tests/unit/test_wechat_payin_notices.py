"""WeChat pay-in without a provider: digests, what is signed for payers, notices of APIv2."""

from __future__ import annotations

import base64
import hashlib
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import replace

import pytest
from tests.contract.support import deps
from tests.unit.test_wechat_payin import ACCOUNT, APPID, BACK, MCHID, NOW, OLD, OURS, old
from tests.unit.test_wechat_vectors import FIELDS, KEY

from paymaster.kernel.errors import Refusal, Unauthenticated
from paymaster.rails import rsa
from paymaster.rails.deps import RailDeps
from paymaster.rails.payin import RefundOutcome, RefundVerdict
from paymaster.rails.wechat import payin_checkout, payin_notices, payin_old, payin_wire, v2

APIV2_KEY = secrets.token_hex(16)


def test_the_published_digests_prove_a_message() -> None:
    for method, sign in (
        ("MD5", "9A0A8659F005D6984697E2CA0A9CF3B7"),
        ("HMAC-SHA256", "6A9AE1657590FD6257D693A078E1C3E4BB6BA4DC30B23E0EE2496E54170DACD6"),
    ):
        assert payin_old.genuine({**FIELDS, "sign": sign}, KEY, method)
        assert not payin_old.genuine({**FIELDS, "sign": sign.lower()}, KEY, method)
        assert not payin_old.genuine({**FIELDS, "sign": sign, "body": "tesu"}, KEY, method)
        assert not payin_old.genuine({**FIELDS, "sign": sign, "added": "1"}, KEY, method)
        assert not payin_old.genuine({**FIELDS, "sign": "é"}, KEY, method)
    assert not payin_old.genuine(FIELDS, KEY, "MD5")


def test_what_is_signed_for_the_payers_side() -> None:
    script = payin_checkout.script_message(APPID, "1414561699", "NONCE", "prepay_id=wx2014")
    assert script == f"{APPID}\n1414561699\nNONCE\nprepay_id=wx2014\n".encode()
    app = payin_checkout.app_message(APPID, "1414561699", "NONCE", "wx2014")
    assert app == f"{APPID}\n1414561699\nNONCE\nwx2014\n".encode()


def hidden(plain: bytes, key: str) -> str:
    """What OpenSSL makes of it, as the provider describes it: no code of ours."""
    secret = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest().encode().hex()
    done = subprocess.run(
        ["openssl", "enc", "-aes-256-ecb", "-K", secret], input=plain, capture_output=True,
        check=True,
    )  # fmt: skip
    return base64.b64encode(done.stdout).decode()


def told_of_refund(key: str = APIV2_KEY, **change: str) -> bytes:
    inner = {
        "out_trade_no": OURS, "out_refund_no": BACK, "refund_id": "50", "refund_fee": "400",
        "refund_status": "SUCCESS", "total_fee": "1000",
    }  # fmt: skip
    plain = v2.write(inner).replace(b"xml>", b"root>")
    outer = {"return_code": "SUCCESS", "appid": APPID, "mch_id": MCHID, "nonce_str": "n"}
    return v2.write({**outer, "req_info": hidden(plain, key), **change})


def with_key(secret: str = APIV2_KEY) -> RailDeps:
    return replace(deps(), secret=lambda _: secret)


def test_an_old_refund_notice_opens_and_proves_nothing() -> None:
    (said,) = payin_notices.read(with_key(), OLD, {}, told_of_refund(), NOW)
    assert isinstance(said.about, RefundOutcome)
    assert (said.about.key, said.about.verdict) == (BACK, RefundVerdict.UNKNOWN)
    assert said.about.provider_id == "50"
    assert said.event_id == "refund-50-SUCCESS"


@pytest.mark.parametrize("req_info", ["", "?", "AAAA", base64.b64encode(b"x" * 32).decode()])
def test_what_does_not_open_is_not_theirs(req_info: str) -> None:
    with pytest.raises(Unauthenticated):
        payin_notices.read(with_key(), OLD, {}, told_of_refund(req_info=req_info), NOW)
    with pytest.raises(rsa.UnusableError):
        payin_notices.opened(req_info, APIV2_KEY)


def test_another_key_or_merchant_does_not_open_it() -> None:
    with pytest.raises(Unauthenticated):
        payin_notices.read(with_key(), OLD, {}, told_of_refund(secrets.token_hex(16)), NOW)
    with pytest.raises(Refusal) as caught:
        payin_notices.read(with_key(), OLD, {}, told_of_refund(mch_id="1900000002"), NOW)
    assert caught.value.slug == "webhook-malformed"


def signed(fields: Mapping[str, str], method: str = "HMAC-SHA256") -> bytes:
    return v2.write({**fields, "sign": v2.digest(fields, APIV2_KEY, method)})


def test_an_old_payment_notice() -> None:
    fields = {**old(), "return_code": "SUCCESS", "result_code": "SUCCESS", "newer": "field"}
    (said,) = payin_notices.read(with_key(), OLD, {}, signed(fields), NOW)
    assert said.about == payin_wire.old_transaction(old(), OLD, "SUCCESS")
    assert said.event_id == "pay-42"
    failed = {**fields, "result_code": "FAIL"}
    assert not payin_notices.read(with_key(), OLD, {}, signed(failed), NOW)
    for body in (signed(fields, "MD5"), v2.write(fields), signed({**fields, "total_fee": "1"})):
        replaced = body.replace(b"<total_fee>1<", b"<total_fee>1000<")
        with pytest.raises(Unauthenticated):
            payin_notices.read(with_key(), OLD, {}, replaced, NOW)


@pytest.mark.parametrize("body", [b"", b"{}", b"<xml>", b"<xml><a>1</a><a>1</a></xml>"])
def test_an_old_notice_that_is_none_is_malformed(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        payin_notices.read(with_key(), OLD, {}, body, NOW)
    assert caught.value.slug == "webhook-malformed"
    with pytest.raises(Refusal):
        payin_notices.read(with_key(), OLD, {}, b"<xml>" + b" " * 70_000 + b"</xml>", NOW)


def test_a_notice_without_a_key_to_prove_it_is_refused() -> None:
    def missing(_: str) -> str:
        raise LookupError

    nothing = replace(deps(), secret=missing)
    for account in (ACCOUNT, OLD):
        with pytest.raises(Unauthenticated):
            payin_notices.read(nothing, account, {}, signed(old()), NOW)
