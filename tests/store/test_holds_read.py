"""Who may read of orders by authorities: nobody who only has `read`, wherever they are told of."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.desk import REASON, Desk, code
from tests.holding import ORDER, case, place
from tests.served import Served, client, serve
from tests.world import PostgresServer

from paymaster.people.scopes import SCOPES
from paymaster.people.staff_roles import Role

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path_factory.mktemp("holds-read")) as found:
        yield found


async def test_a_hold_is_read_with_a_scope_of_its_own(served: Served) -> None:
    desk = Desk(served)
    this = await case(served, "read")
    risk, auditor = await desk.session("rita", Role.RISK), await desk.session("al", Role.AUDITOR)
    hold = await place(risk, this.withdrawal)
    asked = await risk.post(f"/v1/holds/{hold}/lift", json=REASON)
    approval = asked.json()["approval"]
    events = (await risk.get("/v1/webhook-events", params={"types": "hold.*"})).json()["data"]
    [event] = [one["id"] for one in events]
    told = {
        "/v1/holds": ORDER,
        f"/v1/holds/{hold}": ORDER,
        "/v1/webhook-events": ORDER,
        f"/v1/webhook-events/{event}": ORDER,
        "/v1/approvals": hold,
        f"/v1/approvals/{approval}": hold,
        this.path: "hold.placed",
    }
    hidden = (403, "scope-missing"), (404, "not-found"), (200, None)
    every = [scope for scope in SCOPES if scope != "holds:read"]
    async with (
        client(served.app, await served.key(["read", "holds:read"])) as reader,
        client(served.app, await served.key(every)) as blind,
    ):
        for path, mark in told.items():
            for caller in (risk, auditor, reader):
                answer = await caller.get(path)
                assert answer.status_code == 200, (path, answer.text)
                assert mark in answer.text, path
            answer = await blind.get(path)
            assert (answer.status_code, answer.json().get("code")) in hidden, (path, answer.text)
            assert mark not in answer.text, path
            assert ORDER not in answer.text, path
        assert code(await blind.get("/v1/holds")) == (403, "scope-missing")
        assert code(await blind.get(f"/v1/holds/{hold}")) == (403, "scope-missing")
        for path in (f"/v1/webhook-events/{event}/deliveries", f"/v1/approvals/{approval}"):
            assert code(await blind.get(path)) == (404, "not-found")
        resent = await blind.post(
            f"/v1/webhook-events/{event}/resend", json={"endpoint": "we_010000000000001"}
        )
        assert code(resent) == (404, "not-found")
        placed = await blind.post(
            "/v1/holds", json={"subject": this.user, "reference": "2", "reason": "x"}
        )
        assert placed.status_code == 201, "to place one is another scope"
    for one in desk.open:
        await one.aclose()
