"""Removing an environment: all of it, nothing else, with proof, and through every crash."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.removing import Pair, pair, restarted
from tests.sealed import seal_all, superuser
from tests.world import ACTOR, START, PostgresServer, make_world

from paymaster.db import audit, seal_verify
from paymaster.db.migrate import LOCK_KEY
from paymaster.db.seal_head import SIGNING_KEY
from paymaster.db.snapshots import OneSnapshot
from paymaster.installation import NewCell, add_cell, add_environment, upgrade
from paymaster.kernel.errors import Broken, PaymasterError, Refusal
from paymaster.ledger.proof import prove_books, silent
from paymaster.removal import certificate, check, directory, schemas
from paymaster.removal import remove as steps


@pytest.fixture
async def two(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Pair]:
    async with pair(postgres, tmp_path) as made:
        yield made


async def faults(two: Pair) -> list[str]:
    keys = await two.owned.secrets.signers.public_keys(SIGNING_KEY)
    return await check.faults(two.owned, certificate.read(two.file), keys)


async def test_one_environment_goes_and_the_other_stays_as_it_was(
    two: Pair, postgres: PostgresServer
) -> None:
    other_key = {"Authorization": f"Bearer {await two.served.key(environment_id=2)}"}
    before = await two.left(2)
    books = await two.world.dbs.cell(2).read(lambda tx: prove_books(OneSnapshot(tx), silent))
    assert (books.differences, books.postings) == ([], 2)
    assert (await two.left(1)).keys() == directory.GOES.keys() == before.keys()
    done = await two.remove()

    assert (done.dropped, done.secrets) == (["cell_1"], ["bank-1"])
    assert two.schemas() == ["cell_2"]
    assert (await two.left(1), await two.left(2)) == ({}, before)
    assert await faults(two) == []

    await two.world.dbs.refresh()
    assert [e.id for e in two.world.dbs.environments()] == [2]
    assert [cell.number for cell in two.world.dbs.cells()] == [2]
    await two.served.refused(401, "credential-revoked", "GET", "/v1/users/anna")
    async with restarted(two, postgres) as api:
        gone = await api.get("/v1/users/anna", headers=dict(two.served.api.headers))
        assert (gone.status_code, gone.json()["code"]) == (401, "credential-revoked")
        there = await api.get("/v1/users/anna", headers=other_key)
        assert there.is_success, there.text

    dbs = two.world.dbs
    assert await dbs.cell(2).read(lambda tx: prove_books(OneSnapshot(tx), silent)) == books
    for place in (dbs.control, dbs.cell(2)):
        await seal_all(place)
        report = await seal_verify.verify(place)
        assert (report.findings, report.unsealed) == ([], 0)


async def test_the_certificate_says_what_was_there(two: Pair) -> None:
    await seal_all(two.world.cell)
    await two.remove()
    assert stat.S_IMODE(two.file.stat().st_mode) == 0o600
    found = json.loads(two.file.read_text())
    assert (found["reason"], found["forced"]) == ("contract ended", False)
    (cell,) = found["cells"]
    assert (cell["number"], cell["schema"], cell["treasury"]) == (1, "cell_1", True)
    assert (cell["rows"]["app_user"], cell["rows"]["posting"]) == (1, 2)
    assert {"kind": "available", "currency": "EUR", "scale": 2, "accounts": 1, "minor": "2000"} in (
        cell["balances"]
    )
    assert sum(int(balance["minor"]) for balance in cell["balances"]) == 0
    assert (cell["chain"]["findings"], cell["chain"]["last_seq"] > "0") == (0, True)
    assert "cell 1: 20.00 EUR owed to users" in found["open"]
    assert found["removed"].keys() == directory.GOES.keys()
    none = dict.fromkeys(("earning_policy", "fee_plan", "fx_rate", "registry", "rule_set"), 0)
    assert found["kept"] == {"credential": 1, "directory": 1} | none


def altered(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The certificate with a change each."""
    cell = found["cells"][0]
    yield {**found, "cells": [{**cell, "rows": {**cell["rows"], "posting": 1}}]}
    yield {**found, "cells": [{**cell, "balances": cell["balances"][1:]}]}
    yield {**found, "reason": "other"}
    yield {**found, "signature": "00" * 64}
    yield {**found, "signature": ""}


