"""Rewards under policies, taken back in every way, with real withdrawals beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

from tests.earning import ENVIRONMENT, Earning, Keys, event
from tests.withdrawals import BANK, insert_destination
from tests.world import ACTOR, PostgresServer, World, make_world

from paymaster.db.tx import CellRead, CellTx
from paymaster.earn import debt, policy, proof, reserve, reversal, reward
from paymaster.earn.clawback import ClawBack, Taken, take
from paymaster.earn.event import EventOutcome
from paymaster.earn.policy import PolicyView, PutPolicy
from paymaster.earn.reversal import Reverse, Took
from paymaster.kernel.ids import new_trace_id, parse_text_id
from paymaster.kernel.money import Money
from paymaster.ledger import proof as ledger_proof
from paymaster.ledger.balance import account_balance
from paymaster.ledger.chart import HOUSE, Account
from paymaster.secrets.local import HmacSigner, LocalKek
from paymaster.secrets.sealing import Sealer
from paymaster.withdraw import proof as withdraw_proof
from paymaster.withdraw.machine import Event
from paymaster.withdraw.moves import Step, move
from paymaster.withdraw.request import Requested, RequestWithdrawal, request

DAY = 86_400
ONCE = {"kind": "count", "event": "done"}
PAID = (Event.SCREEN, Event.APPROVE, Event.SEND, Event.SETTLE)


def usd(minor: int) -> Money:
    """Cents."""
    return Money(minor, "USD")


@dataclass
class Clawing:
    """The earning world with policies, and short ways to do things."""

    earning: Earning
    campaigns: dict[str, int] = field(default_factory=dict[str, int])
    numbers: Any = field(default_factory=lambda: count(1))

    @property
    def world(self) -> World:
        return self.earning.world

    async def offer(
        self, name: str = "camp", budget: str = "1000.00", reward_: str = "1.00", **changes: Any
    ) -> int:
        """A campaign with a gold task: any number of rewards, one for each item."""
        camp = await self.earning.put_campaign(name, **changes)
        await self.earning.put_task({"kind": "review"}, "work", parent=name, reward=reward_)
        await self.earning.put_task(ONCE, "once", parent=name, reward=reward_)
        await self.earning.fund(camp.number, budget)
        self.campaigns[name] = camp.number
        return camp.number

    async def put(self, source: str = "default", based_on: int = 0, **terms: Any) -> PolicyView:
        command = PutPolicy(source, based_on, terms, "as agreed")
        made: PolicyView = await self.earning.control(
            lambda tx: policy.put(tx, ENVIRONMENT, command)
        )
        await policy.spread(self.world.dbs, ENVIRONMENT, ACTOR, new_trace_id())
        return made

    async def earn(
        self, user: str = "u1", campaign: str = "camp", reward_: str = "1.00", source: str = "app"
    ) -> int:
        """A reward for a task of its own; its id."""
        task = f"t{next(self.numbers)}"
        await self.earning.put_task(ONCE, task, parent=campaign, reward=reward_)
        return number(await self.send(task, user, campaign, source))

    async def send(
        self, task: str, user: str = "u1", campaign: str = "camp", source: str = "app"
    ) -> EventOutcome:
        one = event(f"{user}-{task}", user, "done", campaign=campaign, task=task)
        [outcome] = await self.earning.send(one, source=source)
        return outcome

    def user(self, name: str = "u1") -> int:
        return self.earning.users[name].id

    async def reverse(
        self, reward_id: int, amount: int | None = None, reference: str | None = None
    ) -> Took:
        command = Reverse(reward_id, "fraud", None if amount is None else usd(amount), reference)
        [made] = await self.world.run(lambda tx: reversal.reverse(tx, [command]))
        return made.result

    async def claw_back(
        self, event_id: str, amount: int | None = None, reference: str | None = None,
        user: str = "u1", source: str = "app",
    ) -> Taken:  # fmt: skip
        part = None if amount is None else usd(amount)
        command = ClawBack(source, event_id, self.user(user), "partner", part, reference)
        return await self.world.run(lambda tx: take(tx, command))

    async def pass_days(self, days: float) -> None:
        """Time goes by, and the intake role works."""
        self.world.clock.advance(timedelta(days=days))
        await self.work()

    async def work(self) -> None:
        while await self.world.run(reward.mature_due):
            pass
        while await self.world.run(reserve.release_due):
            pass

    async def balance(self, name: str = "u1") -> dict[str, int]:
        """Minor units of each of a user's accounts, as people see them; what is nothing is out."""
        user_id = self.user(name)

        async def work(tx: CellRead) -> dict[str, int]:
            found = {
                kind: await account_balance(tx, Account(kind, user_id, "USD"))
                for kind in ("available", "vesting", "reserve", "held", "debt")
            }
            found["debt"] = -found["debt"]
            return {kind: minor for kind, minor in found.items() if minor}

        return await self.world.read(work)

    async def house(self, kind: str = "loss") -> int:
        return await self.world.read(lambda tx: account_balance(tx, Account(kind, HOUSE, "USD")))

    async def budget(self, name: str = "camp") -> int:
        return await self.earning.budget(self.campaigns[name])

    async def destination(self, name: str = "u1") -> int:
        user_id = self.user(name)
        return await self.world.run(lambda tx: insert_destination(tx, user_id, currency="USD"))

    async def request(self, destination: int, minor: int, name: str = "u1") -> Requested:
        asked = RequestWithdrawal(self.user(name), destination, usd(minor))
        [made] = await self.world.run(lambda tx: request(tx, [asked]))
        return made

    async def move(self, withdrawal_id: int | None, *events: Event) -> None:
        assert withdrawal_id is not None
        for one in events:

            async def work(tx: CellTx, one: Event = one) -> bool:
                token = None
                if one is Event.APPROVE:
                    sql = "SELECT lease_token FROM withdrawal WHERE id = %s"
                    token = await tx.value(sql, (withdrawal_id,))
                step = Step(
                    withdrawal_id, one, "because",
                    BANK if one is Event.SEND else None, lease_token=token,
                )  # fmt: skip
                [moved] = await move(tx, [step])
                assert moved.done, moved
                return True

            await self.world.run(work)

    async def pay(self, minor: int, name: str = "u1") -> int:
        """A withdrawal that was paid; its id."""
        made = await self.request(await self.destination(name), minor, name)
        assert made.withdrawal_id is not None, made
        await self.move(made.withdrawal_id, *PAID)
        return made.withdrawal_id

    async def write_off(self, minor: int, name: str = "u1") -> debt.WriteOff:
        return await self.world.run(
            lambda tx: debt.write_off(tx, self.user(name), usd(minor), "lost")
        )

    async def undo(self, made: debt.WriteOff) -> debt.WriteOff:
        return await self.world.run(lambda tx: debt.undo(tx, made.rows[0].id, "found"))

    async def prove(self) -> None:
        async def work(tx: CellRead) -> list[ledger_proof.Difference]:
            return (
                await ledger_proof.prove(tx)
                + await proof.prove(tx)
                + await withdraw_proof.prove(tx)
            )

        assert await self.world.read(work) == []


def number(outcome: EventOutcome) -> int:
    """The id of the reward that an event brought."""
    assert outcome.reward_id is not None, outcome
    return parse_text_id("rw", outcome.reward_id).id


@asynccontextmanager
async def clawing_world(postgres: PostgresServer) -> AsyncIterator[Clawing]:
    """A campaign with money and three users."""
    async with make_world(postgres) as world:
        keys = Keys()
        made = Clawing(Earning(world, keys, Sealer(LocalKek(keys), HmacSigner(keys))))
        await made.offer()
        await made.earning.add_users("u1", "u2", "u3")
        yield made
