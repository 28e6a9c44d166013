"""Persons, roles and sessions: who may do what, until when, and what pages may make them do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.served import Served, client, earner, serve
from tests.staffing import (
    COOKIE,
    LIFETIMES,
    browser,
    cookie_for,
    invite,
    person,
)
from tests.world import ACTOR, PostgresServer, owner_rows

from paymaster.api.app import ROUTERS
from paymaster.api.door import scope_of
from paymaster.api.openapi import api_routes
from paymaster.db.tx import ControlTx
from paymaster.kernel.errors import Conflict, Forbidden
from paymaster.people import sessions, staff
from paymaster.people.staff_roles import SCOPES_OF, Role

REASON = {"reason": "test"}


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as found:
        yield found


async def control(served: Served, work):
    return await served.world.dbs.control.run(ACTOR, "", work)


def test_roles_may_do_what_is_documented() -> None:
    assert {role.value: sorted(SCOPES_OF[role]) for role in Role if role != Role.ADMIN} == {
        "support": ["read", "users"],
        "finance": ["holds:read", "operate", "read", "withdrawals"],
        "risk": ["holds:read", "operate", "read", "risk"],
        "auditor": ["audit", "holds:read", "read"],
    }
    scopes = {scope_of(route) for route in api_routes(ROUTERS)}
    assert {scope for scope in scopes if scope} <= SCOPES_OF[Role.ADMIN]


async def test_a_session_ends_by_itself(served: Served) -> None:
    number = await invite(served, "anna", Role.FINANCE)
    clock = served.world.clock
    async with browser(served, await cookie_for(served, number)) as api:
        for _ in range(3):
            clock.advance(timedelta(minutes=29))
            assert (await api.get("/v1/me")).status_code == 200
        clock.advance(timedelta(minutes=30))
        answer = await api.get("/v1/me")
        assert (answer.status_code, answer.json()["code"]) == (401, "session-expired")
    async with browser(served, await cookie_for(served, number)) as api:
        for _ in range(28):
            clock.advance(timedelta(minutes=25))
            assert (await api.get("/v1/me")).status_code == 200
        clock.advance(timedelta(minutes=20))
        assert (await api.get("/v1/me")).json()["code"] == "session-expired"
    async with browser(served, "x" * 43) as api:
        assert (await api.get("/v1/me")).json()["code"] == "session-invalid"
    async with browser(served, "short") as api:
        assert (await api.get("/v1/me")).json()["code"] == "session-invalid"


async def test_a_session_ends_with_the_role_and_the_person(served: Served) -> None:
    environment = served.deps.dbs.environment(1)
    async with person(served, "boss", Role.ADMIN) as boss:
        number = await invite(served, "anna", Role.FINANCE)
        name = staff.person_text(number)
        for path, body in (
            ("role", {"role": "support", **REASON}),
            ("disable", REASON),
            ("remove", REASON),
        ):
            cookie = await cookie_for(served, number)
            async with browser(served, cookie) as api:
                assert (await api.get("/v1/me")).status_code == 200
                answer = await boss.post(f"/v1/staff/{name}/{path}", json=body)
                assert answer.is_success, answer.text
                assert (await api.get("/v1/me")).json()["code"] == "session-ended"
            if path == "disable":
                # Also a session that is still open in the table is nothing for a disabled person.
                async with browser(served, await cookie_for(served, number)) as api:
                    assert (await api.get("/v1/me")).json()["code"] == "session-ended"
                assert (await boss.post(f"/v1/staff/{name}/enable", json=REASON)).is_success
        assert (await boss.get(f"/v1/staff/{name}")).status_code == 404
    with pytest.raises(Conflict):
        await control(
            served, lambda tx: staff.add(tx, environment, "boss@example.test", "b", Role.RISK, "x")
        )


async def test_logging_out(served: Served) -> None:
    number = await invite(served, "anna", Role.FINANCE)
    first, second, third = [await cookie_for(served, number) for _ in range(3)]
    async with browser(served, first) as api, browser(served, second) as other:
        known = (await api.get("/v1/me/sessions")).json()["data"]
        assert [one["current"] for one in known].count(True) == 1
        assert len(known) == 3
        stranger = await invite(served, "bea", Role.FINANCE)
        async with browser(served, await cookie_for(served, stranger)) as bea:
            answer = await bea.post(f"/staff/sessions/{known[0]['id']}/end")
            assert answer.status_code == 404
        answer = await api.post("/staff/logout")
        assert answer.status_code == 204
        assert f'{COOKIE}=""' in answer.headers["set-cookie"]
        assert (await api.get("/v1/me")).json()["code"] == "session-ended"
        assert (await other.get("/v1/me")).status_code == 200
        assert (await other.post("/staff/logout-everywhere")).status_code == 204
        assert (await other.get("/v1/me")).status_code == 401
    async with browser(served, third) as api:
        assert (await api.get("/v1/me")).json()["code"] == "session-ended"
    async with browser(served, await cookie_for(served, number)) as api:
        one = (await api.get("/v1/me/sessions")).json()["data"][0]["id"]
        assert (await api.post(f"/staff/sessions/{one}/end")).status_code == 204
        assert (await api.get("/v1/me")).status_code == 401


async def test_an_act_must_be_meant(served: Served) -> None:
    number = await invite(served, "anna", Role.SUPPORT)
    cookie, other = await cookie_for(served, number), await cookie_for(served, number)
    own = "http://127.0.0.1:8080"
    async with browser(served, cookie) as api:
        for headers, code in (
            ({"X-CSRF-Token": ""}, "csrf-invalid"),
            ({"X-CSRF-Token": sessions.csrf_token(other)}, "csrf-invalid"),
            ({"Origin": "https://evil.test"}, "origin-foreign"),
            ({"Origin": "null"}, "origin-foreign"),
            ({"Sec-Fetch-Site": "cross-site"}, "origin-foreign"),
            ({"Sec-Fetch-Site": "same-site"}, "origin-foreign"),
        ):
            for path in ("/v1/users/u/destinations", "/staff/logout", "/staff/logout-everywhere"):
                answer = await api.post(path, json={}, headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (403, code), (headers, path)
        headers = {"Origin": own, "Sec-Fetch-Site": "same-origin"}
        assert (await api.put("/v1/users/u", json={}, headers=headers)).status_code == 201
        del api.headers["X-CSRF-Token"]
        assert (await api.get("/v1/users/u")).status_code == 200
        assert (await api.put("/v1/users/u", json={})).json()["code"] == "csrf-invalid"


async def test_a_key_beside_a_cookie_counts_alone(served: Served) -> None:
    async with person(served, "boss", Role.ADMIN) as api:
        key = await served.key(["read"])
        headers = {"Authorization": f"Bearer {key}"}
        me = (await api.get("/v1/me", headers=headers)).json()
        assert (me["kind"], me["scopes"], me["csrf_token"]) == ("server", ["read"], None)
        assert (await api.get("/v1/staff", headers=headers)).status_code == 403
        assert (await api.get("/v1/me/sessions", headers=headers)).json()["code"] == "staff-only"


async def test_who_is_here(served: Served) -> None:
    async with person(served, "boss", Role.ADMIN) as boss:
        body = {"email": "Anna@Example.test ", "name": "Anna", "role": "finance", **REASON}
        made = (await boss.post("/v1/staff", json=body)).json()
        assert made["email"] == "anna@example.test"
        again = await boss.post("/v1/staff", json=body)
        assert (again.status_code, again.json()["code"]) == (409, "staff-exists")
        for wrong in ({"email": "no address"}, {"name": "\u0007"}):
            answer = await boss.post("/v1/staff", json={**body, **wrong})
            assert answer.json()["code"] == "staff-invalid", answer.text
        data = (await boss.get("/v1/staff")).json()["data"]
        assert [(one["name"], one["role"]) for one in data] == [
            ("boss", "admin"),
            ("Anna", "finance"),
        ]
        assert (await boss.get("/v1/staff/pe_0100000000000ZZ")).status_code == 404
        assert (await boss.get("/v1/identity-providers")).json() == {"data": []}
    events = owner_rows(
        served.world,
        "SELECT payload ->> 'act' FROM control.outbox WHERE topic = 'security.staff_changed'",
    )
    assert events == [("staff.add",), ("staff.add",)]


async def test_the_last_admin_stays(served: Served) -> None:
    number = await invite(served, "boss", Role.ADMIN)
    name = staff.person_text(number)
    async with browser(served, await cookie_for(served, number)) as boss:
        for path, body in (
            ("disable", REASON),
            ("remove", REASON),
            ("role", {"role": "auditor", **REASON}),
        ):
            answer = await boss.post(f"/v1/staff/{name}/{path}", json=body)
            assert (answer.status_code, answer.json()["code"]) == (409, "last-admin")
        second = await invite(served, "second", Role.ADMIN)
        answer = await boss.post(f"/v1/staff/{staff.person_text(second)}/disable", json=REASON)
        assert answer.is_success
        answer = await boss.post(f"/v1/staff/{name}/disable", json=REASON)
        assert answer.json()["code"] == "last-admin"


async def test_two_admins_who_disable_each_other_at_once(served: Served) -> None:
    environment = served.deps.dbs.environment(1)
    numbers = [await invite(served, name, Role.ADMIN) for name in ("one", "two")]

    async def away(number: int) -> None:
        await control(
            served, lambda tx: staff.disable(tx, environment, number, "x", everywhere=True)
        )

    done = await asyncio.gather(*map(away, numbers), return_exceptions=True)
    refused = [one for one in done if isinstance(one, Conflict)]
    assert [one.slug for one in refused] == ["last-admin"]
    assert done.count(None) == 1


async def test_an_admin_of_one_environment_is_none_of_another(served: Served) -> None:
    """A person with a role elsewhere is not disabled from here; the role here can be taken away."""
    owner_rows(
        served.world,
        "INSERT INTO control.environment VALUES (2, 'acme', 'live', 'UTC', now()) RETURNING id",
    )
    await served.world.dbs.refresh()
    boss = await invite(served, "boss", Role.ADMIN)
    live, test = served.deps.dbs.environment(2), served.deps.dbs.environment(1)

    async def both(tx: ControlTx) -> int:
        made = await staff.add(tx, live, "anna@example.test", "Anna", Role.FINANCE, "x")
        await staff.add(tx, test, "anna@example.test", "Anna", Role.RISK, "x")
        return made.row.id

    anna = await control(served, both)
    with pytest.raises(Forbidden, match="staff-elsewhere"):
        await control(served, lambda tx: staff.disable(tx, test, anna, "x", by=boss))
    with pytest.raises(Forbidden, match="staff-elsewhere"):
        await control(served, lambda tx: staff.disable(tx, test, anna, "x"))
    await control(served, lambda tx: staff.remove_role(tx, test, anna, "x"))
    cookie = await control(served, lambda tx: sessions.begin(tx, anna, 1, LIFETIMES))
    async with browser(served, cookie) as api:
        assert (await api.get("/v1/me")).json()["code"] == "session-ended"


async def test_what_a_person_does_names_the_person(served: Served) -> None:
    await earner(served)
    number = await invite(served, "anna", Role.ADMIN)
    async with browser(served, await cookie_for(served, number)) as api:
        headers = {"X-Reason": "called%20by%20the%20app"}
        assert (await api.put("/v1/users/zoe", json={}, headers=headers)).status_code == 201
        bad = await api.put("/v1/users/zoe", json={}, headers={"X-Reason": "%00"})
        assert bad.json()["code"] == "reason-malformed"
        sent = [{"event_id": "e", "user": "zoe", "task": "t", "type": "x",
                 "occurred_at": "2026-11-20T08:00:00Z"}]  # fmt: skip
        served.world.clock.advance(timedelta(seconds=1))
        assert (await api.post("/v1/events", json=sent)).is_success
        actor = f"person:{staff.person_text(number)}"
        found = (await api.get("/v1/audit", params={"actor": actor})).json()["data"]
    assert [(one["action"], one["subject"], one["reason"]) for one in found] == [
        ("request", "POST /v1/events", None),
        ("user.create", found[1]["subject"], "called by the app"),
    ]
    assert all(one["origin"] == "192.0.2.7" for one in found)


async def test_an_app_without_a_cookie_is_asked_for_a_key(served: Served) -> None:
    async with client(served.app) as anonymous:
        answer = await anonymous.get("/v1/me")
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert (await anonymous.post("/staff/logout")).status_code == 204
        answer = await anonymous.post("/staff/logout-everywhere")
        assert answer.json()["code"] == "session-invalid"
