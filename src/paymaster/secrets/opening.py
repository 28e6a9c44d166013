"""All of the key port, put together from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paymaster.secrets.chain import ChainStore
from paymaster.secrets.environment import EnvironmentStore
from paymaster.secrets.file import FileStore
from paymaster.secrets.local import Ed25519Signer, HmacSigner, LocalKek
from paymaster.secrets.port import Kek, SecretStore, require
from paymaster.secrets.sealing import Sealer
from paymaster.settings import SecretStoreKind, Settings


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the composition root hands to those who need keys."""

    store: SecretStore
    kek: Kek
    hmac: HmacSigner
    ed25519: Ed25519Signer
    sealer: Sealer

    def text(self, name: str) -> str:
        """The current value of a secret as text, for a provider's key or password.

        Raises Refusal `secret-name`, Broken `secret-missing`, `secret-unsafe`, `secret-malformed`.
        """
        return require(self.store, name).text()


def secrets_directory(settings: Settings) -> Path:
    """The folder of the file store: as set, or `secrets` in the data directory."""
    return settings.secrets.directory or settings.database.data_dir / "secrets"


def open_secrets(settings: Settings, environ: Mapping[str, str] | None = None) -> Secrets:
    """The stores in the order of the settings, and what works with their keys."""
    made: dict[SecretStoreKind, SecretStore] = {
        "environment": EnvironmentStore(environ),
        "file": FileStore(secrets_directory(settings)),
    }
    store = ChainStore([made[kind] for kind in settings.secrets.stores])
    kek, signer = LocalKek(store), HmacSigner(store)
    return Secrets(store, kek, signer, Ed25519Signer(store), Sealer(kek, signer))
