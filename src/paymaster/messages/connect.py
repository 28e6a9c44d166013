"""HTTP to strangers: each connection goes to an address that was looked at a moment before.

The name is resolved here, the addresses are judged by `Targets`, and the socket is opened to one of
them; TLS is still asked of the name (SNI and certificate), and `Host` stays what the URL says. So a
name that answers differently the second time (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import httpcore
import httpx

from paymaster.kernel.errors import Refusal
from paymaster.kernel.guard import forbid_network
from paymaster.messages.targets import AddressRefused, Targets

_KEEPALIVE_SECONDS = 30.0
_MAX_IDLE = 100


class TargetRefused(httpcore.ConnectError):
    """The name leads into a network that must not be called; nothing was sent."""


class _Backend(httpcore.AsyncNetworkBackend):
    """Opens sockets to judged addresses only."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._inner = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """One address after the other. Raises TargetRefused or httpcore.ConnectError."""
        forbid_network()
        try:
            addresses = await self._targets.addresses(host, port)
        except AddressRefused as error:
            raise TargetRefused(str(error)) from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        last: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in addresses:
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last or httpcore.ConnectError("no address")

    async def sleep(self, seconds: float) -> None:
        """Part of the library's interface."""
        await self._inner.sleep(seconds)


class _Body(httpx.AsyncByteStream):
    """The answer's body as the client reads it."""

    def __init__(self, inner: AsyncIterable[bytes]) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        async for part in self._inner:
            yield part

    async def aclose(self) -> None:
        """Give the connection back, or close it when not all was read."""
        close = getattr(self._inner, "aclose", None)
        if close is not None:
            await close()


class JudgedTransport(httpx.AsyncBaseTransport):
    """A transport for `httpx.AsyncClient`; failures are those of httpcore."""

    def __init__(self, targets: Targets, context: ssl.SSLContext | None = None) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context or tls_context(),
            max_connections=None,
            max_keepalive_connections=_MAX_IDLE,
            keepalive_expiry=_KEEPALIVE_SECONDS,
            network_backend=_Backend(targets),
        )

    async def __aenter__(self) -> Self:
        await self._pool.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._pool.__aexit__(exc_type, exc_value, traceback)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it. Raises httpcore's errors, TargetRefused among them."""
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=cast("AsyncIterable[bytes]", request.stream),
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Body(cast("AsyncIterable[bytes]", answer.stream)),
            extensions=cast("dict[str, Any]", answer.extensions),  # pyright: ignore[reportUnknownMemberType]
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


def tls_context(authorities: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 or later; `authorities` is a file of further certificates to trust.

    Raises Refusal `certificate-unusable`.
    """
    context = httpx.create_ssl_context(trust_env=False)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authorities is not None:
        try:
            context.load_verify_locations(authorities)
        except (OSError, ssl.SSLError) as error:
            raise Refusal(
                "certificate-unusable", f"{authorities} cannot be used: {type(error).__name__}."
            ) from error
    return context
