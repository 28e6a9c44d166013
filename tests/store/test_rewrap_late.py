"""When a new key-encryption key is used everywhere: by which clock, and what comes too late."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.sealed import superuser
from tests.served import serve
from tests.store.test_rewrap import PLACES, Kept, fill, new_version
from tests.world import START, PostgresServer

from paymaster.db import sealed
from paymaster.kernel.clock import rfc3339
from paymaster.roles.rewrap import Tempo, lanes, rewrappers


@pytest.fixture
async def kept(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Kept]:
    async with serve(postgres, tmp_path, secrets={"settle_seconds": 0}) as served:
        yield Kept(served, tmp_path / "secrets", await fill(served))


async def test_a_table_is_done_by_the_machine_s_clock(kept: Kept) -> None:
    """Other processes look for keys by it, whatever a test environment's says."""
    new_version(kept.folder, "kek")
    one = kept.rewrapper(kept.served.world.cell, Tempo(settle=timedelta(seconds=90)))

    async def undone() -> set[str]:
        for _ in range(60):
            await one.step()
        rows = await kept.served.world.read(sealed.progress)
        return {row.name for row in rows.values() if row.done_at is None}

    await kept.served.ok("PUT", "/v1/test-clock", {"to": rfc3339(START + timedelta(days=20))})
    assert "data_key" in await undone()
    await kept.served.ok("PUT", "/v1/test-clock", {"to": rfc3339(START + timedelta(days=40))})
    assert "data_key" in await undone()
    kept.served.world.clock.advance(timedelta(seconds=91))
    assert await undone() == set()


async def test_what_came_under_the_old_key_after_all_was_done_is_found(kept: Kept) -> None:
    """By a process that began anew, and takes the files of all versions for young ones."""
    deps = kept.served.deps
    old = deps.secrets.kek.current_id()
    late = deps.secrets.sealer.seal_bytes(b"webhook_secret 3", PLACES["webhook_secret"](3))
    with superuser(kept.served.world, "cell_1") as owner:
        key = owner.execute("SELECT * FROM data_key ORDER BY user_id LIMIT 1").fetchone()
    new_version(kept.folder, "kek")
    await kept.rewrap()
    with superuser(kept.served.world, "control") as owner:
        owner.execute("UPDATE webhook_secret SET sealed = %s WHERE id = 3", (late,))
    with superuser(kept.served.world, "cell_1") as owner:
        owner.execute(
            "UPDATE data_key SET wrapped = %(wrapped)s, kek_id = %(kek_id)s"
            " WHERE user_id = %(user_id)s",
            key,
        )
    await kept.rewrap()
    assert (await kept.key_ids())["cell.data_key"][old] == 1
    made = rewrappers(deps)
    await next(one for one in lanes(deps, made) if one.name == "sealed-values").step()
    for one in made.values():
        await one.give_up()
    await kept.rewrap()
    assert all(old not in counted for counted in (await kept.key_ids()).values())
    await kept.assert_all_open({"old-0": "Old 0"})


async def test_who_has_just_begun_does_not_take_another_key_for_the_newest(kept: Kept) -> None:
    await kept.rewrap()
    new_version(kept.folder, "kek")
    one = kept.rewrapper(kept.served.world.cell, Tempo(settle=timedelta(seconds=90)))
    assert await one.step() == 0
    one._ready_at -= 90
    assert await one.step() > 0
