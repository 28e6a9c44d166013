"""A PostgreSQL for simulations, and one run on it."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg import AsyncConnection
from tests.world import START

from paymaster.db.embedded import APP_ROLE, EmbeddedPostgres
from paymaster_sim.runtime import SERVER_SETTINGS, Fault, Faults, Simulation, Step

T = TypeVar("T")
_MEMORY = Path("/dev/shm")  # noqa: S108
_numbers = itertools.count(1)


class SimPostgres(EmbeddedPostgres):
    """Where nothing happens by itself; databases are copied file by file."""

    app_role = APP_ROLE

    def create_database(self, name: str, *, template: str = "template0") -> None:
        with self._connect() as connection:
            connection.execute(
                f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY".encode()
            )
            connection.execute(f"GRANT CONNECT ON DATABASE {name} TO {APP_ROLE}".encode())


@dataclass(frozen=True)
class Ran:
    """What a run leaves for the test."""

    result: Any
    digest: str
    lines: list[str]
    counts: dict[str, int]


@contextmanager
def sim_postgres() -> Generator[SimPostgres]:
    where = _MEMORY if _MEMORY.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix=f"paymaster-tests-{os.getpid()}-sim-", dir=where))
    folder.chmod(0o755)
    server = SimPostgres(folder, settings=SERVER_SETTINGS, exit_with_owner=True)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def sim_server() -> Generator[SimPostgres]:
    """One for each pytest process that needs it."""
    with sim_postgres() as server:
        yield server


@contextmanager
def sim_database(server: SimPostgres, template: str = "template0") -> Generator[str]:
    """The name of a database for one run."""
    name = f"run_{os.getpid()}_{next(_numbers)}"
    server.create_database(name, template=template)
    try:
        yield name
    finally:
        server.drop_database(name)


def simulate(
    server: SimPostgres,
    seed: int,
    main: Callable[[Simulation, str], Coroutine[Any, Any, Any]],
    *,
    setup: str = "",
    template: str = "template0",
    faults: Callable[[Simulation], Faults] | None = None,
) -> Ran:
    """Run `main(simulation, database)` on a fresh database, prepared by the statements `setup`."""
    with sim_database(server, template) as database:
        owner = server.owner_dsn(database)
        if setup:
            with psycopg.connect(owner, autocommit=True) as connection:
                connection.execute(setup.encode())
        with Simulation(seed, owner, start=START, keep=True) as sim:
            if faults is not None:
                sim.faults = faults(sim)
            result = sim.run(main(sim, database))
            return Ran(result, sim.trace.digest, sim.trace.lines, dict(sim.counts))


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
