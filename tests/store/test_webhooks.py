"""Webhooks: authentic or nothing; kept before they are acknowledged; applied once, in any order."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg import sql
from structlog.testing import capture_logs
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import AskableRail, ScriptedRail
from tests.withdrawals import Earner, assert_proven, available
from tests.world import PostgresServer, owner_rows

from paymaster.db import inbox
from paymaster.kernel.errors import (
    LEASE_LOST,
    NotFound,
    RailUnknown,
    Refusal,
    Unauthenticated,
)
from paymaster.kernel.ids import new_trace_id, reference
from paymaster.rails.base import Verdict
from paymaster.settle import unmatched
from paymaster.settle.apply import MAX_TRIES, Applying, apply_due
from paymaster.settle.webhook import Received, receive


@pytest.fixture
def rail() -> AskableRail:
    return AskableRail("wallet")


@pytest.fixture
async def payouts(postgres: PostgresServer, rail: AskableRail) -> AsyncIterator[Payouts]:
    mute = ScriptedRail("mute", kinds=frozenset({"pigeon"}))
    async with payout_world(postgres, rail, mute, cells=2) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


class Hooks:
    """The provider's side of the wire."""

    def __init__(self, payouts: Payouts, rail: AskableRail) -> None:
        self.payouts, self.rail = payouts, rail

    async def post(self, headers: dict[str, str], body: bytes, name: str = "wallet") -> Received:
        return await receive(
            self.payouts.world.dbs,
            self.payouts.rails,
            self.payouts.sealer,
            1,
            name,
            headers,
            body,
            new_trace_id(),
        )

    async def tell(self, key: str, verdict: Verdict, event: str, **more: Any) -> Received:
        at = self.payouts.world.clock.now()
        return await self.post(**self.rail.call(key, verdict, event, at, **more))

    async def apply(self, cell: int = 1) -> Applying:
        db = self.payouts.world.dbs.cell(cell)
        return await apply_due(db, self.payouts.sealer, Random(1))

    async def kept(self, cell: int = 1) -> int:
        return int(str(await self.payouts.value("SELECT count(*) FROM inbox", cell=cell)))

    async def refused(self, cell: int = 1) -> list[str]:
        found = await self.payouts.world.read(lambda tx: unmatched.listing(tx, 50), cell)
        return [each.result["slug"] for each in found]


@pytest.fixture
def hooks(payouts: Payouts, rail: AskableRail) -> Hooks:
    return Hooks(payouts, rail)


async def sent(payouts: Payouts, number: int = 1, cell: int = 1) -> tuple[Earner, int, str]:
    earner = await new_payee(payouts, number, cell=cell)
    withdrawal = await approved(payouts, earner, "30.00")
    await payouts.deliver(await payouts.claim(cell), cell)
    return earner, withdrawal, await payouts.key_of(withdrawal, cell=cell)


async def test_a_webhook_is_kept_and_then_applied(payouts: Payouts, hooks: Hooks) -> None:
    earner, withdrawal, key = await sent(payouts)
    assert await hooks.tell(key, Verdict.PAID, "ev_1") == Received(1, 0, 0)
    assert await payouts.states(withdrawal) == ("sent", ["sent"])
    assert await hooks.apply() == Applying(1, 1, 0)
    assert await payouts.states(withdrawal) == ("paid", ["paid"])
    assert await available(payouts.world, earner) == ("70.00", "0.00")
    assert await hooks.apply() == Applying(0, 0, 0)


