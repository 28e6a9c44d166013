"""What all tests share: a PostgreSQL server of their own, and the data that is kept outside."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import Protocol

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.oidc_provider import oidc_provider  # noqa: F401 - a fixture for all

from paymaster.db.embedded import APP_ROLE, EmbeddedPostgres

PROJECT = Path(__file__).resolve().parent.parent
_OTHER_SERVER = "PAYMASTER_TEST_DSN"
_OUTSIDE_DATA = "PAYMASTER_DATA"
_OTHER_APP_ROLE = "paymaster_test_app"
_numbers = itertools.count(1)


class Postgres(Protocol):
    """A server that tests may do with as they like."""

    app_role: str

    def owner_dsn(self, database: str) -> str: ...
    def app_dsn(self, database: str) -> str: ...
    def create_database(self, name: str, *, template: str = "template0") -> None: ...
    def drop_database(self, name: str) -> None: ...


class _OwnPostgres(EmbeddedPostgres):
    app_role = APP_ROLE


class _OtherPostgres:
    """The server that PAYMASTER_TEST_DSN names, with an application role of our own."""

    app_role = _OTHER_APP_ROLE

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._password = secrets.token_urlsafe(24)
        role = sql.Identifier(self.app_role)
        with psycopg.connect(dsn, autocommit=True) as connection:
            found = connection.execute(
                "SELECT 1 FROM pg_roles WHERE rolname = %s", (self.app_role,)
            ).fetchone()
            verb = sql.SQL("ALTER" if found else "CREATE")
            connection.execute(
                sql.SQL("{} ROLE {} LOGIN NOSUPERUSER PASSWORD {}").format(
                    verb, role, sql.Literal(self._password)
                )
            )

    def owner_dsn(self, database: str) -> str:
        return make_conninfo(self._dsn, dbname=database)

    def app_dsn(self, database: str) -> str:
        parts = conninfo_to_dict(self._dsn)
        parts.update(dbname=database, user=self.app_role, password=self._password)
        return make_conninfo("", **parts)

    def create_database(self, name: str, *, template: str = "template0") -> None:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))

    def drop_database(self, name: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Generator[Postgres]:
    """One server for each pytest process: an embedded one, or that of PAYMASTER_TEST_DSN."""
    dsn = os.environ.get(_OTHER_SERVER)
    if dsn:
        yield _OtherPostgres(dsn)
        return
    server = _OwnPostgres(
        tmp_path_factory.mktemp("postgres"),
        settings={"fsync": "off", "full_page_writes": "off", "max_connections": "200"},
        exit_with_owner=True,
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def empty_database(postgres: Postgres) -> Generator[str]:
    """The name of a new database, dropped after the test."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    postgres.create_database(name)
    yield name
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def data_dir_from_outside() -> Path:
    """The folder of published vectors, schemas and lists that are not part of this repository."""
    named = os.environ.get(_OUTSIDE_DATA)
    folder = Path(named) if named else PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}: name its folder in {_OUTSIDE_DATA}")
    return folder
