"""The SQL of batches and attempts. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from paymaster.db import copying
from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.money import Money


@dataclass(frozen=True, slots=True)
class Due:
    """Something of a rail account (0: of none yet) whose time has come."""

    work: str
    rail_account_id: int


async def due(tx: CellRead, account_ids: Sequence[int]) -> list[Due]:
    """What there is to do.

    approved, queued, window, transfer: something may leave. silent, prepared, doubted: orders whose
    sender is gone, of which nothing has left, that nobody answered. dead, asked: payments to be
    followed up, to be asked about.
    """
    return await tx.fetch(
        """
        SELECT 'approved' AS work, 0::bigint AS rail_account_id WHERE EXISTS (
            SELECT FROM withdrawal WHERE state = 'approved' AND due_at <= %(now)s)
        UNION ALL
        SELECT kind, a FROM unnest(%(accounts)s::bigint[]) AS a, LATERAL (
            SELECT 'queued' AS kind WHERE EXISTS (
                SELECT FROM withdrawal
                WHERE state = 'queued' AND rail_account_id = a AND due_at <= %(now)s)
            UNION ALL
            SELECT 'window' WHERE EXISTS (
                SELECT FROM payout_window WHERE rail_account_id = a AND due_at <= %(now)s)
            UNION ALL
            SELECT 'transfer' WHERE EXISTS (
                SELECT FROM transfer
                WHERE state = 'requested' AND from_account_id = a AND due_at <= %(now)s)
            UNION ALL
            SELECT 'silent' WHERE EXISTS (
                SELECT FROM batch
                WHERE rail_account_id = a AND due_at <= %(now)s AND state = 'sending')
            UNION ALL
            SELECT 'prepared' WHERE EXISTS (
                SELECT FROM batch
                WHERE rail_account_id = a AND due_at <= %(now)s AND state = 'prepared')
            UNION ALL
            SELECT 'doubted' WHERE EXISTS (
                SELECT FROM batch
                WHERE rail_account_id = a AND due_at <= %(now)s AND state = 'unknown')
            UNION ALL
            SELECT 'dead' WHERE EXISTS (
                SELECT FROM attempt
                WHERE rail_account_id = a AND due_at <= %(now)s AND state = 'rejected')
            UNION ALL
            SELECT 'asked' WHERE EXISTS (
                SELECT FROM attempt WHERE rail_account_id = a AND due_at <= %(now)s
                    AND state IN ('unknown', 'sent', 'awaiting_payee'))
        ) AS found
        """,
        {"now": tx.now, "accounts": list(account_ids)},
        Due,
    )


async def kinds(tx: CellRead, destination_ids: Sequence[int]) -> dict[int, str]:
    """The kind of each destination."""
    return dict(
        await tx.tuples(
            "SELECT id, kind FROM destination WHERE id = ANY(%s)", (list(destination_ids),)
        )
    )


async def reasons(tx: CellRead, withdrawal_ids: Sequence[int]) -> dict[int, str]:
    """Why queued withdrawals are where they are, of those that say so."""
    return dict(
        await tx.tuples(
            "SELECT id, reason FROM withdrawal WHERE id = ANY(%s) AND reason IS NOT NULL",
            (list(withdrawal_ids),),
        )
    )


async def postpone_approved(
    tx: CellTx, withdrawal_ids: Sequence[int], due_at: datetime, reason: str
) -> None:
    """Look at approved withdrawals again later; they stay approved."""
    await tx.execute(
        "UPDATE withdrawal SET due_at = %s, reason = %s, tries = tries + 1"
        " WHERE id = ANY(%s) AND state = 'approved'",
        (due_at, reason, list(withdrawal_ids)),
    )


async def any_unrouted(tx: CellRead) -> bool:
    """Whether approved withdrawals wait because no account could make them."""
    found = await tx.tuples(
        "SELECT EXISTS (SELECT FROM withdrawal"
        " WHERE state = 'approved' AND due_at > %s AND reason = 'no-route')",
        (tx.now,),
    )
    return bool(found[0][0])


async def route_again(tx: CellTx) -> int:
    """Let them be looked at now; how many."""
    return await tx.execute(
        "UPDATE withdrawal SET due_at = %s"
        " WHERE state = 'approved' AND due_at > %s AND reason = 'no-route'",
        (tx.now, tx.now),
    )


async def transfer_numbers(tx: CellTx, transfer_ids: Sequence[int]) -> dict[int, int]:
    """The number of the latest attempt of each transfer that has one."""
    return dict(
        await tx.tuples(
            "SELECT transfer_id, max(number) FROM attempt WHERE transfer_id = ANY(%s) GROUP BY 1",
            (list(transfer_ids),),
        )
    )


class NewBatch(NamedTuple):
    """An order as it is first written: leased by its maker, bytes sealed."""

    id: int
    batch_key: str
    rail_account_id: int
    sealed: bytes
    digest: bytes
    items: int
    total: int
    asset: str
    trace_id: str


async def insert_batches(
    tx: CellTx, batches: Sequence[NewBatch], lease_token: int, until: datetime
) -> None:
    """Write orders that are about to be sent by this process."""
    now = tx.now.isoformat()
    same = f"sending\t1\t{until.isoformat()}\t{lease_token}\t{now}\t{now}\t1\n"
    await tx.copy(
        "COPY batch (id, batch_key, rail_account_id, sealed, digest, items, total, asset, trace_id,"
        " state, tries, due_at, lease_token, created_at, sent_at, version) FROM STDIN",
        [
            f"{b.id}\t{b.batch_key}\t{b.rail_account_id}\t{copying.hexadecimal(b.sealed)}\t"
            f"{copying.hexadecimal(b.digest)}\t{b.items}\t{b.total}\t{b.asset}\t{copying.text(b.trace_id)}\t{same}"
            for b in batches
        ],
    )


class NewAttempt(NamedTuple):
    """One payment of an order. `routed` is why this account and no other."""

    id: int
    withdrawal_id: int | None
    transfer_id: int | None
    number: int
    batch_id: int
    rail_account_id: int
    key: str
    amount: int
    asset: str
    trace_id: str
    routed: str | None


async def insert_attempts(tx: CellTx, attempts: Sequence[NewAttempt]) -> None:
    """Write attempts in their first state.

    The database refuses a second live one of a thing, and for a withdrawal one whose earlier ones
    are not all proven dead.
    """
    same = f"sending\t0\t0\t{tx.now.isoformat()}\t1\n"
    await tx.copy(
        "COPY attempt (id, withdrawal_id, transfer_id, number, after_number, routed, batch_id,"
        " rail_account_id, key, amount, asset, trace_id, state, tries, lease_token, created_at,"
        " version) FROM STDIN",
        [
            f"{a.id}\t{a.withdrawal_id or copying.NULL}\t{a.transfer_id or copying.NULL}\t"
            f"{a.number}\t{a.number - 1 or copying.NULL}\t"
            f"{copying.NULL if a.routed is None else copying.text(a.routed)}\t"
            f"{a.batch_id}\t{a.rail_account_id}\t{a.key}\t{a.amount}\t{a.asset}\t"
            f"{copying.text(a.trace_id)}\t{same}"
            for a in attempts
        ],
    )


class AttemptRow(NamedTuple):
    """An attempt as it is locked and moved; the batch only to be named.

    `cancels`: its user wants it taken back. `confirms`: there is a row in `confirmation`.
    `came_back`: a statement shows that its money is on the account again.
    """

    id: int
    withdrawal_id: int | None
    transfer_id: int | None
    batch_id: int
    rail_account_id: int
    key: str
    amount: int
    asset: str
    state: str
    number: int
    provider_id: str | None
    code: str | None
    version: int
    cancels: bool
    confirms: bool
    came_back: bool

    @property
    def money(self) -> Money:
        """What was ordered to be paid."""
        return Money(self.amount, self.asset)


async def lock_attempts(tx: CellTx, keys: Sequence[str]) -> dict[str, AttemptRow]:
    """Lock attempts by key, in order of id; unknown keys are left out."""
    rows = await tx.tuples(
        """
        SELECT id, withdrawal_id, transfer_id, batch_id, rail_account_id, key, amount, asset, state,
            number, provider_id, code, version, cancel_at IS NOT NULL,
            EXISTS (SELECT FROM confirmation c WHERE c.attempt_id = attempt.id),
            returned_line IS NOT NULL
        FROM attempt WHERE key = ANY(%s) ORDER BY id FOR UPDATE
        """,
        (list(set(keys)),),
    )
    return {row[5]: AttemptRow._make(row) for row in rows}


async def destinations_of(tx: CellRead, withdrawal_ids: Sequence[int]) -> dict[int, int]:
    """Where withdrawals go."""
    return dict(
        await tx.tuples(
            "SELECT id, destination_id FROM withdrawal WHERE id = ANY(%s)", (list(withdrawal_ids),)
        )
    )


class AttemptChange(NamedTuple):
    """What an answer writes to a locked attempt."""

    id: int
    state: str
    provider_id: str | None
    code: str | None
    detail: str | None
    due_at: datetime | None
    resolved_at: datetime | None


async def write_attempts(tx: CellTx, changes: Sequence[AttemptChange]) -> None:
    """Write what became known. It also ends the lease of whoever was asking."""
    await tx.execute(
        """
        UPDATE attempt a SET state = u.state, provider_id = coalesce(u.provider, a.provider_id),
            code = coalesce(u.code, a.code), detail = coalesce(u.detail, a.detail), tries = 0,
            alerted = 0, due_at = u.due, lease_token = 0,
            resolved_at = coalesce(a.resolved_at, u.resolved), version = a.version + 1
        FROM unnest(%(ids)s::bigint[], %(states)s::text[], %(providers)s::text[],
            %(codes)s::text[], %(details)s::text[], %(dues)s::timestamptz[],
            %(resolved)s::timestamptz[])
            AS u (id, state, provider, code, detail, due, resolved)
        WHERE a.id = ANY(%(ids)s::bigint[]) AND a.id = u.id
        """,
        {
            "ids": [c.id for c in changes],
            "states": [c.state for c in changes],
            "providers": [c.provider_id for c in changes],
            "codes": [c.code for c in changes],
            "details": [c.detail for c in changes],
            "dues": [c.due_at for c in changes],
            "resolved": [c.resolved_at for c in changes],
        },
    )


async def keys_of_batch(tx: CellRead, batch_key: str) -> list[str]:
    """The payments of an order, by the key of the order."""
    rows = await tx.tuples(
        "SELECT a.key FROM attempt a JOIN batch b ON b.id = a.batch_id WHERE b.batch_key = %s"
        " ORDER BY a.id",
        (batch_key,),
    )
    return [row[0] for row in rows]
