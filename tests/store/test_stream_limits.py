"""How status streams end, and how many there may be: over real HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.served import Served, serve
from tests.streaming import Reader, ask, new_earner, process, reading, told, with_streams
from tests.world import PostgresServer

from paymaster.api.app import build_api
from paymaster.kernel.ids import Ref
from paymaster.messages.streams import Stream, frame
from paymaster.observe import metrics_response
from paymaster.roles.connection import Allowance
from paymaster.roles.serving import listen, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
LIVE = {"life_seconds": 60.0, "poll_seconds": 0.05, "per_user": 3, "resume_places": 5000}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(postgres: PostgresServer, tmp_path_factory: Any) -> AsyncIterator[Served]:
    folder: Path = tmp_path_factory.mktemp("streamed")
    limits = {"requests_per_minute": 1_000_000, "user_requests_per_minute": 1_000_000}
    async with serve(postgres, folder, streams=LIVE, limits=limits) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(served: Served) -> AsyncIterator[str]:
    async with process(served.deps) as found:
        yield found


async def admitted(url: str, token: str) -> bool:
    """Whether the user gets a stream within two seconds."""
    for _ in range(100):
        async with reading(url, token) as reader:
            if reader.answer.status_code == 200:
                return True
        await asyncio.sleep(0.02)
    return False


async def test_only_so_many_streams_of_a_user(served: Served, url: str) -> None:
    _, _, token = await new_earner(served)
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(reading(url, token)) for _ in range(3)]
        assert [(await one.next()).type for one in readers] == ["balances"] * 3
        refused = await stack.enter_async_context(reading(url, token))
        assert refused.answer.status_code == 429
        assert refused.answer.json()["code"] == "too-many-streams"
    assert await admitted(url, token), "who has gone makes room"


@pytest_asyncio.fixture(loop_scope="module")
async def strict(served: Served) -> AsyncIterator[str]:
    """A process that looks often whether the caller may listen, and lets few do so."""
    changed = with_streams(served.deps, heartbeat_seconds=0.1, recheck_seconds=0.2, per_process=2)
    async with process(changed) as found:
        yield found


async def ending(reader: Reader) -> str:
    return str((await reader.until("end")).data["reason"])


async def test_a_stream_ends_in_time_and_beats_meanwhile(served: Served) -> None:
    name, place, token = await new_earner(served)
    stranger = (await new_earner(served))[:2]
    short = with_streams(served.deps, life_seconds=0.6, heartbeat_seconds=0.1)
    async with process(short) as url:
        async with reading(url, token) as reader:
            mark = (await reader.next()).last_id
            await ask(served, *stranger)
            assert await ending(reader) == "reconnect"
            with pytest.raises(StopAsyncIteration):
                await reader.next()
        assert reader.comments >= 1
        assert reader.last_id != mark, "a heartbeat says how far was read, though nothing was told"
        async with reading(url, token, last_id=reader.last_id) as again:
            await ask(served, name, place)
            await again.until("withdrawal.requested")
    assert len(told(again)) == 1


async def test_an_expired_token_ends_it(served: Served, strict: str) -> None:
    _, _, token = await new_earner(served)
    served.world.clock.advance(timedelta(minutes=15) - timedelta(milliseconds=300))
    async with reading(strict, token) as reader:
        assert reader.answer.status_code == 200
        assert await ending(reader) == "token-expired"


async def test_who_may_listen_no_more_is_cut_off(served: Served, strict: str) -> None:
    name, _, token = await new_earner(served)
    async with reading(strict, token) as reader:
        await reader.next()
        await served.ok("PUT", f"/v1/users/{name}", {"status": "suspended", "reason": "x"})
        assert await ending(reader) == "user-suspended"
    for _ in range(100):
        if b'reason="refused"' in metrics_response(served.deps.metrics)[0]:
            break
        await asyncio.sleep(0.02)
    body = metrics_response(served.deps.metrics)[0]
    assert b'paymaster_streams_ended_total{reason="refused"} 1.0' in body
    assert b'paymaster_streams_ended_total{reason="token-expired"} 1.0' in body


async def test_only_so_many_streams_of_a_process(served: Served, strict: str) -> None:
    tokens = [(await new_earner(served))[2] for _ in range(3)]
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(reading(strict, one)) for one in tokens[:2]]
        assert [(await one.next()).type for one in readers] == ["balances"] * 2
        refused = await stack.enter_async_context(reading(strict, tokens[2]))
        assert refused.answer.status_code == 429


async def test_a_process_that_stops_ends_its_streams_at_once(served: Served) -> None:
    _, _, token = await new_earner(served)
    async with AsyncExitStack() as stack:
        async with process(served.deps) as url:
            reader = await stack.enter_async_context(reading(url, token))
            await reader.next()
        assert await ending(reader) == "restart"


async def test_a_client_that_does_not_read_is_let_go(served: Served) -> None:
    stream = Stream(Ref(1, 1), None, room=3)
    for number in range(3):
        stream.put(frame("x", number))
    assert stream.ended is None
    stream.put(frame("x", 3))
    assert stream.ended == "slow"
    stream.put(frame("x", 4))
    assert await stream.take(0.0) == b"", "nothing is kept for it"
    assert served is not None


async def test_a_connection_that_breaks_off_is_forgotten(served: Served, url: str) -> None:
    _, _, token = await new_earner(served)
    port = int(url.rpartition(":")[2])
    for _ in range(6):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            head = "GET /v1/me/stream HTTP/1.1\r\nHost: x\r\n"
            raw.sendall(f"{head}Authorization: Bearer {token}\r\n\r\n".encode())
            await asyncio.sleep(0.05)
    assert await admitted(url, token)


async def test_one_that_reads_nothing_is_let_go_and_costs_no_memory(served: Served) -> None:
    """Over a real connection: what waits is bounded, then the connection is ended."""
    _, _, token = await new_earner(served)
    app = build_api(served.deps)
    hub: Any = app._app._app.state.streams  # pyright: ignore[reportFunctionMemberAccess]
    listening = listen("127.0.0.1", 0)
    address = listening.getsockname()
    async with serving(app, listening, 10, allowance=Allowance(write_seconds=0.2)):
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            await asyncio.get_running_loop().sock_connect(deaf, address)
            head = f"GET /v1/me/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(deaf, head.encode())
            while not hub.count:  # noqa: ASYNC110 - it begins when the request was read
                await asyncio.sleep(0.01)
            [stream] = hub._pollers[1]._streams
            large = frame("x", "x" * 65_536)
            for _ in range(5000):
                stream.put(large)
                if stream.ended is not None:
                    break
                await asyncio.sleep(0)
            assert stream.ended == "slow"
            assert not stream._waiting
            for _ in range(500):
                if not hub.count:
                    break
                await asyncio.sleep(0.02)
            assert not hub.count, "its connection was ended, and its place is free"
        app.drain()
    await app.close()
