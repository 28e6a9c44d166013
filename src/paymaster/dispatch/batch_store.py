"""The SQL of claims on batches and attempts. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from paymaster.db.tx import CellRead, CellTx
from paymaster.dispatch.machine import AttemptState


async def lock_held(tx: CellTx, claims: Sequence[tuple[int, int]]) -> set[int]:
    """Lock batches in order of id; those that are still leased under the claim's token."""
    rows = await tx.tuples(
        """
        SELECT id, lease_token FROM batch WHERE id = ANY(%s) AND state = 'sending'
        ORDER BY id FOR UPDATE
        """,
        ([batch_id for batch_id, _ in claims],),
    )
    ours = set(claims)
    return {batch_id for batch_id, token in rows if (batch_id, token) in ours}


class BatchChange(NamedTuple):
    """What is written to a batch that is locked. `ended`: because a call has ended.

    `went`: something of it may have left. Then `doubted_no` is the provider's code, where it
    brought a no that proves nothing yet, and `put_off` says that it was "not now"; otherwise what
    the provider said before still stands.
    """

    id: int
    state: str
    due_at: datetime | None
    detail: str | None
    ended: bool = False
    went: bool = False
    doubted_no: str | None = None
    put_off: bool = False


async def write(tx: CellTx, changes: Sequence[BatchChange]) -> None:
    """Write states; the lease ends."""
    if not changes:
        return
    await tx.execute(
        """
        UPDATE batch b SET state = u.state, due_at = u.due, detail = coalesce(u.detail, b.detail),
            ended = b.ended + u.ended::int,
            ended_at = CASE WHEN u.ended THEN %(now)s ELSE b.ended_at END,
            doubted_no = CASE WHEN u.went THEN u.doubted_no ELSE b.doubted_no END,
            put_off = CASE WHEN u.went THEN u.put_off ELSE b.put_off END,
            lease_token = 0, version = b.version + 1
        FROM unnest(%(ids)s::bigint[], %(states)s::text[], %(dues)s::timestamptz[],
            %(details)s::text[], %(ended)s::boolean[], %(went)s::boolean[], %(doubted)s::text[],
            %(put_off)s::boolean[]) AS u (id, state, due, detail, ended, went, doubted_no, put_off)
        WHERE b.id = ANY(%(ids)s::bigint[]) AND b.id = u.id
        """,
        {
            "ids": [change.id for change in changes],
            "states": [change.state for change in changes],
            "dues": [change.due_at for change in changes],
            "details": [change.detail for change in changes],
            "ended": [change.ended for change in changes],
            "went": [change.went for change in changes],
            "doubted": [change.doubted_no for change in changes],
            "put_off": [change.put_off for change in changes],
            "now": tx.now,
        },
    )


@dataclass(frozen=True, slots=True)
class BatchRow:
    """An order as it was stored. `unresolved` counts payments without an answer.

    `spoilt` counts those for which it must never go again: their money was given back, or a person
    has seen to them; `by_hand` the latter. `ended` counts the tries that have ended here, at the
    last `ended_at`: the others may be on their way still, whatever became of their sender.
    """

    id: int
    batch_key: str
    rail_account_id: int
    sealed: bytes = field(repr=False)
    digest: bytes
    state: str
    tries: int
    created_at: datetime
    sent_at: datetime | None
    ended: int
    ended_at: datetime | None
    doubted_no: str | None
    put_off: bool
    keys: list[str]
    unresolved: int
    spoilt: int
    by_hand: int = 0

    def over_since(self, moment: datetime, lag: timedelta) -> bool:
        """Whether every try had ended so long before a moment."""
        over = self.ended_at is not None and self.ended == self.tries
        return over and self.ended_at is not None and moment - self.ended_at >= lag


async def take_due(tx: CellTx, rail_account_id: int, state: str, limit: int) -> list[BatchRow]:
    """Lock due batches of an account in a state, oldest first."""
    return await tx.fetch(
        """
        SELECT b.id, b.batch_key, b.rail_account_id, b.sealed, b.digest, b.state, b.tries,
            b.created_at, b.sent_at, b.ended, b.ended_at, b.doubted_no, b.put_off,
            (SELECT array_agg(a.key ORDER BY a.id) FROM attempt a WHERE a.batch_id = b.id) AS keys,
            (SELECT count(*) FROM attempt a WHERE a.batch_id = b.id
                AND a.state IN ('sending', 'unknown')) AS unresolved,
            (SELECT count(*) FROM attempt a WHERE a.batch_id = b.id
                AND (a.state = 'rejected' OR a.code = 'decided-by-hand')) AS spoilt
        FROM batch b
        WHERE b.rail_account_id = %s AND b.state = %s AND b.due_at <= %s
        ORDER BY b.due_at, b.id LIMIT %s FOR UPDATE OF b SKIP LOCKED
        """,
        (rail_account_id, state, tx.now, limit),
        BatchRow,
    )


