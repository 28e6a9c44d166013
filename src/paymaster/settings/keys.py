"""The settings of secrets and keys: which stores there are, and which keys lie where."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from paymaster.settings.groups import Group

SecretStoreKind = Literal["environment", "file", "vault", "aws"]
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class SecretSettings(Group):
    """Where keys and passwords come from."""

    stores: Annotated[tuple[SecretStoreKind, ...], NoDecode] = Field(
        default=("environment", "file"),
        min_length=1,
        description="Stores in the order in which they are asked: `environment`, `file`, `vault`, "
        "`aws` (in the environment variable separated by commas).",
    )
    directory: Path | None = Field(
        default=None,
        description="Folder of the file store. Default: `secrets` in `database.data_dir`.",
    )
    names: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Names to fetch at the start from a store that does not let us list them; "
        "others are fetched when they are first asked for.",
    )
    refresh_seconds: float = Field(
        default=30.0,
        ge=0.05,
        le=3600,
        description="How often a store over a network is asked what is new and what is gone.",
    )
    stale_seconds: float = Field(
        default=86_400.0,
        ge=1,
        le=604_800,
        description="How long the last good copy of such a store is used while it does not answer.",
    )
    settle_seconds: float = Field(
        default=90.0,
        ge=0,
        le=86_400,
        description="A new version of a key of ours opens and verifies at once, and is used from "
        "this age on: by then every process has it. More than twice `secrets.refresh_seconds`.",
    )
    warn_age_days: int = Field(
        default=365,
        ge=1,
        le=36_500,
        description="`paymaster doctor` warns of a secret whose version in use is older.",
    )
    kek: str = Field(
        default="store",
        min_length=1,
        description="Where the key-encryption keys lie, newest first, separated by spaces: "
        "`store` (the secret `kek`) or `pkcs11:token=<label>;object=<label>`.",
    )
    signers: dict[str, str] = Field(
        default_factory=dict,
        description="Where keys that sign lie, by key id (`audit-head`, `day-close`), newest "
        "first, separated by spaces: `store`, `aws-kms:<key>` or "
        "`pkcs11:token=<label>;object=<label>`. Not named: `store`.",
    )

    @field_validator("stores", "names", mode="before")
    @classmethod
    def _split(cls, stores: object) -> object:
        return re.findall(r"[^\s,]+", stores) if isinstance(stores, str) else stores


class VaultSettings(Group):
    """HashiCorp Vault or OpenBao, where `secrets.stores` names `vault`."""

    address: str = Field(
        default="https://127.0.0.1:8200",
        description="Address, without a path. Without TLS only on this machine.",
    )
    namespace: str = Field(default="", description="Namespace, where Vault has some.")
    mount: str = Field(
        default="secret", min_length=1, description="Path of the KV engine, version 2."
    )
    prefix: str = Field(
        default="paymaster", description="Path of our entries in it; one entry a secret."
    )
    auth: Literal["token", "kubernetes"] = Field(
        default="token",
        description="`token`: the secret `vault-token` of the stores `environment` and `file`. "
        "`kubernetes`: the service account of the pod.",
    )
    role: str = Field(default="paymaster", description="Role of the Kubernetes login.")
    auth_mount: str = Field(
        default="kubernetes", min_length=1, description="Path of the Kubernetes login."
    )
    jwt_file: Path = Field(
        default=Path("/var/run/secrets/kubernetes.io/serviceaccount/token"),
        description="The service account's token; read anew for each login.",
    )
    ca_file: Path | None = Field(
        default=None,
        description="Certificates of the authorities to trust, and no others. Default: those of "
        "the system.",
    )

    @field_validator("address")
    @classmethod
    def _safe(cls, address: str) -> str:
        parts = urlsplit(address)
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError("secrets travel over https")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise ValueError("an address is https://host:port")
        return address


class AwsSettings(Group):
    """AWS, where `secrets.stores` names `aws` or a key lies in KMS. Needs the extra `aws`."""

    region: str = Field(
        default="", description="Region. Default: what the environment or profile says."
    )
    endpoint_url: str | None = Field(
        default=None, description="Another endpoint than the region's, such as a private one."
    )
    prefix: str = Field(
        default="paymaster/", description="What the names of our secrets begin with."
    )


class HsmSettings(Group):
    """A hardware security module, where a key has a `pkcs11:` address. Needs the extra `hsm`."""

    module: Path | None = Field(
        default=None, description="The driver: the PKCS #11 library of the maker."
    )
    pin: str = Field(
        default="hsm-pin", description="Name of the secret that is the PIN of the user."
    )
