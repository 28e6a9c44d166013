"""What the owner does inside a running server: the application's role, databases."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg import sql

from paymaster.db.embedded.failure import EmbeddedPostgresError

_DATABASE_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def ensure_role(
    connection: psycopg.Connection[Any], role: str, password: str, *, renew: bool
) -> None:
    """Make an unprivileged role that may log in; `renew` sets the password of an existing one.

    The server is sent the SCRAM verifier only, so that its log can never hold the password.
    """
    found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    if found and not renew:
        return
    verifier = connection.pgconn.encrypt_password(
        password.encode(), role.encode(), b"scram-sha-256"
    ).decode()
    connection.execute(
        sql.SQL(
            "{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
            " PASSWORD {}"
        ).format(
            sql.SQL("ALTER" if found else "CREATE"), sql.Identifier(role), sql.Literal(verifier)
        )
    )


def create_database(
    connection: psycopg.Connection[Any], name: str, template: str, app_role: str
) -> None:
    """Create a database unless it exists, and let nobody but the application's role connect.

    Raises:
        EmbeddedPostgresError: the name is not lower case letters, digits and underscores.
    """
    if not _DATABASE_NAME.fullmatch(name):
        raise EmbeddedPostgresError(
            f"{name!r} is no database name: use at most 63 of a-z, 0-9 and _"
        )
    connection.execute("SELECT pg_advisory_lock(hashtextextended('create database', 0))")
    if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
        return
    names = {
        "database": sql.Identifier(name),
        "template": sql.Identifier(template),
        "app": sql.Identifier(app_role),
    }
    for statement in (
        "CREATE DATABASE {database} TEMPLATE {template}",
        "REVOKE ALL ON DATABASE {database} FROM PUBLIC",
        "GRANT CONNECT ON DATABASE {database} TO {app}",
    ):
        connection.execute(sql.SQL(statement).format(**names))


def drop_database(connection: psycopg.Connection[Any], name: str) -> None:
    """Drop a database if it is there, ending the connections to it."""
    connection.execute(
        sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    )
