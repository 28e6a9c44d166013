"""Making and changing an installation: servers, schemas, environments, cells.

Everything here is idempotent and uses the owner's rights; no running role needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg import sql
from psycopg.rows import class_row, scalar_row

from paymaster.compose import legal_moves
from paymaster.db import partitions
from paymaster.db.cells import CONTROL_SCHEMA, CONTROL_SERVER, Cell, Environment
from paymaster.db.migrate import migrate
from paymaster.db.servers import DATABASE, app_role, embedded, owner_dsns
from paymaster.kernel.clock import Clock, milliseconds
from paymaster.kernel.errors import Refusal
from paymaster.kernel.ids import MAX_CELL, IdMaker, milliseconds_of, new_trace_id
from paymaster.secrets.generated import ensure_generated
from paymaster.secrets.opening import makes_keys, secrets_directory
from paymaster.settings import Settings


@dataclass(frozen=True, slots=True)
class NewCell:
    """Where a cell shall be."""

    server: str = CONTROL_SERVER
    schema_name: str | None = None


def start_embedded(settings: Settings) -> list[str]:
    """Start (or attach to) the embedded servers; returns their names."""
    if makes_keys(settings):
        ensure_generated(secrets_directory(settings))
    servers = embedded(settings)
    for server in servers.values():
        server.start()
        server.create_database(DATABASE)
    return list(servers)


def revive_embedded(settings: Settings) -> list[str]:
    """Start those embedded servers that have died; returns their names."""
    revived: list[str] = []
    for name, server in embedded(settings).items():
        if not server.is_running:
            server.start()
            revived.append(name)
    return revived


def stop_embedded(settings: Settings) -> None:
    """Stop the embedded servers, also those that another process started."""
    for server in embedded(settings).values():
        if server.is_running:
            server.stop(even_if_attached=True)


def upgrade(settings: Settings, clock: Clock) -> list[str]:
    """Migrate the directory and every cell; returns what was applied, as `schema:file`."""
    owners, role, now = owner_dsns(settings), app_role(settings), clock.now()
    applied = [
        f"{CONTROL_SCHEMA}:{name}"
        for name in migrate(
            owners[CONTROL_SERVER], CONTROL_SCHEMA, "control", app_role=role, now=now
        )
    ]
    for cell in _cells(owners[CONTROL_SERVER]):
        dsn = owners[cell.server]
        applied += [
            f"{cell.schema_name}:{name}"
            for name in migrate(
                dsn,
                cell.schema_name,
                "cell",
                app_role=role,
                now=now,
                legal_moves=legal_moves(),
            )
        ]
    return applied


def _control(owner_dsn: str) -> psycopg.Connection[tuple[object, ...]]:
    connection = psycopg.connect(owner_dsn, autocommit=True)
    connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(CONTROL_SCHEMA)))
    return connection


def _cells(owner_dsn: str) -> list[Cell]:
    """The cells, without those of environments that were removed."""
    with _control(owner_dsn) as connection, connection.cursor(row_factory=class_row(Cell)) as rows:
        return rows.execute(
            "SELECT number, environment_id, server, schema_name, treasury, open_for_users"
            " FROM cell c WHERE NOT EXISTS"
            " (SELECT FROM environment_removal r WHERE r.environment_id = c.environment_id)"
            " ORDER BY number"
        ).fetchall()


def _next_number(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    """A number that no cell ever had. Raises Refusal `cells-exhausted`."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        cursor.execute("SELECT coalesce(max(number), 0) FROM cell")
        number = int(cursor.fetchone() or 0) + 1
    if number > MAX_CELL:
        raise Refusal("cells-exhausted", "All cell numbers have been used.")
    return number


def _refuse_removed(
    connection: psycopg.Connection[tuple[object, ...]], environment_id: int
) -> None:
    """Raises Refusal `environment-removed`."""
    removed = connection.execute(
        "SELECT 1 FROM environment_removal WHERE environment_id = %s", (environment_id,)
    ).fetchone()
    if removed is not None:
        raise Refusal(
            "environment-removed",
            "That environment was removed, and names of removed ones are never used again: choose"
            " another name for the tenant.",
        )


