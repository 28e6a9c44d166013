"""What commands have in common that work with an installation that is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from paymaster.compose import Deps, build
from paymaster.db.cells import Environment
from paymaster.db.servers import embedded
from paymaster.installation import start_embedded
from paymaster.kernel.errors import Refusal
from paymaster.settings import Settings, load_settings

T = TypeVar("T")


def existing() -> Settings:
    """The settings of an installation that is there; its embedded servers run.

    Raises Refusal `installation-missing`.
    """
    settings = load_settings()
    require(settings)
    start_embedded(settings)
    return settings


def require(settings: Settings) -> None:
    """A mistyped folder must not become an installation. Raises Refusal `installation-missing`."""
    missing = [name for name, server in embedded(settings).items() if not server.exists]
    if missing:
        raise Refusal(
            "installation-missing",
            f"There is no installation in {settings.database.data_dir}: name its folder with"
            " --data, or make one with `paymaster setup`.",
        )


@asynccontextmanager
async def open_deps() -> AsyncGenerator[Deps]:
    """An installation that is there, opened. Raises Refusal `installation-missing`."""
    settings = await asyncio.to_thread(existing)
    async with build(settings) as deps:
        yield deps


def opened(work: Callable[[Deps], Awaitable[T]]) -> T:
    """Do something with it. Raises what the work raises, and Refusal `installation-missing`."""

    async def inside() -> T:
        async with open_deps() as deps:
            return await work(deps)

    return asyncio.run(inside())


def environment_of(deps: Deps, tenant: str, mode: str) -> Environment:
    """The environment by its names. Raises Refusal `environment-unknown`."""
    for environment in deps.dbs.environments():
        if (environment.tenant, environment.mode) == (tenant, mode):
            return environment
    raise Refusal(
        "environment-unknown",
        f"There is no environment {tenant}/{mode}: name one of `paymaster environments list` with"
        " --tenant and --mode, or make it with `paymaster setup`.",
    )
