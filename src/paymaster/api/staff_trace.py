"""What a person changes is in the audit trail, whichever route was used.

Use cases record their own acts, in the transaction of the effect. What changes something without an
act of its own (a reconciliation run, events sent by hand) is recorded here, by its address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from fastapi import Request, Response

from paymaster.db import audit
from paymaster.db.tx import ControlTx
from paymaster.kernel.errors import Refusal

REASON_HEADER = "x-reason"
_MAX_REASON = 500
_SAFE = frozenset({"GET", "HEAD"})
_FIRST_REFUSAL = 400


def reason_of(request: Request) -> str | None:
    """Why a person does something, where the route itself takes no reason: percent-encoded UTF-8.

    Raises Refusal `reason-malformed`.
    """
    given = request.headers.get(REASON_HEADER)
    if given is None:
        return None
    text = unquote(given, errors="replace").strip()
    if not 1 <= len(text) <= _MAX_REASON or not text.isprintable():
        raise Refusal("reason-malformed", "X-Reason has 1 to 500 printable characters.")
    return text


async def traced(
    request: Request, answer: Callable[[Request], Awaitable[Response]], path: str
) -> Response:
    """Answer a request; what a person changed leaves an act in the audit trail."""
    call: Any = getattr(request.state, "call", None)
    if call is None or call.principal.kind != "staff" or request.method in _SAFE:
        return await answer(request)
    with audit.watched() as noted:
        response = await answer(request)
    if not noted.acts and response.status_code < _FIRST_REFUSAL:
        subject = f"{request.method} {path}"

        async def record(tx: ControlTx) -> None:
            await audit.record(tx, [audit.Act("request", subject)])

        await call.control(record)
    return response
