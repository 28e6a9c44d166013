"""The books outlive the process: killed at any point, it continues and nothing happens twice."""

import ast
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import date
from pathlib import Path

import httpx
import pytest
from tests.contract.sandbox.support import (
    OURS,
    ROOT,
    Pay,
    Process,
    Receiver,
    eventually,
    iban,
    pain001,
    set_up,
    sftp_session,
    start,
    texts,
    wallet,
)

from paymaster_sandbox import World, WorldConfig
from paymaster_sandbox.bank.folders import Folders
from paymaster_sandbox.chassis.store import DirectoryBusyError

ADA = wallet(1)


async def test_killed_and_restarted_it_continues(
    tmp_path: Path, receiver: Receiver, processes: list[Process]
) -> None:
    first = await start(tmp_path, "--seed", "3", "--date", "2026-01-05")
    processes.append(first)
    client = first.client()
    await set_up(client, receiver.url)
    await receiver.down()
    for number in range(20):
        assert (await client.pay(f"k{number}", f"R{number}", ADA)).status_code == 201
    before = await client.settled()
    await client.http.aclose()
    first.kill()
    await receiver.up()
    second = await start(tmp_path, "--seed", "99")
    processes.append(second)
    for kept in ("host_key", "client_key_file", "api_key_file"):
        assert second.ready[kept] == first.ready[kept]
    client = second.client()
    after = await client.books()
    for same in ("paid_minor", "references", "wallet", "bank"):
        assert after[same] == before[same]
    assert after["proven"]
    now = (await client.http.get("/_control/clock")).json()
    assert now["business_date"] in ("2026-01-05", "2026-01-06")
    await client.control("clock", advance_seconds=60)
    await eventually(lambda: len(_references(receiver)) == 20)
    secret = _text(second.ready["webhook_secret_file"])
    assert all(heard.genuine(secret) for heard in receiver.heard)
    assert (await client.pay("k0", "R0", ADA)).status_code == 200
    await client.http.aclose()


async def test_killed_in_the_middle_of_payouts(
    tmp_path: Path, receiver: Receiver, processes: list[Process]
) -> None:
    first = await start(tmp_path)
    processes.append(first)
    client = first.client()
    await set_up(client, receiver.url)

    async def pay(number: int) -> bool:
        try:
            answer = await client.pay(f"k{number}", f"R{number}", ADA, amount="0.01")
        except httpx.TransportError:
            return False
        return answer.status_code == 201

    async def kill() -> list[bool]:
        await eventually(lambda: len(receiver.heard) >= 3)
        first.kill()
        return []

    killed, *answers = await asyncio.gather(kill(), *(_spaced(pay, n) for n in range(90)))
    assert killed == []
    assert not all(answers)
    await client.http.aclose()
    second = await start(tmp_path)
    processes.append(second)
    client = second.client()
    books = await client.settled()
    confirmed = {f"R{number}" for number, done in enumerate(answers) if done}
    assert confirmed <= books["references"].keys()
    assert books["duplicates"] == []
    for number in range(90):
        assert (await client.pay(f"k{number}", f"R{number}", ADA, "0.01")).status_code in (200, 201)
    books = await client.settled()
    assert len(books["references"]) == 90
    assert books["duplicates"] == []
    assert books["proven"]
    await client.http.aclose()


async def test_a_file_dropped_before_the_start_is_executed_once(
    tmp_path: Path, processes: list[Process], receiver: Receiver
) -> None:
    first = await start(tmp_path, "--date", "2026-01-05")
    processes.append(first)
    client = first.client()
    await set_up(client, receiver.url)
    await client.http.aclose()
    first.kill()
    body = pain001("M1", [Pay("E1", iban(100), "10.00")])
    (tmp_path / "sftp" / "in" / "drop.xml").write_bytes(body)
    (tmp_path / "sftp" / "in" / ".unfinished.part").write_bytes(body)
    second = await start(tmp_path)
    processes.append(second)
    ready = second.ready
    async with sftp_session(
        ready["sftp"], ready["host_key"], Path(ready["client_key_file"])
    ) as sftp:
        assert texts(await sftp.answer("drop"), "GrpSts") == ["ACCP"]
    client = second.client()
    assert (await client.books())["references"] == {"E1": 1}
    await client.http.aclose()


class Crash(BaseException):
    """Stands for the process dying at this point."""


