"""The loop of taking money in: claim what is due, call the provider, write what came of it.

Each account has a lane of its own, so that a provider that hangs or refuses holds up no other.
Calls are made outside any transaction and side by side; what a process that dies leaves behind is
found by its lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from random import Random
from typing import TypeVar

from paymaster.db.cells import Databases
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellTx
from paymaster.dispatch import accounts
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.lane import Lane
from paymaster.dispatch.under_way import UnderWay, guarded
from paymaster.kernel.errors import Busy
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.retry import Backoff
from paymaster.kernel.sources import jitter
from paymaster.observe import get_logger
from paymaster.payin import refunding, store, work
from paymaster.payin.pace import Pace
from paymaster.payin.request import taker
from paymaster.rails.base import Rail
from paymaster.rails.payin import TakesPayments
from paymaster.secrets.sealing import Sealer

T = TypeVar("T", work.Told, refunding.Told)
_log = get_logger(__name__)
ACTOR = Actor("role:dispatch")
_FAILED = "payin_failed"
_WRITE_TRIES = 6
_WRITE_AGAIN = Backoff(timedelta(milliseconds=100), timedelta(seconds=2))


class Collector:
    """Takes money in for one environment; one object a process."""

    def __init__(
        self,
        dbs: Databases,
        environment_id: int,
        rails: Mapping[str, Rail],
        sealer: Sealer,
        *,
        pace: Pace | None = None,
        random: Random | None = None,
    ) -> None:
        self._dbs = dbs
        self._environment_id = environment_id
        self._rails = rails
        self._sealer = sealer
        self._pace = pace or Pace()
        self._random = random or jitter()
        self._lanes: dict[int, Lane] = {}
        self._tasks = UnderWay(_FAILED)

    async def tick(self, cell: int) -> int:
        """Claim what is due in a cell and set it going; how many things were claimed.

        Raises Busy when the database cannot be reached.
        """
        db = self._dbs.cell(cell)
        due = await db.read(store.due_accounts)
        if not due:
            return 0
        known = await accounts.load(self._dbs, self._environment_id)
        claimed = 0
        for account_id in due:
            account = known.get(account_id)
            rail = None if account is None else taker(self._rails, account)
            if account is not None and rail is not None:
                claimed += await guarded(_FAILED, self._serve, db, account, rail)
        return claimed

    async def drain(self) -> None:
        """Wait until everything under way has ended."""
        await self._tasks.drain()

    async def stop(self) -> None:
        """Break off what is under way; its leases run out and it is asked about."""
        await self._tasks.stop()

    async def _serve(self, db: CellDb, account: PayoutAccount, rail: TakesPayments) -> int:
        lane, pace = self._lanes.setdefault(account.id, Lane()), self._pace
        lane.configure(account)
        room = min(lane.room(self._dbs.clock_of(self._environment_id).now()), pace.items)
        if not room:
            return 0
        lane.begin(room)
        charges: list[work.Task] = []
        refunds: list[refunding.Task] = []

        async def claim(tx: CellTx) -> None:
            nonlocal charges, refunds
            # Anybody may ask for charges, as many as he likes; they hold up no refund.
            refunds = await refunding.claim(tx, account, (room + 1) // 2, pace)
            charges = await work.claim(tx, self._sealer, account, room - len(refunds), pace)

        try:
            await db.run(ACTOR, new_trace_id(), claim)
        finally:
            lane.give_back(room - len(charges) - len(refunds))
        for task in charges:
            self._tasks.start(self._charge(db, account, rail, lane, task))
        for order in refunds:
            self._tasks.start(self._refund(db, account, rail, lane, order))
        return len(charges) + len(refunds)

    async def _charge(
        self, db: CellDb, account: PayoutAccount, rail: TakesPayments, lane: Lane, task: work.Task
    ) -> None:
        told = await self._called(db, lane, work.call(rail, account, task, self._pace, db.clock))
        await self._write(
            db,
            task.row.trace_id,
            lambda tx: work.conclude(tx, self._sealer, account, [told], self._pace, self._random),
        )

    async def _refund(
        self,
        db: CellDb,
        account: PayoutAccount,
        rail: TakesPayments,
        lane: Lane,
        task: refunding.Task,
    ) -> None:
        told = await self._called(
            db, lane, refunding.call(rail, account, task, self._pace, db.clock)
        )
        await self._write(
            db,
            task.row.trace_id,
            lambda tx: refunding.conclude(tx, account, [told], self._pace, self._random),
        )

    async def _called(self, db: CellDb, lane: Lane, calling: Awaitable[T]) -> T:
        """What a call brought, once its room in the lane is free again."""
        try:
            told = await calling
        finally:
            lane.end()
        lane.record(success=told.healthy, now=db.clock.now())
        return told

    async def _write(
        self, db: CellDb, trace_id: str, write: Callable[[CellTx], Awaitable[None]]
    ) -> None:
        """Try again while the database is busy: what is known only here is worth keeping.

        Should it fail for good, the lease runs out, and it is asked about anew.
        """
        for tries in range(1, _WRITE_TRIES):
            try:
                await db.run(ACTOR, trace_id, write)
                return
            except Busy as error:
                _log.warning("payin_write_busy", slug=error.slug, tries=tries)
            await asyncio.sleep(_WRITE_AGAIN.delay(tries, self._random).total_seconds())
        await db.run(ACTOR, trace_id, write)
