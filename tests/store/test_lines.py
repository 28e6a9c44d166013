"""What is written by COPY arrives as it was, whatever people and programs write into it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from tests.withdrawals import assert_proven, made_in, step, withdrawal_world
from tests.world import PostgresServer, World, owner_rows

from paymaster.db import outbox, outbox_lines
from paymaster.db.outbox import Outgoing
from paymaster.db.outbox_lines import Line
from paymaster.db.tx import CellTx
from paymaster.withdraw.machine import Event

pytestmark = pytest.mark.asyncio(loop_scope="module")

ODD = (
    "tab\there", "line\nbreak", "return\rhere", "back\\slash \\N \\. \\t", 'a "quote"', "{},", "\\",
    "Änne 你好 \u2028", "\x01\x1f", "NULL", "",
)  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres) as made:
        yield made
        await assert_proven(made)


async def told(world: World, after: int) -> list[Outgoing]:
    _, messages = await world.read(lambda tx: outbox.after(tx, after, 1000))
    return messages


async def test_lines_make_the_same_rows_as_messages(world: World) -> None:
    start = await world.read(lambda tx: tx.value("SELECT seq FROM head"))
    payloads = [{"text": text, "number": number} for number, text in enumerate(ODD)]

    async def both(tx: CellTx) -> None:
        await outbox.put(tx, [outbox.Message("odd", "key", each) for each in payloads])
        await outbox_lines.put(
            tx, [Line("odd", "key", msgspec.json.encode(each).decode()) for each in payloads]
        )

    await world.run(both)
    found = await told(world, start)
    assert [each.seq - start for each in found] == list(range(1, 2 * len(ODD) + 1))
    first, second = found[: len(ODD)], found[len(ODD) :]
    assert [each.payload for each in first] == payloads == [each.payload for each in second]
    assert len({each.trace_id for each in found}) == 1
    assert len({each.message_id for each in found}) == len(found)
    assert {each.target_cell for each in found} == {None}


@pytest.mark.parametrize("reason", [text for text in ODD if text], ids=range(len(ODD) - 1))
async def test_a_reason_is_kept_and_told_as_it_was_given(world: World, reason: str) -> None:
    start = await world.read(lambda tx: tx.value("SELECT seq FROM head"))
    _, withdrawal_id = await made_in(world, "in_review")
    moved = await step(world, withdrawal_id, Event.DENY, reason=reason)
    assert moved.done
    rows = owner_rows(
        world,
        "SELECT m.reason, w.reason FROM withdrawal_move m JOIN withdrawal w"
        " ON w.id = m.withdrawal_id WHERE w.id = %s AND m.event = 'deny'",
        withdrawal_id,
    )
    assert rows == [(reason, reason)]
    (denied,) = [one for one in await told(world, start) if one.topic == "withdrawal.denied"]
    assert denied.payload["reason"] == reason