@pytest.mark.parametrize("where", ["claim", "finish", "write_ready"])
async def test_a_crash_between_the_steps_pays_once_and_answers_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    config = WorldConfig(data=tmp_path, http_port=None, sftp_port=None, date=date(2026, 1, 5))
    body = pain001("M1", [Pay("E1", iban(100), "10.00")])
    world = World(config)
    with world.chassis.tx() as tx:
        world.bank.open_account(tx, OURS, "EUR", 100_000, "Client")
    (tmp_path / "sftp" / "in" / "file.xml").write_bytes(body)
    with monkeypatch.context() as patch:
        real = getattr(Folders, where)

        def dies(folders: Folders, *given: object) -> None:
            if where == "claim":
                real(folders, *given)
            raise Crash

        patch.setattr(Folders, where, dies)
        with pytest.raises(Crash):
            await _work(world)
    with world.chassis.tx() as tx:
        stored = tx.all("SELECT name, body FROM bank_out")
    world.chassis.store.close()
    async with World(config) as again:
        out = tmp_path / "sftp" / "out"
        await eventually(lambda: list(out.glob("pain002_file_*.xml")))
        await again.drain_uploads()
        answers = list(out.glob("pain002_*.xml"))
        assert len(answers) == 1
        assert not stored or stored == [(answers[0].name, answers[0].read_bytes())]
        books = again.books()
        assert books["references"] == {"E1": 1}
        assert books["bank"][OURS]["balance_minor"] == 99_000
        assert not list((tmp_path / "claimed").iterdir())


async def test_it_comes_back_where_it_was_unless_the_port_is_taken(tmp_path: Path) -> None:
    async with World(WorldConfig(data=tmp_path)) as world:
        before = (world.http_url, world.sftp_address)
    async with World(WorldConfig(data=tmp_path)) as world:
        assert (world.http_url, world.sftp_address) == before
    with socket.create_server(("127.0.0.1", int(before[0].rpartition(":")[2]))):
        async with World(WorldConfig(data=tmp_path)) as world:
            assert world.http_url != before[0]
            assert world.sftp_address == before[1]


async def test_one_directory_one_process(tmp_path: Path, processes: list[Process]) -> None:
    processes.append(await start(tmp_path))
    with pytest.raises(DirectoryBusyError):
        World(WorldConfig(data=tmp_path))


async def test_sigterm_ends_it_well(tmp_path: Path, processes: list[Process]) -> None:
    started = await start(tmp_path)
    processes.append(started)
    started.process.terminate()
    assert await asyncio.to_thread(started.process.wait, 10) == 0


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    parent = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'paymaster_sandbox', 'serve',"
        " '--exit-with-parent', '--data', sys.argv[1]], stdout=subprocess.PIPE)\n"
        "print(child.stdout.readline().decode().strip(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["http"]
        with pytest.raises(DirectoryBusyError):
            World(WorldConfig(data=tmp_path))
        process.kill()
    end = time.monotonic() + 10
    while not _free(tmp_path):
        assert time.monotonic() < end, "the sandbox outlives its parent"
        time.sleep(0.05)


async def test_the_same_seed_draws_the_same_ids(tmp_path: Path) -> None:
    drawn: list[list[str]] = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        world = World(WorldConfig(data=tmp_path / name, seed=seed))
        with world.chassis.tx() as tx:
            drawn.append([world.chassis.seed.id(tx, "po_") for _ in range(3)])
        world.chassis.store.close()
    assert drawn[0] == drawn[1] != drawn[2]


async def test_a_dead_loop_is_not_silent(tmp_path: Path) -> None:
    world = World(WorldConfig(data=tmp_path, http_port=None, sftp_port=None))
    with pytest.raises(KeyError, match="unknown"):
        await _break(world)


def test_keys_are_for_the_owner_only(tmp_path: Path) -> None:
    world = World(WorldConfig(data=tmp_path))
    world.chassis.store.close()
    for name in ("api_key", "webhook_secret", "client_key", "host_key"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert world.api_key not in repr(world._keys)


def test_the_sandbox_imports_nothing_of_paymaster() -> None:
    files = sorted((ROOT / "src" / "paymaster_sandbox").rglob("*.py"))
    assert len(files) > 20
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: relative import"
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] != "paymaster", f"{file} imports {name}"


async def _work(world: World) -> None:
    """What the loops of a running world do once."""
    await world.drain_uploads()
    world._after_jump()


async def _break(world: World) -> None:
    async with world:
        with world.chassis.tx() as tx:
            tx.run("INSERT INTO job (kind, subject, due) VALUES ('unknown', '', 0)")
        world._schedule.wake()
        await asyncio.wait_for(world.broken(), 5)


def _free(data: Path) -> bool:
    try:
        world = World(WorldConfig(data=data))
    except DirectoryBusyError:
        return False
    world.chassis.store.close()
    return True


def _text(path: str) -> str:
    return Path(path).read_text()


def _references(receiver: Receiver) -> set[str]:
    return {heard.event["data"]["reference"] for heard in receiver.heard}


async def _spaced(pay: Callable[[int], Awaitable[bool]], number: int) -> bool:
    await asyncio.sleep(number / 100)
    return await pay(number)
