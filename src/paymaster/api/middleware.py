"""Around every request: trace id, size limit, one log line, metrics, security headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paymaster.api.context import HEADERS
from paymaster.api.problems import problem_of
from paymaster.compose import Deps
from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import Refusal
from paymaster.observe import context, log_ours, trace_id_of

_HEADERS: list[tuple[bytes, bytes]] = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


_NAMES = frozenset(name for name, _ in _HEADERS)


def _missing(present: set[bytes]) -> list[tuple[bytes, bytes]]:
    if _NAMES.isdisjoint(present):
        return _HEADERS
    return [pair for pair in _HEADERS if pair[0] not in present]


class BodyTooLarge(Refusal):
    """The body is larger than this address takes."""

    status = 413
    title = "Body too large"


class Outermost:
    """ASGI middleware; the outermost one, so that it sees what every other one answers."""

    def __init__(
        self,
        app: ASGIApp,
        deps: Deps,
        body_limit_bytes: int,
        rate_policy: str | None = None,
        closing: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._app = app
        self._deps = deps
        self._limit = body_limit_bytes
        self._rate_policy = None if rate_policy is None else rate_policy.encode()
        self._closing = closing
        self._counted_by: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    async def close(self) -> None:
        """Finish what was begun; called when no more requests come."""
        if self._closing is not None:
            await self._closing()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = monotonic_seconds()
        # Names are in lower case by the ASGI standard.
        headers = scope[HEADERS] = dict(scope["headers"])
        trace_id = trace_id_of(headers.get(b"traceparent", b"").decode("latin-1") or None)
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["trace_id"] = trace_id
        _keep_slashes(scope)
        status, answered = 500, False

        async def answering(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
                given = message["headers"]
                message["headers"] = [
                    *given,
                    *_missing({name for name, _ in given}),
                    *self._rate(state),
                    (b"trace-id", trace_id.encode()),
                ]
            await send(message)

        with context(trace_id=trace_id):
            try:
                declared = int(headers.get(b"content-length", b"0") or b"0")
            except ValueError:
                declared = 0
            try:
                if declared > self._limit:
                    await self._refuse(answering, self._too_large(), trace_id)
                else:
                    await self._app(scope, self._counted(receive), answering)
            except Exception:
                # The handlers of `problems` have logged it; once answered there is nothing to add.
                if not answered:
                    raise
            finally:
                self._record(scope, state, status, monotonic_seconds() - started)

    def _rate(self, state: MutableMapping[str, Any]) -> list[tuple[bytes, bytes]]:
        """How much the key may still ask, in the words of the RateLimit header fields draft."""
        left = state.get("rate_limit")
        if left is None or self._rate_policy is None:
            return []
        return [
            (b"ratelimit-policy", self._rate_policy),
            (b"ratelimit", str(left).encode()),
        ]

    async def _refuse(self, send: Send, error: Refusal, trace_id: str) -> None:
        errors_url = self._deps.settings.api.errors_url
        made = problem_of(error, errors_url=errors_url, trace_id=trace_id)
        headers = [(name.lower().encode(), value.encode()) for name, value in made.headers.items()]
        await send({"type": "http.response.start", "status": made.status, "headers": headers})
        await send({"type": "http.response.body", "body": made.body})

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge("body-too-large", f"At most {self._limit} bytes are taken here.")

    def _counted(self, receive: Receive) -> Callable[[], Awaitable[Message]]:
        seen = 0

        async def counting() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._limit:
                    raise self._too_large()
            return message

        return counting

    def _record(
        self, scope: Scope, state: MutableMapping[str, Any], status: int, seconds: float
    ) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = str(scope["method"])
        counted = self._counted_by.get((method, route, status))
        if counted is None:
            metrics = self._deps.metrics
            counted = self._counted_by[method, route, status] = (
                metrics.requests.labels(method, route, str(status)),
                metrics.request_duration_seconds.labels(method, route),
            )
        counted[0].inc()
        counted[1].observe(seconds)
        log_ours(
            "paymaster.api",
            "request",
            {
                "method": method,
                "route": route,
                "status": status,
                "actor": state.get("actor"),
                "duration_seconds": round(seconds, 6),
                "trace_id": state["trace_id"],
            },
        )


def _keep_slashes(scope: Scope) -> None:
    """An encoded slash belongs to a name, not to the way: it stands as `SLASH` until matched."""
    raw = scope.get("raw_path") or b""
    if b"%2f" in raw.lower():
        kept = raw.replace(b"%2F", b"%EE%80%80").replace(b"%2f", b"%EE%80%80")
        scope["path"] = unquote(kept.decode("ascii", "replace"))
