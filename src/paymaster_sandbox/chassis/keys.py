"""Secrets of the sandbox, made at first start and kept in files that only the owner reads."""

import os
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import asyncssh
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key


@dataclass(frozen=True, slots=True)
class Keys:
    """The files, and what is in them."""

    api_key_path: Path
    webhook_secret_path: Path
    client_key_path: Path
    api_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    host_key: asyncssh.SSHKey = field(repr=False)
    client_key: asyncssh.SSHKey = field(repr=False)

    @property
    def host_key_line(self) -> str:
        """The public host key as `ssh-ed25519 AAAA...`, for pinning."""
        return " ".join(self.host_key.export_public_key().decode("ascii").split()[:2])


def keep(path: Path, fresh: bytes) -> bytes:
    """What the file holds; if there is none, `fresh`, written whole or not at all."""
    if not path.exists():
        part = path.with_name(f".{path.name}.part")
        part.unlink(missing_ok=True)
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(fresh)
        part.rename(path)
    return path.read_bytes()


@lru_cache(maxsize=64)
def rsa_key(pem: bytes) -> RSAPrivateKey:
    """A private key that was kept. To read one takes long, so each is read once a process."""
    found = load_pem_private_key(pem, None)
    assert isinstance(found, RSAPrivateKey)
    return found


def load(directory: Path) -> Keys:
    """Read the keys of a data directory, making those that are missing."""

    def ssh(path: Path) -> asyncssh.SSHKey:
        fresh = asyncssh.generate_private_key("ssh-ed25519")  # pyright: ignore[reportUnknownMemberType]
        return asyncssh.import_private_key(keep(path, fresh.export_private_key()))

    def token(path: Path, prefix: str) -> str:
        return keep(path, (prefix + secrets.token_urlsafe(32)).encode()).decode().strip()

    api_key_path = directory / "api_key"
    webhook_secret_path = directory / "webhook_secret"
    client_key_path = directory / "client_key"
    return Keys(
        api_key_path=api_key_path,
        webhook_secret_path=webhook_secret_path,
        client_key_path=client_key_path,
        api_key=token(api_key_path, "sandpay_"),
        webhook_secret=token(webhook_secret_path, "whsec_"),
        host_key=ssh(directory / "host_key"),
        client_key=ssh(client_key_path),
    )