async def take_unknown(tx: CellTx, batch_ids: Sequence[int]) -> list[BatchRow]:
    """Lock unknown batches by id, those that nobody else works on."""
    return await tx.fetch(
        """
        SELECT b.id, b.batch_key, b.rail_account_id, b.sealed, b.digest, b.state, b.tries,
            b.created_at, b.sent_at, b.ended, b.ended_at, b.doubted_no, b.put_off,
            (SELECT array_agg(a.key ORDER BY a.id) FROM attempt a WHERE a.batch_id = b.id) AS keys,
            (SELECT count(*) FROM attempt a WHERE a.batch_id = b.id
                AND a.state IN ('sending', 'unknown')) AS unresolved,
            (SELECT count(*) FROM attempt a WHERE a.batch_id = b.id
                AND (a.state = 'rejected' OR a.code = 'decided-by-hand')) AS spoilt,
            (SELECT count(*) FROM attempt a WHERE a.batch_id = b.id
                AND a.code = 'decided-by-hand') AS by_hand
        FROM batch b WHERE b.id = ANY(%s) AND b.state = 'unknown'
        ORDER BY b.id FOR UPDATE OF b SKIP LOCKED
        """,
        (list(batch_ids),),
        BatchRow,
    )


async def take_awaiting(tx: CellTx, batch_ids: Sequence[int]) -> list[BatchRow]:
    """Lock orders by id whose payments wait for their payees, those nobody else works on."""
    return await tx.fetch(
        """
        SELECT b.id, b.batch_key, b.rail_account_id, b.sealed, b.digest, b.state, b.tries,
            b.created_at, b.sent_at, b.ended, b.ended_at, b.doubted_no, b.put_off,
            (SELECT array_agg(a.key ORDER BY a.id) FROM attempt a WHERE a.batch_id = b.id) AS keys,
            (SELECT count(*) FROM attempt a WHERE a.batch_id = b.id
                AND a.state = 'awaiting_payee' AND a.cancel_at IS NULL) AS unresolved,
            (SELECT count(*) FROM attempt a WHERE a.batch_id = b.id AND (a.state <> 'awaiting_payee'
                OR a.cancel_at IS NOT NULL OR a.code = 'decided-by-hand')) AS spoilt
        FROM batch b WHERE b.id = ANY(%s) AND b.state IN ('unknown', 'answered', 'sent')
        ORDER BY b.id FOR UPDATE OF b SKIP LOCKED
        """,
        (list(batch_ids),),
        BatchRow,
    )


class Share(NamedTuple):
    """A withdrawal that an order pays; `number` counts the orders of that withdrawal."""

    batch_id: int
    withdrawal_id: int
    number: int


