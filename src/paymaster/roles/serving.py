"""Serving HTTP: sockets, TLS, and the limits of connections."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import Refusal
from paymaster.kernel.tls import Identity, Reloaded, server_context
from paymaster.observe import get_logger
from paymaster.roles.connection import Allowance, Connection
from paymaster.settings import Settings, Web

log = get_logger("paymaster.web")

_SWEEP_SECONDS = 1.0
_RELOAD_SWEEPS = 5
_HANDSHAKE_SECONDS = 10.0
_BACKLOG = 2048


def listen(host: str, port: int, *, share: bool = False) -> socket.socket:
    """A bound socket. Raises Refusal `port-in-use`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise Refusal(
            "port-in-use",
            f"Nothing can listen on {host}:{port}: {error.strerror}. Ports are set by api.port,"
            " hooks.port and roles.health_base_port.",
        ) from error
    return listening


def allowance_of(web: Web, errors_url: str) -> Allowance:
    """What a connection may take, by the settings."""
    return Allowance(
        connections=web.connections,
        head_bytes=web.head_limit_bytes,
        header_items=web.header_items,
        address_characters=web.address_characters,
        idle_seconds=web.keep_alive_seconds,
        head_seconds=web.head_timeout_seconds,
        body_seconds=web.body_timeout_seconds,
        write_seconds=web.write_timeout_seconds,
        errors_url=errors_url,
    )


def health_identity(settings: Settings, role: str) -> tuple[Identity | None, Allowance]:
    """How the health port of a background role is served.

    Raises Refusal `certificate-unusable`.
    """
    if settings.peers.health == "open":
        return None, Allowance()
    identity = settings.peers.identity(role)
    if identity is None:
        raise Refusal("certificate-unusable", "peers.health = verified needs peers.ca.")
    return identity, Allowance(peers=frozenset(settings.peers.allowed))


class _Server(uvicorn.Server):
    """Leaves the signals to the process: a role drains its own way."""

    def __init__(self, config: uvicorn.Config, context: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._context = context

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; uvicorn's own way leaves a TLS handshake a minute."""
        loop = asyncio.get_running_loop()
        made = partial(
            self.config.http_protocol_class,
            config=self.config,
            server_state=self.server_state,
            app_state=dict[str, Any](),
        )
        patience = None if self._context is None else _HANDSHAKE_SECONDS
        self.servers = [
            await loop.create_server(
                made,
                sock=one,
                ssl=self._context,
                ssl_handshake_timeout=patience,
                backlog=_BACKLOG,
            )
            for one in sockets or ()
        ]
        self.started = True


@asynccontextmanager
async def serving(
    app: ASGIApp,
    listening: socket.socket,
    drain_seconds: int,
    *,
    allowance: Allowance | None = None,
    identity: Identity | None = None,
) -> AsyncGenerator[None]:
    """Serve while inside, https if there is an identity; on leaving, finish what is under way.

    Raises Refusal `certificate-unusable`.
    """
    context = None if identity is None else server_context(identity)
    config = uvicorn.Config(
        app,
        http=partial(Connection, allowance=allowance or Allowance()),  # type: ignore[arg-type]
        ws="none",
        interface="asgi3",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        # Uvicorn would believe what any local peer says of its address; `Gate` asks the settings.
        proxy_headers=False,
        timeout_graceful_shutdown=drain_seconds,
    )
    listening.listen(_BACKLOG)  # who calls from now on waits until the server has started
    server = _Server(config, context)
    reloaded = None if context is None or identity is None else Reloaded(context, identity)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    sweeping = asyncio.create_task(_sweep(server, reloaded))
    try:
        yield
    finally:
        server.should_exit = True
        await task
        sweeping.cancel()


async def _sweep(server: _Server, reloaded: Reloaded | None) -> None:
    """Once a second: connections that take too long, and certificates that have changed."""
    count = 0
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        now = monotonic_seconds()
        for connection in cast("list[Connection]", list(server.server_state.connections)):
            connection.sweep(now)
        count += 1
        if reloaded is not None and count % _RELOAD_SWEEPS == 0:
            try:
                if reloaded.look():
                    log.info("certificate_reloaded")
            except Refusal:
                log.exception("certificate_unusable")
