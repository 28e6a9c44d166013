"""Who calls: the same question for a server, an earner and a person of the staff."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from paymaster.api import staff_session
from paymaster.api.context import OwnReads
from paymaster.api.door import Door
from paymaster.api.models import Reply
from paymaster.api.shapes_staff import MeOut, SessionsOut
from paymaster.kernel.errors import Forbidden
from paymaster.kernel.ids import text_id
from paymaster.people import sessions
from paymaster.people.sessions import Resolved
from paymaster.people.staff import person_text

router = APIRouter(route_class=Door, tags=["me"])


@router.get("/v1/me", response_model=MeOut)
async def get_me(call: OwnReads, request: Request) -> Reply:
    """Who the caller is, and what the caller may do here."""
    principal, environment = call.principal, call.environment
    user, person = principal.user, principal.person_id
    session = _session(request)
    cookie = staff_session.cookie_of(request) if session is not None else None
    said: dict[str, Any] = {
        "kind": principal.kind,
        "actor": principal.actor,
        "environment": {"tenant": environment.tenant, "mode": environment.mode},
        "scopes": sorted(principal.scopes),
        "person": None if person is None else person_text(person),
        "user": None if user is None else text_id("us", user.cell, user.id),
        "role": None if session is None else session.role,
        "break_glass": [] if session is None else list(session.lent),
        "session": None if session is None else session.session.wire(current=True),
        "csrf_token": None if cookie is None else sessions.csrf_token(cookie),
    }
    return Reply(said)


def _session(request: Request) -> Resolved | None:
    found: object = getattr(request.state, "session", None)
    return found if isinstance(found, Resolved) else None


@router.get("/v1/me/sessions", response_model=SessionsOut)
async def list_sessions(call: OwnReads, request: Request) -> Reply:
    """A person's own open sessions. `POST /staff/sessions/{id}/end` ends one."""
    session = _session(request)
    if session is None:
        raise Forbidden("staff-only", "Only persons who have logged in have sessions.")
    lifetimes = staff_session.lifetimes(call.deps.settings)
    person = session.session.person_id
    found = await call.look(lambda tx: sessions.listing(tx, person, lifetimes))
    return Reply({"data": [one.wire(current=one.id == session.session.id) for one in found]})
