"""`prove` of a million postings while posting goes on: what it holds in memory does not grow."""

from __future__ import annotations

import asyncio
import json
import random
import sys

import pytest

from paymaster.db.pool import CellDb
from paymaster.kernel.ids import new_trace_id
from paymaster.ledger.post import post
from paymaster_bench.preload import Preload, preload
from paymaster_bench.server import BenchServer, open_server
from paymaster_bench.workload import Accounts, Shape, Traffic
from paymaster_bench.world import ACTOR, make_schemas, open_databases

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

USERS = 50_000
SCRIPT = """
import asyncio, json, os, sys, threading, time
from pathlib import Path
import psycopg
from paymaster.db.snapshots import Pieces
from paymaster.ledger.proof import prove_books
from paymaster_bench.world import open_databases

server_kb, oldest = [0], [0.0]

def watch():
    with psycopg.connect(sys.argv[2], autocommit=True) as owner:
        while True:
            rows = owner.execute(
                "SELECT pid, coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0)"
                " FROM pg_stat_activity WHERE application_name = %s", (f"paymaster-{os.getpid()}",)
            ).fetchall()
            for pid, age in rows:
                oldest[0] = max(oldest[0], float(age))
                status = Path(f"/proc/{pid}/status")
                for line in status.read_text().splitlines() if status.exists() else []:
                    if line.startswith("RssAnon"):
                        server_kb[0] = max(server_kb[0], int(line.split()[1]))
            time.sleep(0.05)

async def main():
    async with open_databases(sys.argv[1], 2) as dbs:
        threading.Thread(target=watch, daemon=True).start()
        proof = await prove_books(Pieces(dbs.cell(1)))
    # Not ru_maxrss: that starts with what the process was that began this one.
    status = Path("/proc/self/status").read_text().splitlines()
    own = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    found = [each.check for each in proof.differences]
    print(json.dumps([proof.postings, found, own // 1024, server_kb[0] // 1024, oldest[0]]))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")
async def test_memory_does_not_grow_with_the_postings() -> None:
    with open_server(None) as server:
        small = await _proven(server, "small", 100_000)
        large = await _proven(server, "large", 1_000_000)
    for postings, found, own_mb, server_mb, oldest_seconds in (small, large):
        assert postings >= 100_000
        assert found == []
        assert own_mb < 200
        assert server_mb < 64
        assert oldest_seconds < 60
    assert large[0] >= 1_000_000
    assert large[2] < small[2] * 1.25


async def _proven(server: BenchServer, name: str, postings: int) -> list:
    """Postings, differences, MB of the process, its server's private MB, the oldest snapshot."""
    database = server.create_database(name)
    make_schemas(server, database)
    await asyncio.to_thread(preload, server.owner_dsn(database), Preload(postings, USERS, 3))
    stop = asyncio.Event()
    async with open_databases(server.app_dsn(database), 2) as dbs:
        posting = asyncio.create_task(_post(dbs.cell(1), stop))
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                SCRIPT,
                server.app_dsn(database),
                server.owner_dsn(database),
                stdout=asyncio.subprocess.PIPE,
            )
            output, _ = await process.communicate()
        finally:
            stop.set()
            assert await posting > 0
    assert process.returncode == 0
    return json.loads(output)


async def _post(cell: CellDb, stop: asyncio.Event) -> int:
    done, rng = 0, random.Random(3)

    async def work(tx) -> int:
        traffic = Traffic(Accounts(USERS), rng, tx.ids)
        (batch,) = traffic.batches(Shape(200), 1)
        return sum(result.done for result in await post(tx, batch.entries))

    while not stop.is_set():
        done += await cell.run(ACTOR, new_trace_id(), work)
        await asyncio.sleep(0.05)
    return done
