"""Events to NATS JetStream: each at least once, in order for each user, whatever is killed."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import nats
import pytest
from cloudevents.core.formats.json import JSONFormat
from nats.js.api import DiscardPolicy, StreamConfig
from tests.brokers import Nats, until
from tests.publishing import (
    Desk,
    bodies,
    close,
    desk,
    in_order,
    in_stream,
    publish,
)
from tests.world import PostgresServer, app_dsn

from paymaster.db import outbox
from paymaster.db.outbox import Message
from paymaster.kernel.errors import Busy, Conflict, NotFound
from paymaster.messages.broker import store
from paymaster.messages.broker.again import again
from paymaster.messages.broker.aside import try_again
from paymaster.messages.broker.gauges import measure
from paymaster.messages.broker.letter import partition
from paymaster.observe import metrics_response
from paymaster.settings import Broker

KILLED = """
import asyncio, os, signal, sys
from tests.publishing import Desk
from paymaster.messages.broker.publish import Publisher
from paymaster.db.cells import Databases
from paymaster.kernel.clock import ManualClock
from paymaster.settings import Broker
from tests.world import START, World

async def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    Publisher._pass = die
    dbs = Databases({"main": sys.argv[1]}, ManualClock(START))
    await dbs.open()
    world = World(dbs, dbs.clock, dbs.environment(1), "", "")
    one = Desk(world).publisher(Broker(urls=[sys.argv[2]], begin="beginning"))
    await one.step()
    await one.step()

asyncio.run(main())
"""


@pytest.fixture
async def told(postgres: PostgresServer) -> AsyncIterator[Desk]:
    async with desk(postgres) as made:
        yield made


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    server = Nats(tmp_path_factory.mktemp("nats"), "max_payload: 65536")
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def server(_server: Nats) -> Nats:
    """The module's server, with nothing in it."""
    client = await nats.connect(_server.url)
    js = client.jetstream()
    for one in await js.streams_info():
        await js.delete_stream(str(one.config.name))
    await client.close()
    return _server


def settings(server: Nats, **more: Any) -> Broker:
    return Broker(urls=(server.url,), begin="beginning", timeout_seconds=5, **more)


async def test_each_event_is_a_cloud_event(told: Desk, server: Nats) -> None:
    keys = await told.says(30)
    one = told.publisher(settings(server))
    await publish(one)
    stored = await in_stream(server.url, settings(server))
    assert len(stored) == 30
    for at, message in enumerate(stored):
        event = JSONFormat().read(None, message.data)
        key = str(event.get_subject())
        number = partition(key, 16)
        assert message.subject == f"paymaster.acme.test.{number}.user.kyc_level"
        assert event.get_type() == "user.kyc_level"
        assert event.get_specversion() == "1.0"
        assert event.get_datacontenttype() == "application/json"
        assert event.get_extension("partitionkey") == key
        assert key in keys
        assert event.get_time() is not None
        unique = f"{event.get_source()}/{event.get_id()}"
        assert message.headers["Nats-Msg-Id"] == unique
        assert message.headers["content-type"].startswith("application/cloudevents+json")
        assert list(json.loads(message.data)["data"]) == ["user", "level", "before"]
        trace = json.loads(message.data)["traceparent"].split("-")
        assert trace[1] == event.get_extension("traceid")
        assert [len(part) for part in trace] == [2, 32, 16, 2], at
    sequences = [json.loads(one.data)["sequence"] for one in stored]
    assert sorted(sequences) == sorted(sequences, key=int)
    assert all(one == sorted(one) for one in in_order(bodies(stored)).values())
    assert await one.step() == 0
    await close(one)


async def test_only_the_types_that_are_wanted(told: Desk, server: Nats) -> None:
    said = [
        Message("withdrawal.paid", "us_010000000000001", {}),
        Message("user.active", "us_010000000000001", {}),
        Message("webhook_endpoint.test", "we_010000000000001", {}),
        Message("earn.grant", "us_010000000000001", {}, target_cell=1),
    ]
    await told.world.run(lambda tx: outbox.put(tx, said))
    one = told.publisher(settings(server, types=("*",)))
    await publish(one)
    stored = await in_stream(server.url, settings(server))
    assert sorted(event["type"] for event in bodies(stored)) == ["user.active", "withdrawal.paid"]
    wanted = told.publisher(settings(server, types=("withdrawal.*",)))
    assert wanted._topics == sorted(t for t in wanted._topics if t.startswith("withdrawal."))
    await close(one)


