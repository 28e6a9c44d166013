"""The SQL of archiving. Run by the owner: the application may neither delete nor detach."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise
from typing import LiteralString

from paymaster.db.tx import CellTx, ReadTx

_PLACE: LiteralString = "coalesce(first_posting_id, commit_id)"
"""Where an entry belongs. Its own id may be of an earlier month than its postings."""

_IN_MONTH: LiteralString = f"{_PLACE} >= %(low)s AND {_PLACE} < %(high)s AND id < %(near)s"
"""Entry ids are made before posting ids, if by a clock that runs ahead of the other's by less than
a day."""

_LEGS: LiteralString = """
    WITH leg AS (
        SELECT id, source_id AS account_id, source_number AS number, source_balance AS balance,
            source_previous AS previous_id, -amount AS amount
        FROM posting WHERE id >= %(low)s AND id < %(high)s
        UNION ALL
        SELECT id, destination_id, destination_number, destination_balance, destination_previous,
            amount
        FROM posting WHERE id >= %(low)s AND id < %(high)s
    )
"""

CONTENTS: dict[str, LiteralString] = {
    "account": """
        SELECT id, kind, owner_id, asset, scale FROM account WHERE id IN (
            SELECT source_id FROM posting WHERE id >= %(low)s AND id < %(high)s
            UNION SELECT destination_id FROM posting WHERE id >= %(low)s AND id < %(high)s
        ) ORDER BY id
    """,
    "commit": f"""
        SELECT * FROM commit WHERE id IN (SELECT commit_id FROM entry WHERE {_IN_MONTH})
        ORDER BY id
    """,
    "entry": f"""
        SELECT * FROM entry WHERE {_IN_MONTH} AND id >= %(from)s AND id < %(to)s ORDER BY id
    """,
    "posting": "SELECT * FROM posting WHERE id >= %(from)s AND id < %(to)s ORDER BY id",
    "opening": _LEGS
    + """
        SELECT account_id, number - 1 AS number, previous_id AS posting_id,
            balance - amount AS balance
        FROM leg WHERE previous_id IS NULL OR previous_id < %(low)s OR previous_id >= %(high)s
        ORDER BY account_id, number
    """,
    "closing": _LEGS
    + """
        SELECT account_id, number, id AS posting_id, balance FROM leg l WHERE NOT EXISTS (
            SELECT FROM leg n WHERE n.account_id = l.account_id AND n.previous_id = l.id
        ) ORDER BY account_id, number
    """,
}
"""What goes into the file, section by section."""

SLICED = frozenset({"entry", "posting"})
"""Sections that are read in slices of ids, `%(from)s` to `%(to)s`."""


@dataclass(frozen=True, slots=True)
class Span:
    """A month as a range of ids; `near_id` is a day behind its end."""

    low_id: int
    high_id: int
    near_id: int

    def params(self) -> dict[str, int]:
        """For the statements here."""
        return {"low": self.low_id, "high": self.high_id, "near": self.near_id}

    def slices(self, section: str) -> list[dict[str, int]]:
        """The parameters to read a section with, one after the other: days of the month."""
        if section not in SLICED:
            return [self.params()]
        day = self.near_id - self.high_id
        bounds = [*range(self.low_id, self.high_id, day), self.high_id]
        if section == "entry":
            bounds = [0, *bounds, self.near_id]
        return [{**self.params(), "from": a, "to": b} for a, b in pairwise(bounds)]


@dataclass(frozen=True, slots=True)
class Extent:
    """What lies in a month, and up to where in the order of commits; None when it is empty."""

    entries: int
    postings: int
    last_seq: int | None
    recorded_through: datetime | None


async def extent(tx: ReadTx, span: Span) -> Extent:
    """Count a month."""
    rows = await tx.tuples(
        f"""
        SELECT count(*), (SELECT count(*) FROM posting WHERE id >= %(low)s AND id < %(high)s),
            max(c.last_seq), max(c.recorded_at)
        FROM (SELECT commit_id FROM entry WHERE {_IN_MONTH}) e JOIN commit c ON c.id = e.commit_id
        """,
        span.params(),
    )
    return Extent(*rows[0])


async def totals(tx: ReadTx, span: Span) -> dict[str, int]:
    """What the month's postings moved, in minor units by currency."""
    rows = await tx.tuples(
        "SELECT asset, sum(amount) FROM posting WHERE id >= %(low)s AND id < %(high)s"
        " GROUP BY asset",
        span.params(),
    )
    return {asset: int(total) for asset, total in rows}


