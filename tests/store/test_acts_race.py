"""Two who want something of one withdrawal at the same moment, on two connections, in both orders.

The order is forced: the first one has done everything but its COMMIT when the second one begins.
One wins. The other is told with 409 who was there first, when, and what is true now.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from tests.desk import REASON, Desk, code, in_review
from tests.gates import ORDERS, Send, both
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import AskableRail
from tests.served import Served, client, serve
from tests.served import earner as enrolled
from tests.withdrawals import (
    BANK,
    Earner,
    assert_proven,
    available,
    bring,
    made_in,
    state_of,
)
from tests.world import PostgresServer

from paymaster.db.tx import CellTx
from paymaster.kernel.ids import parse_text_id, text_id
from paymaster.people.staff_roles import Role
from paymaster.rails.base import Outcome, Verdict
from paymaster.withdraw import moves
from paymaster.withdraw.machine import Event, State
from paymaster.withdraw.moves import Moved, Step

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path_factory.mktemp("races")) as found:
        yield found
        await assert_proven(found.world)


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


async def who(session: httpx.AsyncClient) -> str:
    found: str = (await session.get("/v1/me")).json()["actor"]
    return found


def told(
    answer: httpx.Response, state: str, move: str, by: str, slug: str = "illegal-move"
) -> None:
    """A 409 that says who did what when, in words and in members."""
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, slug), answer.text
    assert (problem["state"], problem["move"], problem["moved_by"]) == (state, move, by)
    assert problem["moved_at"].endswith("Z")
    for word in (state, by, problem["moved_at"]):
        assert word in problem["detail"]


@ORDERS
async def test_two_operators_approve_and_deny(
    served: Served, anna: httpx.AsyncClient, bea: httpx.AsyncClient, turned: bool
) -> None:
    earner, number, path = await in_review(served)
    seen = {**REASON, "version": (await anna.get(path)).json()["version"]}
    yes, no = await both(
        served.world,
        [lambda: anna.post(f"{path}/approve", json=seen),
         lambda: bea.post(f"{path}/deny", json=seen)],
        turned=turned,
    )  # fmt: skip
    if turned:
        assert no.status_code == 200
        told(yes, "denied", "deny", await who(bea), "moved-meanwhile")
        assert await available(served.world, earner) == ("100.00", "0.00")
    else:
        assert yes.status_code == 200
        told(no, "approved", "approve", await who(anna), "moved-meanwhile")
        assert await available(served.world, earner) == ("59.50", "40.50")
    assert await state_of(served.world, number) == ("denied" if turned else "approved")


@ORDERS
async def test_two_operators_approve_and_deny_without_saying_what_they_saw(
    served: Served, anna: httpx.AsyncClient, bea: httpx.AsyncClient, turned: bool
) -> None:
    # Then it is no contradiction in this order: what is approved can still be denied.
    earner, number, path = await in_review(served)
    yes, no = await both(
        served.world,
        [lambda: anna.post(f"{path}/approve", json=REASON),
         lambda: bea.post(f"{path}/deny", json=REASON)],
        turned=turned,
    )  # fmt: skip
    assert no.status_code == 200
    if turned:
        told(yes, "denied", "deny", await who(bea))
    else:
        assert yes.json()["state"] == "approved"
    assert await state_of(served.world, number) == "denied"
    assert await available(served.world, earner) == ("100.00", "0.00")


@ORDERS
async def test_two_operators_approve(
    served: Served, anna: httpx.AsyncClient, bea: httpx.AsyncClient, turned: bool
) -> None:
    _, number, path = await in_review(served)
    answers = await both(
        served.world,
        [lambda: anna.post(f"{path}/approve", json=REASON),
         lambda: bea.post(f"{path}/approve", json=REASON)],
        turned=turned,
    )  # fmt: skip
    won, lost = answers[::-1] if turned else answers
    assert won.json()["state"] == "approved"
    told(lost, "approved", "approve", await who(bea if turned else anna))
    assert await state_of(served.world, number) == "approved"


async def test_one_operator_who_clicks_twice_is_answered_twice(
    served: Served, anna: httpx.AsyncClient
) -> None:
    _, _, path = await in_review(served)
    answers = await both(
        served.world, [lambda: anna.post(f"{path}/approve", json=REASON)] * 2, turned=False
    )
    assert [one.json()["state"] for one in answers] == ["approved", "approved"]
    assert answers[0].json()["version"] == answers[1].json()["version"]


async def claimed(served: Served) -> list[Moved]:
    """What a dispatcher does first: it takes what is due and writes down that it is sent."""

    async def work(tx: CellTx) -> list[Moved]:
        rows = await moves.take_due(tx, State.APPROVED, 100)
        steps = [Step(row.id, Event.SEND, rail_account_id=BANK) for row in rows]
        return [one for one in await moves.move(tx, steps, locked=rows) if one.done]

    return await served.world.run(work)


@ORDERS
async def test_cancel_racing_the_claim_of_dispatch(served: Served, turned: bool) -> None:
    await claimed(served)
    earner, number = await made_in(served.world, "approved")
    path = f"/v1/withdrawals/{text_id('wd', 1, number)}/cancel"
    works: list[Send] = [lambda: served.api.post(path, json={}), lambda: claimed(served)]
    cancelled, sent = await both(served.world, works, turned=turned, waits=turned)
    if turned:
        assert [one.state for one in sent] == ["sending"]
        told(cancelled, "sending", "send", "test")
        assert await available(served.world, earner) == ("59.50", "40.50")
    else:
        assert cancelled.json()["state"] == "cancelled"
        assert sent == [], "what is being cancelled is passed by"
        assert await claimed(served) == []
        assert await available(served.world, earner) == ("100.00", "0.00")


@ORDERS
async def test_cancel_by_the_earner_racing_cancel_by_the_app(served: Served, turned: bool) -> None:
    destination = await enrolled(served, f"twice-{turned}")
    user = destination["user"]
    token = (await served.ok("POST", f"/v1/users/{user}/tokens"))["token"]
    body = {"user": user, "destination": destination["id"]}
    made = await served.ok(
        "POST", "/v1/withdrawals", {**body, "amount": {"amount": "5.00", "currency": "EUR"}},
        headers={"Idempotency-Key": f"twice-{turned}"},
    )  # fmt: skip
    path = f"/v1/withdrawals/{made['id']}/cancel"
    async with client(served.app, token) as own:
        mine, apps = await both(
            served.world,
            [lambda: own.post(path, json={}), lambda: served.api.post(path, json={})],
            turned=turned,
        )
    if turned:
        assert apps.status_code == 200
        assert code(mine) == (409, "illegal-move")
        assert (mine.json()["state"], mine.json()["moved_by"]) == ("cancelled", "the app")
        assert "key:" not in mine.text, "an earner is not told names of keys and staff"
    else:
        assert mine.status_code == 200
        told(apps, "cancelled", "cancel", f"user:{user}")
    ids = (parse_text_id("us", user).id, parse_text_id("de", destination["id"]).id)
    assert await available(served.world, Earner(*ids)) == ("20.00", "0.00")


@ORDERS
@pytest.mark.parametrize("kind", ["us", "de", "wd"])
async def test_approve_racing_a_regulatory_hold(
    served: Served, anna: httpx.AsyncClient, bea: httpx.AsyncClient, turned: bool, kind: str
) -> None:
    earner, number, path = await in_review(served)
    ids = {"us": earner.user_id, "de": earner.destination_id, "wd": number}
    body = {"subject": text_id(kind, 1, ids[kind]), "reference": "12 Gs 345", "reason": "served"}
    approve, hold = await both(
        served.world,
        [lambda: anna.post(f"{path}/approve", json=REASON),
         lambda: bea.post("/v1/holds", json=body)],
        turned=turned,
    )  # fmt: skip
    assert hold.status_code == 201, hold.text
    if turned:
        assert code(approve) == (409, "held-by-order")
        assert approve.json()["reference"] == "12 Gs 345"
        assert await state_of(served.world, number) == "in_review"
    else:
        assert approve.json()["state"] == "approved"
    assert await claimed(served) == [], "nothing leaves, whoever was first"
    assert (await available(served.world, earner))[1] == "40.50"


@ORDERS
async def test_a_regulatory_hold_racing_the_claim_of_dispatch(
    served: Served, bea: httpx.AsyncClient, turned: bool
) -> None:
    await claimed(served)
    earner, number = await made_in(served.world, "approved")
    subject = text_id("us", 1, earner.user_id)
    body = {"subject": subject, "reference": "13 Gs 1", "reason": "served"}
    works: list[Send] = [lambda: bea.post("/v1/holds", json=body), lambda: claimed(served)]
    hold, sent = await both(served.world, works, turned=turned, waits=turned)
    assert hold.status_code == 201
    if turned:
        # It had left before the order was answered, and the answer waited for that.
        assert [one.state for one in sent] == ["sending"]
        assert await state_of(served.world, number) == "sending"
    else:
        assert sent == []
        assert await claimed(served) == []
        assert await state_of(served.world, number) == "approved"


@ORDERS
async def test_an_operators_hold_racing_the_claim_of_dispatch(
    served: Served, anna: httpx.AsyncClient, turned: bool
) -> None:
    await claimed(served)
    _, number = await made_in(served.world, "approved")
    path = f"/v1/withdrawals/{text_id('wd', 1, number)}/hold"
    works: list[Send] = [lambda: anna.post(path, json=REASON), lambda: claimed(served)]
    hold, sent = await both(served.world, works, turned=turned, waits=turned)
    if turned:
        assert [one.state for one in sent] == ["sending"]
        told(hold, "sending", "send", "test")
    else:
        assert (hold.json()["state"], sent) == ("held", [])
        assert await claimed(served) == []


@ORDERS
async def test_a_return_racing_an_operators_reversal(
    served: Served, anna: httpx.AsyncClient, turned: bool
) -> None:
    earner, number = await made_in(served.world, "paid")
    path = f"/v1/withdrawals/{text_id('wd', 1, number)}/reverse"

    async def returned() -> list[Moved]:
        step = Step(number, Event.RETURN, "AC04", rail_account_id=BANK)
        return await served.world.run(lambda tx: moves.move(tx, [step]))

    works: list[Send] = [lambda: anna.post(path, json=REASON), returned]
    reversal, (moved,) = await both(served.world, works, turned=turned)
    if turned:
        assert moved.done
        told(reversal, "returned", "return", "test")
    else:
        assert reversal.json()["state"] == "returned"
        assert moved.slug == "already"
    assert await available(served.world, earner) == ("99.50", "0.00")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payouts(postgres: PostgresServer) -> AsyncIterator[Payouts]:
    async with payout_world(postgres, AskableRail("wallet")) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


@ORDERS
async def test_a_webhook_racing_the_answer_of_send(payouts: Payouts, turned: bool) -> None:
    number = await approved(payouts, await new_payee(payouts, 1 + turned), "10.00", "0.50")
    (order,) = await payouts.claim()
    sent = await payouts.call(order)
    key = await payouts.key_of(number)
    paid = Outcome(key, Verdict.PAID, provider_id="po_1")
    works: list[Send] = [lambda: payouts.finish(sent), lambda: payouts.hear("wallet", paid)]
    answer, notice = await both(payouts.world, works, turned=turned)
    assert notice[0].done, "paid is more than taken in, whoever comes first"
    if turned:
        assert (answer[0].done, answer[0].slug) == (False, "superseded")
    else:
        assert answer[0].done
    assert await payouts.states(number) == ("paid", ["paid"])
    moved = await payouts.value(
        "SELECT count(*) FROM withdrawal_move WHERE withdrawal_id = %s AND target = 'paid'", number
    )
    assert moved == 1


async def test_an_earner_is_told_that_staff_was_first(
    served: Served, anna: httpx.AsyncClient
) -> None:
    destination = await enrolled(served, "late")
    user = destination["user"]
    token = (await served.ok("POST", f"/v1/users/{user}/tokens"))["token"]
    ask = {"user": user, "destination": destination["id"]}
    made = await served.ok(
        "POST", "/v1/withdrawals", {**ask, "amount": {"amount": "5.00", "currency": "EUR"}},
        headers={"Idempotency-Key": "late"},
    )  # fmt: skip
    await bring(served.world, parse_text_id("wd", made["id"]).id, "in_review")
    path = f"/v1/withdrawals/{made['id']}"
    assert (await anna.post(f"{path}/deny", json=REASON)).status_code == 200
    async with client(served.app, token) as own:
        answer = await own.post(f"{path}/cancel", json={})
    assert code(answer) == (409, "illegal-move")
    problem = answer.json()
    assert (problem["state"], problem["moved_by"]) == ("denied", "staff")
    assert "person:" not in answer.text
