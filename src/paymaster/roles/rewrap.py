"""The rewrapping lane: everything sealed comes under the newest key while requests go on.

A new key-encryption key makes all older values due. The lane walks each table in the order of its
key, a window at a time: it looks without a lock, then takes the due rows that nobody else holds,
wraps their keys anew and commits. Bodies are not decrypted. Where it stopped is stored, and a step
done twice changes nothing, so a crash costs at most one window.

A table is done when a whole pass found nothing to do, and began when every process had long used
the new key: only then nothing is written under the old one any more. Should somebody do so all the
same (who begins anew takes files that were just put in place for new versions), the hourly count
finds it, and the table is gone through again. Fingerprints of destinations go the same way under a
new fingerprint key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from paymaster.compose import Deps
from paymaster.db import audit, lease, seal, sealed
from paymaster.db.pool import CellDb
from paymaster.db.seal import Place
from paymaster.db.sealed import DATA_KEY, Progress, Rewrapped, SealedColumn
from paymaster.db.tx import Actor, Writes
from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import Broken, PaymasterError
from paymaster.kernel.ids import new_trace_id
from paymaster.observe import get_logger
from paymaster.people import fingerprints
from paymaster.roles.lanes import Lane
from paymaster.secrets.port import Wrapped
from paymaster.secrets.sealing import Sealer

ACTOR = Actor("role:relay")
NAME = "rewrap"
LOOK_ITEMS, TAKE_ITEMS = 2000, 200
PAUSE_SECONDS, MEASURE_SECONDS = 5.0, 3600.0
_STUCK_SECONDS = 600.0
log = get_logger("paymaster.rewrap")


@dataclass(frozen=True, slots=True)
class Tempo:
    """How much at once: rows looked at, rows taken; what a pass must wait for, and the lease."""

    look: int = LOOK_ITEMS
    take: int = TAKE_ITEMS
    settle: timedelta = timedelta(0)
    lease: timedelta = timedelta(seconds=60)


class Rewrapper:
    """Wraps one schema anew; one object a process and schema."""

    def __init__(self, deps: Deps, place: Place, tempo: Tempo) -> None:
        self._deps = deps
        self._place = place
        self._sealer = deps.secrets.sealer
        self._tempo = tempo
        self._held: lease.Lease | None = None
        self._rests_until: dict[str, float] = {}
        self._ready_at = monotonic_seconds() + tempo.settle.total_seconds()
        self._stuck: dict[str, int] = {}
        self._columns = sealed.columns("cell" if isinstance(place, CellDb) else "control")

    async def step(self) -> int:
        """One window; how many rows it looked at, 0 when nothing is due.

        Raises Broken `rewrap-stuck` at the end of a pass with values that no key here opens.
        """
        known = await self._place.read(sealed.progress)
        for column in self._columns:
            state = self._due(known.get(column.table), column.table, self._sealer.current_id())
            if state is not None and await self._lead():
                return await self._window(column, state)
        return await self._fingerprints(known)

    def _due(self, known: Progress | None, name: str, key_id: str) -> Progress | None:
        """Where to go on; None when the table is done, or rests."""
        now = self._now()
        if known is None or known.key_id != key_id:
            if known is not None and monotonic_seconds() < self._ready_at:
                return None  # by the times of files an older key may still pass for the one in use
            self._rests_until.pop(name, None)
            return Progress(name, key_id, now, now, None, 0, 0, None)
        if known.done_at is not None or monotonic_seconds() < self._rests_until.get(name, 0.0):
            return None
        if known.after_key is not None:
            return known
        return replace(known, started_at=now) if known.started_at <= now else None

    def _now(self) -> datetime:
        """The machine's time: that of a test environment says nothing of other processes."""
        return self._deps.dbs.clock.now()

    async def _window(self, column: SealedColumn, state: Progress) -> int:
        found = await self._place.read(
            lambda tx: sealed.look(tx, column, state.key_id, state.after_key, self._tempo.look)
        )
        if found.last is None:
            return await self._after_pass(column, state)
        size = self._tempo.take
        parts = [found.stale[at : at + size] for at in range(0, len(found.stale), size)] or [()]
        for part in parts:
            reached = found.last if part is parts[-1] else part[-1]
            state = await self._part(column, state, part, reached)
        return self._tempo.look

    async def _part(
        self,
        column: SealedColumn,
        state: Progress,
        keys: Sequence[tuple[str, ...]],
        reached: tuple[str, ...],
    ) -> Progress:
        """One transaction; where the pass stands after it."""

        async def work(tx: Writes) -> tuple[Progress, int]:
            await self._fence(tx)
            done = await self._rewrap(tx, column, keys) if keys else Rewrapped(0, 0, ())
            missed = state.missed + done.busy + len(done.stuck)
            changed = state.changed + done.changed
            row = replace(state, after_key=list(reached), changed=changed, missed=missed)
            await sealed.save(tx, row)
            return row, len(done.stuck)

        started = monotonic_seconds()
        row, stuck = await self._place.run(ACTOR, new_trace_id(), work)
        self._stuck[column.table] = self._stuck.get(column.table, 0) + stuck
        # As long a rest as the work took: those who are served go first.
        await asyncio.sleep(min(monotonic_seconds() - started, 1.0) if keys else 0.0)
        return row

    async def _rewrap(
        self, tx: Writes, column: SealedColumn, keys: Sequence[tuple[str, ...]]
    ) -> Rewrapped:
        rows = await sealed.take(tx, column, keys)
        fresh: list[tuple[tuple[str, ...], bytes, str]] = []
        stuck: list[tuple[str, ...]] = []
        for row in rows:
            key = tuple(map(str, row[:-2]))
            try:
                value = anew(self._sealer, column, row[-2], row[-1])
            except Broken as error:
                log.error(  # noqa: TRY400 - an expected fault, told with its place
                    "sealed_value_stuck", table=column.table, row="/".join(key), slug=error.slug
                )
                stuck.append(key)
                continue
            if value is not None:
                fresh.append((key, *value))
        if fresh:
            await sealed.put(tx, column, fresh)
        return Rewrapped(len(fresh), len(keys) - len(rows), stuck)

    async def _ended(self, tx: Writes, state: Progress) -> bool:
        """The end of a pass: whether that was the last, or it goes once more from the beginning."""
        await self._fence(tx)
        now = self._now()
        clean, settled_at = not state.changed and not state.missed, state.since + self._tempo.settle
        if clean and state.started_at >= settled_at:
            await sealed.save(tx, replace(state, after_key=None, done_at=now))
            detail = {"key_id": state.key_id}
            await audit.record(tx, [audit.Act("keys.rewrapped", state.name, detail=detail)])
            return True
        next_at = max(settled_at, now) if clean else now
        anew = replace(state, after_key=None, changed=0, missed=0, started_at=next_at)
        await sealed.save(tx, anew)
        return bool(state.changed)

    async def _after_pass(self, column: SealedColumn, state: Progress) -> int:
        """1 to go on at once. Raises Broken `rewrap-stuck`."""

        async def work(tx: Writes) -> bool:
            return await self._ended(tx, state)

        on = await self._place.run(ACTOR, new_trace_id(), work)
        await measure(self._deps, self._place, column)
        stuck = self._stuck.pop(column.table, 0)
        if stuck:
            self._rests_until[column.table] = monotonic_seconds() + _STUCK_SECONDS
            raise Broken(
                "rewrap-stuck",
                f"{stuck} values of {column.table} are under a key that is not here, or were"
                " altered. They are named in the log.",
            )
        return 1 if on else 0

    async def _fingerprints(self, known: Any) -> int:
        """The same for fingerprints, in a cell."""
        if not isinstance(self._place, CellDb):
            return 0
        state = self._due(
            known.get(fingerprints.NAME), fingerprints.NAME, self._sealer.fingerprint_key_id()
        )
        if state is None or not await self._lead():
            return 0
        after = int(state.after_key[0]) if state.after_key else 0
        done = await fingerprints.sweep(
            self._deps.dbs, self._place, self._sealer, ACTOR, after, self._tempo.take
        )

        async def work(tx: Writes) -> bool:
            if done.last is None:
                return await self._ended(tx, state)
            await self._fence(tx)
            changed = state.changed + done.changed
            await sealed.save(tx, replace(state, after_key=[str(done.last)], changed=changed))
            return True

        on = await self._place.run(ACTOR, new_trace_id(), work)
        return 1 if on else 0

    async def again(self, column: SealedColumn, counts: Mapping[str, int]) -> None:
        """Begin a table anew that was done, when there are values under another key again."""
        key_id = self._sealer.current_id()
        if not any(count for name, count in counts.items() if name != key_id):
            return

        async def work(tx: Writes) -> None:
            known = (await sealed.progress(tx)).get(column.table)
            if known is not None and known.key_id == key_id and known.done_at is not None:
                now = self._now()
                await sealed.save(tx, Progress(known.name, key_id, now, now, None, 0, 0, None))

        # Nobody else writes the progress of a table that is done.
        await self._place.run(ACTOR, new_trace_id(), work)

    async def _lead(self) -> bool:
        held = self._held
        if held is not None and held.expires_at - self._place.clock.now() > self._tempo.lease / 2:
            return True

        async def work(tx: Writes) -> lease.Lease | None:
            return await lease.acquire(tx, NAME, self._tempo.lease, held)

        self._held = await self._place.run(ACTOR, new_trace_id(), work)
        return self._held is not None

    async def _fence(self, tx: Writes) -> None:
        if self._held is not None:
            await lease.still_held(tx, self._held)

    async def give_up(self) -> None:
        """Let a successor begin at once."""
        held = self._held
        if held is not None:

            async def work(tx: Writes) -> None:
                await lease.release(tx, held)

            await self._place.run(ACTOR, new_trace_id(), work)


