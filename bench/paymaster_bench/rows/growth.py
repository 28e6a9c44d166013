"""`post` after ten million postings against `post` on a ledger with openings only, in turn."""

from __future__ import annotations

from paymaster_bench import checks
from paymaster_bench.bench import Bench
from paymaster_bench.caller import Spec
from paymaster_bench.callers import start_callers
from paymaster_bench.measure import Sample, in_turn
from paymaster_bench.preload import Preload, preload
from paymaster_bench.report import Findings, Row
from paymaster_bench.rows.posting import CALLERS, SHAPES
from paymaster_bench.world import make_schemas, settle_down

ROWS = ("growth",)


def _tomorrow(bench: Bench, dsn: str) -> list[Spec]:
    """A new day for both, so that neither has an advantage in first postings of a day."""
    return [Spec(dsn, bench.size.users, bench.seed(), days=1) for _ in range(CALLERS)]


async def run(bench: Bench, _wanted: frozenset[str]) -> Findings:
    """Fill one ledger, leave one empty, post to both in turn."""
    server, size, shape = bench.server, bench.size, SHAPES["post_1000"]
    empty = await bench.copy("empty")
    grown = server.create_database("grown")
    make_schemas(server, grown)
    bench.say(f"loading {size.grown_postings:,} postings")
    wanted = Preload(size.grown_postings, users=size.users)
    loaded = preload(server.owner_dsn(grown), wanted)
    settle_down(server, grown)
    empty_dsn, grown_dsn = server.app_dsn(empty), server.app_dsn(grown)
    with (
        start_callers(_tomorrow(bench, empty_dsn)) as few,
        start_callers(_tomorrow(bench, grown_dsn)) as many,
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
    return Findings(
        rows=[row],
        checks=[
            await checks.prove("growth, empty", empty_dsn, ledger_only=True),
            await checks.prove("growth, grown", grown_dsn, ledger_only=True),
        ],
    )
