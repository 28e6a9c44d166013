"""Events into state and money on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from tests.earning import day, earning_world, event
from tests.world import PostgresServer

from paymaster.earn.event import Status

GOLD = {"kind": "gold"}


def answer(number: int | str, user: str, item: str, said: str) -> dict[str, object]:
    return event(number, user, payload={"item": item, "answer": said})


async def test_a_right_answer_is_rewarded_once(postgres: PostgresServer):
    from paymaster.earn import task

    async with earning_world(postgres) as e:
        camp = await e.put_campaign()
        made = await e.put_task(GOLD)
        await e.fund(camp.number, "1.00")
        await e.add_users("u1", "u2")
        await e.control(lambda tx: task.put_gold(tx, 1, made.id, {"a": "1", "b": "2"}))
        outcomes = await e.send(
            answer(1, "u1", "a", "1"),
            answer(2, "u1", "b", "1"),
            answer(3, "u2", "a", "1"),
            answer(1, "u1", "a", "1"),
        )
        assert [o.status for o in outcomes] == [
            Status.REWARDED,
            Status.RECORDED,
            Status.REWARDED,
            Status.DUPLICATE,
        ]
        assert outcomes[0].reward_id is not None
        again = await e.send(answer(1, "u1", "a", "1"), answer(4, "u1", "a", "1"))
        assert [(o.status, o.slug) for o in again] == [
            (Status.DUPLICATE, None),
            (Status.RECORDED, "item-answered"),
        ]
        assert (await e.balance("u1")).available.minor == 2
        assert await e.budget(camp.number) == 96
        await e.prove()
