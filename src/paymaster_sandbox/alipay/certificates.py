"""The provider's certificates: its roots, the ones that it signs with, and those of its customers.

Everything is made at the first need and kept in the data folder. A customer's certificate is made
from a certificate request or is brought along; either way only its public key is ever here.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from paymaster_sandbox.chassis.keys import keep, rsa_key

_BITS: Final = 2048
_VALID_FROM: Final = datetime(2020, 1, 1, tzinfo=UTC)
_VALID_UNTIL: Final = datetime(2045, 1, 1, tzinfo=UTC)
_RSA_SIGNATURES: Final = "1.2.840.113549.1.1."
_SHORT: Final = {
    NameOID.COMMON_NAME: "CN",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.COUNTRY_NAME: "C",
}

_IssuerKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def serial_number(certificate: x509.Certificate) -> str:
    """The provider's own idea of a serial number: MD5 of the issuer's name and the number."""
    issuer = ",".join(
        f"{_SHORT[part.oid]}={part.value}" for part in reversed(list(issuer_of(certificate)))
    )
    text = f"{issuer}{certificate.serial_number}"
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def issuer_of(certificate: x509.Certificate) -> list[x509.NameAttribute[str | bytes]]:
    """The parts of the issuer's name that count, in the order of the certificate."""
    return [part for part in certificate.issuer if part.oid in _SHORT]


def root_serial_number(bundle: bytes) -> str:
    """The serial numbers of the roots that were signed with RSA; the others are passed over."""
    numbers = [
        serial_number(root)
        for root in x509.load_pem_x509_certificates(bundle)
        if root.signature_algorithm_oid.dotted_string.startswith(_RSA_SIGNATURES)
    ]
    return "_".join(numbers)


def public_key(certificate: x509.Certificate) -> rsa.RSAPublicKey:
    """The certificate's key. Raises ValueError if it is not RSA."""
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError("the certificate's key is not RSA")  # noqa: TRY004 - a wrong value
    return key


class Certificates:
    """The provider's keys, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._signing: dict[int, tuple[rsa.RSAPrivateKey, x509.Certificate]] = {}

    @cached_property
    def roots(self) -> bytes:
        """The root certificates as one PEM: two of RSA, and one that is not."""
        self._folder.mkdir(parents=True, exist_ok=True)
        first = _self_signed(self._root_key, "Sandbox Ant Root R1")
        second = _self_signed(self._root_key, "Sandbox Ant Root R2")
        other = _self_signed(ec.generate_private_key(ec.SECP256R1()), "Sandbox Ant Root E1")
        fresh = b"".join(_pem(root) for root in (first, other, second))
        return keep(self._folder / "root.pem", fresh)

    @cached_property
    def root_sn(self) -> str:
        """The serial number of all roots together."""
        return root_serial_number(self.roots)

    @cached_property
    def _root_key(self) -> rsa.RSAPrivateKey:
        return self._key("root.key")

    def issue(self, request: bytes) -> bytes:
        """A customer's certificate from its request, as PEM. Raises ValueError."""
        asked = x509.load_pem_x509_csr(request)
        if not asked.is_signature_valid:
            raise ValueError("the request is not signed with its own key")
        key = asked.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            raise ValueError("the request's key is not RSA")  # noqa: TRY004 - a wrong value
        return _pem(self._certify("Sandbox App", key))

    def signing(self, generation: int) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
        """The key and certificate that the provider signs with; each rotation has its own."""
        if generation not in self._signing:
            name = f"alipay-{generation}"
            key = self._key(f"{name}.key")
            fresh = _pem(self._certify(f"Sandbox Alipay {generation}", key.public_key()))
            found = keep(self._folder / f"{name}.pem", fresh)
            self._signing[generation] = (key, x509.load_pem_x509_certificate(found))
        return self._signing[generation]

    def certificate(self, generation: int) -> str:
        """The certificate of a generation, as PEM."""
        return _pem(self.signing(generation)[1]).decode()

    def _certify(self, name: str, key: rsa.RSAPublicKey) -> x509.Certificate:
        root = x509.load_pem_x509_certificates(self.roots)[0]
        return _build(name, root.subject, key, self._root_key)

    def _key(self, name: str) -> rsa.RSAPrivateKey:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        fresh = b"" if path.exists() else _private(_new_key())
        return rsa_key(keep(path, fresh))


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=_BITS)


def _private(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CN"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Sandbox"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Certification Authority"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _self_signed(key: _IssuerKey, common: str) -> x509.Certificate:
    return _build(common, _name(common), key.public_key(), key)


def _build(
    common: str,
    issuer: x509.Name,
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    issuer_key: _IssuerKey,
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_UNTIL - timedelta(days=1))
        .sign(issuer_key, hashes.SHA256())
    )
