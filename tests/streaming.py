"""A client of status streams, and the API served to it as its process serves it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from tests.served import Served, earner
from tests.withdrawals import bring

from paymaster.api.app import build_api
from paymaster.compose import Deps
from paymaster.kernel.ids import parse_text_id
from paymaster.roles.serving import listen, serving

SECONDS = 20


@dataclass(frozen=True)
class Event:
    """An event as a browser gives it to a page; `last_id` is up to where it has read by then."""

    type: str
    data: Any
    last_id: str | None


@dataclass
class Reader:
    """Reads a stream as the WHATWG's text says."""

    answer: httpx.Response
    last_id: str | None = None
    comments: int = 0
    retry: int | None = None
    _lines: AsyncIterator[str] | None = None
    seen: list[Event] = field(default_factory=list[Event])

    async def next(self) -> Event:
        """The next event. Raises StopAsyncIteration when it has ended."""
        if self._lines is None:
            self._lines = self.answer.aiter_lines()
        kind, data = "message", list[str]()
        async with asyncio.timeout(SECONDS):
            async for line in self._lines:
                if not line:
                    if data:
                        found = Event(kind, json.loads("\n".join(data)), self.last_id)
                        self.seen.append(found)
                        return found
                    kind = "message"
                    continue
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                match name:
                    case "":
                        self.comments += 1
                    case "id":
                        self.last_id = value
                    case "event":
                        kind = value
                    case "data":
                        data.append(value)
                    case "retry":
                        self.retry = int(value)
        raise StopAsyncIteration

    async def until(self, kind: str) -> Event:
        """The next event of a type; those before it are in `seen`."""
        while True:
            found = await self.next()
            if found.type == kind:
                return found


@asynccontextmanager
async def process(deps: Deps) -> AsyncIterator[str]:
    """The API as a process of its own would serve it; its address."""
    app = build_api(deps)
    listening = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        async with serving(app, listening, 10):
            try:
                yield url
            finally:
                app.drain()
    finally:
        await app.close()


def with_streams(deps: Deps, **changed: float) -> Deps:
    """The same with other settings of streams."""
    streams = deps.settings.streams.model_copy(update=changed)
    return replace(deps, settings=deps.settings.model_copy(update={"streams": streams}))


@asynccontextmanager
async def reading(
    url: str,
    token: str,
    path: str = "/v1/me/stream",
    last_id: str | None = None,
    http: httpx.AsyncClient | None = None,
) -> AsyncIterator[Reader]:
    """An open stream, by a client of its own or by one that many share."""
    headers = {"Authorization": f"Bearer {token}"}
    if last_id is not None:
        headers["Last-Event-ID"] = last_id
    async with AsyncExitStack() as stack:
        if http is None:
            http = await stack.enter_async_context(caller())
        answer = await stack.enter_async_context(http.stream("GET", url + path, headers=headers))
        if answer.status_code != 200:
            await answer.aread()
        yield Reader(answer)


def caller() -> httpx.AsyncClient:
    """A client for any number of streams; reading the system's authorities takes 20 ms each."""
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(trust_env=False, timeout=SECONDS, verify=False, limits=limits)  # noqa: S501 - nothing is encrypted here


async def token_of(served: Served, name: str) -> str:
    """A token of an earner."""
    return str((await served.ok("POST", f"/v1/users/{name}/tokens"))["token"])


_numbers = iter(range(1, 1000))


async def new_earner(served: Served) -> tuple[str, str, str]:
    """Name, destination, token."""
    name = f"listener-{next(_numbers)}"
    place = await earner(served, name, "50.00")
    return name, place["id"], await token_of(served, name)


async def ask(served: Served, name: str, place: str, amount: str = "1.00") -> str:
    body = {"user": name, "destination": place, "amount": {"amount": amount, "currency": "EUR"}}
    made = await served.ok(
        "POST", "/v1/withdrawals", body, headers={"Idempotency-Key": f"s-{next(_numbers)}"}
    )
    return str(made["id"])


async def pay(served: Served, withdrawal: str, state: str = "paid") -> None:
    await bring(served.world, parse_text_id("wd", withdrawal).id, state)


def told(reader: Reader) -> list[tuple[str, str]]:
    return [
        (one.type, one.data["data"]["id"]) for one in reader.seen if one.type.startswith("withd")
    ]
