"""A schema with some records in every table that the hash chain covers, made from its format."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from tests.world import START, World

from paymaster.db import seal_format
from paymaster.db.seal import Place
from paymaster.db.seal_table import Column, Table
from paymaster.kernel.clock import milliseconds
from paymaster.kernel.ids import time_floor
from paymaster.roles.sealing import Sealer

Row = dict[str, Any]


@contextmanager
def superuser(world: World, schema: str) -> Iterator[psycopg.Connection[Row]]:
    """Somebody who may do everything to a schema, past foreign keys too."""
    with psycopg.Connection[Row].connect(
        world.owner_dsn, autocommit=True, row_factory=dict_row
    ) as connection:
        connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(schema)))
        connection.execute("SET session_replication_role TO replica")
        yield connection


async def seal_all(place: Place) -> None:
    """Seal whatever there is."""
    sealer = Sealer(place, lease_length=timedelta(seconds=60), interval=timedelta())
    while await sealer.step():
        continue
    await sealer.give_up()


def value(column: Column, number: int) -> Any:
    """Something of a column's type, another one for each number; NULL for some where it may be."""
    if column.nullable and number // 1000 % 2:
        return None
    small = number % 30_000
    made: dict[str, Any] = {
        "bigint": number,
        "integer": number,
        "smallint": small,
        "numeric": number,
        "boolean": number % 2 == 0,
        "text": f"{column.name} {number}",
        "jsonb": json.dumps({"n": number}),
        "bytea": hashlib.sha256(str(number).encode()).digest(),
        "date": (START + timedelta(days=small)).date(),
        "timestamptz": START + timedelta(seconds=small),
    }
    return made[column.type]


def other(table: Table, column: Column, old: Any) -> Any:
    """A different value of the column that the table's own checks allow."""
    if (table.name, column.name) == ("environment", "mode"):
        return "test" if old == "live" else "live"
    if (table.name, column.name) == ("commit", "first_seq"):
        return old - 1
    if (table.name, column.name) == ("posting", "id"):
        return old + 7
    if old is None:
        return value(Column(column.name, column.type, nullable=False), 77)
    changed: dict[str, Any] = {
        "bigint": lambda: old + 1,
        "integer": lambda: old + 1,
        "smallint": lambda: old + 1,
        "numeric": lambda: old + 1,
        "boolean": lambda: not old,
        "text": lambda: f"{old} ",
        "jsonb": lambda: json.dumps({**old, "m": None}),
        "bytea": lambda: bytes([old[0] ^ 1]) + old[1:],
        "date": lambda: old + timedelta(days=1),
        "timestamptz": lambda: old + timedelta(microseconds=1),
    }
    return changed[column.type]()


def insert(connection: psycopg.Connection[Row], table: str, row: Row) -> None:
    """Put one record in."""
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(sql.Placeholder() * len(row)),
        ),
        list(row.values()),
    )


def fill(world: World, schema: str, kind: str, places: Iterable[int]) -> None:
    """A commit for each place, with a record or two in every covered table."""
    tables = seal_format.tables(seal_format.NEWEST, kind)
    with superuser(world, schema) as connection:
        found = connection.execute("SELECT seq FROM head").fetchone()
        seq = found["seq"] if found else 0
        for place in places:
            size = _commit(connection, tables, place, seq)
            seq += size
        connection.execute("UPDATE head SET seq = %s", (seq,))


def _commit(
    connection: psycopg.Connection[Row], tables: Sequence[Table], place: int, seq: int
) -> int:
    base = time_floor(milliseconds(START)) + place * 1000
    ordinal, made = 0, dict[str, Row]()
    for number, table in enumerate(tables):
        for copy in range(2 if table.name == "posting" else 1):
            row = {c.name: value(c, base + number * 10 + copy) for c in table.columns}
            _fit(table, row, made, base, place, copy)
            if table.name == "commit":
                row["first_seq"] = seq + 1
                row["last_seq"] = seq + sum(not t.hangs for t in tables) - 1
            elif not table.hangs:
                row["commit_id"], row["ordinal"] = base, ordinal
                ordinal += 1
            insert(connection, table.name, row)
            made[f"{table.name}{copy}"] = row
    return ordinal


def _fit(table: Table, row: Row, made: dict[str, Row], base: int, place: int, copy: int) -> None:
    """What ties a record to the others of its commit, and what its table's checks ask for."""
    for column in table.columns:
        if column.type == "integer":
            row[column.name] = None if row[column.name] is None else 10 * place + 20
    match table.name:
        case "commit":
            row.update(id=base, recorded_at=START - timedelta(days=1))
        case "environment":
            row["mode"] = "live"
        case "archive":
            row.update(low_id=-9, high_id=-1, entries=0, postings=0, last_seq=0)
        case "entry":
            row["effective_at"] = START - timedelta(days=2)
            row.update(first_posting_id=base + 500, last_posting_id=base + 501)
        case "posting":
            row.update(id=base + 500 + copy, entry_id=made["entry0"]["id"])
            row["destination_id"] = row["source_id"] + 100_000
            row.update(source_number=64, destination_number=5)
        case "account_mark" | "late_leg":
            source = made["posting0"]
            row.update(account_id=source["source_id"], number=64, posting_id=source["id"])
        case "answer" | "progress":
            row.update({name: made["event0"][name] for name in row if name in made["event0"]})
        case _:
            return


def new_version(folder: Path, name: str) -> None:
    """The next version beside those that are there."""
    number = len(list(folder.glob(f"{name}*"))) + 1
    path = folder / (f"{name}.{number}" if number > 1 else name)
    path.write_text("base64:" + base64.b64encode(os.urandom(32)).decode())
    path.chmod(0o600)
