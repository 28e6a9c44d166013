"""When a task is done, and who may do it: pure judgements against plain oracles."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paymaster.earn import requirements, verify
from paymaster.earn.event import Scalar
from paymaster.earn.machine import MACHINES, REWARD, TASK
from paymaster.earn.requirements import Requirements
from paymaster.earn.verify import Count, Step, complete
from paymaster.kernel.clock import business_day
from paymaster.kernel.errors import Problem
from paymaster.people.profile import Profile

START = datetime(2026, 10, 20, tzinfo=UTC)  # the week in which Berlin's clocks go back
ZONE = "Europe/Berlin"


def day(moment: datetime) -> date:
    return business_day(moment, ZONE)


def oracle(rule: Count, steps: list[Step]) -> bool:
    """Try each possible beginning of a window and count what lies in it."""
    beginnings = [s.occurred_at for s in steps if s.type == (rule.after or rule.event)]
    for beginning in beginnings:
        inside = [
            step.occurred_at
            for step in steps
            if step.type == rule.event
            and step.occurred_at >= beginning
            and (
                rule.within_seconds is None
                or (step.occurred_at - beginning).total_seconds() <= rule.within_seconds
            )
        ]
        found = len({day(one) for one in inside}) if rule.distinct_days else len(inside)
        if found >= rule.count:
            return True
    return False


HOURS = st.integers(0, 24 * 12)
STEPS = st.lists(
    st.builds(
        lambda hours, kind: Step(START + timedelta(hours=hours), kind),
        HOURS,
        st.sampled_from(["opened", "installed", "other"]),
    ),
    max_size=14,
)
RULES = st.builds(
    lambda count, hours, days, after: Count(
        "opened", count, None if hours is None else hours * 3600, days, after
    ),
    st.integers(1, 4),
    st.none() | st.integers(1, 24 * 8),
    st.booleans(),
    st.none() | st.just("installed"),
)


@settings(deadline=None)
@given(RULES, STEPS, st.randoms())
def test_a_pattern_is_judged_as_the_oracle_does_in_any_order(
    rule: Count, steps: list[Step], random
):
    expected = oracle(rule, steps)
    random.shuffle(steps)
    assert complete(rule, steps, day) is expected


@settings(deadline=None)
@given(RULES, STEPS, st.integers(0, 13), st.integers(1, 4))
def test_what_lies_out_of_reach_of_new_events_does_not_matter(
    rule: Count, steps: list[Step], at: int, count: int
):
    """Judging only what new events can reach misses nothing that they complete."""
    steps.sort(key=lambda step: step.occurred_at)
    new = steps[at : at + count]
    old = steps[:at] + steps[at + count :]
    if not new or complete(rule, old, day):
        return
    first, last = verify.reach(rule, new[0].occurred_at, new[-1].occurred_at)
    near = [
        step
        for step in steps
        if (first is None or step.occurred_at >= first)
        and (last is None or step.occurred_at <= last)
    ]
    assert complete(rule, near, day) is complete(rule, steps, day)


def test_distinct_days_follow_the_zone():
    rule = Count("opened", 2, distinct_days=True)
    late = [datetime(2026, 11, 19, hour, tzinfo=UTC) for hour in (22, 23)]
    assert complete(rule, [Step(moment, "opened") for moment in late], day)
    early = [datetime(2026, 11, 19, hour, tzinfo=UTC) for hour in (0, 22)]
    assert not complete(rule, [Step(moment, "opened") for moment in early], day)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"kind": "magic"},
        {"kind": "count"},
        {"kind": "count", "event": "opened", "count": 0},
        {"kind": "count", "event": "opened", "count": 1001},
        {"kind": "count", "event": "opened", "count": 1.5},
        {"kind": "count", "event": "", "count": 1},
        {"kind": "count", "event": "opened", "within_seconds": 0},
        {"kind": "count", "event": "opened", "after": "opened"},
        {"kind": "count", "event": "opened", "price": "1.00"},
        {"kind": "gold", "item": "\n"},
        {"kind": "review", "event": "x" * 65},
    ],
)
def test_a_rule_with_faults_is_refused(value: dict[str, object]):
    problems: list[Problem] = []
    verify.read(value, "/verification", problems)
    assert problems
    assert all(problem.pointer.startswith("/verification") for problem in problems)


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "gold"},
        {"kind": "count", "event": "opened"},
        {"kind": "count", "event": "o", "count": 3, "within_seconds": 9, "after": "i"},
        {"kind": "review"},
    ],
)
def test_a_rule_survives_storage(value: dict[str, object]):
    problems: list[Problem] = []
    rule = verify.read(value, "", problems)
    assert rule is not None
    assert not problems
    assert verify.load(verify.dump(rule)) == rule


@pytest.mark.parametrize(
    ("value", "text"), [("1", "1"), (1, "1"), (True, "true"), (None, None), (1.5, "1.5")]
)
def test_values_are_compared_as_text(value: Scalar, text: str | None):
    assert verify.as_text(value) == text


@pytest.mark.parametrize(
    ("conditions", "profile", "met"),
    [
        ({}, None, True),
        ({"countries": ["DE"]}, None, False),
        ({"countries": ["DE"]}, Profile(country="DE"), True),
        ({"countries": ["DE"]}, Profile(country="FR"), False),
        ({"languages": ["zh"]}, Profile(language="zh-CN"), True),
        ({"languages": ["zh"]}, Profile(language="en"), False),
        ({"languages": ["zh"]}, Profile(country="CN"), False),
        ({"minimum_age": 18}, Profile(birth_year=2007), True),
        ({"minimum_age": 18}, Profile(birth_year=2008), False),
        ({"minimum_age": 18}, Profile(country="DE"), False),
        ({"maximum_age": 30}, Profile(birth_year=1996), True),
        ({"maximum_age": 30}, Profile(birth_year=1995), False),
    ],
)
def test_requirements(conditions: dict[str, object], profile: Profile | None, met: bool):
    problems: list[Problem] = []
    found = requirements.read(conditions, "/requirements", problems)
    assert not problems
    assert found.met_by(profile, 2026) is met


@pytest.mark.parametrize(
    "value",
    [
        {"countries": ["de"]},
        {"countries": "DE"},
        {"languages": ["zh-CN"]},
        {"minimum_age": -1},
        {"minimum_age": "18"},
        {"shoe_size": 43},
    ],
)
def test_requirements_with_faults_are_refused(value: dict[str, object]):
    problems: list[Problem] = []
    requirements.read(value, "/requirements", problems)
    assert problems


def test_requirements_are_true_when_they_ask_something():
    assert not Requirements()
    assert Requirements(minimum_age=0)


def test_machines_have_one_answer_to_each_event():
    for machine in MACHINES:
        asked = [(move.source, move.event) for move in machine.moves]
        assert len(asked) == len(set(asked))
    assert REWARD.terminal() == {"refused", "reversed"}
    assert {"offered", "started", "in_progress", "submitted", "verified", "rewarded", "rejected",
            "expired", "reversed"} == TASK.states()  # fmt: skip


def test_money_moves_name_their_recipe():
    for move in REWARD.moves:
        pays = move.target in ("vesting", "credited") or (
            move.target == "reversed" and move.source != "awaiting_funds"
        )
        assert (move.recipe is not None) is pays
