"""Attacks by callers who are somebody: keys, tokens and names that reach for what is not theirs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tests.desk import REASON, Desk, code, in_review
from tests.served import IBAN, Served, client, earner, serve
from tests.staffing import Provider, invite, logged_in, provide, strange
from tests.store.test_edge import USERS, from_address, guess
from tests.withdrawals import state_of
from tests.world import PostgresServer

from paymaster.api.guesses import OF_ADDRESS
from paymaster.people.scopes import SCOPES
from paymaster.people.staff import person_text
from paymaster.people.staff_roles import Role


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as found:
        yield found


@pytest.fixture
async def desk(served: Served) -> AsyncIterator[Desk]:
    made = Desk(served)
    yield made
    for one in made.open:
        await one.aclose()


async def asked(api: httpx.AsyncClient, destination: str, user: str = "me") -> httpx.Response:
    body = {
        "user": user,
        "destination": destination,
        "amount": {"amount": "2.00", "currency": "EUR"},
    }
    return await api.post("/v1/withdrawals", json=body, headers={"Idempotency-Key": "one"})


async def test_a_key_for_users_mints_no_token_that_withdraws(served: Served) -> None:
    target = await earner(served)
    weak = await served.key(["users"])
    async with client(served.app, weak) as server:
        assert code(await asked(server, target["id"], "anna")) == (403, "scope-missing")
        made = (await server.post("/v1/users/anna/tokens")).json()
    async with client(served.app, made["token"]) as anna:
        assert code(await asked(anna, target["id"])) == (403, "scope-missing")
        assert code(await anna.get("/v1/users/me/balances")) == (403, "scope-missing")
        assert (await anna.post("/v1/users/me/destinations", json=IBAN)).status_code == 200


async def test_a_narrowed_access_token_mints_no_wider_token(served: Served) -> None:
    target = await earner(served)
    key = served.api.headers["authorization"].removeprefix("Bearer ")
    answer = await served.api.post(
        "/oauth/token",
        data={"grant_type": "client_credentials", "scope": "read users"},
        auth=(key[:16], key[17:]),
    )
    async with client(served.app, answer.json()["access_token"]) as server:
        made = (await server.post("/v1/users/anna/tokens")).json()
    async with client(served.app, made["token"]) as anna:
        assert (await anna.get("/v1/users/me/balances")).status_code == 200
        assert code(await asked(anna, target["id"])) == (403, "scope-missing")


async def test_a_disabled_admin_does_not_come_back_by_a_key(served: Served, desk: Desk) -> None:
    anna = await invite(served, "anna", Role.ADMIN)
    bea = await desk.session("bea", Role.ADMIN)
    session = await desk.again(anna)
    made = await session.post("/v1/keys", json={"name": "x", "scopes": list(SCOPES)})
    _, number, path = await in_review(served)
    name = person_text(anna)
    async with client(served.app, made.json()["key"]) as key:
        assert (
            await key.post(f"/v1/staff/{name}/role", json={"role": "admin", **REASON})
        ).is_success
        assert (await bea.post(f"/v1/staff/{name}/disable", json=REASON)).is_success
        for attempt in (
            key.post(f"/v1/staff/{name}/enable", json=REASON),
            key.post("/v1/keys", json={"name": "y", "scopes": ["staff"]}),
            key.post(f"{path}/approve", json=REASON),
        ):
            assert code(await attempt) == (403, "person-needed")
    assert await state_of(served.world, number) == "in_review"
    [act] = (await bea.get("/v1/audit", params={"action": "staff.disable"})).json()["data"]
    assert act["detail"]["keys"] == [made.json()["prefix"]], "named, so that they are revoked"


async def test_a_key_does_no_more_of_the_staffs_work_than_its_owner_may_now(
    served: Served, desk: Desk
) -> None:
    anna = await invite(served, "anna", Role.ADMIN)
    bea = await desk.session("bea", Role.ADMIN)
    key = await desk.key(anna)
    assert (await key.get("/v1/audit")).is_success
    changed = await bea.post(f"/v1/staff/{person_text(anna)}/role", json={"role": "risk", **REASON})
    assert changed.is_success
    assert code(await key.get("/v1/audit")) == (403, "person-needed")
    assert code(await key.post("/v1/keys", json={"name": "y", "scopes": ["read"]})) == (
        403,
        "person-needed",
    )
    put = await key.put(
        "/v1/four-eyes-limits/transfer.request/EUR",
        json={"limit": {"amount": "9.00", "currency": "EUR"}, **REASON},
    )
    assert code(put) == (403, "person-needed")
    _, number, path = await in_review(served)
    assert (await key.post(f"{path}/approve", json=REASON)).is_success
    assert await state_of(served.world, number) == "approved"


async def test_nobody_is_made_under_the_name_of_an_id_of_ours(served: Served) -> None:
    victim = (await earner(served))["user"]
    await served.refused(400, "external-id-malformed", "PUT", f"/v1/users/{victim}", {})
    await served.refused(400, "external-id-malformed", "PUT", f"/v1/users/{victim[:-1]}Z", {})
    assert (await served.ok("GET", f"/v1/users/{victim}"))["external_id"] == "anna"


@pytest.mark.parametrize(("first", "second"), [("g:", "g:o:"), ("g:o:", "g:")])
async def test_an_issuer_names_no_users_of_another_by_a_longer_prefix(
    served: Served, first: str, second: str
) -> None:
    asked = {"audiences": ["app"]}
    one = {"url": "https://one.example.com", "user_prefix": first, **asked}
    await served.ok("POST", "/v1/issuers", one)
    two = {"url": "https://two.example.com", "user_prefix": second, **asked}
    await served.refused(422, "issuer-exists", "POST", "/v1/issuers", two)
    # Without a prefix it is believed about everybody; that is documented.
    await served.ok("POST", "/v1/issuers", {**two, "user_prefix": ""})


async def test_guesses_lock_out_no_earner_behind_the_same_address(served: Served) -> None:
    await served.ok("PUT", "/v1/users/anna", {})
    token = (await served.ok("POST", "/v1/users/anna/tokens"))["token"]
    for number in range(OF_ADDRESS):
        await guess(served, "192.0.2.66", f"pk_test_{number:08x}_{'x' * 43}", 1)
    async with from_address(served.app, "192.0.2.66", token) as anna:
        assert (await anna.get("/v1/users/me")).status_code == 200
    async with from_address(served.app, "192.0.2.66", await served.key()) as guesser:
        assert (await guesser.get(USERS)).json()["code"] == "locked-out"


async def test_a_hidden_frame_cannot_lock_a_person_out(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """A frame is navigated too, but by a page and not by the person."""
    async with serve(postgres, tmp_path, staff={"login_failures": 3}) as served:
        provider: Provider = await provide(served)
        await invite(served, "anna", Role.FINANCE)
        async with strange(served.app) as api:
            for _ in range(5):
                answer = await api.get(
                    "/staff/callback",
                    params={"state": "x"},
                    headers={"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
                )
                assert answer.status_code == 401
        await (await logged_in(served, provider)).aclose()


async def test_a_key_for_persons_alone_makes_nobody_who_may_more(served: Served) -> None:
    boss = await invite(served, "boss", Role.ADMIN)
    person = {"email": "eve@example.test", "name": "Eve", **REASON}
    async with client(
        served.app, await served.key(["staff", "read", "audit", "holds:read"])
    ) as key:
        for role in ("admin", "finance", "support"):
            answer = await key.post("/v1/staff", json={**person, "role": role})
            assert code(answer) == (403, "scope-missing")
        made = (await key.post("/v1/staff", json={**person, "role": "auditor"})).json()
        path = f"/v1/staff/{made['id']}"
        for call in (
            key.post(f"{path}/role", json={"role": "admin", **REASON}),
            key.post(f"{path}/break-glass", json={"role": "finance", "minutes": 5, **REASON}),
            key.post("/v1/issuers", json={"url": "https://eve.example.com", "audiences": ["x"]}),
        ):
            assert code(await call) == (403, "scope-missing")
    assert (await served.ok("GET", f"/v1/staff/{person_text(boss)}"))["role"] == "admin"
