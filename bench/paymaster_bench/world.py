"""A cell with funded accounts, made once and copied for every family of rows."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import psycopg

from paymaster.compose import legal_moves
from paymaster.db.cells import Databases
from paymaster.db.migrate import migrate
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellTx
from paymaster.kernel.clock import Clock, WallClock
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.ledger.entry import Entry, Posting
from paymaster.ledger.post import post
from paymaster_bench.server import BenchServer
from paymaster_bench.workload import (
    ASSET,
    SPONSOR_OPENING,
    USER_OPENING,
    Accounts,
)

ACTOR = Actor("bench")
CELL, ENVIRONMENT = 1, 1
TIME_ZONE = "UTC"
_OPENED_AT_ONCE = 500
"""Postings of one opening entry."""
_ENTRIES_AT_ONCE = 20


class LaterClock:
    """The machine's clock, so many days ahead: every account's first posting of a new day."""

    def __init__(self, days: int) -> None:
        self._wall, self._ahead = WallClock(), timedelta(days=days)

    def now(self) -> datetime:
        """The moment, in UTC."""
        return self._wall.now() + self._ahead


def make_schemas(server: BenchServer, database: str) -> None:
    """The directory and one cell, migrated, in a new database."""
    now, owner = WallClock().now(), server.owner_dsn(database)
    migrate(owner, "control", "control", app_role=server.app_role, now=now)
    migrate(owner, "cell_1", "cell", app_role=server.app_role, now=now, legal_moves=legal_moves())
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("SET search_path TO control")
        connection.execute(
            "INSERT INTO environment (id, tenant, mode, time_zone, created_at)"
            " VALUES (%s, 'bench', 'test', %s, %s)",
            (ENVIRONMENT, TIME_ZONE, now),
        )
        connection.execute(
            "INSERT INTO cell (number, environment_id, server, schema_name, treasury,"
            " open_for_users, created_at) VALUES (%s, %s, 'main', 'cell_1', true, true, %s)",
            (CELL, ENVIRONMENT, now),
        )


@asynccontextmanager
async def open_databases(
    app_dsn: str, connections: int, clock: Clock | None = None
) -> AsyncGenerator[Databases]:
    """The copied world, as the application sees it."""
    dbs = Databases({"main": app_dsn}, clock or WallClock(), connections=connections)
    await dbs.open()
    try:
        yield dbs
    finally:
        await dbs.close()


async def make_template(server: BenchServer, users: int) -> str:
    """A database with so many funded users and the sponsors' budgets, opened by `post`."""
    database = server.create_database("template")
    make_schemas(server, database)
    async with open_databases(server.app_dsn(database), 2) as dbs:
        await open_accounts(dbs.cell(CELL), Accounts(users))
    settle_down(server, database)
    return database


def settle_down(server: BenchServer, database: str) -> None:
    """Vacuum and analyse, so that the first slices do not meet it."""
    with psycopg.connect(server.owner_dsn(database), autocommit=True) as connection:
        connection.execute("VACUUM (FREEZE, ANALYZE)")


async def open_accounts(cell: CellDb, accounts: Accounts) -> None:
    """Every user's and every sponsor's first posting, from the cash account."""
    cash = accounts.account(accounts.cash)
    numbers = list(range(accounts.clearing))
    step = _OPENED_AT_ONCE * _ENTRIES_AT_ONCE
    for start in range(0, len(numbers), step):
        part = numbers[start : start + step]

        async def work(tx: CellTx, part: list[int] = part) -> None:
            ids = iter(tx.ids(_ENTRIES_AT_ONCE))
            entries = [
                Entry(
                    next(ids),
                    "opening",
                    f"opening-{part[at]}",
                    tuple(
                        Posting(
                            cash,
                            accounts.account(number),
                            Money(
                                USER_OPENING if number < accounts.users else SPONSOR_OPENING,
                                ASSET,
                            ),
                        )
                        for number in part[at : at + _OPENED_AT_ONCE]
                    ),
                )
                for at in range(0, len(part), _OPENED_AT_ONCE)
            ]
            if not all(result.done for result in await post(tx, entries)):
                raise Broken("bench-opening", "An opening posting was refused.")

        await cell.run(ACTOR, new_trace_id(), work)
