"""`paymaster staff` and `paymaster audit list`: what an operator on the machine can do or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.world import PostgresServer, World, make_world, owner_rows
from typer.testing import CliRunner

from paymaster.cli.main import app
from paymaster.kernel.errors import PaymasterError

Run = Callable[..., Awaitable[str]]
PLACE = ("--tenant", "acme")


@pytest.fixture
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with make_world(postgres) as made:
        yield made


@pytest.fixture
def run(
    world: World, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """The output of a command, or the slug of its refusal."""
    monkeypatch.setenv("PAYMASTER__DATABASE__URL", postgres.app_dsn(world.database))
    monkeypatch.setenv("PAYMASTER__DATABASE__DATA_DIR", str(tmp_path))
    # The logs of this process stay as they are: standard error here ends with the command.
    monkeypatch.setattr("paymaster.cli.staff.configure_logs", lambda *_: None)
    monkeypatch.chdir(tmp_path)

    async def invoke(*words: str) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, app, [*words, *PLACE])
        if isinstance(done.exception, PaymasterError):
            return done.exception.slug
        assert done.exit_code == 0, done.output
        return done.stdout

    return invoke


def listed(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_persons(run: Run) -> None:
    because = ("--reason", "test")
    made = json.loads(await run("staff", "add", "--role", "admin", "anna@example.test", "Anna"))
    await run("staff", "add", "--role", "finance", "ben@example.test", "Ben")
    assert await run("staff", "disable", made["id"], *because) == "last-admin"
    assert await run("staff", "roles", "anna@example.test", "none", *because) == "last-admin"
    assert await run("staff", "disable", "cleo@example.test", *because) == "person-unknown"
    await run("staff", "roles", "ben@example.test", "admin", *because)
    await run("staff", "disable", "anna@example.test", *because)
    found = listed(await run("staff", "list"))
    assert [(one["name"], one["state"], one["role"]) for one in found] == [
        ("Anna", "disabled", "admin"),
        ("Ben", "active", "admin"),
    ]
    await run("staff", "enable", "anna@example.test", *because)
    await run("staff", "unbind", "anna@example.test", *because)
    await run("staff", "roles", "anna@example.test", "none", *because)
    assert len(listed(await run("staff", "list"))) == 1
    acts = listed(await run("audit", "list", "--subject", made["id"]))
    assert [one["action"] for one in acts] == [
        "staff.role_removed",
        "staff.unbind",
        "staff.enable",
        "staff.disable",
        "staff.add",
    ]
    assert {one["actor"] for one in acts} == {"cli"}


async def test_break_glass(run: Run, world: World) -> None:
    await run("staff", "add", "--role", "support", "anna@example.test", "Anna")
    glass = ("staff", "break-glass", "--person", "anna@example.test", "--reason", "fire")
    assert await run(*glass, "--minutes", "241") == "break-glass-minutes"
    lent = json.loads((await run(*glass, "--minutes", "30")).splitlines()[-1])
    assert (lent["role"], lent["started_by"]) == ("admin", "cli")
    assert [one["break_glass"] for one in listed(await run("staff", "list"))] == [[lent]]
    events = owner_rows(
        world, "SELECT count(*) FROM control.outbox WHERE topic = 'security.break_glass'"
    )
    assert events == [(1,)]


async def test_providers(run: Run) -> None:
    add = ("staff", "provider", "add")
    place = ("https://login.example.test", "paymaster")
    made = json.loads(await run(*add, "--groups-claim", "groups", "--group", "a=b=risk", *place))
    assert (made["tenant"], made["group_roles"]) == ("acme", {"a=b": "risk"})
    assert await run(*add, "--group", "x", *place) == "staff-options"
    for wrong in (
        ("--group", "a=risk"),
        ("--groups-claim", "g", "--group", "a=boss"),
        ("--groups-claim", "g"),
        ("--secret", "No Name"),
        ("--domain", "no domain"),
    ):
        assert await run(*add, *wrong, *place) == "identity-provider-invalid", wrong
    for address in ("http://login.example.test", "ftp://x", "https://a@b.test", "https://b/?q=1"):
        assert await run(*add, address, "paymaster") == "identity-provider-invalid", address
    again = json.loads(await run(*add, "--domain", "Example.test", *place))
    assert (again["id"], again["email_domains"], again["group_roles"]) == (
        made["id"],
        ["example.test"],
        {},
    )
    await run("staff", "provider", "disable", made["id"], "--reason", "moved")
    assert [one["state"] for one in listed(await run("staff", "provider", "list"))] == ["disabled"]


async def test_limits_are_no_way_around_the_second_person(run: Run) -> None:
    await run("staff", "add", "--role", "admin", "anna@example.test", "Anna")
    change = ("staff", "limits", "set", "--reason", "x")
    first = await run(*change, "transfer.request", "EUR", "10.00")
    assert first.strip() == "set"
    assert await run(*change, "transfer.request", "EUR", "99.00") == "person-needed"
    assert await run(*change, "nothing", "EUR", "99.00") == "four-eyes-act"
    as_anna = ("--person", "anna@example.test")
    waits = await run(*change, *as_anna, "transfer.request", "EUR", "99.00")
    assert waits.startswith("waits for another person: ap_")
    remove = ("staff", "limits", "remove", "--reason", "x", "transfer.request", "EUR")
    assert await run(*remove) == "person-needed"
    assert listed(await run("staff", "limits", "list")) == [
        {"act": "transfer.request", "limit": "10.00", "currency": "EUR"}
    ]
