from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, LiteralString

import msgspec
import pytest
import pytest_asyncio
from tests.withdrawals import (
    Earner,
    assert_proven,
    available,
    insert_destination,
    new_earner,
    withdrawal_world,
)
from tests.world import PostgresServer, World

from paymaster.db import audit
from paymaster.db.idempotency import Answer, Key
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Conflict, Unprocessable
from paymaster.kernel.ids import parse_text_id, text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.withdraw import moves
from paymaster.withdraw.request import Limits, Requested, RequestWithdrawal, request
from paymaster.withdraw.request_keyed import request_once

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres, connections=24) as made:
        yield made


def key_of(earner: Earner, name: str = "k", body: bytes = b"{}") -> Key:
    return Key.of(earner.user_id, "POST /v1/withdrawals", name, body)


async def once(
    world: World, earner: Earner, amount: str, name: str = "k", body: bytes | None = None
) -> Answer:
    command = earner.asks(amount)
    key = key_of(earner, name, amount.encode() if body is None else body)
    return await world.run(lambda tx: request_once(tx, key, command))


async def ask(world: World, *commands: RequestWithdrawal, **rest: Any) -> list[Requested]:
    return await world.run(lambda tx: request(tx, commands, **rest))


async def rows_of(world: World, earner: Earner) -> int:
    return await world.read(
        lambda tx: tx.value("SELECT count(*) FROM withdrawal WHERE user_id = %s", (earner.user_id,))
    )


async def update(world: World, statement: LiteralString, *params: object) -> None:
    async def work(tx: CellTx) -> None:
        assert await tx.execute(statement, params) == 1

    await world.run(work)


# ---------------------------------------------------------------------------------- what is made


async def test_a_request_holds_amount_and_fee_and_says_so(world: World):
    earner = await new_earner(world)
    (outcome,) = await ask(world, earner.asks("40.00", "0.50"))
    assert outcome.slug is None
    assert await available(world, earner) == ("59.50", "40.50")
    subject = text_id("wd", 1, outcome.withdrawal_id or 0)
    (act,) = await world.read(lambda tx: audit.of_subject(tx, subject))
    assert (act.action, act.actor) == ("withdrawal.request", "test")
    ((payload, key),) = await world.read(
        lambda tx: tx.tuples(
            "SELECT payload, key FROM outbox WHERE topic = 'withdrawal.requested'"
            " AND payload->>'id' = %s",
            (subject,),
        )
    )
    assert payload["amount"] == {"amount": "40.00", "currency": "EUR"}
    assert payload["fee"] == {"amount": "0.50", "currency": "EUR"}
    assert key == payload["user"] == text_id("us", 1, earner.user_id)
    await assert_proven(world)


async def test_a_batch_is_decided_in_order(world: World):
    one, two = await new_earner(world, "10.00"), await new_earner(world, "5.00")
    outcomes = await ask(
        world, one.asks("6.00"), two.asks("5.00"), one.asks("6.00"), one.asks("4.00")
    )
    assert [o.slug for o in outcomes] == [None, None, "insufficient-funds", None]
    assert await available(world, one) == ("0.00", "10.00")
    await assert_proven(world)


async def test_zero_decimal_currencies_are_whole(world: World):
    earner = await new_earner(world, "1000", currency="JPY")
    (outcome,) = await ask(world, earner.asks("1000"))
    assert outcome.slug is None
    assert await available(world, earner) == ("0", "1000")


# ------------------------------------------------------------------------------------- refusals


async def test_refusals_are_values_and_change_nothing(world: World):
    earner, other = await new_earner(world, "10.00"), await new_earner(world)

    async def prepare(tx: CellTx) -> tuple[int, int]:
        return (
            await insert_destination(tx, earner.user_id, usable_in=timedelta(hours=1)),
            await insert_destination(tx, earner.user_id, currency="USD"),
        )

    new, dollars = await world.run(prepare)
    euro = Money.parse("1.00", "EUR")
    commands = {
        "destination-not-found": RequestWithdrawal(earner.user_id, other.destination_id, euro),
        "destination-not-usable-yet": RequestWithdrawal(earner.user_id, new, euro),
        "currency-mismatch": RequestWithdrawal(earner.user_id, dollars, euro),
        "amount-not-positive": earner.asks("0.00"),
        "insufficient-funds": earner.asks("10.01"),
        "amount-below-minimum": earner.asks("0.99"),
        "amount-above-maximum": earner.asks("9.01"),
        "user-not-found": RequestWithdrawal(4, earner.destination_id, euro),
    }
    limits = {"EUR": Limits(euro, Money.parse("9.00", "EUR"))}
    for slug, command in commands.items():
        bounds = limits if slug.startswith("amount") else None
        (outcome,) = await ask(world, command, limits=bounds)
        assert (outcome.slug, outcome.withdrawal_id) == (slug, None)
        assert outcome.detail
    (negative,) = await ask(world, earner.asks("-1.00"))
    assert negative.slug == "amount-not-positive"
    (shrunk,) = await ask(world, earner.asks("5.00", "-1.00"))
    assert shrunk.slug == "amount-not-positive"
    assert await rows_of(world, earner) == 0
    assert await available(world, earner) == ("10.00", "0.00")


