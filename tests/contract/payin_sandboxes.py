"""Our own installation and a provider's sandbox, between which a sponsor pays for a campaign.

Everything is real but the money: the database, the sockets, the signatures. The provider calls our
address for messages over HTTP; `go_on` moves both clocks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.contract.checking import patiently
from tests.contract.payin_sides import OPENING, Side
from tests.contract.sandboxes import Outside, outside
from tests.linking import keep_secret
from tests.served import Served, client, make_deps, make_settings
from tests.withdrawals import assert_proven
from tests.world import PostgresServer, make_world

from paymaster.api.app import build_api, build_hooks
from paymaster.db.cells import Databases
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.payin.run import Collector
from paymaster.rails.deps import RailDeps
from paymaster.rails.http import client_with_identity
from paymaster.rails.registry import Registry
from paymaster.roles import work
from paymaster.settle import payin_apply
from paymaster_sandbox.serving import HttpServer

ACCOUNT = "till"


@dataclass
class Heard:
    """A message that came, and what we answered."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int = 0
    answer: bytes = b""


@dataclass
class Recorded:
    """Our address for messages, with everything that went through it."""

    app: ASGIApp
    heard: list[Heard] = field(default_factory=list[Heard])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        one = Heard(scope["path"], headers, b"")

        async def receiving() -> Message:
            message = await receive()
            one.body += message.get("body", b"")
            return message

        async def sending(message: Message) -> None:
            one.status = message.get("status", one.status)
            one.answer += message.get("body", b"")
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self.heard.append(one)

        await self.app(scope, receiving, sending)


