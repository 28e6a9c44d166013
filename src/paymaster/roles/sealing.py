"""The sealing lane: what was committed is put into the hash chain a little later.

One process seals a schema at a time (a fenced lease). A block is made when enough has gathered or
the oldest commit has waited for long enough; while there is more, block follows block. Between two
blocks the lane rests, so that it takes only a share of a core from those who post.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from paymaster.compose import Deps
from paymaster.db import lease, seal
from paymaster.db.seal import Block, Place, Waiting
from paymaster.db.tx import Actor, ReadTx, Writes
from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import Busy
from paymaster.kernel.ids import new_trace_id
from paymaster.roles.lanes import Lane

ACTOR = Actor("role:relay")
NAME = "seal"
REST_SECONDS_MOST = 5.0
_LOOK_SECONDS = 0.2


class Sealer:
    """Seals one schema; one object a process and schema.

    `share` is the part of the time in which it works while blocks wait, 1 for all of it.
    """

    def __init__(
        self, place: Place, *, lease_length: timedelta, interval: timedelta, share: float = 1.0
    ) -> None:
        self._place = place
        self._chain = seal.chain_of(place)
        self._length = lease_length
        self._interval = interval
        self._share = share
        self._held: lease.Lease | None = None

    async def step(self) -> int:
        """Seal one block; how many rows it is, its own included, 0 when none is due.

        Raises Broken `chain-gap`, `chain-forked` or `chain-block-size`, Conflict `lease-lost`.
        """
        started = monotonic_seconds()
        found = await self._place.read(lambda tx: seal.waiting(tx, self._chain))
        if not self._due(found, self._place.clock.now()) or not await self._lead():
            return 0
        block = await self._place.read(self._make)
        if block is None:
            return 0
        await self._store(block)
        more = found.committed - block.last_seq >= seal.BLOCK_SEQS
        if more and self._share < 1.0:
            rest = (monotonic_seconds() - started) * (1.0 / self._share - 1.0)
            await asyncio.sleep(min(rest, REST_SECONDS_MOST))
        return block.records + 1

    async def catch_up(self, patience: timedelta) -> tuple[int, int]:
        """Seal all that is committed by now; how many rows were sealed here, and the seq reached.

        While another process seals this schema, it is waited for: until it has done so, or its
        lease has run out. Raises Busy `seal-busy` when neither happens within `patience`, and what
        `step` raises; `chain-gap` without waiting.
        """
        target = await self._place.read(seal.recorded)
        until = monotonic_seconds() + patience.total_seconds()
        rows, waited = 0, False
        while True:
            sealed = await self.step()
            rows += sealed
            newest = await self._place.read(lambda tx: seal.head(tx, self._chain))
            if newest is not None and newest.last_seq >= target:
                return rows, newest.last_seq
            if sealed:
                continue
            if not waited:
                # The leader may have stopped at a gap; making the block here shows it.
                await self._place.read(self._make)
            elif monotonic_seconds() >= until:
                reached = 0 if newest is None else newest.last_seq
                raise Busy(
                    "seal-busy",
                    f"Another process seals {self._chain}; it reached seq {reached} of {target}."
                    " Try again, or look at the lane of the role relay.",
                )
            waited = True
            await asyncio.sleep(_LOOK_SECONDS)

    def _due(self, found: Waiting, now: datetime) -> bool:
        if found.after is None:
            return True
        if found.reach is None or found.oldest is None:
            return False
        full = found.committed - found.after.last_seq >= seal.BLOCK_SEQS
        return full or now - found.oldest >= self._interval

    async def _make(self, tx: ReadTx) -> Block | None:
        """Looked up anew: another process may have sealed until the lease was ours."""
        found = await seal.waiting(tx, self._chain)
        if not self._due(found, tx.now):
            return None
        return await seal.make(tx, self._chain, found)

    async def _store(self, block: Block) -> None:
        held = self._held

        async def work(tx: Writes) -> None:
            if held is not None:
                await lease.still_held(tx, held)
            await seal.write(tx, block)

        await self._place.run(ACTOR, new_trace_id(), work)

    async def _lead(self) -> bool:
        held = self._held
        if held is not None and held.expires_at - self._place.clock.now() > self._length / 2:
            return True

        async def work(tx: Writes) -> lease.Lease | None:
            return await lease.acquire(tx, NAME, self._length, held)

        self._held = await self._place.run(ACTOR, new_trace_id(), work)
        return self._held is not None

    async def give_up(self) -> None:
        """Let a successor begin at once."""
        held = self._held
        if held is not None:

            async def work(tx: Writes) -> None:
                await lease.release(tx, held)

            await self._place.run(ACTOR, new_trace_id(), work)


def sealers(deps: Deps) -> dict[str, Sealer]:
    """One for the directory and one for every cell, by the name of the chain."""
    settings = deps.settings.roles
    places: list[Place] = [
        deps.dbs.control,
        *(deps.dbs.cell(cell.number) for cell in deps.dbs.cells()),
    ]
    return {
        seal.chain_of(place): Sealer(
            place,
            lease_length=timedelta(seconds=settings.lease_seconds),
            interval=timedelta(seconds=settings.seal_interval_seconds),
            share=settings.seal_share,
        )
        for place in places
    }


def lanes(deps: Deps, made: dict[str, Sealer]) -> list[Lane]:
    """A lane for each of them."""
    pause = deps.settings.roles.poll_interval_seconds
    return [Lane(f"seal:{chain}", sealer.step, pause) for chain, sealer in made.items()]
