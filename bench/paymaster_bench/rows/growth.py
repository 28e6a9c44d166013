"""A ledger with ten million postings of two years: what posting to it costs, and reading in it.

`growth` holds `post` there against `post` on a ledger with openings only, in turn. The other rows
read what people look at: the newest page of an account, a page in the middle of the past, a balance
as it stood at a moment. Each is held against one millisecond.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

from paymaster.db.pool import CellDb
from paymaster.db.tx import CellRead
from paymaster.ledger import statement
from paymaster.ledger.chart import Account
from paymaster_bench import checks
from paymaster_bench.bench import Bench
from paymaster_bench.caller import Spec
from paymaster_bench.callers import start_callers
from paymaster_bench.measure import Sample, Series, Slice, in_turn, now_seconds
from paymaster_bench.preload import Loaded, Preload, preload
from paymaster_bench.report import Check, Findings, Row
from paymaster_bench.rows.posting import CALLERS, SHAPES
from paymaster_bench.workload import Zipf
from paymaster_bench.world import CELL, make_schemas, open_databases, settle_down

ROWS = ("growth", "history_page", "history_middle", "balance_as_of")
DAYS = 600
"""How long the past is: every month is a partition."""

PAGE = 50
_READS = 200


def _tomorrow(bench: Bench, dsn: str) -> list[Spec]:
    """A new day for both, so that neither has an advantage in first postings of a day."""
    return [Spec(dsn, bench.size.users, bench.seed(), days=1) for _ in range(CALLERS)]


async def run(bench: Bench, wanted: frozenset[str]) -> Findings:
    """Fill a ledger; read in it, and post to it and to an empty one in turn."""
    server, size = bench.server, bench.size
    grown = server.create_database("grown")
    make_schemas(server, grown)
    bench.say(f"loading {size.grown_postings:,} postings of {DAYS} days")
    loaded = preload(
        server.owner_dsn(grown), Preload(size.grown_postings, users=size.users, days=DAYS)
    )
    settle_down(server, grown)
    found = Findings()
    reading = [name for name in READS if name in wanted]
    if reading:
        found.rows += await _read(bench, server.app_dsn(grown), loaded, reading)
    if "growth" in wanted:
        row, check = await _post(bench, server.app_dsn(grown), loaded)
        found.rows.insert(0, row)
        found.checks.append(check)
    found.checks.append(
        await checks.prove("growth, grown", server.app_dsn(grown), ledger_only=True)
    )
    return found


async def _post(bench: Bench, grown: str, loaded: Loaded) -> tuple[Row, Check]:
    empty = bench.server.app_dsn(await bench.copy("empty"))
    shape, size = SHAPES["post_1000"], bench.size
    with (
        start_callers(_tomorrow(bench, empty)) as few,
        start_callers(_tomorrow(bench, grown)) as many,
    ):
        bench.server.checkpoint()
        bench.say("posting to both")

        async def on_empty(seconds: float) -> Sample:
            return few.post(shape, seconds)

        async def on_grown(seconds: float) -> Sample:
            return many.post(shape, seconds)

        series = await in_turn({"empty": on_empty, "grown": on_grown}, size.rounds, size.seconds)
    one, other = series["grown"], series["empty"]
    row = Row(
        "growth",
        one.rate,
        "postings/s",
        "post_1000 on a ledger with openings only",
        other.rate,
        0.65,
        note=f"after {loaded.postings:,} postings; p99 of a batch {one.quantile_ms(0.99):.1f} ms"
        f" against {other.quantile_ms(0.99):.1f} ms",
    )
    return row, await checks.prove("growth, empty", empty, ledger_only=True)


Read = Callable[[CellRead, Account, datetime], Awaitable[int]]
"""Reads something of an account, near a moment; how much it found."""


async def _newest(tx: CellRead, account: Account, _at: datetime) -> int:
    return len((await statement.page(tx, account, None, PAGE)).rows)


async def _middle(tx: CellRead, account: Account, at: datetime) -> int:
    return len((await statement.page_until(tx, account, at, PAGE)).rows)


async def _as_of(tx: CellRead, account: Account, at: datetime) -> int:
    return await statement.as_of(tx, account, at, basis="recorded")


READS: Mapping[str, Read] = {
    "history_page": _newest,
    "history_middle": _middle,
    "balance_as_of": _as_of,
}


@dataclass(slots=True)
class Reading:
    """A contestant that reads in the ledger, account after account."""

    cell: CellDb
    read: Read
    accounts: Zipf
    loaded: Loaded
    random: Random
    found: int = 0
    reads: int = 0

    async def slice(self, seconds: float) -> Sample:
        """Read for so long; every read is timed by itself."""
        ends, latencies = now_seconds() + seconds, list[float]()
        while now_seconds() < ends:
            latencies += await self.cell.read(self._some)
        return Sample(len(latencies), len(latencies) / sum(latencies), latencies)

    async def _some(self, tx: CellRead) -> list[float]:
        latencies: list[float] = []
        for number in self.accounts.draw(_READS):
            account = self.loaded.accounts.account(number)
            at = datetime.now(UTC) - timedelta(days=DAYS) * self.random.random()
            began = now_seconds()
            self.found += await self.read(tx, account, at)
            latencies.append(now_seconds() - began)
        self.reads += _READS
        return latencies


async def _read(bench: Bench, dsn: str, loaded: Loaded, names: list[str]) -> list[Row]:
    bench.say("reading")
    size = bench.size
    async with open_databases(dsn, 1) as dbs:
        readers = {
            name: Reading(
                dbs.cell(CELL),
                READS[name],
                Zipf(size.users, Random(bench.seed())),
                loaded,
                Random(bench.seed()),
            )
            for name in names
        }
        contestants: dict[str, Slice] = {name: one.slice for name, one in readers.items()}
        series = await in_turn(contestants, size.rounds, size.seconds)
    return [_reading_row(name, series[name], loaded, readers[name]) for name in names]


def _reading_row(name: str, own: Series, loaded: Loaded, reader: Reading) -> Row:
    rows = "" if name == "balance_as_of" else f"{reader.found / reader.reads:.0f} rows on average, "
    return Row(
        name,
        own.quantile_ms(0.5),
        "ms",
        "one millisecond",
        1.0,
        1.0,
        note=f"{rows}{loaded.postings:,} postings of {DAYS} days, p99"
        f" {own.quantile_ms(0.99):.2f} ms; accounts by Zipf's law, one connection",
    )
