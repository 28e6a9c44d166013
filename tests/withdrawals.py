"""Earners with money, and withdrawals in any state, for the tests of withdraw and screen."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from tests.world import PostgresServer, World, make_world

from paymaster.db.tx import CellTx
from paymaster.kernel.money import Money
from paymaster.ledger import balance, recipes
from paymaster.ledger import proof as ledger_proof
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.withdraw import proof
from paymaster.withdraw.machine import WITHDRAWAL, Event
from paymaster.withdraw.moves import Moved, Step, move
from paymaster.withdraw.request import RequestWithdrawal, request

BANK, CAMPAIGN = 7, 9
"""A rail account and a campaign; control rows that these tests need only by number."""


@dataclass(frozen=True)
class Earner:
    """A user with an active destination."""

    user_id: int
    destination_id: int
    cell: int = 1
    currency: str = "EUR"

    def asks(self, amount: str, fee: str | None = None) -> RequestWithdrawal:
        return RequestWithdrawal(
            self.user_id,
            self.destination_id,
            Money.parse(amount, self.currency),
            None if fee is None else Money.parse(fee, self.currency),
        )


@asynccontextmanager
async def withdrawal_world(
    postgres: PostgresServer, *, cells: int = 1, connections: int = 8
) -> AsyncIterator[World]:
    moves = list(WITHDRAWAL.rows())
    async with make_world(postgres, cells=cells, moves=moves, connections=connections) as world:
        yield world


async def new_earner(
    world: World,
    available: str = "100.00",
    *,
    currency: str = "EUR",
    fingerprint: bytes | None = None,
    cell: int = 1,
    age: timedelta = timedelta(days=30),
) -> Earner:
    """A user who has `available`, with a destination that is `age` old."""

    async def work(tx: CellTx) -> Earner:
        user_id, entry_id, fund_id = tx.ids(3)
        await tx.execute(
            "INSERT INTO app_user (id, external_id, status, created_at, version)"
            " VALUES (%s, %s, 'active', %s, 1)",
            (user_id, f"user-{user_id}", tx.now - age),
        )
        destination_id = await insert_destination(
            tx, user_id, currency=currency, fingerprint=fingerprint, age=age
        )
        amount = Money.parse(available, currency)
        if amount:
            funded = recipes.fund(BANK, CAMPAIGN, amount)
            rewarded = recipes.reward(
                CAMPAIGN,
                user_id,
                amount,
                vests=False,
                owes=False,
                commission=Money.zero(currency),
            )
            verdicts = await post(
                tx, [Entry(fund_id, "fund", "x", funded), Entry(entry_id, "reward", "x", rewarded)]
            )
            assert all(verdict.done for verdict in verdicts)
        return Earner(user_id, destination_id, cell, currency)

    return await world.run(work, cell)


async def insert_destination(
    tx: CellTx,
    user_id: int,
    *,
    currency: str = "EUR",
    fingerprint: bytes | None = None,
    age: timedelta = timedelta(days=30),
    usable_in: timedelta = timedelta(0),
) -> int:
    destination_id = tx.id()
    await tx.execute(
        "INSERT INTO destination (id, user_id, kind, currency, mask, fingerprint, sealed, state,"
        " usable_at, created_at, version)"
        " VALUES (%s, %s, 'iban', %s, 'DE** 1234', %s, %s, 'active', %s, %s, 1)",
        (
            destination_id,
            user_id,
            currency,
            fingerprint or secrets.token_bytes(16),
            secrets.token_bytes(32),
            tx.now + usable_in,
            tx.now - age,
        ),
    )
    return destination_id


async def requested(world: World, earner: Earner, amount: str, fee: str | None = None) -> int:
    """A new withdrawal."""
    (outcome,) = await world.run(lambda tx: request(tx, [earner.asks(amount, fee)]), earner.cell)
    assert outcome.withdrawal_id is not None, outcome
    return outcome.withdrawal_id


async def step(world: World, withdrawal_id: int, event: Event, **rest: object) -> Moved:
    """One move."""
    one = replace(Step(withdrawal_id, event), **rest)
    (moved,) = await world.run(lambda tx: move(tx, [one]))
    return moved


TOKEN = 4711

PATHS: dict[str, tuple[Event, ...]] = {
    "requested": (),
    "screening": (Event.SCREEN,),
    "in_review": (Event.SCREEN, Event.REVIEW),
    "challenged": (Event.SCREEN, Event.CHALLENGE),
    "approved": (Event.SCREEN, Event.APPROVE),
    "queued": (Event.SCREEN, Event.APPROVE, Event.QUEUE),
    "sending": (Event.SCREEN, Event.APPROVE, Event.SEND),
    "unknown": (Event.SCREEN, Event.APPROVE, Event.SEND, Event.LOSE),
    "sent": (Event.SCREEN, Event.APPROVE, Event.SEND, Event.ACCEPT),
    "awaiting_payee": (Event.SCREEN, Event.APPROVE, Event.SEND, Event.AWAIT),
    "paid": (Event.SCREEN, Event.APPROVE, Event.SEND, Event.SETTLE),
    "failed": (Event.SCREEN, Event.APPROVE, Event.SEND, Event.REJECT),
    "returned": (Event.SCREEN, Event.APPROVE, Event.SEND, Event.SETTLE, Event.RETURN),
    "denied": (Event.DENY,),
    "cancelled": (Event.CANCEL,),
    "held": (Event.HOLD,),
}
"""One way into each state."""


def steps_to(withdrawal_id: int, state: str) -> list[Step]:
    """The steps that bring a new withdrawal into a state, with all that they need."""
    return [
        Step(
            withdrawal_id,
            event,
            reason="because",
            rail_account_id=BANK if event in (Event.QUEUE, Event.SEND) else None,
            lease_token=TOKEN if index < 2 and event is not Event.HOLD and index else None,
        )
        for index, event in enumerate(PATHS[state])
    ]


async def bring(world: World, withdrawal_id: int, state: str) -> None:
    """Take a new withdrawal to a state."""

    async def work(tx: CellTx) -> list[Moved]:
        results: list[Moved] = []
        for one in steps_to(withdrawal_id, state):
            if one.lease_token is not None:
                await tx.execute(
                    "UPDATE withdrawal SET lease_token = %s WHERE id = %s", (TOKEN, withdrawal_id)
                )
            results += await move(tx, [one])
        return results

    for moved in await world.run(work):
        assert moved.done, moved


async def made_in(world: World, state: str, amount: str = "40.00") -> tuple[Earner, int]:
    """A withdrawal of a new earner, with a fee of 0.50, in a state."""
    earner = await new_earner(world)
    withdrawal_id = await requested(world, earner, amount, "0.50")
    await bring(world, withdrawal_id, state)
    return earner, withdrawal_id


async def lend(world: World, withdrawal_id: int, token: int = TOKEN) -> None:
    """Put a withdrawal under a lease."""

    async def work(tx: CellTx) -> None:
        await tx.execute(
            "UPDATE withdrawal SET lease_token = %s WHERE id = %s", (token, withdrawal_id)
        )

    await world.run(work)


async def available(world: World, earner: Earner) -> tuple[str, str]:
    """What the earner has available and held."""
    found = await world.read(lambda tx: balance.balances(tx, earner.user_id), earner.cell)
    for one in found:
        if one.currency == earner.currency:
            return one.available.text(), one.held.text()
    return "0", "0"


async def state_of(world: World, withdrawal_id: int) -> str:
    return await world.read(
        lambda tx: tx.value("SELECT state FROM withdrawal WHERE id = %s", (withdrawal_id,))
    )


async def assert_proven(world: World) -> None:
    """Books and withdrawals agree in every cell."""
    for cell in world.dbs.cells():
        differences = await world.read(proof.prove, cell.number)
        differences += await world.read(ledger_proof.prove, cell.number)
        assert differences == []
