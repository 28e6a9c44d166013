"""The server that is measured: one of our own in a temporary directory, or one by address.

Durability is never traded for speed: our own server runs with fsync, synchronous_commit and
full_page_writes on, whatever else it is given.
"""

from __future__ import annotations

import itertools
import os
import secrets
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString, Self, cast

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from paymaster.db.embedded import APP_ROLE, EmbeddedPostgres

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "max_connections": "200",
}
"""Of our own server. The large log keeps a checkpoint from falling into one contestant's slice."""

_OTHER_APP_ROLE = "paymaster_bench_app"
_numbers = itertools.count(1)


class BenchServer:
    """Databases on the measured server, all dropped again at the end."""

    def __init__(self, owner_dsn: str, app_role: str, password: str | None, kind: str) -> None:
        self.app_role = app_role
        self.kind = kind
        self._owner_dsn = owner_dsn
        self._password = password
        self._made: list[str] = []

    def owner_dsn(self, database: str = "postgres") -> str:
        """Where the owner connects."""
        return make_conninfo(self._owner_dsn, dbname=database)

    def app_dsn(self, database: str) -> str:
        """Where the application's role connects."""
        parts = conninfo_to_dict(self._owner_dsn)
        parts.update(dbname=database, user=self.app_role)
        if self._password is not None:
            parts["password"] = self._password
        return make_conninfo("", **parts)

    def create_database(self, purpose: str, *, template: str = "template0") -> str:
        """A new database, copied from a template file by file; returns its name."""
        name = f"paymaster_bench_{os.getpid()}_{next(_numbers)}_{purpose}"[:63]
        self._run(
            "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY",
            sql.Identifier(name),
            sql.Identifier(template),
        )
        self._run(
            "GRANT CONNECT ON DATABASE {} TO {}",
            sql.Identifier(name),
            sql.Identifier(self.app_role),
        )
        self._made.append(name)
        return name

    def drop_database(self, name: str) -> None:
        """Drop one that was made here."""
        self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(name))
        self._made.remove(name)

    def drop_all(self) -> None:
        """Drop all that were made here."""
        for name in list(self._made):
            self.drop_database(name)

    def checkpoint(self) -> None:
        """Write everything out, so that the next slice does not pay for the one before."""
        self._run("CHECKPOINT")

    def _run(self, statement: LiteralString, *parts: sql.Composable) -> None:
        with psycopg.connect(self.owner_dsn(), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*parts))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop_all()


@contextmanager
def open_server(dsn: str | None) -> Generator[BenchServer]:
    """The server that `dsn` names (as a superuser), or one of our own for as long as this lasts."""
    if dsn is not None:
        try:
            with BenchServer(dsn, _OTHER_APP_ROLE, _new_role(dsn), "by address") as server:
                yield server
        finally:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(_OTHER_APP_ROLE)))
        return
    with tempfile.TemporaryDirectory(prefix="paymaster-bench-") as folder:
        embedded = EmbeddedPostgres(
            Path(folder) / "postgres", settings=SETTINGS, exit_with_owner=True
        )
        with embedded:
            password = conninfo_to_dict(embedded.app_dsn("postgres")).get("password")
            yield BenchServer(
                embedded.owner_dsn("postgres"),
                APP_ROLE,
                None if password is None else str(password),
                "embedded",
            )


def _new_role(dsn: str) -> str:
    password = secrets.token_urlsafe(24)
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(
            "SELECT 1 FROM pg_roles WHERE rolname = %s", (_OTHER_APP_ROLE,)
        ).fetchone()
        verb = cast("LiteralString", "ALTER" if found else "CREATE")
        connection.execute(
            sql.SQL("{} ROLE {} LOGIN NOSUPERUSER PASSWORD {}").format(
                sql.SQL(verb), sql.Identifier(_OTHER_APP_ROLE), sql.Literal(password)
            )
        )
    return password


def owner_rows(dsn: str, statement: LiteralString, *params: Any) -> list[tuple[Any, ...]]:
    """Rows read as the owner from the bench cell's schema."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO cell_1")
        return connection.execute(statement, params).fetchall()
