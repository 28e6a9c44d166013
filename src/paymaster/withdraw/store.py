"""The SQL of withdrawals. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple

from paymaster.db import copying
from paymaster.db.tx import Asked, CellRead, CellTx
from paymaster.kernel.errors import Broken
from paymaster.kernel.money import Money


class Withdrawal(NamedTuple):
    """A row as it is locked and moved. Amounts are minor units of `asset`.

    A tuple and not a dataclass, as every row of every batch is read into one.
    """

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
    tries: int
    payout_amount: int
    payout_asset: str
    fee_back: bool
    quote_id: int | None
    rate: str | None

    @property
    def net(self) -> Money:
        """What the payee gets, in the currency in which it leaves."""
        return Money(self.payout_amount, self.payout_asset)

    @property
    def given(self) -> Money:
        """What the user gives for that, without the fee."""
        return Money(self.amount, self.asset)

    @property
    def fees(self) -> Money:
        """What is kept for it, set aside beside the amount."""
        return Money(self.fee, self.asset)

    @property
    def total(self) -> Money:
        """What is set aside: amount and fee."""
        return Money(self.amount + self.fee, self.asset)


async def lock(tx: CellTx, ids: Sequence[int]) -> dict[int, Withdrawal]:
    """Lock rows in order of id; what does not exist is left out."""
    rows = await tx.tuples(
        """
        SELECT id, user_id, destination_id, amount, fee, asset, state, number, hold_id,
            entry_release, entry_paid, entry_returned, rail_account_id, lease_token, trace_id,
            version, tries, payout_amount, payout_asset, fee_back, quote_id, rate
        FROM withdrawal WHERE id = ANY(%s) ORDER BY id FOR UPDATE
        """,
        (sorted(set(ids)),),
    )
    return {row[0]: Withdrawal._make(row) for row in rows}


async def take_due(tx: CellTx, state: str, limit: int) -> list[Withdrawal]:
    """Lock due rows of one state, oldest first; those that others hold are left to them."""
    rows = await tx.tuples(
        """
        SELECT id, user_id, destination_id, amount, fee, asset, state, number, hold_id,
            entry_release, entry_paid, entry_returned, rail_account_id, lease_token, trace_id,
            version, tries, payout_amount, payout_asset, fee_back, quote_id, rate
        FROM withdrawal WHERE state = %s AND due_at <= %s
        ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED
        """,
        (state, tx.now, limit),
    )
    return [Withdrawal._make(row) for row in rows]


async def take_queued(tx: CellTx, rail_account_id: int, limit: int) -> list[Withdrawal]:
    """Lock due rows that wait for a rail account, oldest first."""
    rows = await tx.tuples(
        """
        SELECT id, user_id, destination_id, amount, fee, asset, state, number, hold_id,
            entry_release, entry_paid, entry_returned, rail_account_id, lease_token, trace_id,
            version, tries, payout_amount, payout_asset, fee_back, quote_id, rate
        FROM withdrawal WHERE state = 'queued' AND rail_account_id = %s AND due_at <= %s
        ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED
        """,
        (rail_account_id, tx.now, limit),
    )
    return [Withdrawal._make(row) for row in rows]


async def waits(tx: CellRead, rail_account_id: int) -> bool:
    """Whether any due row waits for a rail account."""
    return bool(
        await tx.value(
            "SELECT EXISTS (SELECT FROM withdrawal"
            " WHERE state = 'queued' AND rail_account_id = %s AND due_at <= %s)",
            (rail_account_id, tx.now),
        )
    )


class Change(NamedTuple):
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
    """Write new states. Raises Broken when a row was not as it was locked.

    The ids stand there twice so that the rows are looked up, however small the table is guessed.
    """
    touched = await tx.execute(
        """
        UPDATE withdrawal w SET state = u.state, number = u.number, reason = u.reason,
            rail_account_id = u.rail, due_at = u.due, lease_token = u.lease, tries = 0,
            version = w.version + 1
        FROM unnest(%(ids)s::bigint[], %(versions)s::int[], %(numbers)s::int[], %(states)s::text[],
            %(reasons)s::text[], %(rails)s::bigint[], %(dues)s::timestamptz[], %(leases)s::bigint[])
            AS u (id, version, number, state, reason, rail, due, lease)
        WHERE w.id = ANY(%(ids)s::bigint[]) AND w.id = u.id AND w.version = u.version
        """,
        {
            "ids": [change.id for change in changes],
            "versions": [change.version for change in changes],
            "numbers": [change.number for change in changes],
            "states": [change.target for change in changes],
            "reasons": [change.reason for change in changes],
            "rails": [change.rail_account_id for change in changes],
            "dues": [change.due_at for change in changes],
            "leases": [change.lease_token for change in changes],
        },
    )
    if touched != len(changes):
        raise Broken("withdrawal-moved", "A locked withdrawal changed under its lock.")


async def write_moves(tx: CellTx, machine: str, changes: Sequence[Change]) -> None:
    """Record moves; the database refuses one that is not in `legal_move`."""
    first = tx.append(len(changes))
    same = f"{copying.text(tx.actor.name)}\t{tx.commit_id}\t{tx.now.isoformat()}\n"
    await tx.copy(
        "COPY withdrawal_move (withdrawal_id, number, source, event, target, ordinal, reason,"
        " machine, actor, commit_id, moved_at) FROM STDIN",
        [
            f"{change.id}\t{change.number}\t{change.source}\t{change.event}\t{change.target}\t"
            f"{ordinal}\t{copying.NULL if change.reason is None else copying.text(change.reason)}\t"
            f"{machine}\t{same}"
            for ordinal, change in enumerate(changes, first)
        ],
    )


_PAYABLE_AT: LiteralString = """
    CASE WHEN t.id IS NULL OR EXISTS (
        SELECT FROM withdrawal w WHERE w.user_id = n.user_id AND w.state = 'paid'
    ) THEN NULL ELSE t.seconds * interval '1 second' + CASE t.since
        WHEN 'registration' THEN u.created_at
        ELSE timestamptz '2025-01-01T00:00:00Z' + interval '1 millisecond' * (
            SELECT min(e.id) >> 22 FROM account e
            WHERE e.kind IN ('available', 'vesting') AND e.owner_id = n.user_id)
        END END
