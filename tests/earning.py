"""A campaign with money, tasks and users, for the tests of people and earn."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.world import ACTOR, PostgresServer, World, make_world

from paymaster.db import inbox, outbox
from paymaster.db.tx import CellRead, CellTx, ControlTx
from paymaster.earn import campaign, machine, proof, reward, task
from paymaster.earn.campaign import PutCampaign
from paymaster.earn.commands import HANDLERS
from paymaster.earn.event import EventOutcome
from paymaster.earn.ingest import ingest
from paymaster.earn.intake import Parsed, parse
from paymaster.earn.task import PutTask
from paymaster.earn.views import CampaignView, TaskView
from paymaster.kernel.ids import Ref, new_trace_id
from paymaster.kernel.money import Money
from paymaster.ledger import proof as ledger_proof
from paymaster.ledger import recipes
from paymaster.ledger.balance import Balance, account_balance, balances
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Verdict
from paymaster.ledger.post import post
from paymaster.people import machine as people_machine
from paymaster.people import users
from paymaster.people.profile import Profile
from paymaster.people.users import Upsert
from paymaster.secrets.local import HmacSigner, LocalKek
from paymaster.secrets.port import SecretVersion
from paymaster.secrets.sealing import Sealer

ENVIRONMENT, BANK = 1, 7
LONG_AGO = datetime(2008, 1, 1, tzinfo=UTC)
MACHINES = (*people_machine.MACHINES, *machine.MACHINES)


class Keys:
    """Keys made for one test; `rotate` adds a version."""

    def __init__(self) -> None:
        self._values = {name: [secrets.token_bytes(32)] for name in ("kek", "fingerprint")}

    def get(self, name: str) -> Sequence[SecretVersion]:
        values = self._values.get(name, [])
        return [SecretVersion(str(at), value) for at, value in enumerate(values)]

    def rotate(self, name: str) -> None:
        self._values[name].insert(0, secrets.token_bytes(32))


@dataclass
class Earning:
    """The world with a sealer and short ways to do things."""

    world: World
    keys: Keys
    sealer: Sealer
    slice_rewards: int = 1000
    funded: int = 0
    users: dict[str, Ref] = field(default_factory=dict)

    async def put_campaign(self, external_id: str = "camp", **changes: Any) -> CampaignView:
        wanted = PutCampaign(external_id, "acme", "A campaign", "USD", LONG_AGO)
        wanted = PutCampaign(**({k: getattr(wanted, k) for k in wanted.__slots__} | changes))

        async def work(tx: ControlTx) -> CampaignView:
            await campaign.put_sponsor(tx, ENVIRONMENT, 1, "acme", "Acme")
            return (await campaign.put_campaign(tx, ENVIRONMENT, 1, wanted))[0]

        return await self.control(work)

    async def put_task(
        self,
        verification: Mapping[str, Any],
        name: str = "task",
        parent: str = "camp",
        reward: str = "0.02",
        **changes: Any,
    ) -> TaskView:
        wanted = PutTask(
            name,
            changes.pop("type", "custom"),
            "A task",
            Money.parse(reward, "USD"),
            verification,
            changes.pop("starts_at", LONG_AGO),
            **changes,
        )
        return await self.control(lambda tx: _first(task.put_task(tx, ENVIRONMENT, parent, wanted)))

    async def control(self, work: Any) -> Any:
        return await self.world.dbs.control.run(ACTOR, new_trace_id(), work)

    async def fund(self, campaign_id: int, amount: str, currency: str = "USD") -> None:
        money = Money.parse(amount, currency)

        async def work(tx: CellTx) -> None:
            entry = Entry(tx.id(), "fund", "st_x", recipes.fund(BANK, campaign_id, money))
            [result] = await post(tx, [entry])
            assert result.verdict is Verdict.POSTED

        await self.world.run(work)
        self.funded += money.minor

    async def add_users(self, *names: str, profile: Profile | None = None) -> None:
        made = await users.upsert_many(
            self.world.dbs,
            self.sealer,
            ENVIRONMENT,
            ACTOR,
            new_trace_id(),
            [Upsert(name, profile) for name in names],
        )
        for name, outcome in zip(names, made, strict=True):
            assert outcome.view is not None
            self.users[name] = outcome.view.ref

    async def send(self, *lines: Mapping[str, Any], source: str = "app") -> list[EventOutcome]:
        body = b"\n".join(json.dumps(line).encode() for line in lines)
        return await self.take(parse(body, source, self.world.clock.now()), source)

    async def take(self, parsed: Parsed, source: str = "app") -> list[EventOutcome]:
        report = await ingest(
            self.world.dbs,
            self.sealer,
            ENVIRONMENT,
            ACTOR,
            new_trace_id(),
            source,
            parsed,
            slice_rewards=self.slice_rewards,
        )
        return report.outcomes

    async def balance(self, name: str) -> Balance:
        ref = self.users[name]
        found = await self.world.read(lambda tx: balances(tx, ref.id), ref.cell)
        return found[0] if found else _nothing()

    async def budget(self, campaign_id: int, cell: int = 1) -> int:
        account = Account("budget", campaign_id, "USD")
        return await self.world.read(lambda tx: account_balance(tx, account), cell)

    async def withdraw(self, name: str, amount: str) -> None:
        """Pay out: available -> held -> clearing."""
        ref, money = self.users[name], Money.parse(amount, "USD")

        async def work(tx: CellTx) -> None:
            zero = Money.zero("USD")
            entries = [
                Entry(tx.id(), "request", "wd_x", recipes.request(ref.id, money)),
                Entry(tx.id(), "paid", "wd_x", recipes.paid(ref.id, BANK, money, zero)),
            ]
            assert all(result.done for result in await post(tx, entries))

        await self.world.run(work, ref.cell)

    async def prove(self) -> None:
        """Books and rewards hold in every cell (bare `held` postings of `withdraw` aside)."""
        for cell in self.world.dbs.cells(ENVIRONMENT):
            found = await self.world.read(_prove, cell.number)
            assert found == []

    async def relay(self, rounds: int = 10, *, only: frozenset[str] | None = None) -> int:
        """Carry commands between cells until none is left; how many were carried.

        Waiting rewards are tried in between, unless only certain topics are carried.
        """
        carried = 0
        for _ in range(rounds):
            before = carried
            for cell in self.world.dbs.cells(ENVIRONMENT):
                carried += await self._relay_from(cell.number, only)
                if only is None:
                    await self.world.run(reward.retry_awaiting, cell.number)
            if carried == before:
                return carried
        return carried

    async def _relay_from(self, source: int, only: frozenset[str] | None) -> int:
        _, messages = await self.world.read(lambda tx: outbox.after(tx, 0, 100_000), source)
        carried = 0
        for message in messages:
            if message.target_cell is None or (only is not None and message.topic not in only):
                continue
            carried += await self.deliver(source, message)
        return carried

    async def deliver(self, source: int, message: outbox.Outgoing) -> int:
        """Deliver one command; 0 when it was delivered before."""
        key = (f"cell:{source}", str(message.message_id))

        async def work(tx: CellTx) -> int:
            incoming = inbox.Incoming(*key, message.topic, message.payload, None, tx.trace_id)
            if await inbox.once(tx, incoming) is not None:
                return 0
            await inbox.done(tx, *key, await HANDLERS[message.topic](tx, source, message))
            return 1

        assert message.target_cell is not None
        return await self.world.run(work, message.target_cell)


async def _first(pair: Any) -> Any:
    return (await pair)[0]


def _nothing() -> Balance:
    zero = Money.zero("USD")
    return Balance("USD", zero, zero, zero, zero, 0)


async def _prove(tx: CellRead) -> list[ledger_proof.Difference]:
    return await ledger_proof.prove(tx) + await proof.prove(tx)


@asynccontextmanager
async def earning_world(
    postgres: PostgresServer, *, cells: int = 1, connections: int = 8
) -> AsyncIterator[Earning]:
    moves = [row for one in MACHINES for row in one.rows()]
    async with make_world(postgres, cells=cells, moves=moves, connections=connections) as world:
        keys = Keys()
        yield Earning(world, keys, Sealer(LocalKek(keys), HmacSigner(keys)))


def event(
    number: int | str,
    user: str = "u1",
    kind: str = "answer",
    at: datetime | None = None,
    **rest: Any,
) -> dict[str, Any]:
    """An event on the wire."""
    moment = at or datetime(2026, 11, 19, 12, 0, tzinfo=UTC)
    return {
        "event_id": str(number),
        "user": user,
        "campaign": "camp",
        "task": "task",
        "type": kind,
        "occurred_at": moment.isoformat(),
        **rest,
    }


def day(number: int, hour: int = 12) -> datetime:
    """A moment in the days before the world's clock starts."""
    return datetime(2026, 11, 1, hour, tzinfo=UTC) + timedelta(days=number)
