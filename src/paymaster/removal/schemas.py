"""What only the owner of the database may do to the schemas of cells."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql
from psycopg.rows import scalar_row

from paymaster.db.cells import CONTROL_SCHEMA, CONTROL_SERVER
from paymaster.db.migrate import LOCK_KEY
from paymaster.kernel.errors import Broken, Busy
from paymaster.removal.directory import Place

_AT_ONCE = 20
"""Tables dropped in one transaction: each partition and index of them is a lock of the server."""


@asynccontextmanager
async def alone(owners: Mapping[str, str]) -> AsyncGenerator[None]:
    """While nobody else migrates or removes. Raises Busy `environment-busy`."""
    connection = await psycopg.AsyncConnection.connect(owners[CONTROL_SERVER], autocommit=True)
    try:
        async with connection.cursor(row_factory=scalar_row) as cursor:
            await cursor.execute("SELECT pg_try_advisory_lock(%s)", (LOCK_KEY,))
            if not await cursor.fetchone():
                raise Busy(
                    "environment-busy", "An upgrade or another removal is under way; try again."
                )
        yield
    finally:
        await connection.close()


def close_to(owners: Mapping[str, str], places: Sequence[Place], role: str) -> None:
    """The role may no longer use the schemas; transactions under way may still end."""
    _each(owners, places, sql.SQL("REVOKE USAGE ON SCHEMA {} FROM {}"), role)


def open_to(owners: Mapping[str, str], places: Sequence[Place], role: str) -> None:
    """Undo `close_to`."""
    _each(owners, places, sql.SQL("GRANT USAGE ON SCHEMA {} TO {}"), role)


def _each(owners: Mapping[str, str], places: Sequence[Place], text: sql.SQL, role: str) -> None:
    for place in places:
        statement = text.format(sql.Identifier(place.schema_name), sql.Identifier(role))
        with psycopg.connect(_owner(owners, place), autocommit=True) as connection:
            connection.execute(statement)


def _owner(owners: Mapping[str, str], place: Place) -> str:
    if place.server not in owners or place.schema_name == CONTROL_SCHEMA:
        raise Broken("server-missing", f"Cell {place.number} is on unknown server {place.server!r}")
    return owners[place.server]


def drop(owners: Mapping[str, str], places: Sequence[Place]) -> list[str]:
    """Drop the schemas with all that is in them; the names of those that were there."""
    return [place.schema_name for place in places if _drop(_owner(owners, place), place)]


def _drop(owner_dsn: str, place: Place) -> bool:
    schema = sql.Identifier(place.schema_name)
    with psycopg.connect(owner_dsn, autocommit=True) as connection:
        connection.execute("SET lock_timeout TO '10s'")
        there = connection.execute(
            "SELECT 1 FROM pg_namespace WHERE nspname = %s", (place.schema_name,)
        ).fetchone()
        names = _tables(connection, place.schema_name)
        for start in range(0, len(names), _AT_ONCE):
            tables = [sql.Identifier(place.schema_name, n) for n in names[start : start + _AT_ONCE]]
            connection.execute(
                sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(sql.SQL(", ").join(tables))
            )
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(schema))
    return there is not None


def _tables(connection: psycopg.Connection[tuple[object, ...]], schema: str) -> list[str]:
    """Partitions first: a table that has many would need a lock for each of them at once."""
    rows = connection.execute(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relkind IN ('r', 'p')"
        " ORDER BY c.relispartition DESC, c.relname",
        (schema,),
    ).fetchall()
    return [str(row[0]) for row in rows]
