"""The cookie of a session of the staff: who it is, and whether the act was meant.

A browser sends cookies with whatever any page makes it ask for. So an act (all but GET and HEAD)
needs the session's CSRF token in a header, which other pages cannot read, and must not say that it
comes from another origin.
"""

from __future__ import annotations

from datetime import timedelta
from typing import cast
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from paymaster.compose import Deps
from paymaster.kernel.errors import Forbidden, Refusal
from paymaster.people import sessions
from paymaster.people.oidc_keys import is_loopback
from paymaster.people.principal import Principal
from paymaster.people.sessions import Lifetimes, Resolved
from paymaster.settings import Settings

CSRF_HEADER = "x-csrf-token"
_SAFE = frozenset({"GET", "HEAD"})
COOKIE = "__Host-paymaster"
"""The name of the cookie where the API is reached by https."""

_SECURE, _PLAIN = COOKIE, "paymaster-local"


def _deps(request: HTTPConnection) -> Deps:
    return cast("Deps", request.app.state.deps)


def lifetimes(settings: Settings) -> Lifetimes:
    """How long sessions live."""
    staff = settings.staff
    return Lifetimes(
        timedelta(minutes=staff.session_idle_minutes), timedelta(hours=staff.session_hours)
    )


def secure(settings: Settings) -> bool:
    """Whether cookies are for https alone; without it only on this machine.

    Raises Refusal `login-needs-https` when the public address is plain http elsewhere.
    """
    address = urlsplit(settings.api.public_url)
    if address.scheme == "https":
        return True
    if not is_loopback(address.hostname or ""):
        raise Refusal("login-needs-https", "Persons can only log in when api.public_url is https.")
    return False


def cookie_of(request: HTTPConnection) -> str | None:
    """What the browser holds, as it came."""
    https = urlsplit(_deps(request).settings.api.public_url).scheme == "https"
    return request.cookies.get(_SECURE if https else _PLAIN)


def give(response: Response, settings: Settings, cookie: str, suffix: str = "") -> None:
    """Have the browser hold a session, or with a suffix something else of the same kind."""
    https = secure(settings)
    name = (_SECURE if https else _PLAIN) + suffix
    response.set_cookie(name, cookie, path="/", secure=https, httponly=True, samesite="lax")


def take(response: Response, settings: Settings, suffix: str = "") -> None:
    """Have the browser forget it."""
    https = secure(settings)
    name = (_SECURE if https else _PLAIN) + suffix
    response.delete_cookie(name, path="/", secure=https, httponly=True, samesite="lax")


def held(request: HTTPConnection, suffix: str) -> str | None:
    """What the browser holds under a suffix."""
    https = secure(_deps(request).settings)
    return request.cookies.get((_SECURE if https else _PLAIN) + suffix)


async def resolved(request: Request) -> Resolved | None:
    """The session of a request; None without a cookie.

    Raises Unauthenticated `session-invalid`, `session-expired`, `session-ended`; Forbidden
    `origin-foreign`, `csrf-invalid`.
    """
    cookie = cookie_of(request)
    if cookie is None:
        return None
    deps = _deps(request)
    found = await sessions.resolve(deps.dbs, cookie, lifetimes(deps.settings))
    check_meant(request, cookie)
    request.state.session = found
    return found


async def by_cookie(request: Request) -> Principal | None:
    """Whose session came with a request; raises as `resolved` does."""
    found = await resolved(request)
    return None if found is None else found.principal


def check_meant(request: Request, cookie: str) -> None:
    """Whether an act was meant by whoever has the session; GET and HEAD change nothing.

    Raises Forbidden `origin-foreign`, `csrf-invalid`.
    """
    if request.method in _SAFE:
        return
    address = urlsplit(_deps(request).settings.api.public_url)
    own = f"{address.scheme}://{address.netloc}"
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site not in (None, "same-origin") or origin not in (None, own):
        raise Forbidden("origin-foreign", "This act was asked for by a page of another origin.")
    if not sessions.csrf_fits(cookie, request.headers.get(CSRF_HEADER, "")):
        raise Forbidden(
            "csrf-invalid", "Send the session's token, shown by GET /v1/me, in X-CSRF-Token."
        )
