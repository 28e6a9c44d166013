"""Where a run happens: a PostgreSQL server of its own, and a database for each seed.

The server keeps its data in memory where there is room. Everything that is the same in every run
(schemas, accounts, users, their destinations, what there is to earn) is made once, in a database
that each run's own is copied from: that takes a hundredth of making it anew.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from paymaster.compose import legal_moves
from paymaster.db.cells import CONTROL_SCHEMA
from paymaster.db.embedded import APP_ROLE, EmbeddedPostgres
from paymaster.db.migrate import migrate
from paymaster_sim.clock import START
from paymaster_sim.runtime import SERVER_SETTINGS

CELLS = (1, 2)
"""Cell 1 is the treasury."""

ENVIRONMENT = 1
_MEMORY = Path("/dev/shm")  # noqa: S108 - a file system in memory
_ROOM_BYTES = 1 << 30
_LEFT = "paymaster-sim-"
_SETTINGS = {
    **SERVER_SETTINGS,
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "checkpoint_timeout": "1h",
    "log_min_messages": "fatal",
    "wal_compression": "off",
    "io_method": "sync",
    "bgwriter_lru_maxpages": "0",
    "bgwriter_delay": "10s",
    "wal_writer_delay": "10s",
    "track_counts": "off",
    "track_activities": "off",
    "update_process_title": "off",
}


class Place:
    """A server, the template, and the folder in which the world outside keeps its files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outside = root / "outside"
        self._server = EmbeddedPostgres(root / "postgres", settings=_SETTINGS, exit_with_owner=True)
        self._bare = f"bare_{secrets.token_hex(4)}"
        self._number = 0

    def start(self) -> None:
        """Start the server and make the empty schemas that every template begins with."""
        self._server.start()
        self._server.create_database(self._bare)
        owner = self._server.owner_dsn(self._bare)
        migrate(owner, CONTROL_SCHEMA, "control", app_role=APP_ROLE, now=START)
        for number in CELLS:
            schema, moves = f"cell_{number}", legal_moves()
            migrate(owner, schema, "cell", app_role=APP_ROLE, now=START, legal_moves=moves)
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO control.environment (id, tenant, mode, time_zone, created_at)"
                " VALUES (%s, 'sim', 'test', 'UTC', %s)",
                (ENVIRONMENT, START),
            )
            for number in CELLS:
                connection.execute(
                    "INSERT INTO control.cell (number, environment_id, server, schema_name,"
                    " treasury, open_for_users, created_at) VALUES (%s, %s, 'main', %s, %s, true,"
                    " %s)",
                    (number, ENVIRONMENT, f"cell_{number}", number == CELLS[0], START),
                )

    def template(self, name: str) -> str:
        """A new database, to put a cast into; its name."""
        made = f"template_{name}_{secrets.token_hex(4)}"
        self._copy(self._bare, made)
        return made

    def go_live(self, template: str) -> None:
        """Make the environment a live one, as it is in all runs.

        Accounts of rails that pretend can be made in a test one only, whose clock is asked for by
        every transaction.
        """
        with psycopg.connect(self.owner_dsn(template), autocommit=True) as connection:
            connection.execute("UPDATE control.environment SET mode = 'live'")

    def stop(self) -> None:
        """Stop the server."""
        self._server.stop()

    def app_dsn(self, database: str) -> str:
        """The address for simulated processes, and for those who make a template."""
        return self._server.app_dsn(database)

    def owner_dsn(self, database: str) -> str:
        """The address for those who look on, past the application's rights."""
        return self._server.owner_dsn(database)

    @contextmanager
    def database(self, template: str) -> Generator[str]:
        """A copy of a template for one run; its name."""
        self._number += 1
        name = f"sim_{self._number}"
        self._copy(template, name)
        try:
            yield name
        finally:
            gone = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            with self._maintenance() as connection:
                connection.execute(gone.format(sql.Identifier(name)))

    def _copy(self, template: str, name: str) -> None:
        made = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        with self._maintenance() as connection:
            connection.execute(made.format(sql.Identifier(name), sql.Identifier(template)))

    def _maintenance(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self._server.owner_dsn("postgres"), autocommit=True)


@contextmanager
def place() -> Generator[Place]:
    """A running place, removed afterwards; also what killed runs have left is removed."""
    root = _folder()
    made = Place(root)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(root, ignore_errors=True)


def _folder() -> Path:
    in_memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    if in_memory:
        for left in _MEMORY.glob(f"{_LEFT}*"):
            pid = left.name.removeprefix(_LEFT).partition("-")[0]
            if not Path(f"/proc/{pid}").exists():
                shutil.rmtree(left, ignore_errors=True)
    where = _MEMORY if in_memory else None
    root = Path(tempfile.mkdtemp(prefix=f"{_LEFT}{os.getpid()}-", dir=where))
    root.chmod(0o755)
    return root
