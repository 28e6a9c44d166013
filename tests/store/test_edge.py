"""The edge of the API: who is counted, locked out, shed; what every answer carries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send
from tests.served import Served, client, serve
from tests.world import ACTOR, PostgresServer

from paymaster.api.app import build_api, with_cors
from paymaster.api.gate import Gate
from paymaster.api.guesses import OF_ADDRESS, OF_PREFIX, OF_PREFIX_AND_ADDRESS, WINDOW
from paymaster.api.limiter import Limiter, Shared
from paymaster.api.middleware import Outermost
from paymaster.db import audit, lockouts
from paymaster.people import credentials
from paymaster.settings import Api

USERS = "/v1/users/nobody"


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as made:
        yield made


def from_address(app: Any, address: str, key: str | None = None) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(app, client=(address, 4711))
    return httpx.AsyncClient(transport=transport, base_url="http://api.test", headers=headers)


def wrong(key: str) -> str:
    """The same prefix, another secret."""
    return f"{public(key)}_{'x' * 43}"


def public(key: str) -> str:
    """The prefix; the secret may hold underscores too."""
    return "_".join(key.split("_")[:3])


async def shared(served: Served) -> None:
    """Wait until what the process counted is in the directory, and what is there in the process."""
    await served.app._gate._shared.settled()


async def guess(served: Served, address: str, key: str, times: int) -> list[int]:
    async with from_address(served.app, address, key) as guesser:
        found = [(await guesser.get(USERS)).status_code for _ in range(times)]
    await shared(served)
    return found


async def test_brute_force_on_a_prefix_locks_the_guesser_and_nobody_else(served: Served) -> None:
    key = await served.key()
    async with (
        from_address(served.app, "192.0.2.66", key) as guesser,
        from_address(served.app, "192.0.2.10", key) as server,
    ):
        assert (await server.get(USERS)).status_code == 404
        tried = await guess(served, "192.0.2.66", wrong(key), OF_PREFIX_AND_ADDRESS)
        assert tried == [401] * OF_PREFIX_AND_ADDRESS
        # Now the right one would not be answered either: it cannot be guessed from there.
        refused = await guesser.get(USERS)
        assert (refused.status_code, refused.json()["code"]) == (429, "locked-out")
        assert 0 < int(refused.headers["retry-after"]) <= WINDOW.total_seconds()
        assert (await server.get(USERS)).status_code == 404
        # Another key is not concerned, not even from the same address.
        async with from_address(served.app, "192.0.2.66", await served.key()) as neighbour:
            assert (await neighbour.get(USERS)).status_code == 404
        served.world.clock.advance(WINDOW)
        assert (await guesser.get(USERS)).status_code == 404
    prefix = public(key)
    told = await served.world.dbs.control.read(lambda tx: audit.of_subject(tx, f"key:{prefix}"))
    assert [(act.action, act.origin) for act in told] == [("security.locked_out", "192.0.2.66")]


async def test_a_lock_holds_in_the_other_process_and_is_lifted_by_hand(served: Served) -> None:
    key = await served.key()
    other = build_api(served.deps)
    await guess(served, "192.0.2.66", wrong(key), OF_PREFIX_AND_ADDRESS)
    await other._gate._shared.settled()
    prefix = public(key)

    async def unlock(tx: Any) -> None:
        await lockouts.clear(tx, "key", prefix, "it was us", address="192.0.2.66")

    async with from_address(other, "192.0.2.66", key) as caller:
        assert (await caller.get(USERS)).json()["code"] == "locked-out"
        await served.world.dbs.control.run(ACTOR, "", unlock)
        await other._gate._shared.settled()
        assert (await caller.get(USERS)).status_code == 404


async def test_a_caller_who_is_refused_has_the_lock_read_again(served: Served) -> None:
    """Nobody else calls, so nothing is charged in which the lock could be read by the way."""
    key = await served.key()
    await guess(served, "192.0.2.66", wrong(key), OF_PREFIX_AND_ADDRESS)
    prefix = public(key)

    async def unlock(tx: Any) -> None:
        await lockouts.clear(tx, "key", prefix, "it was us", address="192.0.2.66")

    async with from_address(served.app, "192.0.2.66", key) as caller, asyncio.timeout(30):
        assert (await caller.get(USERS)).status_code == 429
        await served.world.dbs.control.run(ACTOR, "", unlock)
        while (await caller.get(USERS)).status_code == 429:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.05)


async def test_an_address_that_tries_many_prefixes_is_locked(served: Served) -> None:
    for number in range(OF_ADDRESS):
        await guess(served, "192.0.2.66", f"pk_test_{number:08x}_{'x' * 43}", 1)
    async with from_address(served.app, "192.0.2.66", await served.key()) as caller:
        assert (await caller.get(USERS)).json()["code"] == "locked-out"
    assert await guess(served, "192.0.2.67", await served.key(), 1) == [404]


async def test_guessing_from_everywhere_raises_an_alarm_and_locks_nobody(served: Served) -> None:
    key = await served.key()
    await asyncio.gather(
        *(
            guess(served, f"198.51.{number}.7", wrong(key), OF_PREFIX_AND_ADDRESS - 1)
            for number in range(OF_PREFIX // (OF_PREFIX_AND_ADDRESS - 1) + 1)
        )
    )
    prefix = public(key)
    told = await served.world.dbs.control.read(lambda tx: audit.of_subject(tx, f"key:{prefix}"))
    assert [act.action for act in told] == ["security.guessing"]
    assert await guess(served, "192.0.2.10", key, 1) == [404]


async def test_an_unknown_prefix_leaves_no_row_of_its_own(served: Served) -> None:
    await guess(served, "192.0.2.66", f"pk_test_00000000_{'x' * 43}", 3)
    rows = await served.world.dbs.control.read(lambda tx: lockouts.listing(tx, only_locked=False))
    assert [(row.subject, row.address, row.failures) for row in rows] == [("", "192.0.2.66", 3)]


async def test_a_revoked_key_is_no_guess(served: Served) -> None:
    key = await served.key()
    prefix = public(key)
    await served.world.dbs.control.run(
        ACTOR, "", lambda tx: credentials.revoke(tx, 1, prefix, "lost")
    )
    assert await guess(served, "192.0.2.10", key, 3) == [401] * 3
    assert (
        await served.world.dbs.control.read(lambda tx: lockouts.listing(tx, only_locked=False))
        == []
    )


async def test_strangers_are_limited_by_address(postgres: PostgresServer, tmp_path: Path) -> None:
    limits = {"address_requests_per_minute": 5}
    async with serve(postgres, tmp_path, limits=limits) as served:
        key = await served.key()
        async with (
            from_address(served.app, "192.0.2.66") as stranger,
            from_address(served.app, "192.0.2.66", key) as beside,
            from_address(served.app, "192.0.2.10", key) as elsewhere,
        ):
            statuses = [(await stranger.get(USERS)).status_code for _ in range(2)]
            assert (await beside.get(USERS)).status_code == 404
            statuses += [(await stranger.get(USERS)).status_code for _ in range(8)]
            assert statuses == [401] * 5 + [429] * 5
            refused = (await stranger.get(USERS)).json()
            assert refused["code"] == "rate-limited"
            # Whoever had a valid key from there before is not shut out by the stranger.
            assert (await beside.get(USERS)).status_code == 404
            assert (await elsewhere.get(USERS)).status_code == 404
            assert (await stranger.get("/healthz")).status_code == 200


async def test_a_key_over_its_limit_is_told_so(postgres: PostgresServer, tmp_path: Path) -> None:
    async with serve(postgres, tmp_path, limits={"requests_per_minute": 3}) as served:
        left = [await served.api.get(USERS) for _ in range(4)]
        assert [one.status_code for one in left] == [404, 404, 404, 429]
        told = [(one.headers["ratelimit-policy"], one.headers["ratelimit"]) for one in left]
        assert told[0][0] == '"key";q=3;w=60'
        assert [one.split(";")[1] for _, one in told] == ["r=2", "r=1", "r=0", "r=0"]
        assert int(left[-1].headers["retry-after"]) > 0


async def test_webhooks_have_a_limit_of_their_own(postgres: PostgresServer, tmp_path: Path) -> None:
    async with serve(postgres, tmp_path, limits={"hook_requests_per_minute": 2}) as served:
        statuses = [(await served.hooks.get("/nothing")).status_code for _ in range(4)]
        assert statuses == [404, 404, 429, 429]
        assert (await served.api.get(USERS)).status_code == 404


SAFE = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.mark.parametrize("path", ["/healthz", USERS, "/nothing", "/openapi.json"])
async def test_every_answer_is_safe_in_a_browser(served: Served, path: str) -> None:
    headers = (await served.api.get(path)).headers
    assert {name: headers[name] for name in SAFE} == SAFE
    assert "permissions-policy" in headers
    assert "server" not in headers
    assert "strict-transport-security" not in headers
    assert "access-control-allow-origin" not in headers


async def test_https_is_to_be_kept_to(postgres: PostgresServer, tmp_path: Path) -> None:
    async with serve(postgres, tmp_path, api={"public_url": "https://pay.example"}) as served:
        headers = (await served.api.get("/healthz")).headers
        assert headers["strict-transport-security"].startswith("max-age=31536000")


async def test_pages_of_other_origins_may_not_call_unless_listed(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    ask = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    strange = {**ask, "Origin": "https://evil.example"}
    async with serve(postgres, tmp_path / "a") as served:
        assert (
            "access-control-allow-origin"
            not in (await served.api.options(USERS, headers=ask)).headers
        )
    origins = {"cors_origins": ["https://app.example"]}
    async with serve(postgres, tmp_path / "b", api=origins) as served:
        allowed = await served.api.options(USERS, headers=ask)
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in allowed.headers
        refused = await served.api.options(USERS, headers=strange)
        assert "access-control-allow-origin" not in refused.headers


@asynccontextmanager
async def wrapped(served: Served, app: Any, **api: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Another application behind the same middleware."""
    settings, together = Api(**api), Shared(served.deps.dbs)
    gate = Gate(settings, together, Limiter("address", 1000, together), None)
    outermost = Outermost(with_cors(app, settings), served.deps, gate, 1000)
    async with client(outermost) as caller:
        yield caller
    await outermost.close()


