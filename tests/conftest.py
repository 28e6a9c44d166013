"""What all tests share: a PostgreSQL server of their own, and the data that is kept outside."""

from __future__ import annotations

import gc
import itertools
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Protocol

import hypothesis
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.oidc_provider import oidc_provider  # noqa: F401 - a fixture for all

from paymaster.db.embedded import APP_ROLE, EmbeddedPostgres

# How long an example takes says something about the machine that day, nothing about the code.
hypothesis.settings.register_profile("paymaster", deadline=None)
hypothesis.settings.load_profile("paymaster")

PROJECT = Path(__file__).resolve().parent.parent
_OTHER_SERVER = "PAYMASTER_TEST_DSN"
_OUTSIDE_DATA = "PAYMASTER_DATA"
_OTHER_APP_ROLE = "paymaster_test_app"
_MEMORY, _LEFT, _ROOM_BYTES = Path("/dev/shm"), "paymaster-tests-", 2 << 30  # noqa: S108
_ALL_LONG = re.compile(r"^pytestmark = \[?\s*pytest\.mark\.long\b", re.MULTILINE)
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

    def create_database(self, name: str, *, template: str = "template0") -> None:
        """By copying files: in memory that takes a seventh of what logging every page does."""
        names = {
            "database": sql.Identifier(name),
            "template": sql.Identifier(template),
            "app": sql.Identifier(APP_ROLE),
        }
        with self._connect() as connection:
            for statement in (
                "CREATE DATABASE {database} TEMPLATE {template} STRATEGY FILE_COPY",
                "REVOKE ALL ON DATABASE {database} FROM PUBLIC",
                "GRANT CONNECT ON DATABASE {database} TO {app}",
            ):
                connection.execute(sql.SQL(statement).format(**names))


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
    folder = _in_memory() or tmp_path_factory.mktemp("postgres")
    server = _OwnPostgres(
        folder,
        settings={"fsync": "off", "full_page_writes": "off", "max_connections": "200"},
        exit_with_owner=True,
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _in_memory() -> Path | None:
    """A folder in memory, where there is one with room: a database is copied there in 20 ms.

    What runs that were killed have left there is removed.
    """
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < _ROOM_BYTES:
        return None
    for left in _MEMORY.glob(f"{_LEFT}*"):
        pid = left.name.removeprefix(_LEFT).partition("-")[0]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
    made = tempfile.mkdtemp(prefix=f"{_LEFT}{os.getpid()}-", dir=_MEMORY)
    Path(made).chmod(0o755)
    return Path(made)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file all of whose tests are long is not read when those are not wanted.

    One of them makes up its requests while it is read, which takes as long as reading all others.
    """
    if config.option.markexpr != "not long" or not collection_path.match("test_*.py"):
        return None
    return True if _ALL_LONG.search(collection_path.read_text()) else None


def pytest_collection_finish() -> None:
    """What is there once all tests are collected stays: the collector need not look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_power_fails() -> Generator[None]:
    """What this process writes need not outlive the machine's power, as with its PostgreSQL.

    An installation's keys are written through to the disk one by one: 60 ms for each test.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _handle: None)
        yield


@pytest.fixture(autouse=True)
def _settings_stay() -> Generator[None]:
    """A test that leaves settings in the environment would be another one's fault later."""

    def ours() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith("PAYMASTER")}

    before = ours()
    yield
    after = ours()
    for name in after.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
    assert after == before, "this test left settings in the environment"


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
