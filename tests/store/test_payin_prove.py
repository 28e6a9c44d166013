"""Each proof of money that came in finds its fault, and finds none where there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
from tests.collecting import Collecting, collecting_world
from tests.world import PostgresServer

from paymaster.kernel.money import Money
from paymaster.payin import proof

FAULTS = {
    "a credit that no charge knows": (
        "UPDATE charge SET state = 'closed' WHERE state = 'paid' AND refunded = 0",
        {"charge-credit", "incoming"},
    ),
    "paid without a credit": (
        "UPDATE charge SET state = 'paid' WHERE state = 'open'",
        {"charge-credit", "incoming"},
    ),
    "credited to somebody else": (
        "UPDATE charge SET target_id = target_id + 1 WHERE state = 'paid'",
        {"charge-credit"},
    ),
    "another amount than was credited": (
        "UPDATE charge SET amount = amount + 1 WHERE state = 'paid'",
        {"charge-credit", "incoming"},
    ),
    "more given back than is written": (
        "UPDATE charge SET refunded = 0",
        {"charge-refunded"},
    ),
    "booked without being paid": (
        "UPDATE charge SET booked_line = 'sl_1' WHERE state = 'open'",
        {"charge-booking"},
    ),
    "booked in the row and not in the books": (
        "UPDATE charge SET booked_line = 'sl_1' WHERE state = 'paid'",
        {"incoming"},
    ),
    "given back in the row and not in the books": (
        "UPDATE charge_refund SET state = 'done'",
        {"incoming", "refunds"},
    ),
}


@pytest.fixture
async def till(postgres: PostgresServer) -> AsyncIterator[Collecting]:
    async with collecting_world(postgres) as collecting:
        await collecting.paid()
        given_back = await collecting.paid()
        await collecting.back(given_back, Money(400, "EUR"))
        await collecting.opened()
        yield collecting


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_named(till: Collecting, fault: str) -> None:
    assert await till.world.read(proof.prove) == []
    statement, checks = FAULTS[fault]
    with psycopg.connect(till.world.owner_dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO cell_1")
        connection.execute(statement.encode())
    found = await till.world.read(proof.prove)
    assert {one.check for one in found} == checks


def test_every_check_has_a_fault() -> None:
    assert set().union(*(checks for _, checks in FAULTS.values())) == set(proof.CHECKS)
