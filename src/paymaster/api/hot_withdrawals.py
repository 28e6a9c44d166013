"""`POST /v1/withdrawals` without a framework's parsing, for requests that read well at once.

What is not plain (another media type, a query, a body with a fault, ...) takes the documented
route, which finds out what is wrong with it and says so. Both end in the same merged request.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from paymaster.api.context import admitted, headers_of, hot_of, key_of, usable_key
from paymaster.api.hot import Look, Seen
from paymaster.api.limiter import Limits
from paymaster.api.withdrawals import Terms, Wanted, asked
from paymaster.kernel.errors import Refusal, Unauthenticated
from paymaster.kernel.money import Money
from paymaster.people.factors.binding import Purpose

LARGEST_BODY_BYTES = 4096
"""Longer bodies take the documented route, which verifies the key before it reads a body."""


class _Amount(msgspec.Struct, forbid_unknown_fields=True):
    amount: Annotated[str, msgspec.Meta(max_length=32)]
    currency: Annotated[str, msgspec.Meta(max_length=12)]


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    user: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    destination: str
    amount: _Amount
    quote: Annotated[str, msgspec.Meta(max_length=40)] | None = None


_DECODER = msgspec.json.Decoder(_Asked)


def is_plain(request: Request) -> bool:
    """Whether a request may be read here."""
    headers = headers_of(request)
    length = headers.get(b"content-length", b"")
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    return (
        not request.scope["query_string"]
        and media_type == b"application/json"
        and b"content-encoding" not in headers
        and length.isdigit()
        and int(length) <= LARGEST_BODY_BYTES
        and usable_key(headers.get(b"idempotency-key", b"").decode("latin-1"))
    )


def _needs_more(seen: Seen, amount: _Amount) -> bool:
    """Whether a second factor may be asked for: the documented route says of what, and why."""
    if not seen.steps.rules:
        return False
    try:
        money = Money.parse(amount.amount, amount.currency)
    except Refusal:
        return False
    return seen.steps.requires(Purpose.WITHDRAWAL, "servers", money.currency, money.minor)


async def ask(request: Request) -> Response | None:
    """Answer a plain request; None when it must take the documented route.

    Raises what that one raises: Unauthenticated, Forbidden, RateLimited, NotFound, Refusal,
    Unprocessable, Conflict, Busy.
    """
    sent = await request.body()
    try:
        body = _DECODER.decode(sent)
        key = key_of(request)
    except (msgspec.DecodeError, UnicodeDecodeError, Unauthenticated):
        return None
    if "\0" in body.user or "\0" in body.destination or not body.user.isprintable():
        return None
    seen = await hot_of(request).look(Look(key, body.user))
    if seen.ref is None or _needs_more(seen, body.amount):
        return None
    call = admitted(request, seen)
    call.principal.require("withdrawals")
    limits: Limits = request.app.state.limits
    await limits.admit(request.scope["state"], call.principal)
    amount = Money.parse(body.amount.amount, body.amount.currency)
    caller_key = headers_of(request)[b"idempotency-key"].decode("latin-1")
    terms = Terms(seen.limits, seen.plans)
    wanted = Wanted(seen.ref, body.destination, amount, body.quote)
    return await asked(call, caller_key, sent, wanted, terms)
