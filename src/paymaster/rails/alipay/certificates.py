"""Alipay's idea of a serial number, and the keys behind its certificates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from paymaster.rails import rsa

_RSA: Final = "1.2.840.113549.1.1."
"""How the numbers of signature algorithms with RSA begin; the roots with SM2 do not count."""


def serial(certificate: x509.Certificate) -> str:
    """MD5 over the issuer's name, most special part first, and the number in decimal digits."""
    issuer = ",".join(
        f"{part.rfc4514_attribute_name}={part.value}" for part in reversed(list(certificate.issuer))
    )
    text = f"{issuer}{certificate.serial_number}"
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@lru_cache(maxsize=16)
def app_serial(pem: str) -> str:
    """The number of our certificate. Raises UnusableError."""
    return serial(_certificates(pem)[0])


@lru_cache(maxsize=16)
def root_serial(pem: str) -> str:
    """The numbers of the roots that were signed with RSA. Raises UnusableError."""
    found = [
        serial(each)
        for each in _certificates(pem)
        if each.signature_algorithm_oid.dotted_string.startswith(_RSA)
    ]
    if not found:
        raise rsa.UnusableError("it has no root certificate with RSA")
    return "_".join(found)


@dataclass(frozen=True, slots=True)
class Keyring:
    """The provider's public keys by the number of their certificate."""

    keys: Mapping[str, RSAPublicKey] = field(repr=False)

    def genuine(self, number: str, signature: str, message: bytes) -> bool:
        """Whether this is the signature of that certificate's key over these bytes."""
        key = self.keys.get(number)
        return key is not None and rsa.genuine(key, signature, message)

    def genuine_by_any(self, signature: str, message: bytes) -> bool:
        """The same where the message does not say which certificate it was."""
        return any(rsa.genuine(key, signature, message) for key in self.keys.values())


@lru_cache(maxsize=16)
def keyring(written: str) -> Keyring:
    """Certificates from JSON: a list of PEM, or `{number: PEM}`. Raises UnusableError."""
    try:
        found: object = json.loads(written)
    except (ValueError, RecursionError):
        raise rsa.UnusableError("it is not JSON") from None
    if isinstance(found, list) and found:
        pems = [_text(each) for each in cast("Sequence[object]", found)]
        return Keyring({app_serial(pem): rsa.public_key(pem) for pem in pems})
    if isinstance(found, dict) and found:
        named = cast("Mapping[str, object]", found)
        return Keyring({number: rsa.public_key(_text(pem)) for number, pem in named.items()})
    raise rsa.UnusableError("it is neither a list of certificates nor an object of them")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise rsa.UnusableError("a certificate is not a text")
    return value


def _certificates(pem: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        raise rsa.UnusableError("it holds no certificate in PEM") from None
