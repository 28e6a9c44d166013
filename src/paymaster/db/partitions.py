"""Monthly partitions of entries and postings, by id range: ids carry the time.

A partition is made as a table of its own and attached with a short lock timeout, so that writers
are never held up. `months_ahead` is what `/readyz` looks at.
"""

from __future__ import annotations

from datetime import MAXYEAR, UTC, date, datetime
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql

from paymaster.db.tx import Writes
from paymaster.kernel.clock import milliseconds
from paymaster.kernel.ids import time_floor

PARTITIONED = ("entry", "posting")
AHEAD = 3
"""How many months are kept ready beyond the current one."""


def month_after(moment: datetime, count: int) -> datetime:
    """The start of the month `count` months after the one of `moment`, in UTC."""
    index = moment.year * 12 + moment.month - 1 + count
    return datetime(index // 12, index % 12 + 1, 1, tzinfo=UTC)


def partition_name(table: str, month: datetime) -> str:
    """For example `posting_p202611`."""
    return f"{table}_p{month:%Y%m}"


def month_of(name: str) -> date:
    """The first day of the month of a partition, from its name."""
    return date(int(name[-6:-2]), int(name[-2:]), 1)


def ensure(connection: psycopg.Connection[Any], now: datetime) -> list[str]:
    """Make what is missing from last month (late ids) to `AHEAD` months on; owner role only."""
    made: list[str] = []
    for table in PARTITIONED:
        for step in range(-1, AHEAD + 1):
            start, end = month_after(now, step), month_after(now, step + 1)
            name = partition_name(table, start)
            if connection.execute("SELECT to_regclass(%s)", (name,)).fetchone() != (None,):
                continue
            identifiers = {"child": sql.Identifier(name), "parent": sql.Identifier(table)}
            connection.execute(
                sql.SQL("CREATE TABLE {child} (LIKE {parent} INCLUDING ALL)").format(**identifiers)
            )
            connection.execute(
                sql.SQL(
                    "ALTER TABLE {parent} ATTACH PARTITION {child} FOR VALUES FROM ({low}) TO"
                    " ({high})"
                ).format(
                    low=sql.Literal(time_floor(milliseconds(start))),
                    high=sql.Literal(time_floor(milliseconds(end))),
                    **identifiers,
                )
            )
            made.append(name)
    return made


def months_ahead(names: list[str], now: datetime) -> int:
    """How many whole months beyond the current one have a partition of every table."""
    ahead, most = 0, (MAXYEAR - now.year) * 12 + 12 - now.month
    while ahead < most and all(
        partition_name(t, month_after(now, ahead + 1)) in names for t in PARTITIONED
    ):
        ahead += 1
    return ahead


_COUNT: LiteralString = "SELECT count(*) FROM {child}"
_KEEP: LiteralString = (
    "INSERT INTO {child} ({columns}) SELECT {columns} FROM {old} WHERE NOT"
    " (coalesce(first_posting_id, commit_id) >= {low}"
    " AND coalesce(last_posting_id, commit_id) < {high})"
)


async def lock(tx: Writes) -> None:
    """Wait, not long, until nobody uses the partitioned tables, and keep them; owner role only.

    Everybody who comes meanwhile stands behind the one who waits, so the wait is short: 200 ms for
    each table. Raises LockNotAvailable.
    """
    await tx.execute("SET LOCAL lock_timeout TO '200ms'")
    await tx.execute("LOCK TABLE ONLY entry, ONLY posting IN ACCESS EXCLUSIVE MODE")


async def renew(tx: Writes, table: str, month: date) -> int:
    """Replace a month's partition by a new one of the same range; only while `lock` is held.

    Entries whose postings are not of the month are taken over. The number of rows that were not.
    """
    start = datetime(month.year, month.month, 1, tzinfo=UTC)
    name = partition_name(table, start)
    columns = await tx.tuples(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0"
        " AND NOT attisdropped ORDER BY attnum",
        (table,),
    )
    parts: dict[str, sql.Composable] = {
        "parent": sql.Identifier(table),
        "child": sql.Identifier(name),
        "old": sql.Identifier(f"{name}_old"),
        "columns": sql.SQL(", ").join(sql.Identifier(row[0]) for row in columns),
        "low": sql.Literal(time_floor(milliseconds(start))),
        "high": sql.Literal(time_floor(milliseconds(month_after(start, 1)))),
    }

    async def run(statement: LiteralString) -> int:
        return await tx.execute(cast("LiteralString", sql.SQL(statement).format(**parts)))

    there: int = await tx.value(cast("LiteralString", sql.SQL(_COUNT).format(**parts)))
    await run("ALTER TABLE {parent} DETACH PARTITION {child}")
    await run("ALTER TABLE {child} RENAME TO {old}")
    await run("CREATE TABLE {child} (LIKE {parent} INCLUDING ALL)")
    kept = await run(_KEEP) if table == "entry" else 0
    await run("DROP TABLE {old}")
    await run("ALTER TABLE {parent} ATTACH PARTITION {child} FOR VALUES FROM ({low}) TO ({high})")
    return there - kept
