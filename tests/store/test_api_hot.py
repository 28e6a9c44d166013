"""`POST /v1/withdrawals` in front of the framework: the same answers, merged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.served import Served, earner, serve
from tests.world import ACTOR, PostgresServer, owner_rows

from paymaster.api import hot_withdrawals
from paymaster.db.tx import CellTx
from paymaster.people import credentials

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATH = "/v1/withdrawals"
SLOWLY = {"Content-Encoding": "identity"}
"""Makes a request take the documented route."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path_factory.mktemp("hot")) as made:
        yield made


@pytest.fixture
def answered_here(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each plain request whether it was answered in front of the framework."""
    seen: list[bool] = []
    inner = hot_withdrawals.asked

    async def noting(*given: Any) -> Any:
        seen.append(True)
        return await inner(*given)

    monkeypatch.setattr(hot_withdrawals, "asked", noting)
    return seen


def body_of(destination: dict[str, Any], user: str, amount: str = "1.00") -> dict[str, Any]:
    return {
        "user": user,
        "destination": destination["id"],
        "amount": {"amount": amount, "currency": "EUR"},
    }


def comparable(answer: httpx.Response) -> tuple[Any, ...]:
    told = {**answer.json(), "trace_id": None, "id": None, "requested_at": None}
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name not in ("trace-id", "content-length", "ratelimit")
    }
    return answer.status_code, told, headers


async def test_both_ways_give_the_same_answer(served: Served, answered_here: list[bool]):
    destination = await earner(served, "same")
    good = body_of(destination, "same")
    for number, body in enumerate((good, body_of(destination, "same", "500.00"))):
        fast = await served.api.post(PATH, json=body, headers={"Idempotency-Key": f"f{number}"})
        assert answered_here == [True]
        slow = await served.api.post(
            PATH, json=body, headers={"Idempotency-Key": f"s{number}", **SLOWLY}
        )
        assert answered_here == [True]
        assert comparable(fast) == comparable(slow)
        answered_here.clear()


async def test_a_replay_is_marked_and_the_same_by_either_way(served: Served):
    destination = await earner(served, "replays")
    body = body_of(destination, "replays")
    first = await served.api.post(PATH, json=body, headers={"Idempotency-Key": "replay"})
    assert first.status_code == 202
    assert "idempotent-replayed" not in first.headers
    for extra in ({}, SLOWLY):
        again = await served.api.post(
            PATH, json=body, headers={"Idempotency-Key": "replay", **extra}
        )
        assert (again.status_code, again.content) == (202, first.content)
        assert again.headers["idempotent-replayed"] == "true"
    other = await served.api.post(
        PATH, json=body_of(destination, "replays", "2.00"), headers={"Idempotency-Key": "replay"}
    )
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")


BAD_BODIES: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff",
    b"{}",
    b'{"user": 1, "destination": "x", "amount": {"amount": "1", "currency": "EUR"}}',
    b'{"user": "", "destination": "x", "amount": {"amount": "1", "currency": "EUR"}}',
    b'{"user": "a\\u0000", "destination": "x", "amount": {"amount": "1", "currency": "EUR"}}',
    b'{"user": "a\\n", "destination": "x", "amount": {"amount": "1", "currency": "EUR"}}',
    b'{"user": "\\ud800", "destination": "x", "amount": {"amount": "1", "currency": "EUR"}}',
    b'{"user": "nobody", "destination": "x", "amount": {"amount": "1", "currency": "EUR"}}',
    b'{"user": "us_0", "destination": "x", "amount": {"amount": "1", "currency": "EUR"}}',
    b'{"user": "bad", "destination": "x", "amount": {"amount": "1", "currency": "EUR"}}',
    b'{"user": "bad", "destination": "x", "amount": {"amount": 1, "currency": "EUR"}}',
    b'{"user": "bad", "destination": "x", "amount": {"amount": "1", "currency": "XXX"}}',
    b'{"user": "bad", "destination": "x", "amount": {"amount": "1.001", "currency": "EUR"}}',
    b'{"user": "bad", "destination": "x", "amount": {"amount": "one", "currency": "EUR"}}',
    b'{"user": "bad", "destination": "x", "amount": {"amount": "1", "currency": "EUR"}, "a": 1}',
    b'{"user": "bad", "destination": "x", "amount": {"amount": "'
    + b"1" * 40
    + b'", "currency": "EUR"}}',
    b'{"user": "'
    + b"a" * 129
    + b'", "destination": "x", "amount": {"amount": "1", "currency": "EUR"}}',
    b'\xef\xbb\xbf{"user": "bad", "destination": "x", "amount": {"amount": "1", "currency": "EUR"}}',  # noqa: E501
    b" " * 5000 + b"{}",
]


async def test_faults_are_told_the_same_by_either_way(served: Served):
    await earner(served, "bad")
    for number, body in enumerate(BAD_BODIES):
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"bad{number}"}
        fast = await served.api.post(PATH, content=body, headers=headers)
        slow = await served.api.post(
            PATH, content=body, headers={**headers, "Idempotency-Key": f"b{number}", **SLOWLY}
        )
        assert fast.status_code in (400, 404, 422), body
        assert comparable(fast) == comparable(slow), body
        assert fast.headers["content-type"] == "application/problem+json"
        assert fast.json()["trace_id"] == fast.headers["trace-id"]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": ""}, 401, "unauthenticated"),
        ({"Authorization": "Bearer nonsense"}, 401, "credential-invalid"),
        ({"Idempotency-Key": ""}, 400, "idempotency-key-malformed"),
        ({"Idempotency-Key": "a b"}, 400, "idempotency-key-malformed"),
        ({"Content-Type": "text/plain"}, 415, "media-type-unsupported"),
    ],
)
async def test_faults_of_headers(served: Served, headers: dict[str, str], status: int, code: str):
    destination = await earner(served, "headers")
    answer = await served.api.post(
        PATH, json=body_of(destination, "headers"), headers={"Idempotency-Key": "h", **headers}
    )
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_query_and_a_missing_key_are_refused(served: Served):
    destination = await earner(served, "query")
    body = body_of(destination, "query")
    asked = await served.api.post(PATH + "?x=1", json=body, headers={"Idempotency-Key": "q"})
    assert (asked.status_code, asked.json()["code"]) == (400, "request-invalid")
    asked = await served.api.post(PATH, json=body)
    assert (asked.status_code, asked.json()["code"]) == (400, "idempotency-key-missing")


async def test_the_scope_is_required(served: Served):
    destination = await earner(served, "scope")
    key = await served.key(["read"])
    answer = await served.api.post(
        PATH,
        json=body_of(destination, "scope"),
        headers={"Idempotency-Key": "k", "Authorization": f"Bearer {key}"},
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing")


async def test_a_key_that_is_revoked_is_refused_by_the_next_request(served: Served):
    destination = await earner(served, "revoked")
    key = await served.key()
    headers = {"Authorization": f"Bearer {key}"}
    body = body_of(destination, "revoked")

    async def ask(name: str) -> httpx.Response:
        return await served.api.post(PATH, json=body, headers={"Idempotency-Key": name, **headers})

    assert {a.status_code for a in await asyncio.gather(*(ask(f"k{n}") for n in range(8)))} == {202}
    prefix = "_".join(key.split("_")[:3])
    await served.world.dbs.control.run(
        ACTOR, "", lambda tx: credentials.revoke(tx, 1, prefix, "lost")
    )
    told = await asyncio.gather(*(ask(f"k{n}") for n in range(8)))
    assert {(a.status_code, a.json()["code"]) for a in told} == {(401, "credential-revoked")}


async def test_concurrent_callers_share_transactions(served: Served):
    names = [f"many{n}" for n in range(20)]
    bodies = [body_of(await earner(served, name), name) for name in names]
    before = owner_rows(served.world, "SELECT count(*) FROM commit")[0][0]
    answers = await asyncio.gather(
        *(
            served.api.post(PATH, json=body, headers={"Idempotency-Key": body["user"]})
            for body in bodies
        )
    )
    assert {answer.status_code for answer in answers} == {202}
    assert owner_rows(served.world, "SELECT count(*) FROM commit")[0][0] - before < 10
    for answer in answers:
        trace = await served.ok("GET", f"/v1/traces/{answer.json()['trace_id']}")
        assert [one["id"] for one in trace["withdrawals"]] == [answer.json()["id"]]
        (commit,) = trace["commits"]
        assert [act["subject"] for act in commit["acts"]] == [answer.json()["id"]]
        assert len(commit["messages"]) == 1
        story = await served.ok("GET", f"{PATH}/{answer.json()['id']}")
        assert [act["actor"].partition(":")[0] for act in story["acts"]] == ["key"]


async def test_a_full_queue_is_503_with_retry_after(postgres: PostgresServer, tmp_path: Path):
    async with serve(postgres, tmp_path, database={"merge_queue_items": 2}) as served:
        names = [f"q{n}" for n in range(12)]
        bodies = [body_of(await earner(served, name), name) for name in names]
        inside, finish = asyncio.Event(), asyncio.Event()

        async def holding(tx: CellTx) -> None:
            await tx.execute("SELECT 1 FROM head FOR UPDATE")
            inside.set()
            await finish.wait()

        holder = asyncio.ensure_future(served.world.run(holding))
        await inside.wait()

        async def ask(body: dict[str, Any]) -> httpx.Response:
            return await served.api.post(PATH, json=body, headers={"Idempotency-Key": body["user"]})

        first = asyncio.ensure_future(ask(bodies[0]))
        await asyncio.sleep(0.3)  # its batch waits for the head of the order of commits
        waiting = [asyncio.ensure_future(ask(body)) for body in bodies[1:3]]
        await asyncio.sleep(0.3)
        full = await ask(bodies[3])
        finish.set()
        await holder
        assert full.status_code == 503
        assert full.headers["retry-after"] == "1"
        problem = full.json()
        assert (problem["code"], problem["retryable"]) == ("queue-full", True)
        answers = await asyncio.gather(first, *waiting)
        assert {answer.status_code for answer in answers} == {202}
        again = await ask(bodies[3])
        assert (again.status_code, "idempotent-replayed" in again.headers) == (202, False)
