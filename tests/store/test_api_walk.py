"""Every route of the API: no key, no scope, another environment's ids; and what no route takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from fastapi.routing import APIRoute
from psycopg.conninfo import make_conninfo
from tests.served import Served, add_environment, client, earner, serve
from tests.world import ACTOR, PostgresServer, app_dsn, app_pool

from paymaster.api.app import ROUTERS, build_api, openapi_document
from paymaster.api.door import scope_of
from paymaster.api.openapi import api_routes
from paymaster.db.tx import ControlTx
from paymaster.people import credentials
from paymaster.people.scopes import SCOPES

ROUTES = [
    (method, route.path, scope_of(route))
    for route in api_routes(ROUTERS)
    for method in sorted(route.methods or ())
]


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as found:
        yield found


def test_every_route_names_a_scope_that_exists() -> None:
    assert len(ROUTES) > 50
    scopes = {path: scope for _, path, scope in ROUTES}
    assert {path for path, scope in scopes.items() if scope is None} == {"/oauth/token"}
    assert {scope for scope in scopes.values() if scope} == set(SCOPES)


def test_the_document_is_complete() -> None:
    document = openapi_document()
    assert document["openapi"].startswith("3.1")
    shown = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method in {"get", "put", "post", "delete"}
    }
    assert shown == {(method, path) for method, path, _ in ROUTES}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if path == "/oauth/token":
                assert "security" not in operation
                continue
            assert operation["x-scope"] in SCOPES, (method, path)
            ways = [next(iter(way)) for way in operation["security"]]
            assert ways == ["key", "oauth", "session", *["user"] * operation["x-own"]]
            assert {"oauth": [operation["x-scope"]]} in operation["security"]
            assert "application/problem+json" in operation["responses"]["default"]["content"]


async def test_revocation_counts_at_once(served: Served) -> None:
    key = await served.key()
    headers = {"Authorization": f"Bearer {key}"}
    assert (await served.api.get("/v1/campaigns", headers=headers)).status_code == 200

    async def revoke(tx: ControlTx) -> None:
        await credentials.revoke(tx, 1, key[:16], "lost")

    await served.world.dbs.control.run(ACTOR, "", revoke)
    await served.refused(401, "credential-revoked", "GET", "/v1/campaigns", headers=headers)


async def test_nothing_of_another_environment_is_there(served: Served) -> None:
    destination = await earner(served)
    body = {"user": "anna", "destination": destination["id"], "amount": EUR_1}
    made = await served.ok("POST", "/v1/withdrawals", body, headers={"Idempotency-Key": "k"})
    await served.ok("PUT", "/v1/sponsors/s", {"name": "S"})
    key = await served.key(environment_id=await add_environment(served))
    async with client(build_api(served.deps), key) as other:
        for path in (
            "/v1/users/anna",
            f"/v1/users/{destination['user']}/balances",
            f"/v1/withdrawals/{made['id']}",
            "/v1/sponsors/s",
            f"/v1/traces/{made['trace_id']}",
        ):
            assert (await other.get(path)).status_code == 404, path
        assert (await other.get("/v1/withdrawals")).json()["data"] == []
        assert (await other.get("/v1/sponsors")).json()["data"] == []
        refused = await other.post("/v1/withdrawals", json=body, headers={"Idempotency-Key": "k"})
        assert refused.json()["code"] == "user-unknown"


EUR_1 = {"amount": "1.00", "currency": "EUR"}


async def test_what_no_route_takes(served: Served) -> None:
    await served.refused(404, "not-found", "GET", "/v1/nothing")
    await served.refused(405, "method-not-allowed", "DELETE", "/v1/withdrawals")
    await served.refused(400, "request-invalid", "GET", "/v1/campaigns", params={"limt": "3"})
    await served.refused(400, "request-invalid", "GET", "/v1/campaigns", params={"limit": "0"})
    await served.refused(400, "cursor-invalid", "GET", "/v1/campaigns", params={"cursor": "x"})
    await served.refused(400, "request-invalid", "GET", "/v1/campaigns?limit=1&limit=2")
    await served.refused(400, "request-invalid", "PUT", "/v1/users/a", {"nickname": "x"})
    put = "/v1/users/a"
    json = {"Content-Type": "application/json"}
    await served.refused(400, "json-malformed", "PUT", put, content=b"{", headers=json)
    await served.refused(400, "request-invalid", "PUT", put, content=b"[" * 99999, headers=json)
    await served.refused(415, "media-type-unsupported", "PUT", put, content=b"{}")
    xml = {"Content-Type": "application/xml"}
    await served.refused(415, "media-type-unsupported", "PUT", put, content=b"{}", headers=xml)
    await served.refused(404, "not-found", "GET", "/v1/users/%00")
    await served.refused(404, "user-unknown", "GET", "/v1/users/us_0100000000000ZZ")
    assert (await served.api.head("/openapi.json")).status_code in (200, 405)
    assert (await served.api.get("/openapi.json")).json()["openapi"] == "3.1.0"
    ready = await served.api.get("/readyz")
    assert ready.json()["status"] in ("ok", "not ready")


async def test_large_bodies_are_refused_also_in_pieces(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    async with serve(postgres, tmp_path, api={"body_limit_bytes": 5000}) as served:
        whole = {"content": b" " * 6000, "headers": {"Content-Type": "application/json"}}
        await served.refused(413, "body-too-large", "PUT", "/v1/users/a", **whole)
        parts = {"content": pieces(), "headers": {"Content-Type": "application/json"}}
        await served.refused(413, "body-too-large", "PUT", "/v1/users/a", **parts)


async def test_asking_too_often_is_told_when_to_come_again(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with serve(postgres, tmp_path, limits={"requests_per_minute": 3}) as served:
        answers = [await served.api.get("/v1/campaigns") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert answers[0].headers["ratelimit-policy"] == '"key";q=3;w=60'
        assert answers[0].headers["ratelimit"].startswith('"key";r=2;t=')
        assert int(answers[3].headers["retry-after"]) >= 1
        other = {"Authorization": f"Bearer {await served.key()}"}
        assert (await served.api.get("/v1/campaigns", headers=other)).status_code == 200


async def test_a_database_that_is_gone_is_503_with_retry_after(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with serve(postgres, tmp_path) as served:
        pool = app_pool(served.world.dbs)
        address = app_dsn(served.world.dbs)
        pool.conninfo = make_conninfo(address, host="127.0.0.1", port=1)
        with psycopg.connect(served.world.owner_dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        answer = await served.api.get("/v1/campaigns")
        assert (answer.status_code, answer.json()["code"]) == (503, "database-unavailable")
        assert answer.json()["retryable"] is True
        assert int(answer.headers["retry-after"]) >= 1
        pool.conninfo = address


async def test_every_answer_carries_its_trace(served: Served) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    sent = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    made = await served.api.put("/v1/users/anna", json={}, headers=sent)
    assert made.headers["trace-id"] == trace
    found = await served.ok("GET", f"/v1/traces/{trace}")
    assert [act["name"] for act in found["commits"][0]["acts"]] == ["user.create"]
    assert made.headers["cache-control"] == "no-store"
    assert made.headers["x-content-type-options"] == "nosniff"
    routes = {route.path for route in api_routes(ROUTERS) if isinstance(route, APIRoute)}
    text = (await served.api.get("/metrics")).text
    assert 'route="/v1/users/{user}"' in text
    assert "/v1/users/{user}" in routes
    assert "anna" not in text
