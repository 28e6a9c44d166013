"""Migrations: numbered SQL files, applied in order by the owner role, never edited afterwards.

A file's first line says which kinds of schema it is for (`-- applies-to: control cell`). Statements
are run one by one (Citus ships DDL only so), each file in a transaction with a short lock timeout.
The checksum of every applied file is stored; a changed file is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql

from paymaster.db import partitions
from paymaster.db.privileges import APPEND_ONLY, DELETABLE, READ_ONLY, UPDATABLE
from paymaster.kernel.errors import Broken

SUPPORTED_SPREAD = 1
"""Code of version N serves schemas of version N and N - 1."""

_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql\Z")
LOCK_KEY = 727_061_001


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    version: int
    name: str
    kinds: frozenset[str]
    statements: tuple[str, ...]
    checksum: str


def load() -> list[Migration]:
    """All migrations of the package, in order."""
    found: list[Migration] = []
    for file in resources.files("paymaster.db").joinpath("migrations").iterdir():
        match = _NAME.match(file.name)
        if match is None:
            continue
        text = file.read_text(encoding="utf-8")
        header = text.partition("\n")[0]
        if not header.startswith("-- applies-to: "):
            raise Broken("migration-header", f"{file.name} does not say what it applies to.")
        kinds = frozenset(header.removeprefix("-- applies-to: ").split())
        body = re.sub(r"^--.*$|\s--\s.*$", "", text, flags=re.MULTILINE)
        statements = tuple(part.strip() for part in body.split(";\n") if part.strip())
        checksum = hashlib.sha256(text.encode()).hexdigest()
        found.append(Migration(int(match[1]), match[2], kinds, statements, checksum))
    found.sort(key=lambda migration: migration.version)
    return found


def latest_version(kind: str) -> int:
    """The version that a schema of this kind has after all migrations."""
    return max(migration.version for migration in load() if kind in migration.kinds)


def migrate(
    owner_dsn: str,
    schema: str,
    kind: str,
    *,
    app_role: str,
    now: datetime,
    legal_moves: Iterable[tuple[str, str, str, str]] = (),
) -> list[str]:
    """Bring one schema up to date; returns the names of the files applied now.

    Safe to run by several processes at once. Raises Broken `migration-changed` when an applied
    file differs from what was applied.
    """
    with psycopg.connect(owner_dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
        try:
            identifier = sql.Identifier(schema)
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(identifier))
            connection.execute(sql.SQL("SET search_path TO {}").format(identifier))
            connection.execute("SET lock_timeout TO '5s'")
            applied = _apply(connection, kind, now)
            _seed(connection, kind, now, sorted(set(legal_moves)))
            if kind == "cell":
                partitions.ensure(connection, now)
            _grant(connection, schema, app_role)
            return applied
        finally:
            connection.execute("SELECT pg_advisory_unlock(%s)", (LOCK_KEY,))


def _apply(connection: psycopg.Connection[Any], kind: str, now: datetime) -> list[str]:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY,"
        " name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL)"
    )
    rows = connection.execute("SELECT version, checksum FROM schema_version").fetchall()
    have: dict[int, str] = dict(rows)
    applied: list[str] = []
    for migration in load():
        if kind not in migration.kinds:
            continue
        known = have.get(migration.version)
        if known is not None:
            if known != migration.checksum:
                raise Broken("migration-changed", f"{migration.name} was edited after it ran.")
            continue
        with connection.transaction():
            for statement in migration.statements:
                connection.execute(cast("LiteralString", statement))
            connection.execute(
                "INSERT INTO schema_version VALUES (%s, %s, %s, %s)",
                (migration.version, migration.name, migration.checksum, now),
            )
        applied.append(f"{migration.version:04d}_{migration.name}")
    return applied


def _seed(
    connection: psycopg.Connection[Any],
    kind: str,
    now: datetime,
    legal_moves: Sequence[tuple[str, str, str, str]],
) -> None:
    with connection.transaction():
        connection.execute(
            "INSERT INTO head (id, seq, recorded_at) VALUES (1, 0, %s) ON CONFLICT (id) DO NOTHING",
            (now,),
        )
        connection.execute(
            "INSERT INTO permit (number) SELECT generate_series(1, 2)"
            " ON CONFLICT (number) DO NOTHING"
        )
        connection.execute(
            "INSERT INTO worker (number, holder, token, last_ms, expires_at)"
            " SELECT n, '', 0, 0, %s FROM generate_series(0, 63) AS n"
            " ON CONFLICT (number) DO NOTHING",
            (now,),
        )
        if kind == "cell":
            connection.cursor().executemany(
                "INSERT INTO legal_move (machine, source, event, target) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (machine, source, event, target) DO NOTHING",
                legal_moves,
            )


def _grant(connection: psycopg.Connection[Any], schema: str, app_role: str) -> None:
    """Grant exactly what `privileges` lists; partitions are reached through their parent only."""
    role, space = sql.Identifier(app_role), sql.Identifier(schema)
    rows = connection.execute(
        "SELECT c.relname, c.relispartition FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relkind IN ('r', 'p') ORDER BY 1",
        (schema,),
    ).fetchall()
    with connection.transaction():
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(space, role))
        for name, is_partition in rows:
            table = sql.Identifier(schema, name)
            connection.execute(sql.SQL("REVOKE ALL ON {} FROM {}").format(table, role))
            if is_partition:
                continue
            rights: list[sql.Composable] = [sql.SQL("SELECT")]
            if name not in READ_ONLY:
                rights.append(sql.SQL("INSERT"))
            if name in UPDATABLE:
                columns = sql.SQL(", ").join(sql.Identifier(c) for c in UPDATABLE[name])
                rights.append(sql.SQL("UPDATE ({})").format(columns))
            elif name not in APPEND_ONLY and name not in READ_ONLY:
                raise Broken("privileges-missing", f"Table {name} is not listed in privileges.")
            if name in DELETABLE:
                rights.append(sql.SQL("DELETE"))
            connection.execute(
                sql.SQL("GRANT {} ON {} TO {}").format(sql.SQL(", ").join(rights), table, role)
            )
