"""The hash chain over archived months: what came back, and what only the whole digest tells."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.archiving import archiving_world, leave, new_ids, pay, reward, settle_books
from tests.sealed import seal_all, superuser
from tests.world import PostgresServer, World

from paymaster.db import seal_verify

Row = dict[str, Any]


@pytest.fixture
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    """Sealed for real, so that the chain can be verified."""
    async with archiving_world(postgres) as made:
        await settle_books(made)
        with superuser(made, "cell_1") as connection:
            connection.execute("DELETE FROM seal")
        await seal_all(made.cell)
        yield made


async def findings(world: World) -> list[tuple[str, str, str]]:
    return [(f.table, f.key, f.what) for f in (await seal_verify.verify(world.cell)).findings]


def put_back(connection: psycopg.Connection[Any], table: str, row: Row) -> None:
    values = [json.dumps(value) if isinstance(value, dict) else value for value in row.values()]
    marks = ", ".join(["%s"] * len(row))
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})".encode(), values)


async def left_and_came_back(world: World, folder: Path) -> tuple[Row, list[Row]]:
    """Archive; then take a live entry away and put an archived one of its size in its place."""
    with superuser(world, "cell_1") as connection:
        entries = connection.execute("SELECT * FROM entry ORDER BY commit_id, ordinal").fetchall()
        postings = connection.execute("SELECT * FROM posting ORDER BY id").fetchall()
        assert await leave(world, folder) is not None
        await seal_all(world.cell)
        assert await findings(world) == []
        live = connection.execute("SELECT * FROM entry ORDER BY commit_id, ordinal").fetchall()
        there = {row["id"] for row in live}
        victim = live[-1]
        again = next(
            row
            for row in entries
            if row["id"] not in there and row["postings"] == victim["postings"]
        )
        connection.execute("DELETE FROM posting WHERE entry_id = %(id)s", victim)
        connection.execute("DELETE FROM entry WHERE id = %(id)s", victim)
        put_back(connection, "entry", again)
        legs = [row for row in postings if row["entry_id"] == again["id"]]
        for row in legs:
            put_back(connection, "posting", row)
    return again, legs


async def test_an_archived_record_cannot_come_back_for_a_live_one(
    world: World, tmp_path: Path
) -> None:
    """The number of those that are gone is as the archives say."""
    again, legs = await left_and_came_back(world, tmp_path)
    assert await findings(world) == [
        ("entry", f"id={again['id']}", "stray"),
        ("posting", f"id={legs[0]['id']}", "stray"),
    ]


async def test_a_forgery_that_marks_do_not_show_is_found_beside_an_archive(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many records as were sealed, all marks alike: the digest of all of them still differs."""
    await leave(world, tmp_path)
    with superuser(world, "cell_1") as connection:
        # So that the block to come is one in which records may be missing.
        connection.execute("UPDATE archive SET last_seq = 1000000")
    await pay(world, reward((await new_ids(world, 1))[0], 5))
    await seal_all(world.cell)
    real = seal_verify.seal.parts_of

    async def forged(*arguments: Any, **named: Any) -> list[seal_verify.Part]:
        parts = await real(*arguments, **named)
        return [
            seal_verify.Part(part.table, part.count, b"\0" * 32, part.marks)
            if part.table == "entry" and part.count == 1
            else part
            for part in parts
        ]

    assert await findings(world) == []
    monkeypatch.setattr(seal_verify.seal, "parts_of", forged)
    (found,) = await findings(world)
    assert (found[0], found[2]) == ("entry", "altered")