@dataclass
class Trading:
    """Our installation, its provider, and a campaign that wants money."""

    found: Outside
    served: Served
    side: Side
    messages: Recorded
    collector: Collector
    random: Random = field(default_factory=lambda: Random(7))
    unclaimed: int = 0
    """Fen that the provider took in for us and that nobody was credited with."""

    async def topup(self, yuan: str = "100.00", **more: Any) -> dict[str, Any]:
        """Ask the sponsor; told to the provider, with what the sponsor's side needs."""
        asked = await self.ask(yuan, **more)
        await self.rounds()
        return await self.see(asked)

    async def ask(self, yuan: str = "100.00", **more: Any) -> dict[str, Any]:
        """Ask the sponsor; the provider has not heard of it yet."""
        body = {
            "rail_account": ACCOUNT, "method": self.side.method, "description": "预算",
            "amount": {"amount": yuan, "currency": "CNY"}, **more,
        }  # fmt: skip
        headers = {"Idempotency-Key": new_trace_id()}
        return await self.served.ok("POST", "/v1/campaigns/camp/topups", body, headers=headers)

    async def see(self, topup: Mapping[str, Any]) -> dict[str, Any]:
        """A top-up as it stands."""
        return await self.served.ok("GET", f"/v1/topups/{topup['id']}")

    async def pay(self, topup: Mapping[str, Any]) -> bool:
        """The sponsor scans the code or opens the page, and pays."""
        return await self.side.pay(topup["reference"], topup["checkout"]["content"])

    async def give_back(self, topup: Mapping[str, Any], yuan: str | None = None) -> dict[str, Any]:
        """Ask for a refund of a part, or of all that is left."""
        body: dict[str, Any] = {"reason": "unspent"}
        if yuan is not None:
            body["amount"] = {"amount": yuan, "currency": "CNY"}
        headers = {"Idempotency-Key": new_trace_id()}
        path = f"/v1/topups/{topup['id']}/refunds"
        return await self.served.ok("POST", path, body, headers=headers)

    async def refunds(self, topup: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The refunds of a top-up, oldest first."""
        return (await self.served.ok("GET", f"/v1/topups/{topup['id']}/refunds"))["data"]

    async def budget(self) -> int:
        """What the campaign may spend, in fen."""
        shown = await self.served.ok("GET", "/v1/campaigns/camp")
        return Money.parse(shown["budget"]["remaining"]["amount"], "CNY").minor

    async def rounds(self) -> None:
        """Do all that is due now: calls to the provider, and messages that came."""
        for _ in range(50):
            claimed = await self.collector.tick(1)
            await self.collector.drain()
            heard = await payin_apply.apply_due(
                self.served.deps.dbs.cell(1), self.served.deps.secrets.sealer, self.random
            )
            if not claimed and not heard.claimed:
                return
        raise AssertionError("it does not come to rest")

    async def later(self, **time: float) -> None:
        """Time passes for both, then all that is due is done."""
        await self.found.go_on(round(timedelta(**time).total_seconds()))
        await self.rounds()

    async def until(self, done: Callable[[], Awaitable[bool]], what: str) -> None:
        """Time passes in steps that grow, until it is so."""
        for step in range(30):
            if await done():
                return
            await self.later(seconds=20 * (step + 1))
        raise AssertionError(what)

    async def state(self, topup: Mapping[str, Any], wanted: str) -> dict[str, Any]:
        """The top-up, once it has come to this."""

        async def so() -> bool:
            return (await self.see(topup))["state"] == wanted

        await self.until(so, f"it is not {wanted}: {await self.see(topup)}")
        return await self.see(topup)

    async def night(self) -> None:
        """The day ends; its bill is fetched, and each of its lines finds what it is about."""
        await self.found.overnight()
        deps = self.served.deps
        lanes = [
            lane
            for role in (work.settle, work.reconcile, work.relay)
            for lane in role(deps).lanes
            if lane.name.partition(":")[0] in {"files", "match", "relay"}
        ]
        for _ in range(50):
            if not sum([await lane.step() for lane in lanes]):
                return
        raise AssertionError("the bill does not come to rest")

    async def heard(self, count: int) -> list[Heard]:
        """Messages of the provider, once there are so many."""

        async def so() -> bool:
            return len(self.messages.heard) >= count

        await patiently(so, f"there were not {count} messages: {self.messages.heard}")
        return self.messages.heard

    async def proven(self) -> None:
        """The books prove themselves, and hold what the provider holds for us."""
        await assert_proven(replace(self.served.world, dbs=self.served.deps.dbs))
        taken, given = self.side.books()
        assert await self.budget() == taken - given - self.unclaimed


@asynccontextmanager
async def trading(postgres: PostgresServer, folder: Path, which: str) -> AsyncGenerator[Trading]:
    """One provider, one installation, one campaign in CNY."""
    async with AsyncExitStack() as stack:
        found = await stack.enter_async_context(outside(folder / "provider"))
        world = await stack.enter_async_context(make_world(postgres))
        clock = found.clock
        dbs = Databases({"main": postgres.app_dsn(world.database)}, clock)
        await dbs.open()
        stack.push_async_callback(dbs.close)
        settings = make_settings(folder / "ours")
        bare = make_deps(settings, dbs, clock, found.client, {})
        trusted = partial(client_with_identity, ca=found.world.wechat.keys.tls_ca_path)
        for_rails = RailDeps(found.client, bare.secrets.text, clock, trusted)
        registry = Registry()
        rails = {name: registry.build(name, for_rails) for name in ("alipay", "wechat-pay")}
        deps = replace(bare, rails=rails)
        api, hooks = build_api(deps), build_hooks(deps)
        stack.push_async_callback(api.close)
        stack.push_async_callback(hooks.close)
        messages = Recorded(hooks)
        server = HttpServer("hooks", cast("Any", messages))
        await server.listen(0)
        stack.push_async_callback(_ended, server)
        side = await OPENING[which](found, f"{server.url}/v1/hooks/acme/test/{ACCOUNT}")
        caller = await stack.enter_async_context(client(api))
        inbound = await stack.enter_async_context(client(hooks))
        served = Served(replace(world, dbs=dbs), deps, api, caller, inbound)
        caller.headers["Authorization"] = f"Bearer {await served.key()}"
        await _set_up(served, side)
        collector = Collector(dbs, 1, rails, deps.secrets.sealer, random=Random(3))
        stack.push_async_callback(collector.stop)
        yield Trading(found, served, side, messages, collector)


async def _ended(server: HttpServer) -> None:
    server.stop()
    if server.task is not None:
        await server.task


async def _set_up(served: Served, side: Side) -> None:
    for name, value in side.kept.items():
        keep_secret(served, f"till-{name}", value)
    secrets = {name: f"till-{kept}" for name, kept in side.account.secrets.items()}
    side.account = replace(side.account, name=ACCOUNT, secrets=secrets)
    body = {
        "rail": side.account.rail,
        "currency": "CNY",
        "settings": dict(side.account.settings),
        "secrets": secrets,
    }
    await served.ok("PUT", f"/v1/rail-accounts/{ACCOUNT}", body)
    await served.ok("PUT", "/v1/sponsors/acme", {"name": "Acme"})
    campaign = {"sponsor": "acme", "name": "A campaign", "currency": "CNY",
                "starts_at": "2020-01-01T00:00:00Z"}  # fmt: skip
    await served.ok("PUT", "/v1/campaigns/camp", campaign)
