"""The SQL of runs: a day's balances and counts, each set from one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from paymaster.db.tx import CellTx, ReadTx


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where an account's statements of a day began and ended, minor units."""

    opening: int
    closing: int


async def bounds(tx: ReadTx, rail_account_id: int, day: date) -> Bounds | None:
    """The first opening and the last closing balance of a day; None without a statement."""
    return await tx.maybe(
        """
        SELECT (array_agg(s.opening ORDER BY s.id))[1] AS opening,
            (array_agg(s.closing ORDER BY s.id DESC))[1] AS closing
        FROM statement s
        WHERE s.rail_account_id = %s AND s.day = %s
        HAVING count(*) > 0
        """,
        (rail_account_id, day),
        Bounds,
    )


@dataclass(frozen=True, slots=True)
class Sums:
    """What the books and the lines say, minor units; all from one snapshot.

    `balance` is raw (in - out), `later` is what statements after the day have moved in the books.
    """

    balance: int
    later: int
    outstanding: int
    lines: int
    matched: int
    breaks: int
    seq: int


async def sums(tx: ReadTx, rail_account_id: int, asset: str, day: date) -> Sums:
    """One statement, so that nothing moves between the figures."""
    found = await tx.fetch(
        """
        SELECT
            coalesce((SELECT balance FROM account WHERE kind = 'cash'
                AND owner_id = %(account)s AND asset = %(asset)s), 0) AS balance,
            coalesce((SELECT sum(l.amount - l.fee)
                FROM statement s JOIN statement_line l ON l.statement_id = s.id
                WHERE s.rail_account_id = %(account)s AND s.day > %(day)s
                    AND l.posted_id IS NOT NULL), 0)::bigint AS later,
            coalesce((SELECT sum(l.amount - l.fee)
                FROM statement_line l JOIN statement s ON s.id = l.statement_id
                WHERE l.rail_account_id = %(account)s AND s.day <= %(day)s
                    AND l.state <> 'matched' AND l.posted_id IS NULL), 0)::bigint AS outstanding,
            counts.lines, counts.matched, counts.breaks,
            (SELECT seq FROM head WHERE id = 1) AS seq
        FROM (
            SELECT count(*)::int AS lines,
                (count(*) FILTER (WHERE l.state = 'matched'))::int AS matched,
                (count(*) FILTER (WHERE l.state = 'break'))::int AS breaks
            FROM statement s JOIN statement_line l ON l.statement_id = s.id
            WHERE s.rail_account_id = %(account)s AND s.day = %(day)s
        ) AS counts
        """,
        {"account": rail_account_id, "asset": asset, "day": day},
        Sums,
    )
    return found[0]


@dataclass(frozen=True, slots=True)
class Run:
    """A run as stored, amounts in minor units: ledger + outstanding + difference = closing."""

    id: int
    rail_account_id: int
    day: date
    asset: str
    opening: int
    closing: int
    ledger: int
    outstanding: int
    difference: int
    lines: int
    matched: int
    breaks: int
    as_of_seq: int
    started_at: datetime
    actor: str


