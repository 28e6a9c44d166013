"""Closing a destination while somebody asks for money there, on two connections, in both orders."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from tests.desk import REASON, Desk, code, in_review
from tests.gates import ORDERS, both
from tests.served import Served, serve
from tests.served import earner as enrolled
from tests.withdrawals import Earner, assert_proven, available, state_of
from tests.world import PostgresServer

from paymaster.kernel.ids import parse_text_id, text_id

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path_factory.mktemp("closing")) as found:
        yield found
        await assert_proven(found.world)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def anna(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    desk = Desk(served)
    yield await desk.session("anna")
    for one in desk.open:
        await one.aclose()


@ORDERS
@pytest.mark.parametrize("waiting", [False, True], ids=["the-first", "one-more"])
async def test_closing_the_destination_racing_a_request(
    served: Served, turned: bool, waiting: bool
) -> None:
    """With a withdrawal waiting there already, both want the user's money as well: no deadlock."""
    name = f"closing-{turned}-{waiting}"
    destination = await enrolled(served, name)
    user = destination["user"]
    ask = {
        "user": user,
        "destination": destination["id"],
        "amount": {"amount": "5.00", "currency": "EUR"},
    }
    if waiting:
        before = {"Idempotency-Key": f"{name}-before"}
        await served.ok("POST", "/v1/withdrawals", ask, headers=before)
    headers = {"Idempotency-Key": name}
    request, closing = await both(
        served.world,
        [lambda: served.api.post("/v1/withdrawals", json=ask, headers=headers),
         lambda: served.api.delete(f"/v1/destinations/{destination['id']}")],
        turned=turned,
    )  # fmt: skip
    assert closing.json()["state"] == "closed"
    if turned:
        assert code(request) == (422, "destination-closed")
    else:
        assert request.status_code == 202
        found = await served.ok("GET", f"/v1/withdrawals/{request.json()['id']}")
        assert (found["state"], found["reason"]) == ("cancelled", "destination-closed")
    number = parse_text_id("us", user).id
    open_ones = await served.world.read(
        lambda tx: tx.value(
            "SELECT count(*) FROM withdrawal WHERE user_id = %s AND state <> 'cancelled'",
            (number,),
        )
    )
    assert open_ones == 0, "nothing waits for a closed destination"
    ids = (number, parse_text_id("de", destination["id"]).id)
    assert await available(served.world, Earner(*ids)) == ("20.00", "0.00")


@ORDERS
async def test_closing_the_destination_racing_an_approval(
    served: Served, anna: httpx.AsyncClient, turned: bool
) -> None:
    earner, number, path = await in_review(served)
    closing = f"/v1/destinations/{text_id('de', 1, earner.destination_id)}"
    approve, closed = await both(
        served.world,
        [lambda: anna.post(f"{path}/approve", json=REASON), lambda: served.api.delete(closing)],
        turned=turned,
    )
    assert closed.status_code == 200
    assert approve.status_code == (409 if turned else 200)
    assert await state_of(served.world, number) == "cancelled"
    assert await available(served.world, earner) == ("100.00", "0.00")
