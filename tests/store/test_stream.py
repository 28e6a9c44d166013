"""The status stream: in order, without loss or repetition, of one user only, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.served import Served, serve
from tests.streaming import ask, caller, new_earner, pay, process, reading, told, with_streams
from tests.world import PostgresServer

from paymaster.api.cursors import Cursors
from paymaster.api.stream import cursor_maker
from paymaster.kernel.ids import parse_text_id
from paymaster.messages import catalogue
from paymaster.messages.streams import GROUPS, TOPICS

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


STEPS = ["requested", "screening", "approved", "sending", "paid"]


async def test_every_move_is_told_in_order_with_the_balances_after_it(
    served: Served, url: str
) -> None:
    name, place, token = await new_earner(served)
    other, elsewhere, _ = await new_earner(served)
    async with reading(url, token) as reader:
        assert reader.answer.headers["content-type"].startswith("text/event-stream")
        assert reader.answer.headers["cache-control"] == "no-store"
        first = await reader.next()
        assert (first.type, reader.retry) == ("balances", 2000)
        assert first.data["data"][0]["available"] == {"amount": "50.00", "currency": "EUR"}
        await ask(served, other, elsewhere)
        withdrawal = await ask(served, name, place, "10.00")
        after = await reader.until("balances")
        assert after.data["data"][0]["available"]["amount"] == "40.00"
        assert after.data["data"][0]["held"]["amount"] == "10.00"
        await pay(served, withdrawal)
        while (await reader.until("balances")).data["data"][0]["held"]["amount"] != "0.00":
            pass
    assert told(reader) == [(f"withdrawal.{step}", withdrawal) for step in STEPS]
    ids = [one.data["id"] for one in reader.seen if one.type != "balances"]
    seqs = [parse_text_id("ev", one).id for one in ids]
    assert seqs == sorted(set(seqs))
    requested = next(one for one in reader.seen if one.type == "withdrawal.requested")
    assert "reason" not in requested.data["data"]


async def test_who_comes_back_goes_on_after_the_last_event_at_any_process(
    served: Served, url: str
) -> None:
    name, place, token = await new_earner(served)
    first = await ask(served, name, place)
    async with reading(url, token) as reader:
        start = await reader.next()
        await pay(served, first)
        seen = [await reader.next() for _ in range(2)]
    assert [one.type for one in seen] == ["withdrawal.screening", "withdrawal.approved"]
    second = await ask(served, name, place)
    async with process(served.deps) as elsewhere:
        async with reading(elsewhere, token, last_id=seen[-1].last_id) as again:
            await again.until("withdrawal.requested")
        assert told(again) == [
            ("withdrawal.sending", first),
            ("withdrawal.paid", first),
            ("withdrawal.requested", second),
        ]
        async with reading(elsewhere, token, last_id=start.last_id) as whole:
            await whole.until("balances")
        assert told(whole)[:2] == [
            ("withdrawal.screening", first), ("withdrawal.approved", first),
        ]  # fmt: skip
        assert told(whole)[2:] == told(again)
        last = again.seen[-1].last_id
        async with reading(elsewhere, token, last_id=last) as nothing:
            assert (await nothing.next()).type == "balances"
        assert told(nothing) == []


async def test_every_place_to_go_on_from_gives_exactly_the_rest(served: Served, url: str) -> None:
    """Cut after each of the events in turn: what comes is what would have come."""
    name, place, token = await new_earner(served)
    async with reading(url, token) as reader:
        start = await reader.next()
        for _ in range(3):
            await pay(served, await ask(served, name, place))
        while len(told(reader)) < 3 * len(STEPS):
            await reader.next()
    whole = told(reader)
    marks = [start.last_id, *(one.last_id for one in reader.seen if one.type.startswith("withd"))]
    for cut, mark in enumerate(marks):
        async with reading(url, token, last_id=mark) as again:
            await again.until("balances")
        assert told(again) == whole[cut:], cut


async def test_nobody_listens_to_another(served: Served, url: str) -> None:
    name, _, token = await new_earner(served)
    other, _, _ = await new_earner(served)
    theirs = (await served.ok("GET", f"/v1/users/{other}"))["id"]
    for path in (f"/v1/users/{other}/stream", f"/v1/users/{theirs}/stream"):
        async with reading(url, token, path) as refused:
            assert refused.answer.status_code == 404
            assert refused.answer.json()["code"] == "user-unknown"
    async with reading(url, token, f"/v1/users/{name}/stream") as own:
        mark = (await own.next()).last_id
    key = served.api.headers["authorization"].removeprefix("Bearer ")
    async with reading(url, key) as server:
        assert server.answer.status_code == 403
    async with reading(url, key, f"/v1/users/{other}/stream") as server:
        assert (await server.next()).type == "balances"
    async with reading(url, key, f"/v1/users/{other}/stream", mark) as foreign:
        assert foreign.answer.status_code == 400
        assert foreign.answer.json()["code"] == "cursor-invalid"
    narrow = await served.key(["events:write"])
    async with reading(url, narrow, f"/v1/users/{other}/stream") as refused:
        assert refused.answer.status_code == 403


async def test_what_was_too_long_ago_is_to_be_loaded_anew(served: Served, url: str) -> None:
    name, _, token = await new_earner(served)
    user = parse_text_id("us", (await served.ok("GET", f"/v1/users/{name}"))["id"])
    make = cursor_maker(Cursors(served.deps.secrets.hmac))
    head = await served.world.read(lambda tx: tx.value("SELECT seq FROM head WHERE id = 1"))
    for seq in (head + 10_000, head - 5001):
        async with reading(url, token, last_id=make(user, seq)) as reader:
            found = await reader.next()
            assert (found.type, found.data) == ("reset", {"reason": "too-far-back"})
            assert (await reader.next()).type == "balances"


async def test_two_hundred_clients_cost_one_look(served: Served, url: str) -> None:
    """The statements of the database do not grow with the clients."""
    people = [await new_earner(served) for _ in range(5)]
    counted = 0
    cell = served.world.dbs.cell(1)
    read = cell.read

    async def counting(work: Any) -> Any:
        nonlocal counted
        counted += "_Poller" in getattr(work, "__qualname__", "")
        return await read(work)

    deps = with_streams(served.deps, per_user=100, poll_seconds=0.2)
    joined, everybody = asyncio.Event(), 200
    begun = 0

    async def listen(number: int, http: httpx.AsyncClient) -> list[tuple[str, str]]:
        nonlocal begun
        async with reading(wide, people[number % 5][2], http=http) as reader:
            await reader.next()
            begun += 1
            if begun == everybody:
                joined.set()
            await reader.until("withdrawal.requested")
            return told(reader)

    async with process(deps) as wide, caller() as http:
        cell.read = counting
        try:
            listeners = [asyncio.create_task(listen(one, http)) for one in range(everybody)]
            await joined.wait()
            counted = 0
            made = [await ask(served, name, place) for name, place, _ in people]
            found = await asyncio.gather(*listeners)
        finally:
            cell.read = read
    expected = [[("withdrawal.requested", made[number % 5])] for number in range(everybody)]
    assert found == expected, "each hears of his own and of nobody else's"
    assert 0 < counted <= 40, "a look serves all who listen"


async def test_what_is_told_is_what_the_catalogue_says() -> None:
    assert {topic.partition(".")[0] for topic in TOPICS} <= GROUPS
    assert "withdrawal.paid" in TOPICS
    assert not any(topic.startswith(("attempt", "security", "hold", "break")) for topic in TOPICS)
    assert catalogue.TYPES.keys() >= set(TOPICS)
