"""A month leaves while others post: nothing is lost, and a crash leaves all or nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import psycopg
import pytest
from tests.archiving import (
    MINE,
    MONTH,
    archiving_world,
    history,
    leave,
    new_ids,
    pay,
    reward,
    settle_books,
)
from tests.sealed import seal_all
from tests.world import PostgresServer, World, owner_rows

from paymaster.db import partitions, seal_verify
from paymaster.db.snapshots import Pieces
from paymaster.ledger import archive, archive_file, archive_store, proof, proof_store
from paymaster.ledger.balance import account_balance
from paymaster.ledger.entry import Verdict
from paymaster.ledger.proof import prove_books


@pytest.fixture
async def world(postgres: PostgresServer):
    async with archiving_world(postgres) as made:
        yield made


async def test_posting_goes_on_meanwhile(world: World, tmp_path: Path) -> None:
    await settle_books(world)
    before = await world.read(lambda tx: account_balance(tx, MINE))
    running, posted = True, 0

    async def poster() -> None:
        nonlocal posted
        while running:
            ids = await new_ids(world, 3)
            assert await pay(world, *(reward(i, 5) for i in ids)) == [Verdict.POSTED] * 3
            assert (await history(world)).rows[0].balance > before
            posted += 3

    posters = [asyncio.create_task(poster()) for _ in range(3)]
    manifest = await leave(world, tmp_path)
    await asyncio.sleep(0.2)
    running = False
    await asyncio.gather(*posters)
    assert manifest is not None
    assert manifest.counts["posting"] == 7
    assert posted > 0
    now = await world.read(lambda tx: account_balance(tx, MINE))
    assert now == before + posted * 100
    assert await world.read(proof.prove) == []


@pytest.mark.parametrize("step", ["save_manifest", "lock", "renew", "insert_archive"])
async def test_stopped_anywhere_it_has_done_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await settle_books(world)
    rows = "SELECT (SELECT array_agg({0} ORDER BY id) FROM {0})::text"
    books = " UNION ALL ".join(rows.format(table) for table in ("entry", "posting"))
    before = owner_rows(world, books)

    def crash(*_: object) -> None:
        raise RuntimeError("the power went")

    owner = {"save_manifest": archive_file, "insert_archive": archive_store}.get(step, partitions)
    monkeypatch.setattr(owner, step, crash)
    with pytest.raises(RuntimeError, match="the power went"):
        await leave(world, tmp_path)
    assert owner_rows(world, books) == before
    assert owner_rows(world, "SELECT count(*) FROM archive") == [(0,)]
    monkeypatch.undo()
    assert await leave(world, tmp_path) is not None
    assert archive_file.verify(tmp_path / archive.file_name(1, MONTH)).counts["posting"] == 7
    assert await world.read(proof.prove) == []


async def test_chain_and_proof_go_on_over_an_archived_month(world: World, tmp_path: Path) -> None:
    """With real seals, a real proof, and enough postings to leave marks in the month that goes."""
    back = world.clock.now() - timedelta(days=15)
    for _ in range(2):
        await pay(world, *(reward(i, 5) for i in await new_ids(world, 50)))
        (late,) = await new_ids(world, 1)
        assert await pay(world, replace(reward(late, 6), effective_at=back)) == [Verdict.POSTED]
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        connection.execute("UPDATE cell_1.head SET closed_through = '2027-01-01'")
    world.clock.advance(timedelta(days=60))
    await seal_all(world.cell)
    books = await prove_books(Pieces(world.cell))
    assert books.differences == []
    await world.run(lambda tx: proof_store.add(tx, books.seq, books.at_seq, books.postings))
    marks = "SELECT (SELECT count(*) FROM account_mark), (SELECT count(*) FROM late_leg)"
    assert owner_rows(world, marks)[0] > (0, 0)
    for month, postings in ((MONTH, 7), (date(2026, 12, 1), 208)):
        manifest = await leave(world, tmp_path, month)
        assert manifest is not None
        assert manifest.counts["posting"] == postings
        assert archive_file.verify(tmp_path / archive.file_name(1, month)) == manifest
        assert not (await seal_verify.verify(world.cell)).findings
        await seal_all(world.cell)
        assert not (await seal_verify.verify(world.cell)).findings
        assert (await prove_books(Pieces(world.cell))).differences == []
    assert owner_rows(world, marks) == [(0, 0)]
    page = await history(world)
    assert page.rows == []
    assert page.archived is not None
    assert page.archived.month == date(2026, 12, 1)
    assert await world.read(lambda tx: account_balance(tx, MINE)) == 103 * 100
    await pay(world, *(reward(i, 5) for i in await new_ids(world, 50)))
    await seal_all(world.cell)
    assert not (await seal_verify.verify(world.cell)).findings
    assert (await prove_books(Pieces(world.cell))).differences == []
