"""The router: which schema on which server a cell is, and which cells an environment has.

The control schema and each cell are reached through their own server's pool. Nothing here spans
two of them: a transaction lives in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg.errors import UndefinedColumn, UndefinedTable

from paymaster.db.connections import MakePool, own_pool
from paymaster.db.pool import CellDb, ControlDb, Server
from paymaster.db.tx import CellTx, ControlRead, Policy
from paymaster.kernel.clock import AheadClock, Clock
from paymaster.kernel.errors import Broken, NotFound, Refusal

CONTROL_SCHEMA = "control"
CONTROL_SERVER = "main"


@dataclass(frozen=True, slots=True)
class Environment:
    """One side (live or test) of one tenant."""

    id: int
    tenant: str
    mode: str
    time_zone: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A row of the directory of cells."""

    number: int
    environment_id: int
    server: str
    schema_name: str
    treasury: bool
    open_for_users: bool


class Databases:
    """All schemas of the installation; one object a process."""

    def __init__(
        self,
        servers: Mapping[str, str],
        clock: Clock,
        *,
        connections: int = 8,
        statement_seconds: int = 30,
        make_pool: MakePool = own_pool,
        policy: Policy = CellTx.policy,
    ) -> None:
        self.clock = clock
        self._policy = policy
        self._servers = {
            name: Server(
                name,
                dsn,
                connections=connections,
                statement_seconds=statement_seconds,
                make_pool=make_pool,
            )
            for name, dsn in servers.items()
        }
        if CONTROL_SERVER not in self._servers:
            raise Broken("server-missing", f"There is no server named {CONTROL_SERVER!r}.")
        self.control = ControlDb(self._servers[CONTROL_SERVER], CONTROL_SCHEMA, clock)
        self._cells: dict[int, Cell] = {}
        self._environments: dict[int, Environment] = {}
        self._open: dict[int, CellDb] = {}
        self._ahead: dict[int, AheadClock] = {}

    async def open(self) -> None:
        """Open the pools and read the directory of cells. Raises Refusal `schema-behind`."""
        for server in self._servers.values():
            await server.open()
        try:
            await self.refresh()
        except (UndefinedTable, UndefinedColumn) as error:
            raise Refusal(
                "schema-behind",
                "The database is older than this version of Paymaster, or empty: run `paymaster"
                " upgrade`, or `paymaster setup`.",
            ) from error

    async def close(self) -> None:
        """Close every pool."""
        for server in self._servers.values():
            await server.close()

    async def refresh(self) -> None:
        """Read environments and cells anew, without those that were removed.

        What is open of a removed one stays so: a running process notices at its restart.
        """
        environments, cells = await self._directory()
        self._environments = {row.id: row for row in environments}
        self._cells = {row.number: row for row in cells if row.environment_id in self._environments}

    async def learn(self) -> None:
        """Add what is new in the directory, beside what is known: nothing is forgotten here."""
        environments, cells = await self._directory()
        self._environments = {row.id: row for row in environments} | self._environments
        known = {row.number: row for row in cells if row.environment_id in self._environments}
        self._cells = dict(sorted((known | self._cells).items()))

    async def _directory(self) -> tuple[list[Environment], list[Cell]]:
        async def work(tx: ControlRead) -> tuple[list[Environment], list[Cell]]:
            return (
                await tx.fetch(
                    "SELECT id, tenant, mode, time_zone FROM environment e WHERE NOT EXISTS"
                    " (SELECT FROM environment_removal r WHERE r.environment_id = e.id)",
                    None,
                    Environment,
                ),
                await tx.fetch(
                    "SELECT number, environment_id, server, schema_name, treasury, open_for_users"
                    " FROM cell ORDER BY number",
                    None,
                    Cell,
                ),
            )

        return await self.control.read(work)

    async def schemas_on(self, server: str) -> frozenset[str]:
        """The names of all schemas on a server. Raises Broken `server-missing`."""
        if server not in self._servers:
            raise Broken("server-missing", f"There is no server named {server!r}.")
        place = ControlDb(self._servers[server], CONTROL_SCHEMA, self.clock)
        rows = await place.read(lambda tx: tx.tuples("SELECT nspname::text FROM pg_namespace"))
        return frozenset(row[0] for row in rows)

    def environment(self, environment_id: int) -> Environment:
        """An environment by id. Raises Broken when there is none."""
        try:
            return self._environments[environment_id]
        except KeyError:
            raise Broken("environment-unknown", f"No environment {environment_id}.") from None

    def environments(self) -> Sequence[Environment]:
        """All environments."""
        return list(self._environments.values())

    def cells(self, environment_id: int | None = None) -> Sequence[Cell]:
        """The cells of one environment, or all, in order of number."""
        return [
            cell
            for cell in self._cells.values()
            if environment_id is None or cell.environment_id == environment_id
        ]

    def cell(self, number: int) -> CellDb:
        """A cell by number. Raises NotFound `not-found` when the installation has none such."""
        found = self._open.get(number)
        if found is None:
            row = self._cells.get(number)
            if row is None:
                raise NotFound("not-found", "There is nothing of this id.")
            server = self._servers.get(row.server)
            if server is None:
                raise Broken("server-missing", f"Cell {number} is on unknown server {row.server!r}")
            zone = self.environment(row.environment_id).time_zone
            clock = self.clock_of(row.environment_id)
            found = CellDb(server, row.schema_name, clock, number, zone, self._policy)
            self._open[number] = found
        return found

    def clock_of(self, environment_id: int) -> Clock:
        """The clock of an environment: a test one may run ahead of the machine's."""
        if self.environment(environment_id).mode != "test":
            return self.clock
        return self._ahead.setdefault(environment_id, AheadClock(self.clock))

    def environment_of(self, number: int) -> Environment:
        """The environment that a cell belongs to."""
        row = self._cells.get(number)
        if row is None:
            raise NotFound("not-found", "There is nothing of this id.")
        return self.environment(row.environment_id)

    def treasury(self, environment_id: int) -> CellDb:
        """The cell that holds an environment's bank accounts and master budgets."""
        for cell in self.cells(environment_id):
            if cell.treasury:
                return self.cell(cell.number)
        raise Broken("treasury-missing", f"Environment {environment_id} has no treasury cell.")
