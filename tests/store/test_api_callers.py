"""Keys, tokens in place of keys, tokens of users and issuers, over HTTP, on a real database."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from tests.issuers import local_issuer, trust
from tests.planting import plant
from tests.served import BASE, Served, add_environment, client, serve
from tests.world import ACTOR, PostgresServer

from paymaster.db.tx import ControlTx
from paymaster.kernel.clock import rfc3339
from paymaster.people import credentials, tokens
from paymaster.secrets.local import new_key
from paymaster.secrets.opening import secrets_directory
from paymaster.secrets.port import BASE64_PREFIX

CLIENT_CREDENTIALS = {"grant_type": "client_credentials"}
PREFIX = 16


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as found:
        yield found


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def halves(key: str) -> tuple[str, str]:
    return key[:PREFIX], key[PREFIX + 1 :]


async def owned_key(served: Served, person_id: int, scopes: list[str]) -> str:
    async def work(tx: ControlTx) -> str:
        issued = await credentials.issue(tx, 1, "owned", scopes, person_id=person_id)
        return issued.key

    return await served.world.dbs.control.run(ACTOR, "", work)


async def test_keys_are_issued_used_rotated_and_revoked(served: Served) -> None:
    ends = served.deps.clock.now() + timedelta(days=30)
    asked = {"name": "shop", "scopes": ["read"], "expires_at": rfc3339(ends)}
    made = await served.ok("POST", "/v1/keys", asked)
    assert made["key"].startswith(f"{made['prefix']}_")
    assert (made["last_used_on"], made["owner"]) == (None, None)
    old = bearer(made["key"])
    assert (await served.api.get("/v1/campaigns", headers=old)).status_code == 200
    listed = (await served.ok("GET", "/v1/keys"))["data"]
    [shown] = [one for one in listed if one["prefix"] == made["prefix"]]
    assert shown["last_used_on"] == "2026-11-20"
    assert "key" not in shown
    assert not any(made["key"] in str(one) for one in listed)
    path = f"/v1/keys/{made['prefix']}"
    new = await served.ok("POST", f"{path}/rotate", {"overlap_seconds": 60})
    assert (new["scopes"], new["name"], new["expires_at"]) == (["read"], "shop", rfc3339(ends))
    for headers in (old, bearer(new["key"])):
        assert (await served.api.get("/v1/campaigns", headers=headers)).status_code == 200
    served.world.clock.advance(timedelta(seconds=60))
    await served.refused(401, "credential-expired", "GET", "/v1/campaigns", headers=old)
    await served.ok("POST", f"/v1/keys/{new['prefix']}/revoke", {"reason": "lost"})
    headers = bearer(new["key"])
    await served.refused(401, "credential-revoked", "GET", "/v1/campaigns", headers=headers)
    await served.refused(422, "credential-expired", "POST", f"{path}/rotate", {})
    await served.refused(
        404, "credential-unknown", "POST", "/v1/keys/pk_test_00000000/revoke", {"reason": "x"}
    )
    past = {**asked, "expires_at": rfc3339(served.deps.clock.now())}
    await served.refused(422, "credential-invalid", "POST", "/v1/keys", past)
    unknown = {"name": "x", "scopes": ["everything"]}
    await served.refused(422, "credential-invalid", "POST", "/v1/keys", unknown)


async def test_a_key_gives_no_more_than_it_has(served: Served) -> None:
    headers = bearer(await served.key(["staff", "read"]))
    asked = {"name": "more", "scopes": ["read", "withdrawals"]}
    await served.refused(403, "scope-missing", "POST", "/v1/keys", asked, headers=headers)
    await served.ok("POST", "/v1/keys", {"name": "less", "scopes": ["read"]}, headers=headers)
    full = halves(served.api.headers["authorization"].removeprefix("Bearer "))[0]
    path = f"/v1/keys/{full}/rotate"
    await served.refused(403, "scope-missing", "POST", path, {}, headers=headers)
    keys = (await served.ok("GET", "/v1/keys"))["data"]
    assert sorted(one["name"] for one in keys) == ["less", "test", "test"]
    assert all(one["expires_at"] is None for one in keys)


async def test_a_key_of_a_person_makes_keys_of_that_person(served: Served) -> None:
    plant(served.world, "control", "person", id=77, email="one@example.test", state="active")
    plant(served.world, "control", "person_role", environment_id=1, person_id=77, role="admin")
    mine = bearer(await owned_key(served, 77, ["staff", "read"]))
    made = await served.ok("POST", "/v1/keys", {"name": "b", "scopes": ["read"]}, headers=mine)
    assert made["owner"].startswith("pe_")
    # With the key of another person one would act as that person, and be two.
    path = f"/v1/keys/{made['prefix']}/rotate"
    await served.refused(403, "key-of-another", "POST", path, {})
    again = await served.ok("POST", path, {}, headers=mine)
    assert again["owner"] == made["owner"]


async def granted(served: Served, key: str, **fields: str) -> dict[str, Any]:
    answer = await served.api.post(
        "/oauth/token", data={**CLIENT_CREDENTIALS, **fields}, auth=halves(key)
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


async def test_a_token_in_place_of_a_key(served: Served) -> None:
    key = await served.key(["read", "users"])
    found = await granted(served, key)
    assert (found["token_type"], found["expires_in"]) == ("Bearer", 900)
    assert found["scope"] == "read users"
    async with client(served.app, found["access_token"]) as server:
        assert (await server.put("/v1/users/anna", json={})).status_code == 201
        me = (await server.get("/v1/me")).json()
        assert (me["kind"], me["actor"]) == ("server", f"key:{key[:PREFIX]}")
    less = await granted(served, key, scope="read")
    async with client(served.app, less["access_token"]) as server:
        assert (await server.get("/v1/users/anna")).status_code == 200
        assert (await server.put("/v1/users/anna", json={})).json()["code"] == "scope-missing"
    prefix, secret = halves(key)
    body = {**CLIENT_CREDENTIALS, "client_id": prefix, "client_secret": secret}
    assert (await served.api.post("/oauth/token", data=body, headers=no_key())).status_code == 400
    async with client(served.app) as anybody:
        assert (await anybody.post("/oauth/token", data=body)).status_code == 200
    await served.refused(
        401, "token-invalid", "GET", "/v1/me", headers=bearer(f"{less['access_token'][:-4]}AAAA")
    )
    served.world.clock.advance(timedelta(minutes=16, seconds=1))
    headers = bearer(found["access_token"])
    await served.refused(401, "token-expired", "GET", "/v1/me", headers=headers)


def no_key() -> dict[str, str]:
    return {"Authorization": "Basic !"}


async def test_a_token_ends_with_its_key(served: Served) -> None:
    key = await served.key(["read", "users"])
    access = bearer((await granted(served, key))["access_token"])
    await served.ok("PUT", "/v1/users/anna", {})
    minted = await served.ok("POST", "/v1/users/anna/tokens", headers=access)
    user = bearer(minted["token"])
    assert (await served.api.get("/v1/me", headers=user)).json()["user"] == minted["user"]
    path = f"/v1/keys/{key[:PREFIX]}"
    await served.ok("POST", f"{path}/rotate", {"overlap_seconds": 0})
    await served.refused(401, "credential-expired", "GET", "/v1/me", headers=access)
    # The user's token goes on: its key was not taken away, its time was over.
    assert (await served.api.get("/v1/me", headers=user)).status_code == 200
    await served.ok("POST", f"{path}/revoke", {"reason": "leaked"})
    await served.refused(401, "credential-revoked", "GET", "/v1/me", headers=access)
    await served.refused(401, "credential-revoked", "GET", "/v1/me", headers=user)


FORMS: list[tuple[dict[str, Any], str]] = [
    ({}, "invalid_request"),
    ({"grant_type": "password"}, "unsupported_grant_type"),
    ({**CLIENT_CREDENTIALS, "scope": "read operate"}, "invalid_scope"),
    ({**CLIENT_CREDENTIALS, "scope": "everything"}, "invalid_scope"),
    ({**CLIENT_CREDENTIALS, "client_secret": "x"}, "invalid_request"),
    ({**CLIENT_CREDENTIALS, "resource": "x"}, "invalid_request"),
    ({"grant_type": ["client_credentials"] * 2}, "invalid_request"),
    ({f"f{number}": "x" for number in range(50)}, "invalid_request"),
    ({**CLIENT_CREDENTIALS, "scope": "x" * 9000}, "invalid_request"),
]


async def test_refusals_in_the_words_of_rfc_6749(served: Served) -> None:
    key = await served.key(["read"])
    for fields, error in FORMS:
        answer = await served.api.post("/oauth/token", data=fields, auth=halves(key))
        assert (answer.status_code, answer.json()["error"]) == (400, error), answer.text
        assert answer.headers["content-type"] == "application/json"


async def test_clients_that_are_none(served: Served) -> None:
    prefix, secret = halves(await served.key(["read"]))
    wrong = base64.b64encode(f"{prefix}{secret}".encode()).decode()
    nobodies: list[dict[str, Any]] = [
        {"auth": (prefix, "x" * 43)},
        {"auth": ("pk_test_00000000", secret)},
        {"auth": (prefix, "")},
        {"auth": ("", "")},
        {"headers": {"Authorization": f"Basic {wrong}"}},
        {"headers": [(b"authorization", b"Basic \xff")]},
        {"headers": {"Authorization": f"Bearer {prefix}_{secret}"}},
    ]
    for given in nobodies:
        answer = await served.api.post("/oauth/token", data=CLIENT_CREDENTIALS, **given)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), given
        assert answer.headers["www-authenticate"].startswith("Basic")
    answer = await served.api.post("/oauth/token", json=CLIENT_CREDENTIALS, auth=(prefix, secret))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_guessing_a_secret_locks_the_guesser_out_and_nobody_else(served: Served) -> None:
    key = await served.key(["read"])
    prefix, secret = halves(key)
    shared = served.app._gate._shared

    async def guess() -> httpx.Response:
        wrong = (prefix, "x" * 43)
        return await served.api.post("/oauth/token", data=CLIENT_CREDENTIALS, auth=wrong)

    answer = await guess()
    for _ in range(11):
        if answer.status_code != 401:
            break
        await shared.settled()
        answer = await guess()
    assert (answer.status_code, answer.json()["code"]) == (429, "locked-out")
    right = await served.api.post("/oauth/token", data=CLIENT_CREDENTIALS, auth=(prefix, secret))
    assert right.status_code == 429
    await served.refused(429, "locked-out", "GET", "/v1/campaigns", headers=bearer(key))
    assert (await served.api.get("/v1/campaigns")).status_code == 200
    elsewhere = httpx.ASGITransport(served.app, client=("198.51.100.9", 4711))
    async with httpx.AsyncClient(transport=elsewhere, base_url=BASE) as owner:
        answer = await owner.post("/oauth/token", data=CLIENT_CREDENTIALS, auth=(prefix, secret))
        assert answer.status_code == 200


async def test_tokens_of_users_who_may_have_none(served: Served) -> None:
    await served.refused(404, "user-unknown", "POST", "/v1/users/nobody/tokens")
    await served.ok("PUT", "/v1/users/anna", {"status": "suspended", "reason": "x"})
    await served.refused(422, "user-suspended", "POST", "/v1/users/anna/tokens")
    await served.ok("PUT", "/v1/users/anna", {"status": "active"})
    made = await served.ok("POST", "/v1/users/anna/tokens")
    shown = jwt.decode(made["token"], options={"verify_signature": False})
    assert shown["aud"] == "urn:paymaster:acme:test"
    assert shown["exp"] - shown["iat"] == 900
    assert jwt.get_unverified_header(made["token"])["typ"] == "user+jwt"
    # A user's token makes no others.
    headers = bearer(made["token"])
    await served.refused(403, "scope-missing", "POST", "/v1/users/anna/tokens", headers=headers)
    await served.ok("PUT", "/v1/users/anna", {"status": "suspended", "reason": "x"})
    await served.refused(403, "user-suspended", "GET", "/v1/me", headers=headers)
    await served.ok("PUT", "/v1/users/anna", {"status": "closed", "reason": "x"})
    await served.refused(403, "user-closed", "GET", "/v1/me", headers=headers)


async def test_the_signing_key_is_rotated_without_a_gap(served: Served) -> None:
    await served.ok("PUT", "/v1/users/anna", {})
    before = (await served.ok("POST", "/v1/users/anna/tokens"))["token"]
    folder = secrets_directory(served.deps.settings)
    new = folder / f"{tokens.KEY_NAME}.2"
    new.touch(0o600)
    new.write_bytes(BASE64_PREFIX + base64.b64encode(new_key()))
    os.utime(new, (0, 0))  # of age: every process knows it
    after = (await served.ok("POST", "/v1/users/anna/tokens"))["token"]
    kids = {jwt.get_unverified_header(token)["kid"] for token in (before, after)}
    assert len(kids) == 2
    for token in (before, after):
        assert (await served.ok("GET", "/v1/me", headers=bearer(token)))["kind"] == "user"
    (folder / tokens.KEY_NAME).unlink()
    await served.refused(401, "token-invalid", "GET", "/v1/me", headers=bearer(before))
    assert (await served.ok("GET", "/v1/me", headers=bearer(after)))["kind"] == "user"


async def test_issuers_are_managed(served: Served) -> None:
    await add_environment(served)
    other = bearer(await served.key(environment_id=2))
    asked = {"url": "https://login.example.com", "audiences": ["app", "web"]}
    made = await served.ok("POST", "/v1/issuers", asked)
    assert made["algorithms"] == ["ES256", "EdDSA", "RS256"]
    assert (made["subject_claim"], made["user_prefix"], made["enabled"]) == ("sub", "", True)
    assert (await served.ok("GET", "/v1/issuers"))["data"] == [made]
    assert (await served.ok("GET", "/v1/issuers", headers=other))["data"] == []
    await served.refused(422, "issuer-exists", "POST", "/v1/issuers", asked)
    second = {**asked, "url": "https://id.example.com"}
    await served.refused(422, "issuer-exists", "POST", "/v1/issuers", second)
    await served.ok("POST", "/v1/issuers", {**second, "user_prefix": "id:"})
    taken = {**asked, "audiences": ["web", "mine"]}
    await served.refused(422, "issuer-audience-taken", "POST", "/v1/issuers", taken, headers=other)
    path = f"/v1/issuers/{made['id']}"
    state = {"enabled": False, "reason": "looked into"}
    await served.refused(404, "issuer-unknown", "POST", f"{path}/state", state, headers=other)
    await served.refused(404, "issuer-unknown", "DELETE", path, headers=other)
    assert (await served.ok("POST", f"{path}/state", state))["enabled"] is False
    assert (await served.ok("DELETE", path))["enabled"] is False
    await served.refused(404, "issuer-unknown", "DELETE", path)
    await served.ok("POST", "/v1/issuers", taken, headers=other)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"url": "http://login.example.com"}, "/url"),
    ({"url": "login.example.com"}, "/url"),
    ({"url": "https://login.example.com?x=y"}, "/url"),
    ({"audiences": ["a\nb"]}, "/audiences"),
    ({"subject_claim": "a\nb"}, "/subject_claim"),
    ({"user_prefix": "a\nb"}, "/user_prefix"),
]


async def test_issuers_that_cannot_be_trusted(served: Served) -> None:
    for more, pointer in FAULTS:
        asked = {"url": "https://login.example.com", "audiences": ["app"], **more}
        problem = await served.refused(422, "issuer-invalid", "POST", "/v1/issuers", asked)
        assert [one["pointer"] for one in problem["errors"]] == [pointer]


async def test_an_issuer_that_is_trusted_no_longer_is_refused_at_once(served: Served) -> None:
    with local_issuer() as issuer:
        made = await trust(served, issuer.url, user_prefix="app:")
        headers = bearer(issuer.token(issuer.claims(served.deps.clock.now())))
        me = await served.ok("GET", "/v1/users/me", headers=headers)
        assert me["external_id"] == "app:anna"
        path = f"/v1/issuers/{made.wire()['id']}/state"
        await served.ok("POST", path, {"enabled": False, "reason": "x"})
        await served.refused(401, "token-invalid", "GET", "/v1/me", headers=headers)
        await served.ok("POST", path, {"enabled": True, "reason": "x"})
        assert (await served.ok("GET", "/v1/users/me", headers=headers))["id"] == me["id"]
        acts = (await served.ok("GET", "/v1/audit", params={"limit": 200}))["data"]
        named = {act["action"] for act in acts}
        assert {"issuer.disable", "issuer.enable"} <= named


async def test_a_user_who_was_made_by_the_server_first_is_the_same(served: Served) -> None:
    made = await served.ok("PUT", "/v1/users/anna", {"profile": {"country": "DE"}})
    with local_issuer() as issuer:
        await trust(served, issuer.url, subject_claim="uid")
        token = issuer.token(issuer.claims(served.deps.clock.now(), uid="anna", sub="x"))
        me = await served.ok("GET", "/v1/users/me", headers=bearer(token))
        assert (me["id"], me["profile"]["country"]) == (made["id"], "DE")
