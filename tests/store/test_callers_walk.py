"""Every route, by whoever must not: another user, another tenant, the other side, nobody at all.

The routes come from the application's own table, their bodies from the document, so that a new
route is walked by itself; only what it names in its path must be furnished (`tests/walking.py`).
An answer about something that is there is compared with the answer about something that is not:
they are the same byte for byte, but for the trace id and the name that was asked for.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.served import BASE, IBAN, Served, add_environment, serve
from tests.walking import MARK, ROUTES, Asked, Furnished, Walked, asked, furnish
from tests.world import PostgresServer

from paymaster.people.scopes import SCOPES

pytestmark = pytest.mark.asyncio(loop_scope="module")
_TRACE = re.compile(r'"trace_id":"[0-9a-f]{32}"')

UPSERTS = {
    "PUT /v1/users/{user}",
    "PUT /v1/sponsors/{sponsor}",
    "PUT /v1/rail-accounts/{name}",
    "PUT /v1/fee-plans/{plan}",
    "PUT /v1/earning-policies/{source}",
}
"""Acts that make what is not there, under a name of the caller's own."""

APART = {"PUT /v1/fee-plans/{plan}": ({"currency": "EUR"}, {"currency": "USD"})}
"""Two of them in one environment must be for different things."""

NAMED_ONLY = {"act", "currency", "day", "form", "provider"}
"""What everybody has: no name of anything that somebody made."""

SAME_FOR_ALL = {"/v1/webhook-event-types", "/v1/screening/rules", "/oauth/token"}

TWICE_IS_ANOTHER = {"PUT /v1/four-eyes-limits/{act}/{currency}", "POST /v1/issuers"}
"""Acts on one's own environment that change what is answered to the same again."""


@dataclass
class Walk:
    """The installation, what there is in its first environment, and who else there is."""

    served: Served
    there: Furnished
    anna: str
    tenant: str
    live: str
    number: int = 0

    async def send(self, token: str | None, one: Asked) -> httpx.Response:
        """Ask; each time from another address, so that nobody is locked out for the others."""
        self.number += 1
        address = f"10.{self.number >> 16}.{self.number >> 8 & 255}.{self.number & 255}"
        transport = httpx.ASGITransport(self.served.app, client=(address, 4711))
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as caller:
            parts = one.parts()
            parts["headers"] = {**parts["headers"], **headers}
            return await caller.request(one.method, one.path, **parts)

    async def two(
        self, token: str, route: Walked, body: tuple[Mapping[str, Any], Mapping[str, Any]]
    ) -> tuple[httpx.Response, str, str]:
        """The answer about what is there, and both answers without what must differ."""
        real = await self.send(token, asked(route, self.there.real, body[0]))
        none = await self.send(token, asked(route, self.there.random, body[1]))
        assert real.status_code == none.status_code, (str(route), real.text, none.text)
        return real, self.plain(real), self.plain(none)

    def plain(self, answer: httpx.Response) -> str:
        """An answer without its trace id, and without the names in the question."""
        text = _TRACE.sub("", answer.text)
        for names in (self.there.real, self.there.random):
            for name in sorted(names.values(), key=len, reverse=True):
                text = text.replace(name, "...")
        return text

    def clean(self, answer: httpx.Response, route: Walked) -> None:
        """Nothing of the first environment's second user stands in an answer."""
        assert MARK not in answer.text, (str(route), answer.text)
        assert "mark-" not in answer.text.replace("mark-none", ""), (str(route), answer.text)
        if answer.status_code < 400:
            for name, value in self.there.real.items():
                if name not in NAMED_ONLY:
                    assert value not in answer.text, (str(route), name, answer.text)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def walk(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Walk]:
    most = 10_000_000
    limits = {"requests_per_minute": most, "user_requests_per_minute": most}
    folder = tmp_path_factory.mktemp("walk")
    webhooks = {"allowed_networks": ["127.0.0.0/8"]}
    async with serve(postgres, folder, limits=limits, webhooks=webhooks) as served:
        there = await furnish(served)
        await add_environment(served, 2, "other", "test")
        await add_environment(served, 3, "acme", "live")
        anna = (await served.ok("POST", "/v1/users/anna/tokens"))["token"]
        tenant, live = [await served.key(environment_id=number) for number in (2, 3)]
        yield Walk(served, there, anna, tenant, live)


