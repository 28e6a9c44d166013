"""What a provider does not know: from when on that is proof, and what then becomes of the order.

refused     it said no before, and is borne out by this: the payment is dead
sent again  the same bytes, where the provider still knows the key for long enough
given up    otherwise; another one may follow

What was only put off is sent again, until so little of the time for that is left that the proof of
its end could come too late: some providers show a number no longer than they take it again. At a
paused account it waits for that, or for an account that can pay: a pause is no reason to fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from paymaster.db.tx import CellTx
from paymaster.dispatch import batch_store, failover, outcome, proof
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.batch_store import Asked, BatchChange, BatchRow
from paymaster.dispatch.desk import Desk, Pace
from paymaster.dispatch.machine import AttemptState
from paymaster.rails.base import Outcome, RailCaps, Verdict

_LAST_PART: Final = 12
"""What was put off does not go again in the last twelfth of the time in which it may."""


class Absent(NamedTuple):
    """Payments of an order that are proven not to be there, as asked after its try of `sent_at`."""

    keys: frozenset[str]
    sent_at: datetime | None


@dataclass(frozen=True, slots=True)
class Told:
    """What the provider said about one attempt, when asked at `asked_at`."""

    asked: Asked
    outcome: Outcome
    asked_at: datetime

    @property
    def healthy(self) -> bool:
        """Whether the provider answered."""
        return self.outcome.verdict is not Verdict.UNKNOWN


def may_replay(
    account: PayoutAccount, caps: RailCaps, row: BatchRow, pace: Pace, now: datetime
) -> bool:
    """Whether the provider still knows the key, and will for as long as the replay may take."""
    window = caps.replay_window
    if window is None or not account.knows(row.created_at):
        return False
    return now + pace.lease < row.created_at + window


def keeps_trying_until(caps: RailCaps, created_at: datetime) -> datetime | None:
    """Until when an order that is put off goes again; None if never."""
    window = caps.replay_window
    return None if window is None else created_at + window - window / _LAST_PART


def _keeps_trying(account: PayoutAccount, caps: RailCaps, row: BatchRow, now: datetime) -> bool:
    """Whether an order that was put off goes again, now or after a pause of its account."""
    until = keeps_trying_until(caps, row.created_at)
    return row.put_off and account.knows(row.created_at) and until is not None and now < until


def proof_at(account: PayoutAccount, caps: RailCaps, told: Told, pace: Pace) -> datetime | None:
    """From when on "not found" proves that the payment is not there; None if it never does.

    The provider's lag counts from when the last try was over. A sender that went silent may have
    begun as late as its lease ran out, and have been on the wire for as long as a call may take.
    Settings that were changed since may name another merchant, who knows nothing of it.
    """
    lag, asked = caps.not_found_is_proof_after, told.asked
    if told.outcome.verdict is not Verdict.NOT_FOUND or asked.state != AttemptState.UNKNOWN:
        return None
    if lag is None or asked.sent_at is None or not account.knows(asked.sent_at):
        return None
    if asked.over and asked.ended_at is not None:
        return asked.ended_at + lag
    return asked.sent_at + pace.lease + pace.call + lag


def proves_absence(account: PayoutAccount, caps: RailCaps, told: Told, pace: Pace) -> bool:
    """Not found, asked long enough after the last try that the provider would know it by now."""
    known_at = proof_at(account, caps, told, pace)
    return known_at is not None and told.asked_at >= known_at


def absent_of(gone: Sequence[Told]) -> dict[int, Absent]:
    """What is proven not to be there, by order."""
    found: dict[int, Absent] = {}
    for each in gone:
        key, sent_at = each.asked.key, each.asked.sent_at
        known = found.get(each.asked.batch_id, Absent(frozenset(), sent_at))
        before = [moment for moment in (known.sent_at, sent_at) if moment is not None]
        found[each.asked.batch_id] = Absent(known.keys | {key}, min(before, default=None))
    return found


async def bury(
    tx: CellTx,
    desk: Desk,
    account: PayoutAccount,
    caps: RailCaps,
    gone: Sequence[Told],
    absent: Mapping[int, Absent],
) -> frozenset[int]:
    """Of what is absent, what was refused and what cannot go again: the orders that are dead now.

    Only where every try had ended before the lag. A sender that went silent may still be about to
    send; with the same bytes that does no harm, with another order it would pay twice.
    """
    lag = caps.not_found_is_proof_after
    if lag is None or not absent:
        return frozenset()
    first = sorted(gone, key=lambda each: each.asked_at, reverse=True)
    asked_at = {each.asked.batch_id: each.asked_at for each in first}
    over = [
        row
        for row in await batch_store.take_unknown(tx, list(absent))
        if row.over_since(asked_at[row.id], lag)
    ]
    may = [row.id for row in over if may_replay(account, caps, row, desk.pace, tx.now)]
    again = frozenset(may if account.active else [])
    ending = [row for row in over if not _keeps_trying(account, caps, row, tx.now)]
    refused = await _borne_out(tx, account, ending, absent)
    stuck = {row.id: absent[row.id].keys for row in over if row.id not in refused | again}
    return refused | await failover.bury_absent(tx, desk, account, stuck)


async def _borne_out(
    tx: CellTx,
    account: PayoutAccount,
    over: Sequence[BatchRow],
    absent: Mapping[int, Absent],
) -> frozenset[int]:
    """Orders that were refused, by a no that proves nothing alone: what is not there is dead.

    Of several payments each by itself, as it is asked about: with the first that is dead the order
    never goes again.
    """
    refused = [row for row in over if row.doubted_no and not row.by_hand]
    await outcome.apply(
        tx,
        account.id,
        [
            Outcome(key, Verdict.REJECTED, code=row.doubted_no)
            for row in refused
            for key in row.keys
            if key in absent[row.id].keys
        ],
        evidence=proof.BORNE_OUT,
    )
    ended = [row for row in refused if row.unresolved <= len(absent[row.id].keys)]
    await batch_store.write(tx, [BatchChange(row.id, "refused", None, None) for row in ended])
    return frozenset(row.id for row in refused)
