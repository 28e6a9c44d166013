"""The SQL on statements and their lines. One statement a function, batches throughout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from paymaster.db.tx import CellTx, ReadTx
from paymaster.kernel.money import Money


@dataclass(frozen=True, slots=True)
class StatementRow:
    """A stored statement, as far as its neighbours in time need it."""

    id: int
    statement_id: str
    day: date
    opening: int
    closing: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class LineRow:
    """A line as it is worked on. `reference` is a person's correction where there is one."""

    id: int
    statement_id: int
    rail_account_id: int
    line_id: str
    kind: str
    amount: int
    fee: int
    asset: str
    booked_on: date
    reference: str | None
    code: str | None
    sealed: bytes | None
    state: str
    posted_id: int | None
    accepted: bool
    entry_id: int
    entry_fee: int
    day: date

    @property
    def money(self) -> Money:
        """The amount, signed: positive came in."""
        return Money(self.amount, self.asset)

    @property
    def suspended(self) -> bool:
        """Whether it lies in suspense."""
        return self.posted_id is not None and self.state != "matched"


@dataclass(frozen=True, slots=True)
class NewLine:
    """A line to insert."""

    line_id: str
    kind: str
    amount: int
    fee: int
    booked_on: date
    reference: str | None
    code: str | None
    sealed: bytes | None


@dataclass(frozen=True, slots=True)
class Concluded:
    """What became of a line; `posted_id` is the entry that moved the cash."""

    line_id: int
    state: str
    posted_id: int
    matched: str | None


async def lock_account(tx: CellTx, rail_account_id: int) -> None:
    """One transaction at a time stores statements of an account: its oldest file is the lock."""
    await tx.tuples(
        "SELECT id FROM rail_file WHERE rail_account_id = %s ORDER BY id LIMIT 1 FOR UPDATE",
        (rail_account_id,),
    )


async def find_statement(
    tx: ReadTx, rail_account_id: int, statement_id: str
) -> StatementRow | None:
    """The statement that the provider calls so."""
    return await tx.maybe(
        "SELECT id, statement_id, day, opening, closing, digest FROM statement"
        " WHERE rail_account_id = %s AND statement_id = %s",
        (rail_account_id, statement_id),
        StatementRow,
    )


async def first(tx: ReadTx, rail_account_id: int) -> StatementRow | None:
    """The statement with which the account's books begin."""
    return await tx.maybe(
        "SELECT id, statement_id, day, opening, closing, digest FROM statement"
        " WHERE rail_account_id = %s ORDER BY day, id LIMIT 1",
        (rail_account_id,),
        StatementRow,
    )


async def last_until(tx: ReadTx, rail_account_id: int, day: date) -> StatementRow | None:
    """The last statement up to a day: one that restates another is the later of the two."""
    return await tx.maybe(
        """
        SELECT id, statement_id, day, opening, closing, digest FROM statement s
        WHERE rail_account_id = %s AND day <= %s
        ORDER BY day DESC, id DESC LIMIT 1
        """,
        (rail_account_id, day),
        StatementRow,
    )


async def next_after(tx: ReadTx, rail_account_id: int, day: date) -> StatementRow | None:
    """The first statement of a later day."""
    return await tx.maybe(
        "SELECT id, statement_id, day, opening, closing, digest FROM statement"
        " WHERE rail_account_id = %s AND day > %s ORDER BY day, id LIMIT 1",
        (rail_account_id, day),
        StatementRow,
    )


@dataclass(frozen=True, slots=True)
class Gap:
    """Where a statement does not begin where the one before it, of an earlier day, ended."""

    rail_account_id: int
    asset: str
    day: date
    opening: int
    file_id: int
    closing: int


async def find_gap(tx: ReadTx, statement: int) -> Gap | None:
    """The gap before a statement: its own day and opening, the closing before it."""
    return await tx.maybe(
        """
        SELECT s.rail_account_id, s.asset, s.day, s.opening, s.file_id, before.closing
        FROM statement s CROSS JOIN LATERAL (
            SELECT day, closing FROM statement
            WHERE rail_account_id = s.rail_account_id AND (day, id) < (s.day, s.id)
            ORDER BY day DESC, id DESC LIMIT 1
        ) AS before
        WHERE s.id = %s AND before.day < s.day AND before.closing <> s.opening
        """,
        (statement,),
        Gap,
    )


@dataclass(frozen=True, slots=True)
class NewStatement:
    """A statement to insert; `lines` counts those that it adds."""

    id: int
    rail_account_id: int
    statement_id: str
    day: date
    opening: int
    closing: int
    asset: str
    lines: int
    digest: bytes
    restates_id: int | None
    file_id: int
    entry_opening: int


