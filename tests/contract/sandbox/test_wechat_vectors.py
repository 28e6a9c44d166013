"""The sandbox's own crypto against a published vector, and against itself the other way round."""

from __future__ import annotations

import base64
import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.contract.sandbox.wechat_support import OAEP

from paymaster_sandbox.wechat import crypto, xml

PUBLISHED = {
    "appid": "wxd930ea5d5a258f4f", "mch_id": "10000100", "device_info": "1000", "body": "test",
    "nonce_str": "ibuaiVcKdpRxkhJA",
}  # fmt: skip
PUBLISHED_KEY = "192006250b4c09247ec02edce69f6a2d"


@pytest.mark.parametrize(
    ("method", "sign"),
    [
        ("MD5", "9A0A8659F005D6984697E2CA0A9CF3B7"),
        ("HMAC-SHA256", "6A9AE1657590FD6257D693A078E1C3E4BB6BA4DC30B23E0EE2496E54170DACD6"),
    ],
)
def test_the_published_signs_of_apiv2(method: str, sign: str) -> None:
    assert crypto.digest(PUBLISHED, PUBLISHED_KEY, method) == sign
    ignored = {**PUBLISHED, "sign": "anything", "attach": ""}
    assert crypto.digest(ignored, PUBLISHED_KEY, method) == sign
    assert crypto.digest({**PUBLISHED, "body": "tesu"}, PUBLISHED_KEY, method) != sign


def test_fields_and_resources_open_again() -> None:
    private = rsa.generate_private_key(65537, 2048)
    sealed = private.public_key().encrypt("张三".encode(), OAEP)
    assert crypto.decrypt_field(private, base64.b64encode(sealed).decode()) == "张三"
    other = rsa.generate_private_key(65537, 2048)
    assert crypto.decrypt_field(other, base64.b64encode(sealed).decode()) is None
    assert crypto.decrypt_field(private, "not base64!") is None
    key = secrets.token_hex(16)
    ciphertext = base64.b64decode(crypto.seal(key, "0123456789ab", "note", b"plain"))
    opened = AESGCM(key.encode()).decrypt(b"0123456789ab", ciphertext, b"note")
    assert opened == b"plain"


def test_a_signature_is_over_exactly_these_bytes() -> None:
    private = rsa.generate_private_key(65537, 2048)
    message = crypto.request_message("POST", "/v3/a?b=c", "1", "n", b"{}")
    assert message == b"POST\n/v3/a?b=c\n1\nn\n{}\n"
    assert crypto.answer_message("1", "n", b"") == b"1\nn\n\n"
    signature = crypto.sign(private, message)
    assert crypto.verifies(private.public_key(), message, signature)
    assert not crypto.verifies(private.public_key(), message + b" ", signature)
    assert not crypto.verifies(private.public_key(), message, "?")


def test_texts_survive_xml() -> None:
    fields = {"a": "x ]]> & <b>", "b": "", "c": "张三"}
    assert xml.read(xml.write(fields)) == fields
