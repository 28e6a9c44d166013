"""Alipay's serial numbers and signatures: what is hashed and signed, and what must not pass.

The published serial numbers and the signed answer belong to certificates and long texts that are
not part of this project; the rules are tried here on certificates made at run time, with the text
that is hashed written out, and signed by other code than the code under test.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric import rsa as keys
from cryptography.x509.oid import NameOID

from paymaster.rails import rsa
from paymaster.rails.alipay import calls
from paymaster.rails.alipay.certificates import Keyring, app_serial, keyring, root_serial
from paymaster.rails.http import Answer

NOW = datetime(2026, 3, 1, 4, 0, tzinfo=UTC)
ISSUER = (
    (NameOID.COUNTRY_NAME, "CN"),
    (NameOID.ORGANIZATION_NAME, "Made Up Issuer"),
    (NameOID.ORGANIZATIONAL_UNIT_NAME, "Certification Authority"),
    (NameOID.COMMON_NAME, "Made Up Class 2 R1"),
)
ISSUER_TEXT = "CN=Made Up Class 2 R1,OU=Certification Authority,O=Made Up Issuer,C=CN"


def certificate(
    number: int, key: keys.RSAPrivateKey | ec.EllipticCurvePrivateKey
) -> tuple[str, str]:
    """A certificate in PEM, and the number that it must have."""
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in ISSUER])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(number)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    wanted = hashlib.md5(f"{ISSUER_TEXT}{number}".encode(), usedforsecurity=False).hexdigest()
    return made.public_bytes(serialization.Encoding.PEM).decode(), wanted


@pytest.fixture(scope="module")
def theirs() -> keys.RSAPrivateKey:
    return keys.generate_private_key(public_exponent=65537, key_size=2048)


def signature(key: keys.RSAPrivateKey, message: bytes) -> str:
    return base64.b64encode(key.sign(message, padding.PKCS1v15(), hashes.SHA256())).decode()


def test_the_number_is_over_the_issuer_backwards_and_the_decimal_serial(
    theirs: keys.RSAPrivateKey,
) -> None:
    pem, wanted = certificate(0x20_16_07_31_00_01, theirs)
    assert app_serial(pem) == wanted


def test_the_roots_number_leaves_out_what_is_not_rsa(theirs: keys.RSAPrivateKey) -> None:
    first, one = certificate(1, theirs)
    other, _ = certificate(2, ec.generate_private_key(ec.SECP256R1()))
    last, three = certificate(3, theirs)
    assert root_serial(f"{first}\n{other}\n{last}") == f"{one}_{three}"
    with pytest.raises(rsa.UnusableError):
        root_serial(other)


def test_a_keyring_is_a_list_or_named(theirs: keys.RSAPrivateKey) -> None:
    pem, number = certificate(7, theirs)
    message = signature(theirs, b"m")
    for written in (json.dumps([pem]), json.dumps({number: pem})):
        found = keyring(written)
        assert found.genuine(number, message, b"m")
        assert found.genuine_by_any(message, b"m")
        assert not found.genuine("another", message, b"m")
        assert not found.genuine_by_any(message, b"n")
    for wrong in ("", "[]", "{}", "1", "[1]", '["-----BEGIN CERTIFICATE-----"]'):
        with pytest.raises(rsa.UnusableError):
            keyring(wrong)


def test_what_a_request_signs() -> None:
    message = calls.request_message("app_id=1,nonce=2", "POST", "/v3/alipay/a?b=c", b'{"x":1}')
    assert message == b'app_id=1,nonce=2\nPOST\n/v3/alipay/a?b=c\n{"x":1}\n'
    params = {"b": "2", "a": "1", "empty": "", "sign": "s", "sign_type": "RSA2"}
    assert calls.canonical(params, frozenset({"sign"})) == "a=1&b=2&sign_type=RSA2"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (calls.TRANSFER, "/v3/alipay/fund/trans/uni/transfer"),
        (calls.QUERY, "/v3/alipay/fund/trans/common/query"),
        (calls.ACCOUNT_LOG, "/v3/alipay/data/bill/accountlog/query"),
    ],
)
def test_where_the_methods_are(method: calls.Method, path: str) -> None:
    assert method.path == path


def rest(ring: Keyring, key: keys.RSAPrivateKey, body: bytes, at: datetime = NOW) -> calls.Said:
    stamp = str(int(at.timestamp()) * 1000)
    signed = signature(key, f"{stamp}\nNONCE\n".encode() + body + b"\n")
    headers = {
        "alipay-timestamp": stamp, "alipay-nonce": "NONCE", "alipay-sn": "sn",
        "alipay-signature": signed,
    }  # fmt: skip
    return calls.read_rest(ring, Answer(200, headers, body), NOW)


def test_an_answer_is_genuine_only_as_it_was_signed(theirs: keys.RSAPrivateKey) -> None:
    ring = Keyring({"sn": theirs.public_key()})
    assert rest(ring, theirs, b'{"status":"SUCCESS"}').done
    stranger = keys.generate_private_key(public_exponent=65537, key_size=2048)
    assert not rest(ring, stranger, b'{"status":"SUCCESS"}').genuine
    assert not rest(Keyring({"other": theirs.public_key()}), theirs, b"{}").genuine
    assert not rest(ring, theirs, b'{"a":1}', NOW - timedelta(seconds=300)).genuine
    assert not rest(ring, theirs, b"[]").done
    assert not calls.read_rest(ring, Answer(200, {}, b'{"status":"SUCCESS"}'), NOW).genuine


def gateway(ring: Keyring, inner: str, key: keys.RSAPrivateKey, **more: str) -> calls.Said:
    members = {"alipay_fund_trans_uni_transfer_response": inner}
    signed = signature(key, more.pop("over", inner).encode())
    members |= {"alipay_cert_sn": '"sn"', "sign": json.dumps(signed)} | more
    body = "{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}"
    return calls.read_gateway(ring, Answer(200, {}, body.encode()), calls.TRANSFER.name)


def test_the_gateways_signature_is_over_the_characters_as_they_stand(
    theirs: keys.RSAPrivateKey,
) -> None:
    ring = Keyring({"sn": theirs.public_key()})
    inner = (
        '{"code":"10000", "url":"https:\\/\\/x\\/", '
        '"deep":{"a":["}",{"sign":"\\""}]}, "u":"\\u738b"}'
    )
    sound = gateway(ring, inner, theirs)
    assert sound.done
    assert sound.found["url"] == "https://x/"
    rewritten = json.dumps(json.loads(inner), separators=(",", ":"))
    assert not gateway(ring, inner, theirs, over=rewritten).genuine
    assert not gateway(ring, inner.replace("10000", "10001"), theirs, over=inner).genuine
    assert not gateway(ring, inner, theirs, alipay_cert_sn='"another"').done
    assert not gateway(ring, inner, theirs, sign="null").done


def test_the_gateways_errors_have_one_spelling(theirs: keys.RSAPrivateKey) -> None:
    ring = Keyring({"sn": theirs.public_key()})
    inner = '{"code":"40002","sub_code":"isv.invalid-signature"}'
    found = gateway(ring, inner, theirs)
    assert (found.status, found.code, found.done) == (400, "INVALID_SIGNATURE", False)
    down = gateway(ring, '{"code":"20000","sub_code":"isp.unknow-error"}', theirs)
    assert (down.status, down.code) == (503, "UNKNOW_ERROR")
    assert calls.spelled("PAYEE_NOT_EXIST") == "PAYEE_NOT_EXIST"
    assert calls.spelled("ACQ.TRADE_NOT_EXIST") == "ACQ.TRADE_NOT_EXIST"


@pytest.mark.parametrize(
    "written",
    [
        "",
        "[]",
        "{",
        '{"a":1',
        '{"a":1}x',
        '{"a":1,"a":2}',
        '{"a":1,}',
        '{"a" 1}',
        "{a:1}",
        '{"a":}',
        '{"a":1 2}',
    ],
)
def test_what_is_no_whole_object_has_no_pieces(written: str) -> None:
    with pytest.raises(ValueError, match=r"it|something|[Ee]xpect"):
        calls.pieces(written)


def test_pieces_are_cut_out_as_they_stand() -> None:
    assert calls.pieces(' { "a" : {"x": [1, 2]} , "b":"\\/" } ') == {
        "a": '{"x": [1, 2]}', "b": '"\\/"',
    }  # fmt: skip
    assert calls.pieces("{}") == {}
