"""Small things that both HTTP faces share: JSON in and out, errors, and cutting a connection."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import httpx
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from paymaster_sandbox.wallet.wire import ApiError

Shape = TypeVar("Shape")
Endpoint = Callable[[Request], Awaitable[Response]]

_MAX_BODY = 256 * 1024
_CUT = "paymaster_sandbox.cut"
_CERTIFICATE = "paymaster_sandbox.certificate"


class CuttableProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a way for the application to hang up without a byte.

    It also says which certificate the client showed, if the connection is a TLS one.
    """

    def on_message_begin(self) -> None:
        """Put the way to hang up, and the certificate, into the request's scope."""
        super().on_message_begin()
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"] = {_CUT: self.transport.abort}
        secure = self.transport.get_extra_info("ssl_object")
        if secure is not None:
            scope["extensions"][_CERTIFICATE] = secure.getpeercert(binary_form=True)


def client_certificate(request: Request) -> bytes | None:
    """The certificate that the client showed, in DER; None without TLS."""
    return request.scope.get("extensions", {}).get(_CERTIFICATE)


async def cut(request: Request) -> Response:
    """Hang up on the client without an answer.

    Raises:
        httpx.RemoteProtocolError: the application is called in process and there is no connection
            to cut; the client sees what it would have seen.
    """
    abort = request.scope.get("extensions", {}).get(_CUT)
    if abort is None:
        raise httpx.RemoteProtocolError("the sandbox cut the connection")
    abort()
    await asyncio.sleep(0.001)
    return Response(status_code=500)


def answer(content: object, status: int = 200, **headers: str) -> Response:
    """A JSON response."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(msgspec.json.encode(content), status, named, "application/json")


def refusal(error: ApiError) -> Response:
    """The error's response."""
    response = answer({"code": error.code, "message": error.message}, error.status)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


async def read(request: Request, shape: type[Shape]) -> Shape:
    """The body as the shape, or as its defaults if there is no body.

    Raises:
        ApiError: too large, not JSON, an unknown or wrong field.
    """
    body = await request.body()
    if len(body) > _MAX_BODY:
        raise ApiError(413, "invalid_request", "the body is too large")
    try:
        return msgspec.json.decode(body or b"{}", type=shape)
    except msgspec.DecodeError as error:
        raise ApiError(400, "invalid_request", str(error)) from error


def allow_queries(request: Request, *known: str) -> None:
    """Raises ApiError if the query string has a parameter that is not known."""
    for name in request.query_params:
        if name not in known:
            raise ApiError(400, "invalid_request", f"unknown parameter {name!r}")


def guarded(endpoint: Endpoint) -> Endpoint:
    """The endpoint, with refusals turned into responses."""

    async def call(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ApiError as error:
            return refusal(error)

    return call


def loopback(endpoint: Endpoint) -> Endpoint:
    """The endpoint, for callers on this machine only."""

    async def call(request: Request) -> Response:
        host = request.client.host if request.client else ""
        if host != "localhost" and not ipaddress.ip_address(host or "::").is_loopback:
            raise ApiError(403, "forbidden", "control is for this machine only")
        return await endpoint(request)

    return call