def add_environment(
    settings: Settings,
    clock: Clock,
    tenant: str,
    mode: str,
    time_zone: str,
    cells: list[NewCell],
) -> Environment:
    """An environment with its cells, the first being its treasury; what exists is kept.

    Raises Refusal `cells-exhausted` when the installation has used all cell numbers, and
    `environment-removed` when an environment of this name was removed.
    """
    owners, now = owner_dsns(settings), clock.now()
    with _control(owners[CONTROL_SERVER]) as connection:
        with connection.transaction():
            new_id, commit_id = _ids(connection, clock)
            found = connection.execute(
                "SELECT 1 FROM environment WHERE tenant = %s AND mode = %s", (tenant, mode)
            ).fetchone()
            if found is None:
                connection.execute(
                    "INSERT INTO environment (id, tenant, mode, time_zone, created_at, commit_id,"
                    " ordinal) VALUES (%s, %s, %s, %s, %s, %s, 0)",
                    (new_id, tenant, mode, time_zone, now, commit_id),
                )
                _commit(connection, clock, commit_id)
        with connection.cursor(row_factory=class_row(Environment)) as rows:
            environment = rows.execute(
                "SELECT id, tenant, mode, time_zone FROM environment"
                " WHERE tenant = %s AND mode = %s",
                (tenant, mode),
            ).fetchone()
    if environment is None:
        raise Refusal("environment-unknown", f"{tenant}/{mode} could not be made.")
    with _control(owners[CONTROL_SERVER]) as connection:
        _refuse_removed(connection, environment.id)
    existing = [c for c in _cells(owners[CONTROL_SERVER]) if c.environment_id == environment.id]
    for cell in cells[len(existing) :]:
        add_cell(settings, clock, environment.id, cell)
    return environment


def add_cell(settings: Settings, clock: Clock, environment_id: int, cell: NewCell) -> int:
    """Make a cell for an environment; its first one is its treasury. Returns the number.

    Raises Refusal `server-unknown`, `cells-exhausted`, `environment-removed`.
    """
    owners, now = owner_dsns(settings), clock.now()
    if cell.server not in owners:
        raise Refusal("server-unknown", f"There is no server named {cell.server!r}.")
    existing = _cells(owners[CONTROL_SERVER])
    with _control(owners[CONTROL_SERVER]) as connection:
        _refuse_removed(connection, environment_id)
        number = _next_number(connection)
    schema = cell.schema_name or f"cell_{number}"
    migrate(
        owners[cell.server],
        schema,
        "cell",
        app_role=app_role(settings),
        now=now,
        legal_moves=legal_moves(),
    )
    treasury = all(c.environment_id != environment_id for c in existing)
    with _control(owners[CONTROL_SERVER]) as connection, connection.transaction():
        commit_id = _ids(connection, clock)[0]
        _refuse_removed(connection, environment_id)
        connection.execute(
            "INSERT INTO cell (number, environment_id, server, schema_name, treasury,"
            " open_for_users, created_at, commit_id, ordinal)"
            " VALUES (%s, %s, %s, %s, %s, true, %s, %s, 0)",
            (number, environment_id, cell.server, schema, treasury, now, commit_id),
        )
        _commit(connection, clock, commit_id)
    return number


def _ids(connection: psycopg.Connection[tuple[object, ...]], clock: Clock) -> list[int]:
    """Two new ids of the directory; until the transaction ends nobody else commits there."""
    connection.execute("SELECT 1 FROM head WHERE id = 1 FOR UPDATE")
    with connection.cursor(row_factory=scalar_row) as cursor:
        cursor.execute("SELECT coalesce(max(id), 0) FROM commit")
        newest = int(cursor.fetchone() or 0)
    return IdMaker(63, milliseconds_of(newest), lambda: milliseconds(clock.now())).next(2)


def _commit(
    connection: psycopg.Connection[tuple[object, ...]], clock: Clock, commit_id: int
) -> None:
    """Give the transaction its place in the directory's order of commits; see `Writes.seal`."""
    connection.execute(
        """
        WITH moved AS (
            UPDATE head SET seq = seq + 1, recorded_at = greatest(recorded_at, %(now)s)
            WHERE id = 1 RETURNING seq, recorded_at
        )
        INSERT INTO commit (id, first_seq, last_seq, recorded_at, actor, trace_id)
        SELECT %(id)s, seq, seq, recorded_at, 'installation', %(trace)s FROM moved
        """,
        {"now": clock.now(), "id": commit_id, "trace": new_trace_id()},
    )


def ensure_partitions(settings: Settings, clock: Clock, until: datetime | None = None) -> list[str]:
    """Make missing monthly partitions in every cell, by its own clock; and those before `until`."""
    owners, made = owner_dsns(settings), list[str]()
    for cell in _cells(owners[CONTROL_SERVER]):
        with psycopg.connect(owners[cell.server], autocommit=True) as connection:
            connection.execute(
                sql.SQL("SET search_path TO {}").format(sql.Identifier(cell.schema_name))
            )
            connection.execute("SET lock_timeout TO '5s'")
            ahead = connection.execute("SELECT ahead_seconds FROM test_clock").fetchone()
            moment = clock.now() + timedelta(seconds=int(str(ahead[0])) if ahead else 0)
            made += partitions.ensure(connection, moment)
            while until is not None and (moment := partitions.month_after(moment, 1)) < until:
                made += partitions.ensure(connection, moment)
            if until is not None:
                made += partitions.ensure(connection, until)
    return made
