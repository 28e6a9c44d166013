"""Months leave in their order, whatever two clocks said at a month's end, and leave nothing."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from tests.archiving import (
    MONTH,
    archiving_world,
    history,
    leave,
    new_ids,
    pay,
    reward,
    settle_books,
)
from tests.world import ACTOR, PostgresServer, World, make_world, owner_rows

from paymaster.db import partitions
from paymaster.db.cells import Databases
from paymaster.db.tx import CellTx
from paymaster.kernel.clock import milliseconds
from paymaster.kernel.errors import Broken, Busy, Unprocessable
from paymaster.kernel.ids import new_trace_id, time_floor
from paymaster.kernel.money import Money
from paymaster.ledger import archive, archive_file, archive_store, proof, recipes
from paymaster.ledger.entry import Entry, Verdict

DECEMBER = date(2026, 12, 1)
AHEAD = time_floor(milliseconds(datetime(2026, 12, 1, 0, 0, 0, 1000, tzinfo=UTC))) + 7
"""The id of an entry, made in December by a clock that was ahead of the one of its postings."""
OF_ENTRY = (
    f"SELECT (SELECT count(*) FROM entry WHERE id = {AHEAD}),"
    f" (SELECT count(*) FROM posting WHERE entry_id = {AHEAD})"
)


KEEP = "INSERT INTO {child} ({columns}) SELECT {columns} FROM {old}"
BOOKS = "SELECT (SELECT array_agg(e ORDER BY id) FROM entry e)::text, count(*) FROM posting"


async def none_before(*_: object) -> list[date]:
    """In the place of `archive.months_before`: the order is not asked for."""
    return []


@pytest.fixture
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    """The last entry of November has an id of December; one more is wholly of December."""
    async with make_world(postgres) as made:
        (fund,) = await new_ids(made, 1)
        await pay(made, Entry(fund, "fund", "x", recipes.fund(9, 1, Money(9_000_000, "EUR"))))
        last = datetime(2026, 11, 30, 23, 59, 59, 999000, tzinfo=UTC)
        made.clock.advance(last - made.clock.now())
        assert await pay(made, reward(AHEAD, 5)) == [Verdict.POSTED]
        for days in (10, 40):
            made.clock.advance(timedelta(days=days))
            (entry_id,) = await new_ids(made, 1)
            await pay(made, reward(entry_id, 6))
        await settle_books(made, closed="2027-01-01")
        yield made


@contextmanager
def reading(world: World) -> Iterator[None]:
    """Somebody reads the postings and does not finish."""
    with psycopg.connect(world.owner_dsn) as connection:
        connection.execute("SELECT count(*) FROM cell_1.posting")
        yield
        connection.rollback()


def held(folder: Path, month: date) -> list[str]:
    """The ids of the entries in a file, which is proven."""
    file = folder / archive.file_name(1, month)
    archive_file.verify(file)
    rows, inside = list[str](), False
    with gzip.open(file, "rt") as lines:
        for line in lines:
            if line.startswith("#"):
                inside = line.startswith("#entry ")
            elif inside:
                rows.append(line.split("\t")[0])
    return rows


async def test_a_month_waits_for_the_earlier_one(world: World, tmp_path: Path) -> None:
    with pytest.raises(Unprocessable, match="Archive 2026-11 before 2026-12") as refused:
        await leave(world, tmp_path, DECEMBER)
    assert refused.value.slug == "archive-order"
    assert owner_rows(world, OF_ENTRY) == [(1, 2)]
    assert not await asyncio.to_thread((tmp_path / archive.file_name(1, DECEMBER)).exists)
    for month in (MONTH, DECEMBER):
        assert await leave(world, tmp_path, month) is not None
        assert await world.read(proof.prove) == []
    assert str(AHEAD) in held(tmp_path, MONTH)
    assert str(AHEAD) not in held(tmp_path, DECEMBER)
    assert owner_rows(world, OF_ENTRY) == [(0, 0)]


async def test_an_entry_of_the_month_before_is_kept_when_the_later_one_leaves(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the order were not asked for."""
    monkeypatch.setattr(archive, "months_before", none_before)
    manifest = await leave(world, tmp_path, DECEMBER)
    assert manifest is not None
    assert (manifest.counts["entry"], manifest.counts["posting"]) == (1, 2)
    assert owner_rows(world, OF_ENTRY) == [(1, 2)]
    assert AHEAD in [row.entry_id for row in (await history(world)).rows]
    assert await world.read(proof.prove) == []
    assert await leave(world, tmp_path, MONTH) is not None
    assert str(AHEAD) in held(tmp_path, MONTH)
    assert await world.read(proof.prove) == []


