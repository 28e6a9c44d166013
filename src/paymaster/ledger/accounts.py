"""Taking the accounts of a batch: each locked once, all in the order of their names.

A small batch locks the rows and reads them. A large one writes the sums of what it asks for at
once, where they keep within floor and ceiling, and learns what stood there before: the same row is
not visited twice, which is what a large batch spends most of its time on. Whatever the decision
then finds to be otherwise (a duplicate, a refusal) is written over, account by account.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

from paymaster.db.tx import Asked, CellTx
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

_WIDE: Final = 2**62
"""So are those of accounts with more than this."""

State = tuple[int, int, int | None]


def _state(row: AccountRow) -> State:
    return row.balance, row.postings, row.last_posting_id


@dataclass(slots=True)
class Sums:
    """What a batch asks of an account; `last` is the id of its last posting there."""

    out: int = 0
    into: int = 0
    postings: int = 0
    last: int = 0

    def fit(self, row: AccountRow) -> bool:
        """Whether an account has room for all of it, in whatever order it comes."""
        return (
            not row.closed
            and -_WIDE <= row.balance <= _WIDE
            and (row.floor is None or row.balance - self.out >= row.floor)
            and (row.ceiling is None or row.balance + self.into <= row.ceiling)
        )


@dataclass(slots=True)
class Taken:
    """The locked accounts as they were, and for each what its row holds by now.

    Those in `new` have no row yet; when they are `complete` there are none. With `fits` no account
    can be the reason of a refusal: what is asked of each was summed up before, and there is room
    for all of it.
    """

    rows: dict[Account, AccountRow] = field(default_factory=dict[Account, AccountRow])
    written: dict[int, State] = field(default_factory=dict[int, State])
    new: list[AccountRow] = field(default_factory=list[AccountRow])
    asked: Mapping[Account, Sums] = field(default_factory=dict[Account, Sums])
    fits: bool = False
    complete: bool = False

    def changed(self) -> list[AccountRow]:
        """Accounts whose row is not as it has been decided."""
        written = self.written
        return [
            row
            for row in self.rows.values()
            if row.id in written and written[row.id] != _state(row)
        ]


@dataclass(frozen=True, slots=True)
class Taking:
    """Accounts whose lock was asked for; with their `sums` where those were written at once."""

    _wanted: Sequence[Account]
    _answer: Asked
    _sums: Sequence[Sums] | None = None

    @property
    def written(self) -> bool:
        """Whether the sums were written at once."""
        return self._sums is not None

    async def taken(self) -> Taken:
        """Those of them that exist."""
        taken, wanted, asked = Taken(), self._wanted, self._sums
        rows, states, fits = taken.rows, taken.written, asked is not None
        for (
            place,
            number,
            balance,
            floor,
            ceiling,
            count,
            last,
            closed,
            written,
        ) in await self._answer.rows():
            at = int(place) - 1
            account = wanted[at]
            row = AccountRow(number, account, balance, floor, ceiling, count, last, closed)
            rows[account] = row
            if asked is None:
                states[number] = balance, count, last
                continue
            sums = asked[at]
            states[number] = written, count + sums.postings, sums.last
            fits = fits and sums.fit(row)
        taken.fits, taken.complete = fits, len(rows) == len(wanted)
        if asked is not None and not taken.complete:
            taken.asked = dict(zip(wanted, asked, strict=True))
        return taken


def touched(entries: Sequence[Entry]) -> list[Account]:
    """The accounts of entries in the order in which everybody locks them."""
    return sorted({a for e in entries for p in e.postings for a in (p.source, p.destination)})


async def take(tx: CellTx, entries: Sequence[Entry], posting_ids: Sequence[int]) -> Taking:
    """Ask for a lock on every account that the entries touch."""
    wanted = touched(entries)
    if len(wanted) >= _MANY and tx.server_version >= _OLD_IN_RETURNING:
        sums = _sums(entries, posting_ids)
        if sums is not None:
            return await _apply(tx, wanted, [sums[account] for account in wanted])
    return await lock(tx, wanted)


def add_new(tx: CellTx, taken: Taken, entries: Sequence[Entry]) -> None:
    """Add accounts of these entries that do not exist; `open_new` must follow, for all of them.

    That they did not exist is part of what is decided, also where an entry is refused for it: when
    another transaction opens one meanwhile, opening it here fails, and the work is run again.
    """
    if taken.complete:
        return
    rows, nothing = taken.rows, Sums()
    missing = sorted(
        {
            account
            for entry in entries
            for posting in entry.postings
            for account in (posting.source, posting.destination)
            if account not in rows
        }
    )
    for account, number in zip(missing, tx.ids(len(missing)), strict=True):
        kind = KINDS[account.kind]
        row = AccountRow(number, account, 0, kind.floor, kind.ceiling, 0, None, closed=False)
        rows[account] = row
        taken.new.append(row)
        taken.fits = taken.fits and taken.asked.get(account, nothing).fit(row)


def _sums(entries: Sequence[Entry], posting_ids: Sequence[int]) -> dict[Account, Sums] | None:
    """What is asked of each account; None when that depends on what they hold."""
    found: dict[Account, Sums] = {}
    ids = iter(posting_ids)
    total = 0
    for entry in entries:
        for posting in entry.postings:
            if posting.mode is not Mode.EXACT:
                return None
            minor, number = posting.amount.minor, next(ids)
            source = found.get(posting.source)
            if source is None:
                source = found[posting.source] = Sums()
            source.out += minor
            source.postings += 1
            source.last = number
            destination = found.get(posting.destination)
            if destination is None:
                destination = found[posting.destination] = Sums()
            destination.into += minor
            destination.postings += 1
            destination.last = number
            total += minor
    return found if total < _LARGE else None


async def lock(tx: CellTx, wanted: Sequence[Account]) -> Taking:
    """Ask for a lock on accounts; `wanted` is sorted."""
    asked = await tx.ask(
        """
        SELECT w.place, a.id, a.balance, a.floor, a.ceiling, a.postings, a.last_posting_id,
            a.closed_at IS NOT NULL, a.balance
        FROM account a
        JOIN unnest(%s::text[], %s::bigint[], %s::text[]) WITH ORDINALITY
            AS w (kind, owner_id, asset, place)
            ON a.kind = w.kind AND a.owner_id = w.owner_id AND a.asset = w.asset
        ORDER BY w.place FOR NO KEY UPDATE OF a
        """,
        ([a.kind for a in wanted], [a.owner_id for a in wanted], [a.asset for a in wanted]),
    )
    return Taking(wanted, asked)


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
        a.closed_at IS NOT NULL, a.balance
    """
)


