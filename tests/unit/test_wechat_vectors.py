"""WeChat Pay's signatures and ciphers: the published values, and what must not pass.

The values of the APIv2 digest are those of the provider's documentation. The published vectors of
APIv3 come with keys and certificates that are nobody's to copy: their shape is rebuilt here with
keys made at run time, and signed by other code than the code under test.
"""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric import rsa as keys
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from paymaster.rails import rsa
from paymaster.rails.http import Answer
from paymaster.rails.wechat import crypto, v2
from paymaster.rails.wechat.calls import said
from paymaster.rails.yuan import UnreadableError

NOW = datetime(2026, 3, 1, 4, 0, tzinfo=UTC)
KEY = "192006250b4c09247ec02edce69f6a2d"
FIELDS = {
    "appid": "wxd930ea5d5a258f4f",
    "mch_id": "10000100",
    "device_info": "1000",
    "body": "test",
    "nonce_str": "ibuaiVcKdpRxkhJA",
}


@pytest.fixture(scope="module")
def theirs() -> keys.RSAPrivateKey:
    return keys.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: keys.RSAPrivateKey) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def private_pem(key: keys.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def ring(key: keys.RSAPrivateKey, name: str = "PUB_KEY_ID_01") -> crypto.Keyring:
    return crypto.keyring(json.dumps({name: pem(key)}))


def test_the_published_digests_of_apiv2() -> None:
    assert v2.digest(FIELDS, KEY) == "9A0A8659F005D6984697E2CA0A9CF3B7"
    assert v2.digest(FIELDS, KEY, "HMAC-SHA256") == (
        "6A9AE1657590FD6257D693A078E1C3E4BB6BA4DC30B23E0EE2496E54170DACD6"
    )


def test_empty_fields_and_the_digest_itself_are_not_digested() -> None:
    more = {**FIELDS, "attach": "", "sign": "whatever"}
    assert v2.digest(more, KEY) == v2.digest(FIELDS, KEY)
    assert v2.digest({**FIELDS, "attach": "x"}, KEY) != v2.digest(FIELDS, KEY)


def test_the_signature_of_source_is_one_that_openssl_verifies(
    theirs: keys.RSAPrivateKey, tmp_path: Path
) -> None:
    signature = rsa.sign(theirs, b"source")
    for name, content in (
        ("key.pem", pem(theirs).encode()),
        ("signature", base64.b64decode(signature)),
        ("message", b"source"),
    ):
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "message"],
        cwd=tmp_path, capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "Verified OK"


def test_what_a_merchant_signs() -> None:
    message = crypto.request_message("POST", "/v3/a?b=c", 1554208460, "NONCE", b'{"x":1}')
    assert message == b'POST\n/v3/a?b=c\n1554208460\nNONCE\n{"x":1}\n'
    assert crypto.request_message("GET", "/v3/a", 1, "N", b"") == b"GET\n/v3/a\n1\nN\n\n"
    assert crypto.answer_message("1", "N", b"") == b"1\nN\n\n"


def test_the_header_names_the_very_request(theirs: keys.RSAPrivateKey) -> None:
    header = crypto.authorization(theirs, "1900000001", "AB12", "GET", "/v3/x?y=z", b"", 1700000000)
    scheme, _, rest = header.partition(" ")
    parts = dict(part.split("=", 1) for part in rest.split(","))
    found = {name: value.strip('"') for name, value in parts.items()}
    assert scheme == "WECHATPAY2-SHA256-RSA2048"
    assert (found["mchid"], found["serial_no"]) == ("1900000001", "AB12")
    message = f"GET\n/v3/x?y=z\n1700000000\n{found['nonce_str']}\n\n".encode()
    theirs.public_key().verify(
        base64.b64decode(found["signature"]), message, padding.PKCS1v15(), hashes.SHA256()
    )
    again = crypto.authorization(theirs, "1900000001", "AB12", "GET", "/v3/x?y=z", b"", 1700000000)
    assert again != header, "a nonce was used twice"


def answered(
    key: keys.RSAPrivateKey, body: bytes, name: str = "PUB_KEY_ID_01", at: datetime = NOW
) -> Answer:
    timestamp = str(int(at.timestamp()))
    message = f"{timestamp}\nNONCE\n".encode() + body + b"\n"
    signature = key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    headers = {
        "wechatpay-timestamp": timestamp,
        "wechatpay-nonce": "NONCE",
        "wechatpay-serial": name,
        "wechatpay-signature": base64.b64encode(signature).decode(),
    }
    return Answer(200, headers, body)


def test_an_answer_is_genuine_only_as_it_was_signed(theirs: keys.RSAPrivateKey) -> None:
    sound = answered(theirs, b'{"state":"SUCCESS"}')
    assert said(ring(theirs), sound, NOW).good
    altered = Answer(200, sound.headers, b'{"state": "SUCCESS"}')
    assert not said(ring(theirs), altered, NOW).genuine
    stranger = keys.generate_private_key(public_exponent=65537, key_size=2048)
    assert not said(ring(stranger), sound, NOW).genuine
    unknown = answered(theirs, b"{}", "PUB_KEY_ID_02")
    assert not said(ring(theirs), unknown, NOW).genuine
    unsigned = Answer(200, {}, b'{"state":"SUCCESS"}')
    assert not said(ring(theirs), unsigned, NOW).genuine
    garbage = Answer(200, {**sound.headers, "wechatpay-signature": "no base64!"}, sound.body)
    assert not said(ring(theirs), garbage, NOW).genuine
    accepted = Answer(202, sound.headers, sound.body)
    assert not said(ring(theirs), accepted, NOW).good


