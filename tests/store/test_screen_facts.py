from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextvars import Context
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from tests.quoting import DEDUCTED, ask
from tests.screening import judged
from tests.withdrawals import (
    BANK,
    CAMPAIGN,
    new_earner,
    requested,
    step,
    withdrawal_world,
)
from tests.world import PostgresServer, World

from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Broken
from paymaster.kernel.money import MAX_MINOR, Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.screen import Facts, Scope, Window, store
from paymaster.screen.decide import (
    Claimed,
    check,
    gather,
)
from paymaster.withdraw.machine import Event
from paymaster.withdraw.request import request

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOURCES = Path(__file__).resolve().parents[2] / "src"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres, connections=16) as made:
        yield made


async def figures(world: World, withdrawal_id: int, destination_id: int, *windows: Window) -> Facts:
    one = Claimed(withdrawal_id, destination_id, 1, 0)
    found = await world.read(lambda tx: gather(tx, [one], frozenset(windows), {}))
    return found[withdrawal_id]


async def test_windows_count_what_was_asked_before_and_not_what_went_back(world: World):
    hour, today = Window(Scope.USER, 3600), Window(Scope.USER, None)
    earner = await new_earner(world, "100.00")
    other = await new_earner(world, "100.00")
    await requested(world, earner, "1.00")
    world.clock.advance(timedelta(minutes=50))
    cancelled = await requested(world, earner, "2.00")
    await step(world, cancelled, Event.CANCEL)
    await requested(world, earner, "4.00")
    await requested(world, other, "8.00")
    world.clock.advance(timedelta(minutes=20))
    asked = await requested(world, earner, "16.00")
    later = await requested(world, earner, "32.00")
    world.clock.advance(timedelta(hours=3))  # a long queue does not make the burst any older
    facts = await figures(world, asked, earner.destination_id, hour, today)
    assert [(f.window, f.count, f.amount("EUR").text()) for f in facts.figures] == [
        (today, 2, "5.00"),
        (hour, 1, "4.00"),
    ]
    facts = await figures(world, later, earner.destination_id, hour)
    assert [(f.count, f.amount("EUR").text()) for f in facts.figures] == [(2, "20.00")]


async def test_amounts_are_what_was_asked_for_whoever_bears_the_fee(world: World):
    """The API has held the same figure against the same limits: both must say the same."""
    hour = Window(Scope.USER, 3600)
    earner = await new_earner(world, "100.00")
    [before] = await ask(world, earner.asks("30.00"), plan=DEDUCTED)
    [off] = await ask(world, earner.asks("20.00"), plan=DEDUCTED)
    [on_top] = await ask(world, earner.asks("10.00"))
    assert before.row is not None
    assert before.row.amount < 3000
    for outcome, amount, so_far in ((off, "20.00", "30.00"), (on_top, "10.00", "50.00")):
        assert outcome.withdrawal_id is not None
        facts = await figures(world, outcome.withdrawal_id, earner.destination_id, hour)
        assert facts.amount == Money.parse(amount, "EUR")
        assert facts.figures[0].amount("EUR").text() == so_far


async def test_the_day_is_that_of_the_environment(world: World):
    """Europe/Berlin: 23:30 in UTC is the next day there already."""
    today = Window(Scope.USER, None)
    earner = await new_earner(world, "100.00")
    now = world.clock.now()
    world.clock.advance(now.replace(hour=22, minute=50, second=0, microsecond=0) - now)
    await requested(world, earner, "1.00")
    world.clock.advance(timedelta(minutes=5))
    late = await requested(world, earner, "2.00")
    world.clock.advance(timedelta(minutes=35))
    early = await requested(world, earner, "4.00")
    counts = [
        (await figures(world, i, earner.destination_id, today)).figures[0].count
        for i in (late, early)
    ]
    assert counts == [1, 0]


async def test_a_destination_is_counted_whoever_uses_it(world: World):
    day = Window(Scope.DESTINATION, 86400)
    mark = os.urandom(16)
    first, second = [await new_earner(world, fingerprint=mark) for _ in range(2)]
    await requested(world, first, "3.00")
    asked = await requested(world, second, "4.00")
    facts = await figures(world, asked, second.destination_id, day)
    assert [(f.count, f.amount("EUR").text()) for f in facts.figures] == [(1, "3.00")]
    assert facts.destination is not None
    assert facts.destination.users == 2
    assert facts.destination.fingerprint == mark.hex()


