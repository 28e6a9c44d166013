"""A person of the staff logs in at a real OpenID provider, by its form, while its keys rotate."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from tests.oidc_provider import OidcProvider, web_client
from tests.served import Served, serve
from tests.staffing import invite
from tests.world import ACTOR, PostgresServer

from paymaster.api.app import build_api
from paymaster.kernel.clock import WallClock
from paymaster.people import staff_providers
from paymaster.people.staff_roles import Role
from paymaster.secrets.opening import secrets_directory

HERE = "http://127.0.0.1:8080"
BACK = f"{HERE}/staff/callback"
REDIRECTS = 10


@pytest.fixture
async def served(
    postgres: PostgresServer, tmp_path: Path, oidc_provider: OidcProvider
) -> AsyncIterator[Served]:
    """The API with the provider's client set up, and its secret in the store."""
    secret = secrets.token_urlsafe(24)
    async with serve(postgres, tmp_path) as found:
        place = secrets_directory(found.deps.settings) / "staff-login"
        place.touch(0o600)
        place.write_text(secret)
        oidc_provider.configure(clients=[web_client("console", BACK, secret)])
        await found.world.dbs.control.run(
            ACTOR,
            "",
            lambda tx: staff_providers.put(
                tx, "acme", oidc_provider.issuer, "console", secret_name="staff-login"
            ),
        )
        # The provider's tokens are dated by the clock on the wall.
        found.app = build_api(replace(found.deps, clock=WallClock()))
        yield found


def our_side(served: Served) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(served.app, client=("192.0.2.50", 4711))
    return httpx.AsyncClient(transport=transport, base_url=HERE)


async def let_in(address: str, account: str) -> str:
    """What the person does at the provider: the form is filled in; where that leads."""
    async with httpx.AsyncClient(trust_env=False) as browser:
        answer = await browser.get(address)
        for _ in range(REDIRECTS):
            if answer.is_redirect:
                address = str(answer.url.join(answer.headers["location"]))
                if address.startswith(BACK):
                    return address
                answer = await browser.get(address)
            else:
                assert "<form" in answer.text, answer.text
                answer = await browser.post(answer.url, data={"login": account})
    raise AssertionError("the provider never sent the browser back")


async def test_a_person_logs_in_while_keys_rotate(
    served: Served, oidc_provider: OidcProvider
) -> None:
    await invite(served, "anna", Role.FINANCE)
    async with our_side(served) as api:
        for rotates in (False, True):
            asked = await api.get("/staff/login", params={"return_to": "/v1/me"})
            assert asked.headers["location"].startswith(oidc_provider.issuer)
            if rotates:
                # The person is on the way: the keys that we know are gone when we need one.
                oidc_provider.rotate_keys(keep_old=False)
            answer = await let_in(asked.headers["location"], "anna")
            assert httpx.URL(answer).params["iss"] == oidc_provider.issuer
            back = await api.get(answer)
            assert (back.status_code, back.headers["location"]) == (303, "/v1/me"), back.text
            me = (await api.get("/v1/me")).json()
            assert (me["kind"], me["role"]) == ("staff", "finance")
        headers = {"X-CSRF-Token": me["csrf_token"]}
        assert (await api.post("/staff/logout-everywhere", headers=headers)).status_code == 204
        assert (await api.get("/v1/me")).status_code == 401
    assert oidc_provider.counts()["keys"] == 2


async def test_who_was_not_invited_or_is_refused_there(
    served: Served, oidc_provider: OidcProvider
) -> None:
    await invite(served, "anna", Role.FINANCE)
    async with our_side(served) as api:
        for account, status, code in (
            ("bea", 403, "login-not-invited"),
            ("nobody", 401, "login-refused"),
        ):
            asked = await api.get("/staff/login")
            back = await api.get(await let_in(asked.headers["location"], account))
            assert (back.status_code, back.json()["code"]) == (status, code)
            assert (await api.get("/v1/me")).status_code == 401


async def test_a_code_is_worth_nothing_to_another_browser(
    served: Served, oidc_provider: OidcProvider
) -> None:
    """The state is of the browser that asked; with a state of its own it lacks the verifier."""
    await invite(served, "anna", Role.FINANCE)
    async with our_side(served) as api, our_side(served) as thief:
        asked = await api.get("/staff/login")
        answer = await let_in(asked.headers["location"], "anna")
        code = httpx.URL(answer).params["code"]
        own = httpx.URL((await thief.get("/staff/login")).headers["location"]).params["state"]
        for state, slug in (
            (httpx.URL(answer).params["state"], "login-state"),
            (own, "login-refused"),
        ):
            params = {"code": code, "state": state, "iss": oidc_provider.issuer}
            stolen = await thief.get("/staff/callback", params=params)
            assert (stolen.status_code, stolen.json()["code"]) == (401, slug)
            assert (await thief.get("/v1/me")).status_code == 401
