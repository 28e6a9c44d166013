"""A wire to a port of this machine that can be cut: what the network between two processes does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Wire:
    """Passes bytes on both ways. Cut: connections break off, new ones get no further."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._up = asyncio.Event()
        self._up.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int) -> AsyncGenerator[Wire]:
        """A wire to a port of 127.0.0.1."""
        wire = cls(port)
        wire._server = await asyncio.start_server(wire._serve, "127.0.0.1", 0)
        try:
            yield wire
        finally:
            wire.cut()
            wire._server.close()
            for task in wire._passing:
                task.cancel()
            await asyncio.gather(*wire._passing, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it begins."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Break off what passes, in the middle of whatever it is."""
        self._up.clear()
        for writer in set(self._open):
            writer.transport.abort()

    def mend(self) -> None:
        """New connections pass again."""
        self._up.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._up.is_set():
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, there_writer}
        self._open |= both
        ways = [
            asyncio.create_task(_pass(reader, there_writer)),
            asyncio.create_task(_pass(there_reader, writer)),
        ]
        self._passing.update(ways)
        await asyncio.wait(ways)
        self._passing.difference_update(ways)
        self._open -= both


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()
        await writer.wait_closed()
