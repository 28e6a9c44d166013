"""The SQL of treasury transfers. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.money import Money


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer as it stands."""

    id: int
    from_account_id: int
    to_account_id: int
    amount: int
    asset: str
    state: str
    number: int
    entry_out: int
    entry_in: int
    entry_back: int
    created_at: datetime
    actor: str
    reason: str
    trace_id: str

    @property
    def money(self) -> Money:
        """What is moved."""
        return Money(self.amount, self.asset)


@dataclass(frozen=True, slots=True)
class NewRow:
    """A transfer to insert, with the ids that its entries will have."""

    id: int
    from_account_id: int
    to_account_id: int
    amount: int
    asset: str
    entry_out: int
    entry_in: int
    entry_back: int
    reason: str


async def insert(tx: CellTx, state: str, rows: Sequence[NewRow]) -> None:
    """Insert transfers in their first state, due at once."""
    await tx.execute(
        """
        INSERT INTO transfer (id, from_account_id, to_account_id, amount, asset, entry_out,
            entry_in, entry_back, reason, state, number, due_at, lease_token, created_at, actor,
            trace_id, version)
        SELECT u.*, %s, 0, %s, 0, %s, %s, %s, 1
        FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[],
            %s::bigint[], %s::bigint[], %s::bigint[], %s::text[]) AS u
        """,
        (
            state,
            tx.now,
            tx.now,
            tx.actor.name,
            tx.trace_id,
            [row.id for row in rows],
            [row.from_account_id for row in rows],
            [row.to_account_id for row in rows],
            [row.amount for row in rows],
            [row.asset for row in rows],
            [row.entry_out for row in rows],
            [row.entry_in for row in rows],
            [row.entry_back for row in rows],
            [row.reason for row in rows],
        ),
    )


async def lock(tx: CellTx, ids: Sequence[int]) -> dict[int, Transfer]:
    """Lock transfers in order of id; what does not exist is left out."""
    rows = await tx.fetch(
        """
        SELECT id, from_account_id, to_account_id, amount, asset, state, number, entry_out,
            entry_in, entry_back, created_at, actor, reason, trace_id
        FROM transfer WHERE id = ANY(%s) ORDER BY id FOR UPDATE
        """,
        (sorted(set(ids)),),
        Transfer,
    )
    return {row.id: row for row in rows}


async def take_requested(tx: CellTx, from_account_id: int, limit: int) -> list[Transfer]:
    """Lock due transfers out of an account, oldest first."""
    return await tx.fetch(
        """
        SELECT id, from_account_id, to_account_id, amount, asset, state, number, entry_out,
            entry_in, entry_back, created_at, actor, reason, trace_id
        FROM transfer WHERE state = 'requested' AND from_account_id = %s AND due_at <= %s
        ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED
        """,
        (from_account_id, tx.now, limit),
        Transfer,
    )


async def find(tx: CellRead, transfer_id: int) -> Transfer | None:
    """A transfer by id."""
    return await tx.maybe(
        """
        SELECT id, from_account_id, to_account_id, amount, asset, state, number, entry_out,
            entry_in, entry_back, created_at, actor, reason, trace_id
        FROM transfer WHERE id = %s
        """,
        (transfer_id,),
        Transfer,
    )


async def page(tx: CellRead, before_id: int | None, limit: int) -> list[Transfer]:
    """Transfers, newest first, those older than `before_id`."""
    return await tx.fetch(
        """
        SELECT id, from_account_id, to_account_id, amount, asset, state, number, entry_out,
            entry_in, entry_back, created_at, actor, reason, trace_id
        FROM transfer WHERE %s::bigint IS NULL OR id < %s ORDER BY id DESC LIMIT %s
        """,
        (before_id, before_id, limit),
        Transfer,
    )


@dataclass(frozen=True, slots=True)
class Change:
    """What a move writes."""

    id: int
    number: int
    source: str
    event: str
    target: str
    reason: str | None
    due_at: datetime | None


async def write(tx: CellTx, machine: str, changes: Sequence[Change]) -> None:
    """Record moves, oldest first, and the states that they end in."""
    first = tx.append(len(changes))
    await tx.execute(
        """
        INSERT INTO transfer_move (transfer_id, number, machine, source, event, target, actor,
            reason, commit_id, ordinal, moved_at)
        SELECT u.id, u.number, %s, u.source, u.event, u.target, %s, u.reason, %s, u.ordinal, %s
        FROM unnest(%s::bigint[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[],
            %s::int[]) AS u (id, number, source, event, target, reason, ordinal)
        """,
        (
            machine,
            tx.actor.name,
            tx.commit_id,
            tx.now,
            [c.id for c in changes],
            [c.number for c in changes],
            [c.source for c in changes],
            [c.event for c in changes],
            [c.target for c in changes],
            [c.reason for c in changes],
            list(range(first, first + len(changes))),
        ),
    )
    last = list({change.id: change for change in changes}.values())
    await tx.execute(
        """
        UPDATE transfer t SET state = u.state, number = u.number, due_at = u.due, lease_token = 0,
            version = t.version + 1
        FROM unnest(%s::bigint[], %s::text[], %s::int[], %s::timestamptz[])
            AS u (id, state, number, due)
        WHERE t.id = u.id
        """,
        (
            [c.id for c in last],
            [c.target for c in last],
            [c.number for c in last],
            [c.due_at for c in last],
        ),
    )


async def happened(tx: CellRead, transfer_id: int, event: str) -> bool:
    """Whether an event has ever moved this transfer."""
    found = await tx.value(
        "SELECT 1 FROM transfer_move WHERE transfer_id = %s AND event = %s LIMIT 1",
        (transfer_id, event),
    )
    return found is not None
