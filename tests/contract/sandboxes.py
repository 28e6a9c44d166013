"""Harnesses over the sandboxes: the real wire, the real books, both rails."""

from __future__ import annotations

import asyncio
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, time, timedelta, timezone
from pathlib import Path
from typing import ClassVar, cast

import httpx
from tests.contract.checking import patiently
from tests.contract.harness import Delivery, Fate, Fault
from tests.contract.http_server import Answering, Reply
from tests.contract.keys import lend_keys
from tests.contract.support import OUR_IBAN, iban_of, payee_iban, payee_wallet

from paymaster.kernel.clock import AheadClock, WallClock
from paymaster.kernel.ids import reference
from paymaster.kernel.money import Money
from paymaster.rails.base import Instruction, Payee, Rail, RailAccount
from paymaster.rails.deps import RailDeps
from paymaster.rails.http import new_client
from paymaster.rails.registry import Registry
from paymaster_sandbox import World, WorldConfig

PSP_IBAN = iban_of("FR", "20041010050500013000001")
_BEIJING, _READY = timezone(timedelta(hours=8)), time(10, 30)
MakeRail = Callable[[RailDeps], Rail]


class Outside:
    """One world with our accounts in it, and a receiver for its notifications."""

    def __init__(self, world: World, client: httpx.AsyncClient, hooks: Answering, data: Path):
        self.world = world
        self.client = client
        self.hooks = hooks
        self.data = data
        self.numbers = itertools.count(1)
        self.heard = 0
        self.clock = AheadClock(WallClock())
        """The providers' time: it runs ahead once a day was closed by advancing the world."""
        self.came: list[datetime] = []
        """When each message of `hooks` came."""

    def note(self) -> Reply:
        """A message has come."""
        self.came.append(self.clock.now())
        return Reply(200, b"success")

    async def go_on(self, seconds: int) -> None:
        """Advance the world, and the clocks with which its providers sign."""
        self.clock.learn(self.clock.ahead_seconds + seconds)
        ahead = self.clock.ahead_seconds
        await self.control("/clock", {"advance_seconds": seconds})
        await self.control("/wechat/settings", {"clock_skew_seconds": ahead})
        await self.control("/alipay/faults", {"skew_seconds": ahead})

    async def overnight(self) -> None:
        """Go on to tomorrow in Beijing, at the same time or when the bills of today are ready."""
        now = self.clock.now().astimezone(_BEIJING)
        ready = datetime.combine(now.date() + timedelta(days=1), _READY, _BEIJING)
        later = max(now + timedelta(days=1), ready) - now
        await self.go_on(math.ceil(later.total_seconds()))

    async def control(self, path: str, body: dict[str, object] | None = None) -> dict[str, object]:
        """Turn a knob, or read the truth."""
        url = f"{self.world.http_url}/_control{path}"
        answer = await (self.client.get(url) if body is None else self.client.post(url, json=body))
        assert answer.is_success, answer.text
        return cast("dict[str, object]", answer.json())

    def deps(self) -> RailDeps:
        """What a rail is given."""
        secrets = {
            "sandbox/api-key": self.world.api_key,
            "sandbox/webhook-secret": self.world.webhook_secret,
            "sandbox/client-key": self.world.client_key_path.read_text(),
        }
        return RailDeps(self.client, secrets.__getitem__, WallClock())


@asynccontextmanager
async def outside(data: Path) -> AsyncGenerator[Outside]:
    """A fresh world with a bank account and a wallet float of 100,000.00 EUR each."""
    lend_keys(data)
    async with (
        World(WorldConfig(data=data, scan_seconds=0.5)) as world,
        Answering(lambda _: found.note()).running() as hooks,
        new_client() as client,
    ):
        found = Outside(world, client, hooks, data)
        await found.control(
            "/accounts",
            {
                "iban": OUR_IBAN,
                "currency": "EUR",
                "opening_balance": "100000.00",
                "holder": "Zahlstelle GmbH",
            },
        )
        await found.control(
            "/wallet-merchant",
            {
                "currency": "EUR",
                "iban": PSP_IBAN,
                "opening_balance": "100000.00",
                "webhook_url": hooks.url,
            },
        )
        yield found


