"""Around every request: trace id, limits of size, time and number, log line, metrics, headers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paymaster.api.context import HEADERS
from paymaster.api.gate import Gate
from paymaster.api.problems import problem_of
from paymaster.compose import Deps
from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import Busy, PaymasterError, Refusal
from paymaster.observe import context, log_ours, trace_id_of

_SAFE: list[tuple[bytes, bytes]] = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_HTTPS_ONLY = (b"strict-transport-security", b"max-age=31536000")

_SWEEP_SECONDS = 0.5
_STREAM = b"text/event-stream"
UNCOUNTED = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked by those who look after the process: never shed, never counted against an address."""


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
        gate: Gate,
        body_limit_bytes: int,
        closing: Callable[[], Awaitable[None]] | None = None,
        draining: Callable[[], None] | None = None,
    ) -> None:
        self._app = app
        self._deps = deps
        self._gate = gate
        self._limit = body_limit_bytes
        self._closing = closing
        self._draining = draining
        web = gate.settings
        self._handler_seconds = web.handler_timeout_seconds
        self._most = web.concurrent_requests
        https = web.tls_certificate is not None
        https = https or deps.settings.api.public_url.startswith("https:")
        self._headers = [*_SAFE, _HTTPS_ONLY] if https else _SAFE
        self._names = frozenset(name for name, _ in self._headers)
        self._counted_by: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._under_way = 0
        self._waiting: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._sweeping = False

    def drain(self) -> None:
        """End answers that would go on for long; called when the process is to stop."""
        if self._draining is not None:
            self._draining()

    async def close(self) -> None:
        """Finish what was begun; called when no more requests come."""
        if self._closing is not None:
            await self._closing()
        await self._gate.close()

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
        address = state["address"] = self._gate.find(scope, headers)
        status, answered, streams = 500, False, False
        task = asyncio.current_task()
        if task is not None:
            self._watch(task, started)

        async def answering(message: Message) -> None:
            nonlocal status, answered, streams
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
                if task is not None:
                    self._waiting.pop(task, None)
                streams = self._begun(message, state, trace_id)
            await send(message)

        self._under_way += 1
        with context(trace_id=trace_id):
            try:
                refused = self._refusal(scope, headers, address)
                if refused is not None:
                    await self._refuse(answering, refused, trace_id)
                else:
                    await self._app(scope, self._counted(receive), answering)
            except asyncio.CancelledError:
                if task is None or task not in self._late or answered:
                    raise
                task.uncancel()
                await self._refuse(answering, self._too_slow(), trace_id)
            except Exception:
                # The handlers of `problems` have logged it; once answered there is nothing to add.
                if not answered:
                    raise
            finally:
                self._under_way -= not streams
                if task is not None:
                    self._waiting.pop(task, None)
                    self._late.discard(task)
                if scope["path"] not in UNCOUNTED:
                    self._gate.answered(address, headers, state, status)
                seconds = monotonic_seconds() - started
                self._record(scope, state, status, seconds, observed=not streams)

    def _begun(self, message: Message, state: MutableMapping[str, Any], trace_id: str) -> bool:
        """Complete the headers; whether what follows is a stream, which is under way no more.

        It may last for hours, and is counted by limits of its own.
        """
        given = message["headers"]
        message["headers"] = [
            *given,
            *self._missing({name for name, _ in given}),
            *_rate(state),
            (b"trace-id", trace_id.encode()),
        ]
        streams = any(name == b"content-type" and _STREAM in value for name, value in given)
        self._under_way -= streams
        return streams

    def _refusal(
        self, scope: Scope, headers: dict[bytes, bytes], address: str
    ) -> PaymasterError | None:
        """What a request is refused for before anybody looks at it."""
        if scope["path"] in UNCOUNTED:
            return None
        if self._under_way > self._most:
            return Busy("overloaded", "Too many requests are under way; come again in a moment.")
        try:
            self._gate.check(address, headers)
        except PaymasterError as error:
            return error
        declared = headers.get(b"content-length", b"")
        if len(declared) > 9 or (declared.isdigit() and int(declared) > self._limit):
            return self._too_large()
        return None

    def _watch(self, task: asyncio.Task[Any], started: float) -> None:
        """A request whose answer does not begin in time is cancelled; looked at twice a second."""
        self._waiting[task] = started
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        before = monotonic_seconds() - self._handler_seconds
        for task, started in list(self._waiting.items()):
            if started < before:
                del self._waiting[task]
                self._late.add(task)
                task.cancel()
        self._sweeping = bool(self._waiting)
        if self._sweeping:
            asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def _missing(self, present: set[bytes]) -> list[tuple[bytes, bytes]]:
        if self._names.isdisjoint(present):
            return self._headers
        return [pair for pair in self._headers if pair[0] not in present]

    async def _refuse(self, send: Send, error: PaymasterError, trace_id: str) -> None:
        errors_url = self._deps.settings.api.errors_url
        made = problem_of(error, errors_url=errors_url, trace_id=trace_id)
        headers = [(name.lower().encode(), value.encode()) for name, value in made.headers.items()]
        headers.append((b"content-length", str(len(made.body)).encode()))
        await send({"type": "http.response.start", "status": made.status, "headers": headers})
        await send({"type": "http.response.body", "body": made.body})

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge("body-too-large", f"At most {self._limit} bytes are taken here.")

    def _too_slow(self) -> Busy:
        return Busy(
            "timeout",
            "This took too long and was given up; whether it took effect is not known. Send the "
            "same request again, with the same Idempotency-Key.",
            retry_after_seconds=2,
        )

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
        self,
        scope: Scope,
        state: MutableMapping[str, Any],
        status: int,
        seconds: float,
        *,
        observed: bool,
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
        if observed:
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


def _rate(state: MutableMapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """How much the caller may still ask, in the words of the RateLimit header fields draft."""
    told = state.get("rate_limit")
    if told is None:
        return []
    return [(b"ratelimit-policy", told[0]), (b"ratelimit", told[1])]


def _keep_slashes(scope: Scope) -> None:
    """An encoded slash belongs to a name, not to the way: it stands as `SLASH` until matched."""
    raw = scope.get("raw_path") or b""
    if b"%2f" in raw.lower():
        kept = raw.replace(b"%2F", b"%EE%80%80").replace(b"%2f", b"%EE%80%80")
        scope["path"] = unquote(kept.decode("ascii", "replace"))
