"""In front of the application: addresses that are answered without its framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paymaster.api.problems import response_to

Endpoint = Callable[[Request], Awaitable[Response | None]]
"""Answers a request, or gives it to the application behind by answering None."""

Address = tuple[str, str]
"""Method and path."""

Route = tuple[Callable[[Request], bool], Endpoint]
"""Whether a request may be read here, and who answers it."""


class HotRoutes:
    """ASGI middleware that knows few addresses: method and path, exactly."""

    def __init__(
        self,
        app: Starlette,
        routes: Mapping[Address, Route],
        errors_url: str,
    ) -> None:
        self._app: ASGIApp = app
        self._state: Any = app
        self._routes = routes
        self._errors_url = errors_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, here or behind."""
        found = None
        if scope["type"] == "http":
            found = self._routes.get((scope["method"], scope["path"]))
        if found is None:
            await self._app(scope, receive, send)
            return
        is_plain, endpoint = found
        scope["app"] = self._state
        request = Request(scope, receive)
        if not is_plain(request):
            await self._app(scope, receive, send)
            return
        try:
            response = await endpoint(request)
        except ClientDisconnect:
            response = Response(status_code=400)
        except Exception as error:  # noqa: BLE001 - every error is a problem; what is ours is logged
            response = response_to(request, error, self._errors_url)
        if response is None:
            await self._app(scope, _again(await request.body(), receive), send)
            return
        scope["route"] = SimpleNamespace(path=scope["path"])
        await response(scope, receive, send)


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, for the next reader."""
    sent = False

    async def receiving() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving
