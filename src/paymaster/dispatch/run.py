"""The loop of one environment: what is due is claimed, and goes its way in its account's lane.

`tick` claims and returns at once; the network runs in tasks of its own, so a provider that hangs
holds up nothing but itself. A process may be stopped anywhere: what it had claimed becomes unknown
when the lease runs out, and is resolved by whoever is there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import TypeVar

from paymaster.db.cells import Databases
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellTx, ControlRead
from paymaster.dispatch import accounts, batch, failover, policy, resolve, send, store, window
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.batch_store import Asked
from paymaster.dispatch.desk import WELL, Desk, Order, Pace, Standing
from paymaster.dispatch.lane import Lane
from paymaster.dispatch.policy import PayoutPolicy
from paymaster.dispatch.purse import Guard
from paymaster.dispatch.under_way import UnderWay, guarded
from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.retry import Backoff
from paymaster.kernel.sources import jitter
from paymaster.observe import Metrics, get_logger
from paymaster.rails.base import Queries, Rail
from paymaster.secrets.sealing import Sealer

T = TypeVar("T")
_log = get_logger(__name__)
_FAILED = "dispatch_failed"
_REFRESH_SECONDS = 2.0
_FINISH_TRIES = 40
_FINISH_AGAIN = Backoff(timedelta(milliseconds=50), timedelta(seconds=3))


class Dispatcher:
    """Sends and resolves for one environment; one object a process."""

    def __init__(
        self,
        dbs: Databases,
        environment_id: int,
        rails: Mapping[str, Rail],
        sealer: Sealer,
        *,
        metrics: Metrics | None = None,
        pace: Pace | None = None,
        random: Random | None = None,
        actor: Actor | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._dbs = dbs
        self._environment_id = environment_id
        self._desk = Desk({}, rails, sealer, pace or Pace(), standing=self._standing)
        self._metrics = metrics or Metrics()
        self._random = random or jitter()
        self._actor = actor or Actor("role:dispatch")
        self._guard = guard
        self._lanes: dict[int, Lane] = {}
        self._windows: set[tuple[int, int, str]] = set()
        self._tasks = UnderWay("lane_failed")
        self._refreshed: float | None = None
        self._changes = 0
        self._changes_known: dict[int, int] = {}
        self._crowded = False
        self._call_ended = asyncio.Event()

    @property
    def lanes(self) -> Mapping[int, Lane]:
        """The lanes by account id."""
        return self._lanes

    async def tick(self, cell: int) -> int:
        """Claim what is due in a cell and set it going; how many things were claimed.

        Raises Busy when the database cannot be reached.
        """
        await self._refresh()
        db, ids = self._dbs.cell(cell), list(self._desk.accounts)
        await self._route_again(db)
        due: dict[int, set[str]] = {}
        for one in await db.read(lambda tx: store.due(tx, ids)):
            due.setdefault(one.rail_account_id, set()).add(one.work)
        claimed = 0
        for account_id, work in due.items():
            account = self._desk.accounts.get(account_id)
            if account is not None:
                claimed += await guarded(_FAILED, self._serve, db, account, work)
        if "approved" in due.get(0, ()) and self._takes_more():
            claimed += await guarded(_FAILED, self._approved, db)
        self._crowded = bool(due) and not claimed
        return claimed

    async def work(self, cell: int, patience_seconds: float) -> int:
        """Tick; where all that is due waits for room, wait until a call has ended, and say 1.

        So a lane goes on as soon as it can, and not at its next look.
        """
        claimed = await self.tick(cell)
        if claimed or not self._crowded or not self._tasks:
            return claimed
        self._call_ended.clear()
        try:
            async with asyncio.timeout(patience_seconds):
                await self._call_ended.wait()
        except TimeoutError:
            return 0
        return 1

    async def drain(self) -> None:
        """Wait until everything under way has ended."""
        await self._tasks.drain()

    async def stop(self) -> None:
        """Break off what is under way; its leases run out and somebody resolves it."""
        await self._tasks.stop()

    async def _refresh(self) -> None:
        now = monotonic_seconds()
        if self._refreshed is not None and now - self._refreshed < _REFRESH_SECONDS:
            return
        found, wanted = await self._dbs.control.read(self._known)
        guard = self._guard
        watched = frozenset(one.id for one in found.values() if guard and guard.watches(one))
        self._changes += found != self._desk.accounts
        self._desk = replace(self._desk, accounts=found, policy=wanted, watched=watched)
        for account in found.values():
            self._lanes.setdefault(account.id, Lane()).configure(account)
        self._refreshed = now

    async def _known(self, tx: ControlRead) -> tuple[dict[int, PayoutAccount], PayoutPolicy]:
        accounts_now = await accounts.listed(tx, self._environment_id)
        return accounts_now, await policy.current(tx, self._environment_id)

    async def _route_again(self, db: CellDb) -> None:
        """Accounts that are new or other ones may pay what had no way out.

        Whoever said so may have done it by the accounts of two seconds ago.
        """
        changes = self._changes
        if self._changes_known.get(db.number) == changes:
            return
        if await db.read(store.any_unrouted):
            await self._run(db, store.route_again)
        self._changes_known[db.number] = changes

    def _standing(self, account_id: int) -> Standing:
        lane = self._lanes.get(account_id)
        if lane is None:
            return WELL
        now = self._now()
        return Standing(lane.healthy(now), lane.share(now))

    def reload(self) -> None:
        """Read the accounts again at the next tick, whatever the time."""
        self._refreshed = None

    def _now(self) -> datetime:
        return self._dbs.clock_of(self._environment_id).now()

    async def _run(self, db: CellDb, work: Callable[[CellTx], Awaitable[T]]) -> T:
        return await db.run(self._actor, new_trace_id(), work)

    async def _serve(self, db: CellDb, account: PayoutAccount, work: set[str]) -> int:
        """Everything but routing, for one account; what is oldest first."""
        desk, claimed = self._desk, 0
        items = desk.pace.items
        if "silent" in work:
            claimed += await self._run(db, lambda tx: resolve.expire(tx, account, items))
            work = work | {"doubted"}
        if "prepared" in work:
            orders = await self._claim(db, account, resolve.claim_prepared)
            claimed += self._deliver(db, account, orders)
        if "doubted" in work:
            orders = await self._claim(db, account, resolve.claim_replays)
            claimed += self._deliver(db, account, orders)
        if "dead" in work:
            claimed += await self._run(db, lambda tx: failover.follow_up(tx, desk, account, items))
        if "asked" in work:
            asked = await self._claim(db, account, resolve.claim_questions)
            claimed += self._ask(db, account, asked)
        if self._may_leave(db, account, work):
            claimed += self._deliver(db, account, await self._leave(db, account))
        return claimed

    async def _leave(self, db: CellDb, account: PayoutAccount) -> list[Order]:
        """Claim of what waits for an account; of a watched one what its float is enough for."""
        if self._guard is None or account.id not in self._desk.watched:
            return await self._claim(db, account, batch.claim_queued)
        async with self._guard.purse(account) as purse:
            if purse is None:
                return []
            return await self._claim(db, account, partial(batch.claim_queued, purse=purse))

    async def _claim(
        self,
        db: CellDb,
        account: PayoutAccount,
        claim: Callable[[CellTx, Desk, PayoutAccount, int], Awaitable[list[T]]],
    ) -> list[T]:
        """Claim as much as the lane has room for; taken before, because other cells ask too."""
        desk, lane = self._desk, self._lanes[account.id]
        room = lane.room(self._now())
        if not room:
            return []
        lane.begin(room)
        claimed: list[T] = []
        try:
            claimed = await self._run(db, lambda tx: claim(tx, desk, account, room))
        finally:
            lane.give_back(room - len(claimed))
        return claimed

    def _may_leave(self, db: CellDb, account: PayoutAccount, work: set[str]) -> bool:
        """Whether it is worth a transaction to look for what waits for the account."""
        if account.payout_window == window.ALWAYS:
            return bool(work & {"queued", "transfer"})
        if "window" in work:
            return True
        known = (db.number, account.id, account.payout_window)
        first_look = bool(work & {"queued", "transfer"}) and known not in self._windows
        self._windows.add(known)
        return first_look

    def _takes_more(self) -> bool:
        """Whether approved withdrawals can go anywhere; when all lanes are full, let them be."""
        now = self._now()
        return not self._lanes or any(
            account.payout_window != window.ALWAYS or self._lanes[account.id].room(now)
            for account in self._desk.accounts.values()
        )

    async def _approved(self, db: CellDb) -> int:
        desk, now = self._desk, self._now()
        rooms = {account_id: lane.room(now) for account_id, lane in self._lanes.items()}
        for account_id, room in rooms.items():
            self._lanes[account_id].begin(room)
        grouped: dict[int, list[Order]] = {account_id: [] for account_id in rooms}
        try:
            orders = await self._run(db, lambda tx: batch.claim_approved(tx, desk, rooms))
            for order in orders:
                grouped[order.account.id].append(order)
        finally:
            for account_id, room in rooms.items():
                self._lanes[account_id].give_back(room - len(grouped[account_id]))
        for group in grouped.values():
            if group:
                self._deliver(db, group[0].account, group)
        return len(orders) + 1

    def _deliver(self, db: CellDb, account: PayoutAccount, orders: Sequence[Order]) -> int:
        """Send claimed orders, whose room has been taken."""
        rail = self._desk.rail(account)
        if rail is not None and orders:
            self._tasks.start(self._send_all(db, account, rail, orders))
        return len(orders)

    async def _send_all(
        self, db: CellDb, account: PayoutAccount, rail: Rail, orders: Sequence[Order]
    ) -> None:
        """Send orders side by side; those that end together are written together."""
        desk, lane, clock = self._desk, self._lanes[account.id], db.clock
        began, left = monotonic_seconds(), len(orders)
        ended: list[send.Sent] = []
        some_ended = asyncio.Event()

        async def one(order: Order) -> None:
            try:
                ended.append(await send.call(rail, order, desk.pace, clock))
            finally:
                some_ended.set()

        tasks = [asyncio.create_task(one(order)) for order in orders]
        try:
            while left:
                await some_ended.wait()
                some_ended.clear()
                sent = ended.copy()
                ended.clear()
                if not sent:  # a call was broken off
                    await asyncio.gather(*(task for task in tasks if task.done()))
                left -= len(sent)
                lane.end(len(sent))
                self._call_ended.set()
                self._measure(account, lane, sent, monotonic_seconds() - began)
                await self._finish(db, desk, sent)
        finally:
            lane.end(left)
            for task in tasks:
                task.cancel()

    def _measure(
        self, account: PayoutAccount, lane: Lane, sent: Sequence[send.Sent], seconds: float
    ) -> None:
        rail, now = account.rail.rail, self._now()
        duration = self._metrics.rail_call_duration_seconds.labels(rail)
        for answer, count in Counter(each.answer for each in sent).items():
            self._metrics.dispatch_attempts.labels(rail, answer.value).inc(count)
        for each in sent:
            duration.observe(seconds)
            lane.record(success=each.healthy, now=now)

    async def _finish(self, db: CellDb, desk: Desk, sent: Sequence[send.Sent]) -> None:
        """Write what calls brought; if that fails together, each alone."""
        try:
            await self._run(db, lambda tx: send.finish(tx, desk, sent, self._random))
        except Exception as error:  # noqa: BLE001 - found out one by one below
            _log.warning("finish_failed_together", error=type(error).__name__, orders=len(sent))
            await asyncio.gather(*(self._finish_alone(db, desk, each) for each in sent))

    async def _finish_alone(self, db: CellDb, desk: Desk, sent: send.Sent) -> None:
        """Keep trying while the lease lasts: what is known only here must not be forgotten."""
        batch_key = sent.order.prepared.batch_key
        for tries in range(1, _FINISH_TRIES + 1):
            try:
                await self._run(db, lambda tx: send.finish(tx, desk, [sent], self._random))
                return
            except Exception as error:  # noqa: BLE001 - tried again while it is ours
                if tries == _FINISH_TRIES or self._now() >= sent.order.until:
                    # The lease runs out, the order becomes unknown and is resolved.
                    _log.exception("finish_failed", batch=batch_key, error=type(error).__name__)
                    return
            await asyncio.sleep(_FINISH_AGAIN.delay(tries, self._random).total_seconds())

    def _ask(self, db: CellDb, account: PayoutAccount, asked: Sequence[Asked]) -> int:
        rail = self._desk.rail(account)
        if isinstance(rail, Queries) and asked:
            self._tasks.start(self._ask_all(db, account, rail, asked))
        return len(asked)

    async def _ask_all(
        self, db: CellDb, account: PayoutAccount, rail: Queries, asked: Sequence[Asked]
    ) -> None:
        desk, lane, clock = self._desk, self._lanes[account.id], db.clock
        try:
            told = await asyncio.gather(
                *(resolve.ask(rail, account, each, desk.pace, clock) for each in asked)
            )
        finally:
            lane.end(len(asked))
        for each in told:
            lane.record(success=each.healthy, now=self._now())
        absent = await self._run(
            db, lambda tx: resolve.conclude(tx, desk, account, told, self._random)
        )
        if absent:
            await self._again(
                db, account, lambda tx: resolve.claim_proven(tx, desk, account, absent)
            )
        if unshown := resolve.unshown(told):
            await self._again(
                db, account, lambda tx: resolve.claim_unshown(tx, desk, account, unshown)
            )

    async def _again(
        self,
        db: CellDb,
        account: PayoutAccount,
        claim: Callable[[CellTx], Awaitable[list[Order]]],
    ) -> None:
        """Send orders again, whatever room there is: the provider has just answered about them."""
        orders = await self._run(db, claim)
        self._lanes[account.id].begin(len(orders))
        self._deliver(db, account, orders)
