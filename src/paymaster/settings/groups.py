"""The settings, group by group. The description of each field is its documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from paymaster.settings.base import Group, Port, Words
from paymaster.settings.edge import Web

__all__ = ["Api", "Database", "Group", "Hooks", "Limits", "Log", "Port", "Roles"]


class Database(Group):
    """PostgreSQL: embedded by default, any server by address."""

    url: str | None = Field(
        default=None,
        repr=False,
        description="Address of the main PostgreSQL server, as the role `app`: "
        "`postgresql://app@host/paymaster`. Without it the embedded server is started.",
    )
    owner_url: str | None = Field(
        default=None,
        repr=False,
        description="The same server as the role `owner`; only migrations and partition upkeep "
        "use it, no other process should have it.",
    )
    data_dir: Path = Field(
        default=Path(".paymaster"),
        description="Folder of the embedded server and of the generated local keys.",
    )
    pool_size: int = Field(
        default=8, ge=1, le=200, description="Most connections of one process to one server."
    )
    statement_timeout_seconds: int = Field(
        default=30, ge=1, le=3600, description="A statement that runs longer is cancelled."
    )
    merge_batch_items: int = Field(
        default=256,
        ge=1,
        le=1000,
        description="Most concurrent calls of a process that share one transaction.",
    )
    merge_queue_items: int = Field(
        default=4096,
        ge=1,
        le=1_000_000,
        description="Most calls that wait for such a transaction; above it 503 `queue-full`.",
    )
    servers: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="Further servers that hold cells: name to address (role `app`).",
    )

    server_owner_urls: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="The further servers as the role `owner`, for migrations: name to address.",
    )
    embedded_servers: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Names of further embedded servers that hold cells, in the data directory "
        "(in the environment variable separated by commas).",
    )
    app_role: str = Field(
        default="app",
        pattern=r"^[a-z_][a-z0-9_]*$",
        description="Role of `database.url`, to which migrations grant rights.",
    )

    @field_validator("embedded_servers", mode="before")
    @classmethod
    def _split(cls, names: object) -> object:
        return [n for n in re.split(r"[\s,]+", names) if n] if isinstance(names, str) else names

    @field_validator("servers")
    @classmethod
    def _main_is_url(cls, servers: dict[str, str]) -> dict[str, str]:
        if "main" in servers:
            raise ValueError("the main server is database.url")
        return servers


class Api(Web):
    """The HTTP API for apps, users and operators."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: Port = Field(default=8080, description="Port to listen on.")
    public_url: str = Field(
        default="http://127.0.0.1:8080",
        pattern=r"^https?://[^\s/]+(/[^\s]*[^\s/])?$",
        description="How clients reach the API, without a final slash.",
    )
    errors_url: str = Field(
        default="/docs/errors",
        min_length=1,
        description="Page of the error reference; problem types are `<errors_url>#<slug>`.",
    )
    body_limit_bytes: int = Field(
        default=1_048_576,
        ge=1024,
        le=1 << 30,
        description="A larger request body is refused (413).",
    )
    page_limit: int = Field(
        default=100, ge=1, le=200, description="Most items of one page of a list."
    )
    cors_origins: Words = Field(
        default=(),
        description="Origins, such as `https://app.example`, whose pages may call the API from a "
        "browser (in the environment variable separated by commas).",
    )


class Hooks(Web):
    """Where providers deliver their webhooks."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: Port = Field(default=8081, description="Port to listen on.")
    body_limit_bytes: int = Field(
        default=1_048_576, ge=1024, le=1 << 26, description="A larger webhook is refused (413)."
    )


class Roles(Group):
    """The background processes."""

    health_base_port: Port = Field(
        default=8100,
        description="Each role answers `/healthz`, `/readyz` and `/metrics` on this port plus its "
        "number.",
    )
    health_host: str = Field(
        default="127.0.0.1", description="Address of those ports; see also `peers.health`."
    )
    poll_interval_seconds: float = Field(
        default=0.5, ge=0.01, le=60, description="Pause of a role that found nothing due."
    )
    file_poll_interval_seconds: float = Field(
        default=30.0, ge=0.05, le=3600, description="Pause between visits to a provider's files."
    )
    batch_items: int = Field(
        default=500, ge=1, le=10_000, description="Most items that a role claims at once."
    )
    lease_seconds: int = Field(
        default=60, ge=5, le=3600, description="How long a claim holds without a sign of life."
    )
    seal_interval_seconds: float = Field(
        default=10.0,
        ge=0.05,
        le=3600,
        description="How long a commit waits at most for others before it is sealed with them.",
    )
    seal_share: float = Field(
        default=0.25,
        ge=0.01,
        le=1.0,
        description="Share of the time in which sealing works while it is behind; it rests for "
        "the remainder, so that those who post keep their pace.",
    )
    stop_timeout_seconds: int = Field(
        default=20,
        ge=1,
        le=600,
        description="How long a stopping process may finish what it began.",
    )


class Log(Group):
    """Structured logs, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is written."
    )
    format: Literal["json", "console"] = Field(
        default="json", description="`json` for machines, `console` for a terminal."
    )


class Limits(Group):
    """What one caller may ask for."""

    requests_per_minute: int = Field(
        default=6000,
        ge=1,
        le=10_000_000,
        description="Requests of one key, and of one person of the staff; above it 429.",
    )
    user_requests_per_minute: int = Field(
        default=300,
        ge=1,
        le=10_000_000,
        description="Requests of one earner with a token of their own; above it 429.",
    )
    address_requests_per_minute: int = Field(
        default=600,
        ge=1,
        le=10_000_000,
        description="Requests without a valid credential of one address (IPv6: of one /64); above "
        "it the address gets 429.",
    )
    hook_requests_per_minute: int = Field(
        default=60_000,
        ge=1,
        le=10_000_000,
        description="Webhooks of one address; above it 429, and the provider sends them again.",
    )
    event_batch_items: int = Field(
        default=1000, ge=1, le=100_000, description="Most events of one intake request."
    )
    idempotency_days: int = Field(
        default=400,
        ge=1,
        le=3650,
        description="How long a caller's Idempotency-Key is remembered with its answer.",
    )
    destination_cooling_seconds: int = Field(
        default=86_400,
        ge=0,
        le=30 * 86_400,
        description="How long a new payout destination waits before money goes there.",
    )
    destination_failures: int = Field(
        default=3,
        ge=0,
        le=100,
        description="After so many payments in a row that failed because of the destination it is "
        "paused; 0 pauses none.",
    )
