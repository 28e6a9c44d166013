"""Web processes: the API as `paymaster up` starts it, and the least that could stand there.

The reference is a bare Starlette route: it verifies the caller's key the way the API does, decodes
the body and answers a constant. No log line, no metrics, no limits, no withdrawal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paymaster.api.hot import Hot, Look
from paymaster.compose import build
from paymaster.kernel.errors import Broken
from paymaster.roles.process import Running, run_role, web_loop
from paymaster.settings import Settings

PATH = "/v1/withdrawals"
HOST = "127.0.0.1"
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Site:
    """Which of the two to serve, and where its log goes."""

    kind: Literal["api", "constant"]
    settings: Settings
    log: Path


class _Amount(msgspec.Struct):
    amount: str
    currency: str


class _Body(msgspec.Struct):
    user: str
    destination: str
    amount: _Amount


class _Told(msgspec.Struct):
    id: str
    user: str
    state: str
    amount: _Amount


def main(pipe: Connection[Any, Any], site: Site) -> None:
    """Serve until the pipe says `stop`."""
    log = os.open(site.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, sys.stderr.fileno())
    pipe.send("ready")
    Thread(target=_stop_when_told, args=(pipe,), daemon=True).start()
    if site.kind == "api":
        run_role(site.settings, Running("api", health_port=0))
    else:
        with asyncio.Runner(loop_factory=web_loop) as runner:
            runner.run(_serve_constant(site.settings))


def _stop_when_told(pipe: Connection[Any, Any]) -> None:
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()
    os.kill(os.getpid(), signal.SIGTERM)


@asynccontextmanager
async def _hot(settings: Settings) -> AsyncGenerator[Hot]:
    async with build(settings) as deps:
        hot = Hot(deps)
        yield hot
        await hot.close()


async def _serve_constant(settings: Settings) -> None:
    decoder = msgspec.json.Decoder(_Body)
    async with _hot(settings) as hot:

        async def answer(request: Request) -> Response:
            key = request.headers["authorization"].partition(" ")[2]
            await hot.look(Look(key))
            body = decoder.decode(await request.body())
            told = _Told("wd_0000000000000", body.user, "requested", body.amount)
            encoded = msgspec.json.encode(told)
            return Response(encoded, 202, media_type="application/json")

        app = Starlette(routes=[Route(PATH, answer, methods=["POST"])])
        config = uvicorn.Config(
            app,
            host=HOST,
            port=settings.api.port,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
        )
        await uvicorn.Server(config).serve()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def await_port(port: int) -> None:
    """Wait until somebody listens. Raises Broken `bench-server` when nobody does."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        try:
            with socket.create_connection((HOST, port), 1.0):
                return
        except OSError:
            time.sleep(0.05)
    raise Broken("bench-server", f"Nothing listens on port {port}: see the run's log.")
