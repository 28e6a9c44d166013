"""Answers that are given once and replayed ever after."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.responses import Response

from paymaster.api.context import Call
from paymaster.api.problems import MEDIA_TYPE, problem_of
from paymaster.db import idempotency
from paymaster.db.idempotency import Answer, Key
from paymaster.db.pool import CellDb
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Unprocessable

_ACCEPTED = 202
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


async def accepted(
    call: Call, cell: CellDb, key: Key, work: Callable[[CellTx], Awaitable[Any]]
) -> Response:
    """202 with what `work` gives, or why it cannot be; either is the answer to this key for ever.

    Kept in the transaction of the work. What may be otherwise in a moment (409, 503) is not kept.
    """

    async def once(tx: CellTx) -> Answer:
        before = await idempotency.begin(tx, key)
        if before is not None:
            return before
        try:
            answer = Answer(_ACCEPTED, msgspec.json.encode(await work(tx)))
        except Unprocessable as error:
            problem = problem_of(
                error, errors_url=call.deps.settings.api.errors_url, trace_id=call.trace_id
            )
            answer = Answer(problem.status, problem.body)
        await idempotency.finish(tx, key, answer)
        return answer

    return replied(await call.write(cell, once))