async def test_the_fee_counts_against_the_balance(world: World):
    earner = await new_earner(world, "10.00")
    (outcome,) = await ask(world, earner.asks("10.00", "0.01"))
    assert outcome.slug == "insufficient-funds"


@pytest.mark.parametrize("status", ["suspended", "closed"])
async def test_who_is_not_active_cannot_withdraw(world: World, status: str):
    earner = await new_earner(world)
    await update(world, "UPDATE app_user SET status = %s WHERE id = %s", status, earner.user_id)
    (outcome,) = await ask(world, earner.asks("1.00"))
    assert outcome.slug == f"user-{status}"


async def test_a_closed_destination_takes_nothing(world: World):
    earner = await new_earner(world)
    await update(
        world, "UPDATE destination SET state = 'closed' WHERE id = %s", earner.destination_id
    )
    (outcome,) = await ask(world, earner.asks("1.00"))
    assert outcome.slug == "destination-closed"


async def test_who_owes_cannot_withdraw(world: World):
    earner = await new_earner(world, "5.00")

    async def take_back(tx: CellTx) -> None:
        amount, nothing = Money.parse("8.00", "EUR"), Money.zero("EUR")
        postings = recipes.reverse(9, earner.user_id, amount, nothing)
        (posted,) = await post(tx, [Entry(tx.id(), "reverse", "x", postings)])
        assert posted.done

    await world.run(take_back)
    (outcome,) = await ask(world, earner.asks("1.00"))
    assert outcome.slug == "debt-open"


async def test_one_bad_command_does_not_stop_the_others(world: World):
    earner, poor = await new_earner(world), await new_earner(world, "0.00")
    outcomes = await ask(world, poor.asks("1.00"), earner.asks("1.00"), poor.asks("2.00"))
    assert [o.slug for o in outcomes] == ["insufficient-funds", None, "insufficient-funds"]


# ------------------------------------------------------------------------------ the caller's key


async def test_the_same_key_replays_the_same_bytes(world: World):
    earner = await new_earner(world)
    first = await once(world, earner, "10.00")
    world.clock.advance(timedelta(minutes=5))
    again = await once(world, earner, "10.00")
    assert first == again
    assert first.status == 202
    body = msgspec.json.decode(first.answer)
    assert body["amount"] == {"amount": "10.00", "currency": "EUR"}
    assert body["state"] == "requested"
    assert parse_text_id("wd", body["id"]).cell == 1
    assert await rows_of(world, earner) == 1


async def test_a_refusal_is_replayed_too_even_when_it_would_pass_now(world: World):
    earner = await new_earner(world, "5.00")
    first = await once(world, earner, "6.00")
    assert first.status == 422
    problem = msgspec.json.decode(first.answer)
    assert (problem["code"], problem["status"]) == ("insufficient-funds", 422)

    async def earn(tx: CellTx) -> None:
        more = Money.parse("5.00", "EUR")
        credit = recipes.reward(
            9, earner.user_id, more, vests=False, owes=False, commission=Money.zero("EUR")
        )
        posted = await post(
            tx,
            [
                Entry(tx.id(), "fund", "x", recipes.fund(7, 9, more)),
                Entry(tx.id(), "reward", "x", credit),
            ],
        )
        assert all(p.done for p in posted)

    await world.run(earn)
    assert await once(world, earner, "6.00") == first
    assert (await once(world, earner, "6.00", name="another")).status == 202


async def test_the_same_key_with_another_body_is_refused(world: World):
    earner = await new_earner(world)
    await once(world, earner, "10.00")
    with pytest.raises(Unprocessable) as refused:
        await once(world, earner, "11.00")
    assert refused.value.slug == "idempotency-key-reused"
    assert await rows_of(world, earner) == 1


async def test_racing_copies_make_one_withdrawal_and_are_all_told_the_same(world: World):
    for _ in range(5):
        earner = await new_earner(world, "10.00")  # enough for one of them only
        answers = await asyncio.gather(*(once(world, earner, "10.00") for _ in range(6)))
        assert {answer.status for answer in answers} == {202}
        assert len({answer.answer for answer in answers}) == 1
        assert await rows_of(world, earner) == 1
        assert await available(world, earner) == ("0.00", "10.00")
    await assert_proven(world)