class SandboxHarness(ABC):
    """What both sandboxes have in common."""

    faults: frozenset[Fault] = frozenset()
    fates: ClassVar[dict[Fate, str]] = {}
    payee: ClassVar[Callable[[int], Payee]]

    def __init__(self, found: Outside, account: RailAccount, make: MakeRail | None = None) -> None:
        self.outside = found
        self.account = account
        self.seen: set[str] = set()
        self._make = make

    def make_rail(self) -> Rail:
        """The rail under test, made anew."""
        if self._make is not None:
            return self._make(self.outside.deps())
        return Registry().build(self.account.rail, self.outside.deps())

    def instructions(self, count: int, amounts: Sequence[int] = ()) -> list[Instruction]:
        """Payments to payees of their own."""
        return [
            Instruction(
                key=reference(1, number + 1_000_000),
                amount=Money(amounts[place] if amounts else 500 + place, "EUR"),
                payee=type(self).payee(number),
                purpose="Conformance",
                created_at=self.now(),
            )
            for place, number in enumerate(itertools.islice(self.outside.numbers, count))
        ]

    def batch_key(self) -> str:
        """A new order name."""
        return reference(1, 2_000_000 + next(self.outside.numbers))

    def now(self) -> datetime:
        """The sandbox signs with the machine's time."""
        return WallClock().now()

    def payee_id(self, item: Instruction) -> str:
        """How the world calls the payee."""
        return item.payee.details.get("iban") or item.payee.details["wallet"]

    @abstractmethod
    def unreachable(self) -> RailAccount:
        """The same account at an address where nobody listens."""

    @abstractmethod
    def foreign(self) -> RailAccount:
        """Another account of the same kind."""

    @abstractmethod
    async def arm(self, fault: Fault) -> None:
        """Let the next order meet a fault."""

    @abstractmethod
    async def calls(self) -> int:
        """How many orders have reached the provider so far."""

    async def decide(self, instruction: Instruction, fate: Fate) -> None:
        """Tell the oracle."""
        payee = self.payee_id(instruction)
        body: dict[str, object] = {"payee": payee, "outcome": self.fates[fate]}
        await self.outside.control("/oracle", {**body, "code": "AC04", "uses": None})

    async def reset(self) -> None:
        """No fault of an earlier check is left over."""
        counters = ("drop_answers", "fail_before", "sftp_drop_answers")
        sound: dict[str, object] = dict.fromkeys(counters, 0)
        await self.outside.control("/faults", sound | {"paid_after_seconds": 0.03})

    async def rest(self) -> None:
        """Uploads executed, payouts paid, notifications delivered."""

        async def at_rest() -> bool:
            brief = await self.outside.control("/books?brief=1")
            waiting = list((self.outside.data / "sftp" / "in").glob("[!.]*"))
            waiting += list((self.outside.data / "claimed").iterdir())
            return not (brief["pending"] or brief["notices_pending"] or waiting)

        await patiently(at_rest, "the world does not come to rest")
        await asyncio.sleep(0.05)

    async def close_day(self) -> None:
        """End the business day at both providers."""
        await self.outside.control("/close-day", {"advance": False})

    async def times_paid(self, instruction: Instruction) -> int:
        """By the world's books."""
        books = await self.outside.control("/books")
        return cast("dict[str, int]", books["references"]).get(instruction.key, 0)

    async def minor_paid(self, instruction: Instruction) -> int:
        """By the world's books."""
        books = await self.outside.control("/books")
        payees = cast("dict[str, dict[str, int]]", books["payees"])
        return payees.get(self.payee_id(instruction), {"paid_minor": 0})["paid_minor"]

    async def deliveries(self) -> list[Delivery]:
        """What the receiver got since."""
        new = self.outside.hooks.asked[self.outside.heard :]
        self.outside.heard += len(new)
        return [Delivery(each.headers, each.body, self.now()) for each in new]

    async def _events(self, *kinds: str) -> int:
        found = [await self.outside.control(f"/events?kind={kind}&limit=100000") for kind in kinds]
        return sum(len(cast("list[object]", each["events"])) for each in found)


class WalletHarness(SandboxHarness):
    """The wallet provider over HTTP."""

    faults = frozenset(Fault)
    fates: ClassVar = {Fate.REFUSED: "closed", Fate.RETURNED: "return"}
    payee = staticmethod(payee_wallet)

    def __init__(self, found: Outside, make: Callable[[RailDeps], Rail] | None = None) -> None:
        settings = {"url": found.world.http_url}
        secrets = {"api_key": "sandbox/api-key", "webhook_secret": "sandbox/webhook-secret"}
        account = RailAccount(9, "float", "sandbox-wallet", "EUR", settings, secrets)
        super().__init__(found, account, make)

    def unreachable(self) -> RailAccount:
        """A port that nobody listens on."""
        return replace(self.account, settings={"url": "http://127.0.0.1:9"})

    def foreign(self) -> RailAccount:
        """A float in another currency."""
        return replace(self.account, currency="USD")

    async def arm(self, fault: Fault) -> None:
        """One of the provider's knobs."""
        knobs: dict[Fault, dict[str, object]] = {
            Fault.LOSE_ANSWER: {"drop_answers": 1},
            Fault.FAIL_BEFORE: {"fail_before": 1},
            Fault.PAY_LATER: {"paid_after_seconds": 0.5},
        }
        await self.outside.control("/faults", knobs[fault])

    async def calls(self) -> int:
        """Payouts made or asked for again."""
        return await self._events("payout.created", "payout.replayed")


class BankHarness(SandboxHarness):
    """The bank over SFTP."""

    faults = frozenset({Fault.LOSE_ANSWER})
    fates: ClassVar = {Fate.REFUSED: "reject", Fate.RETURNED: "return"}
    payee = staticmethod(payee_iban)

    def __init__(
        self,
        found: Outside,
        make: Callable[[RailDeps], Rail] | None = None,
        rail: str = "iso20022",
        version: str = "09",
    ) -> None:
        host, _, port = found.world.sftp_address.partition(":")
        settings = {
            "host": host,
            "port": port,
            "user": "paymaster",
            "host_key": found.world.host_key,
            "iban": OUR_IBAN,
            "holder": "Zahlstelle GmbH",
            "version": version,
        }
        secrets = {"client_key": "sandbox/client-key"}
        super().__init__(found, RailAccount(7, "bank", rail, "EUR", settings, secrets), make)

    def unreachable(self) -> RailAccount:
        """A port that nobody listens on."""
        return replace(self.account, settings={**self.account.settings, "port": "9"})

    def foreign(self) -> RailAccount:
        """Another account at the same bank."""
        return replace(self.account, settings={**self.account.settings, "iban": PSP_IBAN})

    async def arm(self, fault: Fault) -> None:
        """The connection drops right after the rename."""
        assert fault is Fault.LOSE_ANSWER
        await self.outside.control("/faults", {"sftp_drop_answers": 1})

    async def calls(self) -> int:
        """Files uploaded."""
        return await self._events("bank.upload")
