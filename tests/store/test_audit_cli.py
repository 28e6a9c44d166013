"""`paymaster audit`: what it prints, how it ends, which heads it takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from click.testing import Result
from tests.sealed import superuser
from tests.world import PostgresServer, World, make_world
from typer.testing import CliRunner

from paymaster.cli.main import app
from paymaster.db import audit
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Refusal

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with make_world(postgres) as made:

        async def work(tx: CellTx) -> None:
            await audit.record(tx, [audit.Act("test", "x")])

        await made.run(work)
        yield made


@pytest.fixture
def run(
    world: World, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.setenv("PAYMASTER__DATABASE__URL", postgres.app_dsn(world.database))
    monkeypatch.setenv("PAYMASTER__DATABASE__DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    async def invoke(*words: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, ["audit", *words])

    return invoke


def slug(result: Result) -> str:
    assert isinstance(result.exception, Refusal), result.output
    return result.exception.slug


async def test_an_untouched_chain_ends_with_0_and_an_altered_one_with_1(
    run: Run, world: World
) -> None:
    assert (await run("seal")).exit_code == 0
    good = await run("verify")
    assert good.exit_code == 0, good.output
    assert "cell:1: 2 records in 2 blocks, sealed to seq 1, 0 not sealed yet: ok" in good.output
    with superuser(world, "cell_1") as connection:
        connection.execute("UPDATE audit SET subject = 'y'")
        place = connection.execute("SELECT commit_id, ordinal FROM audit").fetchone()
    assert place is not None
    bad = await run("verify", "--cell", "1")
    assert bad.exit_code == 1
    key = f"commit_id={place['commit_id']}, ordinal=0"
    assert f"  altered audit ({key}) in block 1, seq 1" in bad.output
    found = json.loads((await run("verify", "--json")).output)
    assert found["ok"] is False
    assert found["chains"][1]["findings"] == [
        {"chain": "cell:1", "block": 1, "seq": "1", "table": "audit", "key": key, "what": "altered"}
    ]
    assert (await run("verify", "--cell", "0")).exit_code == 0


async def test_a_head_is_taken_from_whom_it_should_be(run: Run, tmp_path: Path) -> None:
    await run("seal")
    assert (await run("head", "--out", "head.json")).exit_code == 0
    key = (await run("public-key")).output.strip()
    assert (await run("verify", "--head", "head.json")).exit_code == 0
    assert (await run("verify", "--head", "head.json", "--public-key", key)).exit_code == 0
    other = await run("verify", "--head", "head.json", "--public-key", "00" * 32)
    assert slug(other) == "audit-head-signature"
    text = (tmp_path / "head.json").read_text()
    changed = text.replace('"block": 1', '"block": 2')
    (tmp_path / "changed.json").write_text(changed)
    assert slug(await run("verify", "--head", "changed.json")) == "audit-head-signature"
    (tmp_path / "unsigned.json").write_text((await run("head", "--no-sign")).output)
    assert (await run("verify", "--head", "unsigned.json")).exit_code == 0
    unsigned = await run("verify", "--head", "unsigned.json", "--public-key", key)
    assert slug(unsigned) == "audit-head-signature"
    elsewhere = (tmp_path / "unsigned.json").read_text().replace("cell:1", "cell:9")
    (tmp_path / "elsewhere.json").write_text(elsewhere)
    assert slug(await run("verify", "--head", "elsewhere.json")) == "audit-head-chain"
    assert slug(await run("verify", "--head", "missing.json")) == "file-unreadable"


async def test_a_lost_end_is_found_against_the_head(run: Run, world: World) -> None:
    await run("seal")
    await run("head", "--out", "head.json")
    with superuser(world, "cell_1") as connection:
        for table in ("audit", "commit"):
            connection.execute(f"DELETE FROM {table}".encode())
        connection.execute("DELETE FROM seal WHERE block = 1")
        connection.execute("UPDATE head SET seq = 0")
    assert (await run("verify")).exit_code == 0
    lost = await run("verify", "--head", "head.json")
    assert lost.exit_code == 1
    assert "  missing seal (block=1, last_seq=1) in block 1, seq 1" in lost.output
