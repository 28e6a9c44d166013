"""Crashes, lost connections and stalls in the simulation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import psycopg
import pytest
from tests.simulating import ROWS, At, SimPostgres, Sql, parked, simulate

from paymaster_sim.runtime import (
    Fault,
    Faults,
    ProcessDied,
    Simulation,
)


def _struck(
    server: SimPostgres, faults: Faults, work: Callable[[Sql], Awaitable[None]]
) -> tuple[str, list[int]]:
    """What the caller of a process sees, and what is in the table afterwards."""

    async def main(sim: Simulation, database: str) -> tuple[str, list[int]]:
        sql = Sql(sim, server, database, "struck")

        async def run() -> None:
            await work(sql)

        try:
            await sql.process.call(run())
            seen = "done"
        except (ProcessDied, psycopg.Error) as error:
            seen = type(error).__name__
        other = Sql(sim, server, database, "other")
        async with asyncio.timeout(1):
            await other.process.call(other.add(9))
        return seen, await other.process.call(other.values())

    return simulate(server, 1, main, setup=ROWS, faults=lambda _: faults).result


@pytest.mark.parametrize(
    ("fault", "seen", "effect"),
    [
        (Fault.CRASH_BEFORE, "ProcessDied", 0),
        (Fault.CRASH_AFTER, "ProcessDied", 1),
        (Fault.LOST_BEFORE, "OperationalError", 0),
        (Fault.LOST_AFTER, "OperationalError", 1),
    ],
)
def test_what_strikes_a_commit(
    sim_server: SimPostgres, fault: Fault, seen: str, effect: int
) -> None:
    """Row 9 is added to afterwards by another process: no lock is left behind."""
    faults = At(fault, "COMMIT", "struck")
    said, values = _struck(sim_server, faults, lambda sql: sql.add(3, 9))
    assert (said, values[2], values[8]) == (seen, effect, effect + 1)
    assert len(faults.struck) == 1
    assert faults.struck[0].commits


@pytest.mark.parametrize(
    ("fault", "reached"),
    [(Fault.CRASH_BEFORE, False), (Fault.LOST_BEFORE, False), (Fault.CRASH_AFTER, True)],
)
def test_nothing_of_what_is_sent_together_leaves_before_its_turn(
    sim_server: SimPostgres, fault: Fault, reached: bool
) -> None:
    """Not even when more has come together than the library likes to keep."""

    async def main(sim: Simulation, database: str) -> bool:
        sql = Sql(sim, sim_server, database, "struck")

        async def together() -> None:
            async with sql._pool.connection() as connection:
                sending = connection.sending
                sending.begin()
                sending.put("BEGIN")
                for _ in range(3):
                    sending.put("SELECT nextval('counted'), %s::text", ("x" * 20_000,))
                try:
                    await sending.commit()
                except psycopg.OperationalError:
                    await sending.abandon()

        with suppress(ProcessDied):
            await sql.process.call(together())
        other = Sql(sim, sim_server, database, "other")

        async def counted() -> bool:
            async with other._pool.connection() as connection:
                found = await connection.execute("SELECT is_called FROM counted")
                return (await found.fetchall())[0][0]

        return await other.process.call(counted())

    faults = At(fault, "BEGIN |", "struck")
    run = simulate(sim_server, 1, main, setup="CREATE SEQUENCE counted", faults=lambda _: faults)
    assert run.result is reached
    assert len(faults.struck) == 1


@pytest.mark.parametrize("fault", [Fault.CRASH_AFTER, Fault.LOST_AFTER])
def test_what_strikes_within_a_transaction_undoes_all_of_it(
    sim_server: SimPostgres, fault: Fault
) -> None:
    _, values = _struck(sim_server, At(fault, "UPDATE", "struck"), lambda sql: sql.add(9, 3))
    assert values == [0] * 8 + [1]


def test_the_dead_reach_nothing(sim_server: SimPostgres) -> None:
    """Whatever their cleanup tries."""
    outside: list[str] = []

    async def main(sim: Simulation, database: str) -> list[int]:
        sql = Sql(sim, sim_server, database, "stubborn")

        async def stubborn() -> None:
            try:
                await asyncio.sleep(5)
            finally:
                try:
                    await sim.outside("pay", lambda: outside.append("paid"))
                finally:
                    await sql.add(1)

        task = sql.process.start(stubborn())
        await asyncio.sleep(1)
        sql.process.crash()
        assert sql.process.died.is_set()
        await asyncio.sleep(10)
        assert task.cancelled()
        with pytest.raises(ProcessDied):
            await sql.process.call(stubborn())
        with pytest.raises(ProcessDied):
            await sql.values()
        other = Sql(sim, sim_server, database, "other")
        return await other.process.call(other.values())

    assert simulate(sim_server, 1, main, setup=ROWS).result == [0] * 9
    assert outside == []


def test_a_crash_ends_those_who_wait_for_a_lock_too(sim_server: SimPostgres) -> None:
    async def main(sim: Simulation, database: str) -> list[int]:
        one, two = (Sql(sim, sim_server, database, name) for name in ("one", "two"))

        async def holds() -> None:
            async with one.transaction() as tx:
                await tx.execute("UPDATE row SET value = 1 WHERE number = 1")
                waiting = two.process.start(two.add(1))
                await parked(sim, 1)
                two.process.crash()
                await asyncio.sleep(0.1)
                assert waiting.done()

        await one.process.call(holds())
        return await one.process.call(one.values())

    assert simulate(sim_server, 1, main, setup=ROWS).result[0] == 1


def test_what_waits_for_a_lock_when_its_process_dies_ends_or_takes_effect_later(
    sim_server: SimPostgres,
) -> None:
    """As in life: the server only notices that nobody is there when it answers."""

    async def main(sim: Simulation, database: str) -> int:
        one, two = (Sql(sim, sim_server, database, name) for name in ("one", "two"))

        async def adds_at_once() -> None:
            async with two._pool.connection() as connection:
                await connection.execute("UPDATE row SET value = value + 1 WHERE number = 1")

        async def holds() -> None:
            async with one.transaction() as tx:
                await tx.execute("UPDATE row SET value = 10 WHERE number = 1")
                two.process.start(adds_at_once())
                await parked(sim, 1)
                two.process.crash()

        await one.process.call(holds())
        return (await one.process.call(one.values()))[0]

    runs = [simulate(sim_server, seed, main, setup=ROWS) for seed in range(8)]
    assert {(run.result, run.counts.get("orphans", 0)) for run in runs} == {(10, 0), (11, 1)}


@pytest.mark.parametrize(
    ("fault", "paid"), [(Fault.CRASH_BEFORE, []), (Fault.CRASH_AFTER, ["paid"])]
)
def test_a_crash_while_a_call_is_under_way(
    sim_server: SimPostgres, fault: Fault, paid: list[str]
) -> None:
    outside: list[str] = []

    async def main(sim: Simulation, database: str) -> None:
        process = sim.process("dispatch")
        died: list[str] = []
        sim.on_death.append(lambda process: died.append(process.title))
        with pytest.raises(ProcessDied):
            await process.call(sim.outside("pay 12", lambda: outside.append("paid")))
        assert died == ["dispatch/1"]
        assert sim.process("dispatch").title == "dispatch/2"

    simulate(sim_server, 1, main, faults=lambda _: At(fault, "pay"))
    assert outside == paid


def test_a_stalled_process_goes_on_later(sim_server: SimPostgres) -> None:
    async def main(sim: Simulation, database: str) -> tuple[float, float]:
        one, two = (Sql(sim, sim_server, database, name) for name in ("one", "two"))

        async def timed(sql: Sql) -> float:
            await sql.process.call(sql.add(1 if sql is one else 2))
            return sim.seconds

        return await asyncio.gather(timed(one), timed(two))

    stalled, other = simulate(
        sim_server, 1, main, setup=ROWS, faults=lambda _: At(Fault.STALL, "UPDATE", "one")
    ).result
    assert stalled >= 100 > 1 > other


@pytest.mark.parametrize("waits", [False, True])
def test_the_next_of_a_name_goes_on_with_what_a_quiet_session_knows(
    sim_server: SimPostgres, waits: bool
) -> None:
    """Rolled back; one in which a statement waits is ended like any other."""

    async def main(sim: Simulation, database: str) -> tuple[int, int, list[int], int]:
        first = Sql(sim, sim_server, database, "name")
        other = Sql(sim, sim_server, database, "other")
        pids: list[int] = []
        held = asyncio.Event()

        async def dies() -> None:
            async with first.transaction() as tx:
                pids.append(tx.pgconn.backend_pid)
                await tx.execute("UPDATE row SET value = value + 1 WHERE number = %s", (1,))
                held.set()
                if waits:
                    await tx.execute("UPDATE row SET value = value + 1 WHERE number = 2")
                await asyncio.sleep(1000)

        async def holds() -> None:
            async with other.transaction() as tx:
                await tx.execute("UPDATE row SET value = value + 1 WHERE number = 2")
                await asyncio.sleep(30)

        second = other.process.start(holds())
        first.process.start(dies())
        await held.wait()
        if waits:
            await parked(sim, 1)
        first.process.crash()
        await second
        again = Sql(sim, sim_server, database, "name")
        stranger = Sql(sim, sim_server, database, "stranger")

        async def session(of: Sql) -> int:
            async with of.transaction() as tx:
                return tx.pgconn.backend_pid

        await again.process.call(again.add(1, 3))
        values = await again.process.call(again.values())
        own = await again.process.call(session(again))
        return pids[0], own, values, await stranger.process.call(session(stranger))

    left, own, values, strange = simulate(sim_server, 3, main, setup=ROWS).result
    assert (own == left) is not waits
    assert strange not in (left, own)
    assert values[:3] == [1, values[1], 1]
    assert values[1] in ((1, 2) if waits else (1,))
