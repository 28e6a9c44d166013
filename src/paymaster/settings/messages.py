"""The settings of messages to the outside: webhooks to apps, email."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from paymaster.settings.groups import Group, Port

_ADDRESS = re.compile(r"[!#-'*+/-9=?A-Z^-~.-]{1,64}@[A-Za-z0-9.-]{1,253}\Z", re.ASCII)


def is_mail_address(text: str) -> bool:
    """Whether mail can be sent there: an ASCII address without quotes (RFC 5321)."""
    return len(text) <= 254 and _ADDRESS.match(text) is not None


class Webhooks(Group):
    """Webhooks to the servers of apps."""

    allowed_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Private networks that endpoints may be in, such as `10.1.0.0/16` "
        "(in the environment variable separated by commas). All others that are not of the open "
        "internet are refused.",
    )
    authorities: Path | None = Field(
        default=None, description="File of further certificate authorities to trust, in PEM."
    )
    timeout_seconds: int = Field(
        default=15, ge=1, le=60, description="How long one delivery may take in all."
    )
    endpoint_concurrency: int = Field(
        default=8,
        ge=1,
        le=100,
        description="Most deliveries under way to one endpoint from one process.",
    )
    endpoints: int = Field(
        default=20, ge=1, le=200, description="Most endpoints of one environment."
    )
    disable_after_days: int = Field(
        default=5,
        ge=1,
        le=60,
        description="An endpoint at which nothing has arrived for so long is disabled.",
    )
    retention_days: int = Field(
        default=30,
        ge=4,
        le=3650,
        description="How long events are listed and can be sent again, and deliveries are kept.",
    )

    @field_validator("allowed_networks", mode="before")
    @classmethod
    def _split(cls, texts: object) -> object:
        return re.findall(r"[^\s,]+", texts) if isinstance(texts, str) else texts

    @field_validator("allowed_networks")
    @classmethod
    def _networks(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            ipaddress.ip_network(text)
        return texts


class Email(Group):
    """Letters to earners and operators. The password is the secret `smtp-password`."""

    host: str | None = Field(
        default=None, description="The SMTP server; without one no letters are written."
    )
    port: Port = Field(default=587, description="Its port.")
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="`starttls`: encrypted after the greeting, or not sent; `tls`: encrypted from "
        "the first byte (port 465); `none`: for a server on this machine.",
    )
    authorities: Path | None = Field(
        default=None, description="File of further certificate authorities to trust, in PEM."
    )
    username: str | None = Field(
        default=None, description="Name to log in with; without one there is no login."
    )
    timeout_seconds: int = Field(
        default=30, ge=1, le=300, description="How long the server may take for one step."
    )
    sender: str | None = Field(default=None, description="Address that letters come from.")
    sender_name: str = Field(
        default="Paymaster",
        min_length=1,
        max_length=100,
        description="Name of the app, as earners know it.",
    )
    operators: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Addresses that get the notices to operators "
        "(in the environment variable separated by commas).",
    )
    operator_language: Literal["en", "zh"] = Field(
        default="en", description="Language of the notices to operators."
    )
    earner_notices: Literal["all", "security", "none"] = Field(
        default="all",
        description="What earners are written: `all`, only what is about `security`, or `none`.",
    )

    @field_validator("operators", mode="before")
    @classmethod
    def _split(cls, texts: object) -> object:
        return re.findall(r"[^\s,]+", texts) if isinstance(texts, str) else texts

    @field_validator("sender_name")
    @classmethod
    def _one_line(cls, text: str) -> str:
        if not text.isprintable():
            raise ValueError("write one line of printable characters")
        return text

    @model_validator(mode="after")
    def _addresses(self) -> Email:
        if self.host is not None and self.sender is None:
            raise ValueError("email.sender is needed with email.host")
        for text in (*self.operators, *([self.sender] if self.sender else [])):
            if not is_mail_address(text):
                raise ValueError("an address is not one that mail can be sent to")
        return self
