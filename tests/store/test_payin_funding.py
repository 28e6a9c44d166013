"""What came in is owed at once, and covers nothing before a statement shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.collecting import Collecting, collecting_world
from tests.statements import Office, line, sheet
from tests.world import PostgresServer

from paymaster.funding import store
from paymaster.funding.figures import Position
from paymaster.funding.look import look
from paymaster.kernel.money import Money
from paymaster.rails.base import LineKind
from paymaster.rails.payin import RefundVerdict


@pytest.fixture
async def till(postgres: PostgresServer) -> AsyncIterator[Collecting]:
    async with collecting_world(postgres, cells=2) as collecting:
        yield collecting


async def position(till: Collecting) -> Position:
    return (await look(till.world.dbs, 1)).positions["EUR"]


async def free(till: Collecting) -> int:
    """What may still leave the account, as the report and as the guard of payments count it."""
    shown = (await look(till.world.dbs, 1)).floats[till.account.id].free
    counted = 0
    for cell in (1, 2):
        counted += await till.world.read(lambda tx: store.spare(tx, till.account.id, "EUR"), cell)
    assert counted == shown
    return shown


async def test_from_the_payer_to_the_account_and_back(till: Collecting) -> None:
    user = await till.user(2)
    row = await till.paid(user, 2, purpose="user")
    now = await position(till)
    assert (now.incoming, now.settled, now.owed, now.cover) == (1000, 0, 1000, 0)
    assert now.missing == 1000
    assert await free(till) == 0
    office = Office(till.world)
    came = line("L1", "10.00", kind=LineKind.INCOMING, key=row.key)
    await office.store(sheet("0.00", came), account=till.account.rail)
    await office.settle()
    now = await position(till)
    assert (now.incoming, now.settled, now.owed, now.cover) == (0, 1000, 1000, 1000)
    assert now.missing == 0
    assert await free(till) == 1000


async def test_what_is_given_back_covers_nobody_any_more(till: Collecting) -> None:
    row = await till.paid()
    office = Office(till.world)
    came = line("L1", "10.00", kind=LineKind.INCOMING, key=row.key)
    await office.store(sheet("0.00", came), account=till.account.rail)
    await office.settle()
    await till.back(row, Money(400, "EUR"))
    now = await position(till)
    assert (now.refunding, now.budgets, now.cover) == (400, 600, 600)
    assert await free(till) == 600
    till.rail.refund_verdict = RefundVerdict.DONE
    await till.later(timedelta(minutes=1))
    now = await position(till)
    assert (now.refunding, now.incoming, now.settled, now.cover) == (0, -400, 1000, 600)
    assert await free(till) == 600
