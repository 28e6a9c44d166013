"""The API of webhooks: endpoints, their secrets, the list of events, sending again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.messaging import Desk, Receiver, desk
from tests.served import Served, add_environment, serve
from tests.world import START, PostgresServer, owner_rows

from paymaster.db import audit
from paymaster.kernel.clock import rfc3339
from paymaster.messages import signing
from paymaster.messages.catalogue import TYPES

LIST = "/v1/webhook-endpoints"
EVENTS = "/v1/webhook-events"


@pytest.fixture
async def office(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(postgres, tmp_path) as made:
        yield made


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    async with made.answering.running():
        yield made


async def make(office: Desk, url: str, **more: Any) -> dict[str, Any]:
    return await office.served.ok("POST", LIST, {"url": url, "types": ["*"], **more})


async def test_the_life_of_an_endpoint(office: Desk, receiver: Receiver) -> None:
    served = office.served
    made = await make(office, receiver.url, description="ours")
    secret, path = made.pop("secret"), f"{LIST}/{made['id']}"
    assert len(signing.key_of(secret)) == 32
    assert await served.ok("GET", path) == made
    assert (await served.ok("GET", LIST))["data"] == [made]
    changed = {"url": f"{receiver.url}/2", "types": ["user.*", "user.*"], "description": ""}
    put = await served.ok("PUT", path, changed)
    assert (put["types"], put["version"]) == (["user.*"], 2)
    assert await served.ok("PUT", path, changed) == put
    again = await served.ok("POST", f"{path}/rotate-secret", {})
    assert again["secret"] != secret
    await served.ok("POST", f"{path}/test", {})
    await office.settle()
    assert receiver.bodies[0]["type"] == "webhook_endpoint.test"
    assert receiver.got[0].path == "/hooks/2"
    stopped = await served.ok("POST", f"{path}/disable")
    assert (stopped["state"], stopped["disabled_reason"]) == ("disabled", "asked")
    await served.refused(409, "webhook-endpoint-disabled", "POST", f"{path}/test", {})
    assert (await served.ok("POST", f"{path}/enable"))["state"] == "enabled"
    assert (await served.api.delete(path)).status_code == 204
    await served.refused(404, "webhook-endpoint-unknown", "GET", path)
    assert (await served.ok("GET", LIST))["data"] == []
    acts = await served.world.dbs.control.read(lambda tx: audit.of_subject(tx, made["id"]))
    assert [one.action.partition(".")[2] for one in acts] == [
        "create", "change", "rotate", "disable", "enable", "delete",
    ]  # fmt: skip


async def test_secrets_are_shown_once_and_kept_sealed(office: Desk, receiver: Receiver) -> None:
    made = await make(office, receiver.url)
    path = f"{LIST}/{made['id']}"
    for answer in (await office.served.ok("GET", path), await office.served.ok("GET", LIST)):
        assert made["secret"] not in str(answer)
        assert "secret" not in answer
    world = office.served.world
    rows = owner_rows(world, "SELECT sealed FROM control.webhook_secret")
    assert signing.key_of(made["secret"]) not in rows[0][0]
    assert made["secret"].encode() not in rows[0][0]
    await office.served.api.delete(path)
    assert owner_rows(world, "SELECT 1 FROM control.webhook_secret") == []


async def test_at_most_five_secrets_sign(office: Desk, receiver: Receiver) -> None:
    path = f"{LIST}/{(await make(office, receiver.url))['id']}/rotate-secret"
    for _ in range(4):
        await office.served.ok("POST", path, {})
    await office.served.refused(409, "webhook-secrets-exhausted", "POST", path, {})
    await office.served.ok("POST", path, {"overlap_seconds": 0})
    await office.says(1)
    await office.settle()
    assert " " not in receiver.got[0].headers["webhook-signature"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"url": "http://10.0.0.1/"}, 422, "webhook-target-refused"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, 422, "webhook-target-refused"),
        ({"url": "http://2130706434:9/"}, 422, "webhook-url-invalid"),
        ({"url": "gopher://127.0.0.1/"}, 422, "webhook-url-invalid"),
        ({"url": "http://no-such-host.invalid/"}, 422, "webhook-target-unknown"),
        ({"types": ["no.such"]}, 422, "webhook-types-unknown"),
        ({"types": ["withdrawal"]}, 422, "webhook-types-unknown"),
        ({"types": []}, 400, "request-invalid"),
        ({"surprise": 1}, 400, "request-invalid"),
    ],
)
async def test_what_is_no_endpoint(
    office: Desk, receiver: Receiver, body: dict[str, Any], status: int, code: str
) -> None:
    given = {"url": receiver.url, "types": ["*"], **body}
    await office.served.refused(status, code, "POST", LIST, given)
    made = await make(office, receiver.url)
    if "surprise" not in body:
        await office.served.refused(status, code, "PUT", f"{LIST}/{made['id']}", given)


async def test_private_targets_are_refused_unless_allowed(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with serve(postgres, tmp_path) as served:
        body = {"url": "http://127.0.0.1:8080/", "types": ["*"]}
        await served.refused(422, "webhook-target-refused", "POST", LIST, body)


async def test_only_so_many_endpoints(
    postgres: PostgresServer, tmp_path: Path, receiver: Receiver
) -> None:
    async with desk(postgres, tmp_path, webhooks={"endpoints": 2}) as office:
        body = {"url": receiver.url, "types": ["*"]}
        many = await asyncio.gather(*(office.served.api.post(LIST, json=body) for _ in range(5)))
        assert sorted(one.status_code for one in many) == [201, 201, 422, 422, 422]


async def events(served: Served, **query: Any) -> list[dict[str, Any]]:
    """All pages of the list."""
    found: list[dict[str, Any]] = []
    for _ in range(100):
        page = await served.ok("GET", EVENTS, params={"limit": 7, **query})
        found += page["data"]
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]
    raise AssertionError("the list has no end")


@pytest.mark.parametrize("cells", [1, 3])
async def test_events_are_listed_once_newest_first(
    postgres: PostgresServer, tmp_path: Path, cells: int
) -> None:
    async with desk(postgres, tmp_path, cells=cells) as office:
        served = office.served
        for round_ in range(4):
            for cell in range(1, cells + 1):
                await office.says(5 + round_, cell=cell)
                served.world.clock.advance(timedelta(seconds=1))
        await office.endpoint("http://127.0.0.1:9/")
        await office.says(2, topic="user.suspended")
        found = await events(served)
        assert len(found) == len({one["id"] for one in found}) == 26 * cells + 2
        assert [one["timestamp"] for one in found] == sorted(
            (one["timestamp"] for one in found), reverse=True
        )
        some = await events(served, types="user.suspended,withdrawal.*")
        assert [one["type"] for one in some] == ["user.suspended"] * 2
        one = await served.ok("GET", f"{EVENTS}/{some[0]['id']}")
        assert one == some[0]
        await served.refused(400, "webhook-types-unknown", "GET", EVENTS, params={"types": "x"})
        await served.refused(400, "cursor-invalid", "GET", EVENTS, params={"cursor": "zz"})
        served.world.clock.advance(timedelta(days=31))
        assert await events(served) == []


async def test_many_events_of_one_transaction_are_paged(office: Desk) -> None:
    await office.says(40)
    found = await events(office.served)
    assert len({one["id"] for one in found}) == 40


@pytest.mark.parametrize("cells", [1, 2])
async def test_following_misses_nothing(
    postgres: PostgresServer, tmp_path: Path, cells: int
) -> None:
    async with desk(postgres, tmp_path, cells=cells) as office:
        await office.says(3)
        begun = await office.served.ok("GET", f"{EVENTS}/next")
        assert (begun["data"], begun["mode"]) == ([], "test")
        cursor, found = begun["cursor"], list[str]()
        for round_ in range(5):
            for cell in range(1, cells + 1):
                await office.says(9 + round_, cell=cell)
            while True:
                told = await office.served.ok(
                    "GET", f"{EVENTS}/next", params={"cursor": cursor, "limit": 4}
                )
                cursor = told["cursor"]
                found += [one["id"] for one in told["data"]]
                if not told["data"]:
                    break
        assert len(found) == len(set(found)) == 55 * cells


async def test_following_waits_for_what_happens(office: Desk) -> None:
    cursor = (await office.served.ok("GET", f"{EVENTS}/next"))["cursor"]
    query = {"cursor": cursor, "wait_seconds": 20}
    waiting = asyncio.create_task(office.served.ok("GET", f"{EVENTS}/next", params=query))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await office.says(1)
    assert len((await waiting)["data"]) == 1


async def test_deliveries_and_sending_one_again(office: Desk, receiver: Receiver) -> None:
    served = office.served
    made = await make(office, receiver.url, types=["user.active"])
    receiver.status = lambda _: 500
    await office.says(3)
    await office.settle()
    path = f"{LIST}/{made['id']}/deliveries"
    rows = (await served.ok("GET", path, params={"limit": 2}))["data"]
    assert [(one["state"], one["status"], one["outcome"], one["tries"]) for one in rows] == [
        ("waiting", 500, "status", 1)
    ] * 2
    assert rows[0]["next_try_at"] > rfc3339(served.world.clock.now())
    event = rows[0]["event"]
    assert (await served.ok("GET", f"{EVENTS}/{event}/deliveries"))["data"] == [rows[0]]
    again = {"endpoint": made["id"]}
    receiver.got.clear()
    assert await served.ok("POST", f"{EVENTS}/{event}/resend", again) == {"queued": True}
    assert await served.ok("POST", f"{EVENTS}/{event}/resend", again) == {"queued": False}
    await office.settle()
    assert receiver.ids == [event]
    receiver.status = lambda _: 200
    receiver.got.clear()
    await served.ok("POST", f"{LIST}/{made['id']}/resend", {"since": rfc3339(START)})
    await office.settle()
    assert len(receiver.got) == 3
    await office.pass_time(timedelta(minutes=1), step=timedelta(seconds=10))
    assert await served.ok("POST", f"{EVENTS}/{event}/resend", again) == {"queued": True}
    receiver.got.clear()
    await office.settle()
    assert receiver.ids == [event]
    delivered = await served.ok("GET", path, params={"state": "delivered"})
    assert len(delivered["data"]) == 3


async def test_resend_since(office: Desk, receiver: Receiver) -> None:
    served = office.served
    made = await make(office, receiver.url, types=["user.active"], ordered=True)
    path = f"{LIST}/{made['id']}"
    await office.says(2)
    await office.settle()
    served.world.clock.advance(timedelta(hours=1))
    await served.ok("POST", f"{path}/disable")
    await office.says(4)
    await office.settle()
    assert len(receiver.got) == 2
    since = rfc3339(served.world.clock.now())
    await served.refused(
        409, "webhook-endpoint-disabled", "POST", f"{path}/resend", {"since": since}
    )
    await served.ok("POST", f"{path}/enable")
    await served.ok("POST", f"{path}/resend", {"since": since})
    await office.fan_out()
    await office.settle()
    assert len(receiver.got) == 6
    assert receiver.ids == sorted(receiver.ids)
    old = rfc3339(served.world.clock.now() - timedelta(days=40))
    await served.refused(422, "webhook-events-gone", "POST", f"{path}/resend", {"since": old})


async def test_another_environment_has_none_of_it(office: Desk, receiver: Receiver) -> None:
    served = office.served
    other = await add_environment(served)
    made = await make(office, receiver.url)
    await office.says(1)
    await office.settle()
    [event] = receiver.ids
    await served.ok("POST", f"{LIST}/{made['id']}/test", {})
    [test, *_] = await events(served, types="webhook_endpoint.test")
    headers = {"Authorization": f"Bearer {await served.key(environment_id=other)}"}
    for method, path, body in (
        ("GET", f"{LIST}/{made['id']}", None),
        ("GET", f"{LIST}/{made['id']}/deliveries", None),
        ("PUT", f"{LIST}/{made['id']}", {"url": receiver.url, "types": ["*"]}),
        ("DELETE", f"{LIST}/{made['id']}", None),
        ("POST", f"{LIST}/{made['id']}/rotate-secret", {}),
        ("POST", f"{LIST}/{made['id']}/test", {}),
        ("GET", f"{EVENTS}/{event}", None),
        ("GET", f"{EVENTS}/{test['id']}", None),
        ("GET", f"{EVENTS}/{event}/deliveries", None),
        ("POST", f"{EVENTS}/{event}/resend", {"endpoint": made["id"]}),
    ):
        answer = await served.api.request(method, path, json=body, headers=headers)
        assert answer.status_code == 404, (method, path, answer.text)
    for path in (LIST, EVENTS):
        answer = await served.api.get(path, headers=headers)
        assert answer.json()["data"] == []


async def test_the_types_are_served(office: Desk) -> None:
    found = (await office.served.ok("GET", "/v1/webhook-event-types"))["data"]
    assert [one["name"] for one in found] == list(TYPES)
