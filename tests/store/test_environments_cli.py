"""`paymaster environments`: from two tenants to one, as an operator and an auditor do it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.removing import Pair, pair
from tests.world import PostgresServer
from typer.testing import CliRunner, Result

from paymaster.cli.main import app
from paymaster.kernel.errors import PaymasterError

NAMES = ("--tenant", "acme", "--mode", "test")
WHY = ("--reason", "contract ended", "--to", "certificate.json")


@pytest.fixture
async def two(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Pair]:
    async with pair(postgres, tmp_path) as made:
        database = made.owned.settings.database
        given = {
            "URL": database.url,
            "OWNER_URL": database.owner_url,
            "APP_ROLE": database.app_role,
            "DATA_DIR": str(tmp_path),
        }
        for name, value in given.items():
            monkeypatch.setenv(f"PAYMASTER__DATABASE__{name}", str(value))
        monkeypatch.chdir(tmp_path)
        yield made


async def run(*words: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, list(words))


async def said(*words: str) -> str:
    done = await run(*words)
    assert done.exit_code == 0, done.output
    return done.output


async def slug(*words: str) -> str:
    done = await run(*words)
    assert isinstance(done.exception, PaymasterError), done.output
    return done.exception.slug


async def test_from_two_to_one(two: Pair) -> None:
    await said("audit", "seal")
    await said("audit", "head", "--out", "before.json")
    assert (await said("environments", "list")).splitlines() == [
        "acme/test: 1 cell(s), 1 user(s), made 2026-11-20T09:00:00.000Z",
        "other/live: 1 cell(s), 1 user(s), made 2026-11-20T09:00:00.000Z",
    ]
    remove = ("environments", "remove", *NAMES, *WHY)
    assert await slug(*remove, "--confirm", "acme/live") == "environment-confirm"
    done = json.loads(await said(*remove, "--confirm", "acme/test", "--json"))
    assert (done["environment"], done["dropped"]) == ("acme/test", ["cell_1"])

    listed = json.loads(await said("environments", "list", "--json"))["environments"]
    assert [(row["tenant"], row["certificate"]) for row in listed] == [
        ("acme", done["certificate"]),
        ("other", None),
    ]
    verify = ("environments", "verify", "certificate.json")
    assert "acme/test was removed as the certificate says: ok" in await said(*verify)
    public = (await said("audit", "public-key")).strip()
    assert json.loads(await said(*verify, "--public-key", public, "--json")) == {
        "ok": True,
        "problems": [],
    }
    stranger = await run(*verify, "--public-key", "00" * 32)
    assert (stranger.exit_code, "signed by another key" in stranger.output) == (1, True)
    assert await slug(*verify, "--public-key", "xy") == "audit-head-signature"
    assert await slug("environments", "verify", "nothing.json") == "file-unreadable"

    await said("audit", "verify")
    assert "compared with block" in await said("audit", "verify", "--head", "before.json")
    assert (await run("audit", "verify", "--cell", "1")).exit_code == 1
    assert await slug("keys", "list", *NAMES) == "environment-unknown"
    assert json.loads(await said("cells", "list"))["cell"] == 2
    again = await said(*remove, "--confirm", "acme/test")
    assert "acme/test is removed; schemas dropped: none" in again
