"""A day is closed first and signed after that: whoever signs may be far away."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import date, timedelta

import pytest
from tests.statements import BANK, DAY, Office, later, office, sheet
from tests.store.test_reconcile_day import assert_signed, close_on_day, closed_through, run_day
from tests.world import ACTOR, PostgresServer

from paymaster.kernel.errors import Broken, Busy
from paymaster.kernel.guard import forbid_network
from paymaster.kernel.ids import new_trace_id
from paymaster.reconcile import close, close_store, day
from paymaster.reconcile.close_store import DayClose


class FarAway:
    """A signer that cannot be reached until it can; it never signs inside a transaction."""

    def __init__(self, desk: Office) -> None:
        self.desk, self.away = desk, True

    async def sign(self, key_id: str, message: bytes) -> bytes:
        forbid_network()
        if self.away:
            raise Busy("signer-unreachable", "away")
        return self.desk.signer.sign(key_id, message)

    async def public_keys(self, key_id: str) -> list[bytes]:
        return self.desk.signer.public_keys(key_id)


async def test_a_day_whose_signer_is_away_is_signed_later_and_before_the_next(
    postgres: PostgresServer,
) -> None:
    """Closed but not signed: nothing more is booked into it, and no later day passes it by."""
    async with office(postgres) as desk:
        desk.world.clock.advance(timedelta(days=1))
        signer = FarAway(desk)

        async def close_on(on: date) -> DayClose:
            return await day.close_day(desk.world.dbs, 1, signer, ACTOR, new_trace_id(), [BANK], on)

        await desk.store(sheet("0.00"))
        await run_day(desk)
        for _ in range(2):
            with pytest.raises(Busy, match="signer-unreachable"):
                await close_on(DAY)
        assert await closed_through(desk, 1) == DAY
        assert await desk.topics("day.closed") == []
        await desk.assert_proven()
        await desk.store(sheet("0.00", day=later(1)))
        await run_day(desk, on=later(1))
        signer.away = False
        second = await close_on(later(1))
        first = await close_on(DAY)
        assert second.totals["previous"] == first.digest.hex()
        for closed in (first, second):
            await assert_signed(desk, closed)
        assert [told["day"] for told in await desk.topics("day.closed")] == [
            DAY.isoformat(),
            later(1).isoformat(),
        ]
        await desk.assert_proven()


async def test_two_who_close_the_same_day_write_one_signed_day(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        await desk.store(sheet("0.00"))
        await run_day(desk)
        found = await asyncio.gather(*(close_on_day(desk, [BANK]) for _ in range(4)))
        assert len({closed.digest for closed in found}) == 1
        assert len(await desk.topics("day.closed")) == 1


async def test_what_was_signed_must_be_what_was_written_down(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        await desk.store(sheet("0.00"))
        await run_day(desk)
        signer = FarAway(desk)
        with pytest.raises(Busy):
            await day.close_day(desk.world.dbs, 1, signer, ACTOR, new_trace_id(), [BANK], DAY)
        draft = await desk.world.read(close_store.draft)
        assert draft is not None
        altered = replace(draft, closed_seq=draft.closed_seq + 1)
        with pytest.raises(Broken, match="day-draft"):
            await desk.world.run(lambda tx: close.sign(tx, altered, b"s"))
