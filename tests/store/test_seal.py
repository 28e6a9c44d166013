"""Sealing: what is covered, when blocks are made and by whom, and that verifying agrees."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.archiving import archiving_world, leave, settle_books
from tests.sealed import fill, seal_all, superuser
from tests.withdrawals import new_earner
from tests.world import ACTOR, START, PostgresServer, World, make_world

from paymaster.db import audit, outbox, seal, seal_format, seal_head, seal_verify
from paymaster.db.privileges import APPEND_ONLY, READ_ONLY
from paymaster.db.seal_table import Table
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Broken, Conflict, Refusal
from paymaster.kernel.ids import new_trace_id
from paymaster.observe import Metrics
from paymaster.roles.gauges import measure
from paymaster.roles.sealing import Sealer
from paymaster.secrets.local import Ed25519Signer
from paymaster.secrets.port import SecretVersion
from paymaster.secrets.signers import Signers

SHORT = {"timestamp with time zone": "timestamptz"}


@pytest.fixture
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with make_world(postgres) as made:
        yield made


def sealer(world: World, interval: timedelta = timedelta(seconds=10)) -> Sealer:
    return Sealer(world.cell, lease_length=timedelta(seconds=60), interval=interval)


async def act(world: World, count: int = 1, name: str = "test", subject: str = "x") -> None:
    async def work(tx: CellTx) -> None:
        await audit.record(tx, [audit.Act(name, subject)] * count)

    await world.run(work)


async def clean(world: World) -> seal_verify.Report:
    report = await seal_verify.verify(world.cell)
    assert not report.findings
    return report


@pytest.mark.parametrize(("kind", "schema"), [("control", "control"), ("cell", "cell_1")])
async def test_every_append_only_table_is_covered_or_has_a_reason(
    world: World, kind: str, schema: str
) -> None:
    with superuser(world, schema) as connection:
        rows = connection.execute(
            "SELECT table_name, column_name, data_type, is_nullable"
            " FROM information_schema.columns WHERE table_schema = %s",
            (schema,),
        ).fetchall()
    there: dict[str, set[tuple[str, str, bool]]] = {}
    for row in rows:
        kept: str = row["data_type"]
        columns = there.setdefault(row["table_name"], set())
        columns.add((row["column_name"], SHORT.get(kept, kept), row["is_nullable"] == "YES"))
    facts = {name for name in APPEND_ONLY | READ_ONLY if name in there} - {"schema_version"}
    covered = {table.name: table for table in seal_format.tables(seal_format.NEWEST, kind)}
    assert facts == covered.keys() | (seal_format.EXEMPT.keys() & there.keys())
    assert not covered.keys() & seal_format.EXEMPT.keys()
    for name, table in covered.items():
        hashed = {(column.name, column.type, column.nullable) for column in table.columns}
        assert hashed == there[name], f"{name}: a new column needs a new format"


async def test_real_work_is_sealed_and_sealing_makes_no_commits(world: World) -> None:
    await new_earner(world)
    before = await world.read(lambda tx: tx.value("SELECT seq FROM head"))
    await seal_all(world.cell)
    await seal_all(world.cell)
    report = await clean(world)
    assert (report.sealed_seq, report.unsealed) == (before, 0)
    assert report.blocks == 2
    counts = await world.read(
        lambda tx: tx.tuples("SELECT tables, counts FROM seal WHERE block = 1")
    )
    found = dict(zip(*counts[0], strict=True))
    assert found["entry"] == 2
    assert found["posting"] == 2


async def test_a_commit_waits_for_others_but_not_for_ever(world: World) -> None:
    one = sealer(world)
    assert await one.step() == 1, "block 0, without records"
    await act(world)
    assert await one.step() == 0
    world.clock.advance(timedelta(seconds=9))
    await act(world)
    assert await one.step() == 0
    world.clock.advance(timedelta(seconds=1))
    assert await one.step() == 5, "two commits, two acts, one block"
    assert await one.step() == 0


async def test_a_backlog_is_caught_up_in_bounded_blocks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "BLOCK_SEQS", 8)
    for count in (3, 3, 3, 20, 8, 1):
        await act(world, count)
    one = sealer(world)
    while await one.step():
        continue
    rows = await world.read(
        lambda tx: tx.tuples("SELECT first_seq, last_seq FROM seal ORDER BY block")
    )
    assert rows == [(0, 0), (1, 6), (7, 9), (10, 29), (30, 37)], "the last one is not full"
    assert (await clean(world)).unsealed == 1
    world.clock.advance(timedelta(seconds=10))
    assert await one.step() == 3
    assert (await clean(world)).unsealed == 0


async def test_one_process_seals_and_one_that_slept_cannot_write(world: World) -> None:
    await act(world)
    first, second = (sealer(world, interval=timedelta()) for _ in range(2))
    assert await first.step() == 1
    assert await second.step() == 0, "the lease is taken"
    found = await world.read(lambda tx: seal.waiting(tx, "cell:1"))
    late = await world.read(lambda tx: seal.make(tx, "cell:1", found))
    world.clock.advance(timedelta(seconds=61))
    assert await second.step() == 3
    with pytest.raises(Conflict) as raised:
        await first._store(late)
    assert raised.value.slug == "lease-lost"
    await second._store(late_twin(await newest(world)))
    with pytest.raises(Broken) as broken:
        await second._store(late)
    assert broken.value.slug == "chain-forked"
    await clean(world)


def late_twin(block: seal.Block) -> seal.Block:
    """The same block again, as after an answer to COMMIT that was lost."""
    return block


async def newest(world: World) -> seal.Block:
    head = await world.read(lambda tx: seal.head(tx, "cell:1"))
    assert head is not None
    block = await world.read(lambda tx: seal.load(tx, head.block))
    assert block is not None
    return block


async def test_commits_removed_before_they_were_sealed_stop_the_lane(world: World) -> None:
    for _ in range(3):
        await act(world)
    with superuser(world, "cell_1") as connection:
        connection.execute("DELETE FROM commit WHERE first_seq = 2")
    one = sealer(world, interval=timedelta())
    await one.step()
    with pytest.raises(Broken) as raised:
        await one.step()
    assert raised.value.slug == "chain-gap"
    report = await seal_verify.verify(world.cell)
    found = report.findings[0]
    assert (found.table, found.seq, found.what) == ("commit", 2, "missing")


async def test_sealing_beside_writers_never_raises_a_false_alarm(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "BLOCK_SEQS", 16)
    one, done = sealer(world, interval=timedelta()), asyncio.Event()

    async def write(number: int) -> None:
        async def work(tx: CellTx) -> None:
            await audit.record(tx, [audit.Act("test", f"s{number}")] * (number % 4 + 1))
            await outbox.put(tx, [outbox.Message("t", f"k{number}", {"n": number})])

        await world.run(work)

    async def keep_sealing() -> None:
        while not done.is_set():
            await one.step()
            await clean(world)

    sealing = asyncio.create_task(keep_sealing())
    for start in range(0, 200, 20):
        await asyncio.gather(*(write(number) for number in range(start, start + 20)))
    done.set()
    await sealing
    while await one.step():
        continue
    assert (await clean(world)).unsealed == 0


@pytest.mark.parametrize(
    "change",
    [
        "action = 'te', subject = 'stx'",
        "reason = ''",
        "origin = 'x'",
        """detail = '{"a": 1.0}'""",
        """detail = '{"a": null}'""",
        "acted_at = acted_at + interval '1 microsecond'",
        "trace_id = upper(trace_id) || ' '",
    ],
)
async def test_what_looks_alike_is_told_apart(world: World, change: str) -> None:
    async def work(tx: CellTx) -> None:
        await audit.record(tx, [audit.Act("test", "x", None, {"a": 1})])

    await world.run(work)
    await seal_all(world.cell)
    with superuser(world, "cell_1") as connection:
        connection.execute(f"UPDATE audit SET {change}".encode())
    report = await seal_verify.verify(world.cell)
    assert [(f.table, f.what) for f in report.findings] == [("audit", "altered")]


async def test_an_archived_month_may_be_gone_but_nothing_more(world: World) -> None:
    fill(world, "cell_1", "cell", range(4))
    await seal_all(world.cell)
    with superuser(world, "cell_1") as connection:
        entries = connection.execute("SELECT * FROM entry ORDER BY id").fetchall()
        row = entries[1]
        posted = "BETWEEN %(first_posting_id)s AND %(last_posting_id)s"
        connection.execute(f"DELETE FROM posting WHERE id {posted}".encode(), row)
        connection.execute("DELETE FROM entry WHERE id = %(id)s", row)
        assert (await seal_verify.verify(world.cell)).findings
        connection.execute(
            """
            UPDATE head SET seq = seq + 1;
            INSERT INTO commit SELECT 1, seq, seq, now(), 'x', 'x' FROM head;
            INSERT INTO archive SELECT '2026-11-01', %(first_posting_id)s, %(last_posting_id)s + 1,
                1, 2, 100, now(), 0, 0, 'f', '', 'x', now(), 1, 0
            """.replace("%(first_posting_id)s", str(row["first_posting_id"]))
            .replace("%(last_posting_id)s", str(row["last_posting_id"]))
            .encode()
        )
        await seal_all(world.cell)
        await clean(world)
        last = entries[-1]
        connection.execute("UPDATE entry SET kind = 'x' WHERE id = %(id)s", last)
        found = (await seal_verify.verify(world.cell)).findings[0]
        assert (found.table, found.key, found.what) == ("entry", f"id={last['id']}", "altered")
        connection.execute("UPDATE entry SET kind = %(kind)s WHERE id = %(id)s", last)
        await clean(world)
        connection.execute("DELETE FROM posting WHERE id = %(last_posting_id)s", last)
        found = (await seal_verify.verify(world.cell)).findings[0]
        assert (found.table, found.key) == ("posting", "3 are gone, archives hold 2")


async def test_the_gauge_shows_how_far_sealing_is_behind(world: World) -> None:
    await act(world)
    world.clock.advance(timedelta(seconds=42))
    metrics = Metrics()
    await measure(world.dbs, metrics)
    assert metrics.seal_lag_seconds.labels("cell:1")._value.get() == 42
    assert metrics.seal_lag_seconds.labels("control")._value.get() == 0
    await seal_all(world.cell)
    await measure(world.dbs, metrics)
    assert metrics.seal_lag_seconds.labels("cell:1")._value.get() == 0


class OneKey:
    def get(self, name: str) -> list[SecretVersion]:
        return [SecretVersion("1", name.encode().ljust(32, b"."))]


async def test_an_exported_head_is_signed_and_fits_only_as_it_is(world: World) -> None:
    await act(world)
    await seal_all(world.cell)
    head = await world.read(lambda tx: seal.head(tx, "cell:1"))
    assert head is not None
    signer = Ed25519Signer(OneKey())
    text = await seal_head.export([head], START, Signers(signer))
    read = seal_head.read(text)
    assert read.of("cell:1") == head
    assert read.of("cell:2") is None
    assert read.signed_by(signer.public_keys(seal_head.SIGNING_KEY))
    assert not read.signed_by(signer.public_keys("other"))
    changed = {**json.loads(text), "exported_at": "2026-01-01T00:00:00Z"}
    assert not seal_head.read(json.dumps(changed)).signed_by(
        signer.public_keys(seal_head.SIGNING_KEY)
    )
    bare = seal_head.read(await seal_head.export([head], START, None))
    assert not bare.signed_by(signer.public_keys(seal_head.SIGNING_KEY))
    report = await seal_verify.verify(world.cell, read.of("cell:1"))
    assert not report.findings


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"version": 2, "exported_at": "", "heads": []}',
        '{"version": 1, "exported_at": "", "heads": [], "more": 1}',
        '{"version": 1, "exported_at": "", "heads": [], "signature": "zz"}',
    ],
)
def test_what_is_no_exported_head_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as raised:
        seal_head.read(text)
    assert raised.value.slug == "audit-head-malformed"


async def test_directory_and_registry_are_in_the_chain_of_the_directory(world: World) -> None:
    from paymaster.people import store

    async def work(tx) -> None:
        await store.claim(tx, 1, [store.DirectoryRow("ada", 1, 7), store.DirectoryRow("bo", 1, 8)])
        await store.register_fingerprints(tx, 1, "iban", [b"f" * 32], 1, 7)

    for _ in range(2):
        await world.dbs.control.run(ACTOR, new_trace_id(), work)
    await seal_all(world.dbs.control)
    report = await seal_verify.verify(world.dbs.control)
    assert not report.findings
    rows = await world.dbs.control.read(
        lambda tx: tx.tuples("SELECT tables, counts FROM seal WHERE block = 1")
    )
    assert dict(zip(*rows[0], strict=True)) == {"commit": 2, "registry": 1, "directory": 2}


def test_a_format_is_never_changed() -> None:
    """Blocks that were sealed in it could not be verified any more: make a new format."""
    assert {number: _described(tables) for number, tables in seal_format.FORMATS.items()} == {
        1: "e0f58e1ea7e2e96a",
        2: "afdaf9fe5a9f8e79",
        3: "2f6dfd8084536286",
    }


def _described(tables: tuple[Table, ...]) -> str:
    """A digest of everything that decides what is hashed, and in which order."""
    parts = [
        (t.name, t.leaf, t.order, t.seq, t.source, t.legacy, sorted(t.kinds), t.key) for t in tables
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


async def test_a_month_that_really_left_leaves_the_chain_whole(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with archiving_world(postgres) as world:
        await settle_books(world)
        with superuser(world, "cell_1") as connection:
            connection.execute("DELETE FROM seal")
        await seal_all(world.cell)
        before = await clean(world)
        assert await leave(world, tmp_path) is not None
        await seal_all(world.cell)
        after = await clean(world)
        assert after.blocks > before.blocks
        with superuser(world, "cell_1") as connection:
            connection.execute("UPDATE archive SET postings = postings + 1")
        found = (await seal_verify.verify(world.cell)).findings[0]
        assert (found.table, found.key) == ("archive", "month=2026-11-01")
