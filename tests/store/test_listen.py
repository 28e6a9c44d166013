"""`paymaster listen`: a real process, a real API, a real receiver, the official library."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from standardwebhooks.webhooks import Webhook
from tests.messaging import Desk, Receiver, desk
from tests.served import add_environment
from tests.world import PostgresServer


@dataclass
class Listening:
    """The command as it runs, and its lines so far."""

    process: asyncio.subprocess.Process

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.line())
        return found


@asynccontextmanager
async def api(office: Desk) -> AsyncIterator[str]:
    """The API on loopback."""
    config = uvicorn.Config(office.served.app, port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - the library has no event
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await running


@asynccontextmanager
async def listening(url: str, key: str, *more: str) -> AsyncIterator[Listening]:
    environ = {**os.environ, "PAYMASTER_API_KEY": key, "PAYMASTER_API_URL": url, "NO_COLOR": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "paymaster", "listen", *more,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environ,
    )  # fmt: skip
    try:
        yield Listening(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def office(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(postgres, tmp_path) as made:
        yield made


async def until_asked(office: Desk, count: int = 1) -> None:
    """Until the command has its first cursor: what happens from then on is shown."""
    requests = office.served.deps.metrics.requests
    async with asyncio.timeout(30):
        while True:
            seen = sum(
                sample.value
                for metric in requests.collect()
                for sample in metric.samples
                if sample.name.endswith("_total")
                and sample.labels["route"] == "/v1/webhook-events/next"
            )
            if seen >= count:
                return
            await asyncio.sleep(0.02)


async def test_events_are_forwarded_signed(office: Desk) -> None:
    receiver = Receiver()
    key = await office.served.key(["read"])
    async with receiver.answering.running(), api(office) as url:
        more = ("--forward-to", receiver.url, "--events", "user.*", "--count", "2", "--json")
        async with listening(url, key, *more) as command:
            said = await command.json()
            await until_asked(office)
            await office.says(1, topic="day.closed")
            await office.says(2)
            shown = [await command.json(), await command.json()]
            assert await command.process.wait() == 0
    assert [one["type"] for one in shown] == ["user.active"] * 2
    assert [one["answer"]["status"] for one in shown] == [200, 200]
    assert receiver.ids == [one["id"] for one in shown]
    for asked in receiver.got:
        Webhook(said["secret"]).verify(asked.body, asked.headers)
        assert json.loads(asked.body)["type"] == "user.active"


async def test_a_line_each_and_a_receiver_that_is_not_there(office: Desk) -> None:
    key = await office.served.key(["read"])
    async with api(office) as url:
        more = ("--forward-to", "http://127.0.0.1:9/x", "--count", "1")
        async with listening(url, key, *more) as command:
            assert "signed with" in await command.line()
            assert (await command.line()).startswith("whsec_")
            await until_asked(office)
            await office.says(1)
            line = await command.line()
            assert "user.active" in line
            assert "ConnectError" in line


async def test_keys_of_live_environments_are_refused(office: Desk) -> None:
    live = await add_environment(office.served, mode="live")
    key = await office.served.key(["read"], environment_id=live)
    async with api(office) as url, listening(url, key) as command:
        _, said = await command.process.communicate()
    assert b"listen-live" in said
    assert command.process.returncode == 1


async def test_a_wrong_key_is_told(office: Desk) -> None:
    async with api(office) as url, listening(url, "pk_test_no") as command:
        _, said = await command.process.communicate()
    assert b"listen-refused: The API said 401" in said


async def test_an_api_that_cannot_be_reached_is_told(office: Desk) -> None:
    key = await office.served.key(["read"])
    async with listening("http://127.0.0.1:1", key) as command, asyncio.timeout(30):
        assert command.process.stderr is not None
        said = (await command.process.stderr.readline()).decode()
    assert "The API at http://127.0.0.1:1 cannot be used (ConnectError" in said


async def test_an_address_without_a_scheme_is_refused(office: Desk) -> None:
    key = await office.served.key(["read"])
    async with listening("http://127.0.0.1:1", key, "--forward-to", "localhost:1/x") as command:
        _, said = await command.process.communicate()
    assert b"listen-target" in said
