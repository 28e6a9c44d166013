"""A connection that keeps time and measure: uvicorn's, with the limits that its parser has not.

uvicorn reads HTTP with httptools, which takes headers of any number and length, waits for them
without end and lets a client read its answer as slowly as it likes. What is slow is not timed by
the connection itself: once a second all are looked at (`sweep`), which costs a request next to
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.tls import names_in
from paymaster.observe import get_logger
from paymaster.roles.answering import Answering

log = get_logger("paymaster.web")


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one connection may take. `peers` are names of which a client must have proven one."""

    connections: int = 1000
    head_bytes: int = 32_768
    header_items: int = 100
    address_characters: int = 8192
    idle_seconds: float = 75.0
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    write_seconds: float = 60.0
    errors_url: str = "/docs/errors"
    peers: frozenset[str] | None = field(default=None)


class _Fault(Exception):
    """A request that is refused while it is read."""

    def __init__(self, status: int, slug: str, detail: str) -> None:
        super().__init__(slug)
        self.status, self.slug, self.detail = status, slug, detail


_TITLES = {
    400: "Bad Request",
    408: "Request Timeout",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
_PIECE_BYTES = 262_144  # most that uvloop reads at once
_IDLE, _HEAD, _BODY, _WHOLE = range(4)
"""What is read: nothing, headers, a body; or nothing, because the request is there as a whole."""


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        allowance: Allowance,
        seconds: Callable[[], float] = monotonic_seconds,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._allowance = allowance
        self._seconds = seconds
        self._reading = _IDLE
        self._since = seconds()
        self._head_bytes = 0
        self._piece_bytes = 0
        self._stalled_since: float | None = None
        self._fault: _Fault | None = None
        self._hung_up = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and ask its certificate for a name where one is demanded."""
        super().connection_made(transport)
        allowed = self._allowance.peers
        if allowed is not None:
            names = names_in(transport.get_extra_info("peercert"))
            if allowed.isdisjoint(names):
                log.warning("peer_refused", names=", ".join(sorted(names)) or "none")
                self._hung_up = True
                transport.close()
                return
        if len(self.connections) > self._allowance.connections:
            self._refuse(_Fault(503, "overloaded", "Too many connections are open."))

    def data_received(self, data: bytes) -> None:
        """Read on, within what may be taken."""
        if self._hung_up:
            return
        self._piece_bytes = len(data)
        super().data_received(data)
        if self._reading == _HEAD and not self._hung_up:
            # What this piece began is in the piece as a whole; a head of several pieces is summed.
            self._head_bytes += len(data)
            if self._head_bytes > self._allowance.head_bytes + _PIECE_BYTES:
                self._refuse(_too_long())

    def on_message_begin(self) -> None:
        """The first byte of a request is there."""
        super().on_message_begin()
        self._reading, self._since, self._head_bytes = _HEAD, self._seconds(), 0

    def on_headers_complete(self) -> None:
        """Refuse what is too long or too many, before anybody works on it."""
        allowance = self._allowance
        if len(self.url) > allowance.address_characters:
            self._fault = _Fault(414, "request-invalid", "The address is too long.")
        elif len(self.headers) > allowance.header_items:
            self._fault = _Fault(431, "request-invalid", "There are too many headers.")
        elif (
            # Most heads come in one piece that is short enough: they need no sum.
            self._head_bytes + self._piece_bytes > allowance.head_bytes
            and self._length_of_head() > allowance.head_bytes
        ):
            self._fault = _too_long()
        if self._fault is not None:
            raise self._fault
        self._reading = _BODY
        self._begin()

    def _begin(self) -> None:
        """Hand the request to the application, or to the queue behind the one it is busy with."""
        parser, scope = cast("Any", self.parser), self.scope
        before, app = cast("Answering | None", self.cycle), cast("Any", self.app)
        version = parser.get_http_version()
        parsed = httptools.parse_url(self.url)
        raw_path: bytes = parsed.path
        path = raw_path.decode("ascii")
        scope["method"] = parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = raw_path
        scope["query_string"] = parsed.query or b""
        self.cycle = Answering(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, app))

    def on_message_complete(self) -> None:
        """The request is there as a whole."""
        self._reading = _WHOLE
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with what waits; what keeps a connection open is timed by `sweep`."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._reading == _WHOLE:
            self._reading, self._since = _IDLE, self._seconds()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words for it
        """Refuse what cannot be read."""
        self._refuse(self._fault or _Fault(400, "request-invalid", "This is not HTTP."))

    def pause_writing(self) -> None:
        """The client does not read what was answered."""
        self._stalled_since = self._seconds()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        self._stalled_since = None
        super().resume_writing()

    def sweep(self, now: float) -> None:
        """End what takes too long; called for every connection once a second."""
        allowance = self._allowance
        if self._hung_up:
            if now - self._since > allowance.head_seconds:
                self.transport.abort()
        elif self._stalled_since is not None:
            if now - self._stalled_since > allowance.write_seconds:
                log.info("client_does_not_read")
                self.transport.abort()
        elif self._reading == _IDLE:
            if now - self._since > allowance.idle_seconds:
                self.transport.close()
        elif self.flow.read_paused:
            self._since = now  # it is us who do not read
        elif self._reading == _HEAD and now - self._since > allowance.head_seconds:
            self._refuse(_Fault(408, "request-timeout", "The headers did not arrive in time."))
        elif self._reading == _BODY and now - self._since > allowance.body_seconds:
            self._refuse(_Fault(408, "request-timeout", "The body did not arrive in time."))

    def _length_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse(self, fault: _Fault) -> None:
        """Answer as well as can be and hang up."""
        self._hung_up, self._since = True, self._seconds()
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.abort()
                return
        elif cycle is not None and self._reading == _BODY:
            self.transport.close()  # it was answered before it was there as a whole
            return
        self.transport.write(_problem(fault, self._allowance.errors_url))
        self.transport.close()


def _too_long() -> _Fault:
    return _Fault(431, "request-invalid", "The headers are too large.")


def _problem(fault: _Fault, errors_url: str) -> bytes:
    title = _TITLES[fault.status]
    body = msgspec.json.encode(
        {
            "type": f"{errors_url}#{fault.slug}",
            "title": title,
            "status": fault.status,
            "detail": fault.detail,
            "code": fault.slug,
            "retryable": fault.status in (408, 503),
        }
    )
    retry = b"retry-after: 1\r\n" if fault.status == 503 else b""
    return b"".join(
        [
            f"HTTP/1.1 {fault.status} {title}\r\n".encode(),
            b"content-type: application/problem+json\r\ncache-control: no-store\r\n",
            b"x-content-type-options: nosniff\r\nconnection: close\r\n",
            retry,
            f"content-length: {len(body)}\r\n\r\n".encode(),
            body,
        ]
    )
