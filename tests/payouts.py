"""An environment that pays through scripted providers, and the steps of its dispatchers."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any, LiteralString

from tests.scripted_rails import ScriptedRail
from tests.withdrawals import BANK, CAMPAIGN, Earner, requested
from tests.world import ACTOR, PostgresServer, World, make_world

from paymaster.db.tx import CellTx, ControlTx
from paymaster.dispatch import accounts, batch, outcome, resolve, send
from paymaster.dispatch.absence import Absent
from paymaster.dispatch.accounts import NewAccount, PayoutAccount
from paymaster.dispatch.desk import Desk, Order, Pace
from paymaster.dispatch.run import Dispatcher
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.people import destinations
from paymaster.people.users import Upsert, put
from paymaster.rails.base import (
    Outcome,
    Queries,
    Rail,
)
from paymaster.secrets.local import HmacSigner, LocalKek
from paymaster.secrets.port import SecretVersion
from paymaster.secrets.sealing import Sealer
from paymaster.withdraw.machine import Event
from paymaster.withdraw.moves import Step, move


class MemoryStore:
    """Keys made for one test."""

    def __init__(self) -> None:
        self._values = {name: secrets.token_bytes(32) for name in ("kek", "fingerprint")}

    def get(self, name: str) -> Sequence[SecretVersion]:
        return [SecretVersion("1", self._values[name])] if name in self._values else []


def new_sealer() -> Sealer:
    store = MemoryStore()
    return Sealer(LocalKek(store), HmacSigner(store))


@dataclass
class Payouts:
    """One environment that pays: a treasury cell, accounts, rails."""

    world: World
    sealer: Sealer
    rails: dict[str, Rail]
    accounts: dict[str, PayoutAccount]
    pace: Pace = field(default_factory=Pace)
    random: Random = field(default_factory=lambda: Random(1))

    @property
    def desk(self) -> Desk:
        by_id = {account.id: account for account in self.accounts.values()}
        return Desk(by_id, self.rails, self.sealer, self.pace)

    def dispatcher(self) -> Dispatcher:
        """Another process."""
        return Dispatcher(
            self.world.dbs, 1, self.rails, self.sealer, pace=self.pace, random=Random(2)
        )

    async def add_account(self, name: str, rail: str, **rest: Any) -> PayoutAccount:
        new = NewAccount(
            name,
            rail,
            str(rest.pop("currency", "EUR")),
            dict(rest.pop("settings", {})),
            dict(rest.pop("secrets", {})),
            **rest,
        )

        async def work(tx: ControlTx) -> PayoutAccount:
            return await accounts.add(tx, 1, 1, new, self.rails)

        self.accounts[name] = await self.world.dbs.control.run(ACTOR, new_trace_id(), work)
        return self.accounts[name]

    async def reload(self) -> None:
        found = await accounts.load(self.world.dbs, 1)
        self.accounts = {account.rail.name: account for account in found.values()}

    # ------------------------------------------------------------ the steps of one dispatcher

    async def claim(self, cell: int = 1, room: int = 50) -> list[Order]:
        """Transaction 1 alone."""
        desk = self.desk
        rooms = dict.fromkeys(desk.accounts, room)
        return await self.world.run(lambda tx: batch.claim_approved(tx, desk, rooms), cell)

    async def claim_queued(self, account: str, cell: int = 1, room: int = 50) -> list[Order]:
        desk, found = self.desk, self.accounts[account]
        return await self.world.run(lambda tx: batch.claim_queued(tx, desk, found, room), cell)

    async def call(self, order: Order) -> send.Sent:
        """The network alone."""
        rail = self.rails[order.account.rail.rail]
        return await send.call(rail, order, self.pace, self.world.clock)

    async def finish(self, *sent: send.Sent, cell: int = 1) -> list[outcome.Applied]:
        """Transaction 2 alone."""
        return await self.world.run(lambda tx: send.finish(tx, self.desk, sent, self.random), cell)

    async def deliver(self, orders: Sequence[Order], cell: int = 1) -> None:
        for order in orders:
            await self.finish(await self.call(order), cell=cell)

    async def expire(self, account: str, cell: int = 1) -> int:
        found = self.accounts[account]
        return await self.world.run(lambda tx: resolve.expire(tx, found, 100), cell)

    async def ask(self, account: str, cell: int = 1) -> dict[int, Absent]:
        """One round of questions."""
        desk, found = self.desk, self.accounts[account]
        asked = await self.world.run(lambda tx: resolve.claim_questions(tx, desk, found, 100), cell)
        rail = self.rails[found.rail.rail]
        assert isinstance(rail, Queries)
        told = [await resolve.ask(rail, found, each, self.pace, self.world.clock) for each in asked]
        return await self.world.run(
            lambda tx: resolve.conclude(tx, desk, found, told, self.random), cell
        )

    async def replays(self, account: str, cell: int = 1) -> list[Order]:
        desk, found = self.desk, self.accounts[account]
        return await self.world.run(lambda tx: resolve.claim_replays(tx, desk, found, 100), cell)

    async def hear(self, account: str, *outcomes: Outcome, cell: int = 1) -> list[outcome.Applied]:
        """An answer from anywhere."""
        account_id = self.accounts[account].id
        return await self.world.run(
            lambda tx: outcome.apply(tx, account_id, outcomes, evidence="test"), cell
        )

    async def run(self, dispatcher: Dispatcher, cell: int = 1, rounds: int = 10) -> None:
        """Tick and wait until nothing more is due now."""
        for _ in range(rounds):
            claimed = await dispatcher.tick(cell)
            await dispatcher.drain()
            if not claimed:
                return

    # ------------------------------------------------------------------------ what is there

    async def value(self, sql: LiteralString, *params: object, cell: int = 1) -> Any:
        return await self.world.read(lambda tx: tx.value(sql, params), cell)

    async def states(self, withdrawal_id: int, cell: int = 1) -> tuple[str, list[str]]:
        """The withdrawal's state and those of its attempts."""
        state = await self.value(
            "SELECT state FROM withdrawal WHERE id = %s", withdrawal_id, cell=cell
        )
        attempts = await self.value(
            "SELECT coalesce(array_agg(state ORDER BY number), '{}') FROM attempt"
            " WHERE withdrawal_id = %s",
            withdrawal_id,
            cell=cell,
        )
        return str(state), list(attempts)

    async def key_of(self, withdrawal_id: int, number: int = 1, cell: int = 1) -> str:
        return str(
            await self.value(
                "SELECT key FROM attempt WHERE withdrawal_id = %s AND number = %s",
                withdrawal_id,
                number,
                cell=cell,
            )
        )


