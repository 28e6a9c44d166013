"""`post`, in batches, by two callers at once, against COPY of the very rows that it stores.

COPY is the limit: the same bytes into the same table on the same server, one commit for every
batch, with nothing looked at and nothing decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from paymaster_bench import checks
from paymaster_bench.bench import Bench
from paymaster_bench.caller import Chunk, History, Spec
from paymaster_bench.callers import Callers, start_callers, together
from paymaster_bench.measure import Sample, Series, Slice, in_turn
from paymaster_bench.report import Findings, Row
from paymaster_bench.server import owner_rows
from paymaster_bench.workload import Accounts, Shape

ROWS = (
    "post_1000",
    "post_1000_postings",
    "post_100",
    "post_8000",
    "post_hot",
    "post_mixed",
    "post_1000_tasks",
)

SHAPES = {
    "post_1000": Shape(1000),
    "post_100": Shape(100),
    "post_8000": Shape(8000),
    "post_hot": Shape(1000, hot=True),
    "post_mixed": Shape(1000, duplicates=0.05, insufficient=0.05),
}
CALLERS = 2

TIGERBEETLE = {"post_100": 55_000.0, "post_1000": 83_000.0, "post_8000": 90_000.0}
"""Transfers a second of TigerBeetle through its own Python client 0.17.8 (built from source of
July 2026, one replica, client on the same two cores), measured on 2 vCPU AMD EPYC, 24 GiB, on
2026-11-21. A constant, not a measurement of this run: it says of what order a figure is."""

_ANCHOR = "TigerBeetle's Python client (a constant, measured elsewhere)"
_GOALS = {"post_hot": 0.9, "post_mixed": 0.6}


@dataclass(slots=True)
class Copying:
    """The reference: copies what the last slice of `post_1000` stored."""

    source: str
    target: str
    callers: Callers
    with_entries: bool
    ranges: list[tuple[int, int]]

    async def slice(self, _seconds: float) -> Sample:
        """Copy all rows stored since this was last asked, in commits of 1000."""
        orders: list[list[Chunk]] = [[] for _ in range(self.callers.count)]
        for first, last in self.ranges:
            for at, chunk in enumerate(self._chunks(first, last)):
                orders[at % len(orders)].append(chunk)
        self.ranges.clear()
        self.callers.ask_each(
            [("fetch", self.source, self.target, chunks, self.with_entries) for chunks in orders]
        )
        return together(self.callers.ask("copy"))

    def _chunks(self, first: int, last: int) -> list[Chunk]:
        rows = owner_rows(
            self.source,
            "SELECT min(id), max(id) FROM (SELECT id, (row_number() OVER (ORDER BY id) - 1) / 1000"
            " AS chunk FROM posting WHERE id > %s AND id <= %s) numbered"
            " GROUP BY chunk ORDER BY chunk",
            first,
            last,
        )
        return [Chunk(low, high) for low, high in rows]


def last_posting(dsn: str) -> int:
    """The highest posting id."""
    return int(owner_rows(dsn, "SELECT coalesce(max(id), 0) FROM posting")[0][0])


@dataclass(slots=True)
class Posting:
    """A contestant that posts; `told` hears which posting ids each slice has stored."""

    shape: Shape
    callers: Callers
    dsn: str
    told: Sequence[list[tuple[int, int]]] = ()

    async def slice(self, seconds: float) -> Sample:
        """Post for so long."""
        before = last_posting(self.dsn) if self.told else 0
        sample = self.callers.post(self.shape, seconds)
        if self.told:
            stored = (before, last_posting(self.dsn))
            for ranges in self.told:
                ranges.append(stored)
        return sample


async def run(bench: Bench, wanted: frozenset[str]) -> Findings:
    """Measure the rows that are wanted, all in turn with `post_1000`."""
    database = await bench.copy("post")
    app, owner = bench.server.app_dsn(database), bench.server.owner_dsn(database)
    users, found = bench.size.users, Findings()
    with ExitStack() as stack:
        callers = stack.enter_context(
            start_callers([Spec(app, users, bench.seed()) for _ in range(CALLERS)])
        )
        copied: dict[str, list[tuple[int, int]]] = {
            name: [] for name in ("post_1000", "post_1000_postings") if name in wanted
        }
        contestants: dict[str, Slice] = {
            "post_1000": Posting(SHAPES["post_1000"], callers, owner, list(copied.values())).slice
        }
        for name, ranges in copied.items():
            target = bench.server.app_dsn(await bench.copy("copy"))
            entries = not name.endswith("_postings")
            contestants[f"copy:{name}"] = Copying(owner, target, callers, entries, ranges).slice
        for name in [one for one in SHAPES if one in wanted and one != "post_1000"]:
            contestants[name] = Posting(SHAPES[name], callers, owner).slice
        checked = [("posting", owner, callers)]
        if "post_1000_tasks" in wanted:
            own = stack.enter_context(
                start_callers([Spec(app, users, bench.seed(), tasks=CALLERS)])
            )
            contestants["post_1000_tasks"] = Posting(SHAPES["post_1000"], own, owner).slice
            checked.append(("posting", owner, own))
        bench.server.checkpoint()
        bench.say(f"posting: {', '.join(contestants)}")
        series = await in_turn(contestants, bench.size.rounds, bench.size.seconds)
        histories: dict[tuple[str, str], list[History]] = {}
        for name, place, group in checked:
            histories.setdefault((name, place), []).extend(group.histories())
    found.rows = [_row(name, series) for name in ROWS if name in wanted]
    for (name, place), told in histories.items():
        found.checks += checks.compare_verdicts(name, place, Accounts(users), told)
        found.checks.append(await checks.prove(name, place, ledger_only=True))
    return found


def _row(name: str, series: dict[str, Series]) -> Row:
    own = series["post_1000" if name == "post_1000_postings" else name]
    unit = "postings/s"
    note = f"p99 of a batch {own.quantile_ms(0.99):.1f} ms, spread {own.spread:.0%}"
    if name in ("post_1000", "post_1000_postings"):
        copy = series[f"copy:{name}"]
        rows = "entry and posting rows" if name == "post_1000" else "posting rows alone"
        note += f"; TigerBeetle's Python client elsewhere {TIGERBEETLE['post_1000']:,.0f}"
        return Row(
            name,
            own.rate,
            unit,
            f"COPY of the same {rows}, commits of 1000",
            copy.rate,
            0.18 if name == "post_1000" else None,
            note=note,
        )
    if name in TIGERBEETLE:
        return Row(name, own.rate, unit, _ANCHOR, TIGERBEETLE[name], note=note)
    base = series["post_1000"]
    return Row(name, own.rate, unit, "post_1000", base.rate, _GOALS.get(name), note=note)
