"""The gauges of what waits, measured over all cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import LiteralString, cast

from paymaster.db import aside, outbox, seal
from paymaster.db.cells import Databases
from paymaster.db.tx import CellRead
from paymaster.dispatch import unknowns
from paymaster.observe import Metrics
from paymaster.settle import refused_files, unmatched

_DUE: LiteralString = """
    SELECT 'withdrawal.' || state, count(*), min(due_at) FROM withdrawal
    WHERE due_at <= %(now)s GROUP BY state
    UNION ALL
    SELECT 'inbox.' || topic, count(*), min(due_at) FROM inbox
    WHERE due_at <= %(now)s GROUP BY topic
    UNION ALL
    SELECT 'statement_line.' || state, count(*), min(due_at) FROM statement_line
    WHERE due_at <= %(now)s GROUP BY state
"""
_UNKNOWN: LiteralString = """
    SELECT a.rail_account_id::text, count(*), min(a.created_at)
    FROM withdrawal w JOIN attempt a ON a.withdrawal_id = w.id AND a.state = 'unknown'
    WHERE w.state = 'unknown' GROUP BY 1
    UNION ALL
    SELECT rail_account_id::text, count(*), min(created_at) FROM attempt
    WHERE state = 'unknown' AND transfer_id IS NOT NULL AND due_at IS NOT NULL GROUP BY 1
"""
_BREAKS: LiteralString = "SELECT kind, count(*) FROM break WHERE state = 'open' GROUP BY kind"
_INBOX: LiteralString = (
    "SELECT source, count(*) FROM inbox WHERE due_at IS NOT NULL GROUP BY source"
)


async def measure(dbs: Databases, metrics: Metrics, old_after_minutes: Sequence[int] = ()) -> None:
    """Set every gauge anew; what is gone since the last time becomes absent.

    Unknown payments are counted for each of these ages as well.
    """
    now = dbs.clock.now()
    due: dict[str, tuple[int, datetime]] = {}
    unknown: dict[str, tuple[int, datetime]] = {}
    breaks: dict[str, int] = {}
    pending: dict[str, int] = {}
    waits: tuple[tuple[dict[str, tuple[int, datetime]], LiteralString], ...]
    waits = ((due, _DUE), (unknown, _UNKNOWN))
    sums: tuple[tuple[dict[str, int], LiteralString], ...] = ((breaks, _BREAKS), (pending, _INBOX))
    await _seal_lags(dbs, metrics)
    for cell in dbs.cells():
        lag = await dbs.cell(cell.number).read(_lag)
        metrics.outbox_lag_seconds.labels(str(cell.number)).set(lag)
        waiting = await dbs.cell(cell.number).read(aside.count)
        metrics.commands_aside.labels(str(cell.number)).set(waiting)
        for target, statement in waits:
            there, rows = await dbs.cell(cell.number).read(lambda tx, s=statement: _ages(tx, s))
            for name, count, at in rows:
                oldest = at - (there - now)  # the clock of a test environment runs ahead
                known = target.get(name, (0, oldest))
                target[name] = (known[0] + count, min(known[1], oldest))
        for counts, statement in sums:
            for name, count in await dbs.cell(cell.number).read(
                lambda tx, s=statement: tx.tuples(s)
            ):
                counts[name] = counts.get(name, 0) + count
    _set(metrics, now, due, unknown)
    await _old_unknowns(dbs, metrics, old_after_minutes)
    await _for_people(dbs, metrics)
    metrics.breaks_open.clear()
    metrics.inbox_pending.clear()
    for kind, count in breaks.items():
        metrics.breaks_open.labels(kind).set(count)
    for source, count in pending.items():
        metrics.inbox_pending.labels(source).set(count)


async def _ages(
    tx: CellRead, statement: LiteralString
) -> tuple[datetime, list[tuple[str, int, datetime]]]:
    """What waits, and the cell's own time."""
    params = {"now": tx.now} if statement is _DUE else None
    return tx.now, cast("list[tuple[str, int, datetime]]", await tx.tuples(statement, params))


def _set(
    metrics: Metrics,
    now: datetime,
    due: dict[str, tuple[int, datetime]],
    unknown: dict[str, tuple[int, datetime]],
) -> None:
    for found, items, ages in (
        (due, metrics.due_items, metrics.oldest_due_age_seconds),
        (unknown, metrics.unknown_attempts, metrics.oldest_unknown_age_seconds),
    ):
        items.clear()
        ages.clear()
        for name, (count, oldest) in found.items():
            items.labels(name).set(count)
            ages.labels(name).set((now - oldest).total_seconds())


async def _old_unknowns(dbs: Databases, metrics: Metrics, minutes: Sequence[int]) -> None:
    found: Counter[tuple[int, int]] = Counter()
    for cell in dbs.cells():
        found.update(
            await dbs.cell(cell.number).read(
                lambda tx: unknowns.counts(
                    tx, [tx.now - timedelta(minutes=each) for each in minutes]
                )
            )
        )
    metrics.old_unknown_attempts.clear()
    for (account, place), count in found.items():
        metrics.old_unknown_attempts.labels(str(account), str(minutes[place])).set(count)


async def _for_people(dbs: Databases, metrics: Metrics) -> None:
    """What providers said that nobody could place, and what they left that nobody could read."""
    notices, files = Counter[str](), Counter[int]()
    for cell in dbs.cells():
        notices.update(await dbs.cell(cell.number).read(unmatched.counts))
        files.update(await dbs.cell(cell.number).read(refused_files.counts))
    metrics.notices_aside.clear()
    metrics.files_refused.clear()
    for slug, count in notices.items():
        metrics.notices_aside.labels(slug).set(count)
    for account, count in files.items():
        metrics.files_refused.labels(str(account)).set(count)


async def _seal_lags(dbs: Databases, metrics: Metrics) -> None:
    for place in (dbs.control, *(dbs.cell(cell.number) for cell in dbs.cells())):
        chain = seal.chain_of(place)
        lag = await place.read(lambda tx, name=chain: seal.lag_seconds(tx, name))
        metrics.seal_lag_seconds.labels(chain).set(lag)


async def _lag(tx: CellRead) -> float:
    """Age of the oldest commit that the relay has not passed."""
    position = await outbox.position(tx, "relay")
    oldest = await tx.value(
        "SELECT recorded_at FROM commit WHERE last_seq > %s ORDER BY last_seq LIMIT 1", (position,)
    )
    return 0.0 if oldest is None else max((tx.now - oldest).total_seconds(), 0.0)
