"""Real crowd work: the word-sense answers of paid workers, taken in twice and shuffled.

Snow, O'Connor, Jurafsky, Ng (EMNLP 2008): 1770 answers, of which 1738 equal the gold answer.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest
from tests.earning import earning_world
from tests.world import PostgresServer

from paymaster.earn import mapping, task
from paymaster.earn.event import Event, Status
from paymaster.earn.intake import Parsed
from paymaster.ledger.balance import balances

ANSWERS, RIGHT, CENTS_EACH = 1770, 1738, 2
FIELDS = mapping.parse(
    {
        "event_id": "{!amt_annotation_ids}:{orig_id}",
        "user": "{!amt_worker_ids}",
        "campaign": "camp",
        "task": "task",
        "type": "answer",
        "occurred_at": "2008-06-01T00:00:00Z",
        "payload.item": "{orig_id}",
        "payload.answer": "{response}",
    }
)


@pytest.fixture
def answers(data_dir_from_outside: Path) -> Path:
    return data_dir_from_outside / "snow2008" / "wsd.standardized.tsv"


async def test_every_right_answer_is_paid_once(postgres: PostgresServer, answers: Path):
    with answers.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    async with earning_world(postgres) as earning:
        camp = await earning.put_campaign()
        made = await earning.put_task({"kind": "gold"}, type="labelling", reward="0.02")
        await earning.fund(camp.number, "50.00")
        await earning.add_users(*sorted({row["!amt_worker_ids"] for row in rows}))
        gold = {row["orig_id"]: row["gold"] for row in rows}
        assert await earning.control(lambda tx: task.put_gold(tx, 1, made.id, gold)) == len(gold)

        now = earning.world.clock.now()
        with answers.open(newline="") as file:
            batches = list(mapping.read_rows(file, FIELDS, "snow", now, delimiter="\t"))
        events: list[Event] = [event for parsed in batches for event in parsed.events]
        assert len(events) == ANSWERS
        assert not any(parsed.faults for parsed in batches)
        random.Random(3).shuffle(events)
        first = await earning.take(Parsed(events[:1000], []), "snow")
        random.Random(4).shuffle(events)
        rest = await earning.take(Parsed(events, []), "snow")

        rewarded = [one for one in first + rest if one.status is Status.REWARDED]
        assert len(rewarded) == RIGHT
        assert [one.status for one in rest].count(Status.DUPLICATE) == 1000
        assert {one.status for one in first + rest} == {
            Status.REWARDED,
            Status.RECORDED,
            Status.DUPLICATE,
        }
        earned = 0
        for ref in earning.users.values():
            for balance in await earning.world.read(lambda tx, i=ref.id: balances(tx, i)):
                earned += balance.available.minor
        assert earned == RIGHT * CENTS_EACH == 3476
        assert await earning.budget(camp.number) == 5000 - 3476
        await earning.prove()
