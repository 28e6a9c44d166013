"""Taking the accounts of a batch: each locked once, all in the order of their names.

A small batch locks the rows and reads them. A large one writes the sums of what it asks for at
once, where they keep within floor and ceiling, and learns what stood there before: the same row is
not visited twice, which is what a large batch spends most of its time on. Whatever the decision
then finds to be otherwise (a duplicate, a refusal) is written over, account by account.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, LiteralString

from paymaster.db.tx import CellTx
from paymaster.kernel.money import exponent
from paymaster.ledger.chart import KINDS, Account
from paymaster.ledger.decide import AccountRow
from paymaster.ledger.entry import Entry, Mode

_MANY: Final = 64
"""Accounts from which on writing at once pays."""

_OLD_IN_RETURNING: Final = 180_000
"""The version of PostgreSQL that can return what a row was before."""

_LARGE: Final = 2**61
"""Sums beyond this could leave 64 bits on the way; they are decided first, as in a small batch."""

State = tuple[int, int, int | None]


def _state(row: AccountRow) -> State:
    return row.balance, row.postings, row.last_posting_id


@dataclass(frozen=True, slots=True)
class Taken:
    """The locked accounts as they were, and for each what its row holds by now."""

    rows: dict[Account, AccountRow] = field(default_factory=dict[Account, AccountRow])
    written: dict[int, State] = field(default_factory=dict[int, State])

    def add(self, row: AccountRow) -> None:
        """An account whose row was read."""
        self.rows[row.account] = row
        self.written[row.id] = _state(row)

    def changed(self) -> list[AccountRow]:
        """Accounts whose row is not as it has been decided."""
        return [row for row in self.rows.values() if self.written[row.id] != _state(row)]


@dataclass(slots=True)
class _Sums:
    """What a batch asks of an account; `last` is the id of its last posting there."""

    out: int = 0
    into: int = 0
    postings: int = 0
    last: int = 0


async def take(tx: CellTx, entries: Sequence[Entry], posting_ids: Sequence[int]) -> Taken:
    """Lock every account that the entries touch, opening those that do not exist yet."""
    wanted = sorted({a for e in entries for p in e.postings for a in (p.source, p.destination)})
    taken = Taken()
    sums = None
    if len(wanted) >= _MANY and tx.server_version >= _OLD_IN_RETURNING:
        sums = _sums(entries, posting_ids)
    if sums is None:
        await _lock(tx, taken, wanted)
    else:
        await _apply(tx, taken, [(account, sums[account]) for account in wanted])
    missing = [account for account in wanted if account not in taken.rows]
    if missing:
        await _open(tx, missing)
        await _lock(tx, taken, missing)
    return taken


def _sums(entries: Sequence[Entry], posting_ids: Sequence[int]) -> dict[Account, _Sums] | None:
    """What is asked of each account; None when that depends on what they hold."""
    found: dict[Account, _Sums] = {}
    ids = iter(posting_ids)
    total = 0
    for entry in entries:
        for posting in entry.postings:
            if posting.mode is not Mode.EXACT:
                return None
            minor, number = posting.amount.minor, next(ids)
            source = found.get(posting.source)
            if source is None:
                source = found[posting.source] = _Sums()
            source.out += minor
            source.postings += 1
            source.last = number
            destination = found.get(posting.destination)
            if destination is None:
                destination = found[posting.destination] = _Sums()
            destination.into += minor
            destination.postings += 1
            destination.last = number
            total += minor
    return found if total < _LARGE else None


async def _lock(tx: CellTx, taken: Taken, wanted: Sequence[Account]) -> None:
    rows = await tx.tuples(
        """
        SELECT w.place, a.id, a.balance, a.floor, a.ceiling, a.postings, a.last_posting_id,
            a.closed_at IS NOT NULL
        FROM account a
        JOIN unnest(%s::text[], %s::bigint[], %s::text[]) WITH ORDINALITY
            AS w (kind, owner_id, asset, place)
            ON a.kind = w.kind AND a.owner_id = w.owner_id AND a.asset = w.asset
        ORDER BY w.place FOR NO KEY UPDATE OF a
        """,
        ([a.kind for a in wanted], [a.owner_id for a in wanted], [a.asset for a in wanted]),
    )
    for place, number, balance, floor, ceiling, count, last, closed in rows:
        account = wanted[int(place) - 1]
        taken.add(AccountRow(number, account, balance, floor, ceiling, count, last, closed))


_FITS: LiteralString = """
    CASE WHEN a.closed_at IS NULL
        AND a.balance BETWEEN -4611686018427387904 AND 4611686018427387904
    THEN a.balance - u.outgoing >= coalesce(a.floor, -9223372036854775807)
        AND a.balance + u.incoming <= coalesce(a.ceiling, 9223372036854775807)
    ELSE false END
"""

_APPLY: LiteralString = (
    """
    UPDATE account a SET
        balance = a.balance + CASE WHEN """
    + _FITS
    + """ THEN u.incoming - u.outgoing ELSE 0 END,
        postings = a.postings + u.postings, last_posting_id = u.last
    FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[],
        %s::bigint[]) WITH ORDINALITY
        AS u (kind, owner_id, asset, outgoing, incoming, postings, last, place)
    WHERE a.kind = u.kind AND a.owner_id = u.owner_id AND a.asset = u.asset
    RETURNING u.place, a.id, old.balance, a.floor, a.ceiling, old.postings, old.last_posting_id,
        a.closed_at IS NOT NULL, a.balance, a.postings, a.last_posting_id
    """
)


async def _apply(tx: CellTx, taken: Taken, wanted: Sequence[tuple[Account, _Sums]]) -> None:
    """Write the sums; rows are visited in the order of `wanted`, through the index.

    Other plans would visit, and so lock, in the order of the table.
    """
    async with tx.pipeline():
        await _plan_freely(tx, "off")
        rows = await tx.tuples(
            _APPLY,
            (
                [account.kind for account, _ in wanted],
                [account.owner_id for account, _ in wanted],
                [account.asset for account, _ in wanted],
                [asked.out for _, asked in wanted],
                [asked.into for _, asked in wanted],
                [asked.postings for _, asked in wanted],
                [asked.last for _, asked in wanted],
            ),
        )
        await _plan_freely(tx, "on")
    for place, number, balance, floor, ceiling, count, last, closed, *written in rows:
        account = wanted[int(place) - 1][0]
        row = AccountRow(number, account, balance, floor, ceiling, count, last, closed)
        taken.rows[account] = row
        taken.written[number] = (written[0], written[1], written[2])


async def _plan_freely(tx: CellTx, free: Literal["on", "off"]) -> None:
    await tx.execute(
        "SELECT set_config(name, %s, true)"
        " FROM unnest('{enable_hashjoin,enable_mergejoin,enable_seqscan}'::text[]) AS name",
        (free,),
    )


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


async def update(tx: CellTx, rows: Sequence[AccountRow]) -> None:
    """Write the changed accounts back: one UPDATE per account and batch, whatever hit it."""
    await tx.execute(
        """
        UPDATE account a SET balance = u.b, postings = u.n, last_posting_id = u.p
        FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]) AS u (i, b, n, p)
        WHERE a.id = u.i
        """,
        columns(rows),
    )


def columns(rows: Sequence[AccountRow]) -> list[list[Any]]:
    """Ids, balances, numbers of postings and last postings."""
    return [
        [row.id for row in rows],
        [row.balance for row in rows],
        [row.postings for row in rows],
        [row.last_posting_id for row in rows],
    ]
