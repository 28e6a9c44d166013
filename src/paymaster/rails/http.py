"""HTTP to providers: one client, and every failure sorted by `paymaster.rails.meaning`."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final, cast

import httpx

from paymaster.kernel.errors import Broken, RailError
from paymaster.kernel.guard import forbid_network
from paymaster.kernel.tls import show, trust
from paymaster.rails import meaning
from paymaster.rails.meaning import Kind, Means

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 30.0
MAX_ANSWER_BYTES = 1024 * 1024
_FIRST_BYTES = ".send_request_headers.started"
"""What httpcore calls the step from which on the provider may have something of the request."""
_ALERT_SECONDS: Final = 3.0

CERTIFICATE_REFUSED: Final = "certificate-refused"
"""The code of an attempt whose provider does not accept the certificate that we show."""

_IDLE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def json_object(self) -> dict[str, object]:
        """The body as a JSON object. Raises ValueError when it is anything else."""
        try:
            found: object = json.loads(self.body)
        except RecursionError:
            raise ValueError("the answer is nested too deeply") from None
        if not isinstance(found, dict):
            raise ValueError("the answer is not a JSON object")  # noqa: TRY004 - one class to catch
        return cast("dict[str, object]", found)


async def _refuse_inside_transaction(_request: httpx.Request) -> None:
    forbid_network()


def new_client(
    transport: httpx.AsyncBaseTransport | None = None,
    *,
    proxy: str | None = None,
    ca: Path | None = None,
    tls_1_2_hosts: Collection[str] = (),
    identity: str | None = None,
) -> httpx.AsyncClient:
    """The client that all HTTP rails share: it refuses to run while a transaction is open.

    No redirects (an order is never sent to another address), no proxies from the environment, no
    cookies: what one answer says goes into no other request.
    TLS 1.3 to all but the hosts that are listed as knowing only 1.2. `ca` is a file (PEM) with more
    certificates to trust. `identity` is a certificate of ours with its key (PEM) for providers that
    ask who calls. Raises Refusal `certificate-unusable` when one of them cannot be read.
    """
    # Shorter than servers keep idle connections (5 s is common): an order written to one that the
    # other side is just closing would be unknown.
    limits = httpx.Limits(
        max_connections=100, max_keepalive_connections=20, keepalive_expiry=_IDLE_SECONDS
    )
    mounts: dict[str, httpx.AsyncBaseTransport | None] = {}
    if tls_1_2_hosts:
        context = _context(ca, ssl.TLSVersion.TLSv1_2, identity)
        older = httpx.AsyncHTTPTransport(
            verify=context, limits=limits, proxy=proxy, trust_env=False
        )
        mounts = {f"https://{host}": older for host in tls_1_2_hosts}
    return httpx.AsyncClient(
        transport=transport,
        proxy=proxy,
        verify=_context(ca, ssl.TLSVersion.TLSv1_3, identity),
        mounts=mounts,
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS),
        limits=limits,
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        trust_env=False,
        event_hooks={"request": [_refuse_inside_transaction]},
    )


def client_with_identity(
    identity: str, *, ca: Path | None = None, tls_1_2_hosts: Collection[str] = ()
) -> httpx.AsyncClient:
    """A client like any other that shows a certificate of ours; see `new_client`."""
    return new_client(ca=ca, tls_1_2_hosts=tls_1_2_hosts, identity=identity)


async def refuses_identity(
    identity: str, url: str, *, ca: Path | None = None, tls_1_2_hosts: Collection[str] = ()
) -> bool:
    """Whether a server breaks off once it has seen our certificate: for words, never for a proof.

    It says so by an alert (RFC 8446, 6.2), or closes at once. A request that is on its way at that
    moment drowns both, so this one connects, says nothing, and listens for a moment. False when it
    waits for our request, as it should, and when it cannot be found out.
    """
    forbid_network()
    place = httpx.URL(url)
    older = place.host in tls_1_2_hosts
    oldest = ssl.TLSVersion.TLSv1_2 if older else ssl.TLSVersion.TLSv1_3
    context = _context(ca, oldest, identity)
    try:
        async with asyncio.timeout(_ALERT_SECONDS):
            port = place.port or 443
            reader, writer = await asyncio.open_connection(place.host, port, ssl=context)
    except ssl.SSLError as error:
        return "ALERT" in str(error.reason)
    except (OSError, TimeoutError):
        return False
    try:
        async with asyncio.timeout(_ALERT_SECONDS):
            return not await reader.read(1)
    except TimeoutError:
        return False
    except OSError:
        return True
    finally:
        writer.transport.abort()


def _context(
    ca: Path | None, oldest: ssl.TLSVersion, identity: str | None = None
) -> ssl.SSLContext:
    if ca is None and identity is None:
        return _shared_context(oldest)
    context = _new_context(oldest)
    if ca is not None:
        trust(context, ca)
    if identity is not None:
        show(context, identity)
    return context


@cache
def _shared_context(oldest: ssl.TLSVersion) -> ssl.SSLContext:
    """What trusts whom everybody trusts: to read that list takes 25 ms, once for a process."""
    return _new_context(oldest)


def _new_context(oldest: ssl.TLSVersion) -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)
    context.minimum_version = oldest
    return context


async def call(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None = None,
    max_bytes: int = MAX_ANSWER_BYTES,
) -> Answer:
    """Make one call and read the whole answer, of whatever status.

    Raises NeverSent `provider-unreachable`, RailUnknown `provider-silent` (nothing or not all came
    back) or `provider-answer-too-large`, Broken `network-inside-transaction`.
    """
    forbid_network()
    began = False

    async def note(step: str, _info: Mapping[str, Any]) -> None:
        nonlocal began
        began = began or step.endswith(_FIRST_BYTES)

    try:
        request = client.build_request(
            method, url, headers=dict(headers), content=body, extensions={"trace": note}
        )
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise meaning.error(Kind.ADDRESS, f"The request is not valid HTTP: {error}") from None
    try:
        answer = await client.send(request, stream=True)
        try:
            content = await _read(answer, max_bytes)
        finally:
            await answer.aclose()
    except (Broken, RailError):
        raise
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        kind = meaning.of_failure(error, began=began)
        safe = meaning.OF[kind].means is Means.SAFE
        said = "could not be reached" if safe else "did not answer completely"
        raise meaning.error(kind, f"{request.url.host} {said}: {_how(error)}.") from error
    return Answer(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, content)


async def _read(answer: httpx.Response, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in answer.aiter_bytes():
        size += len(part)
        if size > max_bytes:
            raise meaning.error(Kind.TOO_LARGE, f"The answer is larger than {max_bytes} bytes.")
        parts.append(part)
    return b"".join(parts)


def _how(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        words = "no answer in time"
    elif isinstance(error, httpx.ConnectError):
        words = "no connection"
    else:
        words = "the connection ended before the answer"
    return f"{words} ({type(error).__name__})"
