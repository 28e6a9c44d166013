"""The clock of a test environment, and what no live environment may do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.served import Served, add_environment, client, earner, make_deps, serve
from tests.world import ACTOR, START, PostgresServer, app_dsn

from paymaster.api.app import build_api
from paymaster.db.cells import Databases
from paymaster.db.tx import CellTx
from paymaster.kernel.clock import ManualClock, parse_rfc3339, rfc3339
from paymaster.kernel.ids import milliseconds_of

CLOCK = "/v1/test-clock"
WALLET = {
    "rail": "sandbox-wallet",
    "currency": "EUR",
    "settings": {"url": "http://127.0.0.1:1"},
    "secrets": {"api_key": "a", "webhook_secret": "b"},
}


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path, cells=3, limits={"destination_cooling_seconds": 60}) as up:
        yield up


async def test_it_goes_forward_in_every_cell_and_never_back(served: Served) -> None:
    assert (await served.ok("GET", CLOCK))["ahead_seconds"] == 0
    to = START + timedelta(days=20)
    shown = await served.ok("PUT", CLOCK, {"to": rfc3339(to)})
    assert timedelta(0) <= parse_rfc3339(shown["now"]) - to <= timedelta(seconds=1)
    assert await served.ok("PUT", CLOCK, {"to": rfc3339(to)}) == shown
    assert await served.ok("PUT", CLOCK, {"to": rfc3339(START)}) == shown
    for cell in (1, 2, 3):

        async def now(tx):
            return tx.now

        assert await served.world.read(now, cell) >= to
        made = await served.world.run(lambda tx: asyncio.sleep(0, tx.id()), cell)
        assert milliseconds_of(made) >= to.timestamp() * 1000
        acts = await served.world.read(
            lambda tx: tx.tuples("SELECT detail FROM audit WHERE action = 'test_clock.forward'"),
            cell,
        )
        assert len(acts) == 1


async def test_what_is_due_later_is_due_at_once(served: Served) -> None:
    destination = await earner(served)
    body = {
        "user": "anna",
        "destination": destination["id"],
        "amount": {"amount": "5.00", "currency": "EUR"},
    }
    await served.refused(
        422, "destination-not-usable-yet", "POST", "/v1/withdrawals", body,
        headers={"Idempotency-Key": "k1"},
    )  # fmt: skip
    await served.ok("PUT", CLOCK, {"to": rfc3339(START + timedelta(minutes=2))})
    await served.ok("POST", "/v1/withdrawals", body, headers={"Idempotency-Key": "k2"})


async def test_other_processes_learn_of_it_with_their_next_transaction(served: Served) -> None:
    world = served.world
    there = Databases({"main": app_dsn(world.dbs)}, ManualClock(START))
    await there.open()
    try:
        deps = make_deps(served.deps.settings, there, there.clock, served.deps.http)
        key = served.api.headers["Authorization"].removeprefix("Bearer ")
        async with client(build_api(deps), key) as other:
            assert (await other.put("/v1/users/ben", json={})).status_code == 201
            to = START + timedelta(days=40)
            await served.ok("PUT", CLOCK, {"to": rfc3339(to)})
            made = await other.put("/v1/users/cleo", json={})
            assert parse_rfc3339(made.json()["created_at"]) >= to
    finally:
        await there.close()


async def test_events_of_there_are_not_in_the_future_of_another_process(served: Served) -> None:
    to = rfc3339(START + timedelta(days=20))
    await served.ok("PUT", CLOCK, {"to": to})
    there = Databases({"main": app_dsn(served.world.dbs)}, ManualClock(START))
    await there.open()
    try:
        deps = make_deps(served.deps.settings, there, there.clock, served.deps.http)
        key = served.api.headers["Authorization"].removeprefix("Bearer ")
        event = {"event_id": "e1", "type": "answer", "user": "anna", "campaign": "spring"}
        async with client(build_api(deps), key) as other:
            body = [{**event, "task": "words", "occurred_at": to}]
            answer = await other.post("/v1/events", json=body)
        assert [one["slug"] for one in answer.json()["rejected"]] == ["user-unknown"]
    finally:
        await there.close()


async def test_work_that_runs_while_it_is_put_forward_is_done_once(served: Served) -> None:
    async def users(number: int) -> None:
        for step in range(8):
            await served.ok("PUT", f"/v1/users/u{number}-{step}", {})

    async def forward() -> None:
        for days in range(1, 5):
            await served.ok("PUT", CLOCK, {"to": rfc3339(START + timedelta(days=days))})

    await asyncio.gather(forward(), *(users(number) for number in range(6)))
    counts = [
        await served.world.read(lambda tx: tx.value("SELECT count(*) FROM app_user"), cell)
        for cell in (1, 2, 3)
    ]
    assert sum(counts) == 48


async def test_who_began_before_another_learned_of_it_is_run_again(served: Served) -> None:
    """What is sent together reads the clock late: its time and its ids would be of two times."""
    cell, begun, learned = served.world.dbs.cell(1), asyncio.Event(), asyncio.Event()
    times: list[datetime] = []

    async def slow(tx: CellTx) -> None:
        times.append(tx.now)
        begun.set()
        await learned.wait()
        await tx.value("SELECT 1")

    writing = asyncio.create_task(cell.run(ACTOR, "0" * 32, slow, merged=True))
    await begun.wait()
    to = START + timedelta(days=20)
    await served.ok("PUT", CLOCK, {"to": rfc3339(to)})
    learned.set()
    await writing
    assert len(times) == 2
    assert times[1] >= to


async def test_there_must_be_partitions(served: Served) -> None:
    for far in (rfc3339(START + timedelta(days=400)), "9999-12-31T23:59:59Z"):
        await served.refused(422, "clock-too-far", "PUT", CLOCK, {"to": far})
    # What is long past needs none.
    await served.ok("PUT", CLOCK, {"to": "0001-01-01T00:00:00Z"})
    assert (await served.ok("GET", CLOCK))["ahead_seconds"] == 0


async def test_a_live_environment_has_neither_a_clock_nor_rails_that_pretend(
    served: Served,
) -> None:
    await add_environment(served, 9, "acme", "live")
    key = await served.key(environment_id=9)
    async with client(served.app, key) as live:
        assert (await live.get(CLOCK)).json() == {"now": rfc3339(START), "ahead_seconds": 0}
        later = rfc3339(START + timedelta(days=1))
        answer = await live.put(CLOCK, json={"to": later})
        assert (answer.status_code, answer.json()["code"]) == (403, "test-mode-only")
        answer = await live.put("/v1/rail-accounts/wallet", json=WALLET)
        assert (answer.status_code, answer.json()["code"]) == (422, "rail-account-invalid")
        assert [one["pointer"] for one in answer.json()["errors"]] == ["/rail"]
    await served.ok("PUT", "/v1/rail-accounts/wallet", WALLET)
    await served.ok("PUT", CLOCK, {"to": later})
    async with client(served.app, key) as live:
        assert (await live.get(CLOCK)).json()["now"] == rfc3339(START)