async def insert_statement(tx: CellTx, row: NewStatement) -> None:
    """Write a statement."""
    await tx.execute(
        """
        INSERT INTO statement (id, rail_account_id, statement_id, day, opening, closing, asset,
            lines, digest, restates_id, file_id, entry_opening, received_at, commit_id, ordinal)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            row.id,
            row.rail_account_id,
            row.statement_id,
            row.day,
            row.opening,
            row.closing,
            row.asset,
            row.lines,
            row.digest,
            row.restates_id,
            row.file_id,
            row.entry_opening,
            tx.now,
            tx.commit_id,
            tx.append(),
        ),
    )


async def insert_lines(
    tx: CellTx, statement: int, rail_account_id: int, asset: str, lines: Sequence[NewLine]
) -> None:
    """Write lines, open and due at once, each with the ids of the entries it may post."""
    count = len(lines)
    await tx.execute(
        """
        INSERT INTO statement_line (id, statement_id, rail_account_id, line_id, kind, amount, fee,
            asset, booked_on, reference, code, sealed, state, accepted, entry_id, entry_fee,
            due_at, version)
        SELECT i, %s, %s, l, k, a, f, %s, b, r, c, s, 'open', false, e, g, %s, 1
        FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::date[],
            %s::text[], %s::text[], %s::bytea[], %s::bigint[], %s::bigint[])
            AS u (i, l, k, a, f, b, r, c, s, e, g)
        """,
        (
            statement,
            rail_account_id,
            asset,
            tx.now,
            tx.ids(count),
            [line.line_id for line in lines],
            [line.kind for line in lines],
            [line.amount for line in lines],
            [line.fee for line in lines],
            [line.booked_on for line in lines],
            [line.reference for line in lines],
            [line.code for line in lines],
            [line.sealed for line in lines],
            tx.ids(count),
            tx.ids(count),
        ),
    )


async def known_lines(
    tx: ReadTx, rail_account_id: int, line_ids: Sequence[str]
) -> dict[str, tuple[Any, ...]]:
    """What is stored under these names: the statement's day, then what `content` makes of it."""
    rows = await tx.tuples(
        """
        SELECT l.line_id, s.day, l.kind, l.amount, l.fee, l.booked_on, l.reference, l.code
        FROM statement_line l JOIN statement s ON s.id = l.statement_id
        WHERE l.rail_account_id = %s AND l.line_id = ANY(%s)
        """,
        (rail_account_id, list(line_ids)),
    )
    return {row[0]: row[1:] for row in rows}


async def count_lines(tx: ReadTx, rail_account_id: int, day: date) -> int:
    """How many lines the statements of a day brought."""
    return await tx.value(
        "SELECT coalesce(sum(lines), 0)::bigint FROM statement"
        " WHERE rail_account_id = %s AND day = %s",
        (rail_account_id, day),
    )


async def claim_due(tx: CellTx, limit: int) -> list[LineRow]:
    """Lines that want a decision, locked until the end of this transaction, oldest first."""
    return await tx.fetch(
        """
        WITH due AS (
            SELECT id FROM statement_line WHERE due_at <= %s
            ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED
        )
        SELECT l.id, l.statement_id, l.rail_account_id, l.line_id, l.kind, l.amount, l.fee, l.asset,
            l.booked_on, coalesce(l.given_reference, l.reference) AS reference, l.code, l.sealed,
            l.state, l.posted_id, l.accepted, l.entry_id, l.entry_fee, s.day
        FROM due JOIN statement_line l ON l.id = due.id JOIN statement s ON s.id = l.statement_id
        ORDER BY l.id
        """,
        (tx.now, limit),
        LineRow,
    )


async def lock_lines(tx: CellTx, ids: Sequence[int]) -> list[LineRow]:
    """Lock lines in order of id."""
    return await tx.fetch(
        """
        SELECT l.id, l.statement_id, l.rail_account_id, l.line_id, l.kind, l.amount, l.fee, l.asset,
            l.booked_on, coalesce(l.given_reference, l.reference) AS reference, l.code, l.sealed,
            l.state, l.posted_id, l.accepted, l.entry_id, l.entry_fee, s.day
        FROM statement_line l JOIN statement s ON s.id = l.statement_id
        WHERE l.id = ANY(%s) ORDER BY l.id FOR UPDATE OF l
        """,
        (list(ids),),
        LineRow,
    )


async def mark_asked(tx: CellTx, ids: Sequence[int]) -> None:
    """The payouts' cells were asked about these lines."""
    await tx.execute(
        "UPDATE statement_line SET state = 'asked', due_at = NULL, version = version + 1"
        " WHERE id = ANY(%s)",
        (list(ids),),
    )


async def mark_concluded(tx: CellTx, rows: Sequence[Concluded]) -> None:
    """Write what became of lines."""
    await tx.execute(
        """
        UPDATE statement_line l SET state = u.s, posted_id = u.p, matched = u.m, due_at = NULL,
            version = l.version + 1
        FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::text[]) AS u (i, s, p, m)
        WHERE l.id = u.i
        """,
        (
            [row.line_id for row in rows],
            [row.state for row in rows],
            [row.posted_id for row in rows],
            [row.matched for row in rows],
        ),
    )


async def mark_retry(tx: CellTx, line_id: int, reference: str | None, *, accepted: bool) -> None:
    """Let the matching look at a line again, with a person's correction."""
    await tx.execute(
        "UPDATE statement_line SET due_at = %s, given_reference = coalesce(%s, given_reference),"
        " accepted = %s, version = version + 1 WHERE id = %s",
        (tx.now, reference, accepted, line_id),
    )


async def wake(tx: CellTx, rail_account_id: int, reference: str, but: int) -> None:
    """Let the matching look again at lines in doubt of a reference, all `but` one."""
    await tx.execute(
        "UPDATE statement_line SET due_at = %s, version = version + 1"
        " WHERE rail_account_id = %s AND state = 'break' AND reference = %s AND id <> %s",
        (tx.now, rail_account_id, reference, but),
    )