async def test_a_message_that_went_to_another_process_is_left_to_it(
    payouts: Payouts, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, withdrawal, key = await sent(payouts)
    await hooks.tell(key, Verdict.PAID, "ev_1")

    async def claimed_by_another(*_: object) -> bool:
        return False

    with monkeypatch.context() as patched, capture_logs() as said:
        patched.setattr(inbox, "done", claimed_by_another)
        assert await hooks.apply() == Applying(1, 0, 0)
    [line] = [line for line in said if line["event"] == "notice_failed"]
    assert (line["log_level"], line["slug"], "exc_info" in line) == ("warning", LEASE_LOST, False)
    assert (await payouts.states(withdrawal))[0] == "sent"
    assert await hooks.apply() == Applying(0, 0, 0), "it is claimed as long as the lease lasts"


async def test_the_same_webhook_again_changes_nothing(payouts: Payouts, hooks: Hooks) -> None:
    _, withdrawal, key = await sent(payouts)
    await hooks.tell(key, Verdict.PAID, "ev_1")
    assert await hooks.tell(key, Verdict.PAID, "ev_1") == Received(0, 1, 0)
    await hooks.apply()
    assert await hooks.tell(key, Verdict.PAID, "ev_1") == Received(0, 1, 0)
    assert await hooks.apply() == Applying(0, 0, 0)
    assert await payouts.states(withdrawal) == ("paid", ["paid"])


async def test_the_same_webhook_twice_at_once_is_kept_once(payouts: Payouts, hooks: Hooks) -> None:
    _, _, key = await sent(payouts)
    answers = await asyncio.gather(*(hooks.tell(key, Verdict.PAID, "ev_1") for _ in range(5)))
    assert sum(each.new for each in answers) == 1
    assert await hooks.kept() == 1


async def test_the_same_news_under_another_event_is_harmless(
    payouts: Payouts, hooks: Hooks
) -> None:
    _, withdrawal, key = await sent(payouts)
    for number in range(4):
        await hooks.tell(key, Verdict.PAID, f"ev_{number}")
    assert await hooks.apply() == Applying(4, 1, 0)
    assert await payouts.states(withdrawal) == ("paid", ["paid"])


async def test_hyperswitch_10199_an_unverified_webhook_moves_nothing(
    payouts: Payouts, hooks: Hooks, rail: AskableRail
) -> None:
    _, withdrawal, key = await sent(payouts)
    call: Any = rail.call(key, Verdict.PAID, "ev_1", payouts.world.clock.now())
    altered = call["body"].replace(b'"paid"', b'"returned"')
    for headers, body in (
        ({}, call["body"]),
        ({"X-Signature": "0" * 64}, call["body"]),
        (call["headers"], altered),
    ):
        with pytest.raises(Unauthenticated) as caught:
            await hooks.post(headers, body)
        assert caught.value.slug == "webhook-signature"
    assert await hooks.kept() == 0
    assert rail.questions == []
    assert await hooks.apply() == Applying(0, 0, 0)
    assert await payouts.states(withdrawal) == ("sent", ["sent"])


@pytest.mark.parametrize("minutes", [-6, 6, 60 * 24])
async def test_a_stale_webhook_is_refused(
    payouts: Payouts, hooks: Hooks, rail: AskableRail, minutes: int
) -> None:
    _, withdrawal, key = await sent(payouts)
    at = payouts.world.clock.now() - timedelta(minutes=minutes)
    with pytest.raises(Unauthenticated) as caught:
        await hooks.post(**rail.call(key, Verdict.PAID, "ev_1", at))
    assert caught.value.slug == "webhook-stale"
    assert await hooks.kept() == 0
    assert await payouts.states(withdrawal) == ("sent", ["sent"])


async def test_a_webhook_nobody_can_read_is_refused(
    payouts: Payouts, hooks: Hooks, rail: AskableRail
) -> None:
    call: Any = rail.call("k", Verdict.PAID, "ev_1", payouts.world.clock.now())
    body = call["body"].replace(b'"verdict"', b'"verdikt"')
    signature = hmac.new(rail.SECRET.encode(), body, hashlib.sha256).hexdigest()
    with pytest.raises(Refusal) as caught:
        await hooks.post({"x-signature": signature}, body)
    assert caught.value.slug == "webhook-malformed"


@pytest.mark.parametrize(
    ("name", "slug"), [("nobody", "rail-account-unknown"), ("mute", "webhook-unsupported")]
)
async def test_a_webhook_for_no_account_is_refused(hooks: Hooks, name: str, slug: str) -> None:
    with pytest.raises(NotFound) as caught:
        await hooks.post({}, b"{}", name)
    assert caught.value.slug == slug


async def test_a_webhook_finds_its_cell_by_the_reference(payouts: Payouts, hooks: Hooks) -> None:
    _, first, key = await sent(payouts, 1, cell=1)
    _, second, other = await sent(payouts, 2, cell=2)
    await hooks.tell(other, Verdict.PAID, "ev_2")
    assert [await hooks.kept(1), await hooks.kept(2)] == [0, 1]
    await hooks.apply(1)
    await hooks.apply(2)
    assert await payouts.states(first) == ("sent", ["sent"])
    assert await payouts.states(second, cell=2) == ("paid", ["paid"])
    await hooks.tell(key, Verdict.PAID, "ev_1")
    await hooks.apply(1)
    assert await payouts.states(first) == ("paid", ["paid"])


@pytest.mark.parametrize("key", ["invoice-4711", reference(77, 1), ""])
async def test_a_foreign_reference_is_kept_where_people_look(
    payouts: Payouts, hooks: Hooks, key: str
) -> None:
    with capture_logs() as said:
        assert await hooks.tell(key, Verdict.PAID, "ev_1") == Received(0, 0, 1)
        assert await hooks.tell(key, Verdict.PAID, "ev_1") == Received(0, 1, 0)
    told = [line["notices"] for line in said if line["event"] == "notice_unmatched"]
    assert told == [1], "people are told once"
    assert await hooks.refused() == ["notice-unmatched"]
    assert await hooks.apply() == Applying(0, 0, 0)


async def test_a_reference_of_ours_that_names_nothing_is_visible(
    payouts: Payouts, hooks: Hooks
) -> None:
    await hooks.tell(reference(2, 4711), Verdict.PAID, "ev_1")
    assert await hooks.apply(2) == Applying(1, 0, 1)
    assert await hooks.refused(2) == ["attempt-unknown"]


@pytest.mark.parametrize("minor", [0, 2999, 3001])
async def test_a_notice_over_another_amount_pays_nothing(
    payouts: Payouts, hooks: Hooks, minor: int
) -> None:
    _, withdrawal, key = await sent(payouts)
    await hooks.tell(key, Verdict.PAID, "ev_1", minor=minor)
    assert await hooks.apply() == Applying(1, 0, 1)
    assert await hooks.refused() == ["outcome-amount-differs"]
    assert await payouts.states(withdrawal) == ("sent", ["sent"])


async def test_paid_after_failed_is_visible_and_moves_nothing(
    payouts: Payouts, hooks: Hooks, rail: AskableRail
) -> None:
    earner, withdrawal, key = await sent(payouts)
    rail.paid[key] = 0
    await hooks.tell(key, Verdict.REJECTED, "ev_1", code="wallet_limit_exceeded")
    await hooks.apply()
    await hooks.tell(key, Verdict.PAID, "ev_2")
    assert await hooks.apply() == Applying(1, 0, 1)
    assert await hooks.refused() == ["outcome-contradicts"]
    assert await payouts.states(withdrawal) == ("failed", ["rejected"])
    assert await available(payouts.world, earner) == ("100.00", "0.00")


async def test_returned_before_paid_in_one_round(payouts: Payouts, hooks: Hooks) -> None:
    earner, withdrawal, key = await sent(payouts)
    await hooks.tell(key, Verdict.RETURNED, "ev_1", code="AC04")
    await hooks.tell(key, Verdict.PAID, "ev_2")
    assert await hooks.apply() == Applying(2, 1, 0)
    assert await payouts.states(withdrawal) == ("returned", ["returned"])
    assert await available(payouts.world, earner) == ("100.00", "0.00")
    assert await payouts.value("SELECT closed_reason FROM destination") == "AC04"


async def test_a_webhook_before_the_answer_of_the_call_is_written(
    payouts: Payouts, hooks: Hooks
) -> None:
    withdrawal = await approved(payouts, await new_payee(payouts, 1), "30.00")
    (order,) = await payouts.claim()
    answer = await payouts.call(order)
    await hooks.tell(order.prepared.keys[0], Verdict.PAID, "ev_1")
    await hooks.apply()
    await payouts.finish(answer)
    assert await payouts.states(withdrawal) == ("paid", ["paid"])


async def test_a_webhook_resolves_an_unknown_payment(
    payouts: Payouts, hooks: Hooks, rail: AskableRail
) -> None:
    withdrawal = await approved(payouts, await new_payee(payouts, 1), "30.00")
    rail.after = [RailUnknown("provider-silent", "No answer.")]
    await payouts.deliver(await payouts.claim())
    key = await payouts.key_of(withdrawal)
    await hooks.tell(key, Verdict.PAID, "ev_1")
    await hooks.apply()
    assert await payouts.states(withdrawal) == ("paid", ["paid"])
    payouts.world.clock.advance(timedelta(hours=1))
    await payouts.run(payouts.dispatcher())
    assert rail.questions == []
    assert await payouts.value("SELECT state FROM batch") == "answered"


async def test_one_message_that_cannot_be_applied_stops_no_other(
    payouts: Payouts, hooks: Hooks
) -> None:
    _, first, key = await sent(payouts, 1)
    _, second, other = await sent(payouts, 2)
    await hooks.tell(key, Verdict.PAID, "ev_1")
    await hooks.tell(other, Verdict.PAID, "ev_2")
    owner_rows(payouts.world, "UPDATE inbox SET sealed = 'x' WHERE message_id = 'ev_1' RETURNING 1")
    for tries in range(1, MAX_TRIES + 1):
        found = await hooks.apply()
        assert found.claimed == (2 if tries == 1 else 1)
        payouts.world.clock.advance(timedelta(minutes=15))
    assert await payouts.states(second) == ("paid", ["paid"])
    assert await payouts.states(first) == ("sent", ["sent"])
    assert await hooks.refused() == ["sealed-damaged"]
    assert await hooks.apply() == Applying(0, 0, 0)


async def test_two_processes_apply_each_message_once(payouts: Payouts, hooks: Hooks) -> None:
    for number in range(1, 7):
        _, _, key = await sent(payouts, number)
        await hooks.tell(key, Verdict.PAID, f"ev_{number}")
    found = await asyncio.gather(*(hooks.apply() for _ in range(3)))
    assert sum(each.changed for each in found) == 6
    assert await payouts.value("SELECT count(*) FROM withdrawal WHERE state = 'paid'") == 6


async def test_what_the_provider_wrote_is_sealed(payouts: Payouts, hooks: Hooks) -> None:
    _, _, key = await sent(payouts)
    await hooks.tell(key, Verdict.PAID, "ev_1", payee_name="Kim Beispiel")
    ((payload, sealed),) = owner_rows(payouts.world, "SELECT payload, sealed FROM inbox")
    assert payload["key"] == key
    assert "Kim" not in str(payload)
    assert b"Kim" not in bytes(sealed)


async def test_what_could_not_be_kept_is_not_acknowledged(
    payouts: Payouts, hooks: Hooks, postgres: PostgresServer
) -> None:
    _, _, key = await sent(payouts)
    with psycopg.connect(payouts.world.owner_dsn, autocommit=True) as owner:
        role = sql.Identifier(postgres.app_role)
        owner.execute(sql.SQL("REVOKE INSERT ON cell_1.inbox FROM {}").format(role))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await hooks.tell(key, Verdict.PAID, "ev_1")
        owner.execute(sql.SQL("GRANT INSERT ON cell_1.inbox TO {}").format(role))
    assert await hooks.tell(key, Verdict.PAID, "ev_1") == Received(1, 0, 0)


async def test_a_message_laid_aside_is_tried_again_on_demand(
    payouts: Payouts, hooks: Hooks
) -> None:
    await hooks.tell(reference(1, 4711), Verdict.PAID, "ev_1")
    await hooks.apply()
    assert await hooks.refused() == ["attempt-unknown"]
    source = "webhook:wallet"
    assert await payouts.world.run(lambda tx: unmatched.again(tx, source, "ev_1", "looked at it"))
    assert await hooks.refused() == []
    assert await hooks.apply() == Applying(1, 0, 1)
    assert not await payouts.world.run(lambda tx: unmatched.again(tx, source, "ev_2", "none"))


async def test_many_messages_are_applied_in_one_transaction(payouts: Payouts, hooks: Hooks) -> None:
    earner = await new_payee(payouts, 1)
    withdrawals = [await approved(payouts, earner, "1.00") for _ in range(30)]
    await payouts.deliver(await payouts.claim())
    for withdrawal in withdrawals:
        key = await payouts.key_of(withdrawal)
        await hooks.tell(key, Verdict.PAID, f"ev_{withdrawal}")
    commits = await payouts.value("SELECT count(*) FROM commit")
    assert await hooks.apply() == Applying(30, 30, 0)
    assert await payouts.value("SELECT count(*) FROM commit") == int(str(commits)) + 1
    assert await available(payouts.world, earner) == ("70.00", "0.00")
