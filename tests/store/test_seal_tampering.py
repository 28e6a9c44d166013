"""What a superuser does to sealed records is found, and the first altered record is named.

Made from the catalogue and the format: every column of every covered table is changed once, rows
are deleted, swapped and put in, seals are altered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb
from tests.sealed import Row, fill, insert, other, seal_all, superuser
from tests.world import PostgresServer, World, make_world

from paymaster.db import seal, seal_format, seal_verify
from paymaster.db.seal import Head, Place
from paymaster.db.seal_table import Column, Table, shown
from paymaster.db.seal_verify import Finding

SCHEMAS = {"control": "control", "cell": "cell_1"}


@asynccontextmanager
async def _sealed(postgres: PostgresServer, *blocks: tuple[int, ...]) -> AsyncIterator[World]:
    """Sealed schemas with records in every table."""
    async with make_world(postgres) as made:
        for kind, schema in SCHEMAS.items():
            for places in blocks:
                fill(made, schema, kind, places)
                await seal_all(place_of(made, kind))
        yield made


@pytest.fixture
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    """Four commits in one block."""
    async with _sealed(postgres, (0, 1, 2, 3)) as made:
        yield made


@pytest.fixture
async def two_blocks(postgres: PostgresServer) -> AsyncIterator[World]:
    """Four commits in two blocks."""
    async with _sealed(postgres, (0, 1), (2, 3)) as made:
        yield made


def place_of(world: World, kind: str) -> Place:
    return world.cell if kind == "cell" else world.dbs.control


async def first(world: World, kind: str, exported: Head | None = None) -> Finding | None:
    report = await seal_verify.verify(place_of(world, kind), exported)
    return report.findings[0] if report.findings else None


class Tampered:
    """The rows of one table as they were, and the way back."""

    def __init__(self, connection: psycopg.Connection[Row], table: Table) -> None:
        self.connection, self.table = connection, table
        self.name = sql.Identifier(table.name)
        self._run("CREATE TEMP TABLE saved AS SELECT * FROM {}")
        self.rows = self._rows()

    def _run(self, statement: LiteralString) -> None:
        self.connection.execute(sql.SQL(statement).format(self.name))

    def _rows(self) -> list[Row]:
        """In the order of commits: every key begins with what grows."""
        order = "last_seq" if self.table.name == "commit" else None
        keys = [order] if order else ["commit_id"] if not self.table.hangs else [self.table.key[0]]
        statement = sql.SQL("SELECT * FROM {} ORDER BY {}").format(
            self.name, sql.SQL(", ").join(map(sql.Identifier, keys))
        )
        return self.connection.execute(statement).fetchall()

    def where(self, row: Row) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(row[name]))
            for name in self.table.key
        )

    def update(self, row: Row, name: str, value: object) -> None:
        self.connection.execute(
            sql.SQL("UPDATE {} SET {} = {} WHERE {}").format(
                self.name, sql.Identifier(name), sql.Placeholder(), self.where(row)
            ),
            (value,),
        )

    def delete(self, row: Row) -> None:
        self.connection.execute(
            sql.SQL("DELETE FROM {} WHERE {}").format(self.name, self.where(row))
        )

    def restore(self) -> None:
        self._run("DELETE FROM {}")
        self._run("INSERT INTO {} SELECT * FROM saved")

    def close(self) -> None:
        self.connection.execute("DROP TABLE saved")

    def named(self, row: Row) -> str:
        """How a record is named that is there."""
        values = self.connection.execute(
            sql.SQL("SELECT {} FROM {} t WHERE {}").format(
                sql.SQL(", ").join(
                    sql.SQL("{} AS {}").format(
                        sql.SQL(shown(self.table, name)),  # pyright: ignore[reportArgumentType]
                        sql.Identifier(name),
                    )
                    for name in self.table.key
                ),
                self.name,
                self.where(row),
            )
        ).fetchone()
        assert values is not None
        return ", ".join(f"{name}={value}" for name, value in values.items())

    def placed(self, row: Row) -> str:
        """How the place is named at which a record was."""
        match self.table.name:
            case "commit":
                return f"first_seq={row['first_seq']}"
            case "posting":
                return f"id={row['id']}, entry_id={row['entry_id']}"
            case "account_mark" | "late_leg":
                return f"entry_id={self._entry(row)}"
            case "answer" | "progress":
                return f"source={row['source']}, event_id={row['event_id']}"
            case _:
                return f"commit_id={row['commit_id']}, ordinal={row['ordinal']}"

    def _entry(self, row: Row) -> int:
        found = self.connection.execute(
            "SELECT entry_id FROM posting WHERE id = %s", (row["posting_id"],)
        ).fetchone()
        assert found is not None
        return found["entry_id"]


@contextmanager
def tampering(world: World, kind: str, table: Table) -> Iterator[Tampered]:
    """One table in the hands of a superuser; as it was afterwards."""
    with superuser(world, SCHEMAS[kind]) as connection:
        tampered = Tampered(connection, table)
        yield tampered
        tampered.restore()
        tampered.close()


def covered(kind: str) -> tuple[Table, ...]:
    return seal_format.tables(seal_format.NEWEST, kind)


@pytest.mark.parametrize("kind", SCHEMAS)
async def test_every_column_of_every_record_counts(world: World, kind: str) -> None:
    assert await first(world, kind) is None
    for table in covered(kind):
        with tampering(world, kind, table) as found:
            row = found.rows[len(found.rows) // 2]
            for column in table.columns:
                await _flip(world, kind, found, row, column)
    assert await first(world, kind) is None


async def _flip(world: World, kind: str, found: Tampered, row: Row, column: Column) -> None:
    """Change one column of one row; the record is named by what it is now, or by where it was."""
    place, changed = found.placed(row), other(found.table, column, row[column.name])
    found.update(row, column.name, changed)
    if column.name in found.table.key:
        key = changed if column.type != "jsonb" else row[column.name]
        row = {**row, column.name: key}
    named = found.named(row)
    finding = await first(world, kind)
    assert finding is not None, (found.table.name, column.name)
    assert finding.table == found.table.name, (column.name, finding)
    assert finding.key in (named, place), (column.name, named, place)
    assert finding.what in ("altered", "missing", "added"), finding
    found.restore()


@pytest.mark.parametrize("kind", SCHEMAS)
async def test_a_deleted_row_is_missed_where_it_was(world: World, kind: str) -> None:
    for table in covered(kind):
        with tampering(world, kind, table) as found:
            rows = [row for row in found.rows if row.get("commit_id") != 0]
            for row in (rows[0], rows[len(rows) // 2], rows[-1]):
                place = found.placed(row)
                found.delete(row)
                finding = await first(world, kind)
                assert finding is not None, table.name
                assert (finding.table, finding.key) == (table.name, place)
                assert finding.what == "missing"
                found.restore()


@pytest.mark.parametrize("kind", SCHEMAS)
async def test_swapped_content_is_found_at_the_earlier_row(world: World, kind: str) -> None:
    for table in covered(kind):
        with tampering(world, kind, table) as found:
            rows = [row for row in found.rows if row.get("commit_id") != 0]
            one, two = rows[0], rows[-1]
            kept = {*table.key, "commit_id", "ordinal", "first_seq", "last_seq"}
            if all(column.name in kept for column in table.columns):
                kept = {"commit_id", "ordinal"}
            place = found.placed(one)
            found.delete(one)
            found.delete(two)
            for row, content in ((one, two), (two, one)):
                names = [column.name for column in table.columns]
                values = {n: row[n] if n in kept else content[n] for n in names}
                insert(found.connection, table.name, _writable(table, values))
            finding = await first(world, kind)
            assert finding is not None, table.name
            assert finding.table == table.name
            assert finding.key in (place, found.named(one), found.named(two))


def _writable(table: Table, row: Row) -> Row:
    """JSON as it is written."""
    kinds = {column.name: column.type for column in table.columns}
    return {n: Jsonb(v) if kinds[n] == "jsonb" and v is not None else v for n, v in row.items()}


@pytest.mark.parametrize("kind", SCHEMAS)
async def test_a_row_that_was_put_in_is_found(world: World, kind: str) -> None:
    """In the place of a commit that is sealed, and in a commit of its own that never was."""
    for table in covered(kind):
        with tampering(world, kind, table) as found:
            row = found.rows[-1]
            for stranger in _strangers(table, row):
                insert(found.connection, table.name, _writable(table, stranger))
                finding = await first(world, kind)
                assert finding is not None, (table.name, stranger)
                assert finding.table == table.name, finding
                assert finding.what in ("added", "stray", "missing"), finding
                found.restore()


def _strangers(table: Table, row: Row) -> Iterator[Row]:
    new = {column.name: other(table, column, row[column.name]) for column in table.columns}
    if table.name == "commit":
        yield {**new, "first_seq": row["last_seq"] + 1, "last_seq": row["last_seq"] + 1}
    elif table.name in ("outbox", "audit"):
        yield {**row, "ordinal": 900}
        yield {**row, "commit_id": row["commit_id"] + 1}
    elif not table.hangs:
        yield {**new, "commit_id": row["commit_id"], "ordinal": row["ordinal"]}
        yield {**new, "commit_id": row["commit_id"] + 1, "ordinal": 0}
        if table.legacy is not None:
            yield {**new, "commit_id": 0, "ordinal": 0}
    else:
        yield new


@pytest.mark.parametrize("kind", SCHEMAS)
async def test_an_altered_or_removed_seal_is_found(two_blocks: World, kind: str) -> None:
    world = two_blocks
    with superuser(world, SCHEMAS[kind]) as connection:
        connection.execute("CREATE TEMP TABLE saved AS SELECT * FROM seal")
        for change in (
            "block = 9",
            "format = format + 1",
            "first_seq = first_seq + 1",
            "last_seq = last_seq + 1",
            "tables = tables || '{audit}'",
            "counts = counts || 1",
            "digests[1] = sha256(digests[1])",
            "digests = digests || '\\x00'::bytea",
            "marks = set_byte(marks, 5, get_byte(marks, 5) # 1)",
            "marks = marks || '\\x00'::bytea",
            "previous = sha256(previous)",
            "hash = sha256(hash)",
            "sealed_at = sealed_at + interval '1 microsecond'",
            None,
        ):
            what = f"UPDATE seal SET {change}" if change else "DELETE FROM seal"
            connection.execute(f"{what} WHERE block = 1".encode())
            finding = await first(world, kind)
            assert finding is not None, change
            assert (finding.table, finding.key) == ("seal", "block=1"), change
            connection.execute("DELETE FROM seal")
            connection.execute("INSERT INTO seal SELECT * FROM saved")
    assert await first(world, kind) is None


@pytest.mark.parametrize("kind", SCHEMAS)
async def test_loss_of_the_tail_is_found_only_against_an_exported_head(
    two_blocks: World, kind: str
) -> None:
    world, place = two_blocks, place_of(two_blocks, kind)
    exported = await place.read(lambda tx: seal.head(tx, seal.chain_of(place)))
    assert exported is not None
    with superuser(world, SCHEMAS[kind]) as connection:
        rows = connection.execute("SELECT last_seq FROM seal WHERE block = 1").fetchall()
        _cut(connection, covered(kind), rows[0]["last_seq"])
    assert await first(world, kind) is None
    finding = await first(world, kind, exported)
    assert finding is not None
    assert (finding.table, finding.what) == ("seal", "missing")
    assert finding.key == f"block=2, last_seq={exported.last_seq}"
    fill(world, SCHEMAS[kind], kind, (7, 8))
    await seal_all(place)
    assert await first(world, kind) is None
    finding = await first(world, kind, exported)
    assert finding is not None
    assert (finding.key, finding.what) == ("block=2", "rewritten")


_LEG = "t.posting_id BETWEEN p.first_posting_id AND p.last_posting_id"


def _cut(connection: psycopg.Connection[Row], tables: tuple[Table, ...], seq: int) -> None:
    """Take away every trace of what came after a seq."""
    connection.execute(
        "CREATE TEMP TABLE gone AS SELECT id FROM commit WHERE last_seq > %s", (seq,)
    )
    for child, parent, link in (
        ("account_mark", "entry", _LEG),
        ("late_leg", "entry", _LEG),
        ("posting", "entry", "t.entry_id = p.id"),
        ("answer", "event", "t.event_id = p.event_id"),
        ("progress", "event", "t.event_id = p.event_id"),
    ):
        if child in {table.name for table in tables}:
            connection.execute(
                f"DELETE FROM {child} t USING {parent} p"
                f" WHERE {link} AND p.commit_id IN (SELECT id FROM gone)".encode()
            )
    for table in tables:
        if not table.hangs:
            column = "id" if table.name == "commit" else "commit_id"
            connection.execute(
                f"DELETE FROM {table.name} WHERE {column} IN (SELECT id FROM gone)".encode()
            )
    connection.execute("DELETE FROM seal WHERE last_seq > %s", (seq,))
    connection.execute("UPDATE head SET seq = %s", (seq,))
