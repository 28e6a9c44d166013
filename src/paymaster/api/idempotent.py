"""Answers that are given once and replayed ever after."""

from __future__ import annotations

from starlette.responses import Response

from paymaster.api.context import Call
from paymaster.api.problems import MEDIA_TYPE
from paymaster.db.idempotency import Answer, Key

_FIRST_REFUSAL = 400


async def claim(call: Call, key: Key) -> None:
    """In an environment of several cells: one key belongs to one body, wherever its effect is."""
    if len(call.cells) > 1:
        await call.hot.claim(key)


def replied(answer: Answer) -> Response:
    """The stored bytes, marked when they are not the first to be sent."""
    media_type = MEDIA_TYPE if answer.status >= _FIRST_REFUSAL else "application/json"
    headers = {"Idempotent-Replayed": "true"} if answer.replayed else None
    return Response(answer.answer, answer.status, headers, media_type)
