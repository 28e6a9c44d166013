"""Errors to RFC 9457 problems: one table, used by every door that speaks HTTP.

A problem says what to do and nothing about our insides: what a provider answered, which invariant
broke and where an exception came from stay in the log, under the same trace id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from paymaster.kernel.errors import (
    Broken,
    Busy,
    PaymasterError,
    Problem,
    RailError,
    Refusal,
)
from paymaster.observe import current_trace_id, get_logger

MEDIA_TYPE = "application/problem+json"
_MAX_PROBLEMS, _MAX_DETAIL = 100, 300
_RESERVED = frozenset(
    {"type", "title", "status", "detail", "code", "retryable", "trace_id", "errors"}
)

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ProblemResponse:
    """What goes over the wire; framework-neutral."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is told of an error."""

    status: int
    code: str
    title: str
    detail: str
    retryable: bool = False
    problems: Sequence[Problem] = ()
    extra: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


_INTERNAL = _Answer(
    500,
    "internal",
    "Internal error",
    "Something went wrong on our side and was recorded under this trace id. Whether the request "
    "took effect is not known: send it again with the same Idempotency-Key.",
    retryable=True,
)

_BY_STATUS: dict[int, tuple[str, str]] = {
    400: ("request-invalid", "The request cannot be read."),
    401: ("unauthenticated", "Send a valid credential."),
    403: ("forbidden", "This credential may not do that."),
    404: ("not-found", "There is nothing at this address."),
    405: ("method-not-allowed", "This address does not know the method; see Allow."),
    406: ("not-acceptable", "None of the accepted media types can be produced."),
    408: ("request-timeout", "The request did not arrive in time."),
    411: ("length-required", "Send a Content-Length."),
    413: ("body-too-large", "The body is larger than allowed here."),
    414: ("request-invalid", "The address is too long."),
    415: ("media-type-unsupported", "Send application/json."),
    429: ("rate-limited", "Too many requests: slow down."),
    431: ("request-invalid", "The headers are too large."),
    503: ("unavailable", "Not ready: come again after a while."),
}
"""What the framework itself refuses, by status."""


def problem_of(
    error: Exception, *, errors_url: str = "/docs/errors", trace_id: str | None = None
) -> ProblemResponse:
    """The answer to an error, whatever it is. `errors_url` is the page of the error reference."""
    answer = _answer(error)
    document: dict[str, Any] = {
        "type": f"{errors_url}#{answer.code}",
        "title": answer.title,
        "status": answer.status,
        "detail": answer.detail,
        "code": answer.code,
        "retryable": answer.retryable,
    }
    if trace_id:
        document["trace_id"] = trace_id
    if answer.problems:
        document["errors"] = [
            {"pointer": problem.pointer, "detail": problem.detail}
            for problem in answer.problems[:_MAX_PROBLEMS]
        ]
    extra = {name: text for name, text in answer.extra.items() if name not in _RESERVED}
    headers = {**answer.headers, "Content-Type": MEDIA_TYPE, "Cache-Control": "no-store"}
    return ProblemResponse(answer.status, headers, msgspec.json.encode({**document, **extra}))


def refusal_of_input(
    error: RequestValidationError | ValidationError | msgspec.DecodeError,
) -> Refusal:
    """Refusal `request-invalid` with JSON pointers, for input that does not fit its schema."""
    if isinstance(error, msgspec.DecodeError):
        problems = [_from_msgspec(error)]
    else:
        faults: Sequence[Any] = error.errors()
        problems = [_from_pydantic(fault) for fault in faults]
    return Refusal(
        "request-invalid", "The request does not fit what is documented.", problems=problems
    )


def install(app: Starlette | FastAPI, *, errors_url: str = "/docs/errors") -> None:
    """Make an application answer every error with a problem.

    The trace id is `request.state.trace_id`, which the outermost middleware sets; what goes wrong
    further in than our own errors is logged here, with it.
    """

    async def answer(request: Request, error: Exception) -> Response:
        return response_to(request, error, errors_url)

    for kind in (
        PaymasterError,
        RequestValidationError,
        msgspec.DecodeError,
        HTTPException,
        Exception,
    ):
        app.add_exception_handler(kind, answer)


