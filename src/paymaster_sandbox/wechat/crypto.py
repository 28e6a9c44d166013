"""The provider's side of every signature and cipher, and nothing of a merchant's private half."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import padding as block_padding
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def sign(private: rsa.RSAPrivateKey, message: bytes) -> str:
    """SHA256withRSA in base64."""
    return base64.b64encode(private.sign(message, padding.PKCS1v15(), hashes.SHA256())).decode()


def verifies(public: rsa.RSAPublicKey, message: bytes, signature: str) -> bool:
    """Whether the signature is that key's over those bytes."""
    try:
        raw = base64.b64decode(signature, validate=True)
        public.verify(raw, message, padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, binascii.Error):
        return False
    return True


def request_message(method: str, target: str, timestamp: str, nonce: str, body: bytes) -> bytes:
    """What a merchant signs: five lines, the last one the raw body."""
    return f"{method}\n{target}\n{timestamp}\n{nonce}\n".encode() + body + b"\n"


def answer_message(timestamp: str, nonce: str, body: bytes) -> bytes:
    """What the provider signs in answers and notices."""
    return f"{timestamp}\n{nonce}\n".encode() + body + b"\n"


def seal(key: str, nonce: str, associated: str, plain: bytes) -> str:
    """AEAD_AES_256_GCM, the tag behind the ciphertext, in base64."""
    sealed = AESGCM(key.encode()).encrypt(nonce.encode(), plain, associated.encode())
    return base64.b64encode(sealed).decode()


def decrypt_field(private: rsa.RSAPrivateKey, text: str) -> str | None:
    """A sensitive field: RSA-OAEP with SHA-1. None if it was not encrypted for this key."""
    try:
        return private.decrypt(base64.b64decode(text, validate=True), _oaep()).decode()
    except (ValueError, binascii.Error):
        return None


def encrypt_field(public: rsa.RSAPublicKey, text: str) -> str:
    """A sensitive field of an answer, for the merchant's key."""
    return base64.b64encode(public.encrypt(text.encode(), _oaep())).decode()


def _oaep() -> padding.OAEP:
    """The provider's own scheme, SHA-1 included."""
    return padding.OAEP(
        mgf=padding.MGF1(hashes.SHA1()),  # noqa: S303
        algorithm=hashes.SHA1(),  # noqa: S303
        label=None,
    )


def digest(fields: Mapping[str, str], key: str, method: str) -> str:
    """The sign of APIv2 over every filled field but `sign` itself; `MD5` or `HMAC-SHA256`."""
    filled = sorted((name, text) for name, text in fields.items() if text and name != "sign")
    message = "&".join([f"{name}={text}" for name, text in filled] + [f"key={key}"]).encode()
    if method == "HMAC-SHA256":
        return hmac.new(key.encode(), message, hashlib.sha256).hexdigest().upper()
    return hashlib.md5(message, usedforsecurity=False).hexdigest().upper()


def seal_refund(key: str, plain: bytes) -> str:
    """`req_info` of an APIv2 refund notice: AES-256-ECB under the hex MD5 of the key."""
    secret = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest().encode()
    padder = block_padding.PKCS7(128).padder()
    padded = padder.update(plain) + padder.finalize()
    cipher = Cipher(algorithms.AES(secret), modes.ECB()).encryptor()  # noqa: S305 - theirs
    return base64.b64encode(cipher.update(padded) + cipher.finalize()).decode()
