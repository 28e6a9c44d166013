"""`paymaster keys` and `paymaster issuers`: what they print and how they refuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.planting import plant
from tests.world import PostgresServer, World, make_world
from typer.testing import CliRunner, Result

from paymaster.cli.main import app
from paymaster.db import audit
from paymaster.kernel.errors import PaymasterError
from paymaster.people.scopes import DEFAULT_SCOPES

Run = Callable[..., Awaitable[Result]]
URL = "https://login.example.com"


@pytest.fixture
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with make_world(postgres) as made:
        yield made


@pytest.fixture
def run(
    world: World, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.setenv("PAYMASTER__DATABASE__URL", postgres.app_dsn(world.database))
    monkeypatch.setenv("PAYMASTER__DATABASE__DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    async def invoke(*words: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, [*words, "--tenant", "acme"])

    return invoke


async def shown(run: Run, *words: str) -> list[dict[str, Any]]:
    result = await run(*words)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


async def slug(run: Run, *words: str) -> str:
    result = await run(*words)
    assert isinstance(result.exception, PaymasterError), result.output
    return result.exception.slug


async def test_issuers(run: Run) -> None:
    add = ("issuers", "add", URL, "--audience", "app", "--algorithm", "ES256")
    [made] = await shown(run, *add)
    assert (made["audiences"], made["algorithms"]) == (["app"], ["ES256"])
    assert await shown(run, "issuers", "list") == [made]
    assert await slug(run, *add) == "issuer-exists"
    inside = "http://login.internal.example"
    second = ("issuers", "add", inside, "--audience", "app", "--user-prefix", "in:")
    assert await slug(run, *second) == "issuer-invalid"
    await shown(run, *second, "--plain-http")
    reason = ("--reason", "looked into")
    assert [one["enabled"] for one in await shown(run, "issuers", "disable", URL, *reason)] == [
        False
    ]
    assert [one["enabled"] for one in await shown(run, "issuers", "enable", URL, *reason)] == [True]
    assert (await run("issuers", "remove", URL, *reason)).output == f"{URL} is removed\n"
    assert [one["url"] for one in await shown(run, "issuers", "list")] == [inside]
    assert await slug(run, "issuers", "remove", URL, *reason) == "issuer-unknown"


async def test_keys(run: Run, world: World) -> None:
    plant(
        world, "control", "person", id=77, tenant="acme", email="one@example.test", state="active"
    )
    [made] = await shown(run, "keys", "issue", "shop", "--json")
    assert made["scopes"] == list(DEFAULT_SCOPES)
    assert not {"audit", "staff"} & set(made["scopes"])
    told = (await asyncio.to_thread(CliRunner().invoke, app, ["keys", "issue", "--help"])).output
    words = "".join(letter for letter in told if letter not in "│\n ")
    assert f"Default:{','.join(DEFAULT_SCOPES)}." in words, "the help says what a key is given"
    owned = ("keys", "issue", "mine", "--scope", "read", "--expires-in-days", "7", "--owner")
    result = await run(*owned, "one@example.test")
    assert result.exit_code == 0, result.output
    assert await slug(run, *owned, "two@example.test") == "person-unknown"
    shop, mine = await shown(run, "keys", "list")
    assert (shop["owner"], shop["expires_at"], shop["last_used_on"]) == (None, None, None)
    assert mine["owner"].startswith("pe_00")
    acts = await world.dbs.control.read(lambda tx: audit.of_subject(tx, mine["prefix"]))
    assert [act.detail["owner"] for act in acts] == [mine["owner"]]
    assert mine["expires_at"] is not None
    assert result.output.startswith(f"{mine['prefix']}_")
    assert result.output.strip() not in (await run("keys", "list")).output
