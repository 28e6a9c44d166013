"""No payment leaves an account that has not got it: one process counts for an account at a time.

What an account has is spread over the cells, and nothing spans two of them. So whoever lets
payments out holds a lease in the treasury cell, raises its token in every cell, and counts only
then. Who has lost the lease and does not know it finds another token in the cell and takes nothing;
what it took before that is in the count.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from paymaster.db import lease
from paymaster.db.cells import Databases
from paymaster.db.tx import Actor
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.purse import Purse
from paymaster.funding import store
from paymaster.funding.look import in_order
from paymaster.kernel.ids import new_trace_id
from paymaster.settings import Funding

ACTOR = Actor("role:dispatch")
MINIMUM = "minimum_float"
"""Setting of a rail account: what stays on it, in minor units."""


class FloatGuard:
    """Counts the floats of one environment; one object a process."""

    def __init__(
        self, dbs: Databases, environment_id: int, settings: Funding, lease_length: timedelta
    ) -> None:
        self._dbs = dbs
        self._environment_id = environment_id
        environment = dbs.environment(environment_id)
        self._enforces = settings.mode_of(environment.tenant, environment.mode) == "enforce"
        self._patience = timedelta(hours=settings.patience_hours)
        self._length = lease_length
        self._held: dict[int, lease.Lease] = {}
        self._raised: dict[int, int] = {}
        self._counting: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    def watches(self, account: PayoutAccount) -> bool:
        """See `purse.Guard`."""
        return self._enforces and account.environment_id == self._environment_id

    @asynccontextmanager
    async def purse(self, account: PayoutAccount) -> AsyncGenerator[Purse | None]:
        """See `purse.Guard`."""
        async with self._counting[account.id]:
            token = await self._lead(account.id)
            yield None if token is None else await self._count(account, token)

    async def give_up(self) -> None:
        """Let a successor begin at once."""
        treasury = self._dbs.treasury(self._environment_id)
        for held in list(self._held.values()):
            await treasury.run(ACTOR, new_trace_id(), lambda tx, h=held: lease.release(tx, h))
        self._held.clear()

    async def _lead(self, account_id: int) -> int | None:
        """The token under which this process counts; None while another one does."""
        treasury = self._dbs.treasury(self._environment_id)
        held = self._held.get(account_id)
        if held is None or held.expires_at - treasury.clock.now() < self._length / 2:
            name = f"float:{account_id}"
            got = await treasury.run(
                ACTOR, new_trace_id(), lambda tx: lease.acquire(tx, name, self._length, held)
            )
            if got is None:
                self._held.pop(account_id, None)
                return None
            held = self._held[account_id] = got
        if self._raised.get(account_id) != held.token:
            for cell in self._dbs.cells(self._environment_id):
                token = held.token
                await self._dbs.cell(cell.number).run(
                    ACTOR, new_trace_id(), lambda tx, t=token: store.raise_fence(tx, account_id, t)
                )
            self._raised[account_id] = held.token
        return held.token

    async def _count(self, account: PayoutAccount, token: int) -> Purse:
        room = -account.number(MINIMUM, 0)
        for cell in in_order(self._dbs, self._environment_id):
            room += await cell.read(lambda tx: store.spare(tx, account.id, account.rail.currency))
        return Purse(account.id, max(0, int(room)), token, self._patience)
