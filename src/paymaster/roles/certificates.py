"""A small CA of the installation's own, for those who have none: who is which role.

    ca.pem, ca-key.pem          the CA; its key belongs off the machine once all have theirs
    api.pem, api-key.pem, ...   a certificate for each name, for server and client alike

A certificate carries the role twice: as `spiffe://paymaster/role/NAME` among its names, which our
own listeners ask for, and as its common name, which PostgreSQL maps to a database role.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from paymaster.kernel.errors import Conflict, Refusal
from paymaster.settings import Settings

CA_YEARS = 10
DEFAULT_DAYS = 90
WARNING = timedelta(days=21)
"""A certificate that ends sooner is shown as one to renew."""

_BACKDATED = timedelta(minutes=5)
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate in a file. `names` are URI, DNS and IP of its subjectAltName."""

    path: Path
    subject: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime

    def is_due(self, now: datetime) -> bool:
        """Whether it has ended, or will soon."""
        return self.not_after - now < WARNING


def uri(role: str) -> str:
    """The name by which a role is allowed or refused."""
    return f"spiffe://paymaster/role/{role}"


def make_ca(folder: Path, now: datetime) -> Path:
    """Make the CA. Raises Conflict `certificate-exists`: a second one would orphan all others."""
    certificate, key = folder / "ca.pem", folder / "ca-key.pem"
    if certificate.exists() or key.exists():
        raise Conflict("certificate-exists", f"There is a CA in {folder} already.")
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Paymaster installation CA")])
    made = (
        _builder(name, name, private.public_key(), now, timedelta(days=365 * CA_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()),
            critical=False,
        )
        .sign(private, hashes.SHA256())
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(key, _pem(private), 0o600)
    _write(certificate, made.public_bytes(serialization.Encoding.PEM), 0o644)
    return certificate


def issue(
    folder: Path, name: str, now: datetime, *, days: int = DEFAULT_DAYS, hosts: Sequence[str] = ()
) -> Path:
    """Make or renew the certificate of a role; `hosts` are DNS names or addresses it listens on.

    Raises Refusal `certificate-name`, `certificate-unusable` without a CA.
    """
    if not _NAME.match(name) or name == "ca":
        raise Refusal("certificate-name", f"{name!r} is not a name for a role.")
    issuer, signing = _load_ca(folder)
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"paymaster-{name}")])
    names = x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier(uri(name)), *map(_host, hosts)]
    )
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    made = (
        _builder(subject, issuer.subject, private.public_key(), now, timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(names, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()),
            critical=False,
        )
        .sign(signing, hashes.SHA256())
    )
    _write(folder / f"{name}-key.pem", _pem(private), 0o600)
    certificate = folder / f"{name}.pem"
    _write(certificate, made.public_bytes(serialization.Encoding.PEM), 0o644)
    return certificate


def show(paths: Iterable[Path]) -> list[Shown]:
    """What the first certificate of each file says. Raises Refusal `certificate-unusable`."""
    return [_shown(path) for path in paths]


def in_use(settings: Settings, roles: Sequence[str]) -> list[Path]:
    """The certificate files that the settings name, with those of roles that are there."""
    found = [settings.api.tls_certificate, settings.hooks.tls_certificate, settings.peers.ca]
    for role in (*roles, "cli", "owner"):
        identity = settings.peers.identity(role)
        if identity is not None and identity.certificate.exists():
            found.append(identity.certificate)
    return list(dict.fromkeys(path for path in found if path is not None))


def findings(
    settings: Settings, roles: Sequence[str], now: datetime
) -> list[tuple[str, bool, str]]:
    """For `paymaster doctor`: each certificate in use, whether it lasts, and how long."""
    found: list[tuple[str, bool, str]] = []
    try:
        paths = in_use(settings, roles)
    except Refusal as error:
        return [("certificates", False, error.detail)]
    for path in paths:
        try:
            one = _shown(path)
        except Refusal as error:
            found.append((f"certificate {path.name}", False, error.detail))
            continue
        left = (one.not_after - now).days
        said = f"{one.subject}, ends {one.not_after.date()} ({left} days)"
        found.append((f"certificate {path.name}", not one.is_due(now), said))
    return found


def _shown(path: Path) -> Shown:
    try:
        made = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a certificate in PEM"
        raise Refusal("certificate-unusable", f"{path} cannot be read: {why}.") from None
    try:
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = ()
    return Shown(
        path,
        made.subject.rfc4514_string(),
        tuple(str(name.value) for name in names),
        made.not_valid_before_utc,
        made.not_valid_after_utc,
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    length: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + length)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _load_ca(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
    except (OSError, ValueError, TypeError):
        raise Refusal(
            "certificate-unusable",
            f"There is no CA with its key in {folder}: `paymaster certificates init` makes one.",
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Refusal("certificate-unusable", "The key of the CA is not an EC key.")
    return certificate, key


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """As a whole: a server that looks at the file meanwhile finds the old one or the new one."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
