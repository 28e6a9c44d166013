"""What is signed with RSA2, on the gateway and on the new interface."""

import base64
import binascii
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def sign(key: rsa.RSAPrivateKey, message: bytes) -> str:
    """The signature as base64."""
    return base64.b64encode(key.sign(message, padding.PKCS1v15(), hashes.SHA256())).decode()


def verifies(key: rsa.RSAPublicKey, message: bytes, signature: str) -> bool:
    """Whether the base64 signature is the key's over the message."""
    try:
        key.verify(
            base64.b64decode(signature, validate=True), message, padding.PKCS1v15(), hashes.SHA256()
        )
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def canonical(values: Mapping[str, str], *, without: frozenset[str]) -> str:
    """The parameters that have a value, in order, as `name=value` joined with `&`."""
    return "&".join(
        f"{name}={values[name]}" for name in sorted(values) if values[name] and name not in without
    )


def request_message(auth: str, method: str, uri: str, body: bytes, token: str) -> bytes:
    """What a request to the new interface signs."""
    head = f"{auth}\n{method}\n{uri}\n".encode()
    return head + body + b"\n" + (f"{token}\n".encode() if token else b"")


def answer_message(timestamp: str, nonce: str, body: bytes) -> bytes:
    """What an answer of the new interface signs."""
    return f"{timestamp}\n{nonce}\n".encode() + body + b"\n"
