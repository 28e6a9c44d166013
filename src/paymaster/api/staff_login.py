"""Logging in and out: addresses for browsers, not part of the documented API.

GET  /staff/login?environment=acme/live&return_to=/...   to the provider
GET  /staff/callback                                      and back
POST /staff/logout, /staff/logout-everywhere, /staff/sessions/{id}/end
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from paymaster.api import staff_session
from paymaster.api.context import deps_of, origin_of, trace_of
from paymaster.api.problems import response_to
from paymaster.api.routed import serve_routes
from paymaster.compose import Deps
from paymaster.db import audit, lockouts
from paymaster.db.cells import Environment
from paymaster.db.tx import Actor, ControlRead, ControlTx
from paymaster.kernel.errors import (
    Forbidden,
    NotFound,
    PaymasterError,
    RateLimited,
    Refusal,
    Unauthenticated,
)
from paymaster.observe import get_logger
from paymaster.people import sessions, staff, staff_login, staff_providers
from paymaster.people.sessions import Resolved
from paymaster.people.staff_login import Carried, LoggedIn
from paymaster.people.staff_oidc import StaffOidc
from paymaster.people.staff_providers import Provider

router = APIRouter(prefix="/staff", include_in_schema=False)
KIND = "login"
"""Of the lock-outs."""

Counted = tuple[str, str]
"""What failures are counted against: an account wherever it comes from, or anybody from a place."""

_ACTOR, _SUFFIX, _ANYBODY = "role:login", "-login", "anybody"
_MAX_CODE = 4096
log = get_logger("paymaster.staff")


def _oidc(request: Request) -> StaffOidc:
    return cast("StaffOidc", request.app.state.staff_oidc)


def _actor(request: Request, environment: Environment | None = None) -> Actor:
    number = None if environment is None else environment.id
    return Actor(_ACTOR, origin_of(request), number)


def _redirect_uri(deps: Deps) -> str:
    return f"{deps.settings.api.public_url}/staff/callback"


def _environment(deps: Deps, name: str | None) -> Environment:
    """The environment of a name such as `acme/live`, or the only one.

    Raises Refusal `login-environment`.
    """
    known = deps.dbs.environments()
    if name is None and len(known) == 1:
        return known[0]
    for one in known:
        if f"{one.tenant}/{one.mode}" == name:
            return one
    raise Refusal("login-environment", "Name the environment, such as environment=acme/live.")


@router.get("/login")
async def log_in(
    request: Request,
    environment: str | None = None,
    return_to: str = staff_login.HOME,
    provider: str | None = None,
) -> Response:
    """To the provider; the browser carries what its answer must fit."""
    deps = deps_of(request)
    staff_session.secure(deps.settings)
    await _not_locked(request, _of_address(request))
    found = _environment(deps, environment)
    named = None if provider is None else staff_providers.provider_number(provider)
    chosen = await deps.dbs.control.read(lambda tx: staff_providers.choose(tx, found.tenant, named))
    carried = staff_login.new(chosen, found, return_to, deps.clock.now())
    address = await _oidc(request).address(chosen, carried.sent(_redirect_uri(deps)))
    response = RedirectResponse(address, 303)
    value = staff_login.sealed(carried, deps.secrets.hmac)
    staff_session.give(response, deps.settings, value, _SUFFIX)
    return response


@router.get("/callback")
async def come_back(
    request: Request, state: str = "", code: str = "", iss: str | None = None, error: str = ""
) -> Response:
    """From the provider: find out who it is, and begin a session."""
    deps = deps_of(request)
    sent = request.headers
    if sent.get("sec-fetch-mode", "navigate") != "navigate" or (
        sent.get("sec-fetch-dest", "document") != "document"
    ):
        # Made by a page, not by a person: it cannot succeed, and must not lock the person out.
        raise Unauthenticated("login-state", "This login was not begun in this browser.")
    await _not_locked(request, _of_address(request))
    failing, carried = [_of_address(request)], None
    try:
        carried = staff_login.opened(
            staff_session.held(request, _SUFFIX), state, deps.secrets.hmac, deps.clock.now()
        )
        done = await _finish(request, carried, code if not error else "", iss, failing)
    except (Unauthenticated, Forbidden) as refused:
        await _failed(request, failing, refused)
        response = response_to(request, refused, deps.settings.api.errors_url)
    else:
        response = RedirectResponse(carried.return_to, 303)
        staff_session.give(response, deps.settings, done.cookie)
        request.state.actor = f"person:{staff.person_text(done.person_id)}"
    if carried is not None:
        # What is of no login of this browser does not end the one that goes on.
        staff_session.take(response, deps.settings, _SUFFIX)
    return response


async def _finish(
    request: Request, carried: Carried, code: str, iss: str | None, failing: list[Counted]
) -> LoggedIn:
    """The session of whoever the answer is about. Adds the account to what has failed if it does.

    Raises Unauthenticated and Forbidden as the parts do, and RateLimited `locked-out`.
    """
    deps = deps_of(request)
    environment = deps.dbs.environment(carried.environment)
    control, trace_id = deps.dbs.control, trace_of(request)
    actor = _actor(request, environment)
    await control.run(actor, trace_id, lambda tx: staff_login.take_once(tx, carried.state))
    provider = await control.read(lambda tx: _provider(tx, environment, carried.provider))
    await _oidc(request).check_issuer(provider, iss)
    if not 1 <= len(code) <= _MAX_CODE:
        raise Unauthenticated("login-refused", "The provider let nobody in.")
    secret = None if provider.secret_name is None else deps.secrets.text(provider.secret_name)
    sent = carried.sent(_redirect_uri(deps))
    claims = await _oidc(request).claims(provider, secret, sent, code, deps.clock.now())
    account = staff_login.subject_of(provider.issuer, str(claims["sub"]))
    await _not_locked(request, (account, ""))
    failing.append((account, ""))
    before = staff_session.cookie_of(request)

    async def work(tx: ControlTx) -> LoggedIn:
        lifetimes = staff_session.lifetimes(deps.settings)
        done = await staff_login.finish(tx, environment, provider, claims, lifetimes, before)
        await lockouts.succeeded(tx, KIND, account)
        return done

    return await control.run(actor, trace_id, work)


async def _provider(tx: ControlRead, environment: Environment, number: int) -> Provider:
    """The provider that was asked. Raises Unauthenticated `login-state` if it was disabled."""
    try:
        return await staff_providers.choose(tx, environment.tenant, number)
    except NotFound:
        raise Unauthenticated("login-state", "The provider was disabled: begin again.") from None


def _of_address(request: Request) -> Counted:
    return _ANYBODY, request.state.address


async def _not_locked(request: Request, counted: Counted) -> None:
    """Raises RateLimited `locked-out`."""
    deps = deps_of(request)
    subject, address = counted
    until = await deps.dbs.control.read(
        lambda tx: lockouts.locked(tx, KIND, subject, address=address)
    )
    if until is not None:
        wait = max(1, int((until - deps.clock.now()).total_seconds()) + 1)
        raise RateLimited("locked-out", "Too many logins failed; wait.", retry_after_seconds=wait)


async def _failed(request: Request, failing: list[Counted], error: PaymasterError) -> None:
    """Count a login that failed, in a transaction of its own: the one that failed is gone."""
    deps = deps_of(request)
    settings = deps.settings.staff
    limit, window = settings.login_failures, timedelta(minutes=settings.login_window_minutes)

    async def work(tx: ControlTx) -> None:
        for subject, address in failing:
            await lockouts.failed(tx, KIND, subject, limit=limit, window=window, address=address)

    log.warning("login_failed", slug=error.slug, origin=origin_of(request))
    await deps.dbs.control.run(_actor(request), trace_of(request), work)


@router.post("/logout")
async def log_out(request: Request) -> Response:
    """End the session. Needs its CSRF token; one that is over already may be ended too."""
    deps = deps_of(request)
    cookie = staff_session.cookie_of(request)
    response = Response(status_code=204)
    if cookie is not None:
        staff_session.check_meant(request, cookie)
        await deps.dbs.control.run(
            _actor(request), trace_of(request), lambda tx: sessions.end(tx, cookie, "logout")
        )
        staff_session.take(response, deps.settings)
    return response


@router.post("/logout-everywhere")
async def log_out_everywhere(request: Request) -> Response:
    """End all sessions of the person, in every environment and browser."""
    found = await _own(request)
    person = found.principal.person_id or 0

    async def work(tx: ControlTx) -> None:
        count = await sessions.end_all(tx, person, "logout-everywhere")
        name = staff.person_text(person)
        await audit.record(
            tx, [audit.Act("staff.logout_everywhere", name, detail={"sessions": count})]
        )

    deps = deps_of(request)
    await deps.dbs.control.run(_as(request, found), trace_of(request), work)
    response = Response(status_code=204)
    staff_session.take(response, deps.settings)
    return response


@router.post("/sessions/{session}/end")
async def end_session(request: Request, session: str) -> Response:
    """End one of the person's own sessions."""
    found = await _own(request)
    number = sessions.session_number(session)
    person = found.principal.person_id or 0

    async def work(tx: ControlTx) -> None:
        await sessions.end_one(tx, person, number, "ended")
        await audit.record(tx, [audit.Act("staff.session_end", session)])

    await deps_of(request).dbs.control.run(_as(request, found), trace_of(request), work)
    return Response(status_code=204)


async def _own(request: Request) -> Resolved:
    found = await staff_session.resolved(request)
    if found is None:
        raise Unauthenticated("session-invalid", "This is no session: log in.")
    request.state.actor = found.principal.actor
    return found


def _as(request: Request, found: Resolved) -> Actor:
    principal = found.principal
    return Actor(principal.actor, origin_of(request), principal.environment_id)


def install(app: Any, deps: Deps) -> None:
    """Let persons log in to an application."""
    serve_routes(app, router)
    app.state.staff_oidc = StaffOidc(deps.http)
