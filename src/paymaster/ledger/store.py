"""The SQL of the books. Private to the ledger; one statement a function.

Order of locks: accounts by id, then new accounts in the order of their names. Looking up what is
posted already is a statement of its own AFTER the locks, so that it sees what was committed while
this transaction waited (one statement for both gave wrong verdicts, measured).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from paymaster.db.tx import CellTx, ReadTx, json
from paymaster.kernel.money import exponent
from paymaster.ledger.chart import KINDS, Account


@dataclass(slots=True)
class AccountRow:
    """A locked account; `post` works on it in place and writes it back."""

    id: int
    kind: str
    owner_id: int
    asset: str
    balance: int
    floor: int | None
    ceiling: int | None
    postings: int
    last_posting_id: int | None
    last_day: date | None
    closed: bool


@dataclass(frozen=True, slots=True)
class EntryRow:
    """An entry to insert."""

    id: int
    ordinal: int
    kind: str
    recipe_version: int
    subject: str
    postings: int
    effective_at: datetime
    effective_day: date
    digest: bytes
    evidence: dict[str, Any]
    reverses_id: int | None


@dataclass(frozen=True, slots=True)
class PostingRow:
    """A posting to insert, with both accounts' history links."""

    id: int
    entry_id: int
    source_id: int
    destination_id: int
    amount: int
    asset: str
    requested: int
    source_previous: int | None
    source_number: int
    source_balance: int
    destination_previous: int | None
    destination_number: int
    destination_balance: int


@dataclass(frozen=True, slots=True)
class DayRow:
    """Where an account stood when a business day began for it."""

    account_id: int
    day: date
    opening_balance: int
    first_posting_id: int


async def lock_accounts(tx: CellTx, wanted: Sequence[Account]) -> dict[Account, AccountRow]:
    """Lock the accounts, opening those that do not exist yet."""
    found = await _lock(tx, wanted)
    missing = sorted(account for account in wanted if account not in found)
    if missing:
        await _open(tx, missing)
        found.update(await _lock(tx, missing))
    return found


async def _lock(tx: CellTx, wanted: Sequence[Account]) -> dict[Account, AccountRow]:
    rows = await tx.fetch(
        """
        SELECT a.id, a.kind, a.owner_id, a.asset, a.balance, a.floor, a.ceiling, a.postings,
            a.last_posting_id, a.last_day, a.closed_at IS NOT NULL AS closed
        FROM account a
        JOIN unnest(%s::text[], %s::bigint[], %s::text[]) AS w (kind, owner_id, asset)
            ON a.kind = w.kind AND a.owner_id = w.owner_id AND a.asset = w.asset
        ORDER BY a.id FOR UPDATE OF a
        """,
        ([a.kind for a in wanted], [a.owner_id for a in wanted], [a.asset for a in wanted]),
        AccountRow,
    )
    return {Account(row.kind, row.owner_id, row.asset): row for row in rows}


async def _open(tx: CellTx, missing: Sequence[Account]) -> None:
    kinds = [KINDS[account.kind] for account in missing]
    await tx.execute(
        """
        INSERT INTO account (id, kind, owner_id, asset, scale, balance, floor, ceiling, postings)
        SELECT i, k, o, s, e, 0, f, c, 0
        FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::smallint[],
            %s::bigint[], %s::bigint[]) AS u (i, k, o, s, e, f, c)
        ON CONFLICT (kind, owner_id, asset) DO NOTHING
        """,
        (
            tx.ids(len(missing)),
            [account.kind for account in missing],
            [account.owner_id for account in missing],
            [account.asset for account in missing],
            [exponent(account.asset) for account in missing],
            [kind.floor for kind in kinds],
            [kind.ceiling for kind in kinds],
        ),
    )


async def known_entries(tx: ReadTx, ids: Sequence[int]) -> dict[int, bytes]:
    """Digests of those ids that are in the books."""
    rows = await tx.tuples("SELECT id, digest FROM entry WHERE id = ANY(%s)", (list(ids),))
    return {row[0]: bytes(row[1]) for row in rows}


async def closed_through(tx: ReadTx) -> date | None:
    """The last business day that is closed."""
    return await tx.value("SELECT closed_through FROM head WHERE id = 1")


