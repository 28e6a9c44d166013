"""Dispatch and settle against real rails and the sandbox's own books: paid once, or not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, LiteralString, cast

import pytest
from tests.contract.checking import patiently
from tests.contract.http_server import Answering, Reply
from tests.contract.sandboxes import PSP_IBAN, Outside
from tests.contract.support import OUR_IBAN, payee_iban, payee_wallet
from tests.payouts import Payouts, approved, new_payee, new_sealer
from tests.withdrawals import assert_proven
from tests.world import START, PostgresServer, make_world

from paymaster.db.cells import Databases
from paymaster.db.tx import CellTx
from paymaster.dispatch import transfer, window
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.machine import MACHINES
from paymaster.kernel.errors import Unauthenticated
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.rails.base import Statement
from paymaster.rails.deps import RailDeps
from paymaster.rails.http import new_client
from paymaster.rails.registry import Registry
from paymaster.secrets.sealing import Sealer
from paymaster.settle.apply import apply_due
from paymaster.settle.files import poll
from paymaster.settle.webhook import receive
from paymaster.withdraw.machine import WITHDRAWAL
from paymaster_sandbox import World as Sandbox
from paymaster_sandbox import WorldConfig


class RunningClock:
    """Both worlds' time: it runs, from the tests' day on, and can be moved forward."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._moved = timedelta(0)

    def now(self) -> datetime:
        return START + self._moved + timedelta(seconds=time.monotonic() - self._began)

    def advance(self, step: timedelta) -> None:
        self._moved += step

    def machine(self) -> int:
        return (self.now() - datetime.fromisoformat("1970-01-01T00:00:00+00:00")) // timedelta(
            microseconds=1
        )


@dataclass
class Both:
    """We and the world outside."""

    payouts: Payouts
    outside: Outside
    clock: RunningClock
    forged: int = 0
    heard: int = 0
    statements: list[Statement] = field(default_factory=list)

    async def books(self) -> dict[str, Any]:
        return cast("dict[str, Any]", await self.outside.control("/books"))

    async def faults(self, **knobs: object) -> None:
        await self.outside.control("/faults", knobs)

    async def hear(self) -> None:
        """Take in what the provider has delivered, and apply it."""
        asked = self.outside.hooks.asked
        while self.heard < len(asked):
            each = asked[self.heard]
            self.heard += 1
            try:
                await receive(
                    self.payouts.world.dbs,
                    self.payouts.rails,
                    self.payouts.sealer,
                    1,
                    "float",
                    each.headers,
                    each.body,
                    new_trace_id(),
                )
            except Unauthenticated:
                self.forged += 1
        await self.apply()

    async def apply(self) -> None:
        await apply_due(self.payouts.world.dbs.cell(1), self.payouts.sealer, Random(1))

    async def fetch(self) -> None:
        async def store(
            tx: CellTx,
            sealer: Sealer,
            account: PayoutAccount,
            file_id: int,
            statements: Sequence[Statement],
        ) -> None:
            self.statements += statements

        dbs, account = self.payouts.world.dbs, self.payouts.accounts["bank"]
        await poll(dbs, self.payouts.rails, self.payouts.sealer, account, store)
        await self.apply()

    async def until(self, done: LiteralString, *, seconds: float = 20) -> None:
        """Go on until a statement counts nothing any more."""
        dispatcher = self.payouts.dispatcher()
        end = time.monotonic() + seconds
        while await self.payouts.value(done):
            assert time.monotonic() < end, await self.payouts.world.read(
                lambda tx: tx.tuples("SELECT state, code, detail, tries FROM attempt")
            )
            await dispatcher.tick(1)
            await dispatcher.drain()
            await self.hear()
            await self.fetch()
            self.clock.advance(timedelta(seconds=2))
            await asyncio.sleep(0.05)

    async def states(self) -> dict[str, int]:
        rows = await self.payouts.world.read(
            lambda tx: tx.tuples("SELECT state, count(*) FROM withdrawal GROUP BY 1")
        )
        return dict(rows)


OPEN = "SELECT count(*) FROM withdrawal WHERE state NOT IN ('paid', 'failed', 'returned')"


