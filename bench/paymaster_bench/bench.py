"""What every family of rows is given, and how the families are told apart."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paymaster.secrets.generated import ensure_generated
from paymaster.secrets.opening import open_secrets, secrets_directory
from paymaster.settings import Settings
from paymaster_bench.people import Person, make_people
from paymaster_bench.report import Findings
from paymaster_bench.server import BenchServer
from paymaster_bench.world import make_schemas, make_template, open_databases, settle_down


@dataclass(frozen=True, slots=True)
class Size:
    """How large and how long: `users` accounts, `rounds` slices of `seconds` each."""

    users: int
    rounds: int
    seconds: float
    grown_postings: int
    """How many postings the ledger of `growth` holds beforehand."""
    people: int
    """Users who can be paid."""

    flows: int
    """How many withdrawals a slice of `saga` takes through."""
    quick: bool = False
    most_callers: int = 10_000
    """So that a test need not wait for hundreds of single transactions."""

    def callers(self, wanted: int) -> int:
        """How many callers a row named after `wanted` of them has."""
        return min(wanted, self.most_callers)


FULL = Size(1_000_000, 5, 4.0, 10_000_000, 20_000, 8_000)
QUICK = Size(50_000, 3, 1.0, 200_000, 2_000, 500, quick=True)
TINY = Size(2_000, 1, 0.2, 3_000, 300, 40, quick=True, most_callers=16)
"""For tests of the suite itself."""


@dataclass(slots=True)
class Bench:
    """One run: its server, its size, and the worlds that are copied for the rows."""

    server: BenchServer
    size: Size
    say: Callable[[str], None]
    folder: Path
    """For keys, programs and files of the run."""

    _template: str | None = None
    _people: tuple[str, list[Person]] | None = None
    _seeds: int = field(default=0)

    async def template(self) -> str:
        """The database with funded accounts, made when it is first asked for."""
        if self._template is None:
            self.say(f"making a cell with {self.size.users:,} accounts")
            self._template = await make_template(self.server, self.size.users)
        return self._template

    async def copy(self, purpose: str) -> str:
        """A copy of it for one family of rows; returns the database's name."""
        return self.server.create_database(purpose, template=await self.template())

    def settings(self, **groups: Any) -> Settings:
        """Settings with local keys of this run; `api={"port": 1}` sets api.port."""
        given: dict[str, Any] = {"database": {}, **groups}
        given["database"] = {"data_dir": self.folder / "installation", **given["database"]}
        settings = Settings(**given)
        ensure_generated(secrets_directory(settings))
        return settings

    async def people(self, purpose: str) -> tuple[str, list[Person]]:
        """A copy of a world with users who can be paid; the database's name, and who they are."""
        if self._people is None:
            self.say(f"making {self.size.people:,} users with wallets")
            database = self.server.create_database("people")
            make_schemas(self.server, database)
            sealer = open_secrets(self.settings()).sealer
            async with open_databases(self.server.app_dsn(database), 2) as dbs:
                people = await make_people(dbs, sealer, self.size.people)
            settle_down(self.server, database)
            self._people = database, people
        template, people = self._people
        return self.server.create_database(purpose, template=template), people

    def seed(self) -> int:
        """A new seed for a caller; the same in every run."""
        self._seeds += 1
        return 20261121 + self._seeds


@dataclass(frozen=True, slots=True)
class Family:
    """Rows that are measured together. `run` is given the names of those that are wanted.

    `web`: in production this work is done by a process that answers HTTP, so it is measured, and
    what it is compared with, on the event loop of such a process.
    """

    rows: tuple[str, ...]
    run: Callable[[Bench, frozenset[str]], Coroutine[Any, Any, Findings]]
    web: bool = False
