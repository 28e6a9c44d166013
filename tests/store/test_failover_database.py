"""The database takes no second order for a withdrawal without the proof of the first."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
from tests.payouts import Payouts, approved, new_payee, payout_world
from tests.scripted_rails import AskableRail
from tests.world import PostgresServer, owner_rows


@pytest.fixture
async def payouts(postgres: PostgresServer) -> AsyncIterator[Payouts]:
    async with payout_world(postgres, AskableRail("first")) as found:
        yield found


_SECOND = """
    INSERT INTO attempt (id, withdrawal_id, number, after_number, batch_id, rail_account_id, key,
        amount, asset, state, tries, lease_token, created_at, trace_id, version)
    SELECT id + 1, withdrawal_id, {number}, {after}, batch_id, rail_account_id, 'X', amount, asset,
        'sending', 0, 0, created_at, trace_id, 1
    FROM attempt WHERE number = 1 RETURNING 1
"""


@pytest.mark.parametrize(
    ("number", "after", "rejected", "said"),
    [
        (1, "NULL", False, "attempt_withdrawal_live|attempt_withdrawal"),
        (2, "1", False, "attempt_withdrawal_live|attempt_earlier_is_dead"),
        (2, "1", True, "attempt_earlier_is_dead"),
        (3, "2", True, "attempt_earlier_is_dead"),
        (2, "NULL", True, "attempt_after"),
        (3, "1", True, "attempt_after"),
    ],
)
async def test_the_database_refuses_a_second_order_without_the_proof_of_the_first(
    payouts: Payouts, number: int, after: str, rejected: bool, said: str
) -> None:
    """Past every line of Python, as the owner of the schema."""
    await approved(payouts, await new_payee(payouts, 1), "30.00")
    await payouts.claim()
    if rejected:
        owner_rows(payouts.world, "UPDATE attempt SET state = 'rejected' RETURNING 1")
    statement = _SECOND.format(number=number, after=after)
    with pytest.raises(psycopg.IntegrityError, match=said):
        owner_rows(payouts.world, statement)
