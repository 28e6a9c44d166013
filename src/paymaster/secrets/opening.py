"""All of the key port, put together from the settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from paymaster.kernel.clock import WallClock
from paymaster.kernel.errors import Refusal
from paymaster.observe import Metrics
from paymaster.secrets.aws import AwsSecretsSource, Kms
from paymaster.secrets.chain import ChainStore
from paymaster.secrets.environment import EnvironmentStore
from paymaster.secrets.file import FileStore
from paymaster.secrets.generated import LOCAL_KEYS
from paymaster.secrets.hsm import SCHEME as HSM_SCHEME
from paymaster.secrets.hsm import Hsm, HsmKek, parse_address
from paymaster.secrets.keks import Keks
from paymaster.secrets.local import Ed25519Signer, HmacSigner, LocalKek
from paymaster.secrets.port import Kek, SecretStore, require
from paymaster.secrets.sealing import Sealer
from paymaster.secrets.settled import SettledStore
from paymaster.secrets.signers import STORE, Signers
from paymaster.secrets.unwrapped import UnwrappedStore
from paymaster.secrets.vault import VaultSource
from paymaster.secrets.warm import Kept, Source, WarmStore, tried
from paymaster.settings import SecretStoreKind, Settings

VAULT_TOKEN = "vault-token"  # noqa: S105 - the name of the secret
NETWORK: frozenset[SecretStoreKind] = frozenset({"vault", "aws"})
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Remote:
    """What must be fetched ahead and kept fresh."""

    warm: Sequence[WarmStore]
    unwrapped: UnwrappedStore
    kms: Kms
    hsm: Hsm
    refresh_seconds: float


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the composition root hands to those who need keys.

    `store` gives the newest version of a secret first, `keys` the version of a key of ours that is
    in use (see `settled`). `ed25519` and `hmac` sign with keys of the stores, here and now;
    `signers` with keys wherever they lie, outside transactions.
    """

    store: SecretStore
    keys: SecretStore
    kek: Kek
    hmac: HmacSigner
    ed25519: Ed25519Signer
    sealer: Sealer
    signers: Signers
    remote: _Remote = field(repr=False)

    def text(self, name: str) -> str:
        """The current value of a secret as text, for a provider's key or password.

        Raises Refusal `secret-name`, Broken `secret-missing`, `secret-unsafe`, `secret-malformed`,
        Busy `secret-store-down`.
        """
        return require(self.store, name).text()

    def kek_at(self, where: str) -> Kek:
        """The KEK at one place of `secrets.kek`. Raises Refusal `key-address`."""
        return _kek(self.keys, self.remote.hsm, where)

    async def warm(self) -> None:
        """Fetch everything from the stores over a network, and open what is wrapped.

        Raises Busy `secret-store-down`, Broken `secret-store-refused`, Refusal `extra-missing`.
        """
        for store in self.remote.warm:
            await store.refresh()
        await self.remote.unwrapped.refresh()

    @asynccontextmanager
    async def kept(self, metrics: Metrics) -> AsyncGenerator[None]:
        """Warm while inside: fetched at the start, kept fresh in the background. Raises as `warm`.

        Without a store over a network it costs one look a second at most.
        """
        tasks: list[asyncio.Task[None]] = []
        try:
            await self.warm()
            for one in self.remote.warm:
                one.show(metrics)
            tasks += [asyncio.create_task(one.keep(metrics)) for one in self.remote.warm]
            tasks.append(asyncio.create_task(self._keep_opened(metrics)))
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.close()

    async def close(self) -> None:
        """Let go of connections and sessions."""
        for store in self.remote.warm:
            await store.close()
        await self.remote.kms.close()
        self.remote.hsm.close()

    async def _keep_opened(self, metrics: Metrics) -> None:
        """Open wrapped versions that were seen since."""
        unwrapped, pause = self.remote.unwrapped, min(_LOOK_SECONDS, self.remote.refresh_seconds)
        while True:
            await asyncio.sleep(pause)
            if unwrapped.waiting:
                await tried(unwrapped.refresh, unwrapped.kind, metrics, lambda: 0.0)
                pause = self.remote.refresh_seconds if unwrapped.waiting else _LOOK_SECONDS


def secrets_directory(settings: Settings) -> Path:
    """The folder of the file store: as set, or `secrets` in the data directory."""
    return settings.secrets.directory or settings.database.data_dir / "secrets"


def makes_keys(settings: Settings) -> bool:
    """Whether missing keys are made in the folder of the file store.

    Not beside a store over a network: a key that is missing there is a fault to be told, and one
    made in its place would seal data under a key that nobody meant.
    """
    stores = frozenset(settings.secrets.stores)
    return "file" in stores and not stores & NETWORK


def open_secrets(settings: Settings, environ: Mapping[str, str] | None = None) -> Secrets:
    """The stores in the order of the settings, and what works with their keys.

    Stores over a network are empty, and say so, until `Secrets.warm` or inside `Secrets.kept`.
    Raises Refusal `key-address`, Broken `secret-store-refused`.
    """
    local: dict[SecretStoreKind, SecretStore] = {
        "environment": EnvironmentStore(environ),
        "file": FileStore(secrets_directory(settings)),
    }
    here = ChainStore([local[kind] for kind in settings.secrets.stores if kind in local])
    sources: dict[SecretStoreKind, Callable[[], Source]] = {
        "vault": lambda: VaultSource(settings.vault, lambda: require(here, VAULT_TOKEN).text()),
        "aws": lambda: AwsSecretsSource(settings.aws),
    }
    own = settings.secrets
    kept = Kept(own.refresh_seconds, own.stale_seconds)
    names = [*LOCAL_KEYS, *own.names]
    warm = {
        kind: WarmStore(sources[kind](), kept, names=names)
        for kind in own.stores
        if kind in NETWORK
    }
    kms = Kms(settings.aws)
    chain = ChainStore([warm[kind] if kind in warm else local[kind] for kind in own.stores])
    store = UnwrappedStore(chain, kms, names=names)
    keys = SettledStore(store, timedelta(seconds=own.settle_seconds), WallClock().now)
    hsm = Hsm(settings.hsm.module, lambda: require(store, settings.hsm.pin).text())
    kek = Keks([_kek(keys, hsm, where) for where in own.kek.split()])
    hmac, ed25519 = HmacSigner(keys), Ed25519Signer(keys)
    return Secrets(
        store,
        keys,
        kek,
        hmac,
        ed25519,
        Sealer(kek, hmac),
        Signers(ed25519, own.signers, kms=kms, hsm=hsm),
        _Remote(list(warm.values()), store, kms, hsm, own.refresh_seconds),
    )


def _kek(keys: SecretStore, hsm: Hsm, where: str) -> Kek:
    if where == STORE:
        return LocalKek(keys)
    if where.startswith(HSM_SCHEME):
        return HsmKek(hsm, parse_address(where))
    raise Refusal(
        "key-address",
        f"{where!r} is no place for the KEK: write store or pkcs11:..., see the docs.",
    )
