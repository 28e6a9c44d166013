"""Where users live is asked once; who was not there is asked for again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping

import pytest
from tests.earning import Earning, earning_world, event
from tests.world import PostgresServer

from paymaster.db.tx import ControlRead
from paymaster.earn import places
from paymaster.earn.event import Status
from paymaster.earn.places import Places, places_in
from paymaster.kernel.ids import Ref
from paymaster.people import users


@pytest.fixture
async def earning(postgres: PostgresServer) -> AsyncIterator[Earning]:
    async with earning_world(postgres) as made:
        await made.put_campaign()
        await made.put_task({"kind": "count", "event": "opened", "count": 9})
        yield made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names that the directory was asked for."""
    found: list[list[str]] = []
    original = users.refs

    async def refs(tx: ControlRead, environment_id: int, names: Iterable[str]) -> dict[str, Ref]:
        wanted = sorted(names)
        found.append(wanted)
        return await original(tx, environment_id, wanted)

    monkeypatch.setattr(users, "refs", refs)
    return found


async def sent(e: Earning, first: int, *names: str) -> list[Status]:
    lines = [event(first + place, name, type="opened") for place, name in enumerate(names)]
    return [one.status for one in await e.send(*lines)]


async def test_a_user_is_asked_for_until_found(earning: Earning, asked: list[list[str]]):
    await earning.add_users("u1")
    asked.clear()
    assert await sent(earning, 1, "u1", "u2") == [Status.RECORDED, Status.REJECTED]
    assert asked == [["u1", "u2"]]
    await earning.add_users("u2")
    asked.clear()
    assert await sent(earning, 3, "u1", "u2", "u3") == [
        Status.RECORDED,
        Status.RECORDED,
        Status.REJECTED,
    ]
    assert await sent(earning, 6, "u2", "u1") == [Status.RECORDED] * 2
    assert asked == [["u2", "u3"]]


async def test_no_more_are_kept_than_may_be(
    earning: Earning, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(places, "MOST", 3)
    names = [f"u{number}" for number in range(6)]
    await earning.add_users(*names)
    asked.clear()
    for round_ in range(3):
        for place in (0, 2, 4):
            some = names[place : place + 2]
            assert await sent(earning, 100 * round_ + 10 * place, *some) == [Status.RECORDED] * 2
    assert len(asked) == 9
    assert await sent(earning, 1000, *names) == [Status.RECORDED] * 6


async def test_who_was_given_the_old_ones_keeps_them(
    earning: Earning, monkeypatch: pytest.MonkeyPatch
):
    """A part goes on with what it was given, whatever the next part makes room for."""
    monkeypatch.setattr(places, "MOST", 2)
    await earning.add_users("u1", "u2", "u3", "u4")
    mine = Places()

    async def find(*names: str) -> Mapping[str, Ref]:
        return await earning.world.dbs.control.read(lambda tx: mine.find(tx, 1, names))

    given, later = await find("u1", "u2"), await find("u3", "u4")
    assert (set(given), set(later)) == ({"u1", "u2"}, {"u3", "u4"})
    assert all(given[name] == earning.users[name] for name in given)


async def test_databases_and_environments_share_nothing(earning: Earning):
    await earning.add_users("u1")
    dbs = earning.world.dbs
    mine = places_in(dbs)
    assert places_in(dbs) is mine
    found = await dbs.control.read(lambda tx: mine.find(tx, 1, ["u1"]))
    other = await dbs.control.read(lambda tx: mine.find(tx, 2, ["u1"]))
    assert ("u1" in found, "u1" in other) == (True, False)
