"""A login of the staff: authorization code with PKCE, bound to the browser, taken once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.served import Served, client, serve
from tests.staffing import (
    COOKIE,
    HERE,
    ISSUER,
    LOGIN_COOKIE,
    Provider,
    Walk,
    browser,
    cookie_for,
    invite,
    logged_in,
    provide,
    strange,
)
from tests.world import ACTOR, PostgresServer, owner_rows

from paymaster.people import staff
from paymaster.people.staff_login import local_path
from paymaster.people.staff_roles import Role


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path, staff={"login_failures": 3}) as found:
        yield found


@pytest.fixture
async def provider(served: Served) -> Provider:
    return await provide(served)


async def test_a_login_begins_a_session(served: Served, provider: Provider) -> None:
    await invite(served, "anna", Role.FINANCE)
    async with strange(served.app) as api:
        walk = Walk(api)
        address = await walk.begin(environment="acme/test", return_to="/v1/me/sessions")
        asked = parse_qs(urlsplit(address).query)
        assert address.startswith(f"{ISSUER}/auth?")
        assert asked["code_challenge_method"] == ["S256"]
        assert asked["redirect_uri"] == [f"{HERE}/staff/callback"]
        answer = await walk.back(provider.code(address))
        assert (answer.status_code, answer.headers["location"]) == (303, "/v1/me/sessions")
        given = [one for one in answer.headers.get_list("set-cookie") if one.startswith(COOKIE)]
        assert len(given) == 2
        for part in ("HttpOnly", "Path=/", "SameSite=lax"):
            assert all(part in one for one in given), given
        assert not any("Domain" in one for one in given)
        assert LOGIN_COOKIE not in dict(api.cookies)
        me = (await api.get("/v1/me")).json()
        assert (me["kind"], me["role"]) == ("staff", "finance")
        assert me["environment"] == {"tenant": "acme", "mode": "test"}
        assert me["session"]["origin"] == "192.0.2.50"
        assert provider.forms[0]["redirect_uri"] == f"{HERE}/staff/callback"
    rows = owner_rows(
        served.world,
        "SELECT actor, action, origin FROM control.audit WHERE action IN ('staff.login',"
        " 'staff.bind') ORDER BY ordinal",
    )
    assert rows[-1] == (me["actor"], "staff.login", "192.0.2.50")
    stored = owner_rows(served.world, "SELECT hash FROM control.staff_session")
    cookie = api.cookies[COOKIE]
    assert cookie.encode() not in bytes(stored[0][0])
    assert len(bytes(stored[0][0])) == 32


async def test_the_secure_cookie_carries_the_host_prefix(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with serve(postgres, tmp_path, api={"public_url": "https://pay.example.test"}) as served:
        provider = await provide(served)
        await invite(served, "anna", Role.FINANCE)
        transport = httpx.ASGITransport(served.app)
        async with httpx.AsyncClient(
            transport=transport, base_url="https://pay.example.test"
        ) as api:
            walk = Walk(api)
            answer = await walk.back(provider.code(await walk.begin()))
            [given] = [
                one
                for one in answer.headers.get_list("set-cookie")
                if one.startswith("__Host-paymaster=")
            ]
            assert "Secure" in given
            assert "Path=/" in given
            assert (await api.get("/v1/me")).json()["kind"] == "staff"


async def test_plain_http_elsewhere_cannot_log_in(postgres: PostgresServer, tmp_path: Path) -> None:
    async with serve(postgres, tmp_path, api={"public_url": "http://pay.example.test"}) as served:
        await provide(served)
        await served.refused(400, "login-needs-https", "GET", "/staff/login")


async def test_a_new_login_ends_the_session_before(served: Served, provider: Provider) -> None:
    number = await invite(served, "anna", Role.FINANCE)
    planted = await cookie_for(served, number)
    async with strange(served.app) as api:
        api.cookies.set(COOKIE, planted, domain="127.0.0.1", path="/")
        walk = Walk(api)
        assert (await walk.back(provider.code(await walk.begin()))).status_code == 303
        assert api.cookies[COOKIE] != planted
        assert (await api.get("/v1/me")).json()["role"] == "finance"
    async with browser(served, planted) as before:
        assert (await before.get("/v1/me")).json()["code"] == "session-ended"


async def test_an_answer_is_only_for_the_browser_that_asked(
    served: Served, provider: Provider
) -> None:
    await invite(served, "anna", Role.FINANCE)
    async with strange(served.app) as api, strange(served.app, "192.0.2.51") as other:
        walk = Walk(api)
        code = provider.code(await walk.begin())
        for state in (walk.state, "x" * 43, ""):
            params = {"code": code, "state": state, "iss": ISSUER}
            answer = await other.get("/staff/callback", params=params)
            assert (answer.status_code, answer.json()["code"]) == (401, "login-state")
        assert (await api.get("/v1/me")).status_code == 401
        assert provider.forms == []


async def test_a_cookie_that_was_changed_is_nothing(served: Served, provider: Provider) -> None:
    await invite(served, "anna", Role.FINANCE)
    async with strange(served.app) as api:
        walk = Walk(api)
        code = provider.code(await walk.begin())
        value = api.cookies[LOGIN_COOKIE]
        other = "B" if value.startswith("A") else "A"
        for changed in (value[:-6] + "AAAAAA", other + value[1:], "!", ""):
            api.cookies.clear()
            api.cookies.set(LOGIN_COOKIE, changed, domain="127.0.0.1")
            async with strange(served.app, "192.0.2.77") as fresh:
                fresh.cookies = api.cookies
                params = {"code": code, "state": walk.state, "iss": ISSUER}
                answer = await fresh.get("/staff/callback", params=params)
                if answer.status_code == 429:
                    continue
                assert answer.json()["code"] == "login-state", changed


async def test_an_answer_is_taken_once(served: Served, provider: Provider) -> None:
    await invite(served, "anna", Role.FINANCE)
    async with strange(served.app) as api:
        walk = Walk(api)
        code = provider.code(await walk.begin())
        kept = api.cookies[LOGIN_COOKIE]
        assert (await walk.back(code)).status_code == 303
        api.cookies.set(LOGIN_COOKIE, kept, domain="127.0.0.1")
        again = await walk.back(code)
        assert (again.status_code, again.json()["code"]) == (401, "login-replayed")
        assert len(provider.forms) == 1


async def test_a_code_that_was_used_is_refused(served: Served, provider: Provider) -> None:
    await invite(served, "anna", Role.FINANCE)
    async with strange(served.app) as api:
        first = Walk(api)
        code = provider.code(await first.begin())
        assert (await first.back(code)).status_code == 303
        second = Walk(api)
        await second.begin()
        answer = await second.back(code)
        assert (answer.status_code, answer.json()["code"]) == (401, "login-refused")


async def test_a_login_takes_ten_minutes_at_most(served: Served, provider: Provider) -> None:
    await invite(served, "anna", Role.FINANCE)
    async with strange(served.app) as api:
        walk = Walk(api)
        code = provider.code(await walk.begin())
        served.world.clock.advance(timedelta(minutes=10))
        assert (await walk.back(code)).json()["code"] == "login-expired"


async def test_an_answer_of_another_provider_is_refused(served: Served, provider: Provider) -> None:
    await invite(served, "anna", Role.FINANCE)
    async with strange(served.app) as api:
        for named in ("https://evil.example.test", None):
            walk = Walk(api)
            answer = await walk.back(provider.code(await walk.begin()), iss=named)
            assert (answer.status_code, answer.json()["code"]) == (401, "login-mixed-up")
            assert provider.forms == []
    provider = await provide(served)
    provider.names_itself = False
    async with strange(served.app, "192.0.2.51") as api:
        walk = Walk(api)
        answer = await walk.back(provider.code(await walk.begin()), iss="https://evil.example.test")
        assert answer.json()["code"] == "login-mixed-up"
        walk = Walk(api)
        assert (await walk.back(provider.code(await walk.begin()), iss=None)).status_code == 303


NOT_OURS: list[tuple[dict[str, Any], str]] = [
    ({"nonce": "of another login"}, "token-invalid"),
    ({"aud": "another-client"}, "token-invalid"),
    ({"aud": ["paymaster", "other"]}, "token-invalid"),
    ({"azp": "other"}, "token-invalid"),
    ({"iss": "https://evil.example.test"}, "token-invalid"),
    ({"exp": 1}, "token-expired"),
    ({"sub": ""}, "token-invalid"),
    ({"email_verified": False}, "login-email-unverified"),
    ({"email_verified": "true"}, "login-email-unverified"),
    ({"email": "bea@example.test"}, "login-not-invited"),
    ({"email": "anna@example.test\u0000"}, "login-not-invited"),
]


async def test_the_id_token_must_be_ours(served: Served, provider: Provider) -> None:
    await invite(served, "anna", Role.FINANCE)
    for number, (claims, code) in enumerate(NOT_OURS):
        provider.claims = {"sub": f"u-{number}", **claims}
        async with strange(served.app, f"192.0.2.{number + 100}") as api:
            walk = Walk(api)
            answer = await walk.back(provider.code(await walk.begin()))
            assert answer.json()["code"] == code, claims
            assert (await api.get("/v1/me")).status_code == 401
    assert owner_rows(served.world, "SELECT 1 FROM control.person_identity") == []


async def test_keys_that_rotate_are_found(served: Served, provider: Provider) -> None:
    await invite(served, "anna", Role.FINANCE)
    async with strange(served.app) as api:
        for _ in range(2):
            walk = Walk(api)
            assert (await walk.back(provider.code(await walk.begin()))).status_code == 303
            provider.rotate()


async def test_an_address_that_changes_hands_does_not(served: Served, provider: Provider) -> None:
    """Bound once, the account counts: who gets the address later is somebody else."""
    await invite(served, "anna", Role.FINANCE)
    await (await logged_in(served, provider)).aclose()
    provider.claims = {"sub": "u-2"}
    async with strange(served.app) as api:
        walk = Walk(api)
        answer = await walk.back(provider.code(await walk.begin()))
        assert (answer.status_code, answer.json()["code"]) == (403, "login-other-account")
    provider.claims = {"email": "anna.new@example.test", "email_verified": False}
    await (await logged_in(served, provider)).aclose()


async def test_addresses_elsewhere_and_groups(served: Served) -> None:
    provider = await provide(
        served,
        email_domains=["example.test"],
        groups_claim="groups",
        group_roles={"money": "finance", "boss": "admin"},
    )
    provider.claims = {"email": "eve@other.test", "groups": ["money"]}
    async with strange(served.app) as api:
        walk = Walk(api)
        answer = await walk.back(provider.code(await walk.begin()))
        assert answer.json()["code"] == "login-not-invited"
        for groups, role in ((["money", "x"], "finance"), (["money", "boss"], "admin")):
            provider.claims = {"groups": groups}
            walk = Walk(api)
            assert (await walk.back(provider.code(await walk.begin()))).status_code == 303
            assert (await api.get("/v1/me")).json()["role"] == role
        provider.claims = {"groups": ["nothing"]}
        walk = Walk(api)
        answer = await walk.back(provider.code(await walk.begin()))
        assert answer.json()["code"] == "login-not-invited"


async def test_a_disabled_person_is_refused(served: Served, provider: Provider) -> None:
    number = await invite(served, "anna", Role.FINANCE)
    environment = served.deps.dbs.environment(1)
    await served.world.dbs.control.run(
        ACTOR, "", lambda tx: staff.disable(tx, environment, number, "left", everywhere=True)
    )
    async with strange(served.app) as api:
        walk = Walk(api)
        answer = await walk.back(provider.code(await walk.begin()))
        assert (answer.status_code, answer.json()["code"]) == (403, "person-disabled")


async def test_a_provider_that_is_down_locks_nobody_out(served: Served, provider: Provider) -> None:
    await invite(served, "anna", Role.FINANCE)
    async with strange(served.app) as api:
        walk = Walk(api)
        code = provider.code(await walk.begin())
        provider.down = True
        answer = await walk.back(code)
        assert (answer.status_code, answer.json()["code"]) == (503, "login-provider-unavailable")
        assert answer.headers["retry-after"]
    assert owner_rows(served.world, "SELECT 1 FROM control.lockout") == []


ELSEWHERE = (
    "//evil.test",
    "/\\evil.test",
    "https://evil.test",
    "evil",
    "",
    "/a\\b",
    "/a\r\nX: y",
    "/a b",
)


async def test_only_local_paths_are_returned_to(served: Served, provider: Provider) -> None:
    for path in ELSEWHERE:
        params = {"return_to": path}
        await served.refused(400, "return-address", "GET", "/staff/login", params=params)
    assert provider.forms == []


@pytest.mark.parametrize("path", ["/", "/v1/me", "/console/cases?state=open#top"])
def test_a_local_path_is_taken(path: str) -> None:
    assert local_path(path) == path


async def test_which_environment_and_provider(served: Served) -> None:
    await served.refused(404, "login-not-set-up", "GET", "/staff/login")
    await provide(served)
    await served.refused(
        400, "login-environment", "GET", "/staff/login", params={"environment": "other/live"}
    )


async def test_one_of_several_providers_is_named(served: Served, provider: Provider) -> None:
    from paymaster.people import staff_providers

    second = await served.world.dbs.control.run(
        ACTOR, "", lambda tx: staff_providers.put(tx, "acme", ISSUER, "second")
    )
    await served.refused(400, "login-provider-ambiguous", "GET", "/staff/login")
    async with client(served.app) as api:
        answer = await api.get("/staff/login", params={"provider": second.text})
        assert "client_id=second" in answer.headers["location"]
    assert provider.forms == []