async def test_what_leaves_is_counted_against_the_file(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replacement that drops more than was written, or less, does not happen."""
    monkeypatch.setattr(archive, "months_before", none_before)
    before = owner_rows(world, BOOKS)
    for where, dropped in (("", 0), (" WHERE false", 2)):
        monkeypatch.setattr(partitions, "_KEEP", KEEP + where)
        says = f"{dropped} entries and 2 postings leave 2026-12"
        with pytest.raises(Broken, match=says) as broken:
            await leave(world, tmp_path, DECEMBER)
        assert broken.value.slug == "archive-differs"
        assert owner_rows(world, BOOKS) == before
    monkeypatch.undo()
    for month in (MONTH, DECEMBER):
        assert await leave(world, tmp_path, month) is not None


async def test_the_second_run_removes_the_marks_that_a_crash_left(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with archiving_world(postgres) as world:
        await settle_books(world)
        # Marks are of postings of November and of December; the latter stay.
        with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
            connection.execute("SET search_path TO cell_1")
            connection.execute(
                "INSERT INTO account_mark SELECT source_id, source_number, id FROM posting"
            )
            connection.execute(
                "INSERT INTO late_leg SELECT source_id, source_number, id, now(), -amount"
                " FROM posting"
            )
        marks = "SELECT count(*) FROM account_mark UNION ALL SELECT count(*) FROM late_leg"
        (whole,) = owner_rows(world, "SELECT count(*) FROM posting")

        async def crash(*_: object) -> None:
            raise RuntimeError("the power went")

        monkeypatch.setattr(archive_store, "remove_marks", crash)
        with pytest.raises(RuntimeError, match="the power went"):
            await leave(world, tmp_path)
        monkeypatch.undo()
        assert owner_rows(world, marks) == [whole, whole]
        assert owner_rows(world, "SELECT month FROM archive") == [(MONTH,)]
        assert await leave(world, tmp_path) is None
        assert owner_rows(world, marks) == [(whole[0] - 7,)] * 2


async def test_a_month_that_is_read_stays_and_writers_go_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_TRIES", 2)
    monkeypatch.setattr(archive, "_PAUSE_SECONDS", 0.01)
    with reading(world):
        with pytest.raises(Busy) as busy:
            await leave(world, tmp_path)
        assert busy.value.slug == "archive-busy"
        assert await pay(world, reward((await new_ids(world, 1))[0], 5)) == [Verdict.POSTED]
    assert owner_rows(world, "SELECT count(*) FROM archive") == [(0,)]
    monkeypatch.setattr(archive, "_TRIES", 1)
    assert await leave(world, tmp_path) is not None


async def test_the_wait_for_the_lock_is_short(world: World) -> None:
    """Whoever comes while it waits stands behind it."""

    async def locked(tx: CellTx) -> str:
        await partitions.lock(tx)
        return await tx.value("SHOW lock_timeout")

    dbs = Databases({"main": world.owner_dsn}, world.clock, connections=1)
    await dbs.open()
    try:
        assert await dbs.cell(1).run(ACTOR, new_trace_id(), locked) == "200ms"
    finally:
        await dbs.close()
