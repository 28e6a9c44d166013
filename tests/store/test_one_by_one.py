"""Transactions in which each answer is waited for: what is sent when, and what a failure leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from psycopg import errors
from psycopg.types.json import Jsonb
from tests.world import ACTOR, PostgresServer, World, make_world, owner_rows

from paymaster.db.sending import Sending
from paymaster.db.tx import CellRead, CellTx, ControlRead, ControlTx
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import new_trace_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

_ASLEEP = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"
PUT = "INSERT INTO cursor (name, seq) VALUES (%s, %s)"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    """One connection, so that each transaction finds what the one before has left."""
    async with make_world(postgres, moves=[], connections=1) as made:
        yield made


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For every time that the server is waited for: how many answers were."""
    counted: list[int] = []
    answers = Sending._answers

    def noted(self: Sending, count: int, *, ends: bool) -> Any:
        counted.append(count)
        return answers(self, count, ends=ends)

    monkeypatch.setattr(Sending, "_answers", noted)
    return counted


async def run(world: World, work: Any) -> Any:
    return await world.cell.run(ACTOR, new_trace_id(), work)


async def nothing(_: CellTx) -> None:
    """Look at nothing and write nothing."""


def cursors(world: World, pattern: str) -> list[tuple[str, int]]:
    return owner_rows(world, "SELECT name, seq FROM cursor WHERE name LIKE %s ORDER BY 1", pattern)


async def test_what_begins_and_ends_a_transaction_costs_no_trip_of_its_own(
    world: World, trips: list[int]
) -> None:
    """In the directory, which has no clock that is asked for first."""
    control = world.dbs.control

    async def empty(_: ControlTx) -> None:
        pass

    async def looks(tx: ControlTx) -> Any:
        return await tx.value("SELECT 1")

    async def appends(tx: ControlTx) -> None:
        tx.append()
        await tx.execute(PUT, ("trips", 1))

    await control.run(ACTOR, new_trace_id(), looks)
    before = owner_rows(world, "SELECT seq FROM control.head")[0][0]
    for work, most in ((empty, 0), (looks, 2), (appends, 2)):
        trips.clear()
        await control.run(ACTOR, new_trace_id(), work)
        assert (work.__name__, len(trips)) == (work.__name__, most)
    assert owner_rows(world, "SELECT seq FROM control.head") == [(before + 1,)]
    assert owner_rows(world, "SELECT max(last_seq) FROM control.commit") == [(before + 1,)]


async def test_what_is_sent_without_waiting_is_one_trip(world: World, trips: list[int]) -> None:
    async def work(tx: CellTx) -> list[Any]:
        async with tx.pipeline():
            await tx.send(PUT, ("pipe", 1))
            await tx.send("UPDATE cursor SET seq = seq + 1 WHERE name = %s", ("pipe",))
            asked = await tx.ask("SELECT seq FROM cursor WHERE name = %s", ("pipe",))
        return [await asked.rows(), await tx.value("SELECT 7")]

    await run(world, nothing)
    trips.clear()
    assert await run(world, work) == [[(2,)], 7]
    # The clock of the environment, the three together, the last, COMMIT.
    assert len(trips) == 4
    assert cursors(world, "pipe") == [("pipe", 2)]


async def test_a_failure_undoes_all_and_the_connection_goes_on(world: World) -> None:
    async def fails(tx: CellTx) -> None:
        await tx.execute(PUT, ("fails", 1))
        await tx.execute(PUT, ("fails", 1))

    async def fails_in_company(tx: CellTx) -> None:
        async with tx.pipeline():
            await tx.send(PUT, ("fails", 1))
            await tx.send(PUT, ("fails", 1))

    async def cannot_be_written(tx: CellTx) -> None:
        await tx.execute(PUT, ("fails", 1))
        await tx.execute(PUT, ("\0", 1))

    async def raises(tx: CellTx) -> None:
        await tx.execute(PUT, ("fails", 1))
        raise RuntimeError

    for work, error in (
        (fails, errors.UniqueViolation),
        (fails_in_company, errors.UniqueViolation),
        (cannot_be_written, errors.DataError),
        (raises, RuntimeError),
    ):
        pid = await run(world, lambda tx: tx.value("SELECT pg_backend_pid()"))
        with pytest.raises(error):
            await run(world, work)
        assert await run(world, lambda tx: tx.value("SELECT pg_backend_pid()")) == pid
    assert cursors(world, "fails") == []


async def test_a_failure_that_was_passed_over_is_not_committed(world: World) -> None:
    async def work(tx: CellTx) -> None:
        await tx.execute(PUT, ("over", 1))
        with pytest.raises(errors.UniqueViolation):
            await tx.execute(PUT, ("over", 1))

    with pytest.raises(Broken, match="rolled back"):
        await run(world, work)
    assert cursors(world, "over") == []


async def test_whoever_is_cancelled_at_a_statement_has_done_nothing(world: World) -> None:
    async def work(tx: CellTx) -> None:
        await tx.execute(PUT, ("cancelled", 1))
        await tx.value("SELECT pg_sleep(60)")

    task = asyncio.create_task(run(world, work))
    while not owner_rows(world, _ASLEEP):  # noqa: ASYNC110 - another connection's
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await run(world, lambda tx: tx.value("SELECT 8")) == 8
    assert cursors(world, "cancelled") == []


async def test_plans_are_kept_for_each_schema(world: World) -> None:
    """The server plans anew what was prepared while another one was looked at.

    And only for what was used a few times: the first plan is for tables as they are at first.
    """
    text = "SELECT count(*) AS plans_kept FROM head WHERE id = %s"

    async def cell(tx: CellRead) -> Any:
        return await tx.value(text, (1,))

    async def control(tx: ControlRead) -> Any:
        return await tx.value(text, (1,))

    async def kept() -> list[tuple[Any, ...]]:
        return await world.cell.read(
            lambda tx: tx.tuples(
                "SELECT generic_plans + custom_plans FROM pg_prepared_statements"
                " WHERE statement LIKE %s",
                ("SELECT count(*) AS plans_kept%",),
            )
        )

    for used in range(7):
        assert await kept() == ([] if used <= 5 else [(1,), (1,)])
        assert (await world.cell.read(cell), await world.dbs.control.read(control)) == (1, 1)
    assert await kept() == [(2,), (2,)]


async def test_lines_can_be_the_first_that_is_sent(world: World) -> None:
    async def work(tx: CellTx) -> Any:
        await tx.copy("COPY cursor (name, seq) FROM STDIN", ["lines\t5\n"])
        return await tx.value("SELECT %s::jsonb", (Jsonb({"a": 1}),))

    assert await run(world, work) == {"a": 1}
    assert cursors(world, "lines") == [("lines", 5)]
