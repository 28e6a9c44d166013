"""Persons of the staff for tests: invited, logged in, and a provider that lives in this process."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm
from tests.served import Served, client
from tests.world import ACTOR

from paymaster.db.tx import ControlTx
from paymaster.people import credentials, sessions, staff, staff_providers
from paymaster.people.scopes import SCOPES
from paymaster.people.sessions import Lifetimes
from paymaster.people.staff_oidc import StaffOidc
from paymaster.people.staff_roles import Role

ISSUER, CLIENT = "https://login.example.test", "paymaster"
COOKIE, LOGIN_COOKIE = "paymaster-local", "paymaster-local-login"
HERE = "http://127.0.0.1:8080"
LIFETIMES = Lifetimes(timedelta(minutes=30), timedelta(hours=12))


async def invite(served: Served, name: str, role: Role, environment_id: int = 1) -> int:
    """A person with a role."""
    environment = served.deps.dbs.environment(environment_id)

    async def work(tx: ControlTx) -> int:
        made = await staff.add(tx, environment, f"{name}@example.test", name, role, "test")
        return made.row.id

    return await served.world.dbs.control.run(ACTOR, "", work)


async def cookie_for(served: Served, person_id: int, environment_id: int = 1) -> str:
    """A session, begun without a login."""
    return await served.world.dbs.control.run(
        ACTOR, "", lambda tx: sessions.begin(tx, person_id, environment_id, LIFETIMES)
    )


def browser(served: Served, cookie: str) -> httpx.AsyncClient:
    """A client that holds a session and sends its token."""
    made = client(served.app)
    made.headers["Cookie"] = f"{COOKIE}={cookie}"
    made.headers["X-CSRF-Token"] = sessions.csrf_token(cookie)
    return made


@asynccontextmanager
async def person(
    served: Served, name: str, role: Role, environment_id: int = 1
) -> AsyncIterator[httpx.AsyncClient]:
    """A person who has logged in."""
    number = await invite(served, name, role, environment_id)
    async with browser(served, await cookie_for(served, number, environment_id)) as made:
        yield made


async def owned_key(served: Served, person_id: int | None) -> str:
    """A key with every scope that belongs to a person, or to nobody."""

    async def work(tx: ControlTx) -> str:
        made = await credentials.issue(tx, 1, "test", tuple(SCOPES), person_id=person_id)
        return made.key

    return await served.world.dbs.control.run(ACTOR, "", work)


@dataclass
class Provider:
    """An OpenID provider: discovery, keys and tokens, answered in this process."""

    clock: Any
    names_itself: bool = True
    claims: dict[str, Any] = field(default_factory=dict)
    spoiled: dict[str, Any] = field(default_factory=dict)
    down: bool = False
    asked: list[str] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rotate()
        self._codes: dict[str, dict[str, str]] = {}

    def rotate(self) -> None:
        """A new key; the old one is forgotten."""
        self._kid, self._key = secrets.token_hex(4), Ed25519PrivateKey.generate()

    def code(self, address: str) -> str:
        """The person lets us in: a code for what the browser was sent with."""
        asked = dict(parse_qsl(urlsplit(address).query))
        made = secrets.token_urlsafe(8)
        self._codes[made] = asked
        return made

    def token(self, nonce: str) -> str:
        """An ID token."""
        now = int(self.clock.now().timestamp())
        claims = {
            "iss": ISSUER,
            "aud": CLIENT,
            "sub": "u-1",
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            "email": "anna@example.test",
            "email_verified": True,
            **self.claims,
        }
        return jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": self._kid})

    def answer(self, request: httpx.Request) -> httpx.Response:
        """What the provider answers."""
        self.asked.append(request.url.path)
        if self.down:
            return httpx.Response(503)
        match request.url.path:
            case "/.well-known/openid-configuration":
                return httpx.Response(200, json=self._document())
            case "/keys":
                public = OKPAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
                return httpx.Response(200, json={"keys": [{**public, "kid": self._kid}]})
            case "/token":
                form = {k: v[0] for k, v in parse_qs(request.content.decode()).items()}
                self.forms.append(form)
                return self._exchange(form)
        return httpx.Response(404)

    def _document(self) -> Mapping[str, Any]:
        return {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/auth",
            "token_endpoint": f"{ISSUER}/token",
            "jwks_uri": f"{ISSUER}/keys",
            "authorization_response_iss_parameter_supported": self.names_itself,
        }

    def _exchange(self, form: Mapping[str, str]) -> httpx.Response:
        asked = self._codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if asked is None or asked["code_challenge"] != challenge:
            return httpx.Response(400, json={"error": "invalid_grant"})
        token = self.token(asked["nonce"])
        return httpx.Response(200, json={"id_token": token, **self.spoiled})


async def provide(served: Served, **more: Any) -> Provider:
    """A provider that the environment's persons log in with."""
    made = Provider(served.world.clock)
    transport = httpx.MockTransport(made.answer)
    inner(served).state.staff_oidc = StaffOidc(httpx.AsyncClient(transport=transport))
    await served.world.dbs.control.run(
        ACTOR, "", lambda tx: staff_providers.put(tx, "acme", ISSUER, CLIENT, **more)
    )
    return made


def inner(served: Served) -> Any:
    """The application behind what stands around it."""
    app: Any = served.app
    while not hasattr(app, "state"):
        app = getattr(app, "_state", None) or getattr(app, "_app", None) or app.app
    return app


@dataclass
class Walk:
    """A browser on its way through a login."""

    api: httpx.AsyncClient
    address: str = ""

    async def begin(self, **params: str) -> str:
        """To the provider; where the browser was sent."""
        answer = await self.api.get("/staff/login", params=params)
        assert answer.status_code == 303, answer.text
        self.address = answer.headers["location"]
        return self.address

    @property
    def state(self) -> str:
        """The state that was sent."""
        return parse_qs(urlsplit(self.address).query)["state"][0]

    async def back(self, code: str, **more: str | None) -> httpx.Response:
        """And back, as the provider sends it."""
        given: dict[str, str | None] = {"code": code, "state": self.state, "iss": ISSUER, **more}
        return await self.api.get(
            "/staff/callback", params={k: v for k, v in given.items() if v is not None}
        )


def strange(app: Any, address: str = "192.0.2.50") -> httpx.AsyncClient:
    """A browser at another address, at the public name of the API."""
    transport = httpx.ASGITransport(app, client=(address, 4711))
    return httpx.AsyncClient(transport=transport, base_url=HERE)


async def logged_in(served: Served, provider: Provider) -> httpx.AsyncClient:
    api = strange(served.app)
    walk = Walk(api)
    answer = await walk.back(provider.code(await walk.begin()))
    assert answer.status_code == 303, answer.text
    return api
