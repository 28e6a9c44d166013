"""A real HTTP server on loopback that answers what a test tells it to, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What to send back. With `cut_after` only so many bytes leave before the connection drops."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    wait_seconds: float = 0

    @classmethod
    def json(cls, status: int, found: object, **headers: str) -> Reply:
        """An answer in JSON."""
        return cls(status, json.dumps(found).encode(), dict(headers))


class Answering:
    """The server: `answer` decides, `asked` remembers."""

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.url = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                    method, path, _ = head[0].split(" ", 2)
                    headers = {
                        name.strip().lower(): value.strip()
                        for name, _, value in (line.partition(":") for line in head[1:] if line)
                    }
                    body = await reader.readexactly(int(headers.get("content-length", "0")))
                    asked = Asked(method, path, headers, body)
                    self.asked.append(asked)
                    reply = self.answer(asked)
                    await asyncio.sleep(reply.wait_seconds)
                    lines = [f"HTTP/1.1 {reply.status} X", f"Content-Length: {len(reply.body)}"]
                    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
                    raw = "\r\n".join([*lines, "", ""]).encode() + reply.body
                    writer.write(raw if reply.cut_after is None else raw[: reply.cut_after])
                    await writer.drain()
                    if reply.cut_after is not None:
                        break
        finally:
            writer.close()

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Answering]:
        """Serve until the block ends."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            await server.wait_closed()
