"""An installation for tests: an environment with one or three cells on a real PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool

from paymaster.db.cells import Databases, Environment
from paymaster.db.migrate import migrate
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellRead, CellTx
from paymaster.kernel.clock import ManualClock
from paymaster.kernel.ids import new_trace_id

T = TypeVar("T")
START = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
ACTOR = Actor("test")


class PostgresServer(Protocol):
    """What the `postgres` fixture gives."""

    app_role: str

    def owner_dsn(self, database: str) -> str: ...
    def app_dsn(self, database: str) -> str: ...
    def create_database(self, name: str, *, template: str = "template0") -> None: ...
    def drop_database(self, name: str) -> None: ...


@dataclass(frozen=True)
class World:
    """Cells 1.. of one environment; cell 1 is the treasury."""

    dbs: Databases
    clock: ManualClock
    environment: Environment
    owner_dsn: str
    database: str

    @property
    def cell(self) -> CellDb:
        """The first (treasury) cell."""
        return self.dbs.cell(1)

    async def run(self, work: Callable[[CellTx], Awaitable[T]], cell: int = 1) -> T:
        """A writing transaction in a cell."""
        return await self.dbs.cell(cell).run(ACTOR, new_trace_id(), work)

    async def read(self, work: Callable[[CellRead], Awaitable[T]], cell: int = 1) -> T:
        """A snapshot of a cell."""
        return await self.dbs.cell(cell).read(work)


def app_pool(dbs: Databases) -> AsyncConnectionPool[Any]:
    """The connections of the application, whose address some tests need or change."""
    pool = dbs._servers["main"]._pool
    assert isinstance(pool, AsyncConnectionPool)
    return pool


def app_dsn(dbs: Databases) -> str:
    """The address that the application connects to."""
    address = app_pool(dbs).conninfo
    assert isinstance(address, str)
    return address


def legal_moves() -> list[tuple[str, str, str, str]]:
    """The moves of every machine of the project."""
    from paymaster.compose import MACHINES

    return [row for machine in MACHINES for row in machine.rows()]


_templates: dict[tuple[str, int, int], str] = {}


def _template(postgres: PostgresServer, cells: int, legal: list[tuple[str, str, str, str]]) -> str:
    """A migrated database that worlds are copied from: four times as quick as migrating each."""
    key = (postgres.owner_dsn("postgres"), cells, hash(tuple(sorted(legal))))
    if key in _templates:
        return _templates[key]
    database = f"tpl_{uuid.uuid4().hex[:12]}"
    postgres.create_database(database)
    owner = postgres.owner_dsn(database)
    migrate(owner, "control", "control", app_role=postgres.app_role, now=START)
    numbers = range(1, cells + 1)
    for number in numbers:
        schema = f"cell_{number}"
        migrate(owner, schema, "cell", app_role=postgres.app_role, now=START, legal_moves=legal)
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("SET search_path TO control")
        connection.execute(
            "INSERT INTO environment VALUES (1, 'acme', 'test', 'Europe/Berlin', %s)", (START,)
        )
        for number in numbers:
            connection.execute(
                "INSERT INTO cell VALUES (%s, 1, 'main', %s, %s, true, %s)",
                (number, f"cell_{number}", number == 1, START),
            )
    _templates[key] = database
    return database


@asynccontextmanager
async def make_world(
    postgres: PostgresServer,
    *,
    cells: int = 1,
    moves: list[tuple[str, str, str, str]] | None = None,
    connections: int = 8,
) -> AsyncIterator[World]:
    """A fresh database with `cells` cells, migrated; dropped at the end."""
    legal = legal_moves() if moves is None else moves
    database = f"t_{uuid.uuid4().hex[:12]}"
    postgres.create_database(database, template=_template(postgres, cells, legal))
    owner, clock = postgres.owner_dsn(database), ManualClock(START)
    dbs = Databases({"main": postgres.app_dsn(database)}, clock, connections=connections)
    await dbs.open()
    try:
        yield World(dbs, clock, dbs.environment(1), owner, database)
    finally:
        await dbs.close()
        postgres.drop_database(database)


def owner_rows(world: World, statement: str, *params: Any) -> list[tuple[Any, ...]]:
    """Rows read as the owner, past the application's rights, with every cell on the path."""
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO cell_1")
        return connection.execute(statement.encode(), params).fetchall()
