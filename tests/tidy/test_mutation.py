"""What is said of mutants that live is about code that is there."""

from __future__ import annotations

import tomllib
from collections import Counter

from tools.mutation import report, run


def test_each_survivor_with_a_reason_names_a_place_in_the_code() -> None:
    assert list(report.gone()) == []


def test_each_survivor_is_named_once_with_a_reason() -> None:
    tables = tomllib.loads(report.SURVIVORS.read_text())["survivor"]
    assert [key for key, times in Counter(one["key"] for one in tables).items() if times > 1] == []
    assert [one["key"] for one in tables if len(one["reason"]) < len("no difference")] == []


def test_what_is_mutated_and_what_tests_it_are_there() -> None:
    for group in run.groups():
        assert [*group.whole, *group.sampled], group.name
        missing = [name for name in group.tests if not (run.PROJECT / name).is_file()]
        assert missing == [], group.name
