"""What an answer may do to us: nothing that outlives it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from tests.contract.http_server import Answering, Reply

from paymaster.messages.connect import JudgedTransport
from paymaster.messages.post import post
from paymaster.messages.targets import Targets, networks, resolve
from paymaster.rails.http import call, new_client


def _own() -> Targets:
    async def here(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    return Targets(networks(["127.0.0.0/8"]), here)


async def test_a_receiver_leaves_no_cookies_with_us() -> None:
    """Else one fills our memory, and speaks in what others under the same domain are sent."""
    cookies = {"Set-Cookie": "session=mine; Domain=hooks.example; Path=/"}
    answering = Answering(lambda _: Reply(200, headers=cookies))
    async with answering.running(), new_client(JudgedTransport(_own())) as client:
        port = answering.url.rpartition(":")[2]
        for name in ("one", "two", "one"):
            url = f"http://{name}.hooks.example:{port}/"
            assert (await post(client, url, {}, b"{}", 5)).delivered
        assert all("cookie" not in asked.headers for asked in answering.asked)
        assert not len(client.cookies.jar)


async def test_nor_does_a_provider() -> None:
    answering = Answering(lambda _: Reply(200, headers={"Set-Cookie": "session=mine"}))
    async with answering.running(), new_client() as client:
        for _ in range(2):
            await call(client, "POST", answering.url, headers={}, body=b"{}")
        assert all("cookie" not in asked.headers for asked in answering.asked)
        assert not len(client.cookies.jar)


@pytest.mark.parametrize("host", ["xn--a", "xn--"])
async def test_a_name_that_no_registry_knows_is_a_failure_like_others(host: str) -> None:
    async with new_client(JudgedTransport(_own())) as client:
        answer = await post(client, f"http://{host}:1/", {}, b"{}", 5)
    assert not answer.delivered


async def test_a_name_server_that_never_answers_holds_up_its_own_names_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    answered = threading.Event()
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))]

    def look_up(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        if host == "silent.example":
            answered.wait(30)
        return found

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    waiting = [asyncio.create_task(resolve("silent.example", 443)) for _ in range(100)]
    given_up = asyncio.create_task(resolve("silent.example", 443))
    try:
        await asyncio.sleep(0)
        given_up.cancel()
        async with asyncio.timeout(10):
            assert await resolve("other.example", 443) == ["127.0.0.1"]
            assert await asyncio.to_thread(lambda: "others work on") == "others work on"
    finally:
        answered.set()
    assert await asyncio.gather(*waiting) == [["127.0.0.1"]] * 100
    assert asked.count("silent.example") == 1
    await resolve("silent.example", 443)
    assert asked.count("silent.example") == 2
