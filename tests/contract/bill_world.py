"""An environment that pays over WeChat Pay and Alipay, day by day, and reads their bills.

Both providers are the sandbox, with books of their own. Its time and ours go on together, and a day
begins at eleven in the morning in Beijing, when the bills of yesterday are ready.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

from tests.contract.alipay_world import AlipayHarness
from tests.contract.sandboxes import Outside, outside
from tests.contract.wechat_world import WeChatHarness
from tests.payouts import Payouts, approved, payout_world
from tests.statements import Keys, Office
from tests.withdrawals import Earner
from tests.world import ACTOR, PostgresServer

from paymaster.db.tx import CellTx
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.ledger import balance
from paymaster.ledger.chart import HOUSE, Account
from paymaster.ledger.entry import Entry, Posting
from paymaster.ledger.post import post
from paymaster.people import destinations
from paymaster.people.users import Upsert, put
from paymaster.rails.base import Payee, RailAccount
from paymaster.rails.deps import RailDeps
from paymaster.rails.http import client_with_identity
from paymaster.rails.registry import Registry
from paymaster.rails.yuan import BEIJING
from paymaster.reconcile import day as days
from paymaster.reconcile import statement
from paymaster.reconcile.close_store import DayClose
from paymaster.secrets.local import HmacSigner, LocalKek
from paymaster.secrets.sealing import Sealer
from paymaster.settle import files
from paymaster.settle.files import Polled

WECHAT, ALIPAY = "wechat", "alipay"


@dataclass
class BillWorld:
    """We, with an account at each of the two, and the two of them."""

    payouts: Payouts
    desk: Office
    found: Outside
    wechat: WeChatHarness
    alipay: AlipayHarness
    people: dict[int, str] = field(default_factory=dict[int, str])
    """By withdrawal, how the provider calls its payee."""

    # ------------------------------------------------------------------------------ time

    def now(self) -> datetime:
        """What the time is in Beijing."""
        return self.payouts.world.clock.now().astimezone(BEIJING)

    def today(self) -> date:
        return self.now().date()

    async def until(self, hour: int, minute: int = 0, days: int = 0) -> None:
        """Go on to a time of today, or of a later day, and let everything happen until then."""
        local = self.now()
        wanted = local.replace(hour=hour, minute=minute, second=0, microsecond=0)
        await self.go_on(wanted + timedelta(days=days) - local)

    async def go_on(self, step: timedelta) -> None:
        assert step >= timedelta(0)
        await self.found.go_on(round(step.total_seconds()))
        self.payouts.world.clock.advance(step)
        await self.ask()

    async def ask(self) -> None:
        """Send what is due, and ask about what has no end, until nothing more is known."""
        for _ in range(3):
            self.found.world.run_due()
            await self.payouts.run(self.payouts.dispatcher())
            await self.found.go_on(120)
            self.payouts.world.clock.advance(timedelta(seconds=120))
        await self.payouts.run(self.payouts.dispatcher())

    # --------------------------------------------------------------------------- payments

    async def pay(self, kind: str, amount: str, **how: Any) -> int:
        """A withdrawal that is on its way."""
        number = next(self.found.numbers)
        harness = self.wechat if kind == WECHAT else self.alipay
        payee = harness.add_user(number, **how)
        if isinstance(harness, WeChatHarness):
            harness.agree(payee)
        earner = await self._earner(number, payee, amount)
        withdrawal = await approved(self.payouts, earner, amount)
        self.people[withdrawal] = payee.details.get("openid") or payee.details["user_id"]
        return withdrawal

    async def fate(self, withdrawal: int, outcome: str, seconds: int = 0, code: str = "") -> None:
        """What the provider will do about it; say so before it is sent."""
        body: dict[str, object] = {"payee": self.people[withdrawal], "outcome": outcome}
        body |= {"code": code or None, "after_seconds": seconds, "uses": None}
        await self.found.control("/oracle", body)

    async def _earner(self, number: int, payee: Payee, amount: str) -> Earner:
        async def work(tx: CellTx) -> Earner:
            user_id, gift_id = tx.ids(2)
            (made,) = await put(tx, self.payouts.sealer, [user_id], [Upsert(f"user-{number}")])
            assert made.slug is None
            view = await destinations.add(
                tx, self.payouts.sealer, user_id, payee.kind, "CNY", payee.details,
                cooling=timedelta(0),
            )  # fmt: skip
            equity, own = Account("equity", HOUSE, "CNY"), Account("available", user_id, "CNY")
            gift = (Posting(equity, own, Money.parse(amount, "CNY")),)
            (posted,) = await post(tx, [Entry(gift_id, "gift", "x", gift)])
            assert posted.done
            return Earner(user_id, view.ref.id, 1, "CNY")

        return await self.payouts.world.run(work)

    async def act(self, withdrawal: int, act: str) -> None:
        """What a payee does on the provider's page."""
        body: dict[str, object] = {
            "mchid": self.wechat.account.settings["mchid"],
            "reference": await self.payouts.key_of(withdrawal),
            "act": act,
        }
        await self.found.control("/wechat/act", body)

    async def state(self, withdrawal: int) -> str:
        return (await self.payouts.states(withdrawal))[0]

    async def top_up(self, kind: str, fen: int) -> None:
        """The owner puts money onto the merchant's account, or takes some off it."""
        if kind == WECHAT:
            mchid = self.wechat.account.settings["mchid"]
            body: dict[str, object] = {"mchid": mchid, "fen": abs(fen), "take": fen < 0}
            await self.found.control("/wechat/balances", body)
            return
        app_id = self.alipay.account.settings["app_id"]
        await self.found.control("/alipay/top-up", {"app_id": app_id, "amount_minor": fen})

    async def times_paid(self, withdrawal: int) -> int:
        """By the providers' books."""
        books = await self.found.control("/books")
        references = books["references"]
        assert isinstance(references, dict)
        assert books["duplicates"] == []
        return int(references.get(await self.payouts.key_of(withdrawal), 0))

    async def balance(self, kind: str) -> int:
        """What is on the account by the provider's books, in fen."""
        if kind == WECHAT:
            mchid = self.wechat.account.settings["mchid"]
            books = await self.found.control("/wechat/books")
            merchants: Any = books["merchants"]
            return int(merchants[mchid]["OPERATION_fen"])
        app_id = self.alipay.account.settings["app_id"]
        with self.found.world.chassis.tx() as tx:
            return self.found.world.alipay.apps.balance(tx, app_id)

    # -------------------------------------------------------------------------- bills

    def account(self, kind: str) -> RailAccount:
        return self.payouts.accounts[kind].rail

    async def poll(self, kind: str) -> Polled:
        """Fetch and read what is new."""
        account = self.payouts.accounts[kind]
        return await files.poll(
            self.payouts.world.dbs, self.payouts.rails, self.payouts.sealer, account,
            statement.on_statements,
        )  # fmt: skip

    async def reconcile(self) -> None:
        """As the processes do it: fetch, match, run, until nothing is left to do."""
        for kind in (WECHAT, ALIPAY):
            await self.poll(kind)
        await self.settle()

    async def settle(self) -> None:
        await self.desk.settle()
        accounts = [self.account(WECHAT), self.account(ALIPAY)]
        for _ in range(3):
            await days.run_due(self.payouts.world.dbs, 1, ACTOR, new_trace_id(), accounts)

    async def morning(self) -> None:
        """The next day at eleven, with the bills of yesterday."""
        await self.until(11, days=1)
        await self.reconcile()

    async def close(self, day: date) -> DayClose:
        accounts = [self.account(WECHAT), self.account(ALIPAY)]
        return await days.close_day(
            self.payouts.world.dbs, 1, self.desk.signers, ACTOR, new_trace_id(), accounts, day
        )

    async def minor(self, kind: str, owner: int) -> int:
        """The balance of one of our accounts."""
        account = Account(kind, owner, "CNY")
        return await self.payouts.world.read(lambda tx: balance.account_balance(tx, account))

    async def in_books(self, kind: str, rail: str) -> int:
        """Of a rail account: its `cash`, as people see it, or its `clearing` or `suspense`."""
        found = await self.minor(kind, self.account(rail).id)
        return -found if kind == "cash" else found

    async def breaks(self) -> list[str]:
        """Kinds of open breaks."""
        return await self.desk.kinds()

    async def ever(self) -> list[str]:
        """Kinds of all breaks there ever were."""
        return sorted(await self.desk.kinds("open") + await self.desk.kinds("resolved"))

    async def value(self, sql: LiteralString, *params: object) -> Any:
        return await self.payouts.value(sql, *params)


