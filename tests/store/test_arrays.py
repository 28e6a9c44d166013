"""Lists as arrays: whatever goes in comes out the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from tests.conftest import Postgres

from paymaster.db.arrays import configure, written

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "boolean": st.booleans(),
    "text": TEXT,
    "bytea": st.binary(max_size=40),
    "date": st.dates(min_value=date(1000, 1, 1)),
    "timestamptz": st.datetimes(
        min_value=datetime(1000, 1, 2),  # noqa: DTZ001 - hypothesis wants them bare
        max_value=datetime(9999, 12, 30),  # noqa: DTZ001
        timezones=st.just(UTC),
    ),
}


@pytest.fixture
async def connection(
    postgres: Postgres, empty_database: str
) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(
        postgres.owner_dsn(empty_database), autocommit=True
    ) as made:
        await configure(made)
        yield made


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
async def test_a_list_comes_back_as_it_went(
    connection: psycopg.AsyncConnection[Any], data: st.DataObject
):
    for kind, values in COLUMNS.items():
        sent = data.draw(st.lists(st.none() | values, max_size=8), label=kind)
        cursor = await connection.execute(f"SELECT %s::{kind}[]".encode(), (sent,))
        [row] = await cursor.fetchall()
        assert row[0] == sent


async def test_json_and_unusual_texts(connection: psycopg.AsyncConnection[Any]):
    texts = ["", "NULL", "a,b", '"', "\\", "{}", " x ", "\x01", "\n\t", "ä€😀", "\\\\\"'"]
    documents = [Jsonb({"a": text, "b": [1, None, 1.5]}) for text in texts]
    for values, kind in ((texts, "text"), ([*texts, None], "text")):
        cursor = await connection.execute(f"SELECT %s::{kind}[]".encode(), (values,))
        assert await cursor.fetchall() == [(values,)]
    cursor = await connection.execute("SELECT %s::jsonb[]", ([*documents, None],))
    [row] = await cursor.fetchall()
    assert row[0] == [*(document.obj for document in documents), None]


@pytest.mark.parametrize("kind", [*COLUMNS, "jsonb"])
async def test_nothing_but_nothing(connection: psycopg.AsyncConnection[Any], kind: str):
    assert written([None, None]) == (b"{NULL,NULL}", 0)
    cursor = await connection.execute(f"SELECT %s::{kind}[]".encode(), ([None] * 3,))
    assert await cursor.fetchall() == [([None] * 3,)]


async def test_small_numbers_are_bigint_and_nul_is_refused(
    connection: psycopg.AsyncConnection[Any],
):
    cursor = await connection.execute("SELECT pg_typeof(%s)::text", ([1, 2],))
    assert await cursor.fetchall() == [("bigint[]",)]
    with pytest.raises(psycopg.DataError):
        await connection.execute("SELECT %s::text[]", (["a\0b"],))


async def test_what_is_unknown_goes_the_drivers_way(connection: psycopg.AsyncConnection[Any]):
    cursor = await connection.execute("SELECT %s::float8[], %s::int[]", ([1.5, None], [[1], [2]]))
    assert await cursor.fetchall() == [([1.5, None], [[1], [2]])]
