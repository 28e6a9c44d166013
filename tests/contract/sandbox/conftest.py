"""A world of its own for every test, and clients of it."""

import shutil
from collections.abc import AsyncGenerator, Generator
from datetime import UTC, date, datetime
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.calling import NOBODY
from tests.contract.sandbox.alipay_client import Customer, open_customer
from tests.contract.sandbox.support import Client, Process, Receiver, Sftp, set_up, sftp_session
from tests.contract.sandbox.wechat_support import Merchant

from paymaster_sandbox import World, WorldConfig
from paymaster_sandbox.alipay.certificates import Certificates
from paymaster_sandbox.chassis.clock import Clock, machine_microseconds, microseconds
from paymaster_sandbox.wechat.keys import Keys


@pytest.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    made = Receiver()
    await made.up()
    yield made
    if made.server is not None:
        await made.down()


@pytest.fixture(scope="session")
def alipay_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys that a world would make itself; making them anew for every test takes too long."""
    folder = tmp_path_factory.mktemp("alipay")
    made = Certificates(folder)
    assert made.root_sn
    assert made.certificate(1)
    return folder


@pytest.fixture
async def world(tmp_path: Path, alipay_keys: Path) -> AsyncGenerator[World]:
    shutil.copytree(alipay_keys, tmp_path / "world" / "alipay")
    config = WorldConfig(data=tmp_path / "world", seed=7, date=date(2026, 1, 5), scan_seconds=60)
    async with World(config) as made:
        # At any hour of the machine: in Beijing it is the same day, and bills are ready.
        made.move_clock(microseconds(datetime(2026, 1, 5, 8, tzinfo=UTC)), 0)
        yield made


@pytest.fixture
async def client(world: World, receiver: Receiver) -> AsyncGenerator[Client]:
    """A client with a bank account of 10,000.00 and a wallet float of 1,000.00."""
    async with httpx.AsyncClient(base_url=world.http_url, trust_env=False, verify=NOBODY) as http:
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


@pytest.fixture(scope="session")
def wechat_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[rsa.RSAPrivateKey, Path]:
    """A merchant's key, and a folder of provider's keys: made once, because making them is slow."""
    private = rsa.generate_private_key(65537, 2048)
    folder = tmp_path_factory.mktemp("wechat")
    keys = Keys(folder, Clock(machine_microseconds))
    assert keys.certificate(1).serial != keys.public_key(1).serial
    return private, folder


@pytest.fixture
async def merchant(
    world: World, receiver: Receiver, wechat_keys: tuple[rsa.RSAPrivateKey, Path]
) -> AsyncGenerator[Merchant]:
    """A merchant of WeChat Pay with 10,000.00 on its operating account."""
    private, folder = wechat_keys
    for path in folder.iterdir():
        shutil.copy(path, world.wechat.tls_ca_path.parent)
    async with (
        httpx.AsyncClient(base_url=world.wechat_url, trust_env=False, verify=NOBODY) as http,
        httpx.AsyncClient(base_url=world.http_url, trust_env=False, verify=NOBODY) as control,
    ):
        made = Merchant(http, control, private)
        await made.register(notify_url=receiver.url)
        yield made


@pytest.fixture
async def customer(world: World, client: Client, receiver: Receiver) -> Customer:
    """A customer of Alipay with 10,000.00; messages go to the receiver."""
    return await open_customer(
        client.http, world.http_url, world.alipay_url, gateway_url=receiver.url
    )
