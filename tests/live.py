"""An installation on this machine: a real api process, a real PostgreSQL, and means to kill both.

Nothing is softened: fsync is on, the api process is the one of `paymaster up`, and what is killed
is killed with signal 9, PostgreSQL with all its children.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
from tests.calling import NOBODY

from paymaster.compose import Deps, build
from paymaster.db.cells import Environment
from paymaster.db.servers import DATABASE, embedded
from paymaster.db.tx import Actor, CellTx
from paymaster.installation import (
    NewCell,
    add_environment,
    revive_embedded,
    start_embedded,
    stop_embedded,
    upgrade,
)
from paymaster.kernel.clock import WallClock, monotonic_seconds
from paymaster.kernel.ids import Ref, new_trace_id
from paymaster.kernel.money import Money
from paymaster.ledger.chart import HOUSE, Account
from paymaster.ledger.entry import Entry, Posting
from paymaster.ledger.post import post
from paymaster.people import credentials, destinations, users
from paymaster.people.scopes import SCOPES
from paymaster.settings import Settings

ACTOR = Actor("test")
IBAN = {"iban": "DE89370400440532013000", "holder": "A. Example"}
START_SECONDS = 60.0


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(frozen=True)
class Person:
    """A user with a destination, by the ids of the API and of the books."""

    name: str
    ref: Ref
    destination: str


@dataclass
class Live:
    """The processes of one installation in a folder."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    key: str = ""
    listening: asyncio.Event = field(default_factory=asyncio.Event)
    """Callers without an answer wait for it, so that the start is not slowed down by 512 knocks."""

    @property
    def environ(self) -> dict[str, str]:
        """What the api process is started with."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PAYMASTER__")}
        given = {
            "DATABASE__DATA_DIR": str(self.folder),
            "API__PORT": str(self.port),
            "API__PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "LIMITS__DESTINATION_COOLING_SECONDS": "0",
            "LIMITS__REQUESTS_PER_MINUTE": "10000000",
            "LOG__LEVEL": "warning",
        }
        return {**kept, **{f"PAYMASTER__{name}": value for name, value in given.items()}}

    @property
    def settings(self) -> Settings:
        """The same for this process."""
        return Settings.model_validate(
            {
                "database": {"data_dir": self.folder},
                "limits": {"destination_cooling_seconds": 0},
            }
        )

    def install(self) -> Environment:
        """Start PostgreSQL, migrate, and make an environment of one cell."""
        settings, clock = self.settings, WallClock()
        start_embedded(settings)
        upgrade(settings, clock)
        return add_environment(settings, clock, "acme", "test", "UTC", [NewCell("main")])

    def stop(self) -> None:
        """End all processes."""
        self.kill_api()
        stop_embedded(self.settings)

    # ------------------------------------------------------------ the api process

    def start_api(self) -> None:
        """Start it; it answers a little later."""
        command = [sys.executable, "-m", "paymaster.roles", "api", "--health-port=1"]
        with (self.folder / "api.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--exit-with-parent"], env=self.environ, stderr=log
            )

    def kill_api(self) -> None:
        """Signal 9."""
        self.listening.clear()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    async def ready(self) -> None:
        """Return when the api answers; it is started again when it ended by itself."""
        deadline = monotonic_seconds() + START_SECONDS
        async with httpx.AsyncClient(trust_env=False, verify=NOBODY) as http:
            while monotonic_seconds() < deadline:
                if self.process is None or self.process.poll() is not None:
                    self.start_api()
                with contextlib.suppress(httpx.TransportError):
                    answer = await http.get(f"http://127.0.0.1:{self.port}/readyz")
                    self.listening.set()
                    if answer.is_success:
                        return
                await asyncio.sleep(0.05)
        raise AssertionError(f"the api did not become ready: {self.log()}")

    def log(self) -> str:
        """The end of what the api wrote."""
        return (self.folder / "api.log").read_text()[-4000:]

    # ------------------------------------------------------------ the database

    def kill_postgres(self) -> None:
        """Signal 9 to the server and all its children at once."""
        file = next(self.folder.rglob("postmaster.pid"), None)
        if file is None:
            return
        server = int(file.read_text().splitlines()[0])
        doomed = (server, *children(server))
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(map(lives, doomed)):
            time.sleep(0.001)

    def revive_postgres(self) -> None:
        """Start it again, as `paymaster up` does."""
        revive_embedded(self.settings)

    def rows(self, statement: str, *params: object) -> list[tuple[Any, ...]]:
        """Rows of the cell as the owner reads them."""
        dsn = embedded(self.settings)["main"].owner_dsn(DATABASE)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("SET search_path TO cell_1")
            return connection.execute(statement.encode(), params or None).fetchall()


def lives(pid: int) -> bool:
    """Whether a process still does something, as Linux tells it."""
    try:
        stat = (Path("/proc") / str(pid) / "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def children(parent: int) -> list[int]:
    """The processes that one has started, as Linux tells them."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                if int(stat.rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry.name))
    return found


