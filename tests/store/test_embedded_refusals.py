"""What the embedded server refuses, and that it says what to do instead."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from paymaster.db.embedded import EmbeddedPostgres, EmbeddedPostgresError, find_binaries

MakeServer = Callable[..., EmbeddedPostgres]


def test_another_major_version_is_refused(tmp_path: Path, make_server: MakeServer) -> None:
    server = make_server()
    server.start()
    server.stop()
    (tmp_path / "data" / "postgres" / "PG_VERSION").write_text("14\n")
    with pytest.raises(EmbeddedPostgresError, match=r"written by PostgreSQL 14.*PAYMASTER_PG_BIN"):
        server.start()
    (tmp_path / "data" / "postgres" / "PG_VERSION").write_text(f"{find_binaries().major}\n")
    server.start()


def test_lost_owner_password_is_named(tmp_path: Path, make_server: MakeServer) -> None:
    server = make_server()
    server.start()
    server.stop()
    (tmp_path / "data" / "secrets" / "postgres_owner").unlink()
    with pytest.raises(EmbeddedPostgresError, match=r"restore .*postgres_owner"):
        make_server().start()


@pytest.mark.parametrize("option", ["port", "listen_addresses", "unix_socket_directories"])
def test_settings_that_are_not_the_callers(tmp_path: Path, option: str) -> None:
    with pytest.raises(EmbeddedPostgresError, match=option):
        EmbeddedPostgres(tmp_path, settings={option: "x"})


def test_a_setting_postgres_refuses_is_reported(make_server: MakeServer) -> None:
    server = make_server(settings={"shared_buffers": "many"})
    with pytest.raises(EmbeddedPostgresError, match="shared_buffers"):
        server.start()
    assert not server.is_running


def test_folder_that_is_no_cluster_is_left_alone(tmp_path: Path, make_server: MakeServer) -> None:
    precious = tmp_path / "data" / "postgres" / "precious"
    precious.mkdir(parents=True)
    with pytest.raises(EmbeddedPostgresError, match="no PG_VERSION"):
        make_server().start()
    assert precious.is_dir()


def test_database_names(make_server: MakeServer) -> None:
    server = make_server()
    server.start()
    with pytest.raises(EmbeddedPostgresError, match="database name"):
        server.create_database('x"; DROP')
    server.create_database("one")
    server.create_database("two", template="one")
    server.drop_database("two")
    server.drop_database("two")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(server.owner_dsn("two"))


def test_binaries_named_by_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_binaries()
    monkeypatch.setenv("PAYMASTER_PG_BIN", str(found.bin_dir))
    assert find_binaries().origin == "$PAYMASTER_PG_BIN"
    monkeypatch.setenv("PAYMASTER_PG_BIN", str(tmp_path))
    with pytest.raises(EmbeddedPostgresError, match="PAYMASTER_PG_BIN"):
        find_binaries()


def test_connection_string_before_start(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data")
    assert not server.is_running
    with pytest.raises(EmbeddedPostgresError, match="start"):
        server.owner_dsn("postgres")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand the data to another user")
def test_without_user_namespaces_root_hands_the_data_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_server: MakeServer
) -> None:
    """As in a container whose rules forbid unshare: refused by name, or run as another user."""
    monkeypatch.setattr("paymaster.db.embedded.launch._namespace_identity", lambda: None)
    tmp_path.chmod(0o700)
    with pytest.raises(EmbeddedPostgresError, match="who cannot enter"):
        make_server().start()
