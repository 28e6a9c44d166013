"""Statements that show what came in: booked once, credited where the notice was lost, missed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from tests.collecting import CAMPAIGN, Collecting, collecting_world
from tests.statements import Office, later, line, sheet
from tests.world import PostgresServer

from paymaster.kernel.ids import Ref, text_id
from paymaster.kernel.money import Money
from paymaster.proof import prove_cell
from paymaster.rails.base import LineKind, StatementLine
from paymaster.rails.payin import RefundVerdict
from paymaster.reconcile import resolve
from paymaster.reconcile import run as runs


@dataclass
class Both:
    """A till, and the office where its statements are worked on."""

    till: Collecting
    office: Office

    async def shown(self, opening: str, *lines: StatementLine, after: int = 0) -> None:
        """A statement comes in and is worked on."""
        account = self.till.account.rail
        await self.office.store(sheet(opening, *lines, day=later(after)), account=account)
        await self.office.settle()

    async def cash(self) -> str:
        return await self.office.cash(self.till.account.rail)

    async def assert_proven(self) -> None:
        await self.office.assert_proven()
        for cell in (1, 2):
            assert (await self.till.world.read(prove_cell, cell)).differences == []


def came(key: str, name: str = "L1", amount: str = "10.00", **more: Any) -> StatementLine:
    return line(name, amount, kind=LineKind.INCOMING, key=key, **more)


@asynccontextmanager
async def both_of(postgres: PostgresServer) -> AsyncIterator[Both]:
    async with collecting_world(postgres, cells=2) as till:
        yield Both(till, Office(till.world))


@pytest.fixture
async def both(postgres: PostgresServer) -> AsyncIterator[Both]:
    async with both_of(postgres) as made:
        yield made


async def test_what_was_paid_is_booked_with_the_fee(both: Both) -> None:
    user = await both.till.user(2)
    mine = await both.till.paid()
    hers = await both.till.paid(user, 2, purpose="user")
    await both.shown("0.00", came(mine.key, fee="0.06"), came(hers.key, "L2", fee="0.06"))
    assert await both.cash() == "19.88"
    for cell in (1, 2):
        assert await both.till.balance("incoming", both.till.account.id, cell) == 0
    assert (await both.till.see(mine)).booked_line is not None
    assert await both.office.breaks() == []
    assert set((await both.office.lines()).values()) == {"matched"}
    await both.assert_proven()


async def test_the_bill_credits_what_nobody_told_of(both: Both) -> None:
    row = await both.till.opened()
    both.till.rail.silent = 1000
    await both.till.later(timedelta(hours=2))
    assert await both.till.state(row) == "open"
    await both.shown("0.00", came(row.key))
    assert await both.till.state(row) == "paid"
    assert await both.till.balance("budget", CAMPAIGN) == 1000
    both.till.rail.pay(row.key)
    both.till.rail.silent = 0
    await both.till.later(timedelta(hours=1))
    assert await both.till.balance("budget", CAMPAIGN) == 1000
    await both.assert_proven()


async def test_every_difference_is_named_and_none_credits(both: Both) -> None:
    altered, doubled = await both.till.opened(), await both.till.paid()
    foreign = await both.till.opened()
    nobodys = "01" + "0" * 13
    await both.shown(
        "0.00",
        came(altered.key, "A", "9.99"),
        came(doubled.key, "D1"),
        came(doubled.key, "D2"),
        came(nobodys, "N"),
        line("P", "-10.00", key=foreign.key),
    )
    assert sorted(await both.office.breaks()) == sorted(
        [
            ("amount-differs", text_id("sl", 1, await both.office.line("A"))),
            ("booked-twice", text_id("sl", 1, await both.office.line("D2"))),
            ("reference-unknown", text_id("sl", 1, await both.office.line("N"))),
            ("reference-unknown", text_id("sl", 1, await both.office.line("P"))),
        ]
    )
    assert await both.till.state(altered) == "open"
    assert await both.till.state(foreign) == "open"
    assert await both.till.balance("budget", CAMPAIGN) == 1000
    await both.assert_proven()


async def test_the_same_statement_again_changes_nothing(both: Both) -> None:
    row = await both.till.paid()
    for _ in range(2):
        await both.shown("0.00", came(row.key))
    assert await both.cash() == "10.00"
    assert await both.office.breaks() == []
    await both.assert_proven()


@pytest.mark.parametrize("by_charge", [False, True])
async def test_a_refund_on_the_bill_is_booked_by_either_number(both: Both, by_charge: bool) -> None:
    row = await both.till.paid()
    await both.till.back(row, Money(400, "EUR"))
    await both.till.round()
    found = await both.till.refund(row)
    assert found.state == "processing"
    key = row.key if by_charge else found.key
    await both.shown("0.00", came(row.key), line("R", "-4.00", key=key))
    assert (await both.till.refund(row)).state == "done"
    assert await both.cash() == "6.00"
    assert await both.till.balance("incoming", both.till.account.id) == 0
    assert await both.till.balance("refunds", both.till.account.id) == 0
    assert await both.office.breaks() == []
    await both.shown("6.00", line("R2", "-4.00", key=key), after=1)
    kinds = await both.office.kinds()
    assert kinds == (["reference-unknown"] if by_charge else ["booked-twice"])
    await both.assert_proven()


async def test_a_refund_that_was_said_to_have_failed_and_is_on_the_bill_is_a_break(
    both: Both,
) -> None:
    row = await both.till.paid()
    both.till.rail.refund_verdict = RefundVerdict.FAILED
    await both.till.back(row)
    await both.till.round()
    await both.till.later(timedelta(minutes=1))
    found = await both.till.refund(row)
    assert found.state == "failed"
    await both.shown("0.00", came(row.key), line("R", "-10.00", key=found.key))
    assert await both.office.kinds() == ["attempt-contradicts"]
    assert await both.till.balance("budget", CAMPAIGN) == 1000
    await both.assert_proven()


async def test_what_never_comes_is_missed_until_it_does(both: Both) -> None:
    row = await both.till.paid()
    await both.till.back(row, Money(400, "EUR"))
    both.till.rail.refund_verdict = RefundVerdict.DONE
    await both.till.later(timedelta(minutes=1))
    await both.till.later(timedelta(days=3))
    await both.shown("0.00", came("ORDER-17", "X", "1.00"), after=3)

    async def look(day: int) -> list[tuple[str, str]]:
        account = both.till.account.rail
        zone, allowed = "Europe/Berlin", timedelta(days=1)
        before = runs.cut_off(later(day), zone, allowed)
        overdue = await runs.unbooked_everywhere(both.till.world.dbs, 1, account.id, before)
        await both.till.world.run(lambda tx: runs.run(tx, account, later(day), overdue))
        return [one for one in await both.office.breaks() if "missing" in one[0]]

    refunded = await both.till.refund(row)
    assert await look(3) == [
        ("payin-missing-at-provider", text_id("tp", 1, row.id)),
        ("refund-missing-at-provider", text_id("tf", 1, refunded.id)),
    ]
    await both.shown("1.00", came(row.key), line("R", "-4.00", key=refunded.key), after=4)
    assert [one for one in await both.office.breaks() if "missing" in one[0]] == []
    assert await look(4) == []


async def test_through_another_account_it_proves_nothing(both: Both) -> None:
    row = await both.till.opened()
    other = await both.till.payouts.add_account("other", both.till.rail.caps.name)
    await both.office.store(sheet("0.00", came(row.key)), account=other.rail)
    await both.office.settle()
    assert await both.office.kinds() == ["account-differs"]
    assert await both.till.state(row) == "open"


async def test_an_accepted_difference_is_the_rails_fee(both: Both) -> None:
    row = await both.till.paid()
    await both.shown("0.00", came(row.key, amount="9.94"))
    assert await both.office.kinds() == ["amount-differs"]
    shown = Ref(1, await both.office.line("L1"))
    await both.till.world.run(
        lambda tx: resolve.retry(tx, shown, "their fee", accept_difference=True)
    )
    await both.office.settle()
    assert await both.cash() == "9.94"
    assert await both.till.balance("incoming", both.till.account.id) == 0
    assert await both.office.kinds() == []
    await both.assert_proven()