def ids(route: Walked) -> str:
    return str(route)


async def test_every_name_in_a_path_is_furnished(walk: Walk) -> None:
    names = {name for route in ROUTES for name in route.names}
    assert names <= walk.there.real.keys(), "furnish these in tests/walking.py"
    same = {name for name in names if walk.there.real[name] == walk.there.random[name]}
    assert same <= NAMED_ONLY


async def test_what_is_there_is_seen_by_its_own_server(walk: Walk) -> None:
    """Without this the walks below might compare nothing with nothing."""
    key = walk.served.api.headers["authorization"].removeprefix("Bearer ")
    own = {name for name in walk.there.real if name not in NAMED_ONLY}
    seen: set[str] = set()
    for route in ROUTES:
        if route.method == "GET" and own.intersection(route.names):
            answer = await walk.send(key, asked(route, walk.there.real))
            none = await walk.send(key, asked(route, walk.there.random))
            if answer.status_code == 200 and none.status_code != 200:
                seen.update(route.names)
    unseen = {
        "destination", "reward", "line", "break_id", "factor", "prefix", "issuer", "task_id",
        "write_off",
    }  # fmt: skip
    assert own - seen == unseen, "what no route shows alone"


@pytest.mark.parametrize("route", [one for one in ROUTES if one.scope is not None], ids=ids)
async def test_nobody(walk: Walk, route: Walked) -> None:
    one = asked(route, walk.there.real)
    key = f"pk_test_00000000_{'x' * 43}"
    for token, code in (
        (None, "unauthenticated"),
        (key, "credential-invalid"),
        ("x", "credential-invalid"),
        ("a.b.c", "token-invalid"),
        (walk.anna[:-8] + "AAAAAAAA", "token-invalid"),
    ):
        answer = await walk.send(token, one)
        assert (answer.status_code, answer.json()["code"]) == (401, code), (token, answer.text)
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_key_without_the_scope(walk: Walk) -> None:
    keys = {
        scope: await walk.served.key([other for other in SCOPES if other != scope])
        for scope in SCOPES
    }
    for route in ROUTES:
        if route.scope is None:
            continue
        answer = await walk.send(keys[route.scope], asked(route, walk.there.real))
        code = (answer.status_code, answer.json()["code"])
        assert code == (403, "scope-missing"), (str(route), answer.text)


@pytest.mark.parametrize("who", ["tenant", "live"])
async def test_a_server_of_another_environment(walk: Walk, who: str) -> None:
    key = walk.tenant if who == "tenant" else walk.live
    for route in sorted(ROUTES, key=lambda one: str(one) in UPSERTS):
        if route.path in SAME_FOR_ALL or str(route) in TWICE_IS_ANOTHER:
            continue
        bodies = _in_body(walk, route, {"user": "berta"}, {"user": "nobod"})
        bodies = APART.get(str(route), bodies)
        answer, real, none = await walk.two(key, route, bodies)
        assert answer.status_code < 500, (str(route), answer.text)
        if NAMED_ONLY.issuperset(route.names) or str(route) in UPSERTS:
            if route.method == "GET":
                walk.clean(answer, route)
            continue
        assert answer.status_code in (404, *_OF_A_PARENT.get(str(route), ())), (
            str(route),
            answer.text,
        )
        assert real == none, str(route)
        walk.clean(answer, route)


_OF_A_PARENT = {
    "PUT /v1/campaigns/{campaign}": (422,),
}
"""Names something in its body that is looked for first."""


async def test_an_earner_and_the_others(walk: Walk) -> None:
    """Her own routes know nobody else; the others are not hers, whatever they are asked about."""
    for route in ROUTES:
        if route.scope is None:
            continue
        bodies = _in_body(walk, route, _bertas(walk), _nobodys(walk))
        answer, real, none = await walk.two(walk.anna, route, bodies)
        assert real == none, str(route)
        walk.clean(answer, route)
        if not route.own:
            code = (answer.status_code, answer.json()["code"])
            assert code == (403, "scope-missing"), str(route)
        elif route.names:
            assert answer.status_code == 404, (str(route), answer.text)
        else:
            assert answer.status_code in (200, 403, 404), (str(route), answer.text)


