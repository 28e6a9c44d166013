"""`paymaster sandbox`: the providers as a program, until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.calling import NOBODY
from tests.contract.sandbox.alipay_client import open_customer
from tests.contract.sandbox.support import ROOT, eventually

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


DEAF = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
"""Starts a program as a script's shell does with `&`: told to ignore Ctrl-C."""


def start(data: Path, *more: str, by: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    command = [*by, sys.executable, "-m", "paymaster", "sandbox", "--data", str(data), *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )


def line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def ended(process: subprocess.Popen[bytes]) -> int:
    """Its exit code, with its pipes closed."""
    try:
        process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode


def listens(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1]))) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_it_serves_until_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path / "world", "--json", "--date", "2026-01-05", by=DEAF)
    told = json.loads(await asyncio.to_thread(line, process))
    async with httpx.AsyncClient(trust_env=False, verify=NOBODY) as http:
        page = await http.get(f"{told['http']}/")
        assert "Paymaster sandbox" in page.text
        assert "2026-01-05" in page.text
        customer = await open_customer(http, told["http"], told["alipay"])
        assert (await customer.transfer("R1")).body["status"] == "SUCCESS"
    process.send_signal(number)
    code = await asyncio.to_thread(ended, process)
    assert code == (0 if number != signal.SIGKILL else -number)
    await eventually(lambda: not listens(told["alipay"]))
    await eventually(lambda: not listens(told["http"]))


@pytest.mark.slow
async def test_without_json_it_is_for_people_and_it_comes_back_where_it_was(
    tmp_path: Path,
) -> None:
    urls = []
    for _ in range(2):
        process = start(tmp_path / "world")
        first = (await asyncio.to_thread(line, process)).decode().split()
        assert first[0] == "page"
        urls.append(first[1])
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(ended, process) == 0
    assert urls[0] == urls[1]


@pytest.mark.slow
async def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start(tmp_path / "world", f"--alipay-port={port}")
        out, said = await asyncio.to_thread(process.communicate, None, 60)
    assert (process.returncode, out) == (1, b"")
    assert said.decode().startswith("paymaster-sandbox: ")
