"""RSA signatures as payment providers use them: SHA-256, PKCS #1 v1.5, base64."""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

LEAST_BITS = 2048


class UnusableError(ValueError):
    """A key or certificate that cannot be used."""


@lru_cache(maxsize=32)
def private_key(pem: str) -> RSAPrivateKey:
    """Our key. Raises UnusableError."""
    try:
        found = serialization.load_pem_private_key(pem.strip().encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UnusableError("it is no private key in PEM without a password") from None
    if not isinstance(found, RSAPrivateKey) or found.key_size < LEAST_BITS:
        raise UnusableError(f"it is no RSA key of at least {LEAST_BITS} bits")
    return found


def public_key(pem: str) -> RSAPublicKey:
    """The key in a certificate, or a bare one. Raises UnusableError."""
    try:
        if "BEGIN CERTIFICATE" in pem:
            found = x509.load_pem_x509_certificate(pem.strip().encode()).public_key()
        else:
            found = serialization.load_pem_public_key(pem.strip().encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UnusableError("it is neither a certificate nor a public key in PEM") from None
    if not isinstance(found, RSAPublicKey) or found.key_size < LEAST_BITS:
        raise UnusableError(f"it holds no RSA key of at least {LEAST_BITS} bits")
    return found


def sign(key: RSAPrivateKey, message: bytes) -> str:
    """The signature in base64."""
    return base64.b64encode(key.sign(message, padding.PKCS1v15(), hashes.SHA256())).decode()


def genuine(key: RSAPublicKey, signature: str, message: bytes) -> bool:
    """Whether this is the signature of that key over these bytes."""
    try:
        raw = base64.b64decode(signature, validate=True)
        key.verify(raw, message, padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