async def test_a_destination_is_counted_while_its_fingerprints_are_renewed(world: World):
    """Two rows of one account, one under the old key and one under the new."""
    day = Window(Scope.DESTINATION, 86400)
    old, new = os.urandom(16), os.urandom(16)
    first = await new_earner(world, fingerprint=old)
    second = await new_earner(world, fingerprint=new)
    await requested(world, first, "3.00")
    asked = await requested(world, second, "4.00")
    one = Claimed(asked, second.destination_id, 1, 0)

    async def seen(prints: dict[int, list[bytes]]) -> tuple[int, int]:
        facts = (await world.read(lambda tx: gather(tx, [one], frozenset([day]), {}, prints)))[
            asked
        ]
        assert facts.destination is not None
        return facts.figures[0].count, facts.destination.users

    assert await seen({}) == (0, 1)
    assert await seen({second.destination_id: [new, old]}) == (1, 2)


async def test_users_elsewhere_with_the_same_destination_count_too(world: World):
    earner = await new_earner(world)
    one = await requested(world, earner, "1.00")
    found = await judged(world, one, shared={earner.destination_id: 4})
    assert found[one].state == "in_review"
    two = await requested(world, earner, "1.00")
    found = await judged(world, two, shared={earner.destination_id: 3})
    assert found[two].state == "approved"


async def test_a_burst_in_one_batch_is_seen_in_its_own_order(world: World):
    earner = await new_earner(world)
    ids = [await requested(world, earner, "1.00") for _ in range(7)]
    found = await judged(world, *ids)
    assert [found[i].state for i in ids] == ["approved"] * 5 + ["in_review"] * 2


REPLAY = """
import json, sys
from paymaster.screen import replay
for stored in json.load(sys.stdin):
    print(replay(stored["facts"], stored["rules"]).canonical().decode())
"""


async def test_a_verdict_is_the_same_in_another_process(world: World):
    earner = await new_earner(world, "9000.00", age=timedelta(minutes=5))
    ids = [await requested(world, earner, a) for a in ("0.50", "10.00", "150.00", "3000.00")]
    await judged(world, *ids)
    found = [
        stored
        for i in ids
        for stored in await world.read(lambda tx, i=i: store.stored_verdicts(tx, i))
    ]
    assert {stored.outcome for stored in found} == {"denied", "approved", "review"}
    given = json.dumps([{"facts": s.facts, "rules": s.rules} for s in found])
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", REPLAY],
        input=given,
        env={**os.environ, "PYTHONPATH": str(SOURCES), "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [check(stored).canonical().decode() for stored in found]
    altered = replace(found[0], facts={**found[0].facts, "at": "2026-01-01T00:00:00Z"})
    with pytest.raises(Broken) as broken:
        check(altered)
    assert broken.value.slug == "verdict-differs"


async def test_a_request_that_began_first_and_ended_last_counts_what_came_between(world: World):
    """The one between was judged without it: if neither saw the other, a limit would hold twice."""
    hour, theirs = Window(Scope.USER, 3600), Window(Scope.DESTINATION, 3600)
    earner = await new_earner(world, "100.00")
    between: list[int] = []

    async def slowly(tx: CellTx) -> int:
        world.clock.advance(timedelta(seconds=1))
        # Another process: nothing of this transaction may be known to it.
        quick = asyncio.create_task(requested(world, earner, "60.00"), context=Context())
        between.append(await quick)
        await asyncio.create_task(judged(world, *between), context=Context())
        [made] = await request(tx, [earner.asks("30.00")])
        assert made.withdrawal_id is not None
        return made.withdrawal_id

    late = await world.run(slowly)
    facts = await figures(world, late, earner.destination_id, hour, theirs)
    assert [(f.count, f.amount("EUR").text()) for f in facts.figures] == [(1, "60.00")] * 2
    facts = await figures(world, between[0], earner.destination_id, hour, theirs)
    assert [f.count for f in facts.figures] == [1, 1], "in doubt each sees the other"


async def test_a_sum_beyond_any_balance_stops_nobody(world: World):
    """Two balances together may be more than one can be; the others of the batch are judged."""
    print_of_both = b"of both, 16 byte"
    most = Money.parse("60000000000000000.00", "EUR")
    for place in range(2):
        earner = await new_earner(world, "0.00", fingerprint=print_of_both)
        bank, campaign = BANK + 1 + place, CAMPAIGN + 1 + place

        async def credit(
            tx: CellTx, user: int = earner.user_id, bank: int = bank, campaign: int = campaign
        ) -> None:
            none = Money.zero("EUR")
            earned = recipes.reward(campaign, user, most, vests=False, owes=False, commission=none)
            funded = recipes.fund(bank, campaign, most)
            entries = [Entry(tx.id(), "fund", "x", funded), Entry(tx.id(), "reward", "x", earned)]
            assert all(one.done for one in await post(tx, entries))

        await world.run(credit)
        await requested(world, earner, most.text())
    last = await new_earner(world, "1.00", fingerprint=print_of_both)
    asked = await requested(world, last, "1.00")
    hour = Window(Scope.DESTINATION, 3600)
    [figure] = (await figures(world, asked, last.destination_id, hour)).figures
    assert (figure.count, figure.amount("EUR")) == (2, Money(MAX_MINOR, "EUR"))
