"""The runtime of the simulation: a seed is the same run every time, and time costs nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from psycopg import errors
from tests.conftest import PROJECT
from tests.simulating import ROWS, SimPostgres, Sql, simulate
from tests.withdrawals import Earner, assert_proven, available, new_earner
from tests.world import START, World, _template, legal_moves

from paymaster.db.coalesce import Coalescer, in_cell
from paymaster.db.idempotency import Answer, Key
from paymaster.db.lease import permit
from paymaster.db.tx import Actor
from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import Busy, Conflict
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.sources import jitter
from paymaster.withdraw.request_keyed import Keyed, request_many
from paymaster_sim.runtime import (
    Fault,
    Process,
    ProcessDied,
    RandomFaults,
    Rates,
    Simulation,
    SimulationError,
)

# ------------------------------------------------------------------------------- the same again


def _adders(server: SimPostgres) -> Callable[[Simulation, str], Any]:
    """Eight tasks of two processes that add to the same rows."""

    async def main(sim: Simulation, database: str) -> list[int]:
        one, two = (Sql(sim, server, database, name) for name in ("one", "two"))
        random = sim.random("rows")
        places = [random.sample(range(1, 5), 2) for _ in range(24)]

        async def some(which: Sql, mine: list[list[int]]) -> int:
            times = 0
            for numbers in mine:
                try:
                    await which.add(*sorted(numbers))
                    times += 1
                except errors.LockNotAvailable:
                    await asyncio.sleep(0.01)
            return times

        async def all_of(which: Sql, mine: list[list[int]]) -> int:
            return sum(await asyncio.gather(*(some(which, mine[at::4]) for at in range(4))))

        added = await asyncio.gather(
            one.process.call(all_of(one, places[::2])), two.process.call(all_of(two, places[1::2]))
        )
        assert added == [12, 12]
        return await Sql(sim, server, database, "world").values()

    return main


def _sleepers(server: SimPostgres) -> Callable[[Simulation, str], Any]:
    """Tasks that sleep, insert, time out and go outside, with chance and time of their own."""

    async def main(sim: Simulation, database: str) -> list[str]:
        said: list[str] = []
        sql = Sql(sim, server, database, "sleeper")

        async def sleeper(number: int) -> None:
            random = jitter()
            for _ in range(4):
                await asyncio.sleep(random.random() * 10)
                said.append(f"{number} {new_trace_id()} {monotonic_seconds():.3f}")
                await sql.add(random.randint(1, 3))
                await sim.outside(f"call {number}", lambda: said.append(f"out {number}"))

        async def all_of() -> None:
            try:
                async with asyncio.timeout(30):
                    async with asyncio.TaskGroup() as group:
                        for number in range(5):
                            group.create_task(sleeper(number))
            except TimeoutError:
                said.append("timeout")

        await sql.process.call(all_of())
        return said

    return main


@pytest.mark.parametrize("workload", [_adders, _sleepers])
def test_a_seed_is_the_same_run_every_time(
    sim_server: SimPostgres, workload: Callable[[SimPostgres], Any]
) -> None:
    first, again, other = (
        simulate(sim_server, seed, workload(sim_server), setup=ROWS) for seed in (7, 7, 8)
    )
    assert first.lines == again.lines
    assert first.digest == again.digest
    assert first.result == again.result
    assert first.counts["passages"] > 60
    assert other.digest != first.digest


def test_a_seed_is_the_same_run_in_another_interpreter(
    sim_server: SimPostgres,
) -> None:
    """Where objects lie elsewhere, and texts have other hashes."""
    here = simulate(sim_server, 5, _adders(sim_server), setup=ROWS).digest
    program = (
        "import sys; from pathlib import Path; from tests.simulating import SimPostgres, simulate;"
        " from tests.simulation.test_sim_runtime import ROWS, _adders;"
        " server = SimPostgres(Path(sys.argv[1])); server.start();"
        " print(simulate(server, 5, _adders(server), setup=ROWS).digest)"
    )
    paths = os.pathsep.join([str(PROJECT / "src"), str(PROJECT)])
    done = subprocess.run(
        [sys.executable, "-c", program, sim_server.log_file.parent],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == here, done.stderr


def test_seeds_give_different_orders(sim_server: SimPostgres) -> None:
    orders: set[tuple[int, ...]] = set()

    async def main(sim: Simulation, database: str) -> None:
        sql = Sql(sim, sim_server, database, "one")
        order: list[int] = []

        async def one(number: int) -> None:
            await sql.add(number)
            order.append(number)

        async def all_of() -> None:
            await asyncio.gather(*(one(number) for number in range(1, 5)))

        await sql.process.call(all_of())
        orders.add(tuple(order))

    for seed in range(8):
        simulate(sim_server, seed, main, setup=ROWS)
    assert len(orders) > 4


def test_crashes_are_the_same_every_time(sim_server: SimPostgres) -> None:
    first, again = (_requests(sim_server, 3) for _ in range(2))
    assert first.lines == again.lines
    assert first.counts["deaths"] > 1


# ------------------------------------------------------------------------------- time


def test_a_year_of_sleeping_takes_no_time(sim_server: SimPostgres) -> None:
    async def main(sim: Simulation, _: str) -> None:
        for _day in range(365):
            await asyncio.sleep(86_400)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()
        assert sim.clock.now() >= START + timedelta(days=365, hours=1)
        assert sim.clock.now() < START + timedelta(days=365, hours=1, seconds=1)

    simulate(sim_server, 1, main)


def test_a_process_may_have_a_clock_of_its_own(sim_server: SimPostgres) -> None:
    async def main(sim: Simulation, _: str) -> None:
        process = sim.process("late")
        process.skew = timedelta(minutes=-5)
        assert sim.clock.now() - process.clock.now() == timedelta(minutes=5)

    simulate(sim_server, 1, main)


def test_what_reads_from_a_snapshot_that_was_taken_is_no_step(sim_server: SimPostgres) -> None:
    begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

    async def main(sim: Simulation, database: str) -> tuple[list[int], list[int], bool]:
        reader, writer = (Sql(sim, sim_server, database, name) for name in ("reader", "writer"))
        died = []

        async def reads(*, dies: bool = False) -> list[int]:
            async with reader._pool.connection() as connection:
                sending = connection.sending
                sending.open(begin, "public")
                found: list[int] = []
                for number in range(1, 10):
                    reply = await sending.one(
                        "SELECT value, 'read' FROM row WHERE number = %s", (number,)
                    )
                    found.append((await reply.rows())[0][0])
                    if number == 4:
                        await writer.process.call(writer.add(*range(1, 10)))
                        if dies:
                            reader.process.crash()
                            died.append(True)
                await sending.close()
                return found

        first = await reader.process.call(reads())
        second = await reader.process.call(reads())
        with pytest.raises(ProcessDied):
            await reader.process.call(reads(dies=True))
        return first, second, died == [True]

    run = simulate(sim_server, 1, main, setup=ROWS)
    assert run.result == ([0] * 9, [1] * 9, True)
    assert len([line for line in run.lines if "SELECT value, 'read'" in line]) == 3


def test_nothing_left_to_do_is_an_error_and_no_hang(sim_server: SimPostgres) -> None:
    async def main(sim: Simulation, database: str) -> None:
        await asyncio.Event().wait()

    with pytest.raises(SimulationError, match="Nothing can go on"):
        simulate(sim_server, 1, main)


# ------------------------------------------------------------------------------- the real thing


def _requests(server: SimPostgres, seed: int) -> Any:
    """Twenty earners ask at once through the coalescers of two APIs that crash all the time."""
    rates = Rates(crash_before=0.01, crash_after=0.01, lost_before=0.01, lost_after=0.01)

    async def main(sim: Simulation, database: str) -> int:
        random = RandomFaults(sim.random("faults"), rates, quiet=True)
        sim.faults = random
        dsns = {"main": server.app_dsn(database)}
        dbs = sim.world.databases(dsns)
        await dbs.open()
        # The clock of a simulation stands in for one that is set by hand: nobody sets it here.
        clock: Any = sim.clock
        world = World(dbs, clock, dbs.environment(1), "", database)
        earners = [await new_earner(world, "100.00") for _ in range(20)]
        random.quiet = False
        running: dict[str, tuple[Process, Coalescer[Keyed, Answer]]] = {}
        starting = asyncio.Lock()

        async def api(name: str) -> tuple[Process, Coalescer[Keyed, Answer]]:
            """The process of this name that is up; a new one where there is none."""
            async with starting:
                while name not in running or not running[name][0].alive:
                    process = sim.process(name)
                    ours = process.databases(dsns)
                    try:
                        await process.call(ours.open())
                    except (ProcessDied, Busy):
                        process.crash()
                        continue
                    run = in_cell(ours.cell(1), Actor("role:api"), request_many)
                    running[name] = process, Coalescer(run, batch_limit=16, queue_limit=100)
            return running[name]

        async def asks(keyed: Keyed, chance: Random) -> tuple[bytes, int]:
            """The answer, and how often it took to get one."""
            tries = 0
            while True:
                tries += 1
                await asyncio.sleep(chance.random() * 0.05)
                process, merged = await api(chance.choice(["api-1", "api-2"]))
                try:
                    answer = await process.call(merged.submit(keyed))
                except (ProcessDied, Busy, Conflict):
                    continue
                assert answer.status == 202, answer
                return answer.answer, tries

        async def client(earner: Earner) -> int:
            """Asks once, or in a hurry twice at the same time."""
            chance = sim.random(f"client {earner.user_id}")
            command = replace(earner.asks("40.00"), actor=Actor("key:a"), trace_id=new_trace_id())
            key = Key.of(earner.user_id, "POST /v1/withdrawals", "once", b"40")
            copies = [asks(Keyed(key, command), chance) for _ in range(chance.choice([1, 2]))]
            told = await asyncio.gather(*copies)
            assert len({answer for answer, _ in told}) == 1
            return max(tries for _, tries in told)

        tries = await asyncio.gather(*(client(earner) for earner in earners))
        random.quiet = True
        for earner in earners:
            assert await available(world, earner) == ("60.00", "40.00")
        assert await dbs.cell(1).read(lambda tx: tx.value("SELECT count(*) FROM withdrawal")) == 20
        await assert_proven(world)
        return max(tries)

    template = _template(server, 1, legal_moves())
    return simulate(server, seed, main, template=template)


def test_requests_through_crashes_are_made_exactly_once(sim_server: SimPostgres) -> None:
    runs = [_requests(sim_server, seed) for seed in range(4)]
    struck = {name for run in runs for name in run.counts}
    assert {fault.value for fault in Fault} - struck <= {"stall"}
    assert max(run.result for run in runs) > 1


def test_batch_writers_wait_for_a_permit(sim_server: SimPostgres) -> None:
    async def main(sim: Simulation, database: str) -> int:
        process = sim.process("api")
        dbs = process.databases({"main": sim_server.app_dsn(database)}, connections=8)

        async def all_of() -> int:
            await dbs.open()
            cell = dbs.cell(1)
            inside, most = 0, 0

            async def one() -> None:
                async def work(tx: Any) -> None:
                    nonlocal inside, most
                    await permit(tx)
                    await tx.value("SELECT 1")
                    inside += 1
                    most = max(most, inside)
                    await tx.value("SELECT 2")
                    inside -= 1

                await cell.run(Actor("t"), new_trace_id(), work, merged=True)

            await asyncio.gather(*(one() for _ in range(8)))
            return most

        return await process.call(all_of())

    template = _template(sim_server, 1, legal_moves())
    runs = [simulate(sim_server, seed, main, template=template) for seed in range(3)]
    assert {run.result for run in runs} == {2}
    assert all(run.counts["parkings"] > 0 for run in runs)
