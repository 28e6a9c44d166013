"""What was missed comes whole, however much it is; nothing is said to be read before it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.served import Served, serve
from tests.streaming import ask, new_earner, pay, process, reading, told, with_streams
from tests.world import PostgresServer

from paymaster.api import stream as served_stream
from paymaster.api.app import build_api
from paymaster.roles.serving import listen, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
LIVE = {"life_seconds": 60.0, "poll_seconds": 0.05, "per_user": 3, "resume_places": 5000}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(postgres: PostgresServer, tmp_path_factory: Any) -> AsyncIterator[Served]:
    folder: Path = tmp_path_factory.mktemp("caught-up")
    limits = {"requests_per_minute": 1_000_000, "user_requests_per_minute": 1_000_000}
    async with serve(postgres, folder, streams=LIVE, limits=limits) as found:
        yield found


@pytest.mark.parametrize("room", [3, 4, 7])
async def test_who_missed_more_than_may_wait_is_told_all_of_it(served: Served, room: int) -> None:
    """Else the client would be let go as slow, come back, and be let go again, for ever."""
    name, place, token = await new_earner(served)
    async with process(with_streams(served.deps, waiting_events=room)) as url:
        async with reading(url, token) as reader:
            mark = (await reader.next()).last_id
        missed = [await ask(served, name, place) for _ in range(4)]
        for one in missed:
            await pay(served, one)
        assert mark
        async with reading(url, token, last_id=mark) as again:
            await again.until("balances")
            assert [one for one in again.seen if one.type in ("end", "reset")] == []
            assert [one for kind, one in told(again) if kind == "withdrawal.paid"] == missed
            assert len(told(again)) == len(set(told(again))) == 4 * 5
            last = await ask(served, name, place)
            await again.until("withdrawal.requested")
            assert told(again)[-1] == ("withdrawal.requested", last)


async def test_a_heartbeat_says_only_what_was_sent(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something is told while it is asked whether the caller may still listen."""
    name, place, token = await new_earner(served)
    app = build_api(with_streams(served.deps, recheck_seconds=0.2))
    hub: Any = app._app._app.state.streams  # pyright: ignore[reportFunctionMemberAccess]
    authenticate, asked = served_stream.authenticate, list[str]()
    mark = ""

    async def slowly(request: Any) -> Any:
        if not asked:
            [stream] = hub._pollers[1]._streams
            asked.append(await ask(served, name, place))
            while not stream._waiting:  # noqa: ASYNC110 - until the poller has looked
                await asyncio.sleep(0.01)
        return await authenticate(request)

    monkeypatch.setattr(served_stream, "authenticate", slowly)
    listening = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with serving(app, listening, 10):
        async with reading(url, token) as reader:
            await reader.next()
            assert reader._lines is not None
            async for line in reader._lines:
                if asked and line.startswith("id: "):
                    mark = line.removeprefix("id: ")
                    break
        assert mark
        async with reading(url, token, last_id=mark) as again:
            await again.until("balances")
        app.drain()
    await app.close()
    assert told(again) == [("withdrawal.requested", asked[0])]