async def insert_entries(tx: CellTx, rows: Sequence[EntryRow]) -> None:
    """Write entries."""
    await tx.execute(
        """
        INSERT INTO entry (id, commit_id, ordinal, kind, recipe_version, subject, postings,
            effective_at, effective_day, digest, evidence, reverses_id, trace_id)
        SELECT i, %s, o, k, v, s, n, t, d, h, e, r, %s
        FROM unnest(%s::bigint[], %s::int[], %s::text[], %s::smallint[], %s::text[],
            %s::smallint[], %s::timestamptz[], %s::date[], %s::bytea[], %s::jsonb[], %s::bigint[])
            AS u (i, o, k, v, s, n, t, d, h, e, r)
        """,
        (
            tx.commit_id,
            tx.trace_id,
            [row.id for row in rows],
            [row.ordinal for row in rows],
            [row.kind for row in rows],
            [row.recipe_version for row in rows],
            [row.subject for row in rows],
            [row.postings for row in rows],
            [row.effective_at for row in rows],
            [row.effective_day for row in rows],
            [row.digest for row in rows],
            [json(row.evidence) for row in rows],
            [row.reverses_id for row in rows],
        ),
    )


async def insert_postings(tx: CellTx, rows: Sequence[PostingRow]) -> None:
    """Write postings."""
    await tx.execute(
        """
        INSERT INTO posting (id, entry_id, source_id, destination_id, amount, asset, requested,
            source_previous, source_number, source_balance, destination_previous,
            destination_number, destination_balance)
        SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
            %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
            %s::bigint[], %s::bigint[])
        """,
        (
            [row.id for row in rows],
            [row.entry_id for row in rows],
            [row.source_id for row in rows],
            [row.destination_id for row in rows],
            [row.amount for row in rows],
            [row.asset for row in rows],
            [row.requested for row in rows],
            [row.source_previous for row in rows],
            [row.source_number for row in rows],
            [row.source_balance for row in rows],
            [row.destination_previous for row in rows],
            [row.destination_number for row in rows],
            [row.destination_balance for row in rows],
        ),
    )


async def insert_days(tx: CellTx, rows: Sequence[DayRow]) -> None:
    """Write the openings of business days."""
    if not rows:
        return
    await tx.execute(
        """
        INSERT INTO account_day (account_id, day, opening_balance, first_posting_id)
        SELECT * FROM unnest(%s::bigint[], %s::date[], %s::bigint[], %s::bigint[])
        """,
        (
            [row.account_id for row in rows],
            [row.day for row in rows],
            [row.opening_balance for row in rows],
            [row.first_posting_id for row in rows],
        ),
    )


async def update_accounts(tx: CellTx, rows: Sequence[AccountRow]) -> None:
    """Write the changed accounts back: one UPDATE per account and batch, whatever hit it."""
    await tx.execute(
        """
        UPDATE account a SET balance = u.b, postings = u.n, last_posting_id = u.p, last_day = u.d
        FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::date[])
            AS u (i, b, n, p, d)
        WHERE a.id = u.i
        """,
        (
            [row.id for row in rows],
            [row.balance for row in rows],
            [row.postings for row in rows],
            [row.last_posting_id for row in rows],
            [row.last_day for row in rows],
        ),
    )


@dataclass(frozen=True, slots=True)
class HoldRow:
    """A hold as stored."""

    id: int
    amount: int
    remaining: int
    state: str


async def insert_holds(tx: CellTx, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write `(id, available, held, amount, reason, subject, expires_at)` as open holds."""
    columns = list(zip(*rows, strict=True))
    await tx.execute(
        """
        INSERT INTO hold (id, available_id, held_id, amount, remaining, state, reason, subject,
            created_at, expires_at, version)
        SELECT i, a, h, m, m, 'open', r, s, %s, x, 1
        FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[],
            %s::text[], %s::timestamptz[]) AS u (i, a, h, m, r, s, x)
        """,
        (tx.now, *(list(column) for column in columns)),
    )


async def lock_holds(tx: CellTx, ids: Sequence[int]) -> dict[int, HoldRow]:
    """Lock holds in order of id."""
    rows = await tx.fetch(
        "SELECT id, amount, remaining, state FROM hold WHERE id = ANY(%s) ORDER BY id FOR UPDATE",
        (list(ids),),
        HoldRow,
    )
    return {row.id: row for row in rows}


async def update_holds(tx: CellTx, rows: Sequence[tuple[int, int, str]]) -> None:
    """Write `(id, remaining, state)` of locked holds that are still open."""
    ids, remaining, states = zip(*rows, strict=True)
    await tx.execute(
        """
        UPDATE hold h SET remaining = u.r, state = u.s, version = h.version + 1
        FROM unnest(%s::bigint[], %s::bigint[], %s::text[]) AS u (i, r, s)
        WHERE h.id = u.i AND h.state = 'open'
        """,
        (list(ids), list(remaining), list(states)),
    )


async def find_account(tx: ReadTx, account: Account) -> AccountRow | None:
    """An account without locking it."""
    return await tx.maybe(
        "SELECT id, kind, owner_id, asset, balance, floor, ceiling, postings, last_posting_id,"
        " last_day, closed_at IS NOT NULL AS closed FROM account"
        " WHERE kind = %s AND owner_id = %s AND asset = %s",
        tuple(account),
        AccountRow,
    )
