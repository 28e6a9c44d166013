"""Publishers over a world, stepped by hand, and readers of what the brokers have stored."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import nats
from faststream.rabbit import RabbitBroker
from tests.world import PostgresServer, World, make_world

from paymaster.db import outbox
from paymaster.db.outbox import Message
from paymaster.kernel.clock import ManualClock
from paymaster.kernel.errors import Busy
from paymaster.kernel.ids import text_id
from paymaster.messages.broker.link import Access, Link
from paymaster.messages.broker.publish import Publisher
from paymaster.messages.place import Place
from paymaster.observe import Metrics
from paymaster.settings import Broker, Peers

SECRETS = {"broker-password": "wine-and-cheese", "broker-token": "bread-and-butter"}


@dataclass
class Desk:
    """A world with what is said in it."""

    world: World
    said: int = 0

    def publisher(self, settings: Broker, cell: int | None = 1) -> Publisher:
        """A process of the role, as far as one place is concerned."""
        link = Link(Access(settings, Peers(), SECRETS.__getitem__))
        return Publisher(Place(self.world.dbs, cell), link, Metrics(), timedelta(seconds=60))

    async def says(self, count: int, *, users: int = 5, size: int = 0) -> list[str]:
        """Events of some users in turns, each with its number, in commits of ten; their keys."""
        keys = [text_id("us", 1, 100 + number) for number in range(users)]
        said = [
            Message(
                "user.kyc_level",
                keys[at % users],
                {
                    "user": keys[at % users],
                    "level": f"{self.said + at}{'x' * size}",
                    "before": "none",
                },
            )
            for at in range(count)
        ]
        self.said += count
        for start in range(0, count, 10):
            part = said[start : start + 10]
            await self.world.run(lambda tx, p=part: outbox.put(tx, p))
        return keys


@asynccontextmanager
async def desk(postgres: PostgresServer, cells: int = 1) -> AsyncIterator[Desk]:
    """A fresh world."""
    async with make_world(postgres, cells=cells) as world:
        yield Desk(world)


async def publish(one: Publisher, *, patience: int = 200) -> None:
    """Step until nothing is left, however often the broker is away."""
    for _ in range(patience):
        try:
            if not await one.step():
                return
        except Busy:
            await asyncio.sleep(0.05)
            clock = one._place.dbs.clock
            assert isinstance(clock, ManualClock)
            clock.advance(timedelta(milliseconds=50))
    raise AssertionError("it is not published")


async def close(*publishers: Publisher) -> None:
    for one in publishers:
        await one._link.close()


async def in_stream(url: str, settings: Broker, **options: Any) -> list[Any]:
    """All messages of the stream, in the order in which they are stored."""
    client = await nats.connect(url, **options)
    try:
        js = client.jetstream()
        state = (await js.stream_info(settings.stream)).state
        return [
            await js.get_msg(settings.stream, seq=number)
            for number in range(state.first_seq, state.last_seq + 1)
            if state.messages
        ]
    finally:
        await client.close()


async def from_queue(url: str, queue: str) -> list[Any]:
    """Take all messages of a queue."""
    async with RabbitBroker(url, logger=None, apply_types=False) as broker:
        found: list[Any] = []
        declared = await broker.declare_queue(queue_of(queue))
        while (message := await declared.get(fail=False)) is not None:
            found.append(message)
            await message.ack()
        return found


def queue_of(name: str) -> Any:
    from faststream.rabbit import RabbitQueue

    return RabbitQueue(name, durable=True)


async def bind(url: str, queue: str, exchange: str) -> None:
    """A durable queue that gets everything."""
    async with RabbitBroker(url, logger=None, apply_types=False) as broker:
        declared = await broker.declare_queue(queue_of(queue))
        await declared.bind(exchange, "#")


def bodies(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """The events, the first copy of each."""
    seen: dict[str, dict[str, Any]] = {}
    for one in messages:
        event = json.loads(one.data if hasattr(one, "data") else one.body)
        seen.setdefault(f"{event['source']} {event['id']}", event)
    return list(seen.values())


def in_order(events: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """By key the numbers of the events in the order in which they lie there."""
    found: dict[str, list[int]] = {}
    for event in events:
        found.setdefault(event["partitionkey"], []).append(int(event["data"]["level"].rstrip("x")))
    return found
