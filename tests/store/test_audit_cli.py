"""`paymaster audit`: what it prints, how it ends, which heads it takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.sealed import superuser
from tests.world import PostgresServer, World, make_world
from typer.testing import CliRunner, Result

from paymaster.cli import audit as audit_command
from paymaster.cli.main import app
from paymaster.db import audit
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Broken, Busy, Refusal
from paymaster.roles.sealing import Sealer

Run = Callable[..., Awaitable[Result]]
Document = dict[str, Any]


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
    assert slug(await run("verify", "--head", "unsigned.json")) == "audit-head-unsigned"
    taken = await run("verify", "--head", "unsigned.json", "--no-signature")
    assert taken.exit_code == 0
    assert "compared with block 1 of the head (NOT SIGNED)" in taken.output
    unsigned = await run("verify", "--head", "unsigned.json", "--public-key", key)
    assert slug(unsigned) == "audit-head-unsigned"
    elsewhere = (tmp_path / "unsigned.json").read_text().replace("cell:1", "cell:9")
    (tmp_path / "elsewhere.json").write_text(elsewhere)
    stranger = await run("verify", "--head", "elsewhere.json", "--no-signature")
    assert slug(stranger) == "audit-head-chain"
    assert slug(await run("verify", "--head", "missing.json")) == "file-unreadable"


def change_nothing(_document: Document) -> None:
    """For heads that are changed by their signature only."""


def drop_cell(document: Document) -> None:
    document["heads"] = [head for head in document["heads"] if head["chain"] == "control"]


def drop_all(document: Document) -> None:
    document["heads"] = []


def negative(document: Document) -> None:
    document["heads"][1]["block"] = -1


def twice(document: Document) -> None:
    document["heads"].append(document["heads"][0])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (change_nothing, "audit-head-unsigned"),
        (drop_cell, "audit-head-incomplete"),
        (drop_all, "audit-head-malformed"),
        (negative, "audit-head-malformed"),
        (twice, "audit-head-malformed"),
    ],
)
async def test_a_head_that_would_compare_nothing_is_refused(
    run: Run, tmp_path: Path, change: Callable[[Document], None], told: str
) -> None:
    await run("seal")
    document = json.loads((await run("head")).output)
    change(document)
    del document["signature"]
    (tmp_path / "head.json").write_text(json.dumps(document))
    words = ["verify", "--head", "head.json"]
    if told != "audit-head-unsigned":
        words.append("--no-signature")
    assert slug(await run(*words)) == told


async def test_it_is_said_what_was_compared(run: Run) -> None:
    assert slug(await run("head")) == "audit-head-empty"
    await run("seal")
    await run("head", "--out", "head.json")
    shown = await run("verify", "--head", "head.json")
    assert "  compared with block 1 of the head (signed)" in shown.output
    found = json.loads((await run("verify", "--head", "head.json", "--json")).output)
    assert found["chains"][1]["head"] == {"block": 1, "reached": True, "signed": True}
    assert json.loads((await run("verify", "--json")).output)["chains"][1]["head"] is None


async def test_a_chain_that_began_after_the_head_is_none_of_its(
    run: Run, world: World, tmp_path: Path
) -> None:
    await run("seal")
    document = json.loads((await run("head", "--no-sign")).output)
    drop_cell(document)
    document["exported_at"] = "2020-01-01T00:00:00Z"
    (tmp_path / "head.json").write_text(json.dumps(document))
    shown = await run("verify", "--head", "head.json", "--no-signature")
    assert shown.exit_code == 0, shown.output
    assert "not in the head (NOT SIGNED): the chain began later" in shown.output


@pytest.mark.parametrize("key", ["kek", "fingerprint", "cursor", "day-close", "day_close"])
async def test_keys_of_other_purposes_sign_no_heads(run: Run, tmp_path: Path, key: str) -> None:
    await run("seal")
    assert slug(await run("head", "--key", key)) == "audit-head-key"
    assert slug(await run("public-key", "--key", key)) == "audit-head-key"
    document = {**json.loads((await run("head")).output), "key_id": key}
    (tmp_path / "head.json").write_text(json.dumps(document))
    assert slug(await run("verify", "--head", "head.json")) == "audit-head-key"


async def test_options_and_places_that_cannot_be(run: Run, tmp_path: Path) -> None:
    await run("seal")
    assert slug(await run("verify", "--public-key", "00" * 32)) == "audit-options"
    assert slug(await run("verify", "--no-signature")) == "audit-options"
    assert slug(await run("head", "--out", "missing/head.json")) == "file-unwritable"
    assert slug(await run("head", "--out", str(tmp_path))) == "file-unwritable"


async def test_sealing_waits_for_the_lease_and_says_when_it_cannot(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_command, "_GRACE", timedelta(seconds=-4.5))
    monkeypatch.setenv("PAYMASTER__ROLES__LEASE_SECONDS", "5")
    with superuser(world, "cell_1") as connection:
        connection.execute(
            "INSERT INTO lease (name, holder, token, expires_at)"
            " VALUES ('seal', 'elsewhere', 7, now() + interval '1 hour')"
        )
        busy = await run("seal")
        assert isinstance(busy.exception, Busy)
        assert busy.exception.slug == "seal-busy"
        connection.execute("UPDATE lease SET expires_at = now() + interval '1 second'")
        monkeypatch.setattr(audit_command, "_GRACE", timedelta(seconds=60))
        done = await run("seal")
    assert done.exit_code == 0, done.output
    assert "cell:1: sealed to seq 1, 4 rows of it now" in done.output


async def test_what_another_process_sealed_meanwhile_is_sealed(world: World) -> None:
    length = timedelta(seconds=60)
    leader, here = (Sealer(world.cell, lease_length=length, interval=timedelta()) for _ in "ab")
    assert await leader.step()
    waiting = asyncio.create_task(here.catch_up(length))
    while await leader.step():
        continue
    assert await waiting == (0, 1)


@pytest.mark.parametrize(
    "lost", ["DELETE FROM commit WHERE last_seq = 2", "UPDATE head SET seq = 5"]
)
async def test_sealing_raises_a_gap_though_another_process_leads(
    run: Run, world: World, lost: str
) -> None:
    await run("seal")

    async def work(tx: CellTx) -> None:
        await audit.record(tx, [audit.Act("test", "later")])

    await world.run(work)
    await world.run(work)
    with superuser(world, "cell_1") as connection:
        connection.execute(
            "INSERT INTO lease (name, holder, token, expires_at) VALUES ('seal', 'elsewhere', 7,"
            " now() + interval '1 hour') ON CONFLICT (name) DO UPDATE SET token = 7,"
            " expires_at = excluded.expires_at"
        )
        connection.execute(lost.encode())
    gap = await run("seal")
    assert isinstance(gap.exception, Broken)
    assert gap.exception.slug == "chain-gap"


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
