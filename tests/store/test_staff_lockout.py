"""Brute force on the login: who fails too often waits, loudly, and nobody else does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.served import Served, serve
from tests.staffing import Provider, Walk, invite, logged_in, provide, strange
from tests.world import PostgresServer, owner_rows

from paymaster.people.staff_roles import Role


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path, staff={"login_failures": 3}) as found:
        yield found


@pytest.fixture
async def provider(served: Served) -> Provider:
    return await provide(served)


async def test_who_fails_too_often_waits_and_others_do_not(
    served: Served, provider: Provider
) -> None:
    await invite(served, "anna", Role.FINANCE)
    async with strange(served.app, "192.0.2.66") as guesser:
        for _ in range(3):
            answer = await guesser.get("/staff/callback", params={"state": "x", "code": "y"})
            assert answer.json()["code"] == "login-state"
        answer = await guesser.get("/staff/callback", params={"state": "x", "code": "y"})
        assert (answer.status_code, answer.json()["code"]) == (429, "locked-out")
        assert int(answer.headers["retry-after"]) > 60
        assert (await guesser.get("/staff/login")).status_code == 429
    await (await logged_in(served, provider)).aclose()
    events = owner_rows(
        served.world, "SELECT payload FROM control.outbox WHERE topic = 'security.locked_out'"
    )
    assert [event[0]["kind"] for event in events] == ["login"]
    acts = owner_rows(
        served.world,
        "SELECT origin FROM control.audit WHERE action = 'security.locked_out'",
    )
    assert acts == [("192.0.2.66",)]
    text = (await served.api.get("/metrics")).text
    assert 'paymaster_lockouts_total{kind="login"}' in text


async def test_an_account_that_fails_too_often_waits_wherever_it_comes_from(
    served: Served, provider: Provider
) -> None:
    await invite(served, "bea", Role.FINANCE)
    provider.claims = {"sub": "u-anna"}
    for number in range(4):
        async with strange(served.app, f"192.0.2.{number + 60}") as api:
            walk = Walk(api)
            answer = await walk.back(provider.code(await walk.begin()))
            wanted = "login-not-invited" if number < 3 else "locked-out"
            assert answer.json()["code"] == wanted
    provider.claims = {"sub": "u-bea", "email": "bea@example.test"}
    await (await logged_in(served, provider)).aclose()


async def test_a_page_cannot_lock_a_person_out(served: Served, provider: Provider) -> None:
    """An image on a strange page asks for the address of the answer, in the person's browser."""
    await invite(served, "anna", Role.FINANCE)
    async with strange(served.app) as api:
        for _ in range(5):
            answer = await api.get(
                "/staff/callback", params={"state": "x"}, headers={"Sec-Fetch-Mode": "no-cors"}
            )
            assert answer.status_code == 401
    await (await logged_in(served, provider)).aclose()
