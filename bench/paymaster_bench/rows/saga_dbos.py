"""The reference of `saga`: a DBOS workflow with one step for each move, in threads.

Each step is one transaction of the same functions that the roles use; DBOS stores each step's
outcome beside it. Threads were its quickest way here, so that is how it runs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode

from dbos import DBOS, DBOSConfig
from psycopg.conninfo import conninfo_to_dict

from paymaster.db.cells import Databases
from paymaster.db.tx import CellTx
from paymaster.kernel.clock import WallClock
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import new_trace_id
from paymaster.withdraw.machine import Event
from paymaster.withdraw.moves import Step, move
from paymaster_bench.measure import Sample, now_seconds
from paymaster_bench.world import ACTOR, CELL

T = TypeVar("T")
AT_ONCE = 32


class _Books:
    """The cell, on an event loop in a thread of its own, called from DBOS's threads."""

    def __init__(self, app_dsn: str, rail_account_id: int) -> None:
        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, daemon=True).start()
        self._dbs = Databases({"main": app_dsn}, WallClock(), connections=16)
        self.rail_account_id = rail_account_id
        self.wait(self._dbs.open())

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it over there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def step(
        self, withdrawal_id: int, event: Event, *, lease: bool = False, rail: bool = False
    ) -> None:
        """One move in one transaction."""

        async def work(tx: CellTx) -> None:
            token = None
            if lease:
                token = tx.id()
                await tx.execute(
                    "UPDATE withdrawal SET lease_token = %s WHERE id = %s", (token, withdrawal_id)
                )
            account = self.rail_account_id if rail else None
            step = Step(withdrawal_id, event, rail_account_id=account, lease_token=token)
            [moved] = await move(tx, [step])
            if not moved.done and moved.slug != "already":
                raise Broken("bench-move", f"{event} of {withdrawal_id}: {moved.slug}")

        self.wait(self._dbs.cell(CELL).run(ACTOR, new_trace_id(), work))

    def close(self) -> None:
        """Close the pool."""
        self.wait(self._dbs.close())


_books: list[_Books] = []


@DBOS.step()
def _screen(withdrawal_id: int) -> None:
    _books[0].step(withdrawal_id, Event.SCREEN)


@DBOS.step()
def _approve(withdrawal_id: int) -> None:
    _books[0].step(withdrawal_id, Event.APPROVE, lease=True)


@DBOS.step()
def _send(withdrawal_id: int) -> None:
    _books[0].step(withdrawal_id, Event.SEND, rail=True)


@DBOS.step()
def _settle(withdrawal_id: int) -> None:
    _books[0].step(withdrawal_id, Event.SETTLE)


@DBOS.workflow()
def _payout(withdrawal_id: int) -> int:
    _screen(withdrawal_id)
    _approve(withdrawal_id)
    _send(withdrawal_id)
    _settle(withdrawal_id)
    return withdrawal_id


def main(pipe: Connection[Any, Any], spec: tuple[str, str, int]) -> None:
    """Serve until the pipe says `stop`."""
    app_dsn, owner_dsn, rail_account_id = spec
    _books.append(_Books(app_dsn, rail_account_id))
    config: DBOSConfig = {
        "name": "paymaster-bench",
        "system_database_url": _url(owner_dsn),
        "sys_db_pool_size": 16,
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    pipe.send("ready")
    while True:
        order, *rest = cast("tuple[Any, ...]", pipe.recv())
        if order == "stop":
            break
        pipe.send(_run(*rest))
    DBOS.destroy()
    _books[0].close()


def _run(ids: list[int], seconds: float) -> Sample:
    """Keep so many workflows going for so long; those begun are finished."""
    waiting, running, done = deque(ids), deque[Any](), 0
    begun = now_seconds()
    while waiting or running:
        while waiting and len(running) < AT_ONCE and now_seconds() - begun < seconds:
            running.append(DBOS.start_workflow(_payout, waiting.popleft()))
        if not running:
            break
        running.popleft().get_result()
        done += 1
    return Sample(done, done / (now_seconds() - begun))


def _url(dsn: str) -> str:
    """The address as SQLAlchemy wants it."""
    parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    login = f"{quote(parts.pop('user', ''), safe='')}:{quote(parts.pop('password', ''), safe='')}"
    database = parts.pop("dbname")
    return f"postgresql+psycopg://{login}@/{database}?{urlencode(parts)}"
