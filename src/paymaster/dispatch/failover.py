"""Another account, and only with proof: what becomes of a withdrawal whose order is dead.

An order dies for a reason that is the account's (it cannot be reached, it has no funds, the
provider closed it to us) or for one that is the payee's. Of the first kind the withdrawal waits in
the queue, its dead attempt is due, and here it is decided: to another account that can pay; again
to the same one, where time may help; or it fails and the money goes back. An account where one of
its orders died is not chosen again for it. An order that may still be paid is nobody's business
here: the database would refuse the next one.

Orders of which nothing has left can be given up for another account. So can those that the provider
is proven not to know, when they cannot be sent again. Either is first proven, then followed up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paymaster.db.tx import CellTx
from paymaster.dispatch import batch_store, failures, outcome, proof
from paymaster.dispatch import failover_store as store
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.batch_store import BatchChange, BatchRow
from paymaster.dispatch.desk import Desk
from paymaster.dispatch.failover_store import Dead, Payment
from paymaster.dispatch.machine import AttemptState
from paymaster.dispatch.outcome import TIME_MAY_HELP
from paymaster.dispatch.proof import Earlier
from paymaster.dispatch.route import Candidate, Choice, pick
from paymaster.kernel.ids import text_id
from paymaster.observe import get_logger
from paymaster.rails.base import Outcome, Verdict
from paymaster.withdraw import moves

_log = get_logger(__name__)
_GIVEN_UP = "given up for another account"


async def follow_up(tx: CellTx, desk: Desk, account: PayoutAccount, limit: int) -> int:
    """Send withdrawals with dead orders at this account on their way; how many there were."""
    dead = await store.take_dead(tx, account.id, limit)
    if not dead:
        return 0
    # Locked first: what another dispatcher sends at this moment is nobody's to follow up.
    rows = {row.id: row for row in await moves.take(tx, [one.withdrawal_id for one in dead])}
    before = await proof.earlier(tx, list(rows))
    candidates = desk.candidates()
    done, decided = list[int](), set[int]()
    going: list[tuple[Dead, Choice]] = []
    ending: list[tuple[Dead, str]] = []
    for one in dead:
        row, known = rows[one.withdrawal_id], before[one.withdrawal_id]
        waits = row.state == moves.State.QUEUED and row.rail_account_id == account.id
        again = row.id in decided
        done.append(one.attempt_id)
        if again or not waits or not known.proven:
            continue
        decided.add(row.id)
        choice = _elsewhere(desk, candidates, one, known)
        if choice is not None:
            going.append((one, choice))
        elif not _worth_waiting(desk, known):
            ending.append((one, known.last_code or known.last_kind or "refused"))
    stopped = await _go(tx, going)
    stopped += await _end(tx, account, ending)
    await store.follow_up(tx, [each for each in done if each not in stopped], None)
    await store.follow_up(tx, stopped, tx.now + desk.pace.look_again)
    return len(dead)


def _elsewhere(
    desk: Desk, candidates: Sequence[Candidate], one: Dead, known: Earlier
) -> Choice | None:
    """Another account, none where an order of this withdrawal has died."""
    if not desk.policy.failover or known.number >= desk.policy.most_orders:
        return None
    return pick(candidates, one.kind, one.money, known.accounts)


def _worth_waiting(desk: Desk, known: Earlier) -> bool:
    """Whether the same account may pay later."""
    if known.last_code == proof.AGAIN:
        return True
    if known.number >= desk.policy.most_orders:
        return False
    if known.last_kind in TIME_MAY_HELP or known.last_code == proof.AGAIN:
        return True
    return failures.waits_for_funds(known.last_code)


async def _go(tx: CellTx, going: Sequence[tuple[Dead, Choice]]) -> list[int]:
    """To the queue of the account that was chosen; the attempts of what cannot move now."""
    steps: list[moves.Step] = []
    for one, choice in going:
        attempt = text_id("at", tx.cell, one.attempt_id)
        reason = f"{choice.account.rail.name}: {choice.why}; {attempt} is proven dead"
        chosen = choice.account.id
        steps.append(
            moves.Step(one.withdrawal_id, moves.Event.SEND, reason, rail_account_id=chosen)
        )
        steps.append(
            moves.Step(
                one.withdrawal_id, moves.Event.QUEUE, reason, rail_account_id=chosen, due_at=tx.now
            )
        )
    return _stopped([one for one, _ in going], await moves.move(tx, steps))


async def _end(tx: CellTx, account: PayoutAccount, ending: Sequence[tuple[Dead, str]]) -> list[int]:
    """No account is left: it fails for what the last one said, and the money goes back."""
    steps: list[moves.Step] = []
    for one, reason in ending:
        steps.append(moves.Step(one.withdrawal_id, moves.Event.SEND, rail_account_id=account.id))
        steps.append(moves.Step(one.withdrawal_id, moves.Event.REJECT, reason))
    return _stopped([one for one, _ in ending], await moves.move(tx, steps))


def _stopped(dead: Sequence[Dead], moved: Sequence[moves.Moved]) -> list[int]:
    """The attempts of withdrawals that stayed in the queue, because somebody holds them."""
    return [
        one.attempt_id
        for one, sent in zip(dead, moved[::2], strict=True)
        if not sent.done and sent.state == moves.State.QUEUED
    ]


def may_leave(desk: Desk, account: PayoutAccount, payments: Sequence[Payment]) -> bool:
    """Whether other accounts that work can make every payment of an order."""
    if not desk.policy.failover or not payments:
        return False
    others = [each for each in desk.candidates() if each.healthy and each.steady]
    for each in payments:
        money, kind = each.money, each.kind
        if money is None or kind is None or each.number >= desk.policy.most_orders:
            return False
        if pick(others, kind, money, frozenset({account.id})) is None:
            return False
    return True


async def given_up(
    tx: CellTx, desk: Desk, account: PayoutAccount, batches: Mapping[int, int]
) -> frozenset[int]:
    """Of orders of which nothing has left, by id with their tries, those to be given up."""
    enough = desk.policy.tries_before_leaving
    tired = [
        batch_id for batch_id, tries in batches.items() if tries >= enough or not account.active
    ]
    if not tired or not desk.policy.failover:
        return frozenset()
    found = await store.payments(tx, tired)
    return frozenset(each for each in tired if may_leave(desk, account, found.get(each, [])))


async def leave_paused(tx: CellTx, desk: Desk, account: PayoutAccount, limit: int) -> int:
    """Give up what waits at a paused account and has never left; how many orders.

    What no other account can pay waits on.
    """
    rows = await batch_store.take_due(tx, account.id, "prepared", limit)
    leaving = await given_up(tx, desk, account, {row.id: row.tries for row in rows})
    gone = [row for row in rows if row.id in leaving]
    await give_up(tx, account, gone, _GIVEN_UP)
    return len(gone)


async def give_up(
    tx: CellTx, account: PayoutAccount, rows: Sequence[BatchRow], detail: str
) -> None:
    """Bury locked orders of which nothing has ever left; their payments wait in the queue."""
    dead = [Outcome(key, Verdict.REJECTED, detail=detail) for row in rows for key in row.keys]
    await outcome.apply(tx, account.id, dead, evidence=proof.NEVER)
    await batch_store.write(tx, [BatchChange(row.id, "refused", None, detail) for row in rows])


async def bury_absent(
    tx: CellTx, desk: Desk, account: PayoutAccount, absent: Mapping[int, frozenset[str]]
) -> frozenset[int]:
    """Bury orders that the provider is proven not to know and that cannot go again; their ids.

    Only those whose payments another account can make. Called in the transaction that holds the
    attempts which were asked about. An order that is on the wire now is locked by its sender, or
    not `unknown`, and left alone.
    """
    if not desk.policy.failover or not absent:
        return frozenset()
    rows = await batch_store.take_unknown(tx, list(absent))
    found = await store.payments(tx, [row.id for row in rows])
    buried: list[batch_store.BatchRow] = []
    for row in rows:
        alive = [
            each
            for each in found.get(row.id, [])
            if each.state in {AttemptState.UNKNOWN, AttemptState.SENDING}
        ]
        if {each.key for each in alive} <= absent[row.id] and may_leave(desk, account, alive):
            buried.append(row)
    dead = [
        Outcome(each.key, Verdict.REJECTED, code="not-found", detail=_GIVEN_UP)
        for row in buried
        for each in found[row.id]
        if each.state == AttemptState.UNKNOWN
    ]
    await outcome.apply(tx, account.id, dead, evidence=proof.ABSENT)
    await batch_store.write(
        tx, [BatchChange(row.id, "refused", None, "not found; " + _GIVEN_UP) for row in buried]
    )
    for row in buried:
        _log.warning("order_given_up", batch=row.batch_key)
    return frozenset(row.id for row in buried)