@pytest.mark.parametrize(
    ("seconds", "fresh"), [(0, True), (299, True), (-299, True), (300, False), (-300, False)]
)
def test_five_minutes_make_an_answer_old(
    theirs: keys.RSAPrivateKey, seconds: int, *, fresh: bool
) -> None:
    sound = answered(theirs, b"{}")
    assert said(ring(theirs), sound, NOW + timedelta(seconds=seconds)).genuine is fresh


@pytest.mark.parametrize("timestamp", ["", "now", "-1", "9" * 12, "²⁰", "1.5"])
def test_a_time_that_is_none_is_never_fresh(timestamp: str) -> None:
    assert not crypto.is_fresh(timestamp, NOW)


def test_their_probes_must_fail(theirs: keys.RSAPrivateKey) -> None:
    sound = answered(theirs, b"{}")
    probe = "WECHATPAY/SIGNTEST/" + sound.headers["wechatpay-signature"]
    assert not ring(theirs).genuine("PUB_KEY_ID_01", probe, b"1\nN\n\n")


def test_a_keyring_holds_both_kinds_and_prefers_the_bare_key(theirs: keys.RSAPrivateKey) -> None:
    other = keys.generate_private_key(public_exponent=65537, key_size=2048)
    both = crypto.keyring(json.dumps({"5f1a": pem(other), "PUB_KEY_ID_01": pem(theirs)}))
    assert both.preferred == "PUB_KEY_ID_01"
    assert both.genuine("5F1A", rsa.sign(other, b"m"), b"m")
    assert both.genuine("5f1a", rsa.sign(other, b"m"), b"m")
    assert not both.genuine("PUB_KEY_ID_01", rsa.sign(other, b"m"), b"m")


@pytest.mark.parametrize("written", ["", "{}", "[]", "{", '{"a": 1}', '{"a": "-----BEGIN"}'])
def test_a_keyring_that_cannot_be_used_says_so(written: str) -> None:
    with pytest.raises(rsa.UnusableError):
        crypto.keyring(written)


def test_short_keys_are_refused() -> None:
    short = keys.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - that is the point
    with pytest.raises(rsa.UnusableError):
        rsa.public_key(pem(short))
    with pytest.raises(rsa.UnusableError):
        rsa.private_key(private_pem(short))


@pytest.mark.parametrize("associated", ["transaction", ""])
def test_a_sealed_resource_opens_with_our_key_alone(associated: str) -> None:
    key, nonce = secrets.token_hex(16), secrets.token_hex(6)
    sealed = AESGCM(key.encode()).encrypt(nonce.encode(), b"plain", associated.encode())
    written = base64.b64encode(sealed).decode()
    assert crypto.open_sealed(key, nonce, associated, written) == b"plain"
    for wrong in (
        (secrets.token_hex(16), nonce, associated, written),
        (key, secrets.token_hex(6), associated, written),
        (key, nonce, "other", written),
        (key, nonce, associated, written[:-8]),
        (key, nonce, associated, "?"),
    ):
        with pytest.raises(rsa.UnusableError):
            crypto.open_sealed(*wrong)


def test_a_name_is_encrypted_for_the_provider_anew_each_time(theirs: keys.RSAPrivateKey) -> None:
    sha1 = hashes.SHA1()  # noqa: S303 - the provider's scheme
    oaep = padding.OAEP(mgf=padding.MGF1(sha1), algorithm=sha1, label=None)
    first, second = (ring(theirs).encrypt("王小明") for _ in range(2))
    assert first != second
    assert theirs.decrypt(base64.b64decode(first), oaep).decode() == "王小明"


def test_xml_is_written_and_read() -> None:
    fields = {"a": "1 < 2 & 3 > 2", "b": "王小明", "c": "]]>"}
    assert v2.read(v2.write(fields)) == fields
    assert v2.read(b"<xml><a><![CDATA[SUCCESS]]></a><b></b></xml>") == {"a": "SUCCESS", "b": ""}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not XML",
        b"<xml><a>1</a>",
        b"<xml><a>1</a><a>2</a></xml>",
        b"<xml><a><b>1</b></a></xml>",
        b'<!DOCTYPE xml SYSTEM "file:///etc/hostname"><xml><a>1</a></xml>',
        b'<!DOCTYPE xml [<!ENTITY e "x">]><xml><a>&e;</a></xml>',
        b"<xml><a>&unknown;</a></xml>",
        b"<xml>" + b"".join(b"<f%d>1</f%d>" % (n, n) for n in range(201)) + b"</xml>",
        b"<xml><a>" + b"x" * 300_000 + b"</a></xml>",
    ],
)
def test_xml_that_is_not_theirs_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableError):
        v2.read(body)