async def test_it_begins_with_what_happens_from_now_on(told: Desk, server: Nats) -> None:
    await told.says(5)
    now = Broker(urls=(server.url,))
    one = told.publisher(now)
    await publish(one)
    await told.says(3)
    await publish(one)
    assert len(await in_stream(server.url, now)) == 3
    directory = told.publisher(now, cell=None)
    assert await directory.step() == 1
    await close(one, directory)


async def test_a_broker_killed_in_the_middle_loses_nothing(told: Desk, tmp_path: Path) -> None:
    own = Nats(tmp_path)
    own.start()
    try:
        await told.says(3000, users=40)
        one = told.publisher(settings(own, in_flight=8))
        sending = asyncio.create_task(publish(one))
        await until(lambda: (tmp_path / "js").exists() and _bytes(tmp_path / "js") > 100_000)
        own.kill()
        assert not sending.done()
        await until(lambda: one._link.fault is not None and "No connection" in one._link.fault)
        own.start()
        await sending
        events = bodies(await in_stream(own.url, settings(own)))
        assert len(events) == 3000
        assert all(numbers == sorted(numbers) for numbers in in_order(events).values())
        await close(one)
    finally:
        own.kill()


def _bytes(folder: Path) -> int:
    return sum(one.stat().st_size for one in folder.rglob("*.blk"))


async def test_a_publisher_killed_before_it_wrote_down_how_far_it_came(
    told: Desk, server: Nats
) -> None:
    await told.says(40)
    dsn = app_dsn(told.world.dbs)
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED, dsn, server.url], timeout=60, check=False
    )
    assert process.returncode == -signal.SIGKILL
    assert len(await in_stream(server.url, settings(server))) == 40, "it was confirmed"
    one = told.publisher(settings(server))
    assert await one.step() == 0, "the lease of the killed one holds"
    told.world.clock.advance(timedelta(seconds=61))
    await told.says(5)
    await publish(one)
    stored = await in_stream(server.url, settings(server))
    assert len(stored) == 45, "the server knew the copies by their id"
    assert all(one == sorted(one) for one in in_order(bodies(stored)).values())
    await close(one)


async def test_who_has_lost_the_lease_moves_nothing(told: Desk, server: Nats) -> None:
    await told.says(20)
    late, other = told.publisher(settings(server)), told.publisher(settings(server))
    assert await late.step() == 1
    real = late._pass

    async def after_a_long_sleep(*given: Any) -> None:
        told.world.clock.advance(timedelta(seconds=61))
        await publish(other)
        await told.says(10)
        await real(*given)

    late._pass = after_a_long_sleep  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(Conflict, match="lease"):
        await late.step()
    assert await late.step() == 0
    await publish(other)
    stored = await in_stream(server.url, settings(server))
    assert len(stored) == 30
    assert all(one == sorted(one) for one in in_order(bodies(stored)).values())
    await close(late, other)


async def test_one_that_is_too_large_is_laid_aside_and_the_others_go_on(
    told: Desk, server: Nats
) -> None:
    await told.says(10)
    await told.says(1, size=70_000)
    await told.says(10)
    one = told.publisher(settings(server))
    await publish(one)
    names = [
        message.headers["Nats-Msg-Id"] for message in await in_stream(server.url, settings(server))
    ]
    assert (len(names), len(set(names))) == (20, 20), names
    [laid] = await told.world.read(lambda tx: store.listing(tx, 10))
    assert (laid.topic, laid.key) == ("user.kyc_level", "us_010000000000034")
    assert "70" in laid.detail
    shown = await measure(told.world.dbs, one._metrics, one._link)
    assert shown["laid_aside"] == {"control": 0, "1": 1}
    assert shown["connected"] is True
    text = metrics_response(one._metrics)[0].decode()
    assert 'paymaster_broker_aside{place="1"} 1.0' in text
    assert 'paymaster_broker_events_total{outcome="aside"} 1.0' in text
    assert 'paymaster_broker_events_total{outcome="published"} 20.0' in text
    # Tried again while nothing has changed, it stays.
    await told.world.run(lambda tx: try_again(tx, laid.seq, laid.event, "larger now"))
    await publish(one)
    [again] = await told.world.read(lambda tx: store.listing(tx, 10))
    assert again.tries == 2
    with pytest.raises(NotFound):
        await told.world.run(lambda tx: try_again(tx, 1, "ev_1", None))
    await close(one)


