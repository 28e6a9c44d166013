"""What operators do with withdrawals over the API: each act, its reason, proof and two persons."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random

import httpx
import pytest
import pytest_asyncio
from tests.desk import REASON, Desk, code, in_review, limit
from tests.payouts import Payouts, approved, assert_paid_once, new_payee
from tests.scripted_rails import FileRail
from tests.served import Served, serve
from tests.withdrawals import assert_proven, available, made_in, state_of
from tests.world import PostgresServer, owner_rows

from paymaster.api.withdrawal_acts import ACTS
from paymaster.kernel.errors import RailError, RailUnknown
from paymaster.kernel.ids import text_id
from paymaster.people.staff_roles import Role
from paymaster.rails.base import Outcome, Verdict
from paymaster.withdraw import holds
from paymaster.withdraw.machine import WITHDRAWAL

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROOF = {"proof": "the desk of the bank, 14:05, ticket 4711"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    staff = {"session_idle_minutes": 1440, "session_hours": 168}
    async with serve(postgres, tmp_path_factory.mktemp("acts"), staff=staff) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bank() -> FileRail:
    return FileRail("bank")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payouts(served: Served, bank: FileRail) -> AsyncIterator[Payouts]:
    made = Payouts(served.world, served.deps.secrets.sealer, {"bank": bank}, {}, random=Random(1))
    await made.add_account("bank", "bank")
    yield made
    await assert_proven(served.world)
    await assert_paid_once(made)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(served: Served) -> AsyncIterator[Desk]:
    made = Desk(served)
    yield made
    for one in made.open:
        await one.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def anna(desk: Desk) -> httpx.AsyncClient:
    return await desk.session("anna")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bea(desk: Desk) -> httpx.AsyncClient:
    return await desk.session("bea", Role.ADMIN)


_numbers = iter(range(100, 1000))


async def sent(
    payouts: Payouts, bank: FileRail, count: int, *, arrived: bool = False, silent: bool = True
) -> list[int]:
    """Withdrawals of 10.00 in one file; `silent`: nobody knows whether it arrived."""
    made = [
        await approved(payouts, await new_payee(payouts, next(_numbers)), "10.00")
        for _ in range(count)
    ]
    silence: list[RailError | Exception] = (
        [RailUnknown("transport-unproven", "?")] if silent else []
    )
    bank.before, bank.after = ([], silence) if arrived else (silence, [])
    await payouts.deliver(await payouts.claim())
    return made


def path(number: int, act: str = "") -> str:
    return f"/v1/withdrawals/{text_id('wd', 1, number)}" + (f"/{act}" if act else "")


async def states(payouts: Payouts, numbers: list[int]) -> list[str]:
    return [(await payouts.states(one))[0] for one in numbers]


async def test_every_act_of_the_machine_has_its_route(served: Served) -> None:
    assert {act.name for act in ACTS} == {
        f"withdrawal.{name}"
        for name in (
            "approve", "deny", "review", "ask_proof", "hold", "release", "reverse", "fail",
            "confirm_paid", "retry",
        )
    }  # fmt: skip


@pytest.mark.parametrize(
    ("state", "act", "after"),
    [
        ("in_review", "approve", "approved"),
        ("challenged", "approve", "approved"),
        ("queued", "deny", "denied"),
        ("held", "deny", "denied"),
        ("approved", "review", "in_review"),
        ("challenged", "review", "in_review"),
        ("in_review", "ask-proof", "challenged"),
        ("screening", "hold", "held"),
        ("held", "release", "requested"),
        ("paid", "reverse", "returned"),
    ],
)
async def test_a_move_with_its_reason(
    served: Served, anna: httpx.AsyncClient, state: str, act: str, after: str
) -> None:
    _, number = await made_in(served.world, state)
    unsaid = await anna.post(path(number, act), json={})
    assert code(unsaid) == (400, "request-invalid")
    done = await anna.post(path(number, act), json={"reason": "looked at it"})
    assert done.json()["state"] == after, done.text
    event = next(m.event.value for m in WITHDRAWAL.moves if (m.source, m.target) == (state, after))
    rows = owner_rows(
        served.world,
        "SELECT action, reason, detail ->> 'state' FROM audit WHERE subject = %s"
        " AND action NOT LIKE '%%request'",
        text_id("wd", 1, number),
    )
    assert rows == [(f"withdrawal.{event}", "looked at it", after)]
    again = await anna.post(path(number, act), json=REASON)
    assert again.json()["state"] == after, "the same act by the same person"


async def test_a_user_cannot_take_back_what_is_on_hold(served: Served) -> None:
    _, number = await made_in(served.world, "held")
    answer = await served.api.post(path(number, "cancel"), json={})
    assert code(answer) == (409, "illegal-move")
    assert (answer.json()["state"], answer.json()["move"]) == ("held", "hold")


async def test_failed_with_a_proof_concerns_the_whole_order(
    payouts: Payouts, bank: FileRail, anna: httpx.AsyncClient
) -> None:
    numbers = await sent(payouts, bank, 3)
    assert code(await anna.post(path(numbers[0], "fail"), json={})) == (400, "request-invalid")
    done = await anna.post(path(numbers[0], "fail"), json=PROOF)
    assert done.json()["state"] == "failed", done.text
    assert await states(payouts, numbers) == ["failed"] * 3
    rows = owner_rows(
        payouts.world,
        "SELECT DISTINCT reason FROM audit WHERE action = 'attempt.decide' AND subject = ANY("
        " SELECT 'x' UNION SELECT subject FROM audit WHERE action = 'attempt.decide')",
    )
    assert rows == [(PROOF["proof"],)]
    late = await anna.post(path(numbers[1], "confirm-paid"), json=PROOF)
    assert code(late) == (409, "illegal-move")
    assert (late.json()["state"], late.json()["move"]) == ("failed", "reject")


async def test_paid_with_a_proof_concerns_one_payment(
    payouts: Payouts, bank: FileRail, anna: httpx.AsyncClient
) -> None:
    numbers = await sent(payouts, bank, 2, arrived=True)
    done = await anna.post(path(numbers[0], "confirm-paid"), json=PROOF)
    assert done.json()["state"] == "paid", done.text
    assert await states(payouts, numbers) == ["paid", "unknown"]
    late = await anna.post(path(numbers[0], "fail"), json=PROOF)
    assert code(late) == (409, "attempt-not-unknown")
    assert (late.json()["state"], late.json()["move"]) == ("paid", "settle")
    assert (await anna.post(path(numbers[1], "confirm-paid"), json=PROOF)).status_code == 200


async def test_what_was_taken_in_and_then_lost_fails_alone(
    payouts: Payouts, bank: FileRail, anna: httpx.AsyncClient
) -> None:
    numbers = await sent(payouts, bank, 2, silent=False)
    assert await states(payouts, numbers) == ["sent", "sent"]
    bank.paid[await payouts.key_of(numbers[0])] = 0
    done = await anna.post(path(numbers[0], "fail"), json=PROOF)
    assert done.json()["state"] == "failed", done.text
    assert await states(payouts, numbers) == ["failed", "sent"]


async def test_a_dead_order_is_followed_by_another(
    payouts: Payouts, bank: FileRail, anna: httpx.AsyncClient
) -> None:
    numbers = await sent(payouts, bank, 2)
    done = await anna.post(path(numbers[0], "retry"), json=PROOF)
    assert done.json()["state"] == "queued", done.text
    assert await states(payouts, numbers) == ["queued", "queued"]
    payouts.world.clock.advance(timedelta(hours=1))
    bank.verdict = Verdict.PAID
    await payouts.run(payouts.dispatcher())
    bank.verdict = Verdict.ACCEPTED
    assert [await payouts.states(one) for one in numbers] == [("paid", ["rejected", "paid"])] * 2


async def test_what_waits_for_its_rail_is_tried_at_once(
    served: Served, anna: httpx.AsyncClient
) -> None:
    _, number = await made_in(served.world, "queued")
    later = served.world.clock.now() + timedelta(days=3)
    owner_rows(
        served.world, "UPDATE withdrawal SET due_at = %s WHERE id = %s RETURNING id", later, number
    )
    done = await anna.post(path(number, "retry"), json=PROOF)
    assert done.json()["state"] == "queued", done.text
    [(due, moves)] = owner_rows(
        served.world, "SELECT due_at, number FROM withdrawal WHERE id = %s", number
    )
    assert due <= served.world.clock.now()
    assert moves == 3, "it is no move"
    [(reason,)] = owner_rows(
        served.world,
        "SELECT reason FROM audit WHERE action = 'withdrawal.retry' AND subject = %s",
        text_id("wd", 1, number),
    )
    assert reason == PROOF["proof"]


async def test_there_is_nothing_to_say_of_what_was_not_sent(
    served: Served, anna: httpx.AsyncClient
) -> None:
    _, number = await made_in(served.world, "in_review")
    for act in ("fail", "confirm-paid", "retry"):
        answer = await anna.post(path(number, act), json=PROOF)
        assert code(answer) == (409, "illegal-move"), act
        assert answer.json()["state"] == "in_review"
        unknown = await anna.post(path(4711, act), json=PROOF)
        assert code(unknown) == (404, "not-found"), act


async def test_two_persons_for_all_payments_of_an_order(
    served: Served, payouts: Payouts, bank: FileRail, anna: httpx.AsyncClient,
    bea: httpx.AsyncClient,
) -> None:  # fmt: skip
    await limit(served, "withdrawal.fail", "25.00")
    one, three = await sent(payouts, bank, 1), await sent(payouts, bank, 3)
    assert (await anna.post(path(one[0], "fail"), json=PROOF)).json()["state"] == "failed"
    asked = await anna.post(path(three[0], "fail"), json=PROOF)
    assert asked.status_code == 202
    assert asked.json()["amount"] == {"amount": "30.00", "currency": "EUR"}
    assert asked.json()["reason"] == PROOF["proof"]
    approving = f"/v1/approvals/{asked.json()['approval']}/approve"
    await payouts.hear("bank", Outcome(await payouts.key_of(three[2]), Verdict.REJECTED))
    outdated = await bea.post(approving, json=REASON)
    assert code(outdated) == (409, "approval-outdated"), "one of them has failed since"
    refusing = approving.replace("/approve", "/refuse")
    assert (await bea.post(refusing, json=REASON)).status_code == 200
    again = await anna.post(path(three[0], "fail"), json=PROOF)
    assert again.json()["state"] == "failed", "20.00 are below the limit"
    assert await states(payouts, three) == ["failed"] * 3


async def test_what_was_approved_is_not_done_when_it_moved_meanwhile(
    served: Served, anna: httpx.AsyncClient, bea: httpx.AsyncClient
) -> None:
    await limit(served, "withdrawal.release", "1.00")
    earner, number, where = await in_review(served)
    await anna.post(f"{where}/hold", json=REASON)
    seen = {**REASON, "version": (await anna.get(where)).json()["version"]}
    asked = await anna.post(f"{where}/release", json=seen)
    assert asked.status_code == 202
    await bea.post(f"{where}/deny", json=REASON)
    late = await bea.post(f"/v1/approvals/{asked.json()['approval']}/approve", json=REASON)
    assert code(late) == (409, "moved-meanwhile"), late.text
    assert await state_of(served.world, number) == "denied"
    assert await available(served.world, earner) == ("100.00", "0.00")


async def test_no_finding_about_what_an_authority_has_frozen(
    served: Served, payouts: Payouts, bank: FileRail, anna: httpx.AsyncClient
) -> None:
    numbers = await sent(payouts, bank, 2)
    row = await served.world.run(
        lambda tx: holds.place(tx, "withdrawal", numbers[1], "7 Gs 7", "served")
    )
    for act in ("fail", "retry"):
        answer = await anna.post(path(numbers[0], act), json=PROOF)
        assert code(answer) == (409, "held-by-order"), "the finding concerns the other one too"
    await payouts.hear("bank", Outcome(await payouts.key_of(numbers[1]), Verdict.REJECTED))
    assert await states(payouts, numbers) == ["unknown", "failed"], "a fact is a fact"
    await served.world.run(lambda tx: holds.lift(tx, row.id, "over"))
    assert (await anna.post(path(numbers[0], "fail"), json=PROOF)).status_code == 200


@pytest.mark.parametrize("act", ["fail", "retry"])
async def test_what_two_persons_know_of_an_order_is_done_to_no_later_one(
    served: Served, payouts: Payouts, bank: FileRail, anna: httpx.AsyncClient,
    bea: httpx.AsyncClient, act: str,
) -> None:  # fmt: skip
    """The first order dies by itself; the next one is unknown too, and may have been executed."""
    await limit(served, f"withdrawal.{act}", "1.00")
    (number,) = await sent(payouts, bank, 1)
    asked = await anna.post(path(number, act), json=PROOF)
    assert asked.status_code == 202
    dead = Outcome(await payouts.key_of(number), Verdict.REJECTED, code="insufficient_funds")
    await payouts.hear("bank", dead)
    payouts.world.clock.advance(timedelta(hours=1))
    bank.before, bank.after = [], [RailUnknown("transport-unproven", "?")]
    await payouts.deliver(await payouts.claim_queued("bank"))
    assert await payouts.states(number) == ("unknown", ["rejected", "unknown"])
    late = await bea.post(f"/v1/approvals/{asked.json()['approval']}/approve", json=REASON)
    assert code(late) == (409, "moved-meanwhile"), late.text
    assert await payouts.states(number) == ("unknown", ["rejected", "unknown"])
    await payouts.hear("bank", Outcome(await payouts.key_of(number, 2), Verdict.PAID))


@pytest.mark.parametrize("act", ["retry", "fail"])
async def test_what_was_said_of_a_dead_order_is_not_done_to_the_one_that_follows_it(
    payouts: Payouts, bank: FileRail, bea: httpx.AsyncClient, anna: httpx.AsyncClient,
    served: Served, act: str,
) -> None:  # fmt: skip
    """A client that got no answer asks once more; by then the next order is with the bank."""
    for each in ("retry", "fail"):
        await limit(served, f"withdrawal.{each}", "10000.00")
    (number,) = await sent(payouts, bank, 1)
    assert (await anna.post(path(number, "retry"), json=PROOF)).json()["state"] == "queued"
    payouts.world.clock.advance(timedelta(hours=1))
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(number) == ("sent", ["rejected", "sent"])
    again = await bea.post(path(number, act), json=PROOF)
    assert code(again) == (409, "moved-meanwhile"), again.text
    assert (again.json()["state"], again.json()["move"]) == ("sent", "accept")
    assert await payouts.states(number) == ("sent", ["rejected", "sent"])
    bank.paid[await payouts.key_of(number, 2)] = 0
    seen = {**PROOF, "version": (await anna.get(path(number))).json()["version"]}
    assert (await anna.post(path(number, "fail"), json=seen)).json()["state"] == "failed"
