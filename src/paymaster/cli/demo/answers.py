"""The work log: one answer of one worker on one item a row."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from paymaster.kernel.errors import Refusal

COLUMNS = ("!amt_annotation_ids", "!amt_worker_ids", "orig_id", "response", "gold")


@dataclass(frozen=True, slots=True)
class Answer:
    """`annotation` and `item` together identify the event."""

    annotation: str
    worker: str
    item: str
    response: str
    gold: str

    @property
    def event_id(self) -> str:
        """Unique in the log."""
        return f"{self.annotation}:{self.item}"


def read(path: Path) -> list[Answer]:
    """A tab-separated log. Raises Refusal `answers-unreadable` with the line that is wrong."""
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            rows = csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
            nothing: list[str] = []
            header = next(rows, nothing)
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise Refusal(
                    "answers-unreadable", f"{path.name} lacks the column {', '.join(missing)}."
                )
            places = [header.index(name) for name in COLUMNS]
            answers: list[Answer] = []
            for number, row in enumerate(rows, start=2):
                if len(row) != len(header):
                    raise Refusal(
                        "answers-unreadable",
                        f"{path.name} line {number}: {len(row)} fields, not {len(header)}.",
                    )
                answers.append(Answer(*(row[place].strip() for place in places)))
            return answers
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Refusal("answers-unreadable", f"{path} cannot be read: {error}.") from error


def generate(seed: int, workers: int = 24, items: int = 120) -> list[Answer]:
    """A small economy: workers of different diligence answer yes-or-no questions."""
    random = Random(seed)  # noqa: S311 - play money
    gold = {f"item-{n:03d}": random.choice("01") for n in range(items)}
    answers: list[Answer] = []
    for n in range(workers):
        diligence, share = random.uniform(0.55, 0.98), random.uniform(0.15, 0.95)
        for item, truth in gold.items():
            if random.random() > share:
                continue
            wrong = "1" if truth == "0" else "0"
            response = truth if random.random() < diligence else wrong
            worker = f"worker-{n:02d}"
            answers.append(Answer(f"answer-{n:02d}", worker, item, response, truth))
    random.shuffle(answers)
    return answers


def gold_of(answers: Sequence[Answer]) -> dict[str, str]:
    """Item to gold answer. Raises Refusal `answers-unreadable` where a log contradicts itself."""
    gold: dict[str, str] = {}
    for answer in answers:
        if gold.setdefault(answer.item, answer.gold) != answer.gold:
            raise Refusal(
                "answers-unreadable", f"Item {answer.item!r} has two different gold answers."
            )
    return gold
