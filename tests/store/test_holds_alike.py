"""A hold on a destination freezes the account, under whosever name it is in the books."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from tests.desk import REASON, Desk, code
from tests.holding import ORDER, Case, ask, case, lift, place
from tests.planted import new_iban
from tests.served import IBAN, Served, credit, serve
from tests.withdrawals import BANK, assert_proven, state_of
from tests.world import PostgresServer

from paymaster.dispatch import purse_store
from paymaster.people.staff_roles import Role
from paymaster.screen import store as screen_store
from paymaster.withdraw import holds, holds_store, moves
from paymaster.withdraw.machine import Event, State
from paymaster.withdraw.moves import Step

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    staff = {"session_idle_minutes": 1440, "session_hours": 168}
    async with serve(postgres, tmp_path_factory.mktemp("alike"), staff=staff) as found:
        yield found
        await assert_proven(found.world)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(served: Served) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    desk = Desk(served)
    yield await desk.session("rita", Role.RISK), await desk.session("olga", Role.ADMIN)
    for one in desk.open:
        await one.aclose()


async def test_the_same_account_of_another_user_is_frozen_too(
    served: Served, people: tuple[httpx.AsyncClient, httpx.AsyncClient]
) -> None:
    risk, other = people
    account = new_iban()
    one, two = [await case(served, name, "approved", account) for name in ("one", "two")]
    assert one.user != two.user
    elsewhere = {"iban": "FR1420041010050500013M02606", "holder": "B. Example"}
    free = await served.ok("POST", "/v1/users/two/destinations", {**IBAN, "details": elsewhere})
    hold = await place(risk, one.destination)
    shown = (await risk.get(f"/v1/holds/{hold}")).json()
    assert shown["covers"] == [two.destination]
    listed = (await risk.get("/v1/holds", params={"state": "open"})).json()["data"]
    assert [row["covers"] for row in listed] == [[two.destination]]

    for this in (one, two):
        assert code(await this.ask("second")) == (422, "account-under-review"), this.name
        quoted = {"user": this.user, "destination": this.destination,
                  "amount": {"amount": "1.00", "currency": "EUR"}}  # fmt: skip
        await served.refused(422, "account-under-review", "POST", "/v1/quotes", quoted)
        assert code(await risk.post(f"{this.path}/hold", json=REASON)) == (409, "held-by-order")
        assert code(await served.api.post(f"{this.path}/cancel")) == (409, "held-by-order")
        closing = f"/v1/destinations/{this.destination}"
        assert code(await served.api.delete(closing)) == (409, "held-by-order")
        await _stays(served, this)
    assert (await ask(served, "two", two.user, free["id"], "free")).status_code == 202

    body = {**IBAN, "details": {"iban": account, "holder": "C. Example"}}
    user = (await served.ok("PUT", "/v1/users/three", {}))["id"]
    await credit(served, user, "20.00")
    later = await served.ok("POST", "/v1/users/three/destinations", body)
    asked = await ask(served, "three", user, later["id"], "first")
    assert code(asked) == (422, "account-under-review"), "added afterwards"
    shown = (await risk.get(f"/v1/holds/{hold}")).json()
    assert shown["covers"] == [two.destination, later["id"]]

    await lift(risk, other, hold)
    rows = await served.world.run(lambda tx: moves.take_due(tx, State.APPROVED, 100))
    assert {one.number, two.number} <= {row.id for row in rows}, "both were woken"
    for this in (one, two):
        assert await state_of(served.world, this.number) == "approved"
    assert (await two.ask("third")).status_code == 202


async def _stays(served: Served, this: Case) -> None:
    """No worker moves it, and it is told as under review."""
    world = served.world

    step = Step(this.number, Event.SEND, rail_account_id=BANK)
    (moved,) = await world.run(lambda tx: moves.move(tx, [step]))
    assert (moved.slug, await state_of(world, this.number)) == ("held-by-order", "approved")
    row = await served.ok("GET", this.path)
    assert row["state"] == "approved"
    explained = await served.ok("GET", f"{this.path}/explain")
    assert explained["stage"] == "under-review"


async def test_what_looks_for_work_passes_over_it(
    served: Served, people: tuple[httpx.AsyncClient, httpx.AsyncClient]
) -> None:
    risk, other = people
    account = new_iban()
    held, asked, queued = [
        await case(served, state, state, account) for state in ("in_review", "challenged", "queued")
    ]
    hold = await place(risk, held.destination, f"{ORDER} a")
    world = served.world
    far = world.clock.now().replace(year=2099)

    async def found() -> tuple[list[int], list[bool], list[int]]:
        unanswered = await world.run(
            lambda tx: screen_store.take_unanswered(tx, "challenged", far, 9, 100)
        )
        waiting = await world.run(lambda tx: purse_store.waiting(tx, BANK, "x", 100))
        free = await world.run(
            lambda tx: holds_store.lock_free_of_destination(
                tx, queued.earner.destination_id, holds.WAITING
            )
        )
        return unanswered, [row.held for row in waiting if row.id == queued.number], free

    assert await found() == ([], [True], [])
    await lift(risk, other, hold)
    assert await found() == ([asked.number], [False], [queued.number])
