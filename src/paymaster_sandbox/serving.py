"""HTTP servers inside somebody else's process, on loopback, plain or with client certificates."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import uvicorn

from paymaster_sandbox.http import CuttableProtocol

if TYPE_CHECKING:
    from starlette.applications import Starlette

Secure = Callable[[], ssl.SSLContext]


class HttpServer:
    """One application at one address."""

    def __init__(self, name: str, app: Starlette, secure: Secure | None = None) -> None:
        self.name = name
        self.url = ""
        self.task: asyncio.Task[None] | None = None
        self._app = app
        self._secure = secure
        self._server: _QuietServer | None = None

    async def listen(self, port: int) -> int:
        """Serve at the port, or at any free one if it is 0; the port. Raises OSError if taken."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
        config = uvicorn.Config(
            self._app, http=CuttableProtocol, ws="none", lifespan="off", log_config=None,
            access_log=False, timeout_graceful_shutdown=2, timeout_keep_alive=65,
        )  # fmt: skip
        config.load()
        if self._secure is not None:
            config.ssl = self._secure()
        self._server = _QuietServer(config)
        self.task = asyncio.create_task(
            self._server.serve(sockets=[listener]), name=f"sandbox-{self.name}"
        )
        while not self._server.started:
            await asyncio.sleep(0.01)
            if self.task.done():
                self.task.result()
        got = int(listener.getsockname()[1])
        self.url = f"http{'s' if self._secure else ''}://127.0.0.1:{got}"
        return got

    def stop(self) -> None:
        """Ask the server to end; its task then does."""
        if self._server is not None:
            self._server.should_exit = True


class _QuietServer(uvicorn.Server):
    """uvicorn inside somebody else's process: signals are not its business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Leave the process's signal handlers alone."""
        yield