def _bertas(walk: Walk) -> dict[str, str]:
    return {"user": "berta", "destination": walk.there.real["destination"]}


def _nobodys(walk: Walk) -> dict[str, str]:
    return {"user": "nobod", "destination": walk.there.random["destination"]}


def _in_body(
    walk: Walk, route: Walked, real: Mapping[str, Any], none: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    made = asked(route, walk.there.real).json
    names = set(made) if isinstance(made, dict) else set()
    return (
        {name: value for name, value in real.items() if name in names},
        {name: value for name, value in none.items() if name in names},
    )


async def test_an_earner_names_others_beside_her_own_name(walk: Walk) -> None:
    """Her own user in the path, somebody else's thing behind it or in the body."""
    for route in ROUTES:
        if not route.own or "user" not in route.names or len(route.names) < 2:
            continue
        if "task_id" in route.names:  # offers are for everybody
            continue
        mine = {"user": "me"}
        real = await walk.send(walk.anna, asked(route, {**walk.there.real, **mine}))
        none = await walk.send(walk.anna, asked(route, {**walk.there.random, **mine}))
        assert real.status_code == none.status_code, (str(route), real.text, none.text)
        assert real.status_code == 404, (str(route), real.text)
        assert walk.plain(real) == walk.plain(none)
    for field in ("real", "random"):
        destination = getattr(walk.there, field)["destination"]
        body = {"user": "me", "destination": destination, "amount": EUR_1}
        one = Asked("POST", "/v1/withdrawals", headers={"Idempotency-Key": field}, json=body)
        answer = await walk.send(walk.anna, one)
        assert (answer.status_code, answer.json()["code"]) == (422, "destination-not-found")
    for user in ("berta", walk.there.real["user"], walk.there.random["user"], "nobody"):
        answer = await walk.send(walk.anna, Asked("GET", "/v1/withdrawals", {"user": user}))
        assert (answer.status_code, answer.json()["code"]) == (404, "user-unknown")


EUR_1 = {"amount": "1.00", "currency": "EUR"}


async def test_an_earner_by_each_of_her_names(walk: Walk) -> None:
    own = (await walk.send(walk.anna, Asked("GET", "/v1/users/me"))).json()
    assert own["external_id"] == "anna"
    for name in ("me", "anna", own["id"]):
        for path in ("", "/balances", "/destinations", "/rewards", "/tasks", "/factors"):
            answer = await walk.send(walk.anna, Asked("GET", f"/v1/users/{name}{path}"))
            assert answer.status_code == 200, (name, path, answer.text)
        history = Asked("GET", f"/v1/users/{name}/statement", {"currency": "EUR"})
        assert (await walk.send(walk.anna, history)).status_code == 200
    for name in ("Anna", "anna ", "ME", "us_", own["id"].lower(), own["id"][:-1], "%00", "x" * 129):
        answer = await walk.send(walk.anna, Asked("GET", f"/v1/users/{name}"))
        assert answer.status_code in (400, 404), (name, answer.text)


async def test_an_earner_manages_what_is_hers(walk: Walk) -> None:
    iban = {**IBAN, "details": {"iban": "DE02120300000000202051", "holder": "A. Example"}}
    added = await walk.send(walk.anna, Asked("POST", "/v1/users/me/destinations", json=iban))
    assert added.status_code == 201, added.text
    path = f"/v1/destinations/{added.json()['id']}"
    closed = await walk.send(walk.anna, Asked("DELETE", path, {"reason": "moved"}))
    assert (closed.status_code, closed.json()["state"]) == (200, "closed"), closed.text
    assert closed.json()["closed_reason"] is None
    berta = f"/v1/destinations/{walk.there.real['destination']}"
    assert (await walk.send(walk.anna, Asked("DELETE", berta))).status_code == 404
    key = walk.served.api.headers["authorization"].removeprefix("Bearer ")
    listed = await walk.send(key, Asked("GET", "/v1/users/berta/destinations"))
    assert [one["state"] for one in listed.json()["data"]] == ["active"]
