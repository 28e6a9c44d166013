"""Earners log in at a real OpenID provider, which changes its keys meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from tests.issuers import trust
from tests.oidc_provider import OidcProvider, app_client
from tests.served import IBAN, Served, client, credit, serve
from tests.world import PostgresServer, World

from paymaster.db import partitions

EUR_5 = {"amount": "5.00", "currency": "EUR"}
ALGORITHMS = ("RS256", "ES256", "EdDSA")


@pytest.fixture
async def served(
    postgres: PostgresServer, tmp_path: Path, oidc_provider: OidcProvider
) -> AsyncIterator[Served]:
    oidc_provider.configure(clients=[app_client(f"app-{one}", algorithm=one) for one in ALGORITHMS])
    async with serve(postgres, tmp_path) as found:
        set_to_the_machines_clock(found.world)
        await trust(found, oidc_provider.issuer, audiences=["paymaster"])
        yield found


def set_to_the_machines_clock(world: World) -> None:
    """The provider's clock is the machine's: so must ours be, and the books need its months."""
    now = datetime.now(UTC)
    if now < world.clock.now():
        pytest.skip("the clock of this machine is behind that of the tests")
    world.clock.advance(now - world.clock.now())
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO cell_1")
        partitions.ensure(connection, now)


async def status(served: Served, token: str, path: str = "/v1/users/me") -> tuple[int, str | None]:
    async with client(served.app, token) as caller:
        answer = await caller.get(path)
        return answer.status_code, answer.json().get("code")


async def test_an_earner_logs_in_earns_and_withdraws(
    served: Served, oidc_provider: OidcProvider
) -> None:
    await served.refused(404, "user-unknown", "GET", "/v1/users/anna")
    token = oidc_provider.log_in("anna", "app-RS256").access_token
    async with client(served.app, token) as anna:
        made = (await anna.get("/v1/users/me")).json()
        assert (made["external_id"], made["status"]) == ("anna", "active")
        assert made["id"] == (await served.ok("GET", "/v1/users/anna"))["id"]
        await credit(served, made["id"], "20.00")
        destination = (await anna.post("/v1/users/me/destinations", json=IBAN)).json()
        asked = {"user": "me", "destination": destination["id"], "amount": EUR_5}
        answer = await anna.post("/v1/withdrawals", json=asked, headers={"Idempotency-Key": "1"})
        assert answer.status_code == 202, answer.text
        story = (await anna.get(f"/v1/withdrawals/{answer.json()['id']}")).json()
        assert (story["user"], story["acts"], story["verdicts"]) == (made["id"], [], [])
        [balance] = (await anna.get("/v1/users/anna/balances")).json()["data"]
        assert balance["available"]["amount"] == "15.00"
        [listed] = (await anna.get("/v1/withdrawals")).json()["data"]
        assert listed["id"] == story["id"]
        ended = await anna.post(f"/v1/withdrawals/{story['id']}/cancel")
        assert ended.json()["state"] == "cancelled"
    audit = await served.ok("GET", f"/v1/withdrawals/{story['id']}")
    assert {act["actor"] for act in audit["acts"]} == {f"user:{made['id']}"}


async def test_the_provider_changes_its_keys_meanwhile(
    served: Served, oidc_provider: OidcProvider
) -> None:
    before = {one: oidc_provider.log_in("anna", f"app-{one}").access_token for one in ALGORITHMS}
    for token in before.values():
        assert await status(served, token) == (200, None)
    asked = oidc_provider.counts()["keys"]
    assert asked == 1
    oidc_provider.rotate_keys()
    after = {one: oidc_provider.log_in("anna", f"app-{one}").access_token for one in ALGORITHMS}
    for token in (*after.values(), *before.values()):
        assert await status(served, token) == (200, None)
    assert oidc_provider.counts()["keys"] == 2
    # A key that leaked is withdrawn: its tokens are good until we look again, five minutes at most.
    oidc_provider.rotate_keys(keep_old=False)
    last = oidc_provider.log_in("berta", "app-ES256").access_token
    assert await status(served, last) == (200, None)
    assert await status(served, before["RS256"]) == (401, "token-invalid")


async def test_a_provider_that_is_down_stops_nobody_who_is_known(
    served: Served, oidc_provider: OidcProvider
) -> None:
    anna = oidc_provider.log_in("anna", "app-RS256").access_token
    oidc_provider.rotate_keys()
    berta = oidc_provider.log_in("berta", "app-RS256").access_token
    oidc_provider.go_down()
    assert await status(served, anna) == (503, "issuer-unavailable")
    oidc_provider.go_down(down=False)
    assert await status(served, anna) == (200, None)
    oidc_provider.go_down()
    assert await status(served, berta) == (200, None)


async def test_id_tokens_and_other_clients_tokens(
    served: Served, oidc_provider: OidcProvider
) -> None:
    tokens = oidc_provider.log_in("anna", "app-EdDSA")
    assert await status(served, tokens.id_token) == (401, "token-invalid")
    oidc_provider.configure(audience="another-api")
    other = oidc_provider.log_in("anna", "app-EdDSA").access_token
    assert await status(served, other) == (401, "token-invalid")
    served.world.clock.advance(timedelta(minutes=12))
    assert await status(served, tokens.access_token) == (401, "token-expired")


async def test_a_suspended_earner_is_refused_at_once(
    served: Served, oidc_provider: OidcProvider
) -> None:
    token = oidc_provider.log_in("anna", "app-RS256").access_token
    assert await status(served, token) == (200, None)
    suspended = {"status": "suspended", "reason": "looked into"}
    await served.ok("PUT", "/v1/users/anna", suspended)
    assert await status(served, token) == (403, "user-suspended")
    await served.ok("PUT", "/v1/users/anna", {"status": "active"})
    async with client(served.app, token) as anna:
        assert (await anna.get("/v1/users/me")).json()["status_reason"] is None
    await served.ok("PUT", "/v1/users/anna", {"status": "closed", "reason": "asked for"})
    assert await status(served, token) == (403, "user-closed")
