"""Rows of COPY: a few are inserted instead, and are the same rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from psycopg import errors, pq
from tests.world import ACTOR, PostgresServer, World, make_world, owner_rows

from paymaster.db import copying, outbox_lines
from paymaster.db.outbox_lines import Line
from paymaster.db.tx import CellTx
from paymaster.kernel.ids import new_trace_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

COPY = "COPY cursor (name, seq) FROM STDIN"
NUL = "\0"
ODD = [
    "plain",
    "a\tb",
    "two\nlines",
    "back\\slash",
    "\\N",
    "\\\\x6f",
    "return\r",
    "",
    "é元",
    "\\.",
    "%s",
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with make_world(postgres, moves=[], connections=2) as made:
        yield made


async def run(world: World, work: Any, *, merged: bool) -> Any:
    return await world.cell.run(ACTOR, new_trace_id(), work, merged=merged)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("at_once", [1, copying.FEW, len(ODD)])
async def test_odd_texts_stand_there_as_they_were(world: World, at_once: int, merged: bool) -> None:
    assert len(ODD) > copying.FEW

    async def work(tx: CellTx) -> None:
        for first in range(0, len(ODD), at_once):
            part = list(enumerate(ODD))[first : first + at_once]
            await tx.copy(COPY, [f"{copying.text(name)}\t{seq}\n" for seq, name in part])

    await run(world, work, merged=merged)
    rows = sorted(
        owner_rows(world, "DELETE FROM cursor RETURNING name, seq"), key=lambda row: row[1]
    )
    assert [name for name, _ in rows] == ODD


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("count", [1, copying.FEW, copying.FEW + 1])
async def test_rows_of_bytes_are_the_same_however_many(
    world: World, count: int, merged: bool
) -> None:
    key = f"user-é-{count}-{merged}"
    lines = [
        Line("copied.told", key, f'{{"number": {one}, "text": "\\\\n元"}}') for one in range(count)
    ]

    async def work(tx: CellTx) -> None:
        await outbox_lines.put(tx, lines)

    await run(world, work, merged=merged)
    rows = owner_rows(
        world,
        "SELECT ordinal, topic, payload, target_cell FROM outbox WHERE key = %s ORDER BY ordinal",
        key,
    )
    assert rows == [
        (one, "copied.told", {"number": one, "text": "\\n元"}, None) for one in range(count)
    ]


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("count", [1, copying.FEW + 1])
async def test_what_the_table_refuses_is_refused_and_nothing_is_left(
    world: World, count: int, merged: bool
) -> None:
    async def work(tx: CellTx) -> None:
        await tx.copy(COPY, [f"refused-{one}\t{one}\n" for one in range(count)])
        await tx.copy(COPY, ["refused-0\t0\n"])
        await tx.value("SELECT 1")

    with pytest.raises(errors.UniqueViolation):
        await run(world, work, merged=merged)
    assert owner_rows(world, "SELECT * FROM cursor WHERE name LIKE 'refused-%%'") == []


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("count", [1, copying.FEW, copying.FEW + 1])
async def test_a_text_with_nul_is_refused_and_never_cut(
    world: World, count: int, merged: bool
) -> None:
    lines = [f"{copying.text(f'cut-{one}{NUL}off')}\t{one}\n" for one in range(count)]

    async def work(tx: CellTx) -> None:
        await tx.copy(COPY, lines)

    with pytest.raises(errors.CharacterNotInRepertoire):
        await run(world, work, merged=merged)
    assert owner_rows(world, "SELECT name FROM cursor WHERE name LIKE 'cut-%%'") == []


async def test_columns_of_lines_and_rows() -> None:
    line = f"1\t{copying.NULL}\t{copying.text('a	b')}\t{copying.hexadecimal(b'ab')}\n"
    assert copying.line_columns(line).values == [b"1", None, b"a\tb", b"\\x6162"]
    row = b"\x00\x03" + copying.whole(7) + copying.NOTHING + copying.data(b"xy")
    assert copying.row_columns(row) == ([(7).to_bytes(8), None, b"xy"], pq.Format.BINARY)


async def test_only_a_copy_with_named_columns_can_be_told_as_an_insert() -> None:
    assert (
        copying.inserting("\n   COPY a (b, c,\n d) FROM STDIN (FORMAT binary)")
        == "INSERT INTO a (b, c,\n d) VALUES (%s, %s, %s)"
    )
    with pytest.raises(ValueError, match="named columns"):
        copying.inserting("COPY a FROM STDIN")
