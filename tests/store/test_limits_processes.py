"""One limit over two real api processes, and one lock; one of them serves https."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from tests.live import free_port
from tests.world import ACTOR, PostgresServer, World, make_world

from paymaster.api.guesses import OF_PREFIX_AND_ADDRESS
from paymaster.kernel.clock import WallClock
from paymaster.people import credentials
from paymaster.roles import certificates

LIMIT, PROCESSES = 300, 2
SLACK = 2 * LIMIT // 50
PATH = "/v1/users/nobody"


@asynccontextmanager
async def two(postgres: PostgresServer, folder: Path) -> AsyncIterator[tuple[World, list[str]]]:
    """An installation with two api processes; where they answer."""
    async with make_world(postgres) as world:
        ports = [free_port() for _ in range(PROCESSES)]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PAYMASTER__")}
        given = {
            "DATABASE__URL": postgres.app_dsn(world.database),
            "DATABASE__DATA_DIR": str(folder),
            "LIMITS__REQUESTS_PER_MINUTE": str(LIMIT),
            "LOG__LEVEL": "warning",
        }
        common = {**kept, **{f"PAYMASTER__{name}": value for name, value in given.items()}}
        secure = {
            "PAYMASTER__API__TLS_CERTIFICATE": str(folder / "api.pem"),
            "PAYMASTER__API__TLS_KEY": str(folder / "api-key.pem"),
        }
        certificates.make_ca(folder, WallClock().now())
        certificates.issue(folder, "api", WallClock().now(), hosts=["127.0.0.1"])
        started = [
            start({**common, **more, "PAYMASTER__API__PORT": str(port)})
            for port, more in zip(ports, ({}, secure), strict=True)
        ]
        addresses = [f"http://127.0.0.1:{ports[0]}", f"https://127.0.0.1:{ports[1]}"]
        try:
            for address, process in zip(addresses, started, strict=True):
                await answers(address, process, folder)
            yield world, addresses
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(30)


def start(environ: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "paymaster.roles", "api", "--health-port=1"]
    return subprocess.Popen([*command, "--exit-with-parent"], env=environ)


def client(folder: Path, **more: Any) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return httpx.AsyncClient(trust_env=False, verify=context, **more)


async def answers(address: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    async with client(folder) as http:
        while process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get(f"{address}/readyz")).is_success:
                    return
            await asyncio.sleep(0.05)
    raise AssertionError("the api ended")


async def test_two_processes_keep_one_limit_and_one_lock(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with two(postgres, tmp_path) as (world, addresses):

        async def issue(tx):
            return (await credentials.issue(tx, 1, "test", ["read", "users"])).key

        key = await world.dbs.control.run(ACTOR, "", issue)
        guessed = await world.dbs.control.run(ACTOR, "", issue)

        async def ask(address: str, with_key: str, times: int) -> Counter[int]:
            headers = {"Authorization": f"Bearer {with_key}"}
            async with client(tmp_path, headers=headers) as http:
                return Counter([(await http.get(address + PATH)).status_code for _ in range(times)])

        began = asyncio.get_running_loop().time()
        counted = sum(
            await asyncio.gather(*(ask(a, key, LIMIT // 4) for a in addresses for _ in range(6))),
            Counter[int](),
        )
        lasted = asyncio.get_running_loop().time() - began
        refilled = LIMIT / 60 * lasted
        assert set(counted) == {404, 429}
        assert LIMIT <= counted[404] <= LIMIT + PROCESSES * SLACK + refilled + 1

        wrong = "_".join(guessed.split("_")[:3]) + "_" + "x" * 43
        assert await ask(addresses[0], wrong, OF_PREFIX_AND_ADDRESS) == {401: OF_PREFIX_AND_ADDRESS}
        while (await ask(addresses[0], guessed, 1))[429] == 0:  # noqa: ASYNC110 - theirs
            await asyncio.sleep(0.05)
        while (await ask(addresses[1], guessed, 1))[429] == 0:  # noqa: ASYNC110 - theirs
            await asyncio.sleep(0.05)
