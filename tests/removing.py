"""Two environments of one installation, furnished alike, one of which is to be removed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from tests.sealed import superuser
from tests.served import Served, add_environment, client, credit, make_settings, serve
from tests.world import PostgresServer, World

from paymaster.api.app import build_api
from paymaster.compose import Deps
from paymaster.db.cells import Databases
from paymaster.removal import directory
from paymaster.removal.remove import Removed, Wanted, remove

ROWS = (
    (
        "idempotency (credential_id, route, key_hash, body_hash, created_at)"
        " SELECT id, 'r', '\\x01', '\\x01', now() FROM credential WHERE environment_id = {e}"
    ),
    (
        "webhook_endpoint VALUES ({e}1, {e}, 'https://app.test', '', '{{*}}', false, 'enabled',"
        " NULL, '{{}}', NULL, now(), 1)"
    ),
    "webhook_secret VALUES ({e}2, {e}1, '\\x01', now(), NULL)",
    (
        "webhook_delivery VALUES ({e}1, 1, 't', 'k', false, 'waiting', 0, now(), 0, NULL, NULL,"
        " NULL, NULL, now())"
    ),
    "webhook_replay VALUES ({e}3, {e}1, now(), 1, 2, 0, now(), NULL)",
    "webhook_order VALUES ({e}), ({e}1)",
    (
        "issuer VALUES ({e}4, {e}, 'https://login.test/{e}', '{{a}}', '{{EdDSA}}', 'sub', '', true,"
        " now(), NULL)"
    ),
    "issuer_audience VALUES ('https://login.test/{e}', 'a', {e}4)",
    "person VALUES ({e}5, 't{e}', 'p@example.test', 'P', 'active', 1, now())",
    "person_role VALUES ({e}, {e}5, 'admin', now())",
    "staff_session VALUES ({e}6, sha256('{e}'), {e}5, {e}, NULL, now(), now(), now(), NULL, NULL)",
    (
        "break_glass VALUES ({e}7, {e}, {e}5, 'admin', 'x', 'cli', now(), now() + interval '1 h',"
        " NULL)"
    ),
    "four_eyes_limit VALUES ({e}, 'transfer.request', 'EUR', 1, 1, now())",
    "step_up_policy VALUES ({e}, 'withdrawal', '*', 0, 'users', now())",
    (
        "approval VALUES ({e}8, {e}, 'a', 's', NULL, NULL, '{{}}', '\\x01', 'r', 'proposed', 'p',"
        " 1, NULL, 't', now(), now(), NULL, NULL, NULL, NULL)"
    ),
    "sponsor VALUES ({e}9, {e}, 's', 'S', now())",
    (
        "campaign VALUES ({e}10, {e}, {e}9, {e}, 'c', 'C', 'EUR', now(), NULL, 'active', 'wait', 0,"
        " '{{}}', 'CP{e}', 1, now())"
    ),
    (
        "task VALUES ({e}11, {e}10, 't', 'x', 'T', 1, '{{}}', '{{}}', NULL, now(), NULL, 'active',"
        " 1, now())"
    ),
    "gold VALUES ({e}11, 'i', 'a')",
    "link_provider VALUES ({e}, 'wechat', '{{}}', '{{}}', 'CNY', '{{}}', true, 1, now())",
    "link_owner VALUES ({e}, 'wechat', 'f', {e}, 1, 1, 1, now())",
    "payout_policy VALUES ({e}, true, 5, 5, '{{}}', 1, '2026-01-01')",
    (
        "rail_account VALUES ({e}12, {e}, 'bank', 'iso20022', 'EUR', 'UTC', '{{}}',"
        """ '{{"key": "bank-{e}"}}', '15:00', 'active', 1, now())"""
    ),
)


@dataclass
class Pair:
    """Environment 1 (acme/test) and 2 (other/live), each with a user who is owed 20 EUR."""

    served: Served
    folder: Path
    owned: Deps
    """What the command works with: it may ask for the owner's addresses."""

    @property
    def world(self) -> World:
        return self.served.world

    @property
    def file(self) -> Path:
        return self.folder / "certificate.json"

    def wanted(self, *, force: bool = False, number: int = 1) -> Wanted:
        tenant, mode = {1: ("acme", "test"), 2: ("other", "live")}[number]
        return Wanted(tenant, mode, f"{tenant}/{mode}", "contract ended", self.file, force)

    async def remove(self, *, force: bool = False, number: int = 1) -> Removed:
        return await remove(self.owned, self.wanted(force=force, number=number))

    async def left(self, number: int) -> dict[str, int]:
        return await self.world.dbs.control.read(lambda tx: directory.left(tx, number))

    def schemas(self) -> list[str]:
        with superuser(self.world, "control") as connection:
            rows = connection.execute(
                "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'cell%' ORDER BY 1"
            ).fetchall()
        return [row["nspname"] for row in rows]


@asynccontextmanager
async def pair(postgres: PostgresServer, folder: Path) -> AsyncIterator[Pair]:
    """Both, served."""
    async with serve(postgres, folder) as served:
        await add_environment(served, 2, "other", "live")
        await _owed(served, served.api)
        async with client(served.app, await served.key(environment_id=2)) as other:
            await _owed(served, other)
        with superuser(served.world, "control") as connection:
            for number in (1, 2):
                for row in ROWS:
                    connection.execute(f"INSERT INTO {row.format(e=number)}".encode())
        database = {
            "url": postgres.app_dsn(served.world.database),
            "owner_url": served.world.owner_dsn,
            "app_role": postgres.app_role,
        }
        settings = make_settings(folder, database=database)
        yield Pair(served, folder, replace(served.deps, settings=settings))


async def _owed(served: Served, api: httpx.AsyncClient) -> None:
    made = await api.put("/v1/users/anna", json={})
    assert made.is_success, made.text
    await credit(served, made.json()["id"], "20.00")


@asynccontextmanager
async def restarted(pair: Pair, postgres: PostgresServer) -> AsyncIterator[httpx.AsyncClient]:
    """The API as a process serves it that was started after the removal."""
    dsn = postgres.app_dsn(pair.world.database)
    dbs = Databases({"main": dsn}, pair.world.clock, connections=2)
    await dbs.open()
    try:
        api = build_api(replace(pair.served.deps, dbs=dbs))
        async with client(api) as caller:
            yield caller
        await api.close()
    finally:
        await dbs.close()
