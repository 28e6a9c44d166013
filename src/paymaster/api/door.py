"""The route class of the API: what is checked before a route sees its request.

In this order: the key, its scope, how often it asks, the names in the query, the media type, the
size of the body. FastAPI would read and parse a body first; a stranger's body is not worth that.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any, cast

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from paymaster.api.context import Call, authenticate
from paymaster.api.limiter import Limits
from paymaster.api.staff_trace import traced
from paymaster.kernel.errors import Forbidden, Problem, Refusal
from paymaster.people import staff
from paymaster.people.staff_roles import OF_STAFF

SLASH = "\ue000"
"""Stands for an encoded slash (%2F) while the path is matched; see `Outermost`."""

_JSON = ("application/json",)
_MAX_ADDRESS_CHARACTERS = 1024


class MediaTypeUnsupported(Refusal):
    """The body is of a type that this address does not take."""

    status = 415
    title = "Media type unsupported"


class Door(APIRoute):
    """A route with its checks. The scope is that of the route's `Users`, `Reads`, ... parameter."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        inner = super().get_route_handler()
        scope, own = scope_of(self), is_own(self)
        names = frozenset(_query_names(self.dependant))
        taken, encodings = _body_types(self)

        async def handle(request: Request) -> Response:
            try:
                await _let_in(request, scope, own=own)
                _check_address(request, names)
                await _check_body(request, taken, encodings)
                return await traced(request, inner, self.path)
            except ClientDisconnect:
                return Response(status_code=400)
            except RequestValidationError as error:
                faults: list[dict[str, Any]] = list(error.errors())
                if faults and faults[0].get("type") == "json_invalid":
                    raise _malformed(faults[0]) from None
                raise

        return handle


def scope_of(route: APIRoute) -> str | None:
    """The scope that a route asks for; None for one that needs no key."""
    for part in _walk(route.dependant):
        name = getattr(part.call, "__paymaster_scope__", None)
        if name is not None:
            return cast("str", name)
    return None


def is_own(route: APIRoute) -> bool:
    """Whether an earner may ask for what is his."""
    return any(getattr(part.call, "__paymaster_own__", False) for part in _walk(route.dependant))


def _walk(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for part in dependant.dependencies:
        yield from _walk(part)


def _query_names(dependant: Dependant) -> Iterator[str]:
    for part in _walk(dependant):
        for param in part.query_params:
            yield param.alias


def _body_types(route: APIRoute) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Media types of the body and content encodings that the route takes."""
    extra = route.openapi_extra or {}
    if "requestBody" in extra:
        return tuple(extra["requestBody"]["content"]), tuple(extra.get("x-content-encodings", ()))
    return (_JSON if route.body_field is not None else ()), ()


async def _let_in(request: Request, scope: str | None, *, own: bool) -> None:
    params = request.scope.get("path_params", {})
    for name, value in params.items():
        params[name] = value.replace(SLASH, "/") if isinstance(value, str) else value
    if scope is None:
        return
    call = await _as_owner(await authenticate(request), scope)
    if own and call.principal.user is not None:
        call.principal.require_own(scope)
    else:
        call.principal.require(scope)
    request.state.call = call
    limits: Limits = request.app.state.limits
    await limits.admit(request.scope["state"], call.principal)


async def _as_owner(call: Call, scope: str) -> Call:
    """With the key of a person nobody does more of the staff's work than that person may now.

    What an app's server does goes on: a key often outlasts whoever made it. Raises Forbidden
    `person-needed`.
    """
    principal, person = call.principal, call.principal.person_id
    if principal.kind != "server" or person is None or scope not in OF_STAFF:
        return call
    may = await call.look(lambda tx: staff.scopes_now(tx, call.environment.id, person))
    scopes = principal.scopes - (OF_STAFF - may)
    if scope in principal.scopes and scope not in scopes:
        raise Forbidden("person-needed", "The person whom this key belongs to may not do this now.")
    return replace(call, principal=replace(principal, scopes=scopes))


def _check_address(request: Request, names: frozenset[str]) -> None:
    """Unknown names in the query are refused: a mistyped filter must not answer with everything."""
    problems = [
        Problem(f"query:{name[:100]}", f"Names are: {', '.join(sorted(names)) or 'none'}.")
        for name in request.query_params
        if name not in names
    ]
    seen = [name for name, _ in request.query_params.multi_items()]
    problems += [
        Problem(f"query:{name}", "It is there twice.")
        for name in sorted(names)
        if seen.count(name) > 1
    ]
    problems += [
        Problem(
            f"query:{name[:100]}", "The value holds a character that is not allowed, or is long."
        )
        for name, value in request.query_params.items()
        if "\x00" in value or len(value) > 2 * _MAX_ADDRESS_CHARACTERS
    ]
    if problems:
        raise Refusal(
            "request-invalid", "The query does not fit what is documented.", problems=problems
        )


async def _check_body(request: Request, taken: tuple[str, ...], encodings: tuple[str, ...]) -> None:
    body = await request.body()
    if not body:
        return
    if not taken:
        raise Refusal("request-invalid", "This address takes no body.")
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in taken:
        raise MediaTypeUnsupported(
            "media-type-unsupported", f"Send Content-Type: {' or '.join(taken)}."
        )
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", *encodings):
        raise MediaTypeUnsupported(
            "media-type-unsupported",
            f"Content-Encoding here is {' or '.join(('identity', *encodings))}.",
        )


def _malformed(fault: dict[str, Any]) -> Refusal:
    place = fault["loc"][-1] if fault.get("loc") else 0
    return Refusal(
        "json-malformed",
        "The body is not JSON.",
        problems=[Problem("", f"The fault is near character {place}.")],
    )
