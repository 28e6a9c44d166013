"""The way to Vault: only the authority in the settings is trusted, nothing goes in the clear."""

from __future__ import annotations

import datetime as dt
import ipaddress
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pydantic import ValidationError
from tests.vault_server import Vault, serve

from paymaster.kernel.errors import Broken, Busy
from paymaster.secrets.opening import Secrets, open_secrets
from paymaster.settings import SecretSettings, Settings, VaultSettings


def opened(vault: Vault, ca_file: Path | None) -> Secrets:
    settings = Settings(
        secrets=SecretSettings(stores=("environment", "vault")),
        vault=VaultSettings(address=vault.address, ca_file=ca_file),
    )
    return open_secrets(settings, {"PAYMASTER_SECRET__VAULT_TOKEN": vault.token()})


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate of its own authority, for this machine."""
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False
        )
        .sign(private, SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(Encoding.PEM))
    paths[1].write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


async def test_only_the_authority_in_the_settings_is_trusted(tmp_path: Path) -> None:
    right, wrong = certificate(tmp_path, "right"), certificate(tmp_path, "wrong")
    with serve(Vault(), right) as vault:
        vault.put("paymaster/bank-key", "value")
        trusting = opened(vault, right[0])
        await trusting.warm()
        assert trusting.text("bank-key") == "value"
        await trusting.close()
        for other in (wrong[0], None):
            distrusting = opened(vault, other)
            with pytest.raises(Busy, match="secret-store-down"):
                await distrusting.warm()
            await distrusting.close()
    with pytest.raises(Broken, match="secret-store-refused"):
        opened(vault, right[1])


def test_a_token_never_travels_without_tls() -> None:
    with pytest.raises(ValidationError, match="https"):
        Settings(vault=VaultSettings(address="http://vault.example:8200"))


def test_the_little_vault_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with serve(Vault()):
        assert threading.active_count() > before
    assert threading.active_count() == before
