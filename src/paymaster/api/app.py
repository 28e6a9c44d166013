"""The HTTP applications: the API for apps and operators, and the address of webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from paymaster import __version__
from paymaster.api import (
    approvals,
    audit,
    automatic,
    awaiting,
    campaigns,
    consents,
    days,
    debts,
    destinations,
    earning_policies,
    environment_clock,
    events,
    explain,
    exports,
    factors,
    funding,
    health,
    holds,
    hooks,
    hot_withdrawals,
    issuers,
    keys,
    kyc,
    links,
    me,
    money,
    provider_receipts,
    quotes,
    rails,
    rates,
    reconciliation,
    screening,
    settlement,
    staff,
    staff_login,
    stepup,
    stream,
    tasks,
    tokens,
    topup_refunds,
    topups,
    traces,
    transfers,
    unknowns,
    users,
    webhook_events,
    webhooks,
    withdrawal_acts,
    withdrawals,
)
from paymaster.api.callers import Callers
from paymaster.api.cursors import Cursors
from paymaster.api.gate import Gate
from paymaster.api.guesses import KeyGuesses
from paymaster.api.hot import Hot, Inbox
from paymaster.api.hot_routes import Address, HotRoutes, Route
from paymaster.api.limiter import Limiter, Limits, Shared
from paymaster.api.middleware import Outermost
from paymaster.api.openapi import document
from paymaster.api.problems import install
from paymaster.api.routed import serve_routes
from paymaster.compose import Deps
from paymaster.messages.streams import Hub
from paymaster.settings import Api

ROUTERS: tuple[APIRouter, ...] = (
    users.router,
    kyc.router,
    tokens.of_users,
    destinations.router,
    links.router,
    factors.router,
    stepup.router,
    money.router,
    stream.router,
    exports.router,
    campaigns.router,
    tasks.router,
    events.router,
    earning_policies.router,
    debts.router,
    quotes.router,
    withdrawals.router,
    automatic.router,
    awaiting.router,
    consents.router,
    provider_receipts.router,
    explain.router,
    withdrawal_acts.router,
    holds.router,
    rails.router,
    unknowns.router,
    rates.router,
    transfers.router,
    topups.router,
    topup_refunds.router,
    reconciliation.router,
    settlement.router,
    days.router,
    funding.router,
    screening.router,
    traces.router,
    environment_clock.router,
    webhooks.router,
    webhook_events.router,
    me.router,
    staff.router,
    approvals.router,
    audit.router,
    keys.router,
    issuers.router,
    tokens.router,
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
        serve_routes(app, router)
    install(app, errors_url=errors_url)
    cast("Any", app).openapi = lambda: document(app, routers)
    return app


def build_api(deps: Deps, hot_routes: Mapping[Address, Route] | None = None) -> Outermost:
    """The API of this process; `hot_routes` adds addresses that are answered in front of it."""
    settings, limits = deps.settings.api, deps.settings.limits
    app = make_app(ROUTERS, settings.errors_url, settings.public_url)
    app.state.deps = deps
    app.state.hot = hot = Hot(deps)
    app.state.callers = Callers(deps)
    cursors = stream.cursor_maker(Cursors(deps.secrets.hmac))
    app.state.streams = streams = Hub(deps.dbs, deps.settings.streams, cursors, deps.metrics)
    staff_login.install(app, deps)
    serve_routes(app, links.browsers)
    app.state.guesses = guesses = KeyGuesses(deps.clock)
    shared = Shared(deps.dbs, [guesses.share])
    guesses.look_again = shared.later
    app.state.limits = Limits(
        shared, key=limits.requests_per_minute, user=limits.user_requests_per_minute
    )
    routes = {**HOT_ROUTES, **(hot_routes or {})}
    fronted = HotRoutes(app, routes, settings.errors_url)
    strangers = Limiter[str]("address", limits.address_requests_per_minute, shared)
    gate = Gate(settings, shared, strangers, guesses)

    async def close() -> None:
        await streams.close()
        await hot.close()

    front = with_cors(fronted, settings)
    return Outermost(front, deps, gate, settings.body_limit_bytes, close, streams.stop)


def with_cors(app: ASGIApp, settings: Api) -> ASGIApp:
    """Let pages of the listed origins call it; without a list browsers let none."""
    if not settings.cors_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=settings.cors_origins,
        allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
        allow_headers=(
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "Last-Event-ID",
            "traceparent",
        ),
        expose_headers=("RateLimit", "RateLimit-Policy", "Retry-After", "Trace-Id"),
        max_age=600,
    )


def build_hooks(deps: Deps) -> Outermost:
    """The application that providers call."""
    app = make_app((hooks.router,), deps.settings.api.errors_url)
    app.state.deps = deps
    app.state.inbox = inbox = Inbox(deps)
    settings, shared = deps.settings.hooks, Shared(deps.dbs)
    callers = Limiter[str]("hook", deps.settings.limits.hook_requests_per_minute, shared)
    gate = Gate(settings, shared, callers, None)
    return Outermost(app, deps, gate, settings.body_limit_bytes, inbox.close)


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document, made without a running system."""
    return document(make_app(ROUTERS, "/docs/errors"), ROUTERS)
