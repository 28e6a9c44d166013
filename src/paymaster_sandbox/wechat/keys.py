"""What WeChat Pay signs with and shows: made when first needed, kept in the data folder.

There are any number of platform certificates and public keys, numbered from 1, so that keys can be
rotated. Merchants' certificates are issued over a public key: the private one stays with its owner.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from paymaster_sandbox.chassis.clock import Clock, moment
from paymaster_sandbox.chassis.keys import keep, rsa_key

_YEARS_FIVE = timedelta(days=1826)
_BITS = 2048
_FORTY_DIGITS = 1 << 158
"""Merchants' software writes serials without leading zeros; with this bit there are none."""


@dataclass(frozen=True, slots=True)
class PlatformKey:
    """One key of the provider: its serial or public key id, and the private half."""

    serial: str
    private: rsa.RSAPrivateKey
    certificate: str | None
    not_before: int = 0
    not_after: int = 0

    @property
    def public_pem(self) -> str:
        """What a merchant verifies with, where it does not take the certificate."""
        return _public_pem(self.private.public_key())


class Keys:
    """The provider's keys, read or made at first use."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._platform: dict[str, PlatformKey] = {}

    @property
    def tls_ca_path(self) -> Path:
        """The certificate that proves the TLS address."""
        return self._directory / "tls.crt"

    def certificate(self, number: int) -> PlatformKey:
        """A platform certificate with its key."""
        return self._once(f"platform-{number}", self._load_certificate)

    def public_key(self, number: int) -> PlatformKey:
        """A key that is known by an id instead of a certificate."""
        return self._once(f"public-key-{number}", self._load_public_key)

    def _once(self, name: str, load: Callable[[str], PlatformKey]) -> PlatformKey:
        if name not in self._platform:
            self._platform[name] = load(name)
        return self._platform[name]

    def _load_certificate(self, name: str) -> PlatformKey:
        private = self._rsa(name)
        path = self._directory / f"{name}.crt"
        if not path.exists():
            made = self._issue("Tenpay.com sign", private.public_key(), private, None)
            _write(path, made.public_bytes(serialization.Encoding.PEM))
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        return PlatformKey(
            serial_of(certificate), private, path.read_text(),
            int(certificate.not_valid_before_utc.timestamp()),
            int(certificate.not_valid_after_utc.timestamp()),
        )  # fmt: skip

    def _load_public_key(self, name: str) -> PlatformKey:
        private = self._rsa(name)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(_public_pem(private.public_key()).encode())
        digits = str(int.from_bytes(digest.finalize()))[:28]
        return PlatformKey(f"PUB_KEY_ID_01{digits}", private, None)

    def issue_merchant(self, mchid: str, public_pem: str) -> tuple[str, str]:
        """A certificate over a merchant's public key: its serial and its PEM.

        Raises:
            ValueError: not an RSA public key of 2048 bits.
        """
        public = read_public(public_pem)
        authority, private = self._authority("merchant-ca", "Merchants of the sandbox")
        made = self._issue(mchid, public, private, authority)
        return serial_of(made), made.public_bytes(serialization.Encoding.PEM).decode()

    def tls(self) -> ssl.SSLContext:
        """The TLS side: proves itself and demands a certificate that `issue_merchant` gave."""
        self._authority("tls", "127.0.0.1")
        authority, _ = self._authority("merchant-ca", "Merchants of the sandbox")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.tls_ca_path, self._directory / "tls.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(
            cadata=authority.public_bytes(serialization.Encoding.PEM).decode()
        )
        return context

    def _authority(
        self, name: str, common: str
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """A self-signed certificate; that of the TLS side is its own authority."""
        key_path, path = self._directory / f"{name}.pem", self._directory / f"{name}.crt"
        if not path.exists():
            fresh = ec.generate_private_key(ec.SECP256R1())
            _write(key_path, _private_pem(fresh))
            made = self._issue(common, fresh.public_key(), fresh, None, local=name == "tls")
            _write(path, made.public_bytes(serialization.Encoding.PEM))
        private = serialization.load_pem_private_key(key_path.read_bytes(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        return x509.load_pem_x509_certificate(path.read_bytes()), private

    def _issue(
        self,
        common: str,
        public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
        signer: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
        authority: x509.Certificate | None,
        *,
        local: bool = False,
    ) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        now = moment(self._clock.transport_seconds() * 1_000_000)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name if authority is None else authority.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number() | _FORTY_DIGITS)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + _YEARS_FIVE)
            .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), True)
        )
        subject_key = x509.SubjectKeyIdentifier.from_public_key(public)
        builder = builder.add_extension(subject_key, critical=False)
        issuer_key = public if authority is None else authority.public_key()
        assert isinstance(issuer_key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
        known = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key)
        builder = builder.add_extension(known, critical=False)
        if local:
            names = [
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost"),
            ]  # fmt: skip
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if authority is None:
            usage = x509.KeyUsage(
                digital_signature=True, content_commitment=False, key_encipherment=False,
                data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
                encipher_only=False, decipher_only=False,
            )  # fmt: skip
            builder = builder.add_extension(usage, critical=True)
        return builder.sign(signer, hashes.SHA256())

    def _rsa(self, name: str) -> rsa.RSAPrivateKey:
        path = self._directory / f"{name}.pem"
        if not path.exists():
            _write(path, _private_pem(rsa.generate_private_key(65537, _BITS)))
        return rsa_key(path.read_bytes())


def read_public(pem: str) -> rsa.RSAPublicKey:
    """A merchant's public key. Raises ValueError if it is not an RSA key of 2048 bits."""
    public = serialization.load_pem_public_key(pem.encode())
    if not isinstance(public, rsa.RSAPublicKey) or public.key_size < _BITS:
        raise ValueError("public_key must be an RSA key of at least 2048 bits")
    return public


def serial_of(certificate: x509.Certificate) -> str:
    """The serial as WeChat Pay writes it: forty hexadecimal digits in capitals."""
    return f"{certificate.serial_number:040X}"


def _public_pem(public: rsa.RSAPublicKey) -> str:
    return public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def _private_pem(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    keep(path, content)