async def _apply(tx: CellTx, wanted: Sequence[Account], asked: Sequence[Sums]) -> Taking:
    """Write the sums; rows are visited in the order of `wanted`."""
    params = (
        [account.kind for account in wanted],
        [account.owner_id for account in wanted],
        [account.asset for account in wanted],
        [one.out for one in asked],
        [one.into for one in asked],
        [one.postings for one in asked],
        [one.last for one in asked],
    )
    return Taking(wanted, await tx.in_order(_APPLY, params), asked)


async def open_new(tx: CellTx, rows: Sequence[AccountRow]) -> None:
    """Write accounts that did not exist, as they are after the batch."""
    await tx.send(
        """
        INSERT INTO account (id, kind, owner_id, asset, scale, balance, floor, ceiling, postings,
            last_posting_id)
        SELECT * FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::smallint[],
            %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
        """,
        (
            [row.id for row in rows],
            [row.account.kind for row in rows],
            [row.account.owner_id for row in rows],
            [row.account.asset for row in rows],
            [exponent(row.account.asset) for row in rows],
            [row.balance for row in rows],
            [row.floor for row in rows],
            [row.ceiling for row in rows],
            [row.postings for row in rows],
            [row.last_posting_id for row in rows],
        ),
    )


async def update(tx: CellTx, rows: Sequence[AccountRow]) -> None:
    """Write the changed accounts back: one UPDATE per account and batch, whatever hit it."""
    await tx.send(
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
