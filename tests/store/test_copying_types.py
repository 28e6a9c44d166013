"""A row that is inserted in the place of COPY is the same row, or refused for the same reason.

Column by column, for every type that the schemas have: what stands there afterwards, or the error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, LiteralString, cast

import psycopg
import pytest
import pytest_asyncio
from tests.world import ACTOR, PostgresServer, World, make_world, owner_rows

from paymaster.db import copying
from paymaster.db.tx import CellTx
from paymaster.kernel.ids import new_trace_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY_BYTE: Final = bytes(range(256))
TYPES: Final[dict[str, tuple[str | bytes | None, ...]]] = {
    "text": (
        None, "", " ", "N", "NULL", "\\N", "\\\\N", "\\n", "\\.", "\\x41", "\\101", "a\tb\r\n",
        "\b\f\v\x01\x7f", "é元😀", "{}", "%s %%", "'\"", "nul\0",
    ),
    "text NOT NULL": (None, ""),
    "varchar(3)": ("abc", "abcd", "abc  ", "元元元", "元元元元"),
    "bytea": (None, b"", b"\0", b"\\x41", b"\t\n\\", EVERY_BYTE),
    "smallint": ("32767", "32768", "-32768", "", "1.0"),
    "integer CHECK (kept > 0)": ("2147483647", "2147483648", "0", None, "x"),
    "bigint": (str(2**63 - 1), str(-(2**63)), str(2**63), " 7 ", "-0"),
    "bigint UNIQUE": ("1", "99"),
    "numeric": ("NaN", "Infinity", "1e100", "-0.0", "123456789012345678901234567890.123", ""),
    "numeric(5,2)": ("1.005", "999.994", "999.995"),
    "boolean": ("t", "false", "yes", "1", "2", ""),
    "date": ("infinity", "2026-02-28", "2026-02-30", "10000-01-01"),
    "timestamptz": (
        "infinity", "-infinity", "2026-01-01 00:00:00.123456+00", "2026-01-01 00:00:00.1234567Z",
        "2026-03-29 02:30:00 Europe/Berlin", "9999-12-31 23:59:59.999999+00", "now-ish",
    ),
    "jsonb": (
        None, "{}", "null", '{"a": "\\\\n\\t"}', '{"a": "\\u0000"}', '"\\ud800"', '{"a": 1e400}',
        "{bad", "",
    ),
    "text[]": ("{}", '{a,"b,c",NULL,"NULL"}', '{"\\\\","\t"}', "{{1,2},{3}}", ""),
    "bigint[]": ("{1,NULL,9223372036854775807}", "{1,x}"),
    "uuid": ("11111111-1111-1111-1111-111111111111", "x"),
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with make_world(postgres, moves=[], connections=2) as made:
        yield made


def line(value: str | bytes | None) -> str:
    if value is None:
        return f"1\t{copying.NULL}\n"
    return f"1\t{copying.hexadecimal(value) if isinstance(value, bytes) else copying.text(value)}\n"


async def kept(world: World, table: str, value: str | bytes | None, *, merged: bool) -> Any:
    """What stands in the table afterwards, or why it does not."""

    async def work(tx: CellTx) -> None:
        await tx.copy(cast("LiteralString", f"COPY {table} (id, kept) FROM STDIN"), [line(value)])

    try:
        await world.cell.run(ACTOR, new_trace_id(), work, merged=merged)
    except psycopg.Error as error:
        why = error.diag
        return type(error), error.sqlstate, why.table_name, why.column_name, why.constraint_name
    return owner_rows(world, f"DELETE FROM {table} WHERE id = 1 RETURNING kept::text")


@pytest.mark.parametrize("kind", TYPES)
async def test_it_is_the_row_that_copy_makes(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    table = f"of_{[*TYPES].index(kind)}"
    with psycopg.connect(world.owner_dsn, autocommit=True) as owner:
        owner.execute("SET search_path TO cell_1")
        for statement in (
            f"CREATE TABLE {table} (id bigint PRIMARY KEY, kept {kind})",
            f"GRANT ALL ON {table} TO PUBLIC",
            *([f"INSERT INTO {table} VALUES (99, 99)"] if "UNIQUE" in kind else []),
        ):
            owner.execute(statement.encode())
    for value in TYPES[kind]:
        for merged in (False, True):
            inserted = await kept(world, table, value, merged=merged)
            with monkeypatch.context() as patched:
                patched.setattr(copying, "FEW", 0)
                copied = await kept(world, table, value, merged=merged)
            assert inserted == copied, (kind, value)
