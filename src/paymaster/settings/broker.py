"""The settings of the message broker that is told of events."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from string import Formatter
from typing import Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from paymaster.settings.base import Group, Words

BrokerKind = Literal["nats", "rabbitmq"]
_KINDS: Final[dict[str, BrokerKind]] = {
    "nats": "nats",
    "tls": "nats",
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
}
_ENCRYPTED = ("tls", "amqps")
SUBJECT_PARTS = ("tenant", "mode", "cell", "partition", "type")
_NAME = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}$"


class Broker(Group):
    """A message broker that is told of events. Its secret: `broker-password` or `broker-token`."""

    urls: Words = Field(
        default=(),
        description="Where it is: `nats://`, `tls://` (both NATS), `amqp://` or `amqps://` (both "
        "RabbitMQ) with host and port; several of one cluster (in the environment variable "
        "separated by commas). Without one nothing is published.",
    )
    network: Literal["verified", "plain"] = Field(
        default="verified",
        description="`verified`: other machines are reached by `tls://` and `amqps://` only; "
        "`plain`: something else encrypts the way there.",
    )
    ca: Path | None = Field(
        default=None,
        description="Certificates (PEM) that the broker's is signed by. Without it `peers.ca`, "
        "and without that those of the system.",
    )
    certificate: Path | None = Field(
        default=None,
        description="Certificate (PEM) by which we are known to it; without it that of the role "
        "`notify` in `peers.certificate`.",
    )
    key: Path | None = Field(default=None, description="Private key (PEM) of it.")
    login: Literal["none", "password", "token", "certificate"] = Field(
        default="none",
        description="`password`: with `broker.username`; `token`: NATS; `certificate`: RabbitMQ "
        "takes the name from our certificate (EXTERNAL); `none`: nothing beside the certificate.",
    )
    username: str | None = Field(default=None, description="Name to log in with.")
    stream: str = Field(
        default="PAYMASTER",
        pattern=r"^[A-Za-z0-9_-]{1,100}$",
        description="Stream of JetStream that stores the events.",
    )
    exchange: str = Field(
        default="paymaster.events",
        pattern=_NAME,
        description="Exchange (topic) of RabbitMQ that takes them.",
    )
    topology: Literal["create", "expect"] = Field(
        default="create",
        description="`create`: a stream or exchange that is missing is made; `expect`: it must be "
        "there. One that is there is never changed.",
    )
    replicas: int = Field(
        default=1, ge=1, le=5, description="Copies of a stream that we make, in a NATS cluster."
    )
    duplicate_seconds: int = Field(
        default=600,
        ge=1,
        le=86_400,
        description="How long a stream that we make recognises an event sent twice.",
    )
    subject: str = Field(
        default="paymaster.{tenant}.{mode}.{partition}.{type}",
        max_length=200,
        description="Subject or routing key. `{type}` is two words, such as `withdrawal.paid`; "
        "also `{tenant}`, `{mode}`, `{cell}` and `{partition}`, which must be there.",
    )
    partitions: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="All events of an earner are in one of so many partitions.",
    )
    source: str = Field(
        default="paymaster",
        pattern=_NAME,
        description="First word of the events' `source`; tells two installations apart.",
    )
    types: Words = Field(
        default=("*",),
        min_length=1,
        description="Types, `group.*` or `*` (in the environment variable separated by commas).",
    )
    begin: Literal["now", "beginning"] = Field(
        default="now",
        description="Where a broker that was never told anything begins: with what happens from "
        "now on, or with the first event of all.",
    )
    in_flight: int = Field(
        default=256,
        ge=1,
        le=10_000,
        description="Most events of one cell under way at once; never two of one earner.",
    )
    timeout_seconds: int = Field(
        default=10, ge=1, le=120, description="How long the broker may take to confirm one."
    )
    message_limit_bytes: int = Field(
        default=1_000_000,
        ge=1024,
        le=1 << 27,
        description="A larger event is laid aside without being sent.",
    )

    @property
    def kind(self) -> BrokerKind | None:
        """Which broker; None without one."""
        return _KINDS[urlsplit(self.urls[0]).scheme] if self.urls else None

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return bool(self.urls) and urlsplit(self.urls[0]).scheme in _ENCRYPTED

    @model_validator(mode="after")
    def _addresses(self) -> Self:
        """No message here repeats an address: it might hold a password."""
        schemes = {urlsplit(url).scheme for url in self.urls}
        if schemes - _KINDS.keys():
            raise ValueError("broker.urls begin with nats://, tls://, amqp:// or amqps://")
        if len(schemes) > 1:
            raise ValueError("broker.urls begin with different schemes")
        for parts in map(urlsplit, self.urls):
            if "@" in parts.netloc or parts.query:
                raise ValueError("broker.urls hold no user, password or options")
            if not parts.hostname:
                raise ValueError("a url of broker.urls has no host")
            if parts.scheme not in _ENCRYPTED and self.network == "verified":
                _must_be_here(parts.hostname)
        return self

    @model_validator(mode="after")
    def _login(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("set both broker.certificate and broker.key")
        if (self.login == "password") != (self.username is not None):
            raise ValueError("broker.username goes with broker.login = password")
        if self.kind == "rabbitmq" and self.login == "token":
            raise ValueError("RabbitMQ knows no tokens here")
        if self.kind == "nats" and self.login == "certificate":
            raise ValueError("NATS maps certificates to users by itself: write none")
        return self

    @model_validator(mode="after")
    def _subject(self) -> Self:
        parts = list(Formatter().parse(self.subject))
        names = [name for _, name, _, _ in parts if name is not None]
        if set(names) - set(SUBJECT_PARTS) or "partition" not in names:
            raise ValueError("broker.subject needs {partition}, and knows no other parts")
        if any(extra for _, _, form, kind in parts for extra in (form, kind)):
            raise ValueError("the parts of broker.subject are written as {type}")
        example = self.subject.format(**dict.fromkeys(SUBJECT_PARTS, "x"))
        if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", example):
            raise ValueError("broker.subject is words separated by dots")
        return self


def _must_be_here(host: str) -> None:
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    if not here:
        raise ValueError("another machine needs tls:// or amqps://, see broker.network")
