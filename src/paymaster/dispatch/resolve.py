"""What nobody answered: only proof moves it on, and nothing is ever sent anew under another key.

    ask       the provider, by our key, where it can be asked
    replay    the same bytes under the same key, where the provider has said that this is safe:
              after it has proven that it does not know the payment, or, where it cannot be asked,
              because it refuses a second copy by itself; never after the replay window
    wait      for the report or the statement otherwise

A holder whose lease ran out while sending has left an unknown order behind, whatever it did.
Accepted payments are asked about too, in growing intervals: a lost message must not strand money.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from random import Random

from paymaster.db.tx import CellTx
from paymaster.dispatch import absence, batch_store, failover, outcome
from paymaster.dispatch.absence import Absent, Told
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.batch_store import Asked, BatchChange, BatchRow
from paymaster.dispatch.desk import Desk, Order, Pace
from paymaster.dispatch.machine import AttemptState
from paymaster.kernel.clock import Clock
from paymaster.kernel.errors import Broken
from paymaster.observe import get_logger
from paymaster.rails import meaning
from paymaster.rails.base import Cancels, Outcome, Prepared, Queries, RailCaps, Verdict
from paymaster.rails.meaning import Kind
from paymaster.secrets.sealing import place
from paymaster.withdraw import checks
from paymaster.withdraw.holds import LOOK_AGAIN

_log = get_logger(__name__)
_LEASE_EXPIRED = meaning.OF[Kind.LEASE_EXPIRED].slug
_WAIT_FOR_REPORT = timedelta(hours=1)
_HELD = "given up before it left"
_SWEEP_ASKED = timedelta(minutes=15)
_ENDS = frozenset({Verdict.PAID, Verdict.REJECTED, Verdict.RETURNED})


async def expire(tx: CellTx, account: PayoutAccount, limit: int) -> int:
    """Orders whose holder has gone silent become unknown; how many."""
    rows = await batch_store.take_due(tx, account.id, "sending", limit)
    lost = [Outcome(key, Verdict.UNKNOWN, code=_LEASE_EXPIRED) for row in rows for key in row.keys]
    await outcome.apply(tx, account.id, lost, evidence="lease")
    changes = [
        BatchChange(row.id, "unknown", tx.now, f"{_LEASE_EXPIRED}: its sender went silent")
        for row in rows
    ]
    await batch_store.write(tx, changes)
    return len(rows)


async def claim_prepared(tx: CellTx, desk: Desk, account: PayoutAccount, room: int) -> list[Order]:
    """Orders of which nothing has ever left: claim them to be sent now, at most `room`.

    At a paused account they are given up instead, where another account can pay.
    """
    if not account.active:
        await failover.leave_paused(tx, desk, account, desk.pace.items)
        return []
    rows = await batch_store.take_due(tx, account.id, "prepared", room)
    return await _claim(tx, desk, account, rows, replay=False)


async def claim_replays(tx: CellTx, desk: Desk, account: PayoutAccount, room: int) -> list[Order]:
    """Unknown orders of a rail that cannot be asked: claim those that may be replayed.

    The others are looked at again later; an order whose payments have all been answered is done.
    """
    rail = desk.rail(account)
    rows = await batch_store.take_due(tx, account.id, "unknown", max(room, 1))
    if rail is None or not rows:
        return []
    asks = isinstance(rail, Queries)
    ready: list[BatchRow] = []
    waiting: list[BatchChange] = []
    for row in rows:
        may = absence.may_replay(account, rail.caps, row, desk.pace, tx.now)
        replays = not asks and account.active and may
        if row.unresolved and replays:
            ready.append(row)
        elif row.unresolved:
            again = tx.now + (_SWEEP_ASKED if asks else _WAIT_FOR_REPORT)
            waiting.append(BatchChange(row.id, "unknown", again, None))
        else:
            waiting.append(BatchChange(row.id, "answered", None, None))
    await batch_store.write(tx, waiting)
    return await _claim(tx, desk, account, ready, replay=True)


async def claim_proven(
    tx: CellTx, desk: Desk, account: PayoutAccount, absent: Mapping[int, Absent]
) -> list[Order]:
    """Orders with payments that the provider has proven not to know: claim them for a replay.

    Not one that somebody has sent again since it was asked about: of that try nothing is proven.
    """
    rail = desk.rail(account)
    if rail is None or not account.active:
        return []
    rows = [
        row
        for row in await batch_store.take_unknown(tx, list(absent))
        if row.unresolved
        and row.sent_at == absent[row.id].sent_at
        and absence.may_replay(account, rail.caps, row, desk.pace, tx.now)
    ]
    return await _claim(tx, desk, account, rows, replay=True, absent=absent)


async def _claim(
    tx: CellTx,
    desk: Desk,
    account: PayoutAccount,
    rows: Sequence[BatchRow],
    *,
    replay: bool,
    absent: Mapping[int, Absent] | None = None,
) -> list[Order]:
    orders: list[Order] = []
    broken: list[BatchChange] = []
    until = tx.now + desk.pace.lease
    stopped = await _stopped_by_order(tx, desk, account, rows)
    for row in rows:
        if row.id in stopped:
            continue
        if row.spoilt:
            # Its bytes still hold a payment whose money was given back, or that a person says was
            # made, perhaps in another way than by this order: they never go again.
            detail = "a payment of it was refused or decided by hand: it is not sent again"
            broken.append(BatchChange(row.id, "unknown", tx.now + _WAIT_FOR_REPORT, detail))
            continue
        try:
            prepared = _reopened(tx, desk, row)
        except Broken as error:
            _log.error("order_unreadable", batch=row.batch_key, slug=error.slug)
            again = tx.now + _WAIT_FOR_REPORT
            broken.append(BatchChange(row.id, row.state, again, f"{error.slug}: {error.detail}"))
            continue
        gone = absent[row.id].keys if absent else frozenset[str]()
        orders.append(
            Order(row.id, account, prepared, tx.commit_id, until, row.tries + 1, replay, gone)
        )
    await batch_store.write(tx, broken)
    await batch_store.lease(tx, [order.batch_id for order in orders], tx.commit_id, until)
    return orders


async def _stopped_by_order(
    tx: CellTx, desk: Desk, account: PayoutAccount, rows: Sequence[BatchRow]
) -> frozenset[int]:
    """Orders that do not go, because a payment in them is under a regulatory hold.

    One of which nothing has left is given up: what is not held goes by another one. Any other
    waits: its bytes are what they are, and it is asked about meanwhile.
    """
    shares = await batch_store.lock_shares(tx, [row.id for row in rows]) if rows else []
    held = await checks.held(tx, [one.withdrawal_id for one in shares])
    stopped = frozenset(one.batch_id for one in shares if one.withdrawal_id in held)
    last = {one.batch_id for one in shares if one.number >= desk.policy.most_orders}
    unsent = [row for row in rows if row.id in stopped - last and row.state == "prepared"]
    await failover.give_up(tx, account, unsent, _HELD)
    waiting = [row for row in rows if row.id in stopped and row not in unsent]
    again = tx.now + LOOK_AGAIN
    await batch_store.write(tx, [BatchChange(row.id, row.state, again, None) for row in waiting])
    return stopped


def _reopened(tx: CellTx, desk: Desk, row: BatchRow) -> Prepared:
    """The stored order, byte for byte. Raises Broken `sealed-damaged` or `order-altered`."""
    body = desk.sealer.open_bytes(row.sealed, place("batch", tx.cell, row.id))
    if hashlib.sha256(body).digest() != row.digest:
        raise Broken("order-altered", f"The bytes of {row.batch_key} are not those that were made.")
    return Prepared(row.batch_key, body, tuple(row.keys))


async def claim_questions(tx: CellTx, desk: Desk, account: PayoutAccount, room: int) -> list[Asked]:
    """Attempts that are due to be asked about, at most `room`."""
    rail = desk.rail(account)
    if rail is not None and not isinstance(rail, Queries):
        await batch_store.stop_asking(tx, account.id, desk.pace.items)
        return []
    if rail is None or room < 1:
        return []
    until = tx.now + desk.pace.lease
    return await batch_store.claim_attempts(tx, account.id, room, tx.id(), until)


def unshown(told: Sequence[Told]) -> list[int]:
    """Orders whose payee is waited for, while nobody has what the payee needs; by batch.

    The provider gives it in answer to the order only, so the same bytes go again.
    """
    return [
        each.asked.batch_id
        for each in told
        if each.outcome.verdict is Verdict.AWAITING
        and each.outcome.confirmation is None
        and not each.asked.confirms
        and not each.asked.cancels
    ]


async def claim_unshown(
    tx: CellTx, desk: Desk, account: PayoutAccount, batch_ids: Sequence[int]
) -> list[Order]:
    """Claim those of `unshown` for a replay, where that is safe."""
    rail = desk.rail(account)
    if rail is None or not account.active:
        return []
    rows = [
        row
        for row in await batch_store.take_awaiting(tx, batch_ids)
        if row.unresolved
        and not row.spoilt
        and absence.may_replay(account, rail.caps, row, desk.pace, tx.now)
    ]
    return await _claim(tx, desk, account, rows, replay=True)


async def ask(
    rail: Queries, account: PayoutAccount, asked: Asked, pace: Pace, clock: Clock
) -> Told:
    """Ask; never raises but for being cancelled. Not inside a transaction.

    What its user wants back, the provider is first asked to take back. Only its last word counts:
    where that answer is none, it is asked what became of the payment.
    """
    at = clock.now()
    try:
        async with asyncio.timeout(pace.call.total_seconds()):
            found = await _taken_back(rail, account, asked)
            if found is None:
                found = await rail.query(account.rail, asked.key)
    except TimeoutError:
        found = Outcome(asked.key, Verdict.UNKNOWN, detail="No answer in time.")
    except Exception as error:  # noqa: BLE001 - a question that fails has found out nothing
        _log.warning("query_failed", key=asked.key, error=type(error).__name__)
        found = Outcome(asked.key, Verdict.UNKNOWN, detail=type(error).__name__)
    if found.key != asked.key:
        found = Outcome(asked.key, Verdict.UNKNOWN, detail="The answer names another payment.")
    return Told(asked, found, at)


async def _taken_back(rail: Queries, account: PayoutAccount, asked: Asked) -> Outcome | None:
    """The end that came of asking to take a payment back; None if that brought no end."""
    if not asked.cancels or not isinstance(rail, Cancels):
        return None
    try:
        found = await rail.cancel(account.rail, asked.key)
    except Exception as error:  # noqa: BLE001 - it has told nothing; the question that follows may
        _log.warning("cancel_failed", key=asked.key, error=type(error).__name__)
        return None
    return found if found.verdict in _ENDS else None


async def conclude(
    tx: CellTx, desk: Desk, account: PayoutAccount, told: Sequence[Told], random: Random
) -> dict[int, Absent]:
    """Apply the answers; the payments, by batch, that are proven not to be at the provider.

    Orders to which it had said no are dead by that. Of the others, those that cannot be sent again
    are given up.
    """
    held = await batch_store.lock_asked(
        tx, [(each.asked.id, each.asked.lease_token) for each in told]
    )
    mine = [each for each in told if each.asked.id in held]
    decisive = [
        each.outcome
        for each in mine
        if each.outcome.verdict not in {Verdict.UNKNOWN, Verdict.NOT_FOUND}
    ]
    applied = await outcome.apply(tx, account.id, decisive, evidence="query", sealer=desk.sealer)
    moved = {each.key for each in applied if each.done}
    rail = desk.rail(account)
    caps = rail.caps if rail is not None else None
    later = [
        (each.asked.id, _ask_next(account, caps, each, desk.pace, tx.now, random))
        for each in mine
        if each.asked.key not in moved
    ]
    await batch_store.ask_later(tx, later)
    if rail is None:
        return {}
    gone = [each for each in mine if absence.proves_absence(account, rail.caps, each, desk.pace)]
    absent = absence.absent_of(gone)
    buried = await absence.bury(tx, desk, account, rail.caps, gone, absent)
    return {batch_id: found for batch_id, found in absent.items() if batch_id not in buried}


def _ask_next(
    account: PayoutAccount,
    caps: RailCaps | None,
    told: Told,
    pace: Pace,
    now: datetime,
    random: Random,
) -> datetime:
    """In growing intervals, but no later than when another "not found" would be proof."""
    asked = told.asked
    urgent = asked.state == AttemptState.UNKNOWN or asked.cancels
    backoff = pace.ask_again if urgent else pace.poll_again
    again = now + backoff.delay(asked.tries, random)
    proof_at = absence.proof_at(account, caps, told, pace) if caps is not None else None
    return min(again, proof_at) if proof_at is not None and proof_at > now else again
