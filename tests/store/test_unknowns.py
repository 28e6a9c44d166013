"""Payments that stay unknown: warned about once for each time, and shown with what comes next."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.calling import NOBODY
from tests.payouts import Payouts, approved, new_payee, payout_world
from tests.scripted_rails import WINDOW, AskableRail, FileRail
from tests.served import client, make_deps, make_settings
from tests.statements import office, paid, sheet
from tests.world import ACTOR, PostgresServer, owner_rows

from paymaster.api.app import build_api
from paymaster.dispatch import unknowns
from paymaster.dispatch.decide import Finding, decide
from paymaster.kernel.errors import RailUnknown
from paymaster.observe import Metrics
from paymaster.people import credentials
from paymaster.people.scopes import SCOPES
from paymaster.roles.gauges import measure

AFTER = [timedelta(minutes=30), timedelta(hours=4), timedelta(days=1)]
MINUTES = (30, 240, 1440)


@pytest.fixture
def wallet() -> AskableRail:
    return AskableRail("wallet")


@pytest.fixture
async def payouts(postgres: PostgresServer, wallet: AskableRail) -> AsyncIterator[Payouts]:
    async with payout_world(postgres, wallet) as found:
        yield found


async def lost(payouts: Payouts, rail: Any, number: int = 1) -> int:
    """A payment whose answer was lost."""
    withdrawal = await approved(payouts, await new_payee(payouts, number), "30.00")
    rail.after = [RailUnknown("provider-silent", "No answer.")]
    await payouts.deliver(await payouts.claim())
    assert (await payouts.states(withdrawal))[0] == "unknown"
    return withdrawal


async def warn(payouts: Payouts) -> int:
    return await payouts.world.run(lambda tx: unknowns.warn(tx, AFTER, 100))


def told(payouts: Payouts) -> list[Any]:
    rows = owner_rows(
        payouts.world,
        "SELECT payload FROM outbox WHERE topic = 'attempt.unknown_old' ORDER BY commit_id",
    )
    return [payload for (payload,) in rows]


async def test_a_warning_comes_once_for_each_time(payouts: Payouts, wallet: AskableRail) -> None:
    withdrawal = await lost(payouts, wallet)
    seen: list[int] = []
    for step in (29, 1, 100, 111, 60, 1440, 14_400):
        payouts.world.clock.advance(timedelta(minutes=step))
        seen.append(await warn(payouts))
        assert await warn(payouts) == 0
    assert seen == [0, 1, 0, 1, 0, 1, 0]
    assert [each["minutes"] for each in told(payouts)] == [30, 240, 1440]
    assert told(payouts)[0]["since"] == "2026-11-20T09:00:00.000Z"
    assert (await payouts.states(withdrawal))[0] == "unknown", "a warning moves nothing"


async def test_one_that_was_not_seen_for_long_is_warned_about_for_the_longest(
    payouts: Payouts, wallet: AskableRail
) -> None:
    await lost(payouts, wallet)
    payouts.world.clock.advance(timedelta(days=2))
    assert await warn(payouts) == 1
    assert [each["minutes"] for each in told(payouts)] == [1440]


async def test_what_is_resolved_is_not_warned_about(payouts: Payouts, wallet: AskableRail) -> None:
    await lost(payouts, wallet)
    payouts.world.clock.advance(timedelta(hours=1))
    await payouts.ask("wallet")
    assert await warn(payouts) == 0
    assert await payouts.world.run(lambda tx: unknowns.warn(tx, [], 100)) == 0


async def test_the_gauge_counts_them_by_age(payouts: Payouts, wallet: AskableRail) -> None:
    await lost(payouts, wallet, 1)
    payouts.world.clock.advance(timedelta(hours=5))
    await lost(payouts, wallet, 2)
    metrics = Metrics()
    account = str(payouts.accounts["wallet"].id)

    async def old(minutes: int) -> float:
        await measure(payouts.world.dbs, metrics, MINUTES)
        return metrics.old_unknown_attempts.labels(account, str(minutes))._value.get()

    assert [await old(each) for each in MINUTES] == [1, 1, 0]
    payouts.world.clock.advance(timedelta(minutes=30))
    assert [await old(each) for each in MINUTES] == [2, 1, 0]


async def test_operators_see_what_was_tried_and_what_comes_next(
    payouts: Payouts, wallet: AskableRail, tmp_path: Path
) -> None:
    await lost(payouts, wallet)
    wallet.silent = 2
    payouts.world.clock.advance(timedelta(minutes=31))
    await payouts.ask("wallet")
    world = payouts.world

    async def issue(tx: Any) -> str:
        return (await credentials.issue(tx, 1, "test", tuple(SCOPES))).key

    key = await world.dbs.control.run(ACTOR, "", issue)
    async with httpx.AsyncClient(trust_env=False, verify=NOBODY) as http:
        deps = make_deps(make_settings(tmp_path), world.dbs, world.clock, http, payouts.rails)
        app = build_api(deps)
        async with client(app, key) as api:
            (shown,) = (await api.get("/v1/unknown-payments")).json()["data"]
            none = (await api.get("/v1/unknown-payments?older_minutes=60")).json()["data"]
    assert none == []
    assert shown["rail_account"] == "wallet"
    assert shown["amount"] == {"amount": "30.00", "currency": "EUR"}
    assert (shown["asked"], shown["sent"], shown["code"]) == (1, 1, "provider-silent")
    assert shown["next"]["what"] == "ask"
    assert shown["next"]["at"] is not None


async def test_what_comes_next_depends_on_the_rail(postgres: PostgresServer) -> None:
    replays = FileRail("replays", replay_window=WINDOW)
    async with payout_world(postgres, replays) as payouts:
        await lost(payouts, replays)
        world, accounts = payouts.world, payouts.desk.accounts
        (one,) = await world.read(lambda tx: unknowns.listing(tx, tx.now, tx.now, 10))
        now = world.clock.now()

        def comes(rails: Any = payouts.rails, **changes: Any) -> str:
            return unknowns.next_of(replace(one, **changes), accounts, rails, now).what

        assert comes() == "replay"
        assert comes(spoilt=True) == "report"
        assert comes(created_at=now - WINDOW) == "report"
        assert comes(order_state="sending") == "wait"
        assert comes(rails={}) == "nobody"
        await world.run(lambda tx: decide(tx, one.id, Finding.PAID, "the bank said so"))
        assert await world.read(lambda tx: unknowns.listing(tx, tx.now, tx.now, 10)) == []


async def test_a_line_of_a_statement_is_a_way_out_and_silence_is_none(
    postgres: PostgresServer,
) -> None:
    """Of two that nobody answered about, the statement names one; the other stays unknown."""
    async with office(postgres) as desk:
        named, other = await desk.payouts(["10.00", "20.00"], state="unknown")
        await desk.store(sheet("100.00", paid(named)))
        await desk.settle()
        assert await desk.withdrawal(named) == "paid"
        assert await desk.withdrawal(other) == "unknown"
        found = await desk.world.read(lambda tx: unknowns.listing(tx, tx.now, tx.now, 10))
        assert [one.amount for one in found] == [2000]
        await desk.assert_proven()


async def test_a_bank_that_took_it_in_and_says_nothing_more_is_warned_about_once(
    postgres: PostgresServer,
) -> None:
    async with payout_world(postgres, FileRail("bank")) as payouts:
        withdrawal = await approved(payouts, await new_payee(payouts, 1), "2.00")
        dispatcher, world = payouts.dispatcher(), payouts.world
        await payouts.run(dispatcher)
        world.clock.advance(timedelta(minutes=1))
        await payouts.run(dispatcher)  # nobody can be asked
        assert await payouts.states(withdrawal) == ("sent", ["sent"])
        silent = timedelta(hours=96)
        seen: list[int] = []
        for hours in (95, 1, 1):
            world.clock.advance(timedelta(hours=hours))
            seen.append(await world.run(lambda tx: unknowns.warn_silent(tx, silent, 100)))
        assert seen == [0, 1, 0]
        (said,) = told(payouts)
        assert said["minutes"] == 96 * 60
        (one,) = await world.read(lambda tx: unknowns.listing(tx, tx.now, tx.now - silent, 10))
        accounts = {account.id: account for account in payouts.accounts.values()}
        after = unknowns.next_of(one, accounts, {"bank": FileRail("bank")}, world.clock.now())
        assert (one.state, after.what) == ("sent", "report")
        assert (
            await world.read(lambda tx: unknowns.listing(tx, tx.now, one.created_at - silent, 10))
            == []
        )