async def assert_paid_once(payouts: Payouts) -> None:
    """No withdrawal was really paid twice, and what the books call paid was paid."""
    really = Counter[str]()
    for rail in payouts.rails.values():
        if isinstance(rail, ScriptedRail):
            really.update(rail.paid)
    for cell in payouts.world.dbs.cells():
        rows = await payouts.world.read(
            lambda tx: tx.tuples(
                "SELECT a.key, a.withdrawal_id, a.state, w.state FROM attempt a"
                " JOIN withdrawal w ON w.id = a.withdrawal_id"
            ),
            cell.number,
        )
        paid = Counter[int]()
        for key, withdrawal_id, state, withdrawal_state in rows:
            paid[withdrawal_id] += really[key]
            if state == "paid":
                assert really[key] == 1, "the books say paid, the provider did not pay"
            if withdrawal_state in {"failed", "queued", "cancelled"}:
                assert really[key] == 0, "the money was given back and is paid as well"
        assert max(paid.values(), default=0) <= 1, "paid twice"


async def new_payee(
    payouts: Payouts, number: int, *, kind: str = "iban", available: str = "100.00", cell: int = 1
) -> Earner:
    """A user with money and a sealed destination of their own."""
    from tests.contract.support import payee_iban, payee_wallet

    payee = payee_iban(number) if kind == "iban" else payee_wallet(number)

    async def work(tx: CellTx) -> Earner:
        user_id, fund_id, reward_id = tx.ids(3)
        (made,) = await put(tx, payouts.sealer, [user_id], [Upsert(f"user-{cell}-{number}")])
        assert made.slug is None, made
        view = await destinations.add(
            tx, payouts.sealer, user_id, kind, "EUR", payee.details, cooling=timedelta(0)
        )
        amount = Money.parse(available, "EUR")
        nothing = Money.zero("EUR")
        rewarded = recipes.reward(
            CAMPAIGN, user_id, amount, vests=False, owes=False, commission=nothing
        )
        verdicts = await post(
            tx,
            [
                Entry(fund_id, "fund", "x", recipes.fund(BANK, CAMPAIGN, amount)),
                Entry(reward_id, "reward", "x", rewarded),
            ],
        )
        assert all(verdict.done for verdict in verdicts)
        destination_id = await tx.value("SELECT id FROM destination WHERE user_id = %s", (user_id,))
        assert view.state == "active"
        return Earner(user_id, destination_id, cell)

    return await payouts.world.run(work, cell)


async def approved(payouts: Payouts, earner: Earner, amount: str, fee: str | None = None) -> int:
    """An approved withdrawal."""
    withdrawal_id = await requested(payouts.world, earner, amount, fee)
    await approve(payouts, withdrawal_id, earner.cell)
    return withdrawal_id


async def approve(payouts: Payouts, withdrawal_id: int, cell: int = 1) -> None:
    """Let a new withdrawal go."""

    async def work(tx: CellTx) -> None:
        await move(tx, [Step(withdrawal_id, Event.SCREEN)])
        token = tx.id()
        await tx.execute(
            "UPDATE withdrawal SET lease_token = %s WHERE id = %s", (token, withdrawal_id)
        )
        (moved,) = await move(tx, [Step(withdrawal_id, Event.APPROVE, lease_token=token)])
        assert moved.done, moved

    await payouts.world.run(work, cell)


@asynccontextmanager
async def payout_world(
    postgres: PostgresServer, *rails: ScriptedRail, cells: int = 1
) -> AsyncIterator[Payouts]:
    """An environment with one account named like each rail."""
    async with make_world(postgres, cells=cells) as world:
        payouts = Payouts(world, new_sealer(), {rail.caps.name: rail for rail in rails}, {})
        for rail in rails:
            await payouts.add_account(rail.caps.name, rail.caps.name)
        yield payouts
