"""Webhooks to apps: once, signed, in order where promised, whoever is slow, down or killed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from tests.messaging import Desk, Receiver, desk
from tests.world import PostgresServer

from paymaster.db import audit, outbox
from paymaster.db.tx import ControlTx
from paymaster.kernel.clock import WallClock
from paymaster.messages import endpoints, replay, schedule, signing
from paymaster.messages.send import AHEAD
from paymaster.messages.store import deliveries

DOWN = timedelta(days=2)


@pytest.fixture
async def office(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(postgres, tmp_path) as made:
        yield made


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    async with made.answering.running():
        yield made


def numbers(receiver: Receiver) -> list[int]:
    """The events that arrived, by the order in which they happened."""
    return [int(one[-9:], 32) for one in receiver.ids]


# Once, and signed


async def test_each_event_arrives_once(office: Desk, receiver: Receiver) -> None:
    view = await office.endpoint(receiver.url)
    await office.says(30, users=3)
    await office.settle()
    assert len(receiver.got) == len(set(receiver.ids)) == 30
    assert await office.states(view) == {"delivered": 30}
    assert receiver.got[0].headers["content-type"] == "application/json"
    body = receiver.bodies[0]
    assert (body["type"], body["mode"]) == ("user.active", "test")
    assert list(body["data"]) == ["user"]


async def test_the_official_library_verifies_it(postgres: PostgresServer, tmp_path: Path) -> None:
    receiver = Receiver()
    async with receiver.answering.running(), desk(postgres, tmp_path) as office:
        # The library looks at the machine's clock.
        office.served.world.dbs.clock = WallClock()
        view = await office.endpoint(receiver.url)
        await office.says(2)
        await office.settle()
        for asked in receiver.got:
            said = Webhook(office.secrets[view.id]).verify(asked.body, asked.headers)
            assert said == receiver.bodies[0]
            with pytest.raises(WebhookVerificationError):
                Webhook(signing.new_secret()).verify(asked.body, asked.headers)
            with pytest.raises(WebhookVerificationError):
                Webhook(office.secrets[view.id]).verify(asked.body + b" ", asked.headers)


async def test_both_secrets_sign_until_the_overlap_is_over(
    office: Desk, receiver: Receiver
) -> None:
    view = await office.endpoint(receiver.url)
    deps = office.served.deps

    async def rotate(tx: ControlTx) -> str:
        _, secret = await endpoints.rotate(
            tx, deps.dbs, deps.secrets.sealer, 1, view.row.id, timedelta(hours=1)
        )
        return secret

    fresh = await office.control(rotate)
    await office.says(1)
    await office.settle()
    office.served.world.clock.advance(timedelta(hours=1))
    await office.says(1)
    await office.settle()
    first, second = receiver.got
    keys = {name: signing.key_of(text) for name, text in (("old", office.secrets[view.id]),
                                                          ("new", fresh))}  # fmt: skip
    for asked, expected in ((first, ["new", "old"]), (second, ["new"])):
        stamp = office.served.world.clock.now() - (
            timedelta(hours=1) if asked is first else timedelta(0)
        )
        signed = signing.headers(
            [keys[name] for name in expected], asked.headers["webhook-id"], stamp, asked.body
        )
        assert asked.headers["webhook-signature"] == signed["webhook-signature"]


async def test_only_what_is_subscribed_and_only_since_then(
    office: Desk, receiver: Receiver
) -> None:
    await office.says(5)
    some = await office.endpoint(receiver.url, types=["user.active", "withdrawal.*"])
    none = await office.endpoint(receiver.url, types=["withdrawal.*", "user.closed"])
    await office.says(3)
    await office.says(2, topic="user.suspended")
    await office.settle()
    assert await office.states(some) == {"delivered": 3}
    assert await office.states(none) == {}
    assert {body["type"] for body in receiver.bodies} == {"user.active"}


async def test_commands_between_cells_are_nobodys_business(
    office: Desk, receiver: Receiver
) -> None:
    await office.endpoint(receiver.url)
    message = outbox.Message("user.active", "us_x", {"user": "us_x"}, target_cell=1)
    await office.served.world.run(lambda tx: outbox.put(tx, [message]))
    await office.settle()
    assert receiver.got == []


async def test_every_cell_and_the_directory_are_fanned_out(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    receiver = Receiver()
    async with receiver.answering.running(), desk(postgres, tmp_path, cells=3) as office:
        view = await office.endpoint(receiver.url)
        for cell in (1, 2, 3):
            await office.says(4, cell=cell)
        await office.control(lambda tx: endpoints.test(tx, office.served.deps.dbs, 1, view.row.id))
        await office.settle()
        assert len(set(receiver.ids)) == 13
        assert [one[:2] for one in sorted(receiver.ids)].count("ec") == 1


async def test_a_test_event_goes_to_its_endpoint_only(office: Desk, receiver: Receiver) -> None:
    view = await office.endpoint(receiver.url, types=["day.closed"])
    await office.endpoint(receiver.url, types=["*"])
    await office.control(lambda tx: endpoints.test(tx, office.served.deps.dbs, 1, view.row.id))
    await office.settle()
    assert [body["data"] for body in receiver.bodies] == [{"endpoint": view.id}]


# Down, slow, gone


@pytest.mark.parametrize("ordered", [False, True])
async def test_down_for_two_days_and_nothing_is_lost(
    office: Desk, receiver: Receiver, *, ordered: bool
) -> None:
    view = await office.endpoint(receiver.url, ordered=ordered)
    receiver.status = lambda _: 503
    for _ in range(8):
        await office.says(4, users=2)
        await office.pass_time(DOWN / 8, step=timedelta(hours=1))
    assert set(await office.states(view)) == {"waiting"}
    assert (await office.seen(view)).row.failing_since is not None
    receiver.got.clear()
    receiver.status = lambda _: 200
    await office.pass_time(timedelta(hours=13), step=timedelta(hours=1))
    assert await office.states(view) == {"delivered": 32}
    assert sorted(receiver.ids) == sorted(set(receiver.ids))
    assert len(receiver.ids) == 32
    assert (await office.seen(view)).row.failing_since is None
    if ordered:
        for user in {body["data"]["user"] for body in receiver.bodies}:
            pairs = zip(receiver.ids, receiver.bodies, strict=True)
            mine = [one for one, body in pairs if body["data"]["user"] == user]
            assert mine == sorted(mine)


async def test_order_holds_while_tries_fail_at_random(office: Desk, receiver: Receiver) -> None:
    turns = itertools.cycle([200, 500, 200, 200, 503, 404, 200])
    arrived: list[str] = []

    def status(asked: object) -> int:
        code = next(turns)
        if code == 200:
            arrived.append(receiver.ids[-1])
        return code

    receiver.status = status
    view = await office.endpoint(receiver.url, ordered=True)
    for _ in range(5):
        await office.says(12, users=3)
        await office.settle()
    await office.pass_time(timedelta(hours=24), step=timedelta(seconds=900))
    assert await office.states(view) == {"delivered": 60}
    assert len(arrived) == len(set(arrived)) == 60
    by_id = dict(zip(receiver.ids, receiver.bodies, strict=True))
    for user in {body["data"]["user"] for body in receiver.bodies}:
        mine = [one for one in arrived if by_id[one]["data"]["user"] == user]
        assert mine == sorted(mine)
        assert len(mine) == 20


async def test_what_never_arrives_is_given_up_and_lets_others_pass(
    office: Desk, receiver: Receiver
) -> None:
    view = await office.endpoint(receiver.url, ordered=True)
    await office.says(3)
    poison: set[str] = set()
    receiver.status = lambda asked: 500 if asked.headers["webhook-id"] in poison else 200
    await office.fan_out()
    rows = await office.served.world.read(
        lambda tx: deliveries.of_endpoint(tx, view.row.id, None, 2**62, 10)
    )
    place = office.notify._places[1]
    poison.add(place.event_id(1, rows[-1].seq))
    await office.settle()
    assert await office.states(view) == {"waiting": 3}
    assert len(receiver.got) == 1
    for _ in range(40):
        await office.pass_time(timedelta(hours=4), step=timedelta(hours=1))
        if await office.states(view) == {"failed": 1, "delivered": 2}:
            break
    assert await office.states(view) == {"failed": 1, "delivered": 2}
    assert len(receiver.got) >= len(schedule.DELAYS) + 1 + 2


async def test_gone_disables_at_once_and_tells(office: Desk, receiver: Receiver) -> None:
    view = await office.endpoint(receiver.url)
    other = await office.endpoint(receiver.url, types=["webhook_endpoint.disabled"])
    receiver.status = lambda _: 410 if len(receiver.got) == 1 else 200
    await office.says(1)
    await office.settle()
    seen = (await office.seen(view)).row
    assert (seen.state, seen.disabled_reason) == ("disabled", "gone")
    assert await office.states(other, None) == {"delivered": 1}
    told = receiver.bodies[-1]
    assert told["data"] == {"endpoint": view.id, "reason": "gone", "failing_since": None}
    acts = await office.served.world.dbs.control.read(lambda tx: audit.of_subject(tx, view.id))
    assert [one.action for one in acts] == ["webhook_endpoint.create", "webhook_endpoint.disable"]


async def test_lasting_failure_disables_and_a_replay_brings_what_was_missed(
    office: Desk, receiver: Receiver
) -> None:
    view = await office.endpoint(receiver.url)
    began = office.served.world.clock.now()
    receiver.status = lambda _: 500
    for _ in range(11):
        await office.says(1)
        await office.pass_time(timedelta(hours=12), step=timedelta(hours=4))
    seen = (await office.seen(view)).row
    assert (seen.state, seen.disabled_reason) == ("disabled", "failing")
    await office.says(5)
    await office.settle()
    missed = sum((await office.states(view)).values())
    receiver.got.clear()
    receiver.status = lambda _: 200
    dbs = office.served.deps.dbs
    await office.control(lambda tx: endpoints.enable(tx, dbs, 1, view.row.id))
    await replay.ask(dbs, endpoints.Actor("test"), view.row, began)
    await office.pass_time(timedelta(hours=14), step=timedelta(hours=1))
    assert missed < 16
    states = await office.states(view)
    assert states == {"delivered": 16}
    assert len(receiver.ids) == len(set(receiver.ids))


async def test_a_slow_receiver_delays_no_other(office: Desk, receiver: Receiver) -> None:
    slow = Receiver(wait_seconds=30)
    async with slow.answering.running():
        stuck = await office.endpoint(slow.url)
        quick = await office.endpoint(receiver.url)
        await office.says(40)
        await office.fan_out()
        sender = office.notify.senders["1"]
        for _ in range(200):
            await sender.step(0.05)
            if await office.states(quick) == {"delivered": 40}:
                break
        assert await office.states(quick) == {"delivered": 40}
        concurrency = office.served.deps.settings.webhooks.endpoint_concurrency
        claimed = concurrency * AHEAD
        assert await office.states(stuck) == {"sending": claimed, "waiting": 40 - claimed}
        assert len(slow.got) == concurrency
        for task in set(sender._tasks):
            task.cancel()
        await asyncio.wait(set(sender._tasks))


async def test_killed_between_sending_and_writing_down(office: Desk, receiver: Receiver) -> None:
    view = await office.endpoint(receiver.url)
    await office.says(3)
    await office.fan_out()
    killed = office.notify.senders["1"]
    await killed.step()
    await asyncio.wait(set(killed._tasks))
    assert len(receiver.got) == 3
    assert await office.states(view) == {"sending": 3}
    other = office.again()
    await office.send(other)
    assert len(receiver.got) == 3
    office.served.world.clock.advance(timedelta(minutes=2))
    await office.send(other)
    await other.close()
    assert await office.states(view) == {"delivered": 3}
    assert sorted(receiver.ids) == sorted(2 * list(set(receiver.ids)))
    # The first process wakes up: its lease is over, what it knows changes nothing.
    await killed.drain()
    assert await office.states(view) == {"delivered": 3}


async def test_fanned_out_once_by_two_processes(office: Desk, receiver: Receiver) -> None:
    view = await office.endpoint(receiver.url)
    other = office.again()
    await office.says(50)
    await asyncio.gather(office.notify.fan_outs["1"].step(), other.fan_outs["1"].step())
    await office.settle()
    await office.send(other)
    await other.close()
    assert await office.states(view) == {"delivered": 50}
    assert len(receiver.got) == 50


async def test_a_secret_that_does_not_open_stops_no_other(office: Desk, receiver: Receiver) -> None:
    broken = await office.endpoint(receiver.url)
    view = await office.endpoint(receiver.url)
    await office.control(
        lambda tx: tx.execute(
            "UPDATE webhook_secret SET sealed = 'x' WHERE endpoint_id = %s", (broken.row.id,)
        )
    )
    await office.says(20)
    await office.settle()
    assert await office.states(view) == {"delivered": 20}
    assert await office.states(broken) == {"waiting": 20}
    assert sum(office.notify._post.slots.taken.values()) == 0


async def test_redirects_are_not_followed(office: Desk, receiver: Receiver) -> None:
    view = await office.endpoint(receiver.url)
    receiver.status = lambda _: 307
    await office.says(1)
    await office.settle()
    assert len(receiver.got) == 1
    [row] = await office.served.world.read(
        lambda tx: deliveries.of_endpoint(tx, view.row.id, None, 2**62, 10)
    )
    assert (row.state, row.status, row.outcome) == ("waiting", 307, "redirected")


async def test_what_waited_behind_something_forgotten_is_released(
    office: Desk, receiver: Receiver
) -> None:
    view = await office.endpoint(receiver.url, ordered=True)
    dbs = office.served.deps.dbs
    receiver.status = lambda _: 500
    await office.says(1)
    await office.settle()
    await office.control(lambda tx: endpoints.disable(tx, dbs, 1, view.row.id, "asked"))
    await office.control(lambda tx: endpoints.enable(tx, dbs, 1, view.row.id))
    office.served.world.clock.advance(timedelta(days=20))
    await office.says(1)
    await office.fan_out()
    office.served.world.clock.advance(timedelta(days=11))
    for place in office.notify._places:
        await office.notify._forget(place)
    assert await office.states(view) == {"waiting": 1}
    receiver.status = lambda _: 200
    await office.settle()
    assert await office.states(view) == {"delivered": 1}


async def test_old_deliveries_are_forgotten(office: Desk, receiver: Receiver) -> None:
    view = await office.endpoint(receiver.url)
    await office.says(3)
    await office.settle()
    office.served.world.clock.advance(timedelta(days=31))
    for place in office.notify._places:
        await office.notify._forget(place)
    assert await office.states(view) == {}