@asynccontextmanager
async def bill_world(
    postgres: PostgresServer,
    data: Path,
    product: str = "transfer-bills",
    source: str = "log",
    **settings: str,
) -> AsyncIterator[BillWorld]:
    """A world whose day has just begun; `settings` are those of both rail accounts."""
    async with outside(data) as found, payout_world(postgres) as payouts:
        wechat = await WeChatHarness.open(found, product, 1)
        alipay = await AlipayHarness.open(found, "v3", 1, statement=source)
        keys = Keys()
        payouts.sealer = Sealer(LocalKek(keys), HmacSigner(keys))
        for kind, harness in ((WECHAT, wechat), (ALIPAY, alipay)):
            rail = harness.account.rail
            kept = harness.kept
            trusted = partial(client_with_identity, ca=found.world.wechat.keys.tls_ca_path)
            deps = RailDeps(found.client, kept.__getitem__, found.clock, trusted)
            payouts.rails[rail] = Registry().build(rail, deps)
            given = {**harness.account.settings, **settings}
            await payouts.add_account(
                kind, rail, currency="CNY", settings=given, secrets=dict(harness.account.secrets)
            )
            harness.account = replace(harness.account, settings=given)
        world = BillWorld(payouts, Office(payouts.world, keys), found, wechat, alipay)
        await _meet(world)
        yield world


async def _meet(world: BillWorld) -> None:
    """Our clock and the world's stand at eleven in the morning, Beijing, of the same day."""
    ours, theirs = world.payouts.world.clock.now(), world.found.clock.now()
    later = max(ours, theirs).astimezone(BEIJING) + timedelta(days=1)
    meeting = later.replace(hour=11, minute=0, second=0, microsecond=0).astimezone(UTC)
    world.payouts.world.clock.advance(meeting - ours)
    await world.found.go_on(round((meeting - theirs).total_seconds()))