async def test_what_takes_too_long_is_given_up_with_503(served: Served) -> None:
    ended = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with wrapped(served, slow, handler_timeout_seconds=0.1) as caller:
        answer = await caller.get("/slow")
        assert (answer.status_code, answer.json()["code"]) == (503, "timeout")
        assert answer.headers["retry-after"] == "2"
        assert ended.is_set()


async def test_more_than_can_be_done_at_once_is_shed(served: Served) -> None:
    go_on = asyncio.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/v1/wait":
            await go_on.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with wrapped(served, waiting, concurrent_requests=3) as caller:
        under_way = [asyncio.create_task(caller.get("/v1/wait")) for _ in range(3)]
        await asyncio.sleep(0.05)
        shed = await caller.get("/v1/more")
        assert (shed.status_code, shed.json()["code"]) == (503, "overloaded")
        assert shed.headers["retry-after"] == "1"
        assert (await caller.get("/healthz")).status_code == 204
        go_on.set()
        assert [(await one).status_code for one in under_way] == [204] * 3
        assert (await caller.get("/v1/more")).status_code == 204


@pytest.mark.parametrize("length", ["1001", "9999999999999999999999"])
async def test_a_body_that_is_declared_too_large_is_not_read(served: Served, length: str) -> None:
    async def unread(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it got through")

    async with wrapped(served, unread) as caller:
        answer = await caller.post("/", content=b"x", headers={"Content-Length": length})
        assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")


async def test_a_client_behind_a_trusted_proxy_is_named(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    proxies = {"trusted_proxies": ["10.0.0.0/8"]}
    async with serve(postgres, tmp_path, api=proxies) as served:
        key = await served.key()
        forwarded = {"X-Forwarded-For": "203.0.113.5"}
        async with from_address(served.app, "10.0.0.1", wrong(key)) as proxy:
            for _ in range(OF_PREFIX_AND_ADDRESS):
                await proxy.get(USERS, headers=forwarded)
            await shared(served)
            rows = await served.world.dbs.control.read(lockouts.listing)
            assert {row.address for row in rows} == {"203.0.113.5"}
        async with from_address(served.app, "10.0.0.1", key) as proxy:
            assert (await proxy.get(USERS, headers=forwarded)).status_code == 429
            other = {"X-Forwarded-For": "203.0.113.6"}
            assert (await proxy.get(USERS, headers=other)).status_code == 404


async def test_a_lock_ends_by_itself(served: Served) -> None:
    key = await served.key()
    await guess(served, "192.0.2.66", wrong(key), OF_PREFIX_AND_ADDRESS)
    served.world.clock.advance(WINDOW - timedelta(seconds=1))
    async with from_address(served.app, "192.0.2.66", key) as caller:
        assert (await caller.get(USERS)).headers["retry-after"] == "1"
        served.world.clock.advance(timedelta(seconds=1))
        assert (await caller.get(USERS)).status_code == 404
