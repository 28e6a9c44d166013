"""Endpoints and a real receiver on loopback, for the tests of messages to the outside."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.contract.http_server import Answering, Asked, Reply
from tests.served import Served, serve
from tests.world import PostgresServer

from paymaster.db import outbox
from paymaster.db.outbox import Message
from paymaster.db.tx import CellTx, ControlTx
from paymaster.kernel.ids import text_id
from paymaster.messages import endpoints
from paymaster.messages.endpoints import EndpointView, Wanted
from paymaster.messages.store import deliveries
from paymaster.messages.targets import Targets, networks
from paymaster.roles.messages import Notify

LOOPBACK = {"allowed_networks": ("127.0.0.0/8", "::1/128")}


@dataclass
class Receiver:
    """An app's server: keeps what it was sent; `status` is what it answers."""

    status: Callable[[Asked], int] = lambda _: 200
    wait_seconds: float = 0
    got: list[Asked] = field(default_factory=list)
    answering: Answering = field(init=False)

    def __post_init__(self) -> None:
        self.answering = Answering(self._answer)

    def _answer(self, asked: Asked) -> Reply:
        self.got.append(asked)
        return Reply(self.status(asked), b"thanks", wait_seconds=self.wait_seconds)

    @property
    def url(self) -> str:
        return f"{self.answering.url}/hooks"

    @property
    def ids(self) -> list[str]:
        return [one.headers["webhook-id"] for one in self.got]

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(one.body) for one in self.got]


@dataclass
class Desk:
    """An installation with its role `notify`, stepped by hand."""

    served: Served
    notify: Notify
    secrets: dict[str, str] = field(default_factory=dict)

    def again(self) -> Notify:
        """Another process of the role."""
        return Notify(self.served.deps, _targets())

    async def endpoint(
        self, url: str, *, types: Sequence[str] = ("*",), ordered: bool = False
    ) -> EndpointView:
        """An endpoint; its secret is in `secrets`."""
        deps = self.served.deps
        heads = await endpoints.heads(deps.dbs, 1)

        async def work(tx: ControlTx) -> tuple[EndpointView, str]:
            wanted = Wanted(url, types)
            return await endpoints.create(
                tx, deps.dbs, deps.secrets.sealer, 1, wanted, heads, ordered=ordered, most=20
            )

        view, secret = await self.control(work)
        self.secrets[view.id] = secret
        return view

    async def control(self, work: Any) -> Any:
        from tests.world import ACTOR

        return await self.served.deps.dbs.control.run(ACTOR, "0" * 32, work)

    async def says(
        self, count: int, *, users: int = 1, cell: int = 1, topic: str = "user.active"
    ) -> None:
        """Events of some users in turns, each with its number, one transaction."""
        names = [text_id("us", cell, 100 + number) for number in range(users)]
        messages = [
            Message(topic, names[at % users], {"user": names[at % users]}) for at in range(count)
        ]
        await self.served.world.run(lambda tx: outbox.put(tx, messages), cell)

    async def fan_out(self) -> int:
        """Owe everything that happened; how many places were passed."""
        passed = 0
        for one in self.notify.fan_outs.values():
            while moved := await one.step():
                passed += moved
        return passed

    async def send(self, notify: Notify | None = None) -> None:
        """Deliver everything that is due."""
        senders = (notify or self.notify).senders.values()
        while sum([await one.step(5.0) for one in senders]):
            pass

    async def settle(self) -> None:
        """Both, until nothing is left to do now."""
        await self.fan_out()
        await self.send()
        while await self.fan_out():
            await self.send()

    async def pass_time(self, span: timedelta, *, step: timedelta = timedelta(minutes=5)) -> None:
        """Let the clock run, delivering what becomes due on the way."""
        left = span
        while left > timedelta(0):
            self.served.world.clock.advance(min(step, left))
            left -= step
            await self.settle()

    async def states(self, view: EndpointView, cell: int | None = 1) -> Mapping[str, int]:
        """How many deliveries are in each state."""
        read = self.served.world.dbs.control.read if cell is None else self.served.world.read
        rows = await read(lambda tx: deliveries.of_endpoint(tx, view.row.id, None, 2**62, 10**6))
        return Counter(row.state for row in rows)

    async def seen(self, view: EndpointView) -> EndpointView:
        """The endpoint as it is now."""
        dbs = self.served.deps.dbs
        return await dbs.control.read(lambda tx: endpoints.get(tx, dbs, 1, view.row.id))


def _targets() -> Targets:
    return Targets(networks(LOOPBACK["allowed_networks"]))


@asynccontextmanager
async def desk(
    postgres: PostgresServer, folder: Path, *, cells: int = 1, **groups: Mapping[str, Any]
) -> AsyncIterator[Desk]:
    """A fresh installation whose endpoints may be on loopback."""
    webhooks = {**LOOPBACK, **groups.pop("webhooks", {})}
    async with serve(postgres, folder, cells=cells, webhooks=webhooks, **groups) as served:
        notify = Notify(served.deps)
        try:
            yield Desk(served, notify)
        finally:
            await notify.close()


async def told(tx: CellTx, *messages: Message) -> None:
    """Leave messages."""
    await outbox.put(tx, messages)
