"""An environment that takes money in through a scripted provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any

from tests.payin_rail import PayInRail
from tests.payouts import Payouts, payout_world
from tests.world import PostgresServer, World

from paymaster.db.tx import CellTx
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.kernel.money import Money
from paymaster.ledger.balance import account_balance
from paymaster.ledger.chart import Account
from paymaster.payin import refund, request, store
from paymaster.payin.refund_store import RefundRow, of_charge
from paymaster.payin.request import Ask
from paymaster.payin.run import Collector
from paymaster.payin.store import ChargeRow
from paymaster.people.users import Upsert, put
from paymaster.proof import prove_cell
from paymaster.settle import payin_apply
from paymaster.settle.payin_webhook import Door

CAMPAIGN = 9
TEN = Money(1000, "EUR")
HALF_HOUR = timedelta(minutes=30)


@dataclass
class Collecting:
    """One environment, its provider, and a loop that collects."""

    payouts: Payouts
    rail: PayInRail
    collector: Collector
    random: Random = field(default_factory=lambda: Random(3))

    @property
    def world(self) -> World:
        return self.payouts.world

    @property
    def account(self) -> PayoutAccount:
        return self.payouts.accounts[self.rail.caps.name]

    def ask(self, target: int = CAMPAIGN, **more: Any) -> Ask:
        given: dict[str, Any] = {
            "purpose": "campaign",
            "target_id": target,
            "account": self.account,
            "amount": TEN,
            "method": "code",
            "description": "Budget",
            "lasts": HALF_HOUR,
        }
        return Ask(**(given | more))

    async def new(self, target: int = CAMPAIGN, cell: int = 1, **more: Any) -> ChargeRow:
        """A charge, just asked for."""
        rails, sealer, ask = self.payouts.rails, self.payouts.sealer, self.ask(target, **more)
        return await self.world.run(lambda tx: request.request(tx, rails, sealer, ask), cell)

    async def opened(self, target: int = CAMPAIGN, cell: int = 1, **more: Any) -> ChargeRow:
        """A charge that can be paid."""
        row = await self.new(target, cell, **more)
        await self.round(cell)
        return await self.see(row, cell)

    async def paid(self, target: int = CAMPAIGN, cell: int = 1, **more: Any) -> ChargeRow:
        """A charge that was paid and credited."""
        row = await self.opened(target, cell, **more)
        self.rail.pay(row.key)
        await self.later(timedelta(seconds=30), cell)
        return await self.see(row, cell)

    async def round(self, cell: int = 1, rounds: int = 10) -> None:
        """Tick and wait until nothing more is due now."""
        for _ in range(rounds):
            claimed = await self.collector.tick(cell)
            await self.collector.drain()
            if not claimed:
                return

    async def later(self, after: timedelta, cell: int = 1) -> None:
        """Time passes, then everything that is due is done."""
        self.world.clock.advance(after)
        await self.round(cell)

    async def see(self, row: ChargeRow, cell: int = 1) -> ChargeRow:
        found = await self.world.read(lambda tx: store.find(tx, row.id), cell)
        assert found is not None
        return found

    async def state(self, row: ChargeRow, cell: int = 1) -> str:
        return (await self.see(row, cell)).state

    async def back(self, row: ChargeRow, amount: Money | None = None) -> RefundRow:
        """A refund, just asked for."""
        return await self.world.run(lambda tx: refund.request(tx, row.id, amount, "unspent"))

    async def refund(self, row: ChargeRow) -> RefundRow:
        """The only refund of a charge."""
        (found,) = await self.world.read(lambda tx: of_charge(tx, row.id))
        return found

    async def balance(self, kind: str, owner: int, cell: int = 1, asset: str = "EUR") -> int:
        """As the books have it."""
        account = Account(kind, owner, asset)
        return await self.world.read(lambda tx: account_balance(tx, account), cell)

    async def user(self, cell: int = 1) -> int:
        """A new user without anything."""

        async def work(tx: CellTx) -> int:
            number = tx.id()
            (made,) = await put(tx, self.payouts.sealer, [number], [Upsert(f"u-{number}")])
            assert made.slug is None
            return number

        return await self.world.run(work, cell)

    async def hear(self, told: tuple[dict[str, str], bytes]) -> bytes:
        """The provider calls; what it hears."""
        dbs, rails, sealer = self.world.dbs, self.payouts.rails, self.payouts.sealer
        door = Door(dbs, rails, sealer, 1)
        return (await door.receive(self.account.rail.name, *told, "t" * 32)).body

    async def settle(self, cell: int = 1) -> payin_apply.Applying:
        """What was heard is applied."""
        db, sealer = self.world.dbs.cell(cell), self.payouts.sealer
        return await payin_apply.apply_due(db, sealer, self.random)

    async def told(self, topic: str, cell: int = 1) -> list[dict[str, object]]:
        """What subscribers are told."""
        rows = await self.world.read(
            lambda tx: tx.tuples(
                "SELECT payload FROM outbox WHERE topic = %s ORDER BY commit_id, ordinal", (topic,)
            ),
            cell,
        )
        return [row[0] for row in rows]

    async def assert_proven(self, cell: int = 1) -> None:
        """The books and everything derived from them agree."""
        assert (await self.world.read(prove_cell, cell)).differences == []


@asynccontextmanager
async def collecting_world(
    postgres: PostgresServer, *, cells: int = 1
) -> AsyncIterator[Collecting]:
    rail = PayInRail()
    async with payout_world(postgres, rail, cells=cells) as payouts:
        collector = Collector(payouts.world.dbs, 1, payouts.rails, payouts.sealer, random=Random(1))
        yield Collecting(payouts, rail, collector)
        await collector.drain()
