"""The gateway configuration that is shipped, in a real nginx before a real api process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from tests.live import free_port
from tests.world import ACTOR, PostgresServer, World, make_world

from paymaster.db import lockouts
from paymaster.kernel.clock import WallClock
from paymaster.people import credentials
from paymaster.roles import certificates

SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "nginx" / "paymaster.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
FRAME = """
{user}
daemon off;
error_log {folder}/error.log;
pid {folder}/nginx.pid;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2;
    fastcgi_temp_path {folder}/t3; uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    include {folder}/paymaster.conf;
}}
"""
pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx: install the package `nginx-light`")


@asynccontextmanager
async def behind(postgres: PostgresServer, folder: Path) -> AsyncIterator[tuple[World, int]]:
    """An installation whose api stands behind the gateway; on which port that answers."""
    api, port = free_port(), free_port()
    certificates.make_ca(folder, WallClock().now())
    certificates.issue(folder, "api", WallClock().now(), hosts=["pay.example.com"])
    certificates.issue(folder, "hooks", WallClock().now(), hosts=["hooks.pay.example.com"])
    text = SHIPPED.read_text()
    for was, now in (
        ("listen 443 ", f"listen 127.0.0.1:{port} "),
        ("127.0.0.1:8080", f"127.0.0.1:{api}"),
        ("/etc/ssl/paymaster/", f"{folder}/"),
    ):
        assert was in text
        text = text.replace(was, now)
    (folder / "paymaster.conf").write_text(text)
    (folder / "nginx.conf").write_text(
        FRAME.format(folder=folder, user="user root;" if os.geteuid() == 0 else "")
    )
    async with make_world(postgres) as world:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PAYMASTER__")}
        environ = {
            **kept,
            "PAYMASTER__DATABASE__URL": postgres.app_dsn(world.database),
            "PAYMASTER__DATABASE__DATA_DIR": str(folder / "data"),
            "PAYMASTER__API__PORT": str(api),
            "PAYMASTER__API__TRUSTED_PROXIES": "127.0.0.1/32",
            "PAYMASTER__LOG__LEVEL": "warning",
        }
        started = start(folder, environ)
        try:
            await answers(folder, port)
            yield world, port
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(30)


def start(folder: Path, environ: dict[str, str]) -> list[subprocess.Popen[bytes]]:
    role = [sys.executable, "-m", "paymaster.roles", "api", "--health-port=1"]
    return [
        subprocess.Popen([*role, "--exit-with-parent"], env=environ),
        subprocess.Popen([str(NGINX), "-c", str(folder / "nginx.conf"), "-p", str(folder)]),
    ]


def client(folder: Path, port: int, **headers: str) -> httpx.AsyncClient:
    """A client that believes the name in the certificate."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.check_hostname = False
    headers = {"Host": "pay.example.com", **headers}
    return httpx.AsyncClient(
        trust_env=False, verify=context, base_url=f"https://127.0.0.1:{port}", headers=headers
    )


async def answers(folder: Path, port: int) -> None:
    async with client(folder, port) as http, asyncio.timeout(60):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get("/v1/users/nobody")).status_code == 401:
                    return
            await asyncio.sleep(0.05)


async def test_a_request_comes_through_and_nobody_chooses_an_address(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with behind(postgres, tmp_path) as (world, port):
        key = await world.dbs.control.run(
            ACTOR, "", lambda tx: credentials.issue(tx, 1, "test", ["users", "read"])
        )
        async with client(tmp_path, port, Authorization=f"Bearer {key.key}") as http:
            assert (await http.put("/v1/users/anna", json={})).status_code == 201
            too_large = await http.post("/v1/users/anna/destinations", content=b"x" * (2 << 20))
            assert too_large.json()["code"] == "body-too-large"
            for inner in ("/healthz", "/readyz", "/metrics"):
                assert (await http.get(inner)).status_code == 404

        wrong = {"Authorization": f"Bearer {key.view.prefix}_{'x' * 43}"}
        spoofed = {**wrong, "X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
        async with client(tmp_path, port, **spoofed) as guesser:
            statuses = [(await guesser.get("/v1/users/anna")).status_code for _ in range(12)]
        assert set(statuses) <= {401, 429}

        async def addresses() -> set[str]:
            rows = await world.dbs.control.read(lambda tx: lockouts.listing(tx, only_locked=False))
            return {row.address for row in rows if row.address}

        found: set[str] = set()
        for _ in range(400):
            found = found or await addresses()
            await asyncio.sleep(0 if found else 0.05)
        assert found == {"127.0.0.1"}


async def test_it_speaks_tls_1_3_and_nothing_older(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with behind(postgres, tmp_path) as (_, port):
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname="pay.example.com"
            )
