"""Rows put into tables past everything, for tests that only ask whether somebody may see them."""

from __future__ import annotations

from datetime import date
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from tests.world import START, World

_VALUES: dict[str, Any] = {
    "bigint": 7,
    "integer": 7,
    "smallint": 1,
    "boolean": False,
    "text": "x",
    "date": date(2026, 11, 19),
    "timestamp with time zone": START,
    "bytea": b"x" * 32,
    "jsonb": Jsonb({}),
    "ARRAY": ["x"],
    "numeric": 0,
}
_NAMED = {"asset": "EUR"}


def plant(world: World, schema: str, table: str, **given: Any) -> None:
    """One row: columns that must have a value and are not given get one by their type.

    Neither rights nor foreign keys are looked at.
    """
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        needed = connection.execute(
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = %s AND table_name = %s AND is_nullable = 'NO'",
            (schema, table),
        ).fetchall()
        row = {name: _NAMED.get(name, _VALUES[kind]) for name, kind in needed} | given
        connection.execute(
            sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(schema, table),
                sql.SQL(", ").join(map(sql.Identifier, row)),
                sql.SQL(", ").join(sql.Placeholder() * len(row)),
            ),
            list(row.values()),
        )
