"""The API as its process builds it, on a real database, called in-process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.conninfo import conninfo_to_dict
from tests.calling import NOBODY
from tests.world import ACTOR, START, PostgresServer, World, app_dsn, legal_moves, make_world

from paymaster.api.app import build_api, build_hooks
from paymaster.api.middleware import Outermost
from paymaster.compose import Deps
from paymaster.db.cells import Databases
from paymaster.db.migrate import migrate
from paymaster.db.tx import CellTx, ControlTx
from paymaster.kernel.clock import Clock
from paymaster.kernel.ids import parse_text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.observe import Metrics
from paymaster.people import credentials
from paymaster.people.scopes import SCOPES
from paymaster.rails.base import Rail
from paymaster.rails.deps import RailDeps
from paymaster.rails.registry import Registry
from paymaster.secrets.generated import ensure_generated
from paymaster.secrets.opening import open_secrets, secrets_directory
from paymaster.settings import Settings

BASE = "http://api.test"
IBAN = {
    "kind": "iban",
    "currency": "EUR",
    "details": {"iban": "DE89370400440532013000", "holder": "A. Example"},
}


def make_settings(folder: Path, **groups: Mapping[str, Any]) -> Settings:
    """The defaults, with generated keys; `api={"page_limit": 3}` sets api.page_limit."""
    limits = {"destination_cooling_seconds": 0, **groups.pop("limits", {})}
    database = {"data_dir": folder, **groups.pop("database", {})}
    # Who calls in-process gets an answer when it is complete: a stream must end soon.
    streams = {"life_seconds": 0.05, **groups.pop("streams", {})}
    given: dict[str, Any] = {
        "database": database, "limits": limits, "streams": streams, **groups,
    }  # fmt: skip
    settings = Settings(**given)
    ensure_generated(secrets_directory(settings))
    return settings


def make_deps(
    settings: Settings,
    dbs: Databases,
    clock: Clock,
    http: httpx.AsyncClient,
    rails: Mapping[str, Rail] | None = None,
) -> Deps:
    """What the composition root builds, over a database that is open already."""
    secrets = open_secrets(settings)
    if rails is None:
        registry = Registry.installed()
        rail_deps = RailDeps(http=http, secret=secrets.text, clock=clock)
        rails = {name: registry.build(name, rail_deps) for name in registry.names()}
    return Deps(settings, clock, dbs, secrets, rails, http, Metrics())


@dataclass
class Served:
    """An installation, its application, and a client with every scope."""

    world: World
    deps: Deps
    app: Outermost
    api: httpx.AsyncClient
    hooks: httpx.AsyncClient

    async def key(self, scopes: Sequence[str] = tuple(SCOPES), environment_id: int = 1) -> str:
        """A new API key."""

        async def work(tx: ControlTx) -> str:
            return (await credentials.issue(tx, environment_id, "test", scopes)).key

        return await self.world.dbs.control.run(ACTOR, "", work)

    async def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The JSON of a successful call."""
        answer = await self.api.request(method, path, json=body, **more)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def refused(
        self, status: int, code: str, method: str, path: str, body: Any = None, **more: Any
    ) -> dict[str, Any]:
        """The problem of a call that must be refused, complete as documented."""
        answer = await self.api.request(method, path, json=body, **more)
        problem: dict[str, Any] = answer.json()
        assert (answer.status_code, problem["code"]) == (status, code), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["type"].endswith(f"#{code}")
        assert problem["trace_id"] == answer.headers["trace-id"]
        return problem


async def add_environment(
    served: Served, environment_id: int = 2, tenant: str = "other", mode: str = "test"
) -> int:
    """Another environment in the same installation, with a cell of its number as its treasury."""
    world = served.world
    role = conninfo_to_dict(app_dsn(world.dbs))["user"]
    schema = f"cell_{environment_id}"
    moves = legal_moves()
    migrate(world.owner_dsn, schema, "cell", app_role=str(role), now=START, legal_moves=moves)
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO control")
        connection.execute(
            "INSERT INTO environment VALUES (%s, %s, %s, 'UTC', %s)",
            (environment_id, tenant, mode, START),
        )
        connection.execute(
            "INSERT INTO cell VALUES (%s, %s, 'main', %s, true, true, %s)",
            (environment_id, environment_id, schema, START),
        )
    await world.dbs.refresh()
    return environment_id


async def earner(
    served: Served, name: str = "anna", amount: str = "20.00", iban: str | None = None
) -> dict[str, Any]:
    """A user who has earned `amount` EUR and has an IBAN to be paid to; the destination."""
    user = await served.ok("PUT", f"/v1/users/{name}", {})
    await credit(served, user["id"], amount)
    own = {"iban": iban, "holder": "A. Example"}
    body = IBAN if iban is None else {**IBAN, "details": own}
    return await served.ok("POST", f"/v1/users/{name}/destinations", body)


async def credit(served: Served, user_id: str, amount: str) -> None:
    """Money of a sponsor, earned."""
    ref = parse_text_id("us", user_id)
    money = Money.parse(amount, "EUR")

    async def work(tx: CellTx) -> None:
        zero = Money.zero("EUR")
        reward = recipes.reward(1, ref.id, money, vests=False, owes=False, commission=zero)
        entries = [
            Entry(tx.id(), "fund", "x", recipes.fund(1, 1, money)),
            Entry(tx.id(), "reward", "x", reward),
        ]
        assert all(posted.done for posted in await post(tx, entries))

    await served.world.run(work, ref.cell)


def client(app: Any, key: str | None = None, *, raises: bool = True) -> httpx.AsyncClient:
    """A client that calls an application in this process."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(app, raise_app_exceptions=raises, client=("192.0.2.7", 4711))
    return httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers)


@asynccontextmanager
async def serve(
    postgres: PostgresServer,
    folder: Path,
    *,
    cells: int = 1,
    rails: Mapping[str, Rail] | None = None,
    **groups: Mapping[str, Any],
) -> AsyncIterator[Served]:
    """A fresh installation, served; with the rails that are installed, or these."""
    async with (
        make_world(postgres, cells=cells) as world,
        httpx.AsyncClient(trust_env=False, verify=NOBODY) as http,
    ):
        deps = make_deps(make_settings(folder, **groups), world.dbs, world.clock, http, rails)
        api, inbound = build_api(deps), build_hooks(deps)
        async with client(api) as caller, client(inbound) as hooks:
            served = Served(world, deps, api, caller, hooks)
            caller.headers["Authorization"] = f"Bearer {await served.key()}"
            try:
                yield served
            finally:
                await api.close()
                await inbound.close()
