"""An installation and an issuer to attack, and what must come of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.issuers import LocalIssuer, local_issuer, trusted
from tests.served import Served, client, serve
from tests.world import PostgresServer


@asynccontextmanager
async def attacked(
    postgres: PostgresServer, folders: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    """An installation where nobody is told to come more slowly."""
    limits = {"address_requests_per_minute": 1_000_000, "user_requests_per_minute": 1_000_000}
    async with serve(postgres, folders.mktemp("attacks"), limits=limits) as found:
        yield found


@asynccontextmanager
async def trusted_issuer(served: Served) -> AsyncIterator[LocalIssuer]:
    """An issuer that the first environment trusts, for a test."""
    with local_issuer() as found:
        async with trusted(served, found.url):
            yield found


async def refused(
    served: Served, token: str, code: str = "token-invalid", path: str = "/v1/users/me"
) -> None:
    """Whoever comes with it is nobody."""
    async with client(served.app, token) as anybody:
        answer = await anybody.get(path)
    assert (answer.status_code, answer.json()["code"]) == (401, code), answer.text
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def taken(served: Served, token: str, name: str = "anna") -> str:
    """The user whom a token logs in; our id of him."""
    async with client(served.app, token) as earner:
        answer = await earner.get("/v1/users/me")
    assert (answer.status_code, answer.json().get("external_id")) == (200, name), answer.text
    found: str = answer.json()["id"]
    return found


def honest(served: Served, issuer: LocalIssuer, **more: Any) -> dict[str, Any]:
    return issuer.claims(served.deps.clock.now(), **more)
