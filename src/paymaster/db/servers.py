"""Which PostgreSQL servers there are: by address, or embedded ones in the data directory.

The main server holds the directory and cells; further servers hold cells only. Only migrations and
partition upkeep ask for the owner's connection strings.
"""

from __future__ import annotations

from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from paymaster.db.cells import CONTROL_SERVER
from paymaster.db.embedded import APP_ROLE, EmbeddedPostgres
from paymaster.kernel.errors import Refusal
from paymaster.settings import Settings

DATABASE = "paymaster"
"""Name of the database on embedded servers."""

_VERIFIED = "verify-full"


def embedded(settings: Settings) -> dict[str, EmbeddedPostgres]:
    """The embedded servers of this installation, not started."""
    servers: dict[str, EmbeddedPostgres] = {}
    root = settings.database.data_dir
    if settings.database.url is None:
        servers[CONTROL_SERVER] = EmbeddedPostgres(root / "postgres")
    for name in settings.database.embedded_servers:
        servers[name] = EmbeddedPostgres(_folder(root, name))
    return servers


def _folder(root: Path, name: str) -> Path:
    if not name.isidentifier() or name in (CONTROL_SERVER, "postgres", "secrets"):
        raise Refusal("server-name", f"{name!r} cannot name a server.")
    return root / "servers" / name


def app_dsns(settings: Settings, role: str = "cli") -> dict[str, str]:
    """Where the application connects, by name of server. The embedded ones must run.

    `role` is whose certificate is shown, where peers are verified. Raises Refusal `database-tls`.
    """
    dsns = dict(settings.database.servers)
    if settings.database.url is not None:
        dsns[CONTROL_SERVER] = settings.database.url
    dsns = {name: verified(dsn, settings, role) for name, dsn in dsns.items()}
    for name, server in embedded(settings).items():
        dsns[name] = server.app_dsn(DATABASE)
    return dsns


def owner_dsns(settings: Settings) -> dict[str, str]:
    """Where migrations connect. Raises Refusal `owner-url-missing` for a server without one."""
    dsns = dict(settings.database.server_owner_urls)
    if settings.database.owner_url is not None:
        dsns[CONTROL_SERVER] = settings.database.owner_url
    dsns = {name: verified(dsn, settings, "owner") for name, dsn in dsns.items()}
    for name, server in embedded(settings).items():
        dsns[name] = server.owner_dsn(DATABASE)
    missing = {CONTROL_SERVER, *settings.database.servers} - dsns.keys()
    if missing:
        raise Refusal(
            "owner-url-missing",
            f"No owner address for {', '.join(sorted(missing))}: set database.owner_url or "
            "database.server_owner_urls for migrations.",
        )
    return dsns


def verified(dsn: str, settings: Settings, role: str) -> str:
    """The address with TLS that verifies both sides, where peers are verified; else as it is.

    A server on this machine's socket needs none. Raises Refusal `database-tls` for an address that
    asks for less, `certificate-unusable`.
    """
    identity = settings.peers.identity(role)
    parts = conninfo_to_dict(dsn)
    host = str(parts.get("host") or parts.get("hostaddr") or "")
    if identity is None or not host or host.startswith(("/", "@")):
        return dsn
    if parts.get("sslmode", _VERIFIED) != _VERIFIED:
        raise Refusal(
            "database-tls",
            f"The address of the database on {host} has another sslmode than {_VERIFIED}, which "
            "peers.ca asks for: leave it out.",
        )
    return make_conninfo(
        dsn,
        sslmode=_VERIFIED,
        sslrootcert=str(identity.ca),
        sslcert=str(identity.certificate),
        sslkey=str(identity.key),
        ssl_min_protocol_version="TLSv1.3",
    )


def app_role(settings: Settings) -> str:
    """The role that migrations grant rights to."""
    return settings.database.app_role if settings.database.url else APP_ROLE
