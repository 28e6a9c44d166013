"""Books of two months of which the first may leave, for the tests of archiving."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from pathlib import Path

import psycopg
from tests.world import ACTOR, PostgresServer, World, make_world

from paymaster.db.cells import Databases
from paymaster.kernel.money import Money
from paymaster.ledger import archive, archive_file, proof, recipes, statement
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Verdict
from paymaster.ledger.post import post

USERS = (5, 6)
EURO = Money(100, "EUR")
MONTH = date(2026, 11, 1)
MINE = Account("available", USERS[0], "EUR")


async def new_ids(world: World, count: int) -> list[int]:
    async def work(tx):
        return tx.ids(count)

    return await world.run(work)


def reward(entry_id: int, user: int) -> Entry:
    postings = recipes.reward(1, user, EURO, vests=False, owes=False, commission=Money(1, "EUR"))
    return Entry(entry_id, "reward", f"re_{user}", postings)


async def pay(world: World, *entries: Entry) -> list[Verdict]:
    return [found.verdict for found in await world.run(lambda tx: post(tx, list(entries)))]


@asynccontextmanager
async def archiving_world(postgres: PostgresServer) -> AsyncIterator[World]:
    """Two rewards in November, of ids of which one is posted in December, then two more."""
    async with make_world(postgres) as made:
        ids = await new_ids(made, 5)
        funding = Entry(ids[0], "fund", "x", recipes.fund(9, 1, Money(9_000_000, "EUR")))
        await pay(made, funding, reward(ids[1], 5))
        made.clock.advance(timedelta(days=1))
        await pay(made, reward(ids[2], 5), reward(ids[3], 6))
        made.clock.advance(timedelta(days=20))
        await pay(made, reward(ids[4], 5))
        (late,) = await new_ids(made, 1)
        made.clock.advance(timedelta(days=1))
        await pay(made, reward(late, 6))
        yield made


async def settle_books(world: World, *, closed: str = "2026-12-01") -> None:
    """Closed, proven and sealed up to now."""
    assert await world.read(proof.prove) == []
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO cell_1")
        connection.execute("UPDATE head SET closed_through = %s", (closed,))
        connection.execute(
            "INSERT INTO proof (seq, at_seq, postings, proven_at) SELECT seq, 0, 0, recorded_at"
            " FROM head ON CONFLICT (seq) DO NOTHING"
        )
        connection.execute(
            "INSERT INTO seal (block, format, first_seq, last_seq, tables, counts, digests, marks,"
            " previous, hash, sealed_at) SELECT 999, 1, 1, seq, '{}', '{}', '{}', '', '', '',"
            " recorded_at FROM head ON CONFLICT (block) DO UPDATE SET last_seq = excluded.last_seq"
        )


async def leave(world: World, folder: Path, month: date = MONTH) -> archive_file.Manifest | None:
    """Archive a month as the owner."""
    dbs = Databases({"main": world.owner_dsn}, world.clock, connections=2)
    await dbs.open()
    try:
        return await archive.archive_month(dbs.cell(1), month, folder, ACTOR, "seven years old")
    finally:
        await dbs.close()


async def history(world: World) -> statement.Page:
    return await world.read(lambda tx: statement.page(tx, MINE, None, 50))
