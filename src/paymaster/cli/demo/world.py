"""The processes of the demo: the sandboxes and Paymaster itself, as children of this one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import IO

import httpx

from paymaster.cli.demo.state import State
from paymaster.compose import build
from paymaster.db.tx import Actor
from paymaster.installation import NewCell, add_environment, start_embedded, upgrade
from paymaster.kernel.clock import WallClock, monotonic_seconds
from paymaster.kernel.errors import Refusal
from paymaster.kernel.ids import new_trace_id
from paymaster.people import credentials
from paymaster.settings import load_settings

TENANT, MODE = "demo", "test"
SECOND_SERVER = "second"
START_SECONDS = 60.0
HEALTH_PORTS = 24


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens."""

    api: str
    hooks: str
    sandbox: str
    wechat: str
    alipay: str
    sftp_host: str
    sftp_port: int
    host_key: str
    client_key_file: Path
    api_key_file: Path
    webhook_secret_file: Path


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def free_block(size: int) -> int:
    """The first of `size` ports in a row that nobody uses now."""
    for _ in range(100):
        first = min(free_ports(1)[0], 65535 - size)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + size):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise Refusal("demo-start", f"No {size} free ports in a row were found.")


def is_free(port: int) -> bool:
    """Whether nobody listens there now."""
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def configure(data: Path, cells: int, hooks: int | None = None) -> int:
    """Settings of this process and its children, through the environment as for anybody.

    `hooks` is the port to which providers were told to call, taken again if it is free; the port
    that was taken.
    """
    api, other = free_ports(2)
    if hooks is None or not is_free(hooks):
        hooks = other
    health = free_block(HEALTH_PORTS)
    values = {
        "DATABASE__DATA_DIR": str(data),
        "API__PORT": str(api),
        "API__PUBLIC_URL": f"http://127.0.0.1:{api}",
        "HOOKS__PORT": str(hooks),
        "ROLES__HEALTH_BASE_PORT": str(health),
        "ROLES__POLL_INTERVAL_SECONDS": "0.1",
        "ROLES__FILE_POLL_INTERVAL_SECONDS": "1",
        "ROLES__LEASE_SECONDS": "10",
        "DATABASE__EMBEDDED_SERVERS": SECOND_SERVER if cells > 1 else "",
        "LIMITS__DESTINATION_COOLING_SECONDS": "0",
        # Its float is on a statement only after the payouts, by the end of the story.
        "FUNDING__MODE": "alert",
        "FUNDING__MODES": "{}",
        "LOG__LEVEL": os.environ.get("PAYMASTER__LOG__LEVEL", "warning"),
    }
    os.environ.update({f"PAYMASTER__{name}": value for name, value in values.items()})
    return hooks


async def prepare(state: State, cells: int, time_zone: str) -> None:
    """Environment, cells and two API keys: one for the app, one for the operator.

    Three cells stand on two servers: two schemas on the first beside the directory, one on the
    second.
    """
    settings, clock = load_settings(), WallClock()
    await asyncio.to_thread(start_embedded, settings)
    await asyncio.to_thread(upgrade, settings, clock)
    servers = ["main", "main", SECOND_SERVER] * cells
    places = [NewCell(server) for server in servers[:cells]]
    environment = await asyncio.to_thread(
        add_environment, settings, clock, TENANT, MODE, time_zone, places
    )
    if state.app_key and state.operator_key:
        return
    async with build(settings) as deps:
        for name, scopes in (
            ("app", ("users", "campaigns", "events:write", "withdrawals", "read")),
            ("operator", ("operate", "read")),
        ):
            issued = await deps.dbs.control.run(
                Actor("cli:demo"),
                new_trace_id(),
                lambda tx, name=name, scopes=scopes: credentials.issue(
                    tx, environment.id, name, scopes
                ),
            )
            if name == "app":
                state.app_key = issued.key
            else:
                state.operator_key = issued.key


@asynccontextmanager
async def running(data: Path, seed: int, first_day: date, copies: int) -> AsyncGenerator[Addresses]:
    """Sandboxes and Paymaster up; both stopped in order on leaving."""
    settings = load_settings()
    logs = data / "demo"
    logs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "paymaster_sandbox", "serve", "--data", str(data / "sandbox")]
    command += ["--seed", str(seed), "--date", first_day.isoformat(), "--exit-with-parent"]
    with (logs / "sandbox.log").open("ab") as sandbox_log, (logs / "up.log").open("ab") as up_log:
        sandbox = _child(command, stdout=subprocess.PIPE, stderr=sandbox_log)
        up: subprocess.Popen[bytes] | None = None
        try:
            told = await _first_line(sandbox)
            up = _child(
                [
                    sys.executable,
                    "-m",
                    "paymaster",
                    "up",
                    "--exit-with-parent",
                    f"--copies={copies}",
                ],
                stderr=up_log,
            )
            host, _, port = told["sftp"].rpartition(":")
            addresses = Addresses(
                f"http://127.0.0.1:{settings.api.port}",
                f"http://127.0.0.1:{settings.hooks.port}",
                told["http"],
                told["wechat"],
                told["alipay"],
                host,
                int(port),
                told["host_key"],
                Path(told["client_key_file"]),
                Path(told["api_key_file"]),
                Path(told["webhook_secret_file"]),
            )
            for base in (addresses.api, addresses.hooks):
                await _ready(base, up, logs / "up.log")
            yield addresses
        finally:
            for process in (up, sandbox):
                if process is not None:
                    await asyncio.to_thread(_stop, process)


def _child(
    command: list[str], *, stderr: IO[bytes], stdout: int | None = None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=stdout, stderr=stderr)  # noqa: S603 - ours


async def _first_line(process: subprocess.Popen[bytes]) -> dict[str, str]:
    if process.stdout is None:
        raise Refusal("demo-sandbox", "The sandboxes have no output.")
    line = await asyncio.to_thread(process.stdout.readline)
    try:
        return json.loads(line)
    except ValueError:
        raise Refusal("demo-sandbox", "The sandboxes did not start; see sandbox.log.") from None


async def _ready(base: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = monotonic_seconds() + START_SECONDS
    async with httpx.AsyncClient(trust_env=False) as http:
        while monotonic_seconds() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get(f"{base}/readyz")).is_success:
                    return
            await asyncio.sleep(0.1)
    raise Refusal("demo-start", f"Paymaster did not become ready; its log is {log}.")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