async def test_a_copy_that_waits_for_its_original_gets_its_answer(world: World):
    """The original is inside its transaction, past the hold, when the copy arrives."""
    earner = await new_earner(world, "10.00")
    inside, finish = asyncio.Event(), asyncio.Event()
    key, command = key_of(earner), earner.asks("10.00")

    async def slow(tx: CellTx) -> Answer:
        answer = await request_once(tx, key, command)
        inside.set()
        await finish.wait()
        return answer

    original = asyncio.create_task(world.run(slow))
    await inside.wait()
    copy = asyncio.create_task(world.run(lambda tx: request_once(tx, key, command)))
    await asyncio.sleep(0.1)
    assert not copy.done()
    finish.set()
    assert await copy == await original
    assert (await copy).status == 202


async def test_a_copy_of_what_was_rolled_back_is_the_first(world: World):
    earner = await new_earner(world, "10.00")
    inside, finish = asyncio.Event(), asyncio.Event()
    key, command = key_of(earner), earner.asks("10.00")

    class Crash(Exception):
        pass

    async def failing(tx: CellTx) -> Answer:
        await request_once(tx, key, command)
        inside.set()
        await finish.wait()
        raise Crash

    original = asyncio.create_task(world.run(failing))
    await inside.wait()
    copy = asyncio.create_task(world.run(lambda tx: request_once(tx, key, command)))
    await asyncio.sleep(0.05)
    finish.set()
    with pytest.raises(Crash):
        await original
    assert (await copy).status == 202
    assert await rows_of(world, earner) == 1
    await assert_proven(world)


async def test_the_same_key_twice_in_one_transaction_is_seen(world: World):
    earner = await new_earner(world)
    key, command = key_of(earner), earner.asks("10.00")

    async def twice(tx: CellTx) -> tuple[Answer, Answer]:
        return await request_once(tx, key, command), await request_once(tx, key, command)

    first, second = await world.run(twice)
    assert first == second
    assert await rows_of(world, earner) == 1


async def test_different_keys_race_for_one_balance(world: World):
    earner = await new_earner(world, "30.00")
    answers = await asyncio.gather(*(once(world, earner, "10.00", name=f"k{n}") for n in range(8)))
    assert sorted(a.status for a in answers) == [202] * 3 + [422] * 5
    assert await available(world, earner) == ("0.00", "30.00")
    await assert_proven(world)


async def test_cancelled_at_once_after_it_was_made(world: World):
    earner = await new_earner(world, "10.00")

    async def both(tx: CellTx) -> moves.Moved:
        (outcome,) = await request(tx, [earner.asks("10.00")])
        return await moves.cancel(tx, earner.user_id, outcome.withdrawal_id or 0)

    assert (await world.run(both)).state == "cancelled"
    assert await available(world, earner) == ("10.00", "0.00")
    (again,) = await ask(world, earner.asks("10.00"))
    assert again.slug is None
    await assert_proven(world)


async def test_a_key_whose_first_use_has_no_answer_yet_is_a_conflict(world: World):
    earner = await new_earner(world)
    await update(
        world,
        "INSERT INTO idempotency (credential_id, route, key_hash, body_hash, created_at)"
        " SELECT %s, 'POST /v1/withdrawals', %s, %s, now()",
        earner.user_id,
        key_of(earner).key_hash,
        key_of(earner).body_hash,
    )
    with pytest.raises(Conflict) as refused:
        await once(world, earner, "1.00", body=b"{}")
    assert refused.value.slug == "in-progress"


async def test_an_original_that_takes_too_long_is_a_conflict_for_its_copy(world: World):
    earner = await new_earner(world, "10.00")
    inside, finish = asyncio.Event(), asyncio.Event()
    key, command = key_of(earner), earner.asks("10.00")

    async def slow(tx: CellTx) -> Answer:
        answer = await request_once(tx, key, command)
        inside.set()
        await finish.wait()
        return answer

    async def impatient(tx: CellTx) -> Answer:
        await tx.execute("SET LOCAL lock_timeout TO '100ms'")
        return await request_once(tx, key, command)

    original = asyncio.create_task(world.run(slow))
    await inside.wait()
    with pytest.raises(Conflict) as refused:
        await world.run(impatient)
    assert refused.value.slug == "in-progress"
    finish.set()
    assert (await original).status == 202
    assert await world.run(impatient) == await original
