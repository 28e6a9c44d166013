"""The OpenAPI 3.1 document: FastAPI's, with keys, scopes and problems written in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from paymaster.api.door import scope_of
from paymaster.api.problems import MEDIA_TYPE
from paymaster.api.shapes import ProblemOut
from paymaster.people.credentials import SCOPES

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
    scopes = {
        (method.lower(), route.path): scope
        for route in api_routes(routers)
        if (scope := scope_of(route)) is not None
        for method in route.methods or ()
    }
    components["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key. Scopes: "
            + "; ".join(f"`{name}`: {meaning}" for name, meaning in SCOPES.items())
            + ".",
        }
    }
    for path, item in made["paths"].items():
        for method in _METHODS & item.keys():
            _complete(item[method], scopes.get((method, path)))
    return made


def _complete(operation: dict[str, Any], scope: str | None) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    responses["default"] = _ANY
    if scope is not None:
        operation["security"] = [{"key": []}]
        operation["x-scope"] = scope
