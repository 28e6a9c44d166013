"""Lock-outs: who guesses too often waits, ever longer; everybody else notices nothing."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.world import ACTOR, PostgresServer, World, make_world, owner_rows
from typer.testing import CliRunner

from paymaster.cli.lockouts import app
from paymaster.db import audit, lockouts
from paymaster.db.tx import ControlTx
from paymaster.kernel.clock import WallClock
from paymaster.kernel.errors import NotFound
from paymaster.observe import Metrics, metrics_response
from paymaster.roles import work

LIMIT, WINDOW = 5, timedelta(minutes=15)


@pytest.fixture
async def world(postgres: PostgresServer):
    async with make_world(postgres, moves=[]) as made:
        yield made


async def run(world: World, work):
    return await world.dbs.control.run(ACTOR, "trace", work)


async def fail(world: World, subject: str = "us_1", **more):
    given = {"limit": LIMIT, "window": WINDOW, **more}
    return await run(world, lambda tx: lockouts.failed(tx, "totp", subject, **given))


async def is_locked(world: World, subject: str = "us_1", address: str = ""):
    return await world.dbs.control.read(
        lambda tx: lockouts.locked(tx, "totp", subject, address=address)
    )


async def test_the_limit_locks_and_the_lock_ends(world: World) -> None:
    for _ in range(LIMIT - 1):
        assert await fail(world) is None
    assert await is_locked(world) is None
    until = await fail(world)
    assert until == world.clock.now() + WINDOW == await is_locked(world)
    assert await is_locked(world, "us_2") is None
    world.clock.advance(WINDOW)
    assert await is_locked(world) is None


async def test_failures_that_are_far_apart_do_not_lock(world: World) -> None:
    for _ in range(3 * LIMIT):
        assert await fail(world) is None
        world.clock.advance(WINDOW / (LIMIT - 1))


async def test_each_lock_is_twice_as_long_up_to_a_day(world: World) -> None:
    lengths = []
    for _ in range(9):
        *_, until = [await fail(world) for _ in range(LIMIT)]
        assert until is not None
        lengths.append(until - world.clock.now())
        world.clock.advance(until - world.clock.now())
    assert lengths[:3] == [WINDOW, 2 * WINDOW, 4 * WINDOW]
    assert lengths[-1] == lockouts.LONGEST
    assert lengths == sorted(lengths)


async def test_failures_while_locked_change_nothing(world: World) -> None:
    until = await fail(world, count=LIMIT)
    assert until is not None
    world.clock.advance(WINDOW / 2)
    assert await fail(world, count=100) == until
    [row] = await world.dbs.control.read(lockouts.listing)
    assert (row.failures, row.locks, row.locked_until) == (0, 1, until)


async def test_a_hundred_failures_side_by_side_lock_once(world: World) -> None:
    await asyncio.gather(*(fail(world) for _ in range(100)))
    [row] = await world.dbs.control.read(lockouts.listing)
    assert row.locks == 1
    told = await world.dbs.control.read(lambda tx: audit.of_subject(tx, "totp:us_1"))
    assert [act.action for act in told] == ["security.locked_out"]


async def test_guesses_side_by_side_are_not_more_than_the_limit(world: World) -> None:
    async def guess() -> bool:
        def work(tx: ControlTx):
            return lockouts.attempt(tx, "totp", "us_1", limit=LIMIT, window=WINDOW)

        return await run(world, work) is None

    allowed = await asyncio.gather(*(guess() for _ in range(50)))
    assert sum(allowed) == LIMIT


async def test_success_forgets_the_failures_but_not_how_often_it_was_locked(world: World) -> None:
    await fail(world, count=LIMIT)
    world.clock.advance(WINDOW)
    await fail(world, count=LIMIT - 1)
    await run(world, lambda tx: lockouts.succeeded(tx, "totp", "us_1"))
    assert await fail(world, count=LIMIT - 1) is None
    until = await fail(world)
    assert until == world.clock.now() + 2 * WINDOW


async def test_each_address_is_counted_for_itself(world: World) -> None:
    assert await fail(world, address="192.0.2.1", count=LIMIT) is not None
    assert await is_locked(world, address="192.0.2.1") is not None
    assert await is_locked(world, address="192.0.2.2") is None
    assert await is_locked(world) is None


async def test_a_lock_is_told_everywhere_and_names_no_address(world: World) -> None:
    before = count_of("totp")
    with capture_logs() as said:
        await fail(world, count=LIMIT, address="192.0.2.1")
    [act] = await world.dbs.control.read(lambda tx: audit.of_subject(tx, "totp:us_1"))
    assert (act.actor, act.origin) == (ACTOR.name, "192.0.2.1")
    [(topic, key, payload)] = owner_rows(world, "SELECT topic, key, payload FROM control.outbox")
    until = payload.pop("until")
    assert until.endswith("Z")
    assert (topic, key) == ("security.locked_out", "totp:us_1")
    assert payload == {"kind": "totp", "subject": "us_1", "times": 1}
    assert count_of("totp") == before + 1
    assert "locked_out" in [line["event"] for line in said]
    assert "192.0.2.1" not in str(said)


def count_of(kind: str) -> float:
    body, _ = metrics_response(Metrics())
    name = f'paymaster_lockouts_total{{kind="{kind}"}} '
    found = [line for line in body.decode().splitlines() if line.startswith(name)]
    return float(found[0].split()[-1]) if found else 0.0


async def test_an_alarm_locks_nobody(world: World) -> None:
    def work(tx: ControlTx):
        return lockouts.alarmed(tx, "key", "pk_test_00000000", limit=2, window=WINDOW)

    for _ in range(5):
        await run(world, work)
    for address in ("", "192.0.2.1"):
        found = await world.dbs.control.read(
            lambda tx, a=address: lockouts.locked(tx, "key", "pk_test_00000000", address=a)
        )
        assert found is None
    told = await world.dbs.control.read(lambda tx: audit.of_subject(tx, "key:pk_test_00000000"))
    assert [act.action for act in told] == ["security.guessing"]


async def test_unlocking_by_hand_says_why(world: World) -> None:
    await fail(world, count=LIMIT)
    await run(world, lambda tx: lockouts.clear(tx, "totp", "us_1", "called us"))
    assert await is_locked(world) is None
    told = await world.dbs.control.read(lambda tx: audit.of_subject(tx, "totp:us_1"))
    assert (told[-1].action, told[-1].reason) == ("security.unlock", "called us")
    with pytest.raises(NotFound, match="lockout-unknown"):
        await run(world, lambda tx: lockouts.clear(tx, "totp", "us_1", "again"))


async def test_old_rows_go(world: World) -> None:
    await fail(world, "us_1")
    world.clock.advance(timedelta(days=4))
    await fail(world, "us_2")
    world.clock.advance(timedelta(days=4))
    assert await run(world, lambda tx: lockouts.sweep(tx, 100)) == 1
    left = await world.dbs.control.read(lambda tx: lockouts.listing(tx, only_locked=False))
    assert [row.subject for row in left] == ["us_2"]


async def test_the_command_shows_and_clears(
    world: World, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYMASTER__DATABASE__URL", postgres.app_dsn(world.database))
    monkeypatch.setenv("PAYMASTER__DATABASE__DATA_DIR", str(tmp_path))
    world.clock.advance(WallClock().now() - world.clock.now())
    await fail(world, count=LIMIT, address="192.0.2.1")
    await fail(world, "us_2")

    async def command(*given: str) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, app, list(given))
        assert done.exit_code == 0, done.output
        return done.output

    [shown] = (await command("list")).splitlines()
    assert shown.startswith("totp\tus_1\t192.0.2.1\t0 failures\t1 locks\tuntil 20")
    everything = json.loads(await command("list", "--all", "--json"))["lockouts"]
    assert [(row["subject"], row["failures"]) for row in everything] == [("us_1", 0), ("us_2", 1)]
    await command("clear", "totp", "us_1", "--address", "192.0.2.1", "--reason", "called us")
    assert await command("list") == ""


async def test_the_relay_forgets_what_is_long_past(world: World) -> None:
    await fail(world)
    world.clock.advance(lockouts.REMEMBERED + timedelta(seconds=1))
    deps: Any = SimpleNamespace(dbs=world.dbs)
    await work._forget_limits(deps)
    assert await world.dbs.control.read(lambda tx: lockouts.listing(tx, only_locked=False)) == []
