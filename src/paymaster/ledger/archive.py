"""Archiving: a whole month of the books leaves for a file, and an empty partition takes its place.

Only a month that is closed, proven and sealed may go. The file is written, read back and proven,
and only then is the partition replaced, in one short transaction that also writes the row of
`archive`. A crash before that leaves a file that nobody refers to; it is written anew.

The emptied partition stays: the id of an entry is made with the business row it belongs to, and may
be posted months later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString, cast

from psycopg import errors

from paymaster.db import audit, partitions
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellRead, CellTx
from paymaster.kernel.clock import business_day, milliseconds, rfc3339
from paymaster.kernel.errors import Broken, Busy, Refusal, Unprocessable
from paymaster.kernel.ids import new_trace_id, time_floor
from paymaster.ledger import archive_file, archive_store
from paymaster.ledger.archive_file import Manifest
from paymaster.ledger.archive_store import ArchiveRow, Extent, Span
from paymaster.ledger.proof_sum import of_range

ARCHIVED = "ledger.archive"
"""The act by which a month leaves; its subject is the month."""
_SNAPSHOT: LiteralString = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_TRIES = 200
_PAUSE_SECONDS = 0.5


def span_of(month: date) -> Span:
    """The ids that are made in a month (given by its first day), in UTC."""
    start = datetime(month.year, month.month, 1, tzinfo=UTC)
    end = partitions.month_after(start, 1)
    low, high, near = (
        time_floor(milliseconds(moment)) for moment in (start, end, end + timedelta(days=1))
    )
    return Span(low, high, near)


def file_name(cell: int, month: date) -> str:
    """For example `cell-1-2026-01.books.gz`."""
    return f"cell-{cell}-{month:%Y-%m}.gz"


async def months_before(tx: CellRead, before: date) -> list[date]:
    """The months before that one which have a partition and were not archived, oldest first."""
    gone = await archive_store.archived_months(tx)
    names = await archive_store.partition_names(tx)
    months = [partitions.month_of(name) for name in names]
    return sorted(month for month in months if month < before and month not in gone)


async def archive_month(
    db: CellDb, month: date, folder: Path, actor: Actor, reason: str
) -> Manifest | None:
    """Archive one month of a cell reached as the owner into a folder; None when it is empty.

    Raises Unprocessable `archive-not-ready` with what is missing, `archive-order` when an earlier
    month has not left, Broken `archive-differs` when the file does not hold what the books hold,
    Busy `archive-busy` when the books could not be locked for the moment that it takes. In all
    these cases nothing has changed.
    """
    span = span_of(month)
    extent = await db.read(lambda tx: _ready(tx, month, span))
    if extent is None:
        await finish(db, actor)
        return None
    file = folder / file_name(db.number, month)
    manifest = await _export(db, month, span, extent, file)

    async def replace(tx: CellTx) -> None:
        await _replace(tx, month, span, manifest, file)
        await audit.record(tx, [_act(month, manifest, reason)])

    await _patiently(db, actor, replace)
    await finish(db, actor)
    return manifest


async def finish(db: CellDb, actor: Actor) -> None:
    """Remove the marks of archived months; also those that an earlier run was stopped before."""
    for low, high in await db.read(archive_store.marked):

        async def remove(tx: CellTx, low: int = low, high: int = high) -> None:
            await archive_store.remove_marks(tx, low, high)

        await db.run(actor, new_trace_id(), remove)


def _act(month: date, manifest: Manifest, reason: str) -> audit.Act:
    detail = {"sha256": manifest.sha256, "postings": manifest.counts["posting"]}
    return audit.Act(ARCHIVED, f"{month:%Y-%m}", reason, detail)


async def _ready(tx: CellRead, month: date, span: Span) -> Extent | None:
    """What lies in the month. Raises Unprocessable `archive-not-ready`, `archive-order`."""
    extent = await archive_store.extent(tx, span)
    if extent.last_seq is None:
        if extent.postings:
            raise Broken("archive-differs", f"{extent.postings} postings of {month} have no entry.")
        return None
    for earlier in await months_before(tx, month):
        left = await archive_store.extent(tx, span_of(earlier))
        if left.entries or left.postings:
            raise Unprocessable("archive-order", f"Archive {earlier:%Y-%m} before {month:%Y-%m}.")
    reached = await archive_store.reached(tx)
    end = partitions.month_after(datetime(month.year, month.month, 1, tzinfo=UTC), 1)
    last_day = business_day(end - timedelta(milliseconds=1), tx.time_zone)
    missing: list[str] = []
    if reached.closed_through is None or reached.closed_through < last_day:
        missing.append(f"closed through {last_day.isoformat()}")
    if reached.proven_seq < extent.last_seq:
        missing.append("proven (`paymaster ledger prove`)")
    if reached.sealed_seq < extent.last_seq:
        missing.append("sealed")
    if await archive_store.straddling(tx, span):
        missing.append("free of entries that reach into another month")
    if missing:
        raise Unprocessable(
            "archive-not-ready", f"{month:%Y-%m} is not yet {' and not yet '.join(missing)}."
        )
    return extent


async def _export(db: CellDb, month: date, span: Span, extent: Extent, file: Path) -> Manifest:
    """Write the file, read it back, prove it, and write its manifest.

    Every day of the month is read on a snapshot of its own: facts do not change, and a snapshot
    that is held for long would keep PostgreSQL from tidying up behind the postings of today.
    """
    if extent.last_seq is None or extent.recorded_through is None:
        raise Refusal("archive-empty", f"There is nothing in {month:%Y-%m}.")
    sums = await db.read(lambda tx: archive_store.totals(tx, span))
    marks = await db.read(lambda tx: of_range(tx, span.low_id, span.high_id))
    writer = archive_file.Writer(file)
    try:
        for section in archive_file.SECTIONS:
            await _section(db, writer, section, span)
        await asyncio.to_thread(writer.finish)
    except BaseException:
        writer.abandon()
        raise
    found = await asyncio.to_thread(archive_file.read, file, span.low_id, span.high_id)
    counted = found.counts["entry"], found.counts["posting"], found.sums
    if counted != (extent.entries, extent.postings, sums):
        raise Broken("archive-differs", f"{file.name} does not hold what the books hold.")
    manifest = Manifest(
        format=1,
        cell=db.number,
        month=f"{month:%Y-%m}",
        low_id=span.low_id,
        high_id=span.high_id,
        last_seq=extent.last_seq,
        recorded_through=extent.recorded_through.isoformat(),
        made_at=rfc3339(db.clock.now()),
        counts=found.counts,
        sums=found.sums,
        chain_sum=str(marks.chain),
        link_sum=str(marks.links),
        sha256=found.sha256,
    )
    archive_file.save_manifest(file, manifest)
    return manifest


async def _section(db: CellDb, writer: archive_file.Writer, section: str, span: Span) -> None:
    statement = archive_store.CONTENTS[section]
    for place, params in enumerate(span.slices(section)):
        async with db.server.transaction(db.name, _SNAPSHOT) as connection:
            await connection.sending.begun()
            if place == 0:
                query = f"SELECT * FROM ({statement}) s LIMIT 0"
                cursor = await connection.execute(query, params)
                described = cast("Sequence[Any]", cursor.description)
                writer.section(section, [(one.name, one.type_display) for one in described])
            copy = connection.cursor().copy(f"COPY ({statement}) TO STDOUT", params)
            async with copy as rows:
                async for lines in rows:
                    writer.rows(lines)


async def _replace(tx: CellTx, month: date, span: Span, manifest: Manifest, file: Path) -> None:
    """Put empty partitions in the place of the month's; everything stands still meanwhile."""
    await partitions.lock(tx)
    entries = await archive_store.remove_strays(tx, span)
    entries += await partitions.renew(tx, "entry", month)
    postings = await partitions.renew(tx, "posting", month)
    # What goes is counted as it goes: nothing may leave that is not in the file.
    if (entries, postings) != (manifest.counts["entry"], manifest.counts["posting"]):
        told = f"{entries} entries and {postings} postings leave {month:%Y-%m}"
        raise Broken("archive-differs", f"{told}, but its file does not hold as many.")
    await archive_store.insert_archive(
        tx,
        ArchiveRow(
            month,
            span.low_id,
            span.high_id,
            entries,
            postings,
            manifest.last_seq,
            datetime.fromisoformat(manifest.recorded_through),
            int(manifest.chain_sum),
            int(manifest.link_sum),
            file.name,
            bytes.fromhex(manifest.sha256),
        ),
    )


async def _patiently(db: CellDb, actor: Actor, work: Callable[[CellTx], Awaitable[None]]) -> None:
    """Run the replacement when the tables can be locked; writers wait for it, never long."""
    for _ in range(_TRIES):
        try:
            await db.run(actor, new_trace_id(), work)
        except Busy as busy:
            if not isinstance(busy.__cause__, errors.LockNotAvailable):
                raise
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return
    raise Busy("archive-busy", "The books were never free for a moment; try at a quieter time.")
