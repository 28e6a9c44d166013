"""What is kept of plans, rates and quotes: who put them in force, how far a rate may leap."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.quoting import DEDUCTED, LASTS, RATE, abroad, quoted
from tests.served import Served, serve
from tests.withdrawals import withdrawal_world
from tests.world import ACTOR, START, PostgresServer, World

from paymaster.db.tx import ControlTx
from paymaster.kernel.errors import NotFound, Unprocessable
from paymaster.kernel.money import Money
from paymaster.withdraw import fee_plans, quote, rates_record
from paymaster.withdraw.quote import Side, Wanted
from paymaster.withdraw.rates import Rate

DOCUMENT: dict[str, Any] = {"based_on": 0, "currency": "EUR", "flat": "0.25"}


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as up:
        yield up


@pytest.fixture
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres) as made:
        yield made


async def acts(served: Served, action: str) -> list[dict[str, Any]]:
    return (await served.ok("GET", "/v1/audit", params={"action": action}))["data"]


async def enter(served: Served, rate: str, source: str, *, refused: bool = False) -> None:
    served.world.clock.advance(timedelta(seconds=1))
    body = {"source": source, "rates": [{"base": "GBP", "counter": "SEK", "rate": rate}]}
    if refused:
        await served.refused(422, "rate-implausible", "POST", "/v1/fx-rates", body)
    else:
        await served.ok("POST", "/v1/fx-rates", body)


async def test_who_puts_a_plan_in_force_is_in_the_audit_trail(served: Served) -> None:
    await served.ok("PUT", "/v1/fee-plans/normal", DOCUMENT)
    await served.ok("PUT", "/v1/fee-plans/normal", {**DOCUMENT, "based_on": 1, "flat": "0.50"})
    second, first = await acts(served, "fee_plan.put")
    assert first["subject"] == second["subject"] == "fee-plan:normal"
    assert (first["detail"]["version"], first["detail"]["flat"]) == (1, "0.25")
    assert (second["detail"]["version"], second["detail"]["flat"]) == (2, "0.50")
    assert first["detail"]["payer"] == "sender"


async def test_who_enters_a_rate_is_in_the_audit_trail(served: Served) -> None:
    await enter(served, "13", "operator")
    (act,) = await acts(served, "fx_rate.record")
    assert act["subject"] == "fx:operator"
    (rate,) = act["detail"]["rates"]
    assert (rate["base"], rate["counter"], rate["rate"]) == ("GBP", "SEK", "13")


async def test_a_rate_is_no_older_than_the_clock_of_its_environment(served: Served) -> None:
    world = served.world
    later = world.clock.now() + timedelta(hours=3)

    async def put(tx: ControlTx, now: datetime) -> rates_record.Recorded:
        rate = Rate("operator", "GBP", "SEK", "13", later, 3600)
        return await rates_record.record(tx, 1, [rate], 20, now)

    with pytest.raises(Unprocessable) as refused:
        await world.dbs.control.run(ACTOR, "", lambda tx: put(tx, tx.now))
    assert [problem.pointer for problem in refused.value.problems] == ["/rates/0/observed_at"]
    done = await world.dbs.control.run(ACTOR, "", lambda tx: put(tx, later))
    assert (done.new, done.known) == (1, 0)
    again = await world.dbs.control.run(ACTOR, "", lambda tx: put(tx, later))
    assert (again.new, again.known) == (0, 1)


async def test_each_change_of_plans_is_one_more(served: Served) -> None:
    async def revision() -> int | None:
        return await served.world.dbs.control.read(lambda tx: fee_plans.revision(tx, 1))

    assert await revision() is None
    for number, currency in enumerate(("EUR", "USD", "CHF"), 1):
        plan = {**DOCUMENT, "currency": currency}
        await served.ok("PUT", f"/v1/fee-plans/{currency.lower()}", plan)
        assert await revision() == number


async def test_a_rate_from_outside_may_change_by_a_fifth_and_no_more(served: Served) -> None:
    await enter(served, "10", "operator")
    await enter(served, "12.000001", "provider", refused=True)
    await enter(served, "7.999999", "provider", refused=True)
    await enter(served, "12", "provider")
    await enter(served, "10", "operator")
    await enter(served, "8", "provider")


async def test_a_quote_keeps_what_it_rests_on(world: World) -> None:
    earner = await abroad(world)
    exchanged = (await quoted(world, earner)).quote
    assert (exchanged.markup_ppm, exchanged.rate_source) == (5_000, "ecb")
    assert (exchanged.rate_observed_at, exchanged.mid_rate) == (START, "10823/10000")
    at_home = (await quoted(world, await abroad(world, currency="EUR"), rate=RATE)).quote
    assert (at_home.markup_ppm, at_home.rate, at_home.mid_rate) == (None, None, None)
    assert (at_home.rate_source, at_home.rate_observed_at) == (None, None)
    deducted = (await quoted(world, earner, plan=DEDUCTED)).quote
    assert (deducted.request_amount, deducted.amount, deducted.fee) == (4000, 3935, 65)


async def test_a_quote_that_nobody_used_is_shown_for_thirty_days_more(world: World) -> None:
    made = (await quoted(world, await abroad(world))).quote
    world.clock.advance(LASTS + timedelta(days=30))
    assert await world.run(lambda tx: quote.forget(tx, 10)) == 0
    assert (await world.read(lambda tx: quote.get(tx, made.id))).id == made.id
    world.clock.advance(timedelta(milliseconds=1))
    assert await world.run(lambda tx: quote.forget(tx, 10)) == 1
    with pytest.raises(NotFound):
        await world.read(lambda tx: quote.get(tx, made.id))


async def test_a_payout_at_home_is_reached_exactly(world: World) -> None:
    earner = await abroad(world, currency="EUR")
    given: list[tuple[Side, int, int, int]] = [
        ("payout", 4066, 66, 4000),
        ("amount", 4000, 65, 3935),
    ]
    for side, amount, fee, payout in given:
        made = await quoted(world, earner, plan=DEDUCTED, side=side)
        found = made.quote
        assert (found.amount + found.fee, found.fee, found.payout_amount) == (amount, fee, payout)


async def test_terms_depend_on_where_it_goes(world: World) -> None:
    earner = await abroad(world)
    money = Money(100, "EUR")
    wanted = Wanted(earner.user_id, earner.destination_id, "amount", money, "EUR")
    found = await world.read(lambda tx: quote.destination_of(tx, wanted))
    assert found == quote.Destination("iban", "USD")


async def test_a_quote_is_shown_to_whom_it_belongs(world: World) -> None:
    earner = await abroad(world)
    made = (await quoted(world, earner)).quote
    found = await world.read(lambda tx: quote.get(tx, made.id, user_id=earner.user_id))
    assert found.id == made.id
    with pytest.raises(NotFound):
        await world.read(lambda tx: quote.get(tx, made.id, user_id=earner.user_id + 1))
