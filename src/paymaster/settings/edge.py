"""The settings of what faces the network: limits, proxies, certificates."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from paymaster.kernel.errors import Refusal
from paymaster.kernel.tls import Identity
from paymaster.settings.base import Group, Words


class Web(Group):
    """What the two servers that face the network have in common."""

    tls_certificate: Path | None = Field(
        default=None,
        description="Certificate (PEM, with its chain) for https; a changed file is read anew. "
        "Without it http is spoken: for one machine, or behind a proxy that ends TLS.",
    )
    tls_key: Path | None = Field(default=None, description="Private key (PEM) of the certificate.")
    trusted_proxies: Words = Field(
        default=(),
        description="Networks of the proxies in front, such as `10.1.0.0/16`: what they say of the "
        "client's address is believed (in the environment variable separated by commas).",
    )
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = Field(
        default="x-forwarded-for",
        description="The header in which they say it; the other one is never read.",
    )
    concurrent_requests: int = Field(
        default=2000,
        ge=1,
        le=100_000,
        description="Most requests under way in one process; above it 503 `overloaded`.",
    )
    connections: int = Field(
        default=5000,
        ge=1,
        le=1_000_000,
        description="Most open connections of one process; one more is closed at once.",
    )
    head_limit_bytes: int = Field(
        default=32_768,
        ge=1024,
        le=1 << 20,
        description="A longer request line with headers is refused (431).",
    )
    header_items: int = Field(
        default=100, ge=10, le=10_000, description="More headers are refused (431)."
    )
    address_characters: int = Field(
        default=8192,
        ge=256,
        le=65_536,
        description="A longer path with query is refused (414).",
    )
    head_timeout_seconds: float = Field(
        default=10.0,
        ge=0.1,
        le=600,
        description="How long the headers of a request may take to arrive (408).",
    )
    body_timeout_seconds: float = Field(
        default=30.0,
        ge=0.1,
        le=3600,
        description="How long the body of a request may take to arrive (408).",
    )
    write_timeout_seconds: float = Field(
        default=60.0,
        ge=0.1,
        le=3600,
        description="How long a client may leave an answer unread; then it is hung up on.",
    )
    keep_alive_seconds: int = Field(
        default=75,
        ge=1,
        le=3600,
        description="How long a connection is kept without a request; longer than a proxy's own.",
    )
    handler_timeout_seconds: float = Field(
        default=60.0,
        ge=0.1,
        le=3600,
        description="How long a request may take until its answer begins; then 503 `timeout`.",
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for network in given:
            ip_network(network)
        return given

    def identity(self) -> Identity | None:
        """The certificate for https, if there is one. Raises Refusal `certificate-unusable`."""
        if self.tls_certificate is None and self.tls_key is None:
            return None
        if self.tls_certificate is None or self.tls_key is None:
            raise Refusal("certificate-unusable", "Set both tls_certificate and tls_key.")
        return Identity(self.tls_certificate, self.tls_key)

    @property
    def proxies(self) -> list[IPv4Network | IPv6Network]:
        """The networks of `trusted_proxies`."""
        return [ip_network(network) for network in self.trusted_proxies]


class Peers(Group):
    """By which certificates the processes, the database and the broker know each other (mTLS)."""

    ca: Path | None = Field(
        default=None,
        description="Certificates (PEM) of the installation's CA. With it, addresses of the "
        "database over TCP are verified (`sslmode=verify-full`), and peers as below.",
    )
    certificate: Path | None = Field(
        default=None,
        description="Certificate (PEM) of a process; `{role}` stands for the name of its role, "
        "for `cli` in commands and for `owner` in migrations.",
    )
    key: Path | None = Field(
        default=None, description="Private key (PEM) of it, with `{role}` likewise."
    )
    health: Literal["open", "verified"] = Field(
        default="open",
        description="`verified`: `/healthz`, `/readyz` and `/metrics` of background roles are "
        "served by TLS 1.3, to clients with a certificate of the CA whose name is allowed.",
    )
    allowed: Words = Field(
        default=("spiffe://paymaster/role/metrics", "spiffe://paymaster/role/cli"),
        description="Names (URI or DNS in the certificate's subjectAltName) that may call those "
        "ports (in the environment variable separated by commas).",
    )

    def identity(self, role: str) -> Identity | None:
        """By what a process of a role is known to its peers; None when peers are not verified.

        Raises Refusal `certificate-unusable`.
        """
        if self.ca is None:
            return None
        if self.certificate is None or self.key is None:
            raise Refusal(
                "certificate-unusable", "With peers.ca, set peers.certificate and peers.key."
            )
        mine, key = (str(path).replace("{role}", role) for path in (self.certificate, self.key))
        return Identity(Path(mine), Path(key), self.ca)


class Providers(Group):
    """How providers are called."""

    ca: Path | None = Field(
        default=None,
        description="Further CA certificates (PEM) that providers' servers may be signed by.",
    )
    tls_1_2_hosts: Words = Field(
        default=(),
        description="Hosts that are called with TLS 1.2 if they know no better; all others with "
        "1.3 (in the environment variable separated by commas).",
    )