async def test_what_does_not_fit_a_certificate_is_said(two: Pair) -> None:
    await two.remove()
    text = two.file.read_text()
    for changed in altered(json.loads(text)):
        two.file.write_text(json.dumps(changed))
        assert await faults(two) == ["the certificate was altered, or is signed by another key"]
    two.file.write_text(text.replace('"cells"', '"sells"'))
    assert await slug(two) == "certificate-malformed"
    two.file.write_text(f"{text} ")
    assert "the record names another certificate" in (await faults(two))[0]
    two.file.write_text(text)
    with superuser(two.world, "control") as connection:
        connection.execute("CREATE SCHEMA cell_1")
        connection.execute("UPDATE credential SET revoked_at = NULL WHERE environment_id = 1")
        connection.execute("INSERT INTO four_eyes_limit VALUES (1, 'x', 'EUR', 1, 1, now())")
        connection.execute("UPDATE environment_removal SET reason = 'x'")
    assert await faults(two) == [
        "schema cell_1 of cell 1 still exists",
        "1 rows of it are left in four_eyes_limit",
        "1 of its keys are not revoked",
        "the chain of the directory does not hold: altered environment_removal (environment_id=1)",
    ]
    with superuser(two.world, "control") as connection:
        connection.execute("DELETE FROM environment_removal")
    assert (await faults(two))[-1].startswith("the environment is not removed")


async def slug(two: Pair, **changes: Any) -> str:
    """What refuses the removal; the environment is as it was."""
    with pytest.raises(PaymasterError) as raised:
        await steps.remove(two.owned, replace(two.wanted(), **changes))
    return raised.value.slug


async def test_what_is_refused_changes_nothing(two: Pair) -> None:
    live = {"tenant": "other", "mode": "live", "confirm": "other/live"}
    assert await slug(two, confirm="other/live") == "environment-confirm"
    assert await slug(two, reason=" ") == "environment-confirm"
    assert await slug(two, tenant="acme", mode="live", confirm="acme/live") == "environment-unknown"
    assert await slug(two, file=two.folder / "missing" / "c.json") == "file-unwritable"
    two.file.write_text("{}")
    assert await slug(two) == "certificate-malformed"
    assert two.file.read_text() == "{}"
    two.file.unlink()

    with pytest.raises(Refusal) as raised:
        await steps.remove(two.owned, replace(two.wanted(), **live))
    assert raised.value.slug == "environment-open"
    assert [problem.detail for problem in raised.value.problems] == [
        "cell 2: 20.00 EUR owed to users",
        "cell 2: 1 days with entries are not closed, from 2026-11-20",
    ]
    for holder in ("elsewhere:1", f"{socket.gethostname()}:{os.getppid()}"):
        works(two, holder)
        assert await slug(two) == "environment-running"

    with schemas_locked(two) as connection:
        assert await slug(two) == "environment-busy"
        connection.close()
    assert not two.file.exists()
    assert (await two.served.api.get("/v1/users/anna")).is_success
    assert two.schemas() == ["cell_1", "cell_2"]


def works(two: Pair, holder: str) -> None:
    """A process has a number of the cell."""
    with superuser(two.world, "cell_1") as connection:
        connection.execute(
            "UPDATE worker SET holder = %s, expires_at = %s WHERE number = 63",
            (holder, START + timedelta(seconds=9)),
        )


@pytest.mark.parametrize("here", [True, False])
async def test_a_process_that_has_ended_is_not_waited_for(two: Pair, here: bool) -> None:
    if here:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
        await child.wait()
        works(two, f"{socket.gethostname()}:{child.pid}")
    else:
        works(two, "elsewhere:1")
        two.world.clock.advance(timedelta(seconds=9))
    assert (await two.remove()).dropped == ["cell_1"]


