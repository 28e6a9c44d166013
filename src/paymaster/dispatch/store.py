"""The SQL of batches and attempts. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.money import Money


@dataclass(frozen=True, slots=True)
class Due:
    """Something of a rail account (0: of none yet) whose time has come."""

    work: str
    rail_account_id: int


async def due(tx: CellRead, account_ids: Sequence[int]) -> list[Due]:
    """What there is to do: approved, queued, window, transfer, batch, attempt."""
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
            SELECT 'batch' WHERE EXISTS (
                SELECT FROM batch WHERE rail_account_id = a AND due_at <= %(now)s)
            UNION ALL
            SELECT 'attempt' WHERE EXISTS (
                SELECT FROM attempt WHERE rail_account_id = a AND due_at <= %(now)s)
        ) AS found
        """,
        {"now": tx.now, "accounts": list(account_ids)},
        Due,
    )


@dataclass(frozen=True, slots=True)
class Waiting:
    """A withdrawal that may be sent."""

    id: int
    destination_id: int
    destination_kind: str
    amount: int
    asset: str
    trace_id: str

    @property
    def money(self) -> Money:
        """What the payee gets."""
        return Money(self.amount, self.asset)


async def take_approved(tx: CellTx, limit: int) -> list[Waiting]:
    """Lock due approved withdrawals, oldest first; those that others hold are left to them."""
    return await tx.fetch(
        """
        SELECT w.id, w.destination_id, d.kind AS destination_kind, w.amount, w.asset, w.trace_id
        FROM withdrawal w JOIN destination d ON d.id = w.destination_id
        WHERE w.state = 'approved' AND w.due_at <= %s
        ORDER BY w.due_at, w.id LIMIT %s FOR UPDATE OF w SKIP LOCKED
        """,
        (tx.now, limit),
        Waiting,
    )


async def take_queued(tx: CellTx, rail_account_id: int, limit: int) -> list[Waiting]:
    """Lock due withdrawals that wait for an account, oldest first."""
    return await tx.fetch(
        """
        SELECT w.id, w.destination_id, d.kind AS destination_kind, w.amount, w.asset, w.trace_id
        FROM withdrawal w JOIN destination d ON d.id = w.destination_id
        WHERE w.state = 'queued' AND w.rail_account_id = %s AND w.due_at <= %s
        ORDER BY w.due_at, w.id LIMIT %s FOR UPDATE OF w SKIP LOCKED
        """,
        (rail_account_id, tx.now, limit),
        Waiting,
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


async def attempt_numbers(
    tx: CellTx, withdrawal_ids: Sequence[int], transfer_ids: Sequence[int]
) -> tuple[dict[int, int], dict[int, int]]:
    """The number of the latest attempt of each withdrawal and transfer that has one."""
    rows = await tx.tuples(
        """
        SELECT withdrawal_id, transfer_id, max(number) FROM attempt
        WHERE withdrawal_id = ANY(%s) OR transfer_id = ANY(%s)
        GROUP BY withdrawal_id, transfer_id
        """,
        (list(withdrawal_ids), list(transfer_ids)),
    )
    return (
        {w: number for w, _, number in rows if w is not None},
        {t: number for _, t, number in rows if t is not None},
    )


@dataclass(frozen=True, slots=True)
class NewBatch:
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
    await tx.execute(
        """
        INSERT INTO batch (id, batch_key, rail_account_id, sealed, digest, items, total, asset,
            trace_id, state, tries, due_at, lease_token, created_at, sent_at, version)
        SELECT u.*, 'sending', 1, %s, %s, %s, %s, 1
        FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::bytea[], %s::bytea[], %s::int[],
            %s::bigint[], %s::text[], %s::text[]) AS u
        """,
        (
            until,
            lease_token,
            tx.now,
            tx.now,
            [b.id for b in batches],
            [b.batch_key for b in batches],
            [b.rail_account_id for b in batches],
            [b.sealed for b in batches],
            [b.digest for b in batches],
            [b.items for b in batches],
            [b.total for b in batches],
            [b.asset for b in batches],
            [b.trace_id for b in batches],
        ),
    )


@dataclass(frozen=True, slots=True)
class NewAttempt:
    """One payment of an order."""

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


async def insert_attempts(tx: CellTx, attempts: Sequence[NewAttempt]) -> None:
    """Write attempts in their first state; the database refuses a second live one of a thing."""
    await tx.execute(
        """
        INSERT INTO attempt (id, withdrawal_id, transfer_id, number, batch_id, rail_account_id, key,
            amount, asset, trace_id, state, tries, lease_token, created_at, version)
        SELECT u.*, 'sending', 0, 0, %s, 1
        FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::int[], %s::bigint[],
            %s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::text[]) AS u
        """,
        (
            tx.now,
            [a.id for a in attempts],
            [a.withdrawal_id for a in attempts],
            [a.transfer_id for a in attempts],
            [a.number for a in attempts],
            [a.batch_id for a in attempts],
            [a.rail_account_id for a in attempts],
            [a.key for a in attempts],
            [a.amount for a in attempts],
            [a.asset for a in attempts],
            [a.trace_id for a in attempts],
        ),
    )


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An attempt as it is locked and moved; the destination and the batch only to be named."""

    id: int
    withdrawal_id: int | None
    transfer_id: int | None
    destination_id: int | None
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

    @property
    def money(self) -> Money:
        """What was ordered to be paid."""
        return Money(self.amount, self.asset)


async def lock_attempts(tx: CellTx, keys: Sequence[str]) -> dict[str, AttemptRow]:
    """Lock attempts by key, in order of id; unknown keys are left out."""
    rows = await tx.fetch(
        """
        SELECT a.id, a.withdrawal_id, a.transfer_id, w.destination_id, a.batch_id,
            a.rail_account_id, a.key, a.amount, a.asset, a.state, a.number, a.provider_id, a.code,
            a.version
        FROM attempt a LEFT JOIN withdrawal w ON w.id = a.withdrawal_id
        WHERE a.key = ANY(%s) ORDER BY a.id FOR UPDATE OF a
        """,
        (list(set(keys)),),
        AttemptRow,
    )
    return {row.key: row for row in rows}


@dataclass(frozen=True, slots=True)
class AttemptChange:
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
            due_at = u.due, lease_token = 0, resolved_at = coalesce(a.resolved_at, u.resolved),
            version = a.version + 1
        FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[],
            %s::timestamptz[], %s::timestamptz[])
            AS u (id, state, provider, code, detail, due, resolved)
        WHERE a.id = u.id
        """,
        (
            [c.id for c in changes],
            [c.state for c in changes],
            [c.provider_id for c in changes],
            [c.code for c in changes],
            [c.detail for c in changes],
            [c.due_at for c in changes],
            [c.resolved_at for c in changes],
        ),
    )


async def keys_of_batch(tx: CellRead, batch_key: str) -> list[str]:
    """The payments of an order, by the key of the order."""
    rows = await tx.tuples(
        "SELECT a.key FROM attempt a JOIN batch b ON b.id = a.batch_id WHERE b.batch_key = %s"
        " ORDER BY a.id",
        (batch_key,),
    )
    return [row[0] for row in rows]