def anew(
    sealer: Sealer, column: SealedColumn, value: bytes, key_id: str | None
) -> tuple[bytes, str] | None:
    """A stored value, or the key beside it, under the newest KEK; None when it already is.

    Raises Broken `kek-unknown` or `sealed-damaged`.
    """
    if column is DATA_KEY or key_id is not None:
        return sealer.rewrap(value, str(key_id))
    if column.fixed:
        within: Wrapped = sealer.key_of(value)
        return sealer.rewrap(within.blob, within.key_id)
    fresh = sealer.rewrap_bytes(value)
    return None if fresh is None else (fresh, sealer.key_of(fresh).key_id)


async def measure(deps: Deps, place: Place, column: SealedColumn) -> Mapping[str, int]:
    """Put on `/metrics` how many values of a table are under which key; the same numbers."""
    kind = f"{seal.chain_of(place)}.{column.table}"
    found = await place.read(lambda tx: sealed.counts(tx, column))
    gauge = deps.metrics.sealed_values
    for metric in gauge.collect():
        for sample in metric.samples:
            if sample.labels.get("kind") == kind:
                gauge.labels(sample.labels["key_id"], kind).set(0)
    for key_id, count in found.items():
        gauge.labels(key_id, kind).set(count)
    return found


def rewrappers(deps: Deps) -> dict[str, Rewrapper]:
    """One for the directory and one for every cell, by the name of the chain."""
    tempo = Tempo(
        settle=timedelta(seconds=deps.settings.secrets.settle_seconds),
        lease=timedelta(seconds=deps.settings.roles.lease_seconds),
    )
    return {seal.chain_of(place): Rewrapper(deps, place, tempo) for place in places(deps)}


def places(deps: Deps) -> list[Place]:
    """Every schema."""
    return [deps.dbs.control, *(deps.dbs.cell(cell.number) for cell in deps.dbs.cells())]


def lanes(deps: Deps, made: dict[str, Rewrapper]) -> list[Lane]:
    """A lane for each of them, and one that counts."""

    async def count() -> int:
        for place in places(deps):
            kind = "cell" if isinstance(place, CellDb) else "control"
            for column in sealed.columns(kind):
                try:
                    found = await measure(deps, place, column)
                    if (one := made.get(seal.chain_of(place))) is not None:
                        await one.again(column, found)
                except PaymasterError as error:
                    log.warning("sealed_values_not_counted", slug=error.slug, table=column.table)
        return 0

    return [
        *(Lane(f"rewrap:{chain}", one.step, PAUSE_SECONDS) for chain, one in made.items()),
        Lane("sealed-values", count, MEASURE_SECONDS),
    ]
