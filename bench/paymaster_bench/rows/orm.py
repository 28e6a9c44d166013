"""The same single posting as many services would write it: an ORM, one transaction each.

Same guarantees where they matter: both account rows locked in order, the floor checked, a history
row with the balances after, the posting's id unique. In tables of its own, which nothing else
uses; without entries, holds, business days and the order of commits.
"""

from __future__ import annotations

import importlib.util
from random import Random

from paymaster_bench.bench import Bench
from paymaster_bench.measure import in_turn
from paymaster_bench.report import Findings, Row, skipped
from paymaster_bench.rows.single import CALLERS, Merged, traffic_of
from paymaster_bench.world import CELL, open_databases

ROWS = ("orm",)


async def run(bench: Bench, _wanted: frozenset[str]) -> Findings:
    """Measure merged single calls against it, in turn."""
    if importlib.util.find_spec("sqlalchemy") is None:
        return Findings(
            rows=[skipped("orm", "SQLAlchemy is missing: install paymaster with the extra `bench`")]
        )
    from paymaster_bench.rows.orm_books import OrmBooks  # noqa: PLC0415 - needs the extra

    database = await bench.copy("orm")
    app, owner = bench.server.app_dsn(database), bench.server.owner_dsn(database)
    bench.say("single calls against an ORM")
    async with open_databases(app, 2) as dbs:
        traffic = await traffic_of(bench, dbs.cell(CELL), Random(bench.seed()))
        callers = bench.size.callers(CALLERS)
        async with (
            Merged(dbs.cell(CELL), traffic, callers) as merged,
            OrmBooks(owner, traffic, callers) as orm,
        ):
            await orm.load()
            bench.server.checkpoint()
            series = await in_turn(
                {"merged": merged.closed_loop(), "orm": orm.closed_loop()},
                bench.size.rounds,
                bench.size.seconds,
            )
            merged_ms, orm_ms = (series[name].quantile_ms(0.99) for name in ("merged", "orm"))
            found = Findings(
                rows=[
                    Row(
                        "orm",
                        series["merged"].rate,
                        "postings/s",
                        "SQLAlchemy 2 ORM, one transaction per posting, pool of 16",
                        series["orm"].rate,
                        note=f"{callers} callers, closed loop; p99 {merged_ms:.1f} ms against"
                        f" {orm_ms:.1f} ms",
                    )
                ],
                checks=[await orm.check()],
            )
        found.checks += await merged.checks("orm", app, owner)
    return found
