"""RSA keys, made once for each process: to make one takes a tenth of a second, a test needs six."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from paymaster_sandbox.alipay.certificates import Certificates
from paymaster_sandbox.chassis.clock import Clock, machine_microseconds
from paymaster_sandbox.wechat.keys import Keys


@cache
def key_pair(owner: str) -> tuple[str, str]:
    """An owner's key: private and public half in PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return _private(key), public.decode()


@cache
def request_for_certificate(owner: str) -> tuple[str, str]:
    """An owner's key, and the request from which Alipay makes its certificate."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Zahlstelle")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return _private(key), request.public_bytes(serialization.Encoding.PEM).decode()


def _private(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def lend_keys(data: Path) -> None:
    """Put the keys into a world's folder that it would make itself, unless it has some."""
    for name, content in _of_providers().items():
        path = data / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o600)
            path.write_bytes(content)


@cache
def _of_providers() -> dict[str, bytes]:
    """What WeChat Pay and Alipay begin with."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        alipay = Certificates(folder / "alipay")
        assert alipay.root_sn
        assert alipay.certificate(1)
        wechat = Keys(folder / "wechat", Clock(machine_microseconds))
        assert wechat.certificate(1).serial != wechat.public_key(1).serial
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}
