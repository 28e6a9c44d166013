"""What one connection may take: headers, bodies and patience, with real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from paymaster.kernel.errors import Refusal
from paymaster.roles import answering
from paymaster.roles import serving as module
from paymaster.roles.connection import Allowance
from paymaster.roles.serving import listen, serving

REQUEST = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """One answer: status, headers, body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.splitlines()
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers, body

    async def is_closed(self) -> bool:
        return await self.reader.read(1) == b""


@dataclass
class Place:
    """A served application that answers with its path, and what became of its requests."""

    port: int
    seen: list[str]
    go_on: asyncio.Event

    @asynccontextmanager
    async def client(self, **more: Any) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **more)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()


def application(seen: list[str], go_on: asyncio.Event):
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        seen.append(scope["path"])
        if scope["path"] == "/wait":
            await go_on.wait()
        if scope["path"] == "/flood":
            flood = StreamingResponse(chunks())
            await flood(scope, receive, send)
            return
        try:
            body = await request.body()
        except ClientDisconnect:
            seen.append("gone")
            return
        await PlainTextResponse(scope["path"] + body.decode())(scope, receive, send)

    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536
            await asyncio.sleep(0)

    return app


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    monkeypatch.setattr(module, "_SWEEP_SECONDS", 0.02)

    @asynccontextmanager
    async def made(**given: Any) -> AsyncIterator[Place]:
        listening = listen("127.0.0.1", 0)
        seen: list[str] = []
        go_on = asyncio.Event()
        allowance = Allowance(**given)
        async with serving(application(seen, go_on), listening, 1, allowance=allowance):
            yield Place(listening.getsockname()[1], seen, go_on)

    return made


async def test_a_request_is_answered_and_names_no_server(served) -> None:
    async with served() as place, place.client() as client:
        await client.send(REQUEST % b"a")
        status, headers, body = await client.answer()
        assert (status, body) == (200, b"/a")
        assert "server" not in headers


async def test_slow_headers_are_given_up(served) -> None:
    async with served(head_seconds=0.1) as place, place.client() as client:
        await client.send(b"GET / HTTP/1.1\r\n", b"X-A: ")
        status, headers, body = await client.answer()
        assert (status, json.loads(body)["code"]) == (408, "request-timeout")
        assert headers["connection"] == "close"
        assert await client.is_closed()
        assert place.seen == []


async def test_headers_drop_by_drop_are_given_up(served) -> None:
    async def drip(client: Client) -> None:
        while True:
            await client.send(b"X-A: b\r\n")
            await asyncio.sleep(0.02)

    async with served(head_seconds=0.2) as place, place.client() as client:
        await client.send(b"GET / HTTP/1.1\r\n")
        dripping = asyncio.create_task(drip(client))
        assert (await client.answer())[0] == 408
        dripping.cancel()


async def test_a_slow_body_is_given_up_and_its_request_hears_of_it(served) -> None:
    async with served(body_seconds=0.1) as place, place.client() as client:
        await client.send(b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n", b"abc")
        status, _, body = await client.answer()
        assert (status, json.loads(body)["code"]) == (408, "request-timeout")
        assert await client.is_closed()
        await until(lambda: place.seen == ["/b", "gone"])


async def test_a_chunked_body_without_end_is_given_up(served) -> None:
    async with served(body_seconds=0.1) as place, place.client() as client:
        await client.send(b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(b"3\r\nabc\r\n")
        assert (await client.answer())[0] == 408


async def test_a_handler_that_takes_long_is_not_the_clients_fault(served) -> None:
    impatient = served(head_seconds=0.05, body_seconds=0.05, idle_seconds=0.05)
    async with impatient as place, place.client() as client:
        await client.send(REQUEST % b"wait")
        await until(lambda: place.seen == ["/wait"])
        await asyncio.sleep(0.3)
        place.go_on.set()
        assert (await client.answer())[0] == 200
        assert await client.is_closed()  # idle for longer than allowed


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET /" + b"a" * 8193 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", 400),
    ],
    ids=["huge header", "10,000 headers", "101 headers", "long address", "version", "TLS", "twice",
         "both lengths"],
)  # fmt: skip
async def test_what_is_too_much_is_refused_unread(served, request_: bytes, status: int) -> None:
    async with served() as place, place.client() as client:
        client.writer.write(request_)
        found, headers, body = await client.answer()
        assert (found, headers["content-type"]) == (status, "application/problem+json")
        assert json.loads(body)["code"] == "request-invalid"
        assert await client.is_closed()
        assert place.seen == []


async def test_a_header_without_end_is_cut_off(served) -> None:
    async with served() as place, place.client() as client:
        client.writer.write(b"GET / HTTP/1.1\r\nX-A: " + b"y" * 8_000_000)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.reader.readexactly(10_000)
        assert place.seen == []


async def test_headers_at_the_limit_pass(served) -> None:
    more = b"".join(b"X-%d: %b\r\n" % (n, b"y" * 300) for n in range(99))
    async with served() as place, place.client() as client:
        await client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n", more, b"\r\n")
        assert (await client.answer())[0] == 200


async def test_pipelined_requests_are_answered_in_order(served) -> None:
    async with served() as place, place.client() as client:
        await client.send(b"".join(REQUEST % b"%d" % n for n in range(300)))
        for number in range(300):
            assert (await client.answer())[2] == b"/%d" % number


async def test_one_of_a_pipeline_runs_at_a_time(served) -> None:
    async with served() as place, place.client() as client:
        await client.send(REQUEST % b"wait", REQUEST % b"b")
        await until(lambda: place.seen == ["/wait"])
        await asyncio.sleep(0.1)
        assert place.seen == ["/wait"]
        place.go_on.set()
        assert [(await client.answer())[2] for _ in range(2)] == [b"/wait", b"/b"]


async def test_a_client_that_does_not_read_is_hung_up_on(served) -> None:
    async with served(write_seconds=0.1) as place, place.client(limit=1024) as client:
        await client.send(REQUEST % b"flood")
        await until(lambda: "/flood" in place.seen)
        await asyncio.sleep(0.5)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.reader.readexactly(1 << 30)


async def test_one_connection_too_many_is_closed(served) -> None:
    async with served(connections=2) as place, place.client() as first, place.client() as second:
        for client in (first, second):
            await client.send(REQUEST % b"a")
            assert (await client.answer())[0] == 200
        async with place.client() as third:
            status, headers, body = await third.answer()
            assert (status, json.loads(body)["code"]) == (503, "overloaded")
            assert headers["retry-after"] == "1"
            assert await third.is_closed()
        await first.send(REQUEST % b"a")
        assert (await first.answer())[0] == 200


async def test_an_idle_connection_is_closed(served) -> None:
    async with served(idle_seconds=0.1) as place, place.client() as client:
        assert await client.is_closed()


def test_whose_port_is_taken_is_told_which_settings_move_it() -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(Refusal, match=r"port-in-use.*roles\.health_base_port"):
            listen("127.0.0.1", taken.getsockname()[1])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is looked at belongs to others
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: b", "a\nb", "a\0b"])
async def test_an_answer_cannot_be_split(value: str) -> None:
    assert answering._line(b"location", value.encode()) is None
    assert answering._line(b"bad name", b"a") is None
    assert answering._line(b"location", "ä\t".encode("latin-1")) == b"location: \xe4\t\r\n"


async def test_ready_lines_do_not_pile_up() -> None:
    for number in range(1000):
        answering._line(b"date", b"%d" % number)
    assert len(answering._lines) <= answering._MOST_LINES