async def test_one_that_the_stream_refuses_is_laid_aside_and_sent_on_demand(
    told: Desk, server: Nats
) -> None:
    client = await nats.connect(server.url)
    js = client.jetstream()
    small = StreamConfig(name="PAYMASTER", subjects=["paymaster.>"], max_msg_size=2000)
    await js.add_stream(small)
    await told.says(5)
    await told.says(1, size=4000)
    await told.says(5)
    one = told.publisher(settings(server))
    await publish(one)
    [laid] = await told.world.read(lambda tx: store.listing(tx, 10))
    assert "stream" in laid.detail
    small.max_msg_size = -1
    await js.update_stream(small)
    await told.world.run(lambda tx: try_again(tx, laid.seq, laid.event, None))
    await publish(one)
    assert await told.world.read(lambda tx: store.listing(tx, 10)) == []
    assert len(await in_stream(server.url, settings(server))) == 11
    await client.close()
    await close(one)


async def test_a_stream_that_is_full_loses_nothing(told: Desk, server: Nats) -> None:
    client = await nats.connect(server.url)
    js = client.jetstream()
    full = StreamConfig(
        name="PAYMASTER", subjects=["paymaster.>"], max_msgs=7, discard=DiscardPolicy.NEW
    )
    await js.add_stream(full)
    await told.says(20)
    one = told.publisher(settings(server))
    assert await one.step() == 1
    while await told.world.read(lambda tx: store.position(tx, "broker")) == 0:
        await one.step()
    with pytest.raises(Busy, match="maximum messages"):
        await one.step()
    assert await told.world.read(store.count) == 0
    lag = await measure(told.world.dbs, one._metrics, one._link)
    assert "maximum messages" in str(lag["fault"])
    full.max_msgs = -1
    await js.update_stream(full)
    await publish(one)
    events = bodies(await in_stream(server.url, settings(server)))
    assert len(events) == 20
    assert all(numbers == sorted(numbers) for numbers in in_order(events).values())
    await client.close()
    await close(one)


async def test_all_of_it_again_after_the_stream_was_lost(told: Desk, server: Nats) -> None:
    """Also while somebody publishes: what that one has under way moves nothing on."""
    await told.says(30)
    one, other = told.publisher(settings(server)), told.publisher(settings(server))
    await publish(one)
    since = told.world.clock.now()
    client = await nats.connect(server.url)
    await client.jetstream().delete_stream("PAYMASTER")
    await client.close()
    await told.says(10)
    real = one._pass

    async def meanwhile(*given: Any) -> None:
        count = await told.world.run(lambda tx: again(tx, "1", since, "stream lost"))
        assert count >= 30
        await real(*given)

    one._pass = meanwhile  # pyright: ignore[reportAttributeAccessIssue]
    await one._link.close()
    with pytest.raises(Conflict, match="lease"):
        await one.step()
    await publish(other)
    events = bodies(await in_stream(server.url, settings(server)))
    assert len(events) == 40
    assert all(numbers == sorted(numbers) for numbers in in_order(events[10:]).values())
    later = since + timedelta(days=1)
    assert await told.world.run(lambda tx: again(tx, "1", later, None)) == 0
    await close(one, other)


async def test_a_stream_that_nobody_made_is_waited_for(told: Desk, server: Nats) -> None:
    await told.says(3)
    one = told.publisher(settings(server, topology="expect"))
    assert await one.step() == 1
    with pytest.raises(Busy, match="There is no stream PAYMASTER"):
        await one.step()
    other = told.publisher(settings(server))
    await publish(other)
    assert len(await in_stream(server.url, settings(server))) == 3, "the lease was given up"
    await close(one, other)
