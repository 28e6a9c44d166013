"""Answers that are given once and replayed ever after."""

from __future__ import annotations

from starlette.responses import Response

from paymaster.api.context import Call
from paymaster.api.problems import MEDIA_TYPE
from paymaster.db.idempotency import Answer, Key

_FIRST_REFUSAL = 400
_REFUSAL = MEDIA_TYPE.encode()


async def claim(call: Call, key: Key) -> None:
    """In an environment of several cells: one key belongs to one body, wherever its effect is."""
    if len(call.deps.dbs.cells(call.environment.id)) > 1:
        await call.hot.claim(key)


class Ready(Response):
    """Bytes and headers that are written already, so that none is looked at again."""

    def __init__(self, body: bytes, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.body = body
        self.status_code = status
        self.raw_headers = headers
        self.background = None


def replied(answer: Answer) -> Response:
    """The stored bytes, marked when they are not the first to be sent."""
    headers = [
        (b"content-length", b"%d" % len(answer.answer)),
        (b"content-type", _REFUSAL if answer.status >= _FIRST_REFUSAL else b"application/json"),
    ]
    if answer.replayed:
        headers.append((b"idempotent-replayed", b"true"))
    return Ready(answer.answer, answer.status, headers)