def response_to(request: Request, error: Exception, errors_url: str) -> Response:
    """The problem that answers a request; what goes wrong on our side is logged."""
    trace_id: object = getattr(request.state, "trace_id", None) or current_trace_id()
    known = trace_id if isinstance(trace_id, str) else None
    if isinstance(error, PaymasterError):
        request.state.refused = error.slug
    if _is_ours_to_repair(error):
        slug = error.slug if isinstance(error, PaymasterError) else None
        _log.error("request_failed", slug=slug, trace_id=known, exc_info=error)
    made = problem_of(error, errors_url=errors_url, trace_id=known)
    return Response(made.body, made.status, dict(made.headers))


def _is_ours_to_repair(error: Exception) -> bool:
    if isinstance(error, PaymasterError):
        return isinstance(error, Broken | RailError)
    return not isinstance(error, RequestValidationError | msgspec.DecodeError | HTTPException)


def _answer(error: Exception) -> _Answer:
    """The table."""
    match error:
        case RailError():
            return _INTERNAL
        case Broken():
            return _Answer(
                500, error.slug, error.title, "An invariant does not hold; the operators know."
            )
        case PaymasterError():
            return _ours(error)
        case RequestValidationError() | msgspec.DecodeError():
            return _ours(refusal_of_input(error))
        case HTTPException():
            return _of_status(error)
        case _:
            return _INTERNAL


def _ours(error: PaymasterError) -> _Answer:
    headers = {"Retry-After": str(error.retry_after_seconds)} if isinstance(error, Busy) else {}
    if error.status == HTTPStatus.UNAUTHORIZED:
        # RFC 6750, section 3: a client that holds a bad token is told to get another.
        is_token = error.slug.startswith("token-")
        headers["WWW-Authenticate"] = 'Bearer error="invalid_token"' if is_token else "Bearer"
    return _Answer(
        error.status,
        error.slug,
        error.title,
        error.detail,
        error.retryable,
        error.problems,
        error.extra,
        headers,
    )


def _of_status(error: HTTPException) -> _Answer:
    """A refusal of the framework. Its own text is not repeated: it may quote the request."""
    code, detail = _BY_STATUS.get(error.status_code, ("request-invalid", "It cannot be done."))
    if (
        error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
        and error.status_code not in _BY_STATUS
    ):
        return _INTERNAL
    retryable = error.status_code in (408, 429, 503)
    headers = dict(error.headers or {})
    if retryable and error.status_code != HTTPStatus.REQUEST_TIMEOUT:
        headers.setdefault("Retry-After", "1")
    title = HTTPStatus(error.status_code).phrase
    return _Answer(error.status_code, code, title, detail, retryable, headers=headers)


def _from_pydantic(fault: Mapping[str, Any]) -> Problem:
    """One fault. Bodies get a JSON pointer, other places their name: `query:limit`."""
    place, *path = [str(part) for part in fault["loc"]] or [""]
    if fault["type"] == "json_invalid":
        return Problem("", f"The body is not JSON (character {path[0] if path else 0}).")
    if place == "body" and not path and fault["type"] == "missing":
        return Problem("", "Send a body: a JSON object.")
    detail = str(fault["msg"]).removeprefix("Value error, ")[:_MAX_DETAIL]
    if place in ("query", "header", "path", "cookie"):
        return Problem(f"{place}:{'.'.join(path)}", detail)
    return Problem(pointer(*(path if place == "body" else [place, *path])), detail)


def _from_msgspec(error: msgspec.DecodeError) -> Problem:
    """One fault; msgspec writes its place as `... - at `$.a[0].b``."""
    text, found, place = str(error).partition(" - at `")
    if not isinstance(error, msgspec.ValidationError):
        return Problem("", f"The body is not JSON: {text[:_MAX_DETAIL]}.")
    steps = place.rstrip("`").removeprefix("$") if found else ""
    # Keys of free maps are written `[...]`: the pointer ends at the map.
    known = steps.partition("[...]")[0].removeprefix("key in ").replace("[", ".").replace("]", "")
    return Problem(pointer(*known.split(".")[1:]), f"{text[:_MAX_DETAIL]}.")


def pointer(*steps: str) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in steps)
