"""Books that others' systems lost on a crash, filled twice, or slowed down on one row.

What each entry is and where else it is shown: docs/internals/regressions.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from tests.live import children, lives
from tests.statements import CAMPAIGN, FUNDING, Office, later, line, office, sheet
from tests.withdrawals import BANK, assert_proven, new_earner, withdrawal_world
from tests.world import PostgresServer, World

from paymaster.db.embedded import APP_ROLE, EmbeddedPostgres
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Busy
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.rails.base import LineKind
from paymaster.reconcile import match
from paymaster.withdraw.request import request

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMES = 300
CENT = Money(1, "EUR")


# --------------------------------------------------------------------------------- paid in once


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(postgres: PostgresServer) -> AsyncIterator[Office]:
    async with office(postgres) as made:
        yield made


async def test_lago_3618_a_payment_in_is_booked_once(desk: Office) -> None:
    """Two workers settled one top-up: the wallet had it twice."""
    await desk.store(sheet("0.00", line("I0", "10.00", kind=LineKind.INCOMING, key=FUNDING)))
    await desk.settle()  # the accounts exist: nobody has to begin anew for want of one
    topped_up = line("I1", "500.00", kind=LineKind.INCOMING, key=FUNDING)
    one = sheet("10.00", topped_up, day=later(1))
    told = await asyncio.gather(*(desk.store(one) for _ in range(4)), return_exceptions=True)
    assert any(isinstance(each, list) for each in told)
    claimed = asyncio.Event()

    async def other() -> match.Progress:
        await claimed.wait()
        return await desk.match()

    second = asyncio.create_task(other())

    async def first(tx: CellTx) -> match.Progress:
        done = await match.match_due(tx, desk.sealer, desk.catalogue(), desk.cells)
        claimed.set()
        # Nothing is committed yet. Only one who wants the same line would have to wait for that.
        await asyncio.wait({second}, timeout=1)
        return done

    looked = [await desk.world.run(first), await second]
    assert [each.claimed for each in looked] == [1, 0]
    await desk.store(one)
    await desk.settle()
    assert (await desk.balance("budget", CAMPAIGN)).text() == "510.00"
    assert await desk.cash() == "510.00"
    assert len(await desk.topics("campaign.funded")) == 2
    await desk.assert_proven()


# --------------------------------------------------------------------------- one row, many times


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres) as made:
        yield made
        await assert_proven(made)


async def test_one_account_many_times_in_a_batch_is_written_once(world: World) -> None:
    """Five hundred updates of a row in one transaction make a chain that each must walk along."""

    async def fund(tx: CellTx) -> int:
        postings = recipes.fund(BANK, CAMPAIGN, CENT)
        ids, before = tx.ids(TIMES), await writes(tx)
        posted = await post(tx, [Entry(one, "fund", "x", postings) for one in ids])
        assert all(one.done for one in posted)
        return await writes(tx) - before

    await world.run(fund)  # opens the accounts
    assert await world.run(fund) == 2, "the cash and the budget"


async def test_one_earner_many_times_in_a_batch_is_written_once(world: World) -> None:
    earner = await new_earner(world, f"{2 * TIMES}.00")

    async def ask(tx: CellTx) -> int:
        before = await writes(tx)
        made = await request(tx, [earner.asks("1.00")] * TIMES)
        assert all(one.slug is None for one in made)
        return await writes(tx) - before

    await world.run(ask)
    assert await world.run(ask) == 2, "what is available and what is held"


async def writes(tx: CellTx) -> int:
    """How many rows of accounts this connection has updated; only a difference says something."""
    return await tx.value("SELECT pg_stat_get_xact_tuples_updated('account'::regclass)")


# --------------------------------------------------------------------------- killed while writing


class _Told:
    """The ids of entries whose writers were told that they are done."""

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self._wanted, self._reached = 0, asyncio.Event()

    def add(self, entry_id: int) -> None:
        self.ids.add(entry_id)
        if len(self.ids) >= self._wanted:
            self._reached.set()

    async def more(self, count: int) -> None:
        """Wait for so many more."""
        self._reached.clear()
        self._wanted = len(self.ids) + count
        await self._reached.wait()


class _Killed(EmbeddedPostgres):
    """A server of this test's own, to be killed with all its processes."""

    app_role = APP_ROLE

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, settings={"fsync": "off"}, exit_with_owner=True)
        self.folder = folder

    def kill(self) -> None:
        (file,) = self.folder.rglob("postmaster.pid")
        server = int(file.read_text().splitlines()[0])
        doomed = (server, *children(server))
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)
        while any(map(lives, doomed)):
            time.sleep(0.001)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Killed]:
    with _Killed(tmp_path_factory.mktemp("killed") / "data") as server:
        yield server


async def test_midaz_1270_killed_in_the_middle_what_was_told_is_there(own: _Killed) -> None:
    """The transaction was answered with 201 and gone after a restart; the balance was wrong."""
    async with withdrawal_world(own) as world:
        ids = await world.run(new_ids)
        told = _Told()
        writers = [asyncio.create_task(write(world, ids[at::6], told)) for at in range(6)]
        await told.more(40)
        own.kill()
        own.start()  # on this thread: nobody writes meanwhile, and each finds its connection gone
        await told.more(40)
        for one in writers:
            one.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
            connection.execute("SET search_path TO cell_1")
            kept = {
                row[0] for row in connection.execute("SELECT id FROM entry WHERE kind = 'fund'")
            }
            (balance,) = connection.execute(
                "SELECT balance FROM account WHERE kind = 'budget'"
            ).fetchone() or (0,)
        assert told.ids <= kept, "what was told is there"
        assert len(kept) <= len(told.ids) + len(writers), "the last of each was not told"
        assert balance == len(kept)
        await assert_proven(world)


async def new_ids(tx: CellTx) -> list[int]:
    return tx.ids(3_000)


async def write(world: World, ids: list[int], told: _Told) -> None:
    """One entry after the other; one that was not answered is sent again, as clients do."""
    for entry_id in ids:
        entry = Entry(entry_id, "fund", "x", recipes.fund(BANK, CAMPAIGN, CENT))
        while entry_id not in told.ids:
            with contextlib.suppress(Busy):
                (posted,) = await world.run(lambda tx, one=entry: post(tx, [one]))
                assert posted.done
                told.add(entry_id)
