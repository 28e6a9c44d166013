"""Locks in the simulation: who waits is parked, who goes on is the seed's choice."""

from __future__ import annotations

import asyncio

import pytest
from psycopg import errors
from tests.simulating import ROWS, SimPostgres, Sql, parked, simulate

from paymaster_sim.runtime import (
    Simulation,
)


@pytest.mark.parametrize("tasks", [2, 3, 6])
def test_those_who_wait_for_a_row_are_parked(sim_server: SimPostgres, tasks: int) -> None:
    async def main(sim: Simulation, database: str) -> list[int]:
        sql = Sql(sim, sim_server, database, "one")

        async def all_of() -> None:
            await asyncio.gather(*(sql.add(1) for _ in range(tasks)))

        await sql.process.call(all_of())
        return await sql.process.call(sql.values())

    runs = [simulate(sim_server, seed, main, setup=ROWS) for seed in range(8)]
    assert {run.result[0] for run in runs} == {tasks}
    assert sum(run.counts.get("parkings", 0) for run in runs) > 0


def test_two_that_are_woken_by_one_commit_go_on_one_after_the_other(
    sim_server: SimPostgres,
) -> None:
    """Both then want a third row: who gets it is the seed's choice, not the machine's."""

    async def main(sim: Simulation, database: str) -> list[str]:
        sql = Sql(sim, sim_server, database, "one")
        order: list[str] = []

        async def waits(name: str, *numbers: int) -> None:
            async with sql.transaction() as tx:
                await tx.execute(
                    "UPDATE row SET value = value + 1 WHERE number = ANY(%s)", (list(numbers),)
                )
                order.append(name)

        async def all_of() -> None:
            async with sql.transaction() as tx:
                await tx.execute("UPDATE row SET value = 0 WHERE number IN (1, 2)")
                both = [
                    asyncio.create_task(waits("a", 1, 5)),
                    asyncio.create_task(waits("b", 2, 5)),
                ]
                await parked(sim, 2)
            await asyncio.gather(*both)

        await sql.process.call(all_of())
        return order

    runs = {seed: simulate(sim_server, seed, main, setup=ROWS) for seed in range(6)}
    assert {tuple(run.result) for run in runs.values()} == {("a", "b"), ("b", "a")}
    for seed, run in runs.items():
        assert simulate(sim_server, seed, main, setup=ROWS).digest == run.digest


def test_a_deadlock_has_a_victim_of_the_seed(sim_server: SimPostgres) -> None:
    async def main(sim: Simulation, database: str) -> tuple[list[int], list[int]]:
        sql = Sql(sim, sim_server, database, "one")
        both, victims = asyncio.Barrier(2), list[int]()

        async def adder(first: int, second: int) -> None:
            add = "UPDATE row SET value = value + 1 WHERE number = %s"
            try:
                async with sql.transaction() as tx:
                    await tx.execute(add, (first,))
                    await both.wait()
                    await tx.execute(add, (second,))
            except errors.DeadlockDetected:
                victims.append(first)

        async def all_of() -> None:
            await asyncio.gather(adder(1, 2), adder(2, 1))

        await sql.process.call(all_of())
        return victims, await sql.process.call(sql.values())

    runs = [simulate(sim_server, seed, main, setup=ROWS) for seed in range(6)]
    assert {tuple(run.result[0]) for run in runs} == {(1,), (2,)}
    assert all(run.result[1][:2] == [1, 1] for run in runs)
    assert runs[0].digest == simulate(sim_server, 0, main, setup=ROWS).digest


def test_patience_with_a_lock_ends_in_the_time_of_the_simulation(sim_server: SimPostgres) -> None:
    async def main(sim: Simulation, database: str) -> float:
        sql = Sql(sim, sim_server, database, "one")

        async def holds() -> float:
            async with sql.transaction() as tx:
                await tx.execute("UPDATE row SET value = 1 WHERE number = 1")
                began = sim.seconds
                with pytest.raises(errors.LockNotAvailable):
                    await sql.add(1)
                return sim.seconds - began

        return await sql.process.call(holds())

    assert 10 <= simulate(sim_server, 1, main, setup=ROWS).result < 11


def test_a_copy_sends_everything_when_its_turn_has_come(sim_server: SimPostgres) -> None:
    async def main(sim: Simulation, database: str) -> int:
        sql = Sql(sim, sim_server, database, "one")

        async def copies() -> int:
            async with (
                sql.transaction() as tx,
                tx.cursor() as cursor,
                cursor.copy("COPY row (number, value) FROM STDIN") as target,
            ):
                for number in range(100, 5100):
                    await target.write(f"{number}\t1\n")
            async with sql.transaction() as tx, tx.pipeline():
                found = await tx.execute("SELECT sum(value) FROM row")
                return (await found.fetchall())[0][0]

        async def breaks_off() -> None:
            async with (
                sql.transaction() as tx,
                tx.cursor() as cursor,
                cursor.copy("COPY row (number, value) FROM STDIN") as target,
            ):
                await target.write("7777\t1\n")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await sql.process.call(breaks_off())
        return await sql.process.call(copies())

    run = simulate(sim_server, 1, main, setup=ROWS)
    assert run.result == 5000
    assert len([line for line in run.lines if "COPY row" in line]) == 2


def test_who_is_cancelled_while_it_waits_for_a_lock_lets_go(sim_server: SimPostgres) -> None:
    async def main(sim: Simulation, database: str) -> list[int]:
        sql = Sql(sim, sim_server, database, "one")

        async def holds() -> None:
            async with sql.transaction() as tx:
                await tx.execute("UPDATE row SET value = 1 WHERE number = 1")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1):
                        await sql.add(2, 1)
                await sql.add(2)

        await sql.process.call(holds())
        return await sql.process.call(sql.values())

    assert simulate(sim_server, 1, main, setup=ROWS).result[:2] == [1, 1]
