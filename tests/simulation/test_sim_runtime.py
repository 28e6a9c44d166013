"""The runtime of the simulation: order, time, locks, crashes and lost connections of a seed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, errors
from tests.conftest import PROJECT
from tests.simulating import SimPostgres, simulate
from tests.withdrawals import Earner, assert_proven, available, new_earner
from tests.world import START, World, _template, legal_moves

from paymaster.db.coalesce import Coalescer, in_cell
from paymaster.db.idempotency import Answer, Key
from paymaster.db.lease import permit
from paymaster.db.tx import Actor
from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import Busy
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.sources import jitter
from paymaster.withdraw.request_keyed import Keyed, request_many
from paymaster_sim.runtime import (
    Fault,
    Faults,
    Process,
    ProcessDied,
    RandomFaults,
    Rates,
    Simulation,
    SimulationError,
    Step,
)

ROWS = "CREATE TABLE row AS SELECT number, 0 AS value FROM generate_series(1, 9) AS number;"
PARAMETERS = {"autocommit": True, "application_name": "simulated", "options": ""}


class At:
    """Strikes the first passage whose text begins so."""

    def __init__(self, fault: Fault, text: str, process: str | None = None) -> None:
        self.fault, self.text, self.process = fault, text, process
        self.struck: list[Step] = []

    def at(self, step: Step) -> Fault | None:
        if self.struck or not step.text.startswith(self.text):
            return None
        if self.process not in (None, step.process):
            return None
        self.struck.append(step)
        return self.fault

    def stall_seconds(self) -> float:
        return 100.0


class Sql:
    """A process that runs plain statements."""

    def __init__(self, sim: Simulation, server: SimPostgres, database: str, name: str) -> None:
        self.process = sim.process(name, mortal=name != "world")
        self._pool = self.process.pool(server.owner_dsn(database), 8, PARAMETERS)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection[Any]]:
        async with self._pool.connection() as connection:
            await connection.execute("BEGIN")
            try:
                yield connection
            except BaseException:
                await connection.execute("ROLLBACK")
                raise
            await connection.execute("COMMIT")

    async def add(self, *numbers: int) -> None:
        """Add one to each row, in the order that is given, in one transaction."""
        async with self.transaction() as tx:
            for number in numbers:
                await tx.execute("UPDATE row SET value = value + 1 WHERE number = %s", (number,))

    async def values(self) -> list[int]:
        async with self._pool.connection() as connection:
            found = await connection.execute("SELECT value FROM row ORDER BY number")
            return [value for (value,) in await found.fetchall()]


async def parked(sim: Simulation, most: int) -> None:
    """Until so many statements wait for locks."""
    while sim.counts["parkings"] < most:  # noqa: ASYNC110 - a count, and no event
        await asyncio.sleep(0.1)


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
        for _ in range(365):
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


def test_nothing_left_to_do_is_an_error_and_no_hang(sim_server: SimPostgres) -> None:
    async def main(sim: Simulation, database: str) -> None:
        await asyncio.Event().wait()

    with pytest.raises(SimulationError, match="Nothing can go on"):
        simulate(sim_server, 1, main)


# ------------------------------------------------------------------------------- locks


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
    assert len([line for line in run.lines if "COPY data" in line]) == 2


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


# ------------------------------------------------------------------------------- crashes


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


# ------------------------------------------------------------------------------- the real thing


def _requests(server: SimPostgres, seed: int) -> Any:
    """Twenty earners ask at once through the coalescer of an API that crashes all the time."""
    rates = Rates(crash_before=0.01, crash_after=0.01, lost_before=0.01, lost_after=0.01)

    async def main(sim: Simulation, database: str) -> None:
        random = RandomFaults(sim.random("faults"), rates, quiet=True)
        sim.faults = random
        dsns = {"main": server.app_dsn(database)}
        dbs = sim.world.databases(dsns)
        await dbs.open()
        world = World(dbs, sim.clock, dbs.environment(1), "", database)  # type: ignore[arg-type]
        earners = [await new_earner(world, "100.00") for _ in range(20)]
        random.quiet = False
        running: list[tuple[Process, Coalescer[Keyed, Answer]]] = []
        starting = asyncio.Lock()

        async def api() -> tuple[Process, Coalescer[Keyed, Answer]]:
            """The process that is up; a new one where there is none."""
            async with starting:
                while not running or not running[0][0].alive:
                    process = sim.process("api")
                    ours = process.databases(dsns)
                    try:
                        await process.call(ours.open())
                    except (ProcessDied, Busy):
                        process.crash()
                        continue
                    run = in_cell(ours.cell(1), Actor("role:api"), request_many)
                    running[:] = [(process, Coalescer(run, batch_limit=16, queue_limit=100))]
            return running[0]

        async def client(earner: Earner) -> int:
            await asyncio.sleep(sim.random(f"client {earner.user_id}").random() * 0.05)
            command = replace(earner.asks("40.00"), actor=Actor("key:a"), trace_id=new_trace_id())
            key = Key.of(earner.user_id, "POST /v1/withdrawals", "once", b"40")
            tries = 0
            while True:
                tries += 1
                process, merged = await api()
                try:
                    answer = await process.call(merged.submit(Keyed(key, command)))
                except (ProcessDied, Busy):
                    await asyncio.sleep(0.05)
                    continue
                assert answer.status == 202, answer
                return tries

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
    runs = [_requests(sim_server, seed) for seed in range(6)]
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
