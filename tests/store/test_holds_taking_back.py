"""What is frozen under a user stays put: nothing is taken back of it until the hold is lifted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.desk import REASON, Desk, code
from tests.holding import lift, place
from tests.served import Served, serve
from tests.store.test_api_earnings import balance, earned, euros, owing
from tests.store.test_api_work import TASK, TASK_PATH, offer
from tests.withdrawals import assert_proven
from tests.world import PostgresServer

from paymaster.db.tx import CellTx
from paymaster.earn import clawback
from paymaster.people.staff_roles import Role
from paymaster.roles.work import ROLES
from paymaster.withdraw import holds

TAKEN = {"source": "api", "event_id": "e1", "user": "anna", "reason": "robot"}


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    staff = {"session_idle_minutes": 1440, "session_hours": 168}
    async with serve(postgres, tmp_path, staff=staff) as found:
        await offer(found)
        await found.ok("PUT", TASK_PATH, {**TASK, "reward": euros("2.00")})
        yield found
        await assert_proven(found.world)


@pytest.fixture
async def people(served: Served) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    desk = Desk(served)
    yield await desk.session("rita", Role.RISK), await desk.session("olga", Role.ADMIN)
    for one in desk.open:
        await one.aclose()


async def frozen_reward(served: Served, risk: httpx.AsyncClient) -> tuple[dict[str, Any], str]:
    """Anna's reward, and the hold that she is under since."""
    reward = await earned(served)
    user = (await served.ok("GET", "/v1/users/anna"))["id"]
    return reward, await place(risk, user)


async def apply(served: Served) -> int:
    """What the role does; how many were applied."""
    [lane] = [one for one in ROLES["intake"](served.deps).lanes if "early-rev" in one.name]
    return await lane.step()


async def test_a_claw_back_waits_until_the_hold_is_lifted(
    served: Served, people: tuple[httpx.AsyncClient, httpx.AsyncClient]
) -> None:
    risk, other = people
    reward, hold = await frozen_reward(served, risk)
    second = await place(risk, (await served.ok("GET", "/v1/users/anna"))["id"], "2 Gs 2")
    before = await balance(served)
    part = {**TAKEN, "amount": euros("0.50"), "reference": "cb-1"}
    for _ in range(2):
        kept = await served.ok("POST", "/v1/reversals", part)
        assert kept == {"state": "kept", "reward": None}
    unnamed = {**TAKEN, "amount": euros("0.50")}
    await served.refused(422, "reversal-reference", "POST", "/v1/reversals", unnamed)
    path = f"/v1/rewards/{reward['id']}/reverse"
    assert code(await served.api.post(path, json={"reason": "x"})) == (409, "held-by-order")
    for _ in range(3):
        served.world.clock.advance(clawback.LATEST)
        assert await apply(served) == 0
    assert {**await balance(served), "as_of_seq": 0} == {**before, "as_of_seq": 0}, "nothing moved"
    [waits] = (await served.ok("GET", "/v1/reversals/early"))["data"]
    assert (waits["event_id"], waits["amount"]) == ("e1", euros("0.50"))

    await lift(risk, other, second)
    assert await apply(served) == 0, "each of several holds must be lifted"
    await lift(risk, other, hold)
    assert await apply(served) == 1, "at once, and not at its next try"
    assert await apply(served) == 0
    after = (await served.ok("GET", "/v1/users/anna/rewards"))["data"][0]
    assert after["taken_back"] == euros("0.50")
    told = await served.ok("POST", "/v1/reversals", part)
    assert told["state"] == "reversed"
    assert told["reward"]["taken_back"] == euros("0.50"), "the same reference takes once"


async def test_all_of_a_reward_waits_as_well(
    served: Served, people: tuple[httpx.AsyncClient, httpx.AsyncClient]
) -> None:
    risk, other = people
    _, hold = await frozen_reward(served, risk)
    assert (await served.ok("POST", "/v1/reversals", TAKEN))["state"] == "kept"
    await lift(risk, other, hold)
    assert await apply(served) == 1
    after = (await served.ok("GET", "/v1/users/anna/rewards"))["data"][0]
    assert after["state"] == "reversed"


async def test_what_was_given_up_is_not_owed_again_meanwhile(
    served: Served, people: tuple[httpx.AsyncClient, httpx.AsyncClient]
) -> None:
    risk, other = people
    reward = await owing(served)
    given = {"amount": reward["amount"], "reason": "gone"}
    made = await served.ok("POST", "/v1/users/anna/debt/write-off", given)
    hold = await place(risk, (await served.ok("GET", "/v1/users/anna"))["id"])
    undo = f"/v1/write-offs/{made['id']}/undo"
    assert code(await served.api.post(undo, json=REASON)) == (409, "held-by-order")
    await lift(risk, other, hold)
    assert (await served.ok("POST", undo, REASON))["state"] == "undone"
    assert (await served.ok("POST", undo, REASON))["state"] == "undone"


async def test_who_places_the_hold_waits_for_what_is_being_taken(served: Served) -> None:
    await earned(served)
    world = served.world
    user = (await world.read(lambda tx: tx.value("SELECT min(id) FROM app_user"))) or 0
    looked, go_on = asyncio.Event(), asyncio.Event()

    async def taking(tx: CellTx) -> bool:
        free = not await holds.held_users(tx, [user])
        looked.set()
        await go_on.wait()
        return free

    async def placing(tx: CellTx) -> bool:
        await holds.place(tx, "user", user, "1 Gs 1", "served")
        return go_on.is_set()

    one = asyncio.create_task(world.run(taking))
    await looked.wait()
    two = asyncio.create_task(world.run(placing))
    done, _ = await asyncio.wait([two], timeout=0.3)
    assert not done
    go_on.set()
    assert await one
    assert await two, "it was placed after the other had ended"
    assert await world.run(lambda tx: holds.held_users(tx, [user])) == {user: "1 Gs 1"}
