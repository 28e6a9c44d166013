"""APIv3: what we sign, what they sign, and what is encrypted either way."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from paymaster.rails import rsa

SCHEME: Final = "WECHATPAY2-SHA256-RSA2048"
PUBLIC_KEY: Final = "PUB_KEY_ID_"
"""How the names of public keys begin; every other name is a certificate's serial number."""

MAX_AGE: Final = timedelta(seconds=300)
"""How far a signed time may be from ours, in the past or in the future."""

_PROBE: Final = "WECHATPAY/SIGNTEST/"
_SHA1 = hashes.SHA1()  # noqa: S303 - the provider's scheme
_OAEP: Final = padding.OAEP(mgf=padding.MGF1(_SHA1), algorithm=_SHA1, label=None)


@dataclass(frozen=True, slots=True)
class Keyring:
    """The provider's public keys by name: of certificates, bare ones, or both at once."""

    keys: Mapping[str, RSAPublicKey] = field(repr=False)

    @property
    def preferred(self) -> str:
        """The key that answers shall be signed with: a bare public key if there is one."""
        return min(self.keys, key=lambda name: not name.startswith(PUBLIC_KEY))

    def genuine(self, serial: str, signature: str, message: bytes) -> bool:
        """Whether this is the signature of that key over these bytes. Their probes never are."""
        key = self.keys.get(serial) or self.keys.get(serial.upper())
        if key is None or signature.startswith(_PROBE):
            return False
        return rsa.genuine(key, signature, message)

    def encrypt(self, words: str) -> str:
        """A personal field, for the preferred key: other bytes every time."""
        return base64.b64encode(self.keys[self.preferred].encrypt(words.encode(), _OAEP)).decode()


@lru_cache(maxsize=16)
def keyring(written: str) -> Keyring:
    """Keys from JSON, `{name: PEM}`. Raises UnusableError."""
    try:
        found: object = json.loads(written)
    except (ValueError, RecursionError):
        raise rsa.UnusableError("it is not JSON") from None
    if not isinstance(found, dict) or not found:
        raise rsa.UnusableError("it is not an object with at least one key")
    keys: dict[str, RSAPublicKey] = {}
    for name, pem in cast("Mapping[str, object]", found).items():
        if not isinstance(pem, str):
            raise rsa.UnusableError(f"{name} is not a text")
        keys[name if name.startswith(PUBLIC_KEY) else name.upper()] = rsa.public_key(pem)
    return Keyring(keys)


def authorization(
    key: RSAPrivateKey, mchid: str, serial: str, method: str, target: str, body: bytes, now: int
) -> str:
    """The header that proves these very bytes are ours. `target` is path and query."""
    nonce = secrets.token_hex(16)
    signature = rsa.sign(key, request_message(method, target, now, nonce, body))
    return (
        f'{SCHEME} mchid="{mchid}",nonce_str="{nonce}",timestamp="{now}",'
        f'serial_no="{serial}",signature="{signature}"'
    )


def request_message(method: str, target: str, now: int, nonce: str, body: bytes) -> bytes:
    """The five lines that a merchant signs."""
    return f"{method}\n{target}\n{now}\n{nonce}\n".encode() + body + b"\n"


def answer_message(timestamp: str, nonce: str, body: bytes) -> bytes:
    """The three lines that the provider signs, in answers and in notices."""
    return f"{timestamp}\n{nonce}\n".encode() + body + b"\n"


def is_fresh(timestamp: str, now: datetime) -> bool:
    """Whether a signed time is near enough to ours."""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 11):
        return False
    return abs(now - datetime.fromtimestamp(int(timestamp), UTC)) < MAX_AGE


def open_sealed(key: str, nonce: str, associated: str, ciphertext: str) -> bytes:
    """AEAD_AES_256_GCM, the tag behind the ciphertext, in base64. Raises UnusableError."""
    try:
        sealed = base64.b64decode(ciphertext, validate=True)
        return AESGCM(key.encode()).decrypt(nonce.encode(), sealed, associated.encode())
    except (InvalidTag, binascii.Error, ValueError):
        raise rsa.UnusableError("it is not encrypted with our APIv3 key") from None