async def test_what_changes_meanwhile_stops_the_removal(
    two: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    certify, seal = steps.certify, steps._Run.seal

    async def adds_a_cell(*given: Any) -> bytes:
        with superuser(two.world, "control") as connection:
            connection.execute("INSERT INTO cell VALUES (3, 1, 'far', 'c', false, true, now())")
        return await certify(*given)

    async def writes(run: Any, chain: Any) -> None:
        await seal(run, chain)
        await chain.run(ACTOR, "t", lambda tx: audit.record(tx, [audit.Act("late", "x")]))

    for name, holder, double in (("seal", steps._Run, writes), ("certify", steps, adds_a_cell)):
        with monkeypatch.context() as patch:
            patch.setattr(holder, name, double)
            assert await slug(two) == "environment-changed"
        assert (await two.served.api.get("/v1/users/anna")).is_success
    with superuser(two.world, "control") as connection:
        connection.execute("DELETE FROM cell WHERE number = 3")
    assert (await two.remove()).dropped == ["cell_1"]
    assert await faults(two) == []


@contextmanager
def schemas_locked(two: Pair) -> Iterator[psycopg.Connection[Any]]:
    """An upgrade is under way."""
    with psycopg.connect(two.world.owner_dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
        yield connection


async def test_a_live_one_that_is_not_finished_goes_by_force(two: Pair) -> None:
    await seal_all(two.world.dbs.cell(2))
    with superuser(two.world, "cell_2") as connection:
        connection.execute("UPDATE entry SET subject = 'changed'")
        connection.execute("UPDATE account SET balance = 0; UPDATE head SET closed_through = now()")
    with pytest.raises(Refusal) as raised:
        await two.remove(number=2)
    assert [p.detail for p in raised.value.problems] == ["cell 2: its hash chain does not hold"]
    assert await two.world.dbs.cell(2).read(lambda tx: tx.value("SELECT 1")) == 1
    assert (await two.remove(number=2, force=True)).dropped == ["cell_2"]
    found = certificate.read(two.file).certificate
    assert (found.forced, found.open) == (True, ["cell 2: its hash chain does not hold"])
    assert found.cells[0].chain.findings > 0
    assert await faults(two) == []
    assert (await two.served.api.get("/v1/users/anna")).is_success


async def test_it_is_completed_after_a_crash_at_any_step(
    two: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> None:
        """A process that was killed opens nothing again."""

    monkeypatch.setattr(steps, "_open_again", nothing)
    for name in ("close", "end_chains", "certify", "record", "drop"):
        await crash(two, monkeypatch, name, before=True)
        assert two.file.exists() is (name in ("record", "drop"))
        assert two.schemas() == ["cell_1", "cell_2"]
        removed = await two.world.dbs.control.read(lambda tx: directory.numbered(tx, 1))
        assert removed is not None
        assert (removed.certificate is not None) is (name == "drop")
        await two.world.dbs.refresh()
        assert len(two.world.dbs.cells()) == (1 if name == "drop" else 2)
        await crash(two, monkeypatch, name, before=False)
    assert two.schemas() == ["cell_2"]
    assert (await two.remove()).dropped == []
    assert await faults(two) == []


async def crash(two: Pair, monkeypatch: pytest.MonkeyPatch, name: str, *, before: bool) -> None:
    """The process ends right before or right after a step; then it is given again."""
    step = getattr(steps, name)

    async def ends(*given: Any) -> None:
        if not before:
            await step(*given)
        raise Broken("crash", name)

    with monkeypatch.context() as patch:
        patch.setattr(steps, name, ends)
        with pytest.raises(Broken, match="crash"):
            await two.remove()


async def test_a_drop_is_taken_up_where_it_ended(
    two: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = schemas._tables

    def some(*given: Any) -> list[str]:
        monkeypatch.undo()
        with superuser(two.world, "cell_1") as connection:
            for name in made(*given)[:60]:
                connection.execute(f"DROP TABLE {name} CASCADE".encode())
        raise Broken("crash", "drop")

    monkeypatch.setattr(schemas, "_tables", some)
    assert await slug(two) == "crash"
    assert two.schemas() == ["cell_1", "cell_2"]
    assert await faults(two) != []
    kept = two.file.read_bytes()
    assert (await two.remove()).dropped == ["cell_1"]
    assert (two.file.read_bytes(), await faults(two)) == (kept, [])
    other = two.folder / "taken-away.json"
    two.file.rename(other)
    assert (await two.remove()).dropped == []
    two.file.write_bytes(kept + b" ")
    assert await slug(two) == "removal-file"


async def test_nothing_of_it_is_used_again(two: Pair) -> None:
    await two.remove(number=2, force=True)
    assert await slug(two) == "removal-file"
    settings, clock = two.owned.settings, two.world.clock
    upgrade(settings, clock)
    assert two.schemas() == ["cell_1"]
    with pytest.raises(Refusal) as raised:
        add_environment(settings, clock, "other", "live", "UTC", [NewCell()])
    assert raised.value.slug == "environment-removed"
    with pytest.raises(Refusal) as raised:
        add_cell(settings, clock, 2, NewCell())
    assert raised.value.slug == "environment-removed"
    assert two.schemas() == ["cell_1"]
    assert add_cell(settings, clock, 1, NewCell()) == 3


async def test_an_upgrade_opens_what_a_crash_left_closed(two: Pair) -> None:
    places = await two.world.dbs.control.read(lambda tx: directory.cells(tx, 1))
    schemas.close_to(
        {"main": two.world.owner_dsn}, places, str(two.owned.settings.database.app_role)
    )
    assert (await two.served.api.get("/v1/users/anna")).status_code >= 500
    upgrade(two.owned.settings, two.world.clock)
    assert (await two.served.api.get("/v1/users/anna")).is_success


async def test_every_table_of_the_directory_goes_stays_or_is_shared(
    postgres: PostgresServer,
) -> None:
    async with make_world(postgres, moves=[]) as world:
        rows = await world.dbs.control.read(
            lambda tx: tx.tuples(
                "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p')"
                " AND relnamespace = 'control'::regnamespace"
            )
        )
    kinds = [*directory.GOES, *directory.STAYS, *directory.SHARED]
    assert sorted(row[0] for row in rows) == sorted(kinds)