async def straddling(tx: ReadTx, span: Span) -> int:
    """How many entries have postings on both sides of the month's ends."""
    return int(
        await tx.value(
            """
            SELECT count(*) FROM entry WHERE id < %(near)s AND (
                (first_posting_id < %(high)s AND last_posting_id >= %(high)s)
                OR (first_posting_id < %(low)s AND last_posting_id >= %(low)s))
            """,
            span.params(),
        )
    )


@dataclass(frozen=True, slots=True)
class Reached:
    """How far the cell is closed, proven and sealed."""

    closed_through: date | None
    proven_seq: int
    sealed_seq: int


async def reached(tx: ReadTx) -> Reached:
    """Look how far."""
    rows = await tx.tuples(
        """
        SELECT closed_through, (SELECT coalesce(max(seq), 0) FROM proof),
            (SELECT coalesce(max(last_seq), 0) FROM seal)
        FROM head WHERE id = 1
        """
    )
    return Reached(*rows[0])


async def archived_months(tx: ReadTx) -> set[date]:
    """The months that were archived."""
    return {row[0] for row in await tx.tuples("SELECT month FROM archive")}


async def partition_names(tx: ReadTx) -> list[str]:
    """The partitions of postings in this schema."""
    rows = await tx.tuples(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = to_regclass('posting') ORDER BY c.relname"
    )
    return [row[0] for row in rows]


async def remove_strays(tx: CellTx, span: Span) -> int:
    """Delete the month's entries that lie in partitions of other months, by their ids; how many."""
    return await tx.execute(
        f"DELETE FROM entry WHERE {_IN_MONTH} AND NOT (id >= %(low)s AND id < %(high)s)",
        span.params(),
    )


async def marked(tx: ReadTx) -> list[tuple[int, int]]:
    """The ranges of archived postings of which marks or late legs are still there."""
    return await tx.tuples(
        """
        SELECT low_id, high_id FROM archive a
        WHERE (SELECT min(posting_id) FROM account_mark WHERE posting_id >= a.low_id) < a.high_id
            OR (SELECT min(posting_id) FROM late_leg WHERE posting_id >= a.low_id) < a.high_id
        ORDER BY low_id
        """
    )


async def remove_marks(tx: CellTx, low_id: int, high_id: int) -> None:
    """Delete the marks and late legs of postings that are gone."""
    for statement in (
        "DELETE FROM account_mark WHERE posting_id >= %s AND posting_id < %s",
        "DELETE FROM late_leg WHERE posting_id >= %s AND posting_id < %s",
    ):
        await tx.execute(statement, (low_id, high_id))


@dataclass(frozen=True, slots=True)
class ArchiveRow:
    """A row of `archive`."""

    month: date
    low_id: int
    high_id: int
    entries: int
    postings: int
    last_seq: int
    recorded_through: datetime
    chain_sum: int
    link_sum: int
    file: str
    sha256: bytes


async def insert_archive(tx: CellTx, row: ArchiveRow) -> None:
    """Write down that a month was archived."""
    await tx.execute(
        """
        INSERT INTO archive (month, low_id, high_id, entries, postings, last_seq,
            recorded_through, chain_sum, link_sum, file, sha256, actor, archived_at, commit_id,
            ordinal)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            row.month,
            row.low_id,
            row.high_id,
            row.entries,
            row.postings,
            row.last_seq,
            row.recorded_through,
            row.chain_sum,
            row.link_sum,
            row.file,
            row.sha256,
            tx.actor.name,
            tx.now,
            tx.commit_id,
            tx.append(),
        ),
    )
