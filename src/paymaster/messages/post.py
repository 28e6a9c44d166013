"""One try to deliver: a POST, and what its answer means."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import httpcore
import httpx

from paymaster import __version__
from paymaster.kernel.clock import monotonic_seconds
from paymaster.messages.connect import TargetRefused

_READ_BYTES = 16 * 1024
"""So much of an answer is read, to be able to use the connection again, and thrown away."""

_GONE = 410
_MOST_RETRY_AFTER_SECONDS = 24 * 3600

HEADERS = {
    "content-type": "application/json",
    "user-agent": f"Paymaster/{__version__}",
    "accept": "*/*",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a try. `outcome`: `delivered`, `gone`, or why it did not arrive.

    Those are `status`, `redirected`, `timed-out`, `refused` (the target must not be called),
    `unreachable` and `broken-off`.
    """

    outcome: str
    duration_ms: int
    status: int | None = None
    retry_after_seconds: int = 0

    @property
    def delivered(self) -> bool:
        """Whether the endpoint has it."""
        return self.outcome == "delivered"


async def post(
    client: httpx.AsyncClient, url: str, headers: Mapping[str, str], body: bytes, seconds: float
) -> Answer:
    """Send once and wait for the answer, `seconds` at most in all. Never raises for a failure."""
    began = monotonic_seconds()
    status: int | None = None
    retry_after = 0
    try:
        async with asyncio.timeout(seconds):
            request = client.build_request(
                "POST", url, headers={**HEADERS, **headers}, content=body
            )
            answer = await client.send(request, stream=True)
            status, retry_after = answer.status_code, _seconds(answer.headers.get("retry-after"))
            try:
                await _read_some(answer)
            finally:
                await answer.aclose()
        outcome = _meaning(status)
    except TimeoutError:
        # A status that came is an answer, however slowly the rest of it dribbles.
        outcome = "timed-out" if status is None else _meaning(status)
    except TargetRefused:
        outcome = "refused"
    except (httpcore.TimeoutException, httpx.TimeoutException):
        outcome = "timed-out" if status is None else _meaning(status)
    except (httpcore.ConnectError, httpx.ConnectError, UnicodeError):
        outcome = "unreachable"
    except (httpcore.ProtocolError, httpcore.NetworkError, httpx.HTTPError, httpx.InvalidURL):
        outcome = "broken-off" if status is None else _meaning(status)
    took = int((monotonic_seconds() - began) * 1000)
    return Answer(outcome, took, status, retry_after)


def _meaning(status: int) -> str:
    if 200 <= status < 300:
        return "delivered"
    if status == _GONE:
        return "gone"
    return "redirected" if 300 <= status < 400 else "status"


def _seconds(text: str | None) -> int:
    """A `Retry-After` in seconds; dates are not read."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        return 0
    return min(int(text), _MOST_RETRY_AFTER_SECONDS)


async def _read_some(answer: httpx.Response) -> None:
    size = 0
    async for part in answer.aiter_raw():
        size += len(part)
        if size > _READ_BYTES:
            return
