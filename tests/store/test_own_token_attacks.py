"""Attacks with tokens of our own, and with others under their name."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
import pytest_asyncio
from tests.attacking import attacked, honest, refused, taken, trusted_issuer
from tests.issuers import LocalIssuer, b64, packed
from tests.served import Served, add_environment, client
from tests.world import PostgresServer

from paymaster.db.cells import Environment
from paymaster.kernel.ids import Ref
from paymaster.people import tokens

KEY_PREFIX = 16
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with attacked(postgres, tmp_path_factory) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def issuer(served: Served) -> AsyncIterator[LocalIssuer]:
    async with trusted_issuer(served) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other_environment(served: Served) -> int:
    return await add_environment(served)


def own(served: Served, kind: str, claims: dict[str, Any], environment: Environment) -> str:
    """A token as our own key would sign it, whatever it says."""
    signer, now = served.deps.secrets.ed25519, served.deps.clock.now()
    return tokens._mint(signer, environment, kind, claims, now).token


async def minted(served: Served, user: str = "anna") -> tuple[str, str]:
    """A user's token, and a server's for the key that minted it."""
    await served.ok("PUT", f"/v1/users/{user}", {})
    made = await served.ok("POST", f"/v1/users/{user}/tokens")
    key = served.api.headers["authorization"].removeprefix("Bearer ")
    answer = await served.api.post(
        "/oauth/token",
        data={"grant_type": "client_credentials"},
        auth=(key[:KEY_PREFIX], key[KEY_PREFIX + 1 :]),
    )
    assert answer.status_code == 200, answer.text
    return made["token"], answer.json()["access_token"]


async def test_one_of_our_tokens_used_as_the_other(served: Served) -> None:
    user, access = await minted(served)
    environment = served.world.environment
    await taken(served, user)
    async with client(served.app, access) as server:
        assert (await server.get("/v1/users/anna")).status_code == 200
        assert (await server.get("/v1/users/me")).status_code == 404
    async with client(served.app, user) as earner:
        assert (await earner.get("/v1/campaigns")).json()["code"] == "scope-missing"
    shown = {text: jwt.decode(text, options={"verify_signature": False}) for text in (user, access)}
    common = ("iss", "aud", "iat", "exp", "jti")
    for text, kind in ((user, tokens.ACCESS_TYPE), (access, tokens.USER_TYPE)):
        said = {name: value for name, value in shown[text].items() if name not in common}
        await refused(served, own(served, kind, said, environment))
    for kind in ("JWT", "user+JWT", "AT+JWT", ""):
        await refused(served, own(served, kind, {"sub": shown[user]["sub"]}, environment))


async def test_our_token_under_another_issuers_name(served: Served, issuer: LocalIssuer) -> None:
    user, _ = await minted(served)
    head, body, _ = user.split(".")
    pad = "=" * (-len(body) % 4)
    claims = {**json.loads(base64.urlsafe_b64decode(body + pad)), "aud": "app"}
    text = f"{head}.{packed({**claims, 'iss': issuer.url})}"
    ours = served.deps.secrets.ed25519.sign(tokens.KEY_NAME, text.encode())
    await refused(served, f"{text}.{b64(ours)}")
    issuer.add_key("edwards", "EdDSA")
    own_audience = tokens.audience(served.world.environment)
    claims = honest(served, issuer, iss=tokens.ISSUER, aud=own_audience)
    for kid in ("edwards", "one"):
        await refused(served, issuer.token(claims, kid, {"typ": tokens.USER_TYPE}))


async def test_our_token_for_another_environment(served: Served, other_environment: int) -> None:
    user, access = await minted(served)
    other = served.world.dbs.environment(other_environment)
    shown = jwt.decode(user, options={"verify_signature": False})
    said = {name: shown[name] for name in ("sub", "azp", "scope")}
    await refused(served, own(served, tokens.USER_TYPE, said, other))
    prefix = jwt.decode(access, options={"verify_signature": False})["client_id"]
    said = {"sub": prefix, "client_id": prefix, "scope": "read"}
    await refused(served, own(served, tokens.ACCESS_TYPE, said, other))
    nowhere = Environment(9, "acme", "live", "UTC")
    await refused(served, own(served, tokens.ACCESS_TYPE, said, nowhere))
    nobody = tokens.mint_user(
        served.deps.secrets.ed25519,
        served.world.environment,
        Ref(1, 7),
        prefix,
        ["read", "users"],
        served.deps.clock.now(),
    )
    await refused(served, nobody.token)


async def test_more_scopes_than_the_key_has(served: Served) -> None:
    key = await served.key(["read"])
    prefix = key[:KEY_PREFIX]
    said = {"sub": prefix, "client_id": prefix, "scope": "read operate staff"}
    token = own(served, tokens.ACCESS_TYPE, said, served.world.environment)
    async with client(served.app, token) as server:
        assert (await server.get("/v1/campaigns")).status_code == 200
        assert (await server.get("/v1/me")).json()["scopes"] == ["read"]
        for path in ("/v1/proofs", "/v1/keys"):
            assert (await server.post(path)).json()["code"] == "scope-missing"
