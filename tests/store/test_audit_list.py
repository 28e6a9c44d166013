"""The audit trail read: every schema of an environment, one order, no other environment's acts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.served import Served, add_environment, client, earner, serve
from tests.staffing import invite
from tests.world import ACTOR, PostgresServer

from paymaster.db.tx import Actor
from paymaster.kernel.clock import rfc3339
from paymaster.people import credentials
from paymaster.people.staff_roles import Role


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path, cells=3) as found:
        yield found


async def acts(served: Served, **params: Any) -> list[dict[str, Any]]:
    return (await served.ok("GET", "/v1/audit", params=params))["data"]


async def test_filters_and_pages(served: Served) -> None:
    await served.ok("PUT", "/v1/sponsors/acme", {"name": "Acme"})
    users: list[str] = []
    for number in range(6):
        served.world.clock.advance(timedelta(seconds=1))
        users.append((await earner(served, f"user-{number}", "1.00"))["user"])
    moment = served.world.clock.now()
    served.world.clock.advance(timedelta(hours=1))
    await served.ok("PUT", "/v1/users/user-0", {"status": "suspended", "reason": "asked"})
    everything = await acts(served, limit=200)
    assert everything[0]["action"] == "user.suspended"
    assert everything[0]["reason"] == "asked"
    assert {"sponsor.put", "user.create", "destination.add"} <= {
        one["action"] for one in everything
    }
    assert [one["acted_at"] for one in everything] == sorted(
        (one["acted_at"] for one in everything), reverse=True
    )
    assert len({one["id"] for one in everything}) == len(everything)
    paged: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        more = {"limit": 3} if cursor is None else {"limit": 3, "cursor": cursor}
        page = await served.ok("GET", "/v1/audit", params=more)
        paged += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert paged == everything
    created = await acts(served, action="user.create")
    assert [one["subject"] for one in created] == users[::-1]
    of_one = await acts(served, subject=users[0])
    assert [one["action"] for one in of_one] == ["user.suspended", "user.create"]
    assert len(await acts(served, since=rfc3339(moment + timedelta(seconds=1)))) == 1
    before = await acts(served, until=rfc3339(moment), action="user.create")
    assert [one["subject"] for one in before] == users[-2::-1]
    actor = everything[0]["actor"]
    assert len(await acts(served, actor=actor, limit=200)) == len(everything) - 1
    assert await acts(served, actor="key:pk_test_00000000") == []
    for bad in ({"since": "yesterday"}, {"actr": "x"}, {"cursor": "x"}):
        answer = await served.api.get("/v1/audit", params=bad)
        assert answer.status_code == 400, bad


async def test_no_other_environments_acts(served: Served) -> None:
    await add_environment(served, 9, "other", "test")
    theirs = await served.key(environment_id=9)
    await invite(served, "anna", Role.RISK)
    async with client(served.app, theirs) as other:
        assert (await other.put("/v1/sponsors/s", json={"name": "S"})).is_success
        assert (await other.put("/v1/users/u", json={})).is_success
        bank = {"rail": "iso20022", "currency": "EUR", "settings": {
            "iban": "DE89370400440532013000", "holder": "O", "transport": "directory",
            "outgoing": "out", "incoming": "in"}}  # fmt: skip
        assert (await other.put("/v1/rail-accounts/bank", json=bank)).is_success
        shown = (await other.get("/v1/audit")).json()["data"]
    own = {one["action"] for one in shown}
    assert {"sponsor.put", "user.create", "rail_account.add", "credential.issue"} == own
    ours = await acts(served, limit=200)
    assert {one["id"] for one in shown}.isdisjoint(one["id"] for one in ours)
    assert "sponsor.put" not in {one["action"] for one in ours}

    async def work(tx: Any) -> None:
        await credentials.issue(tx, 9, "new", ["read"])

    await served.world.dbs.control.run(Actor("cli", None, 9), "", work)
    async with client(served.app, theirs) as other:
        found = (await other.get("/v1/audit", params={"actor": "cli"})).json()["data"]
    assert [one["action"] for one in found] == ["credential.issue"]
    assert "environment_id" not in found[0]["detail"]
    assert await acts(served, actor="cli") == []
    assert ACTOR.name == "test"
