"""The SQL of withdrawals. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, LiteralString

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
            entry_release, entry_paid, entry_returned, rail_account_id, lease_token, version
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
class Destination:
    """What a request must know of a destination."""

    id: int
    user_id: int
    currency: str
    state: str
    usable_at: datetime


async def destinations(tx: CellRead, ids: Sequence[int]) -> dict[int, Destination]:
    """Destinations by id."""
    rows = await tx.fetch(
        "SELECT id, user_id, currency, state, usable_at FROM destination WHERE id = ANY(%s)",
        (list(ids),),
        Destination,
    )
    return {row.id: row for row in rows}


async def user_statuses(tx: CellRead, ids: Sequence[int]) -> dict[int, str]:
    """The status of each user who exists."""
    rows = await tx.tuples("SELECT id, status FROM app_user WHERE id = ANY(%s)", (list(ids),))
    return dict(rows)


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


@dataclass(frozen=True, slots=True)
class Shown:
    """A withdrawal with what people are shown beside it."""

    id: int
    user_id: int
    external_id: str
    destination_id: int
    destination_kind: str
    mask: str
    amount: int
    fee: int
    asset: str
    state: str
    reason: str | None
    rail_account_id: int | None
    requested_at: datetime
    trace_id: str
    version: int


_SHOWN: LiteralString = """
    SELECT w.id, w.user_id, u.external_id, w.destination_id, d.kind AS destination_kind, d.mask,
        w.amount, w.fee, w.asset, w.state, w.reason, w.rail_account_id, w.requested_at, w.trace_id,
        w.version
    FROM withdrawal w JOIN app_user u ON u.id = w.user_id
        JOIN destination d ON d.id = w.destination_id
"""


async def shown(tx: CellRead, ids: Sequence[int]) -> list[Shown]:
    """Withdrawals by id, newest first."""
    return await tx.fetch(_SHOWN + "WHERE w.id = ANY(%s) ORDER BY w.id DESC", (list(ids),), Shown)


async def shown_of_user(tx: CellRead, user_id: int, below: int, limit: int) -> list[Shown]:
    """A user's withdrawals with ids below a bound, newest first."""
    return await tx.fetch(
        _SHOWN + "WHERE w.user_id = %s AND w.id < %s ORDER BY w.id DESC LIMIT %s",
        (user_id, below, limit),
        Shown,
    )


async def shown_in_state(tx: CellRead, state: str, below: int, limit: int) -> list[Shown]:
    """The withdrawals in a state with ids below a bound, newest first."""
    return await tx.fetch(
        _SHOWN + "WHERE w.state = %s AND w.id < %s ORDER BY w.id DESC LIMIT %s",
        (state, below, limit),
        Shown,
    )


async def shown_all(tx: CellRead, below: int, limit: int) -> list[Shown]:
    """All withdrawals with ids below a bound, newest first."""
    return await tx.fetch(_SHOWN + "WHERE w.id < %s ORDER BY w.id DESC LIMIT %s", (below, limit), Shown)


async def count_by_state(tx: CellRead) -> dict[str, int]:
    """How many withdrawals are in each state that has some."""
    return dict(await tx.tuples("SELECT state, count(*) FROM withdrawal GROUP BY state"))


@dataclass(frozen=True, slots=True)
class MoveRow:
    """A move as it was recorded."""

    number: int
    source: str
    event: str
    target: str
    actor: str
    reason: str | None
    moved_at: datetime
    seq: int
    trace_id: str


async def moves(tx: CellRead, withdrawal_id: int) -> list[MoveRow]:
    """The moves of a withdrawal, oldest first."""
    return await tx.fetch(
        """
        SELECT m.number, m.source, m.event, m.target, m.actor, m.reason, m.moved_at,
            c.first_seq + m.ordinal AS seq, c.trace_id
        FROM withdrawal_move m JOIN commit c ON c.id = m.commit_id
        WHERE m.withdrawal_id = %s ORDER BY m.number
        """,
        (withdrawal_id,),
        MoveRow,
    )


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An order to a provider."""

    id: int
    number: int
    rail_account_id: int
    key: str
    batch_key: str
    state: str
    provider_id: str | None
    code: str | None
    detail: str | None
    tries: int
    created_at: datetime
    resolved_at: datetime | None
    booked_on: date | None
    returned_on: date | None


async def attempts(tx: CellRead, withdrawal_id: int) -> list[AttemptRow]:
    """The attempts to pay a withdrawal, oldest first."""
    return await tx.fetch(
        """
        SELECT a.id, a.number, a.rail_account_id, a.key, b.batch_key, a.state, a.provider_id,
            a.code, a.detail, a.tries, a.created_at, a.resolved_at, a.booked_on, a.returned_on
        FROM attempt a JOIN batch b ON b.id = a.batch_id
        WHERE a.withdrawal_id = %s ORDER BY a.number
        """,
        (withdrawal_id,),
        AttemptRow,
    )


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """What screening said; `reasons` as stored."""

    id: int
    rule_set_version: int
    outcome: str
    reasons: list[dict[str, Any]]
    decided_at: datetime


async def verdicts(tx: CellRead, withdrawal_id: int) -> list[VerdictRow]:
    """The verdicts on a withdrawal, oldest first."""
    return await tx.fetch(
        "SELECT id, rule_set_version, outcome, reasons, decided_at FROM verdict"
        " WHERE withdrawal_id = %s ORDER BY id",
        (withdrawal_id,),
        VerdictRow,
    )


@dataclass(frozen=True, slots=True)
class EntryRow:
    """An entry in the books made for a withdrawal."""

    id: int
    kind: str
    effective_at: datetime
    amount: int


async def entries(tx: CellRead, withdrawal_id: int) -> list[EntryRow]:
    """The entries of a withdrawal in the order in which they were made."""
    return await tx.fetch(
        """
        SELECT e.id, e.kind, e.effective_at, sum(p.amount)::bigint AS amount
        FROM withdrawal w JOIN entry e
            ON e.id IN (w.entry_request, w.entry_release, w.entry_paid, w.entry_returned)
            JOIN posting p ON p.entry_id = e.id
            JOIN commit c ON c.id = e.commit_id
        WHERE w.id = %s GROUP BY e.id, c.first_seq, e.ordinal ORDER BY c.first_seq + e.ordinal
        """,
        (withdrawal_id,),
        EntryRow,
    )