async def lock_shares(tx: CellTx, batch_ids: Sequence[int]) -> list[Share]:
    """Lock the attempts of locked batches that may still pay withdrawals, in order of id."""
    rows = await tx.tuples(
        """
        SELECT batch_id, withdrawal_id, number FROM attempt
        WHERE batch_id = ANY(%s) AND withdrawal_id IS NOT NULL AND state IN ('sending', 'unknown')
        ORDER BY id FOR UPDATE
        """,
        (list(batch_ids),),
    )
    return [Share._make(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Ordered:
    """One payment of an order, with the order's state.

    `amount` is what it is about for its user, in minor units of `asset`; the payee may get another
    currency.
    """

    attempt_id: int
    withdrawal_id: int | None
    key: str
    state: str
    rail_account_id: int
    batch_id: int
    batch_state: str
    amount: int
    asset: str

    @property
    def never_left(self) -> bool:
        """Whether nothing of its order ever left this machine."""
        return self.batch_state == "prepared" and self.state == AttemptState.SENDING

    @property
    def alive(self) -> bool:
        """Whether it has paid or may still pay, as `live_attempt`."""
        return self.state != "rejected"


async def live_attempt(tx: CellRead, withdrawal_id: int) -> int | None:
    """The one attempt to pay a withdrawal that is not dead; None when there is none."""
    return await tx.value(
        "SELECT id FROM attempt WHERE withdrawal_id = %s AND state <> 'rejected'", (withdrawal_id,)
    )


async def has_dead_attempt(tx: CellRead, withdrawal_id: int) -> bool:
    """Whether an order of a withdrawal has died."""
    return bool(
        await tx.value(
            "SELECT EXISTS (SELECT FROM attempt WHERE withdrawal_id = %s AND state = 'rejected')",
            (withdrawal_id,),
        )
    )


async def lock_order_of(tx: CellTx, attempt_id: int) -> list[Ordered] | None:
    """Lock the order that an attempt is in, then its attempts in order of id."""
    batch_id = await tx.value(
        "SELECT b.id FROM batch b JOIN attempt a ON a.batch_id = b.id WHERE a.id = %s"
        " FOR UPDATE OF b",
        (attempt_id,),
    )
    if batch_id is None:
        return None
    return await tx.fetch(
        """
        SELECT a.id AS attempt_id, a.withdrawal_id, a.key, a.state, a.rail_account_id,
            a.batch_id, b.state AS batch_state, coalesce(w.amount, a.amount) AS amount,
            coalesce(w.asset, a.asset) AS asset
        FROM attempt a JOIN batch b ON b.id = a.batch_id
            LEFT JOIN withdrawal w ON w.id = a.withdrawal_id
        WHERE a.batch_id = %s ORDER BY a.id FOR UPDATE OF a
        """,
        (batch_id,),
        Ordered,
    )


async def lease(tx: CellTx, batch_ids: Sequence[int], token: int, until: datetime) -> None:
    """This process alone may send these batches until then."""
    await tx.execute(
        "UPDATE batch SET state = 'sending', lease_token = %s, due_at = %s, tries = tries + 1,"
        " sent_at = %s, version = version + 1 WHERE id = ANY(%s)",
        (token, until, tx.now, list(batch_ids)),
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """A claimed attempt that the provider is asked about.

    `over`: every try of its order has ended here, the last one at `ended_at`. `cancels`: its user
    wants it taken back. `confirms`: what its payee needs to accept it is kept.
    """

    id: int
    batch_id: int
    key: str
    state: str
    tries: int
    lease_token: int
    sent_at: datetime | None
    ended_at: datetime | None
    over: bool
    cancels: bool
    confirms: bool


async def claim_attempts(
    tx: CellTx, rail_account_id: int, limit: int, token: int, until: datetime
) -> list[Asked]:
    """Claim due attempts without a final answer, oldest first."""
    return await tx.fetch(
        """
        WITH due AS (
            SELECT id FROM attempt WHERE rail_account_id = %s AND due_at <= %s
                AND state IN ('unknown', 'sent', 'awaiting_payee')
            ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED
        )
        UPDATE attempt a SET due_at = %s, lease_token = %s, tries = a.tries + 1
        FROM due, batch b WHERE a.id = due.id AND b.id = a.batch_id
        RETURNING a.id, a.batch_id, a.key, a.state, a.tries, a.lease_token, b.sent_at,
            b.ended_at, b.ended = b.tries AS over, a.cancel_at IS NOT NULL AS cancels,
            EXISTS (SELECT FROM confirmation c WHERE c.attempt_id = a.id) AS confirms
        """,
        (rail_account_id, tx.now, limit, until, token),
        Asked,
    )


async def lock_asked(tx: CellTx, claims: Sequence[tuple[int, int]]) -> set[int]:
    """Lock attempts in order of id; those that are still leased under the claim's token."""
    rows = await tx.tuples(
        """
        SELECT a.id FROM attempt a
            JOIN unnest(%s::bigint[], %s::bigint[]) AS u (id, token) ON u.id = a.id
        WHERE a.lease_token = u.token ORDER BY a.id FOR UPDATE OF a
        """,
        ([attempt_id for attempt_id, _ in claims], [token for _, token in claims]),
    )
    return {row[0] for row in rows}


async def ask_later(tx: CellTx, attempts: Sequence[tuple[int, datetime]]) -> None:
    """No final answer yet: ask again then; the lease ends, the count of tries stays."""
    if not attempts:
        return
    await tx.execute(
        """
        UPDATE attempt a SET due_at = u.due, lease_token = 0
        FROM unnest(%s::bigint[], %s::timestamptz[]) AS u (id, due)
        WHERE a.id = u.id AND a.state IN ('unknown', 'sent', 'awaiting_payee')
        """,
        ([attempt_id for attempt_id, _ in attempts], [due_at for _, due_at in attempts]),
    )


async def stop_asking(tx: CellTx, rail_account_id: int, limit: int) -> int:
    """Attempts of a rail that cannot be asked: reports will tell; how many there were."""
    return await tx.execute(
        """
        UPDATE attempt SET due_at = NULL WHERE id IN (
            SELECT id FROM attempt WHERE rail_account_id = %s AND due_at <= %s
                AND state IN ('unknown', 'sent', 'awaiting_payee')
            ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED
        )
        """,
        (rail_account_id, tx.now, limit),
    )


@dataclass(frozen=True, slots=True)
class AttemptView:
    """An attempt as far as its provider is asked about it for somebody."""

    rail_account_id: int
    key: str
    state: str


async def attempts_of(tx: CellRead, withdrawal_id: int) -> list[AttemptView]:
    """The attempts of a withdrawal, oldest first."""
    return await tx.fetch(
        """
        SELECT rail_account_id, key, state FROM attempt WHERE withdrawal_id = %s ORDER BY number
        """,
        (withdrawal_id,),
        AttemptView,
    )
