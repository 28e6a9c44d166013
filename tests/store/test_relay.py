"""Commands between cells: in order, once, and one that always fails does not stop the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from tests.world import ACTOR, PostgresServer, World, make_world

from paymaster.cli.relay import try_again
from paymaster.db import aside, audit, outbox
from paymaster.db.outbox import Message, Outgoing
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Broken, NotFound
from paymaster.kernel.ids import new_trace_id
from paymaster.observe import Metrics, metrics_response
from paymaster.roles import relay
from paymaster.roles.gauges import measure
from paymaster.roles.relay import MAX_TRIES, Relay


class Target:
    """What cell 2 was told; commands whose text is in `bad` cannot be carried out."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.bad: set[str] = set()

    async def handle(self, tx: CellTx, source: int, message: Outgoing) -> Mapping[str, Any]:
        assert (tx.cell, source) == (2, 1)
        text = message.payload["text"]
        if text in self.bad:
            raise Broken("lease-refused", f"{text} cannot be done.")
        self.heard.append(text)
        return {}


@pytest.fixture
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with make_world(postgres, cells=3) as made:
        yield made


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Target:
    made = Target()
    monkeypatch.setitem(relay.HANDLERS, "test.said", made.handle)
    return made


async def says(world: World, *texts: str, cell: int = 2) -> None:
    """Commands in one transaction; the letter is the key, as in `a1`."""
    messages = [Message("test.said", text[0], {"text": text}, cell) for text in texts]
    await world.run(lambda tx: outbox.put(tx, messages))


async def runs(world: World, one: Relay, steps: int) -> int:
    """Steps of a lane, and how many failed."""
    failures = 0
    for _ in range(steps):
        try:
            await one.step()
        except Broken:
            failures += 1
        world.clock.advance(timedelta(seconds=1))
    return failures


async def lying(world: World) -> list[tuple[str, str]]:
    found = await world.read(lambda tx: aside.listing(tx, 100))
    return [(one.key, one.slug) for one in found]


def new_relay(world: World) -> Relay:
    return Relay(world.dbs, world.dbs.cell(1), timedelta(seconds=600))


async def test_commands_arrive_in_order_and_once(world: World, target: Target) -> None:
    one = new_relay(world)
    await says(world, "a1", "b1")
    await says(world, "a2")
    assert await one.step() == 3
    assert await one.step() == 0
    assert target.heard == ["a1", "b1", "a2"]
    assert await lying(world) == []


async def test_one_that_always_fails_holds_the_others_up_for_a_while_only(
    world: World, target: Target
) -> None:
    target.bad = {"a1"}
    one = new_relay(world)
    await says(world, "b1", "a1", "a2", "b2")
    await says(world, "a3", "c1")
    assert await runs(world, one, MAX_TRIES - 1) == MAX_TRIES - 1
    assert target.heard[0] == "b1"
    assert "b2" not in target.heard, "the order holds while it is tried again"
    assert await runs(world, one, 1) == 0
    assert [text for text in target.heard if text != "b1"] == ["b2", "c1"]
    assert await lying(world) == [
        ("a", "lease-refused"), ("a", aside.BEHIND), ("a", aside.BEHIND),
    ]  # fmt: skip
    await says(world, "a4", "d1")
    assert await runs(world, one, 2) == 0
    assert target.heard[-1] == "d1"
    assert len(await lying(world)) == 4


async def test_carried_out_alone_is_carried_out_once(world: World, target: Target) -> None:
    """What the failed transactions had done was undone: each command is heard once in the end."""
    target.bad = {"a1"}
    await says(world, "b1", "a1")
    await runs(world, new_relay(world), MAX_TRIES + 2)
    kept = await world.read(
        lambda tx: tx.value("SELECT count(*) FROM inbox WHERE topic = 'test.said'"), 2
    )
    assert kept == 1
    assert len(await lying(world)) == 1


async def test_a_failure_that_passes_lays_nothing_aside(world: World, target: Target) -> None:
    target.bad = {"a1"}
    one = new_relay(world)
    await says(world, "a1", "a2")
    assert await runs(world, one, MAX_TRIES - 1) == MAX_TRIES - 1
    target.bad = set()
    assert await runs(world, one, 1) == 0
    assert target.heard == ["a1", "a2"]
    assert await lying(world) == []


