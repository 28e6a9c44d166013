"""The HTTP applications: the API for apps and operators, and the address of webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fastapi import APIRouter, FastAPI

from paymaster import __version__
from paymaster.api import (
    campaigns,
    days,
    destinations,
    events,
    exports,
    health,
    hooks,
    hot_withdrawals,
    money,
    rails,
    reconciliation,
    screening,
    tasks,
    traces,
    transfers,
    users,
    withdrawals,
)
from paymaster.api.hot import Hot, Inbox
from paymaster.api.hot_routes import Address, HotRoutes, Route
from paymaster.api.limiter import Limiter
from paymaster.api.middleware import Outermost
from paymaster.api.openapi import document
from paymaster.api.problems import install
from paymaster.compose import Deps

ROUTERS: tuple[APIRouter, ...] = (
    users.router,
    destinations.router,
    money.router,
    exports.router,
    campaigns.router,
    tasks.router,
    events.router,
    withdrawals.router,
    rails.router,
    transfers.router,
    reconciliation.router,
    days.router,
    screening.router,
    traces.router,
)
"""The API in the order in which the document shows it."""


HOT_ROUTES: Mapping[Address, Route] = {
    ("POST", withdrawals.LIST): (hot_withdrawals.is_plain, hot_withdrawals.ask),
}
"""What is answered in front of the framework. The same addresses are in `ROUTERS`: documented
there, and answered there when a request is not plain."""


def make_app(
    routers: tuple[APIRouter, ...], errors_url: str, public_url: str | None = None
) -> FastAPI:
    """An application without the middleware and without what it works with."""
    app = FastAPI(
        title="Paymaster",
        version=__version__,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        servers=[{"url": public_url}] if public_url else None,
    )
    for router in (*routers, health.router):
        app.include_router(router)
    install(app, errors_url=errors_url)
    cast("Any", app).openapi = lambda: document(app, routers)
    return app


def build_api(deps: Deps, hot_routes: Mapping[Address, Route] | None = None) -> Outermost:
    """The API of this process; `hot_routes` adds addresses that are answered in front of it."""
    settings = deps.settings.api
    app = make_app(ROUTERS, settings.errors_url, settings.public_url)
    app.state.deps = deps
    app.state.hot = hot = Hot(deps)
    app.state.limiter = limiter = Limiter(deps.settings.limits.requests_per_minute)
    routes = {**HOT_ROUTES, **(hot_routes or {})}
    fronted = HotRoutes(app, routes, settings.errors_url)
    return Outermost(fronted, deps, settings.body_limit_bytes, limiter.policy, hot.close)


def build_hooks(deps: Deps) -> Outermost:
    """The application that providers call."""
    app = make_app((hooks.router,), deps.settings.api.errors_url)
    app.state.deps = deps
    app.state.inbox = inbox = Inbox(deps)
    return Outermost(app, deps, deps.settings.hooks.body_limit_bytes, closing=inbox.close)


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document, made without a running system."""
    return document(make_app(ROUTERS, "/docs/errors"), ROUTERS)
