"""The OpenAPI 3.1 document: FastAPI's, with keys, scopes and problems written in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from paymaster.api.door import is_own, scope_of
from paymaster.api.problems import MEDIA_TYPE
from paymaster.api.shapes import ProblemOut
from paymaster.api.staff_session import COOKIE
from paymaster.api.tokens import TOKEN
from paymaster.people.scopes import SCOPES

_METHODS = frozenset({"get", "put", "post", "delete"})
_PROBLEM = "#/components/schemas/ProblemOut"
_ANY: dict[str, Any] = {
    "description": "A problem; `code` is in the error reference.",
    "content": {MEDIA_TYPE: {"schema": {"$ref": _PROBLEM}}},
    "headers": {"Trace-Id": {"schema": {"type": "string"}}},
}


def document(app: FastAPI, routers: Sequence[APIRouter]) -> dict[str, Any]:
    """The document of an application of these routers, made once."""
    if app.openapi_schema is None:
        app.openapi_schema = _made(app, routers)
    return app.openapi_schema


def api_routes(routers: Sequence[APIRouter]) -> list[APIRoute]:
    """All routes of routers that take a request of the API."""
    return [route for one in routers for route in one.routes if isinstance(route, APIRoute)]


def _made(app: FastAPI, routers: Sequence[APIRouter]) -> dict[str, Any]:
    made = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        summary="The backend of an app that pays its users.",
        description=(
            "Amounts are decimal strings, times RFC 3339 in UTC, ids opaque text. Unknown fields "
            "and unknown query parameters are refused; unknown fields of answers must be ignored."
        ),
        routes=app.routes,
        servers=app.servers or None,
    )
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    problem = ProblemOut.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}))
    schemas["ProblemOut"] = problem
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    routes = {
        (method.lower(), route.path): route
        for route in api_routes(routers)
        for method in route.methods or ()
    }
    components["securitySchemes"] = _schemes()
    for path, item in made["paths"].items():
        for method in _METHODS & item.keys():
            route = routes.get((method, path))
            scope = None if route is None else scope_of(route)
            _complete(item[method], scope, own=route is not None and is_own(route))
    return made


def _schemes() -> dict[str, Any]:
    """How a caller shows who it is."""
    return {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key of one of the app's servers. Scopes: "
            + "; ".join(f"`{name}`: {meaning}" for name, meaning in SCOPES.items())
            + ".",
        },
        "oauth": {
            "type": "oauth2",
            "description": "A short-lived token in place of the key: `client_id` is its prefix.",
            "flows": {"clientCredentials": {"tokenUrl": TOKEN, "scopes": SCOPES}},
        },
        "user": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "An earner: a token of an issuer that the environment trusts, or one "
            "that `POST /v1/users/{user}/tokens` gave. He reaches what is his and nothing else; "
            "in a path he is `me`, his own external id or his `us_...`.",
        },
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": COOKIE,
            "description": "A person of the staff who has logged in. What changes something needs "
            "the CSRF token of the session as well.",
        },
    }


def _complete(operation: dict[str, Any], scope: str | None, *, own: bool) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    responses["default"] = _ANY
    if scope is not None:
        user: list[dict[str, list[str]]] = [{"user": []}] if own else []
        operation["security"] = [{"key": []}, {"oauth": [scope]}, {"session": []}, *user]
        operation["x-scope"] = scope
        operation["x-own"] = own
