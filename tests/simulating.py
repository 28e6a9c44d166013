"""A PostgreSQL for simulations, and one run on it."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from tests.world import START

from paymaster.db.embedded import APP_ROLE, EmbeddedPostgres
from paymaster_sim.runtime import SERVER_SETTINGS, Faults, Simulation

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
