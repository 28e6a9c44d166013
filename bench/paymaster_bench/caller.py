"""A caller: a process of its own with its own connections that posts, or copies, when told to.

Batches are built, and rows to copy are fetched, before the clock starts. What was asked and what
was answered is kept in arrays and handed over at the end, for the model.
"""

from __future__ import annotations

import asyncio
import gc
from array import array
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from random import Random
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql

from paymaster.db.pool import CellDb
from paymaster.db.tx import CellTx
from paymaster.kernel.clock import WallClock
from paymaster.kernel.ids import new_trace_id
from paymaster.ledger.entry import Posted, Verdict
from paymaster.ledger.post import post
from paymaster_bench.measure import Sample, now_seconds
from paymaster_bench.workload import Accounts, Batch, Shape, Traffic
from paymaster_bench.world import ACTOR, CELL, LaterClock, open_databases

VERDICTS = list(Verdict)
"""By their number in `History.verdicts`."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a caller works with. `tasks` post at the same time; `days` sets its clock ahead."""

    app_dsn: str
    users: int
    seed: int
    tasks: int = 1
    days: int = 0


@dataclass(slots=True)
class History:
    """Everything that was posted, entry by entry; `starts` and `firsts` are one a batch."""

    ids: array[int] = field(default_factory=lambda: array("q"))
    sources: array[int] = field(default_factory=lambda: array("i"))
    destinations: array[int] = field(default_factory=lambda: array("i"))
    amounts: array[int] = field(default_factory=lambda: array("q"))
    verdicts: bytearray = field(default_factory=bytearray)
    starts: array[int] = field(default_factory=lambda: array("q"))
    firsts: array[int] = field(default_factory=lambda: array("q"))
    """The first entry of the batch that was posted; 0 when none was."""

    def add(self, batch: Batch, answers: list[Posted]) -> None:
        """Keep one batch."""
        self.starts.append(len(self.ids))
        first = 0
        for move, answer in zip(batch.moves, answers, strict=True):
            self.ids.append(move.entry_id)
            self.sources.append(move.source)
            self.destinations.append(move.destination)
            self.amounts.append(move.amount)
            self.verdicts.append(VERDICTS.index(answer.verdict))
            if not first and answer.verdict is Verdict.POSTED:
                first = move.entry_id
        self.firsts.append(first)


def main(pipe: Connection[Any, Any], spec: Spec) -> None:
    """Serve until the pipe says `stop`."""
    asyncio.run(_serve(pipe, spec))


async def _serve(pipe: Connection[Any, Any], spec: Spec) -> None:
    clock = LaterClock(spec.days) if spec.days else WallClock()
    async with open_databases(spec.app_dsn, spec.tasks + 1, clock) as dbs:
        caller = _Caller(dbs.cell(CELL), spec)
        copier = _Copier()
        pipe.send("ready")
        while True:
            order, *rest = cast("tuple[str, Any]", pipe.recv())
            match order:
                case "prepare":
                    pipe.send(await caller.prepare(*rest))
                case "post":
                    pipe.send(await caller.run(*rest))
                case "fetch":
                    source, target, chunks, entries = rest
                    pipe.send(copier.fetch(source, target, chunks, with_entries=entries))
                case "copy":
                    pipe.send(copier.run())
                case "history":
                    pipe.send(caller.told())
                case _:
                    copier.close()
                    return


