"""An order of which nothing ever left, at an account that does not come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random

import httpx
import pytest
from tests.desk import Desk, code, limit
from tests.payouts import Payouts, approved, assert_paid_once, new_payee
from tests.scripted_rails import FileRail
from tests.served import Served, serve
from tests.withdrawals import assert_proven
from tests.world import PostgresServer

from paymaster.dispatch import resolve
from paymaster.kernel.errors import NeverSent
from paymaster.kernel.ids import text_id
from paymaster.people.staff_roles import Role
from paymaster.rails.base import Verdict

PROOF = {"proof": "the bank has ended our contract, letter of today"}


@pytest.fixture
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path_factory.mktemp("never")) as found:
        yield found


@pytest.fixture
async def bank() -> FileRail:
    return FileRail("bank")


@pytest.fixture
async def payouts(served: Served, bank: FileRail) -> AsyncIterator[Payouts]:
    made = Payouts(served.world, served.deps.secrets.sealer, {"bank": bank}, {}, random=Random(1))
    await made.add_account("bank", "bank")
    yield made
    await assert_proven(served.world)
    await assert_paid_once(made)


@pytest.fixture
async def desk(served: Served) -> AsyncIterator[Desk]:
    made = Desk(served)
    yield made
    for one in made.open:
        await one.aclose()


@pytest.fixture
async def anna(desk: Desk) -> httpx.AsyncClient:
    return await desk.session("anna")


def path(number: int, act: str) -> str:
    return f"/v1/withdrawals/{text_id('wd', 1, number)}/{act}"


async def stuck(payouts: Payouts, bank: FileRail) -> list[int]:
    """Three withdrawals of 10.00 in one order that reached nobody."""
    made = [await approved(payouts, await new_payee(payouts, n), "10.00") for n in (1, 2, 3)]
    bank.before = [NeverSent("rail-unreachable", "No route to the host.")]
    await payouts.deliver(await payouts.claim())
    for one in made:
        assert await payouts.states(one) == ("sending", ["sending"])
    return made


async def test_an_operator_ends_what_never_left(
    payouts: Payouts, bank: FileRail, anna: httpx.AsyncClient
) -> None:
    """Nobody else could: it is with the rail for the user, and the rail does not come back."""
    numbers = await stuck(payouts, bank)
    paid = await anna.post(path(numbers[0], "confirm-paid"), json=PROOF)
    assert code(paid) == (409, "attempt-not-unknown"), "nothing has left that could be paid"
    done = await anna.post(path(numbers[0], "fail"), json=PROOF)
    assert done.json()["state"] == "failed", done.text
    for one in numbers:
        assert await payouts.states(one) == ("failed", ["rejected"])
    payouts.world.clock.advance(timedelta(hours=2))
    await payouts.run(payouts.dispatcher())
    assert (bank.paid, await payouts.value("SELECT state FROM batch")) == ({}, "refused")


async def test_an_operator_lets_what_never_left_go_by_another_order(
    payouts: Payouts, bank: FileRail, anna: httpx.AsyncClient
) -> None:
    numbers = await stuck(payouts, bank)
    done = await anna.post(path(numbers[1], "retry"), json=PROOF)
    assert done.json()["state"] == "queued", done.text
    bank.verdict = Verdict.PAID
    await payouts.run(payouts.dispatcher())
    for one in numbers:
        assert await payouts.states(one) == ("paid", ["rejected", "paid"])


async def test_all_of_an_order_that_never_left_counts_for_the_limit(
    served: Served, payouts: Payouts, bank: FileRail, anna: httpx.AsyncClient, desk: Desk
) -> None:
    numbers = await stuck(payouts, bank)
    await limit(served, "withdrawal.fail", "29.99")
    waiting = (await anna.post(path(numbers[0], "fail"), json=PROOF)).json()
    assert waiting["amount"] == {"amount": "30.00", "currency": "EUR"}
    payouts.world.clock.advance(timedelta(hours=1))
    account = payouts.accounts["bank"]
    orders = await served.world.run(lambda tx: resolve.claim_prepared(tx, payouts.desk, account, 5))
    bea = await desk.session("bea", Role.ADMIN)
    approve, reason = f"/v1/approvals/{waiting['approval']}/approve", {"reason": "seen"}
    late = await bea.post(approve, json=reason)
    assert code(late) == (409, "attempt-not-unknown"), "it is on the wire at this moment"
    bank.before = [NeverSent("rail-unreachable", "No route to the host.")]
    await payouts.deliver(orders)
    assert (await bea.post(approve, json=reason)).is_success
    assert await payouts.states(numbers[2]) == ("failed", ["rejected"])