@asynccontextmanager
async def live(folder: Path) -> AsyncIterator[tuple[Live, Deps]]:
    """An installation with its api running, a key of all scopes, and a way in beside the api."""
    made = Live(folder)
    environment = await asyncio.to_thread(made.install)
    try:
        async with build(made.settings) as deps:
            issued = await deps.dbs.control.run(
                ACTOR,
                new_trace_id(),
                lambda tx: credentials.issue(tx, environment.id, "test", tuple(SCOPES)),
            )
            made.key = issued.key
            made.start_api()
            await made.ready()
            yield made, deps
    finally:
        await asyncio.to_thread(made.stop)


async def people(deps: Deps, count: int) -> list[Person]:
    """Users with a bank account each."""
    environment = deps.dbs.environments()[0]
    sealer = deps.secrets.sealer
    found: list[Person] = []
    for number in range(count):
        name = f"user-{number}"
        made = await users.upsert(deps.dbs, sealer, environment.id, ACTOR, new_trace_id(), name)
        assert made.view is not None
        ref = made.view.ref
        place = await destinations.register(
            deps.dbs, sealer, ACTOR, new_trace_id(), ref, "iban", "EUR", IBAN,
            cooling=deps.clock.now() - deps.clock.now(),
        )  # fmt: skip
        found.append(Person(name, ref, str(place.wire()["id"])))
    return found


async def fund(deps: Deps, who: Sequence[Person], minor: int) -> None:
    """So much more for each; a gift of the house, so that no reward has to stand behind it."""
    house, amount = Account("loss", HOUSE, "EUR"), Money(minor, "EUR")

    async def work(tx: CellTx) -> None:
        entries = [
            Entry(tx.id(), "gift", "x", (Posting(house, _available(person), amount),))
            for person in who
        ]
        assert all(posted.done for posted in await post(tx, entries))

    await deps.dbs.cell(1).run(ACTOR, new_trace_id(), work)


def _available(person: Person) -> Account:
    return Account("available", person.ref.id, "EUR")


class Lost(Exception):
    """The connection ended without an answer: nobody knows what has happened."""


@dataclass
class Connection:
    """HTTP/1.1 with keep-alive, as little of it as it takes."""

    port: int
    key: str
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request. Raises Lost."""
        told = {"Host": "api", "Authorization": f"Bearer {self.key}", **(headers or {})}
        if body:
            told |= {"Content-Type": "application/json"}
        told["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in told.items()), "", ""]
        try:
            async with asyncio.timeout(60):
                return await self._exchange("\r\n".join(lines).encode() + body)
        except (OSError, EOFError, TimeoutError, IndexError, ValueError) as error:
            self.close()
            raise Lost from error

    async def _exchange(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        answer = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close":
            self.close()
        return int(head[0].split()[1]), headers, answer

    def close(self) -> None:
        """Let go of it; the next request opens a new one."""
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None