async def insert(tx: CellTx, row: Run) -> None:
    """Write a run."""
    await tx.execute(
        """
        INSERT INTO recon_run (id, rail_account_id, day, asset, opening, closing, ledger,
            outstanding, difference, lines, matched, breaks, as_of_seq, started_at, actor,
            commit_id, ordinal)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            row.id,
            row.rail_account_id,
            row.day,
            row.asset,
            row.opening,
            row.closing,
            row.ledger,
            row.outstanding,
            row.difference,
            row.lines,
            row.matched,
            row.breaks,
            row.as_of_seq,
            row.started_at,
            row.actor,
            tx.commit_id,
            tx.append(),
        ),
    )


async def latest(tx: ReadTx, rail_account_id: int, day: date) -> Run | None:
    """The newest run of an account and day."""
    return await tx.maybe(
        """
        SELECT id, rail_account_id, day, asset, opening, closing, ledger, outstanding, difference,
            lines, matched, breaks, as_of_seq, started_at, actor
        FROM recon_run WHERE day = %s AND rail_account_id = %s ORDER BY id DESC LIMIT 1
        """,
        (day, rail_account_id),
        Run,
    )


async def listing(
    tx: ReadTx, rail_account_id: int | None, day: date | None, before_id: int | None, limit: int
) -> list[Run]:
    """Runs, newest first, those older than `before_id`."""
    return await tx.fetch(
        """
        SELECT id, rail_account_id, day, asset, opening, closing, ledger, outstanding, difference,
            lines, matched, breaks, as_of_seq, started_at, actor
        FROM recon_run
        WHERE (%(account)s::bigint IS NULL OR rail_account_id = %(account)s)
            AND (%(day)s::date IS NULL OR day = %(day)s)
            AND (%(before)s::bigint IS NULL OR id < %(before)s)
        ORDER BY id DESC LIMIT %(limit)s
        """,
        {"account": rail_account_id, "day": day, "before": before_id, "limit": limit},
        Run,
    )


async def open_subjects(
    tx: ReadTx, rail_account_id: int, kinds: Sequence[str], until: date
) -> list[str]:
    """Subjects of an account's open breaks of some kinds up to a day."""
    rows = await tx.tuples(
        "SELECT subject FROM break WHERE state = 'open' AND rail_account_id = %s"
        " AND kind = ANY(%s) AND day <= %s ORDER BY id",
        (rail_account_id, list(kinds), until),
    )
    return [row[0] for row in rows]


async def quiet(tx: ReadTx, rail_account_id: int, day: date) -> int | None:
    """The balance on a day without a statement, when the next one begins where the last ended.

    None when that is not known, or not so: something may have moved that no statement shows.
    """
    return await tx.value(
        """
        SELECT before.closing FROM LATERAL (
            SELECT closing FROM statement WHERE rail_account_id = %(account)s AND day < %(day)s
            ORDER BY day DESC, id DESC LIMIT 1
        ) AS before, LATERAL (
            SELECT opening FROM statement WHERE rail_account_id = %(account)s AND day > %(day)s
            ORDER BY day, id LIMIT 1
        ) AS after WHERE before.closing = after.opening
        """,
        {"account": rail_account_id, "day": day},
    )


async def unsettled(tx: ReadTx, rail_account_id: int, until: date) -> int:
    """How many lines of statements up to a day are still open or asked about."""
    return await tx.value(
        """
        SELECT count(*)::int FROM statement_line l JOIN statement s ON s.id = l.statement_id
        WHERE l.rail_account_id = %s AND l.state IN ('open', 'asked') AND s.day <= %s
        """,
        (rail_account_id, until),
    )


async def days_to_run(tx: ReadTx, rail_account_id: int, after: date | None) -> list[date]:
    """Days after one (the last closed) of which an account has statements, oldest first."""
    rows = await tx.tuples(
        "SELECT DISTINCT day FROM statement WHERE rail_account_id = %s"
        " AND (%s::date IS NULL OR day > %s) ORDER BY day",
        (rail_account_id, after, after),
    )
    return [row[0] for row in rows]


async def newer_statement(tx: ReadTx, rail_account_id: int, day: date, run_id: int) -> bool:
    """Whether a statement of the day came after a run: ids of a cell grow with time."""
    found = await tx.value(
        "SELECT 1 FROM statement WHERE rail_account_id = %s AND day = %s AND id > %s LIMIT 1",
        (rail_account_id, day, run_id),
    )
    return found is not None


async def ledger(tx: ReadTx, rail_account_id: int, day: date, closing: int, found: Sums) -> int:
    """What the books say at the end of a day, with what later statements brought of it too late.

    A difference to the closing balance that is gone at the end of a later day was a line that came
    on the wrong day's statement: by then the books and the provider agree on all of both days.
    """
    shown = -found.balance - found.later
    known = shown + found.outstanding
    if known == closing:
        return shown
    made_good = await tx.value(
        """
        SELECT true FROM (
            SELECT (array_agg(s.closing ORDER BY s.id DESC))[1] AS closing,
                sum(sum(l.moved)) OVER (ORDER BY s.day) AS moved
            FROM statement s CROSS JOIN LATERAL (
                SELECT coalesce(sum(amount - fee), 0) AS moved
                FROM statement_line WHERE statement_id = s.id
            ) AS l
            WHERE s.rail_account_id = %s AND s.day > %s GROUP BY s.day
        ) AS each WHERE closing - moved = %s LIMIT 1
        """,
        (rail_account_id, day, known),
    )
    return shown + (closing - known if made_good else 0)


async def stale(tx: ReadTx, run: Run) -> bool:
    """Whether a run of its account and day would say something else now."""
    if await newer_statement(tx, run.rail_account_id, run.day, run.id):
        return True
    now = await sums(tx, run.rail_account_id, run.asset, run.day)
    shown = await ledger(tx, run.rail_account_id, run.day, run.closing, now)
    counted = (now.lines, now.matched, now.breaks, now.outstanding, shown)
    return counted != (run.lines, run.matched, run.breaks, run.outstanding, run.ledger)
