"""The database takes no second order for a withdrawal without the proof of the first."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest
from tests.payouts import Payouts, approved, new_payee
from tests.scripted_rails import AskableRail
from tests.store.test_failover import first, kinds, no, one, payouts, second
from tests.world import owner_rows

from paymaster.dispatch import proof as proofs
from paymaster.rails.base import Outcome, Verdict

__all__ = ["first", "payouts", "second"]

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


async def test_a_guard_that_is_fooled_in_python_sends_nothing(
    payouts: Payouts, first: AskableRail, second: AskableRail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead order without its proof, and a `proof.earlier` that says it had one."""
    withdrawal = await one(payouts)
    first.before = [no("insufficient_funds")]
    await payouts.deliver(await payouts.claim())
    owner_rows(payouts.world, "DELETE FROM attempt_proof RETURNING 1")
    payouts.world.clock.advance(timedelta(minutes=10))
    assert await payouts.claim_queued("first") == [], "Python sees it"
    ((reason,),) = owner_rows(payouts.world, "SELECT reason FROM withdrawal")
    assert reason.startswith("attempt-unproven")

    honest = proofs.earlier

    async def fooled(tx, ids):
        return {n: one._replace(proven=True) for n, one in (await honest(tx, ids)).items()}

    monkeypatch.setattr(proofs, "earlier", fooled)
    payouts.world.clock.advance(timedelta(minutes=10))
    with pytest.raises(psycopg.errors.ForeignKeyViolation, match="attempt_earlier_is_dead"):
        await payouts.claim_queued("first")
    assert len(first.orders) == 1
    assert second.orders == []
    assert await payouts.states(withdrawal) == ("queued", ["rejected"])


async def test_a_proof_is_written_of_dead_orders_only_and_never_changed(payouts: Payouts) -> None:
    await one(payouts)
    (order,) = await payouts.claim()
    ((attempt,),) = owner_rows(payouts.world, "SELECT id FROM attempt")
    proof = proofs.Proof(attempt, proofs.ProofKind.BY_HAND, None, "wishful")
    await payouts.world.run(lambda tx: proofs.write(tx, [proof]))
    assert await kinds(payouts) == []
    await payouts.hear("first", Outcome(order.prepared.keys[0], Verdict.REJECTED, code="AC06"))
    await payouts.world.run(lambda tx: proofs.write(tx, [proof]))
    assert await kinds(payouts) == [("report", "AC06")]
    for statement in ("UPDATE attempt_proof SET kind = 'x'", "DELETE FROM attempt_proof"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await payouts.world.run(lambda tx, s=statement: tx.execute(s))


async def test_an_order_that_died_before_proofs_were_kept_gets_its_proof(
    payouts: Payouts, first: AskableRail
) -> None:
    """An installation that was upgraded while a withdrawal waited for funds."""
    withdrawal = await one(payouts)
    first.before = [no("insufficient_funds")]
    await payouts.deliver(await payouts.claim())
    owner_rows(payouts.world, "DELETE FROM attempt_proof RETURNING 1")
    owner_rows(payouts.world, "UPDATE attempt SET due_at = NULL RETURNING 1")
    late = "UPDATE schema_version SET applied_at = applied_at + interval '1 day' RETURNING 1"
    owner_rows(payouts.world, late)
    payouts.world.clock.advance(timedelta(minutes=10))
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("sent", ["rejected", "sent"])
    assert await kinds(payouts) == [("refused", "insufficient_funds")]
