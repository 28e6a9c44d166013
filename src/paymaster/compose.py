"""The composition root: the one place where concrete parts are chosen and wired together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import httpx

from paymaster.db.cells import Databases
from paymaster.db.servers import app_dsns
from paymaster.db.tx import Policy
from paymaster.dispatch.machine import ATTEMPT, TRANSFER
from paymaster.earn.machine import REWARD, TASK
from paymaster.kernel.clock import Clock, WallClock
from paymaster.kernel.machine import Machine
from paymaster.observe import Metrics
from paymaster.payin.machine import CHARGE, REFUND
from paymaster.rails.base import Rail
from paymaster.rails.deps import RailDeps
from paymaster.rails.http import client_with_identity, new_client, refuses_identity
from paymaster.rails.registry import Registry
from paymaster.secrets.generated import ensure_generated
from paymaster.secrets.opening import Secrets, makes_keys, open_secrets, secrets_directory
from paymaster.settings import Settings
from paymaster.withdraw.machine import WITHDRAWAL

MACHINES: tuple[Machine, ...] = (TASK, REWARD, WITHDRAWAL, ATTEMPT, TRANSFER, CHARGE, REFUND)
"""Every lifecycle of the project, in money order."""


@dataclass(frozen=True, slots=True)
class Deps:
    """Everything a process works with."""

    settings: Settings
    clock: Clock
    dbs: Databases
    secrets: Secrets
    rails: Mapping[str, Rail]
    http: httpx.AsyncClient
    metrics: Metrics


def legal_moves() -> list[tuple[str, str, str, str]]:
    """The rows of `legal_move` for all machines."""
    return [row for machine in MACHINES for row in machine.rows()]


@asynccontextmanager
async def build(
    settings: Settings, clock: Clock | None = None, *, role: str = "cli"
) -> AsyncGenerator[Deps]:
    """Open everything, and close it again. The database servers must run and be migrated.

    `role` names the process to its peers.
    """
    clock = clock or WallClock()
    if makes_keys(settings):
        ensure_generated(secrets_directory(settings))
    secrets = open_secrets(settings)
    providers = settings.providers
    older = providers.tls_1_2_hosts
    http = new_client(ca=providers.ca, tls_1_2_hosts=older)
    dbs = Databases(
        app_dsns(settings, role),
        clock,
        connections=settings.database.pool_size,
        statement_seconds=settings.database.statement_timeout_seconds,
        policy=Policy(destination_failures=settings.limits.destination_failures),
    )
    metrics = Metrics()
    try:
        async with secrets.kept(metrics):
            await dbs.open()
            rail_deps = RailDeps(
                http,
                secrets.text,
                clock,
                partial(client_with_identity, ca=providers.ca, tls_1_2_hosts=older),
                partial(refuses_identity, ca=providers.ca, tls_1_2_hosts=older),
            )
            registry = Registry.installed()
            rails = {name: registry.build(name, rail_deps) for name in registry.names()}
            yield Deps(settings, clock, dbs, secrets, rails, http, metrics)
    finally:
        await dbs.close()
        await http.aclose()
