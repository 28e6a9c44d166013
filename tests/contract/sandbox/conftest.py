"""A world of its own for every test, and clients of it."""

from collections.abc import AsyncGenerator, Generator
from datetime import date
from pathlib import Path

import httpx
import pytest
from tests.contract.sandbox.support import Client, Process, Receiver, Sftp, set_up, sftp_session

from paymaster_sandbox import World, WorldConfig


@pytest.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    made = Receiver()
    await made.up()
    yield made
    if made.server is not None:
        await made.down()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    config = WorldConfig(data=tmp_path / "world", seed=7, date=date(2026, 1, 5), scan_seconds=60)
    async with World(config) as made:
        yield made


@pytest.fixture
async def client(world: World, receiver: Receiver) -> AsyncGenerator[Client]:
    """A client with a bank account of 10,000.00 and a wallet float of 1,000.00."""
    async with httpx.AsyncClient(base_url=world.http_url, trust_env=False) as http:
        made = Client(http, world.api_key)
        await set_up(made, receiver.url)
        yield made


@pytest.fixture
async def sftp(world: World) -> AsyncGenerator[Sftp]:
    async with sftp_session(world.sftp_address, world.host_key, world.client_key_path) as made:
        yield made


@pytest.fixture
def processes() -> Generator[list[Process]]:
    """Processes that the test started; killed by their own handle at the end."""
    started: list[Process] = []
    yield started
    for each in started:
        each.kill()
