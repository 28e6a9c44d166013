"""Orders of an authority: what they stop, what they cannot stop, and that nobody is tipped off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx
import pytest
import pytest_asyncio
from tests.desk import REASON, Desk, code
from tests.holding import ORDER, ask, case, lift, place
from tests.screening import rule_set
from tests.served import Served, client, credit, serve
from tests.withdrawals import BANK, assert_proven, available, state_of
from tests.world import ACTOR, PostgresServer, owner_rows

from paymaster.kernel.errors import Conflict
from paymaster.kernel.ids import text_id
from paymaster.people.staff_roles import Role
from paymaster.removal import inventory
from paymaster.screen import decide as screening
from paymaster.withdraw import checks, holds, moves
from paymaster.withdraw.machine import Event, State
from paymaster.withdraw.moves import Step

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Line(NamedTuple):
    """A withdrawal as far as holds are concerned."""

    id: int
    user_id: int
    destination_id: int


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    staff = {"session_idle_minutes": 1440, "session_hours": 168}
    async with serve(postgres, tmp_path_factory.mktemp("holds"), staff=staff) as found:
        yield found
        await assert_proven(found.world)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(served: Served) -> AsyncIterator[Desk]:
    made = Desk(served)
    yield made
    for one in made.open:
        await one.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def risk(desk: Desk) -> httpx.AsyncClient:
    return await desk.session("rita", Role.RISK)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other(desk: Desk) -> httpx.AsyncClient:
    return await desk.session("olga", Role.ADMIN)


async def test_who_may_and_what_is_written_down(
    served: Served, desk: Desk, risk: httpx.AsyncClient, other: httpx.AsyncClient
) -> None:
    this = await case(served, "written")
    body = {"subject": this.user, "reference": ORDER, "reason": "served today"}
    for role in (Role.FINANCE, Role.SUPPORT, Role.AUDITOR):
        person = await desk.session(f"not-{role}", role)
        assert code(await person.post("/v1/holds", json=body)) == (403, "scope-missing")
    hold = await place(risk, this.user)
    assert code(await other.post("/v1/holds", json=body)) == (409, "hold-placed-already")
    shown = (await risk.get(f"/v1/holds/{hold}")).json()
    assert (shown["subject"], shown["subject_kind"], shown["state"]) == (this.user, "user", "open")
    assert shown["reference"] == ORDER
    listed = (await risk.get("/v1/holds", params={"state": "open", "subject": this.user})).json()
    assert [one["id"] for one in listed["data"]] == [hold]
    assert (await lift(risk, other, hold))["state"] == "lifted"
    listed = (await risk.get("/v1/holds", params={"state": "lifted"})).json()["data"]
    assert [one["id"] for one in listed] == [hold]
    rows = owner_rows(
        served.world,
        "SELECT action, actor, reason, detail ->> 'reference' FROM audit"
        " WHERE subject = %s AND action LIKE 'hold.%%' ORDER BY commit_id, ordinal",
        this.user,
    )
    first, second = shown["placed_by"], listed[0]["lifted_by"]
    assert first != second
    assert rows == [
        ("hold.placed", first, "served today", ORDER),
        ("hold.lifted", second, REASON["reason"], ORDER),
    ]
    told = owner_rows(
        served.world,
        "SELECT topic, key, payload ->> 'subject', payload ->> 'reference' FROM outbox"
        " WHERE topic LIKE 'hold.%%' ORDER BY commit_id, ordinal",
    )
    assert told == [
        ("hold.placed", hold, this.user, ORDER),
        ("hold.lifted", hold, this.user, ORDER),
    ]


@pytest.mark.parametrize("kind", ["user", "destination", "withdrawal"])
async def test_nothing_that_people_do_moves_what_is_held(
    served: Served, risk: httpx.AsyncClient, kind: str
) -> None:
    this = await case(served, f"people-{kind}")
    await place(risk, getattr(this, kind))
    for act in ("approve", "deny", "hold", "ask-proof"):
        answer = await risk.post(f"{this.path}/{act}", json=REASON)
        assert code(answer) == (409, "held-by-order"), (act, answer.text)
        assert answer.json()["reference"] == ORDER
    assert code(await served.api.post(f"{this.path}/cancel", json={})) == (409, "held-by-order")
    async with client(served.app, await served.key(["withdrawals"])) as app:
        answer = await app.post(f"{this.path}/cancel", json={})
    assert code(answer) == (409, "held-by-order")
    assert ORDER not in answer.text
    closing = f"/v1/destinations/{this.destination}"
    assert code(await served.api.delete(closing)) == (409, "held-by-order")
    assert await state_of(served.world, this.number) == "in_review"
    assert await available(served.world, this.earner) == ("15.00", "5.00")
    refused = await this.ask("second")
    if kind == "withdrawal":
        assert refused.status_code == 202
    else:
        assert code(refused) == (422, "account-under-review")


async def test_the_earner_is_not_tipped_off(served: Served, risk: httpx.AsyncClient) -> None:
    this = await case(served, "tipped", "challenged")
    token = (await served.ok("POST", f"/v1/users/{this.name}/tokens"))["token"]
    async with client(served.app, token) as own:
        before = (await own.get(this.path)).json()
        await place(risk, this.user)
        after = (await own.get(this.path)).json()
        assert before["challenge"] == "asked"
        review = {**before, "state": "in_review", "challenge": None}
        assert after == review, "as any review looks"
        answers = [
            await own.post(f"{this.path}/cancel", json={}),
            await own.delete(f"/v1/destinations/{this.destination}"),
            await own.post(f"{this.path}/challenge", json={}),
            await own.post(
                "/v1/withdrawals",
                json={"user": "me", "destination": this.destination,
                      "amount": {"amount": "1.00", "currency": "EUR"}},
                headers={"Idempotency-Key": "tipped"},
            ),
            await own.get("/v1/holds"),
        ]  # fmt: skip
        codes = [code(answer) for answer in answers]
    assert codes == [
        *[(409, "account-under-review")] * 3,
        (422, "account-under-review"),
        (403, "scope-missing"),
    ]
    for answer in answers:
        assert ORDER not in answer.text
        assert "order" not in answer.json()["detail"]


async def test_workers_leave_it_and_go_on_when_it_is_lifted(
    served: Served, risk: httpx.AsyncClient, other: httpx.AsyncClient
) -> None:
    this, waiting = await case(served, "w1", "requested"), await case(served, "w2", "approved")
    world = served.world
    found = [await place(risk, this.user), await place(risk, waiting.destination)]

    async def worked() -> tuple[list[int], list[str]]:
        claimed = await world.run(lambda tx: screening.claim(tx, 100))
        rows = await world.run(lambda tx: moves.take_due(tx, State.APPROVED, 100))
        steps = [Step(row.id, Event.SEND, rail_account_id=BANK) for row in rows]
        moved = await world.run(lambda tx: moves.move(tx, steps))
        ours = this.number, waiting.number
        return (
            [one.withdrawal_id for one in claimed if one.withdrawal_id in ours],
            [str(one.slug) for one in moved if one.withdrawal_id in ours],
        )

    assert await worked() == ([], ["held-by-order"])
    assert await worked() == ([], []), "looked at again later, and not all the time"
    world.clock.advance(holds.LOOK_AGAIN)
    assert await worked() == ([], ["held-by-order"])
    for hold in found:
        await lift(risk, other, hold)
    assert await worked() == ([this.number], ["None"])
    assert await state_of(world, waiting.number) == "sending"


async def test_a_verdict_that_comes_after_the_order_waits_too(
    served: Served, risk: httpx.AsyncClient, other: httpx.AsyncClient
) -> None:
    this = await case(served, "verdict", "requested")
    world = served.world

    async def judged() -> screening.Decided:
        decided = await world.run(lambda tx: screening.decide(tx, claimed, rule_set(1)))
        return next(one for one in decided if one.withdrawal_id == this.number)

    claimed = await world.run(lambda tx: screening.claim(tx, 100))
    hold = await place(risk, this.withdrawal)
    for _ in range(screening.MAX_CLAIMS + 2):
        decided = await judged()
        assert (decided.outcome, decided.slug) == (None, "held-by-order")
        world.clock.advance(holds.LOOK_AGAIN)
        claimed = await world.run(lambda tx: screening.claim(tx, 100))
    assert await state_of(world, this.number) == "screening"
    await lift(risk, other, hold)
    claimed = await world.run(lambda tx: screening.claim(tx, 100))
    assert (await judged()).state == "approved"


@pytest.mark.parametrize(
    ("event", "state", "left"),
    [
        (Event.SETTLE, "paid", ("15.00", "0.00")),
        (Event.REJECT, "failed", ("20.00", "0.00")),
        (Event.LOSE, "unknown", ("15.00", "5.00")),
        (Event.QUEUE, "queued", ("15.00", "5.00")),
    ],
)
async def test_what_the_provider_says_is_a_fact(
    served: Served, risk: httpx.AsyncClient, event: Event, state: str, left: tuple[str, str]
) -> None:
    this = await case(served, f"fact-{event}", "sent")
    await place(risk, this.user)
    step = Step(this.number, event, "AM04", rail_account_id=BANK)
    (moved,) = await served.world.run(lambda tx: moves.move(tx, [step]))
    assert (moved.done, moved.state) == (True, state)
    assert await available(served.world, this.earner) == left
    if state == "queued":
        again = Step(this.number, Event.SEND)
        (moved,) = await served.world.run(lambda tx: moves.move(tx, [again]))
        assert moved.slug == "held-by-order"
    if state == "paid":
        answer = await risk.post(f"{this.path}/reverse", json=REASON)
        assert code(answer) == (409, "held-by-order")
        back = Step(this.number, Event.RETURN, "AC04", rail_account_id=BANK)
        (moved,) = await served.world.run(lambda tx: moves.move(tx, [back]))
        assert moved.state == "returned"


async def test_each_of_several_holds_must_be_lifted(
    served: Served, risk: httpx.AsyncClient, other: httpx.AsyncClient
) -> None:
    this = await case(served, "several")
    found = [
        await place(risk, this.user, "1 Gs 1"),
        await place(risk, this.user, "1 Gs 2"),
        await place(risk, this.withdrawal, "1 Gs 2"),
        await place(risk, this.destination, "1 Gs 3"),
    ]
    for hold in found:
        assert code(await risk.post(f"{this.path}/deny", json=REASON)) == (409, "held-by-order")
        await lift(risk, other, hold)
    assert (await risk.post(f"{this.path}/deny", json=REASON)).json()["state"] == "denied"
    again = await risk.post(f"/v1/holds/{found[0]}/lift", json=REASON)
    assert code(again) == (409, "hold-lifted")
    assert again.json()["lifted_by"].startswith("person:")
    await place(risk, this.user, "1 Gs 1")


async def test_other_destinations_and_users_are_not_concerned(
    served: Served, risk: httpx.AsyncClient
) -> None:
    this, stranger = await case(served, "near"), await case(served, "far")
    account = {"iban": "FR1420041010050500013M02606", "holder": "B. Example"}
    second = await served.ok(
        "POST",
        f"/v1/users/{this.name}/destinations",
        {"kind": "iban", "currency": "EUR", "details": account},
    )
    await place(risk, this.destination)
    assert code(await this.ask("same")) == (422, "account-under-review")
    assert (await ask(served, "near", this.user, second["id"], "else")).status_code == 202
    assert (await risk.post(f"{stranger.path}/approve", json=REASON)).status_code == 200


async def test_rewards_of_a_held_user_are_credited(served: Served, risk: httpx.AsyncClient) -> None:
    this = await case(served, "rewarded")
    await place(risk, this.user)
    await credit(served, this.user, "3.00")
    assert await available(served.world, this.earner) == ("18.00", "5.00")


async def test_one_person_lifts_where_the_setting_says_so(
    served: Served, risk: httpx.AsyncClient, desk: Desk
) -> None:
    this = await case(served, "alone")
    hold = await place(risk, this.user)
    key = await desk.key(None)
    assert code(await key.post(f"/v1/holds/{hold}/lift", json=REASON)) == (403, "person-needed")
    asked = await risk.post(f"/v1/holds/{hold}/lift", json=REASON)
    path = f"/v1/approvals/{asked.json()['approval']}"
    again = await risk.post(f"{path}/approve", json=REASON)
    assert code(again) == (403, "second-person-needed")
    finance = await desk.session("fred", Role.FINANCE)
    assert code(await finance.post(f"{path}/approve", json=REASON)) == (403, "scope-missing")
    assert (await risk.post(f"{path}/withdraw", json=REASON)).is_success
    staff = served.deps.settings.staff
    object.__setattr__(staff, "lift_holds_by_two", False)
    try:
        done = await risk.post(f"/v1/holds/{hold}/lift", json=REASON)
    finally:
        object.__setattr__(staff, "lift_holds_by_two", True)
    assert (done.status_code, done.json()["state"]) == (200, "lifted")


async def test_what_cannot_be_held(served: Served, risk: httpx.AsyncClient) -> None:
    body = {"reference": "x", "reason": "x"}
    for subject, wanted in (
        ("rw_0100000000000ZZ", (422, "hold-subject")),
        ("us_17", (422, "hold-subject")),
        (text_id("us", 1, 4711), (404, "not-found")),
        (text_id("wd", 1, 4711), (404, "not-found")),
        (text_id("de", 1, 4711), (404, "not-found")),
        (text_id("us", 9, 4711), (404, "not-found")),
    ):
        answer = await risk.post("/v1/holds", json={**body, "subject": subject})
        assert code(answer) == wanted, subject


async def test_the_functions_below_the_door(served: Served) -> None:
    this = await case(served, "below")
    row = await served.world.run(
        lambda tx: holds.place(tx, "destination", this.earner.destination_id, ORDER, "served")
    )
    assert row.placed_by == ACTOR.name
    line = Line(this.number, this.earner.user_id, row.subject_id)
    frozen = await served.world.read(lambda tx: holds.frozen(tx, [line]))
    assert frozen == {this.number: ORDER}
    left = await served.world.read(inventory.unfinished)
    assert any(one.endswith("orders of authorities not lifted") for one in left)
    mine = await served.world.read(lambda tx: holds.open_of_user(tx, this.earner.user_id))
    assert [one.id for one in mine] == [row.id]
    with pytest.raises(Conflict, match="held-by-order"):
        await served.world.run(lambda tx: checks.require_free(tx, [this.number]))