@pytest.fixture
async def both(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Both]:
    clock = RunningClock()
    moves = [row for machine in (WITHDRAWAL, *MACHINES) for row in machine.rows()]
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(make_world(postgres, moves=moves))
        dbs = Databases({"main": postgres.app_dsn(world.database)}, clock)
        await dbs.open()
        stack.push_async_callback(dbs.close)
        config = WorldConfig(
            data=tmp_path / "sandbox",
            scan_seconds=0.1,
            date=START.date(),
            machine=clock.machine,
        )
        sandbox = await stack.enter_async_context(Sandbox(config))
        hooks = await stack.enter_async_context(Answering(lambda _: Reply(204)).running())
        client = await stack.enter_async_context(new_client())
        outside = Outside(sandbox, client, hooks, config.data)
        deps = replace(outside.deps(), clock=clock)
        payouts = Payouts(replace(world, dbs=dbs, clock=cast("Any", clock)), new_sealer(), {}, {})
        found = Both(payouts, outside, clock)
        await set_up(found, deps)
        yield found
        await assert_proven(payouts.world)
        books = await found.books()
        assert books["duplicates"] == []


async def set_up(both: Both, deps: RailDeps) -> None:
    """Accounts on both sides; the bank's window is closed by hand."""
    await both.outside.control(
        "/accounts",
        {"iban": OUR_IBAN, "currency": "EUR", "opening_balance": "1000.00", "holder": "Us"},
    )
    await both.outside.control(
        "/wallet-merchant",
        {
            "currency": "EUR",
            "iban": PSP_IBAN,
            "opening_balance": "500.00",
            "webhook_url": both.outside.hooks.url,
        },
    )
    registry, payouts, sandbox = Registry(), both.payouts, both.outside.world
    for name in ("iso20022", "sandbox-wallet"):
        payouts.rails[name] = registry.build(name, deps)
    host, _, port = sandbox.sftp_address.partition(":")
    settings = {
        "bank": {
            "host": host,
            "port": port,
            "user": "paymaster",
            "host_key": sandbox.host_key,
            "iban": OUR_IBAN,
            "holder": "Zahlstelle GmbH",
        },
        "float": {"url": sandbox.http_url, "topup_iban": PSP_IBAN, "holder": "Sandpay"},
    }
    await payouts.add_account(
        "bank",
        "iso20022",
        settings=settings["bank"],
        secrets={"client_key": "sandbox/client-key"},
        payout_window="manual",
    )
    await payouts.add_account(
        "float",
        "sandbox-wallet",
        settings=settings["float"],
        secrets={"api_key": "sandbox/api-key", "webhook_secret": "sandbox/webhook-secret"},
    )


async def wallets(both: Both, count: int, amount: str = "10.00") -> None:
    for number in range(count):
        earner = await new_payee(both.payouts, number, kind="sandbox-wallet")
        await approved(both.payouts, earner, amount)


async def paid_out(both: Both) -> int:
    """What the withdrawals say was paid and stayed, in minor units."""
    return int(
        str(
            await both.payouts.value(
                "SELECT coalesce(sum(amount), 0) FROM withdrawal WHERE state = 'paid'"
            )
        )
    )


async def test_lost_answers_errors_and_odd_notifications_pay_everybody_once(both: Both) -> None:
    await both.faults(
        drop_answers=2, fail_after=1, fail_before=2, webhook_copies=2, webhook_forge=2,
        webhook_lose=1, webhook_shuffle=True,
    )  # fmt: skip
    await wallets(both, 10)
    await both.until(OPEN)
    assert await both.states() == {"paid": 10}
    books = await both.books()
    assert set(books["references"].values()) == {1}
    assert len(books["references"]) == 10
    assert books["paid_minor"]["EUR"] == await paid_out(both) == 10_000
    assert both.forged > 0


async def test_refusals_and_returns_end_as_the_provider_says(both: Both) -> None:
    for number, outcome in ((0, "closed"), (1, "fail"), (2, "return")):
        payee = payee_wallet(number).details["wallet"]
        await both.outside.control(
            "/oracle", {"payee": payee, "outcome": outcome, "code": "AC04", "after_seconds": 0}
        )
    await wallets(both, 4)
    await both.until(
        "SELECT count(*) FROM withdrawal WHERE state NOT IN ('failed', 'returned')"
        " AND destination_id <> (SELECT max(destination_id) FROM withdrawal)"
    )
    await both.until(OPEN)
    assert await both.states() == {"failed": 2, "returned": 1, "paid": 1}
    books = await both.books()
    assert books["paid_minor"]["EUR"] == await paid_out(both) == 1000
    closed = "SELECT count(*) FROM destination WHERE state = 'closed'"
    assert await both.payouts.value(closed) == 3


