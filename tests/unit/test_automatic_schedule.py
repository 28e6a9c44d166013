"""When automatic payouts are due and how much they are: no database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paymaster.kernel.errors import Unprocessable
from paymaster.kernel.money import Money
from paymaster.withdraw.automatic_schedule import (
    Every,
    Plan,
    all_of,
    check,
    defaults,
    next_due,
    period,
)
from paymaster.withdraw.fee_plans import Plans
from paymaster.withdraw.fees import FeePlan, Tier, fee

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)  # a Friday
ONE = Money(100, "EUR")


def due(every: Every, on_day: int | None, zone: str = "UTC", after: datetime = NOW) -> str:
    plan = Plan("schedule", ONE, None, every, on_day)
    check(plan)
    found = next_due(plan, zone, after)
    assert found is not None
    return found.isoformat()


def test_a_day_begins_in_the_environment_s_time_zone() -> None:
    assert due("day", None) == "2026-11-21T00:00:00+00:00"
    assert due("day", None, "Asia/Shanghai") == "2026-11-20T16:00:00+00:00"
    assert due("day", None, "Europe/Berlin") == "2026-11-20T23:00:00+00:00"


def test_weeks_and_months() -> None:
    assert due("week", 1) == "2026-11-23T00:00:00+00:00"
    assert due("week", 5) == "2026-11-27T00:00:00+00:00", "today is a Friday, and was due already"
    assert due("month", 20) == "2026-12-20T00:00:00+00:00"
    assert due("month", 31) == "2026-11-30T00:00:00+00:00"
    assert due("month", 31, after=datetime(2027, 2, 1, tzinfo=UTC)) == "2027-02-28T00:00:00+00:00"
    assert due("month", 29, after=datetime(2028, 2, 1, tzinfo=UTC)) == "2028-02-29T00:00:00+00:00"


def test_what_is_off_is_never_due() -> None:
    assert next_due(Plan("off", ONE), "UTC", NOW) is None


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["UTC", "America/Sao_Paulo", "Asia/Kathmandu", "Pacific/Apia"]),
    st.sampled_from([("day", None), *(("week", n) for n in range(1, 8)), ("month", 31)]),
    st.datetimes(datetime(2010, 1, 1), datetime(2035, 1, 1)),  # noqa: DTZ001 - made aware below
)
def test_periods_never_repeat_and_never_stop(
    zone: str, when: tuple[Every, int | None], start: datetime
) -> None:
    """Through daylight saving, leap years, and a day that Samoa left out."""
    plan = Plan("schedule", ONE, None, *when)
    at, seen = start.replace(tzinfo=UTC), list[str]()
    for _ in range(40):
        found = next_due(plan, zone, at)
        assert found is not None
        assert found > at
        assert found.astimezone(ZoneInfo(zone)).date() > at.astimezone(ZoneInfo(zone)).date()
        seen.append(period(zone, found))
        at = found
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    ("plan", "pointers"),
    [
        (Plan("threshold", Money(0, "EUR")), {"/minimum"}),
        (Plan("threshold", ONE, Money(99, "EUR")), {"/at_most"}),
        (Plan("schedule", ONE), {"/every"}),
        (Plan("threshold", ONE, None, "day"), {"/every"}),
        (Plan("schedule", ONE, None, "week"), {"/on_day"}),
        (Plan("schedule", ONE, None, "week", 8), {"/on_day"}),
        (Plan("schedule", ONE, None, "month", 32), {"/on_day"}),
        (Plan("schedule", ONE, None, "day", 1), {"/on_day"}),
    ],
)
def test_every_fault_is_named(plan: Plan, pointers: set[str]) -> None:
    with pytest.raises(Unprocessable) as caught:
        check(plan)
    assert {problem.pointer for problem in caught.value.problems} == pointers


def test_the_default_of_an_environment_is_read() -> None:
    found = defaults(
        {
            "EUR": {"mode": "schedule", "minimum": "10.00", "every": "month", "on_day": 1},
            "JPY": {"mode": "threshold", "minimum": "1000", "at_most": "5000"},
        }
    )
    assert found["EUR"] == Plan("schedule", Money(1000, "EUR"), None, "month", 1)
    assert found["JPY"].at_most == Money(5000, "JPY")
    assert defaults({}) == {}


@pytest.mark.parametrize(
    ("written", "pointer"),
    [
        ({"XX": {}}, "/automatic/XX"),
        ({"EUR": []}, "/automatic/EUR"),
        ({"EUR": {"mode": "now", "minimum": "1.00"}}, "/automatic/EUR/mode"),
        ({"EUR": {"mode": "off"}}, "/automatic/EUR/minimum"),
        ({"EUR": {"mode": "off", "minimum": "1.234"}}, "/automatic/EUR/minimum"),
        ({"EUR": {"mode": "off", "minimum": "1.00", "to": "x"}}, "/automatic/EUR/to"),
        (
            {"EUR": {"mode": "threshold", "minimum": "1.00", "on_day": True}},
            "/automatic/EUR/on_day",
        ),
        ({"EUR": {"mode": "schedule", "minimum": "1.00", "every": "year"}}, "/automatic/EUR/every"),
        ({"EUR": {"mode": "schedule", "minimum": "1.00"}}, "/automatic/EUR/every"),
    ],
)
def test_a_default_that_cannot_be_is_refused(written: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        defaults(written)
    assert pointer in {problem.pointer for problem in caught.value.problems}


_PLANS = st.builds(
    FeePlan,
    st.just("p"),
    st.just(1),
    st.just("EUR"),
    st.sampled_from(["sender", "receiver"]),
    flat=st.integers(0, 300),
    ppm=st.integers(0, 200_000),
    tiers=st.lists(
        st.builds(Tier, st.integers(1, 5000), st.integers(0, 300), st.integers(0, 200_000)),
        max_size=2,
    ).map(lambda found: tuple(sorted(found))),
    minimum=st.none() | st.integers(0, 200),
)


@settings(max_examples=200, deadline=None)
@given(_PLANS, st.integers(1, 20_000), st.none() | st.integers(1, 20_000))
def test_all_there_is_with_its_fee_never_is_more_than_there_is(
    plan: FeePlan, balance: int, most: int | None
) -> None:
    at_most = None if most is None else Money(most, "EUR")
    found = all_of(Money(balance, "EUR"), at_most, "iban", Plans(1, (plan,))).minor
    assert 0 <= found <= min(balance, most or balance)
    if plan.payer == "sender" and found:
        assert found + fee(plan, found) <= balance
        more = found + 1
        assert more > min(balance, most or balance) or more + fee(plan, more) > balance
    if plan.payer == "receiver":
        assert found == min(balance, most or balance)


def test_what_was_missed_is_made_up_for_once() -> None:
    plan = Plan("schedule", ONE, None, "day")
    missed = NOW - timedelta(days=5)
    after = next_due(plan, "UTC", max(NOW, missed))
    assert after == datetime(2026, 11, 21, tzinfo=UTC)


def test_a_tier_that_jumps_is_searched_and_not_walked() -> None:
    plan = FeePlan("p", 1, "EUR", "sender", tiers=(Tier(10**12, 10**11, 0),))
    found = all_of(Money(10**12 + 5, "EUR"), None, "iban", Plans(1, (plan,)))
    assert found.minor == 10**12 - 1
