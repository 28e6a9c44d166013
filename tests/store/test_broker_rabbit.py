"""Events to RabbitMQ: stored by a queue or not passed, in order for each user."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from tests.brokers import Rabbit, authority, free_port, until
from tests.publishing import SECRETS, Desk, bind, bodies, close, desk, from_queue, in_order, publish
from tests.world import PostgresServer

from paymaster.kernel.errors import Busy
from paymaster.messages.broker import store
from paymaster.messages.broker.link import Access, open_wire
from paymaster.messages.broker.publish import Publisher
from paymaster.settings import Broker, Peers

CONFIG = """
max_message_size = 65536
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.versions.1 = tlsv1.3
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
ssl_options.cacertfile = {folder}/ca.pem
ssl_options.certfile = {folder}/broker.pem
ssl_options.keyfile = {folder}/broker-key.pem
"""
TLS_PORT = free_port()


@pytest.fixture
async def told(postgres: PostgresServer) -> AsyncIterator[Desk]:
    async with desk(postgres) as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    folder = authority(tmp_path_factory.mktemp("rabbit"))
    made = Rabbit(folder, CONFIG.format(port=TLS_PORT, folder=folder))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """An exchange and a queue of the test's own."""
    return str(request.node.name)


def settings(server: Rabbit, name: str, **more: Any) -> Broker:
    given = {"login": "password", "username": "guest", "timeout_seconds": 5, **more}
    return Broker(urls=(server.url,), exchange=name, begin="beginning", **given)


def publisher(told: Desk, given: Broker) -> Publisher:
    SECRETS["broker-password"] = "guest"
    return told.publisher(given)


async def bound(server: Rabbit, one: Publisher, name: str) -> None:
    """The exchange is there, and a queue that gets everything."""
    await one._link.wire()
    await bind(server.url, name, name)


async def test_each_event_is_a_cloud_event(told: Desk, server: Rabbit, name: str) -> None:
    await told.says(30)
    one = publisher(told, settings(server, name))
    await bound(server, one, name)
    await publish(one)
    stored = await from_queue(server.url, name)
    assert len(stored) == 30
    for message in stored:
        event = JSONFormat().read(None, message.body)
        assert message.content_type.startswith("application/cloudevents+json")
        assert message.message_id == f"{event.get_source()}/{event.get_id()}"
        assert message.type == event.get_type() == "user.kyc_level"
        assert message.routing_key.startswith("paymaster.acme.test.")
        assert message.delivery_mode == 2
    assert all(one == sorted(one) for one in in_order(bodies(stored)).values())
    await close(one)


async def test_what_no_queue_would_get_waits(told: Desk, server: Rabbit, name: str) -> None:
    await told.says(10)
    one = publisher(told, settings(server, name))
    assert await one.step() == 1
    for _ in range(2):
        with pytest.raises(Busy, match="No queue gets"):
            await one.step()
    assert await told.world.read(lambda tx: store.position(tx, "broker")) == 0
    await bind(server.url, name, name)
    await publish(one)
    assert len(bodies(await from_queue(server.url, name))) == 10
    await close(one)


async def test_one_that_is_too_large_is_found_among_the_others(
    told: Desk, server: Rabbit, name: str
) -> None:
    """The server closes the channel under all of them; only that one is laid aside."""
    await told.says(40)
    await told.says(1, size=70_000)
    await told.says(40)
    one = publisher(told, settings(server, name))
    await bound(server, one, name)
    await publish(one)
    [laid] = await told.world.read(lambda tx: store.listing(tx, 10))
    assert laid.detail == "RabbitMQ refuses it."
    events = bodies(await from_queue(server.url, name))
    assert len(events) == 80
    assert laid.event not in {event["id"] for event in events}
    await close(one)


async def test_a_publisher_that_ends_before_it_wrote_down_how_far_it_came(
    told: Desk, server: Rabbit, name: str
) -> None:
    """All go twice, under the same id, and the first copies lie in order."""
    await told.says(50)
    killed, other = (publisher(told, settings(server, name)) for _ in range(2))
    await bound(server, killed, name)

    async def never(*_: Any) -> None:
        raise asyncio.CancelledError

    killed._pass = never  # pyright: ignore[reportAttributeAccessIssue]
    assert await killed.step() == 1
    with pytest.raises(asyncio.CancelledError):
        await killed.step()
    told.world.clock.advance(timedelta(seconds=61))
    await publish(other)
    stored = await from_queue(server.url, name)
    events = bodies(stored)
    assert (len(stored), len(events)) == (100, 50)
    assert all(numbers == sorted(numbers) for numbers in in_order(events).values())
    await close(killed, other)


async def test_an_exchange_that_nobody_made_is_waited_for(
    told: Desk, server: Rabbit, name: str
) -> None:
    expects = Access(settings(server, name, topology="expect"), Peers(), lambda _: "guest")
    with pytest.raises(Busy, match="There is no exchange"):
        await open_wire(expects)
    made = Access(settings(server, name), Peers(), lambda _: "guest")
    await (await open_wire(made)).close()
    await (await open_wire(expects)).close()
    with pytest.raises(Busy, match="No connection to RabbitMQ"):
        await open_wire(Access(settings(server, name), Peers(), lambda _: "guessed"))


async def test_certificates_on_both_sides(server: Rabbit, name: str, tmp_path: Path) -> None:
    ours, theirs = server.folder, authority(tmp_path)
    given = settings(server, name).model_copy(
        update={"urls": (f"amqps://127.0.0.1:{TLS_PORT}",), "ca": ours / "ca.pem"}
    )

    def shown(folder: Path) -> Broker:
        mine = {"certificate": folder / "notify.pem", "key": folder / "notify-key.pem"}
        return given.model_copy(update=mine)

    await (await open_wire(Access(shown(ours), Peers(), lambda _: "guest"))).close()
    elsewhere = shown(ours).model_copy(update={"ca": theirs / "ca.pem"})
    for wrong in (shown(theirs), given, elsewhere):
        with pytest.raises(Busy, match="No connection to RabbitMQ"):
            await open_wire(Access(wrong, Peers(), lambda _: "guest"))


@pytest.mark.long
async def test_a_broker_killed_in_the_middle_loses_nothing(told: Desk, tmp_path: Path) -> None:
    own = Rabbit(tmp_path)
    own.start()
    try:
        await told.says(4000, users=60)
        one = publisher(told, settings(own, "all", in_flight=16))
        await bound(own, one, "all")
        sending = asyncio.create_task(publish(one, patience=5000))
        await until(lambda: one._metrics.broker_events.labels("published")._value.get() > 0)
        own.kill()
        assert not sending.done()
        await until(lambda: one._link.fault is not None and "No connection" in one._link.fault)
        await asyncio.to_thread(own.start)
        await sending
        events = bodies(await from_queue(own.url, "all"))
        assert len(events) == 4000
        assert all(numbers == sorted(numbers) for numbers in in_order(events).values())
        await close(one)
    finally:
        own.stop()