class _Caller:
    def __init__(self, cell: CellDb, spec: Spec) -> None:
        self.history = History()
        self._cell, self._spec = cell, spec
        self._queues: dict[Shape, deque[Batch]] = {}
        self._traffic: Traffic | None = None
        self._answered: list[tuple[Batch, list[Posted]]] = []

    async def prepare(self, shape: Shape, count: int) -> int:
        """Have `count` batches ready; how many there are."""
        self._keep()
        make = await self._cell.workers.maker()
        if self._traffic is None:
            self._traffic = Traffic(Accounts(self._spec.users), Random(self._spec.seed), make)
        queue = self._queues.setdefault(shape, deque())
        queue.extend(self._traffic.batches(shape, max(0, count - len(queue))))
        gc.collect()
        gc.freeze()
        return len(queue)

    async def run(self, shape: Shape, seconds: float) -> Sample:
        """Post for so long, each task one batch after the other."""
        queue = self._queues[shape]
        latencies: list[float] = []
        begun = now_seconds()
        until = begun + seconds

        async def task() -> None:
            while queue and now_seconds() < until:
                batch = queue.popleft()
                start = now_seconds()
                answers = await self._post(batch)
                latencies.append(now_seconds() - start)
                self._answered.append((batch, answers))

        await asyncio.gather(*(task() for _ in range(self._spec.tasks)))
        elapsed = now_seconds() - begun
        count = len(latencies) * shape.batch
        return Sample(count, count / elapsed, latencies)

    async def _post(self, batch: Batch) -> list[Posted]:
        async def work(tx: CellTx) -> list[Posted]:
            return await post(tx, batch.entries)

        return await self._cell.run(ACTOR, new_trace_id(), work)

    def told(self) -> History:
        """All that was posted so far."""
        self._keep()
        return self.history

    def _keep(self) -> None:
        """Move what was answered into the history, outside the measured time."""
        for batch, answers in self._answered:
            self.history.add(batch, answers)
        self._answered.clear()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows to copy in one commit: postings of these ids, and with them their entries."""

    first: int
    last: int


class _Copier:
    """COPY of rows that `post` has stored, byte for byte, into the same table elsewhere."""

    def __init__(self) -> None:
        self._payloads: list[list[tuple[str, bytes]]] = []
        self._targets: dict[str, psycopg.Connection[Any]] = {}
        self._target: psycopg.Connection[Any] | None = None
        self._rows = 0

    def fetch(
        self, source_dsn: str, target_dsn: str, chunks: list[Chunk], *, with_entries: bool
    ) -> int:
        """Read the rows of each chunk as binary COPY data; how many postings these are."""
        self._payloads, self._rows = [], 0
        with psycopg.connect(source_dsn, autocommit=True) as connection:
            connection.execute("SET search_path TO cell_1")
            for chunk in chunks:
                parts: list[tuple[str, bytes]] = []
                if with_entries:
                    parts.append(("entry", _copied(connection, _ENTRIES, chunk)))
                parts.append(("posting", _copied(connection, _POSTINGS, chunk)))
                self._payloads.append(parts)
            for chunk in chunks:
                row = connection.execute(
                    "SELECT count(*) FROM posting WHERE id BETWEEN %s AND %s",
                    (chunk.first, chunk.last),
                ).fetchone()
                self._rows += int(row[0]) if row else 0
        if target_dsn not in self._targets:
            self._targets[target_dsn] = psycopg.connect(target_dsn, autocommit=True)
            self._targets[target_dsn].execute("SET search_path TO cell_1")
        self._target = self._targets[target_dsn]
        return self._rows

    def run(self) -> Sample:
        """Copy everything that was fetched, one commit a chunk."""
        connection = self._target
        if connection is None:
            return Sample(0, 0.0)
        latencies: list[float] = []
        begun = now_seconds()
        with connection.cursor() as cursor:
            for parts in self._payloads:
                start = now_seconds()
                if len(parts) > 1:
                    cursor.execute("BEGIN")
                for table, payload in parts:
                    with cursor.copy(_INTO[table]) as copy:
                        copy.write(payload)
                if len(parts) > 1:
                    cursor.execute("COMMIT")
                latencies.append(now_seconds() - start)
        elapsed = now_seconds() - begun
        return Sample(self._rows, self._rows / elapsed if elapsed else 0.0, latencies)

    def close(self) -> None:
        """Let go of the connections."""
        for connection in self._targets.values():
            connection.close()


_POSTINGS = "COPY (SELECT * FROM posting WHERE id BETWEEN {} AND {} ORDER BY id) TO STDOUT BINARY"
_ENTRIES = (
    "COPY (SELECT e.* FROM (SELECT DISTINCT entry_id FROM posting WHERE id BETWEEN {} AND {}) p"
    " JOIN entry e ON e.id = p.entry_id ORDER BY e.id) TO STDOUT BINARY"
)
_INTO: dict[str, LiteralString] = {
    "entry": "COPY entry FROM STDIN BINARY",
    "posting": "COPY posting FROM STDIN BINARY",
}


def _copied(connection: psycopg.Connection[Any], statement: str, chunk: Chunk) -> bytes:
    query = sql.SQL(cast("LiteralString", statement)).format(
        sql.Literal(chunk.first), sql.Literal(chunk.last)
    )
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        return b"".join(bytes(part) for part in copy)
