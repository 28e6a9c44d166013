"""When a task is done: rules as data, and their judgement.

A judgement looks at all events that count, in order of the time they occurred, so it does not
matter in which order or how late they came. That a reward comes once is not decided here but by
the unique key of its row.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from paymaster.earn.event import Scalar
from paymaster.kernel.errors import Problem

MAX_COUNT = 1000
MAX_WITHIN_SECONDS = 366 * 24 * 3600
ONCE = "1"
"""The occurrence of a reward that a user can earn once."""


class Gold(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="gold", tag_field="kind"):
    """Right when `payload[answer]` equals the known answer to `payload[item]`; once an item.

    The user's first answer to an item decides.
    """

    event: str = "answer"
    item: str = "item"
    answer: str = "answer"


class Count(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="count", tag_field="kind"):
    """Done after `count` events of the type `event`, all `within_seconds` of the first of them.

    With `after` the time runs from an event of that type instead, which must come first. With
    `distinct_days` two events of one day (in the environment's time zone) count once. Bounds
    belong to the window.
    """

    event: str
    count: int = 1
    within_seconds: int | None = None
    distinct_days: bool = False
    after: str | None = None


class Review(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="review", tag_field="kind"
):
    """Handed in by an event of this type, then decided by a person or a partner."""

    event: str = "submitted"


Rule = Gold | Count | Review


class Step(NamedTuple):
    """An event that counts."""

    occurred_at: datetime
    type: str


def read(value: Mapping[str, Any], at: str, problems: list[Problem]) -> Rule | None:
    """Read a rule as it came in JSON; faults are added to `problems`."""
    try:
        rule = msgspec.convert(dict(value), Rule)
    except msgspec.ValidationError as error:
        problems.append(Problem(at, f"{error}."))
        return None
    problems.extend(Problem(f"{at}/{name}", detail) for name, detail in _faults(rule))
    return rule


def load(value: Mapping[str, Any]) -> Rule:
    """A rule as it is stored."""
    return msgspec.convert(dict(value), Rule)


def dump(rule: Rule) -> dict[str, Any]:
    """For storing and showing."""
    return msgspec.to_builtins(rule)


def _faults(rule: Rule) -> list[tuple[str, str]]:
    names = {"event": rule.event}
    if isinstance(rule, Gold):
        names |= {"item": rule.item, "answer": rule.answer}
    elif isinstance(rule, Count) and rule.after is not None:
        names |= {"after": rule.after}
    found = [
        (field, "Write 1 to 64 printable characters.")
        for field, name in names.items()
        if not 1 <= len(name) <= 64 or not name.isprintable()
    ]
    if isinstance(rule, Count):
        if not 1 <= rule.count <= MAX_COUNT:
            found.append(("count", f"Write a number from 1 to {MAX_COUNT}."))
        within = rule.within_seconds
        if within is not None and not 1 <= within <= MAX_WITHIN_SECONDS:
            found.append(("within_seconds", f"Write seconds from 1 to {MAX_WITHIN_SECONDS}."))
        if rule.after == rule.event:
            found.append(("after", "The first step is an event of another type."))
    return found


def counts(rule: Count, event_type: str) -> bool:
    """Whether events of this type matter to the rule."""
    return event_type in (rule.event, rule.after)


def by_number(rule: Count) -> bool:
    """Whether nothing matters but how many events of the rule's type there are."""
    return rule.after is None and rule.within_seconds is None and not rule.distinct_days


def reach(rule: Count, first: datetime, last: datetime) -> tuple[datetime | None, datetime | None]:
    """Which times can matter to new events from `first` to `last`; None is without end."""
    if rule.within_seconds is None:
        return None, None
    within = timedelta(seconds=rule.within_seconds)
    return first - within, last + within


def complete(rule: Count, steps: Sequence[Step], day: Callable[[datetime], date]) -> bool:
    """Whether the events, in any order, fulfil the rule. `day` gives the day of a moment."""
    times = sorted(step.occurred_at for step in steps if step.type == rule.event)
    if len(times) < rule.count:
        return False
    places = _day_places(times, day) if rule.distinct_days else range(len(times))
    if rule.after is None:
        anchors = times
    else:
        anchors = [step.occurred_at for step in steps if step.type == rule.after]
    for anchor in anchors:
        start, end = bisect_left(times, anchor), len(times)
        if rule.within_seconds is not None:
            end = bisect_right(times, anchor + timedelta(seconds=rule.within_seconds))
        if start < end and places[end - 1] - places[start] + 1 >= rule.count:
            return True
    return False


def _day_places(times: Sequence[datetime], day: Callable[[datetime], date]) -> list[int]:
    """For each of the sorted times, how many days with events lie before its own."""
    places: list[int] = []
    current: date | None = None
    for moment in times:
        today = day(moment)
        places.append((places[-1] + (today != current)) if places else 0)
        current = today
    return places


def as_text(value: Scalar) -> str | None:
    """A payload value as it is compared with gold; None when there is nothing to compare."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
