"""The health port of a real background role that asks its callers for certificates."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.live import free_port
from tests.world import PostgresServer, make_world

from paymaster.kernel.clock import WallClock
from paymaster.kernel.tls import Identity, client_context
from paymaster.roles import certificates


def context(folder: Path, name: str) -> ssl.SSLContext:
    return client_context(
        Identity(folder / f"{name}.pem", folder / f"{name}-key.pem", folder / "ca.pem")
    )


async def test_only_who_is_on_the_list_sees_a_roles_metrics(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    certificates.make_ca(tmp_path, WallClock().now())
    for name in ("relay", "metrics", "dispatch"):
        certificates.issue(tmp_path, name, WallClock().now(), hosts=["127.0.0.1"])
    port = free_port()
    async with make_world(postgres) as world:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PAYMASTER__")}
        given = {
            "DATABASE__URL": postgres.app_dsn(world.database),
            "DATABASE__DATA_DIR": str(tmp_path / "data"),
            "LOG__LEVEL": "warning",
            "PEERS__CA": str(tmp_path / "ca.pem"),
            "PEERS__CERTIFICATE": str(tmp_path / "{role}.pem"),
            "PEERS__KEY": str(tmp_path / "{role}-key.pem"),
            "PEERS__HEALTH": "verified",
        }
        process = start({**kept, **{f"PAYMASTER__{n}": value for n, value in given.items()}}, port)
        try:
            url = f"https://127.0.0.1:{port}/metrics"
            answer = await answered(url, context(tmp_path, "metrics"), process)
            assert "paymaster_lockouts_total" in answer.text
            nobody = ssl.create_default_context(cafile=tmp_path / "ca.pem")
            for other in (nobody, context(tmp_path, "dispatch")):
                async with httpx.AsyncClient(trust_env=False, verify=other) as http:
                    with pytest.raises(httpx.TransportError):
                        await http.get(url)
            async with httpx.AsyncClient(trust_env=False) as http:
                with pytest.raises(httpx.TransportError):
                    await http.get(url.replace("https", "http"))
        finally:
            process.terminate()
            process.wait(30)


def start(environ: dict[str, str], port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "paymaster.roles", "relay", f"--health-port={port}"]
    return subprocess.Popen([*command, "--exit-with-parent"], env=environ)


async def answered(
    url: str, verify: ssl.SSLContext, process: subprocess.Popen[bytes]
) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, verify=verify) as http:
        while process.poll() is None:
            try:
                return await http.get(url)
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
    raise AssertionError("the role ended")
