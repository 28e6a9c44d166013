"""Automatic payouts over HTTP, carried out by the worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.desk import REASON, Desk, code, limit
from tests.served import Served, credit, earner, serve
from tests.stepping import new_person, set_policy, stepping
from tests.world import PostgresServer, owner_rows

from paymaster.people.staff_roles import Role
from paymaster.roles.paying import Automatic


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as found:
        yield found


PATH = "/v1/users/anna/automatic-payout"
EUR_10 = {"amount": "10.00", "currency": "EUR"}


async def test_a_choice_is_made_shown_carried_out_and_forgotten(served: Served) -> None:
    destination = await earner(served, "anna", "42.00")
    assert await served.ok("GET", PATH) == {"data": []}
    body = {"mode": "schedule", "every": "week", "on_day": 6, "minimum": EUR_10,
            "destination": destination["id"]}  # fmt: skip
    made = await served.ok("PUT", PATH, body)
    assert made == await served.ok("PUT", PATH, body)
    assert made["next_at"] == "2026-11-20T23:00:00.000Z"
    assert (made["own"], made["skipped"], made["last_withdrawal"]) == (True, None, None)
    environment = served.world.environment
    worker = Automatic(served.deps, environment, served.world.cell)
    served.world.clock.advance(timedelta(days=1))
    assert await worker.scheduled() == 1
    (shown,) = (await served.ok("GET", PATH))["data"]
    story = await served.ok("GET", f"/v1/withdrawals/{shown['last_withdrawal']}")
    assert story["amount"] == {"amount": "42.00", "currency": "EUR"}
    assert shown["next_at"] == "2026-11-27T23:00:00.000Z"
    await served.refused(404, "not-found", "DELETE", PATH, params={"currency": "USD"})
    await served.ok("DELETE", PATH, params={"currency": "EUR"})
    (shown,) = (await served.ok("GET", PATH))["data"]
    assert (shown["mode"], shown["own"]) == ("off", False)
    await served.refused(404, "not-found", "DELETE", PATH, params={"currency": "EUR"})


async def test_what_cannot_be_chosen_is_refused(served: Served) -> None:
    destination = await earner(served, "anna", "42.00")
    other = await earner(served, "berta", "42.00")
    good = {"mode": "threshold", "minimum": EUR_10, "destination": destination["id"]}
    dollars = {"amount": "11.00", "currency": "USD"}
    for status, slug, change in (
        (404, "destination-unknown", {"destination": other["id"]}),
        (404, "destination-unknown", {"destination": None}),
        (422, "currency-mismatch", {"minimum": dollars}),
        (422, "automatic-invalid", {"every": "day"}),
        (422, "automatic-invalid", {"at_most": {"amount": "1.00", "currency": "EUR"}}),
        (422, "automatic-invalid", {"at_most": dollars}),
    ):
        await served.refused(status, slug, "PUT", PATH, {**good, **change})
    await served.ok("DELETE", f"/v1/destinations/{destination['id']}")
    await served.refused(422, "destination-closed", "PUT", PATH, good)


async def test_the_default_is_set_and_the_worker_hands_it_out(served: Served) -> None:
    await earner(served, "anna", "42.00")
    put = {"failover": True, "most_orders": 5, "tries_before_leaving": 3, "reason": "x",
           "automatic": {"EUR": {"mode": "threshold", "minimum": "10.00"}}}  # fmt: skip
    assert (await served.ok("PUT", "/v1/payout-policy", put))["version"] == 1
    assert (await served.ok("PUT", "/v1/payout-policy", put))["version"] == 1
    worker = Automatic(served.deps, served.world.environment, served.world.cell)
    while await worker.defaults():
        continue
    assert await worker.thresholds() == 0
    (shown,) = (await served.ok("GET", PATH))["data"]
    assert (shown["own"], shown["mode"]) == (False, "threshold")
    assert shown["last_withdrawal"] is not None
    put["automatic"] = {"EUR": {"mode": "sometimes"}}
    await served.refused(422, "automatic-invalid", "PUT", "/v1/payout-policy", put)


async def test_the_earner_confirms_the_most_that_goes_at_once(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with stepping(postgres, tmp_path) as served:
        await _confirms(served)


async def _confirms(served: Served) -> None:
    person = await new_person(served)
    await credit(served, await person.id(), "42.00")
    await set_policy(served, {"purpose": "withdrawal", "above": EUR_10, "applies_to": "both"})
    body = {"mode": "threshold", "minimum": EUR_10, "destination": person.destination["id"]}
    path = f"/v1/users/{person.name}/automatic-payout"
    await served.refused(422, "automatic-at-most-missing", "PUT", path, body)
    body["at_most"] = {"amount": "30.00", "currency": "EUR"}
    await served.refused(422, "step-up-required", "PUT", path, body)
    wrong = await person.proven(
        purpose="withdrawal", amount=EUR_10, destination=person.destination["id"]
    )
    await served.refused(422, "step-up-mismatch", "PUT", path, {**body, "step_up": wrong})
    right = await person.proven(
        purpose="withdrawal", amount=body["at_most"], destination=person.destination["id"]
    )
    await served.ok("PUT", path, {**body, "step_up": right})
    await served.refused(422, "step-up-used", "PUT", path, {**body, "step_up": right})
    worker = Automatic(served.deps, served.world.environment, served.world.cell)
    await worker.thresholds()
    ((amount,),) = owner_rows(served.world, "SELECT amount FROM withdrawal")
    assert amount == 3000


async def test_one_person_does_not_set_what_is_paid_out_to_everybody(served: Served) -> None:
    """Where approving a withdrawal needs two, so does what makes withdrawals by itself."""
    desk = Desk(served)
    await limit(served, "withdrawal.approve", "1.00")
    anna, bea = await desk.session("anna"), await desk.session("bea", Role.RISK)
    put = {"failover": False, "most_orders": 5, "tries_before_leaving": 3, "reason": "x",
           "automatic": {"EUR": {"mode": "threshold", "minimum": "10.00"}}}  # fmt: skip
    waiting = await anna.put("/v1/payout-policy", json=put)
    assert (waiting.status_code, waiting.json()["state"]) == (202, "proposed")
    assert (await served.ok("GET", "/v1/payout-policy"))["version"] == 0
    path = f"/v1/approvals/{waiting.json()['approval']}/approve"
    assert code(await anna.post(path, json=REASON)) == (403, "second-person-needed")
    done = await bea.post(path, json=REASON)
    assert done.json()["result"] == await served.ok("GET", "/v1/payout-policy")
    assert done.json()["result"]["failover"] is False
    for one in desk.open:
        await one.aclose()