"""
"""When a first payout may be asked for. The id of a user's oldest account tells when the first
reward was credited (`kernel.ids`)."""


class Facts(NamedTuple):
    """What a request must know of its user and destination; None where there is none such.

    `kind` is the destination's, `owes` whether the user owes something in the currency that is
    asked for; `held` whether the user or a destination of the same account details is under a
    regulatory hold. `payable_at` is when the first withdrawal may be asked for, as long as none was
    paid.
    """

    user_status: str | None
    currency: str | None
    state: str | None
    usable_at: datetime | None
    owes: bool
    held: bool
    kind: str | None
    payable_at: datetime | None


async def ask_facts(
    tx: CellRead, user_ids: Sequence[int], destination_ids: Sequence[int], assets: Sequence[str]
) -> Asked:
    """Ask, for each of these in order, for the user and the destination if it is that user's.

    The destination is locked as the foreign key of the withdrawal will lock it anyway: it is closed
    either before, which is seen here, or after, which finds the withdrawal.
    """
    return await tx.ask(
        """
        SELECT u.status, d.currency, d.state, d.usable_at, coalesce(a.balance < 0, false),
            EXISTS (SELECT FROM legal_hold h WHERE h.lifted_at IS NULL AND h.subject_id = n.user_id)
            OR EXISTS (SELECT FROM destination o
                JOIN destination s ON s.fingerprint = o.fingerprint
                JOIN legal_hold h ON h.subject_id = s.id AND h.lifted_at IS NULL
                WHERE o.id = n.destination_id), d.kind, """
        + _PAYABLE_AT
        + """
        FROM unnest(%s::bigint[], %s::bigint[], %s::text[])
                WITH ORDINALITY AS n (user_id, destination_id, asset, place)
            LEFT JOIN app_user u ON u.id = n.user_id
            LEFT JOIN payout_wait t ON t.seconds > 0
            LEFT JOIN LATERAL (
                SELECT currency, state, usable_at, kind FROM destination
                WHERE id = n.destination_id AND user_id = n.user_id FOR KEY SHARE
            ) AS d ON true
            LEFT JOIN account a
                ON a.kind = 'debt' AND a.owner_id = n.user_id AND a.asset = n.asset
        ORDER BY n.place
        """,
        (list(user_ids), list(destination_ids), list(assets)),
    )


async def facts(asked: Asked) -> list[Facts]:
    """What `ask_facts` has asked for."""
    return list(map(Facts._make, await asked.rows()))


async def facts_of(tx: CellRead, user_id: int, destination_id: int, asset: str) -> Facts:
    """The same for one, to be shown: nothing is locked."""
    [row] = await tx.tuples(
        """
        SELECT u.status, d.currency, d.state, d.usable_at, coalesce(a.balance < 0, false),
            EXISTS (SELECT FROM legal_hold h WHERE h.lifted_at IS NULL AND h.subject_id = n.user_id)
            OR EXISTS (SELECT FROM destination o
                JOIN destination s ON s.fingerprint = o.fingerprint
                JOIN legal_hold h ON h.subject_id = s.id AND h.lifted_at IS NULL
                WHERE o.id = n.destination_id), d.kind, """
        + _PAYABLE_AT
        + """
        FROM (VALUES (%s::bigint, %s::bigint, %s::text)) AS n (user_id, destination_id, asset)
            LEFT JOIN app_user u ON u.id = n.user_id
            LEFT JOIN payout_wait t ON t.seconds > 0
            LEFT JOIN destination d ON d.id = n.destination_id AND d.user_id = n.user_id
            LEFT JOIN account a
                ON a.kind = 'debt' AND a.owner_id = n.user_id AND a.asset = n.asset
        """,
        (user_id, destination_id, asset),
    )
    return Facts._make(row)


class NewRow(NamedTuple):
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
    trace_id: str
    payout_amount: int
    payout_asset: str
    fee_payer: str = "sender"
    fee_back: bool = False
    fee_plan: str | None = None
    quote_id: int | None = None
    rate: str | None = None


async def insert(tx: CellTx, state: str, rows: Sequence[NewRow]) -> None:
    """Insert withdrawals in their first state, due at once."""
    columns = list(map(list, zip(*rows, strict=True)))
    plain = columns[3] == columns[12] and columns[5] == columns[13]
    if plain and not any(map(any, columns[15:])) and set(columns[14]) == {"sender"}:
        await _insert_plain(tx, state, columns[:12])
        return
    await tx.send(
        """
        INSERT INTO withdrawal (id, user_id, destination_id, amount, fee, asset, hold_id,
            entry_request, entry_release, entry_paid, entry_returned, state, number, due_at, tries,
            lease_token, requested_at, trace_id, version, payout_amount, payout_asset, fee_payer,
            fee_back, fee_plan, quote_id, rate)
        SELECT i, u, d, m, f, a, h, e1, e2, e3, e4, %s, 0, %s, 0, 0, %s, t, 1, pm, pa, fp, fb, fn,
            q, r
        FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
            %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
            %s::text[], %s::bigint[], %s::text[], %s::text[], %s::boolean[], %s::text[],
            %s::bigint[], %s::text[])
            AS n (i, u, d, m, f, a, h, e1, e2, e3, e4, t, pm, pa, fp, fb, fn, q, r)
        """,
        (state, tx.now, tx.now, *columns),
    )


async def _insert_plain(tx: CellTx, state: str, columns: Sequence[Sequence[object]]) -> None:
    """Those that nothing but their amount is to be said of, which most are."""
    await tx.send(
        """
        INSERT INTO withdrawal (id, user_id, destination_id, amount, fee, asset, hold_id,
            entry_request, entry_release, entry_paid, entry_returned, state, number, due_at, tries,
            lease_token, requested_at, trace_id, version, payout_amount, payout_asset, fee_payer,
            fee_back)
        SELECT i, u, d, m, f, a, h, e1, e2, e3, e4, %s, 0, %s, 0, 0, %s, t, 1, m, a, 'sender', false
        FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
            %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
            %s::text[]) AS n (i, u, d, m, f, a, h, e1, e2, e3, e4, t)
        """,
        (state, tx.now, tx.now, *columns),
    )


async def owner(tx: CellRead, withdrawal_id: int) -> int | None:
    """The user whose withdrawal it is."""
    return await tx.value("SELECT user_id FROM withdrawal WHERE id = %s", (withdrawal_id,))