async def test_an_operator_has_it_tried_again_with_those_behind_it_in_order(
    world: World, target: Target
) -> None:
    target.bad = {"a1"}
    one = new_relay(world)
    await says(world, "a1", "a2", "b1", "a3")
    await runs(world, one, MAX_TRIES)
    (first, *_) = await world.read(lambda tx: aside.listing(tx, 100))
    assert await world.run(lambda tx: try_again(tx, first.message_id, "mended")) == 3
    await runs(world, one, 1)
    found = await world.read(lambda tx: aside.listing(tx, 100))
    assert [each.tries for each in found] == [MAX_TRIES + 1, 0, 0], "still broken: all stay"
    assert target.heard == ["b1"]
    target.bad = set()
    await runs(world, one, 1)
    assert target.heard == ["b1"], "nobody asked again"
    await world.run(lambda tx: try_again(tx, found[1].message_id, "mended now"))
    await runs(world, new_relay(world), 1)
    assert target.heard == ["b1"], "the lease is another one's"
    await runs(world, one, 1)
    assert target.heard == ["b1", "a1", "a2", "a3"]
    assert await lying(world) == []
    await says(world, "a4")
    await runs(world, one, 1)
    assert target.heard[-1] == "a4"
    acts = await world.read(lambda tx: audit.of_subject(tx, f"cm_{_ref(first.message_id)}"))
    assert [(act.actor, act.action, act.reason) for act in acts] == [
        (ACTOR.name, "command.retry", "mended")
    ]


async def test_what_does_not_lie_aside_is_not_tried_again(world: World) -> None:
    with pytest.raises(NotFound):
        await world.run(lambda tx: try_again(tx, 4711, None))


async def test_an_unknown_command_waits_for_the_newer_process(world: World) -> None:
    """A relay older than the sender lays nothing aside: the next version will know it."""
    await world.run(lambda tx: outbox.put(tx, [Message("test.new", "a", {}, 2)]))
    assert await runs(world, new_relay(world), MAX_TRIES + 3) == MAX_TRIES + 3
    assert await lying(world) == []


async def test_the_gauge_shows_how_many_lie_aside(world: World, target: Target) -> None:
    target.bad = {"a1"}
    await says(world, "a1", "a2")
    await runs(world, new_relay(world), MAX_TRIES)
    metrics = Metrics()
    await measure(world.dbs, metrics)
    text = metrics_response(metrics)[0].decode()
    assert 'paymaster_commands_aside{cell="1"} 2.0' in text
    assert 'paymaster_commands_aside{cell="2"} 0.0' in text


def _ref(message_id: int) -> str:
    from paymaster.kernel.ids import reference

    return reference(1, message_id)


async def test_a_relay_that_lost_its_lease_lays_nothing_aside(world: World, target: Target) -> None:
    target.bad = {"a1"}
    old = Relay(world.dbs, world.dbs.cell(1), timedelta(seconds=600))
    await says(world, "a1")
    await runs(world, old, MAX_TRIES - 1)

    async def taken_over(tx: CellTx) -> None:
        await tx.execute("UPDATE lease SET token = token + 1, holder = 'another'")

    await world.dbs.cell(1).run(ACTOR, new_trace_id(), taken_over)
    assert await old.step() == 0
    assert await lying(world) == []


async def test_what_comes_while_a_key_is_tried_again_is_carried_out_behind_it(
    world: World, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "TOGETHER", 2)
    target.bad = {"a1"}
    one = new_relay(world)
    await says(world, "a1", "a2", "a3", "a4", "a5")
    await runs(world, one, MAX_TRIES + 2)
    [first, *_] = await world.read(lambda tx: aside.listing(tx, 100))
    target.bad = set()
    assert await world.run(lambda tx: aside.try_again(tx, first.message_id)) == 5
    await says(world, "a6")
    assert await runs(world, one, 5) == 0
    await says(world, "a7")
    assert await runs(world, one, 5) == 0
    assert target.heard == ["a1", "a2", "a3", "a4", "a5", "a6", "a7"]
    assert await lying(world) == []


async def test_any_number_of_commits_without_messages_is_passed(
    world: World, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "COMMITS", 5)
    one = new_relay(world)
    await says(world, "a1")
    await one.step()
    for number in range(12):
        act = audit.Act("test.quiet", f"x_{number}")
        await world.run(lambda tx, a=act: audit.record(tx, [a]))
    await says(world, "a2")
    while await one.step():
        pass
    assert target.heard == ["a1", "a2"]
