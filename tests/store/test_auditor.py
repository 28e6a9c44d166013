"""An auditor reads everything and changes nothing: every route there is, by the route table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from tests.served import Served, serve
from tests.staffing import inner, person
from tests.walking import ROUTES as DOCUMENTED
from tests.walking import asked, furnish
from tests.world import PostgresServer, owner_rows

from paymaster.people.staff_roles import Role

OPEN = {
    "/staff/login", "/staff/callback", "/oauth/token", "/healthz", "/readyz", "/metrics",
    "/v1/links/callback/{provider}",
}  # fmt: skip
"""Addresses that ask for nobody."""

OWN = {"/staff/logout", "/staff/logout-everywhere", "/staff/sessions/{session}/end"}
"""To end one's own session changes nothing of the company's."""


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    networks = {"allowed_networks": ["127.0.0.0/8"]}
    async with serve(postgres, tmp_path, webhooks=networks) as found:
        yield found


NOTHING_THERE = {
    "/v1/days/{day}": 404,
    "/v1/withdrawals/{withdrawal}/receipt": 409,
    "/v1/withdrawals/{withdrawal}/provider-receipt": 403,
    "/v1/withdrawals/{withdrawal}/confirmation": 403,
    "/v1/me/withdrawals/{withdrawal}/confirmation": 403,
    "/v1/destinations/{destination}/consent": 403,
    "/v1/me/links": 403,
    "/v1/me/money": 403,
    "/v1/me/stream": 403,
    "/v1/topups/{topup}/qr.{form}": 409,
}
"""What there is nothing to read of: no day is closed, nothing was paid, only a payee opens the
provider's page, no earner calls, and the top-up is closed."""


def routes(served: Served) -> list[tuple[str, str]]:
    """All addresses of the running application, not only those of the document."""
    return [
        (method, route.path)
        for route in inner(served).routes
        if isinstance(route, APIRoute) and route.path not in OPEN | OWN
        for method in sorted(route.methods or ())
    ]


def state(served: Served) -> list[tuple[object, ...]]:
    """How far everything that is recorded has come."""
    return [
        *owner_rows(served.world, "SELECT seq FROM control.head"),
        *owner_rows(served.world, "SELECT seq FROM cell_1.head"),
    ]


async def test_an_auditor_reads_everything_and_changes_nothing(served: Served) -> None:
    names = (await furnish(served)).real
    documented = {(one.method, one.path): one for one in DOCUMENTED}
    found = routes(served)
    assert sum(method == "GET" for method, _ in found) > 25
    assert len(found) > 80
    async with person(served, "otto", Role.AUDITOR) as auditor:
        before = state(served)
        for method, path in found:
            if (method, path) not in documented:
                assert method == "GET", f"{method} {path} is outside the document"
                assert (await auditor.get(path)).is_success, path
                continue
            request = asked(documented[method, path], names)
            answer = await auditor.request(method, request.path, **request.parts())
            if method == "GET":
                expected = NOTHING_THERE.get(path, 200)
                assert answer.status_code == expected, (path, answer.text[:300])
            else:
                code = answer.json().get("code")
                assert (answer.status_code, code) == (403, "scope-missing"), (method, path)
        assert state(served) == before


async def test_the_walk_finds_a_route_that_lets_somebody_act(served: Served) -> None:
    """The walk itself: with another role there is something to find."""
    names = (await furnish(served)).real
    async with person(served, "anna", Role.SUPPORT) as support:
        let_in: set[str] = set()
        for route in DOCUMENTED:
            request = asked(route, names)
            if route.method == "PUT":
                answer = await support.put(request.path, **request.parts())
                if answer.json().get("code") != "scope-missing":
                    let_in.add(route.path)
    assert "/v1/users/{user}" in let_in
    assert "/v1/screening/rules" not in let_in