async def test_when_the_float_is_short_payments_wait_for_the_top_up(both: Both) -> None:
    await wallets(both, 6, "99.00")  # 594.00 against a float of 500.00
    await both.until("SELECT count(*) FROM withdrawal WHERE state NOT IN ('paid', 'queued')")
    assert await both.states() == {"paid": 5, "queued": 1}
    accounts = both.payouts.accounts
    order = transfer.Order(
        accounts["bank"].id, accounts["float"].id, Money(20_000, "EUR"), "the float is short"
    )
    payouts = both.payouts
    (made,) = await payouts.world.run(
        lambda tx: transfer.request(tx, payouts.desk.accounts, payouts.rails, [order])
    )
    assert made.slug is None
    bank_id = accounts["bank"].id
    await payouts.world.run(lambda tx: window.close_now(tx, bank_id, 1, "top-up"))
    await both.until("SELECT count(*) FROM transfer WHERE state <> 'sent'")

    async def funded() -> bool:
        return int((await both.books())["wallet"]["EUR"]["balance_minor"]) > 20_000

    await patiently(funded, "the top-up does not arrive")
    both.clock.advance(timedelta(minutes=10))
    await both.until(OPEN)
    assert await both.states() == {"paid": 6}
    assert await payouts.value("SELECT state FROM transfer") == "sent"
    books = await both.books()
    assert books["paid_minor"]["EUR"] == await paid_out(both) == 59_400


async def test_a_bank_file_pays_takes_back_and_refuses(both: Both) -> None:
    for number, outcome in ((1, "reject"), (2, "return")):
        iban = payee_iban(number).details["iban"]
        await both.outside.control("/oracle", {"payee": iban, "outcome": outcome, "code": "AC04"})
    for number in range(4):
        earner = await new_payee(both.payouts, number)
        await approved(both.payouts, earner, "10.00")
    payouts, bank_id = both.payouts, both.payouts.accounts["bank"].id
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    assert await both.states() == {"queued": 4}
    await payouts.world.run(lambda tx: window.close_now(tx, bank_id, 1, "pay day"))
    await both.faults(sftp_drop_answers=1)
    await payouts.run(dispatcher)
    # The bank has the file, whatever the connection said; its report is the proof.
    await both.until(
        "SELECT count(*) FROM withdrawal WHERE state IN ('queued', 'unknown', 'sending')"
    )
    assert (await both.states())["failed"] == 1
    await both.outside.control("/close-day", {"advance": True})
    await both.until("SELECT 1 - least(count(*), 1) FROM rail_file WHERE name LIKE '%%053%%'")
    await both.fetch()
    assert both.statements
    books = await both.books()
    assert sorted(books["references"].values()) == [1, 1, 1]


async def test_a_payment_that_the_bank_refuses_for_want_of_our_money_waits(both: Both) -> None:
    earners = [await new_payee(both.payouts, n, available="900.00") for n in range(2)]
    for earner in earners:
        await approved(both.payouts, earner, "900.00")
    payouts, bank_id = both.payouts, both.payouts.accounts["bank"].id
    await payouts.run(payouts.dispatcher())
    await payouts.world.run(lambda tx: window.close_now(tx, bank_id, 1, "pay day"))
    await both.until("SELECT 1 - least(count(*), 1) FROM attempt WHERE state = 'rejected'")
    await both.until("SELECT count(*) FROM withdrawal WHERE state IN ('unknown', 'sending')")
    states = await both.states()
    assert "failed" not in states
    assert states.get("queued", 0) >= 1, "the money stays held, and it is paid when ours is there"
    assert sum(states.values()) == 2
    reasons = await payouts.world.read(
        lambda tx: tx.tuples("SELECT reason FROM withdrawal WHERE state = 'queued'")
    )
    assert all(reason.startswith("AM04: attempt at_") for (reason,) in reasons)
