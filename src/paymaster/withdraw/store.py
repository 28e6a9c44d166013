"""The SQL of withdrawals. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.errors import Broken
from paymaster.kernel.money import Money


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A row as it is locked and moved. Amounts are minor units of `asset`."""

    id: int
    user_id: int
    destination_id: int
    amount: int
    fee: int
    asset: str
    state: str
    number: int
    hold_id: int
    entry_release: int
    entry_paid: int
    entry_returned: int
    rail_account_id: int | None
    lease_token: int
    trace_id: str
    version: int

    @property
    def net(self) -> Money:
        """What the payee gets."""
        return Money(self.amount, self.asset)

    @property
    def fees(self) -> Money:
        """What the user pays for it on top."""
        return Money(self.fee, self.asset)

    @property
    def total(self) -> Money:
        """What is set aside: amount and fee."""
        return self.net + self.fees


async def lock(tx: CellTx, ids: Sequence[int]) -> dict[int, Withdrawal]:
    """Lock rows in order of id; what does not exist is left out."""
    rows = await tx.fetch(
        """
        SELECT id, user_id, destination_id, amount, fee, asset, state, number, hold_id,
            entry_release, entry_paid, entry_returned, rail_account_id, lease_token, trace_id,
            version
        FROM withdrawal WHERE id = ANY(%s) ORDER BY id FOR UPDATE
        """,
        (sorted(set(ids)),),
        Withdrawal,
    )
    return {row.id: row for row in rows}


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether user and destination of a withdrawal still stand."""

    id: int
    user_status: str
    destination_state: str


async def standing(tx: CellRead, ids: Sequence[int]) -> dict[int, Standing]:
    """The standing behind withdrawals, in a statement after their lock."""
    rows = await tx.fetch(
        """
        SELECT w.id, u.status AS user_status, d.state AS destination_state
        FROM withdrawal w JOIN app_user u ON u.id = w.user_id
            JOIN destination d ON d.id = w.destination_id
        WHERE w.id = ANY(%s)
        """,
        (list(ids),),
        Standing,
    )
    return {row.id: row for row in rows}


@dataclass(frozen=True, slots=True)
class Change:
    """What a move writes to a withdrawal that is locked at `version`."""

    id: int
    version: int
    number: int
    source: str
    event: str
    target: str
    reason: str | None
    rail_account_id: int | None
    due_at: datetime | None
    lease_token: int


async def write_states(tx: CellTx, changes: Sequence[Change]) -> None:
    """Write new states. Raises Broken when a row was not as it was locked."""
    touched = await tx.execute(
        """
        UPDATE withdrawal w SET state = u.state, number = u.number, reason = u.reason,
            rail_account_id = u.rail, due_at = u.due, lease_token = u.lease, tries = 0,
            version = w.version + 1
        FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::text[], %s::text[], %s::bigint[],
            %s::timestamptz[], %s::bigint[])
            AS u (id, version, number, state, reason, rail, due, lease)
        WHERE w.id = u.id AND w.version = u.version
        """,
        (
            [change.id for change in changes],
            [change.version for change in changes],
            [change.number for change in changes],
            [change.target for change in changes],
            [change.reason for change in changes],
            [change.rail_account_id for change in changes],
            [change.due_at for change in changes],
            [change.lease_token for change in changes],
        ),
    )
    if touched != len(changes):
        raise Broken("withdrawal-moved", "A locked withdrawal changed under its lock.")


async def write_moves(tx: CellTx, machine: str, changes: Sequence[Change]) -> None:
    """Record moves; the database refuses one that is not in `legal_move`."""
    first = tx.append(len(changes))
    await tx.execute(
        """
        INSERT INTO withdrawal_move (withdrawal_id, number, machine, source, event, target, actor,
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
            [change.id for change in changes],
            [change.number for change in changes],
            [change.source for change in changes],
            [change.event for change in changes],
            [change.target for change in changes],
            [change.reason for change in changes],
            list(range(first, first + len(changes))),
        ),
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request must know of its user and destination; None where there is none such."""

    user_status: str | None
    currency: str | None
    state: str | None
    usable_at: datetime | None


async def asked(
    tx: CellRead, user_ids: Sequence[int], destination_ids: Sequence[int]
) -> list[Asked]:
    """For each pair, in order: the user, and the destination if it is that user's."""
    return await tx.fetch(
        """
        SELECT u.status AS user_status, d.currency, d.state, d.usable_at
        FROM unnest(%s::bigint[], %s::bigint[])
                WITH ORDINALITY AS n (user_id, destination_id, place)
            LEFT JOIN app_user u ON u.id = n.user_id
            LEFT JOIN destination d ON d.id = n.destination_id AND d.user_id = n.user_id
        ORDER BY n.place
        """,
        (list(user_ids), list(destination_ids)),
        Asked,
    )


@dataclass(frozen=True, slots=True)
class NewRow:
    """A withdrawal to insert, with the ids that all its entries will have."""

    id: int
    user_id: int
    destination_id: int
    amount: int
    fee: int
    asset: str
    hold_id: int
    entry_request: int
    entry_release: int
    entry_paid: int
    entry_returned: int


async def insert(tx: CellTx, state: str, rows: Sequence[NewRow]) -> None:
    """Insert withdrawals in their first state, due at once."""
    await tx.execute(
        """
        INSERT INTO withdrawal (id, user_id, destination_id, amount, fee, asset, hold_id,
            entry_request, entry_release, entry_paid, entry_returned, state, number, due_at, tries,
            lease_token, requested_at, trace_id, version)
        SELECT u.*, %s, 0, %s, 0, 0, %s, %s, 1
        FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
            %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]) AS u
        """,
        (
            state,
            tx.now,
            tx.now,
            tx.trace_id,
            [row.id for row in rows],
            [row.user_id for row in rows],
            [row.destination_id for row in rows],
            [row.amount for row in rows],
            [row.fee for row in rows],
            [row.asset for row in rows],
            [row.hold_id for row in rows],
            [row.entry_request for row in rows],
            [row.entry_release for row in rows],
            [row.entry_paid for row in rows],
            [row.entry_returned for row in rows],
        ),
    )


async def owner(tx: CellRead, withdrawal_id: int) -> int | None:
    """The user whose withdrawal it is."""
    return await tx.value("SELECT user_id FROM withdrawal WHERE id = %s", (withdrawal_id,))
